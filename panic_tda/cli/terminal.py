"""What a command does with its terminal: progress, logs, signals, exit codes.

Data goes to stdout. Progress and logs go to stderr: a bar with the time left where a person watches, a
timestamped line per phase and every 30 seconds where the output is a file.
"""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

import click

from panic_tda.errors import PanicTdaError, WrongUsage
from panic_tda.progress import TimeLeft

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

HEARTBEAT_SECONDS = 30.0
EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 130, 143

_log = logging.getLogger("panic_tda")


class LoggedProgress:
    """Progress as log lines: one when a phase ends, one every `HEARTBEAT_SECONDS` while it lasts."""

    def __init__(self, interval: float = HEARTBEAT_SECONDS, *, ended: int = logging.INFO) -> None:
        self._interval = interval
        self._ended = ended
        self._name = ""
        self._total: float | None = None
        self._done = 0.0
        self._began = 0.0
        self._left = TimeLeft()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._beside: list[LoggedProgress] = []

    def __enter__(self) -> LoggedProgress:
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()
        return self

    def beside(self) -> LoggedProgress:
        """Return a listener with lines of its own, for what goes on meanwhile; it ends with this one."""
        other = self._another()
        LoggedProgress.__enter__(other)
        self._beside.append(other)
        return other

    def _another(self) -> LoggedProgress:
        return LoggedProgress(self._interval, ended=self._ended)

    def __exit__(self, *_exception: object) -> None:
        for other in self._beside:
            LoggedProgress.__exit__(other, *_exception)
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        if _exception[0] is None:
            self._end_phase()

    def phase(self, name: str, total: float | None = None) -> None:
        """Log how long the last phase took, and begin the next."""
        self._end_phase()
        self._total, self._done, self._began, self._left = total, 0.0, time.monotonic(), TimeLeft()
        self._name = name
        if name:
            _log.debug("%s …", name)

    def advance(self, amount: float) -> None:
        """Count work done."""
        self._done += amount
        if self._total:
            self._left.note(time.monotonic() - self._began, self._done / self._total)

    def _end_phase(self) -> None:
        if self._name:
            _log.log(self._ended, "%s: done in %.1f s", self._name, time.monotonic() - self._began)
        self._name = ""

    def _beat(self) -> None:
        while not self._stop.wait(self._interval):
            name, total, done = self._name, self._total, self._done
            if not name:
                continue
            elapsed = time.monotonic() - self._began
            share = f"{100 * done / total:.0f} %, " if total and done else ""
            left = self._left.seconds(elapsed, done / total) if total and done else None
            if left is None:
                _log.info("%s: %srunning for %s", name, share, _duration(elapsed))
            else:
                _log.info("%s: %sabout %s left", name, share, _duration(left))


class BarProgress(LoggedProgress):
    """Progress as a bar on the terminal; ended phases are logged above it."""

    def __init__(self, bar: RichProgress, *, ended: int = logging.INFO) -> None:
        super().__init__(ended=ended)
        self._bar = bar
        self._task = bar.add_task("starting", total=None)

    def __enter__(self) -> BarProgress:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()
        super().__exit__(*exception)

    def _another(self) -> BarProgress:
        return BarProgress(self._bar, ended=self._ended)

    def phase(self, name: str, total: float | None = None) -> None:
        """Start the bar anew."""
        super().phase(name, total)
        self._bar.reset(self._task, description=name, total=total, visible=bool(name))

    def advance(self, amount: float) -> None:
        """Move the bar."""
        super().advance(amount)
        self._bar.advance(self._task, amount)


def make_progress(*, ended: int = logging.INFO) -> LoggedProgress:
    """Return what shows progress on this stderr: no bar where only warnings are to be seen.

    `ended` is the level at which the end of a phase is logged; what lasts is shown in any case.
    """
    quiet = any(handler.level >= logging.WARNING for handler in _log.handlers)
    if quiet or not sys.stderr.isatty():
        return LoggedProgress(ended=ended)
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    return BarProgress(
        Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        ),
        ended=ended,
    )


