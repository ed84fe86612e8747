"""Output, logs and exit codes of the commands.

Data goes to stdout. Progress (see `display`) and logs go to stderr.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, TextIO
from uuid import UUID

import click

from panic_tda.cli.interruption import EXIT_INTERRUPTED, EXIT_TERMINATED, get_signal_exit_code, signal_scope
from panic_tda.errors import PanicTdaError, WrongUsage
from panic_tda.outputs import create_file, require_safe_output
from panic_tda.wording import escape_control_characters, format_utc

EXIT_FAILED, EXIT_USAGE = 1, 2
_STOPPED = {EXIT_INTERRUPTED: "interrupted", EXIT_TERMINATED: "terminated"}

_UNSAFE_CHARACTERS = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that JSON does not escape: control characters, direction marks and surrogates."""

_log = logging.getLogger("panic_tda")
_LOGS = (_log, logging.getLogger("sqlalchemy"))
"""SQLAlchemy would write its errors to stderr itself, with tracebacks."""


def configure_logging(
    *, verbose: bool, quiet: bool, log_file: Path | None, inputs: Sequence[Path] = ()
) -> None:
    """Send the logs of the package and of SQLAlchemy to stderr, and everything with tracebacks to `log_file`.

    The log file must not be an input of the command, such as the database. A new log file gets the
    permissions of the first input.
    """
    for log in _LOGS:
        for handler in list(log.handlers):
            log.removeHandler(handler)
            handler.close()
        log.propagate = False
    _log.setLevel(logging.DEBUG)
    stderr = _StderrHandler()
    stderr.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    stderr.setFormatter(_make_formatter())
    if not verbose:
        stderr.addFilter(_has_no_traceback)
    _add_handler(stderr)
    if log_file is not None:
        require_safe_output(log_file, *inputs)
        try:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            if inputs and not os.path.lexists(log_file):
                os.close(create_file(log_file, inputs[0]))
            to_file = _LogFile(_require_reader(log_file), encoding="utf-8")
        except OSError as error:
            raise WrongUsage(f"cannot write the log file {log_file}: {error.strerror or error}") from error
        to_file.setFormatter(_make_formatter())
        _add_handler(to_file)


def _add_handler(handler: logging.Handler) -> None:
    handler.addFilter(_is_no_interruption)
    for log in _LOGS:
        log.addHandler(handler)


class UnwritableOutput(PanicTdaError):
    """Stdout cannot be written, as on a full disk."""


def end_unwritten(error: OSError) -> NoReturn:
    """Print an error and exit, after the help, the version or a usage message could not be written."""
    _discard(sys.stdout)
    _echo_error(f"Error: {_format_error(error)}")
    sys.exit(EXIT_FAILED)


def open_closed_streams() -> None:
    """Replace closed standard streams (`>&-`) by the null device.

    Otherwise the next opened file would get the number of a closed stream, and the output of libraries.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


@contextmanager
def exit_codes(*, as_json: bool) -> Iterator[None]:
    """Turn exceptions of a command into a message and an exit code.

    A command exits with `EXIT_FAILED` itself if a part of its work failed and the rest was printed.
    """
    replace_unprintable(sys.stdout)
    try:
        with signal_scope(_print_stopped):
            _require_working_folder()
            yield
    except PanicTdaError as error:
        _exit_with_error(error, EXIT_USAGE if isinstance(error, WrongUsage) else EXIT_FAILED, as_json=as_json)
    except KeyboardInterrupt:
        _print_stopped(EXIT_INTERRUPTED)
        sys.exit(EXIT_INTERRUPTED)
    except SystemExit as exiting:
        if exiting.code == EXIT_TERMINATED:
            _print_stopped(EXIT_TERMINATED)
        raise
    except click.Abort as error:
        # Ctrl-C at a question; the answer no is an Abort too, but without a context.
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        _echo_error("interrupted; nothing was changed")
        sys.exit(EXIT_INTERRUPTED)
    except (click.ClickException, click.exceptions.Exit):
        raise
    except Exception as error:
        # A fault of this program: one line for the user, the traceback for the log.
        _exit_with_error(error, EXIT_FAILED, as_json=as_json)


def _print_stopped(code: int) -> None:
    _echo_error(f"{_STOPPED[code]}; nothing unfinished is in the database")


class _StderrHandler(logging.Handler):
    """Log handler for the current stderr, which writes above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        _echo_error(self.format(record))