def configure_logging(*, verbose: bool, quiet: bool, log_file: Path | None) -> None:
    """Send the package's logs to stderr, and everything with tracebacks to `log_file`."""
    for handler in list(_log.handlers):
        _log.removeHandler(handler)
        handler.close()
    _log.setLevel(logging.DEBUG)
    _log.propagate = False
    stderr = _StderrHandler()
    stderr.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    stderr.setFormatter(_line_format())
    if not verbose:
        stderr.addFilter(_without_traceback)
    _log.addHandler(stderr)
    if log_file is not None:
        try:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            to_file = logging.FileHandler(log_file, encoding="utf-8")
        except OSError as error:
            raise WrongUsage(f"cannot write the log file {log_file}: {error.strerror or error}") from error
        to_file.setFormatter(_line_format())
        _log.addHandler(to_file)


@contextmanager
def exit_codes(*, as_json: bool) -> Iterator[None]:
    """Turn what is raised inside into a message and an exit code; this is the only place that does."""
    previous = _terminate_on_sigterm()
    _replace_what_cannot_be_printed(sys.stdout)
    try:
        yield
    except PanicTdaError as error:
        _fail(error, EXIT_USAGE if isinstance(error, WrongUsage) else EXIT_FAILED, as_json=as_json)
    except KeyboardInterrupt:
        _echo_error("interrupted; nothing unfinished was saved")
        sys.exit(EXIT_INTERRUPTED)
    except SystemExit as leaving:
        if leaving.code == EXIT_TERMINATED:
            _echo_error("terminated; nothing unfinished was saved")
        raise
    except (click.ClickException, click.Abort, click.exceptions.Exit):
        raise
    except BrokenPipeError:
        # The reader of our output went away (`| head`): no failure of ours.
        _discard(sys.stdout)
        sys.exit(0)
    except Exception as error:
        # A fault of ours: one line for the user, the traceback for the log.
        _fail(error, EXIT_FAILED, as_json=as_json)
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)


class _StderrHandler(logging.Handler):
    """Writes to the stderr of this moment, around a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        _echo_error(self.format(record))


def _without_traceback(record: logging.LogRecord) -> bool:
    return record.exc_info is None


def _line_format() -> logging.Formatter:
    return logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")


def print_error(kind: str, message: str, *, as_json: bool) -> None:
    """Print a failure as an object on stdout, where JSON was asked for."""
    if as_json:
        click.echo(json.dumps({"error": {"type": kind, "message": message}}, indent=2))


def _fail(error: Exception, code: int, *, as_json: bool) -> None:
    _log.debug("the command failed", exc_info=error)
    expected = isinstance(error, PanicTdaError)
    message = str(error) if expected else f"unexpected {type(error).__name__}: {error}"
    print_error(type(error).__name__, message, as_json=as_json)
    hint = "" if expected else " (the traceback is in --log-file, or on stderr with -v)"
    _echo_error(f"Error: {message}{hint}")
    sys.exit(code)


def _echo_error(message: str) -> None:
    try:
        click.echo(message, err=True)
    except OSError:
        # A stderr that is gone (a closed pipe, a full disk) is no reason to lose hours of work.
        _discard(sys.stderr)


def stdout_takes_all_scripts() -> bool:
    """Say whether every text can be printed as it is."""
    return sys.stdout.encoding.lower().replace("-", "").startswith("utf")


def _replace_what_cannot_be_printed(stream: TextIO) -> None:
    """Texts are in all scripts, and a terminal may know one: a question mark is better than no listing."""
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="replace")


def _discard(stream: TextIO) -> None:
    """Send what is still in the buffer nowhere: the interpreter would fail when it writes it at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _terminate_on_sigterm() -> Any:
    if threading.current_thread() is not threading.main_thread():
        return None

    def terminate(_number: int, _frame: FrameType | None) -> None:
        # Nothing is printed here: the signal may have come in the middle of another line.
        sys.exit(EXIT_TERMINATED)

    return signal.signal(signal.SIGTERM, terminate)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 600:
        # Whole minutes alone would be up to a third off.
        return f"{seconds / 60:.1f} min"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