class _LogFile(logging.FileHandler):
    """Log file whose write errors, as on a full disk, end the log and not the command."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """Remove the handler, and warn that the log ends here."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        for log in _LOGS:
            log.removeHandler(self)
        with suppress(OSError):
            self.close()
        _log.warning("the log file %s ends here: %s", self.baseFilename, error.strerror or error)


def _require_reader(log_file: Path) -> Path:
    """Raise WrongUsage if the log file is a pipe without a reader: opening it would block."""
    if log_file.is_fifo():
        try:
            os.close(os.open(log_file, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            raise WrongUsage(
                f"the log file {log_file} is a pipe that nobody reads; name a regular file"
            ) from error
    return log_file


def _is_no_interruption(record: logging.LogRecord) -> bool:
    """Return whether a record is of something else than a signal, of which the command itself says enough."""
    return not (record.exc_info and isinstance(record.exc_info[1], (KeyboardInterrupt, SystemExit)))


def _has_no_traceback(record: logging.LogRecord) -> bool:
    return record.exc_info is None


class _EscapingFormatter(logging.Formatter):
    """Log formatter that escapes control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return escape_control_characters(super().format(record))


def _make_formatter() -> logging.Formatter:
    return _EscapingFormatter("%(asctime)s %(levelname)-7s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")


def print_data(data: object) -> None:
    """Print the result of a command: a str as text, other objects as JSON, dataclasses too."""
    if isinstance(data, str):
        print_text(data)
    else:
        print_json(data)


def print_text(text: str) -> None:
    """Print text on stdout, with control characters escaped."""
    _echo(escape_control_characters(text))


def print_json(data: object) -> None:
    """Print an object on stdout as JSON."""
    text = json.dumps(data, indent=2, ensure_ascii=not _supports_unicode(sys.stdout), default=_convert_value)
    _echo(_UNSAFE_CHARACTERS.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def _convert_value(value: Any) -> Any:
    """Return a value that JSON can represent: ids and times as text, dataclasses as objects."""
    if isinstance(value, datetime):
        return format_utc(value)
    return str(value) if isinstance(value, UUID) else asdict(value)


def _echo(text: str) -> None:
    try:
        click.echo(text, file=sys.stdout)
    except BrokenPipeError:
        # The reader has ended (`| head`): this is no failure, and the work continues.
        _discard(sys.stdout)
    except OSError as error:
        _discard(sys.stdout)
        raise UnwritableOutput(f"the output cannot be written: {error.strerror or error}") from error


def print_error(kind: str, message: str, *, as_json: bool) -> None:
    """Print a failure as a JSON object on stdout, if `as_json` and stdout can be written."""
    if as_json:
        with suppress(UnwritableOutput):
            print_json({"error": {"type": kind, "message": message}})


def _exit_with_error(error: Exception, code: int, *, as_json: bool) -> None:
    _log.debug("the command failed", exc_info=error)
    expected = isinstance(error, PanicTdaError)
    message = _format_error(error)
    print_error(type(error).__name__, message, as_json=as_json)
    hint = "" if expected else " (the traceback is in --log-file, or on stderr with -v)"
    _echo_error(f"Error: {message}{hint}")
    sys.exit(get_signal_exit_code() or code)


def _format_error(error: Exception) -> str:
    if isinstance(error, PanicTdaError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        # An error of the system: a missing folder, a name that is too long, a limit.
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return f"unexpected {type(error).__name__}: {error}"


def _require_working_folder() -> None:
    try:
        Path.cwd()
    except OSError as error:
        raise WrongUsage("the working folder was deleted; change to another one") from error


def _echo_error(message: str) -> None:
    try:
        # Name the stream: Click's own choice would bypass the one that prints above a progress bar.
        click.echo(escape_control_characters(message), file=sys.stderr)
    except OSError:
        # An unwritable stderr (a closed pipe, a full disk) must not end hours of work.
        _discard(sys.stderr)


def _supports_unicode(stream: TextIO) -> bool:
    return stream.encoding.lower().replace("-", "").startswith("utf")


def replace_unprintable(stream: TextIO) -> None:
    """Print a question mark for characters that the encoding of a stream lacks, instead of failing."""
    # In the C locale Python uses surrogateescape, which cannot encode other characters either.
    errors = ("strict",) if _supports_unicode(stream) else ("strict", "surrogateescape")
    if isinstance(stream, io.TextIOWrapper) and stream.errors in errors:
        stream.reconfigure(errors="replace")


def _discard(stream: TextIO) -> None:
    """Redirect a stream to the null device: the interpreter would fail on its buffer at exit."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
