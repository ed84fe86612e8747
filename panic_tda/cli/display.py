"""Progress of a command: bars with the time left on a terminal, log lines elsewhere."""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import TYPE_CHECKING

from panic_tda.cli.interruption import exit_callbacks
from panic_tda.cli.text import duration
from panic_tda.progress import TimeLeft

if TYPE_CHECKING:
    from rich.progress import Progress as LiveDisplay
    from rich.progress import Task

HEARTBEAT_SECONDS = 30.0
SHORT_SECONDS = 1.0
"""On a terminal, phases shorter than this are logged with --verbose only: the bar showed them."""

_log = logging.getLogger("panic_tda")


class PhaseLog:
    """State of a phase, which logs its progress and its duration.

    Parameters
    ----------
    ended : int
        Level at which the end of a phase is logged.
    short : float
        Seconds below which the end of a phase is logged at debug level.
    """

    def __init__(self, *, ended: int = logging.INFO, short: float = 0.0) -> None:
        self._ended, self._short = ended, short
        self._name = ""
        self._total: float | None = None
        self._done = 0.0
        self._began = 0.0
        self._left = TimeLeft()
        self.remark = ""

    def phase(self, name: str, total: float | None = None) -> None:
        """Log how long the last phase took, and begin the phase `name`."""
        self.end()
        self._total, self._done, self._began, self._left = total, 0.0, time.monotonic(), TimeLeft()
        self._name, self.remark = name, ""
        if name:
            _log.debug("%s …", name)

    def advance(self, amount: float) -> None:
        """Count work done."""
        self._done += amount
        if self._total:
            self._left.note(time.monotonic() - self._began, self._done / self._total)

    def note(self, text: str) -> None:
        """Show a text beside the progress of the phase."""
        self.remark = text

    def end(self) -> None:
        """Log how long the phase took, if one is running."""
        is_short = time.monotonic() - self._began < self._short
        self._end("done in", logging.DEBUG if is_short else self._ended)

    def failed(self) -> None:
        """Log that the phase failed, and after how long."""
        self._end("failed after", self._ended)

    def stopped(self) -> None:
        """Log that a signal ended the phase, and after how long."""
        self._end("stopped after", logging.INFO)

    def log_progress(self) -> None:
        """Log the progress of the phase, if one is running."""
        name, total, completed = self._name, self._total, self._done
        if not name:
            return
        share = f"{100 * completed / total:.0f} %, " if total and completed else ""
        running = f"running for {duration(time.monotonic() - self._began)}"
        remark = f", {self.remark}" if self.remark else ""
        _log.info("%s: %s%s%s", name, share, self.describe_time_left() or running, remark)

    def describe_time_left(self) -> str:
        """Return the estimated time left of the phase, or an empty text if it is unknown."""
        total, completed = self._total, self._done
        left = (
            self._left.seconds(time.monotonic() - self._began, completed / total)
            if total and completed
            else None
        )
        return "" if left is None else f"about {duration(left)} left"

    def _end(self, how: str, level: int) -> None:
        if self._name:
            _log.log(level, "%s: %s %.1f s", self._name, how, time.monotonic() - self._began)
        self._name = ""


class Bar:
    """Progress bar of a phase in a live display, which also updates the log of the phase."""

    def __init__(self, live: LiveDisplay, log: PhaseLog) -> None:
        self._live, self._log = live, log
        self._task = live.add_task("starting", total=None, log=log)

    def phase(self, name: str, total: float | None = None) -> None:
        """Restart the bar for the phase `name`."""
        self._log.phase(name, total)
        self._live.reset(self._task, description=name, total=total, visible=bool(name))

    def advance(self, amount: float) -> None:
        """Move the bar."""
        self._log.advance(amount)
        self._live.advance(self._task, amount)

    def note(self, text: str) -> None:
        """Show a text beside the bar."""
        self._log.note(text)

    def failed(self) -> None:
        """Log that the phase failed, and hide the bar."""
        self._log.failed()
        self.phase("")


class Display:
    """Context manager that shows the progress of the work inside it.

    Parameters
    ----------
    interval : float, optional
        Seconds between log lines while a phase runs without a bar; by default `HEARTBEAT_SECONDS`.
    ended : int
        Level at which the end of a phase is logged.
    live : rich.progress.Progress, optional
        Display that draws the bars.
    """

    def __init__(
        self, interval: float | None = None, *, ended: int = logging.INFO, live: LiveDisplay | None = None
    ) -> None:
        self._interval = HEARTBEAT_SECONDS if interval is None else interval
        self._ended, self._live = ended, live
        self._logs: list[PhaseLog] = []
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._first = self.branch()

    def __enter__(self) -> Display:
        exit_callbacks.append(self._stopped)
        if self._live is None:
            self._heart.start()
        else:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        exit_callbacks.remove(self._stopped)
        if self._live is None:
            self._stop.set()
            self._heart.join()
        else:
            self._live.stop()
        for log in self._logs:
            if exception[0] is None:
                log.end()
            elif not isinstance(exception[1], Exception):
                log.stopped()

    def branch(self) -> PhaseLog | Bar:
        """Return a separate progress listener for parallel work; it ends with this display."""
        log = PhaseLog(ended=self._ended, short=0.0 if self._live is None else SHORT_SECONDS)
        self._logs.append(log)
        return log if self._live is None else Bar(self._live, log)

    def phase(self, name: str, total: float | None = None) -> None:
        """Begin the phase `name`."""
        self._first.phase(name, total)

    def advance(self, amount: float) -> None:
        """Count work done."""
        self._first.advance(amount)

    def note(self, text: str) -> None:
        """Show a text beside the progress of the phase."""
        self._first.note(text)

    def failed(self) -> None:
        """Log that the phase failed, and end it."""
        self._first.failed()

    def _stopped(self) -> None:
        for log in self._logs:
            log.stopped()
        if self._live is not None:
            self._live.stop()

    def _beat(self) -> None:
        while not self._stop.wait(self._interval):
            for log in tuple(self._logs):
                log.log_progress()


def make_progress(*, ended: int = logging.INFO) -> Display:
    """Return a display for the progress of a command, with bars if stderr is a terminal and not quiet.

    `ended` is the level at which the end of a phase is logged. Long phases show their progress at any level.
    """
    quiet = any(handler.level >= logging.WARNING for handler in _log.handlers)
    if quiet or not sys.stderr.isatty():
        return Display(ended=ended)
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        TaskProgressColumn,
        TextColumn,
    )
    from rich.text import Text

    class TimeLeftColumn(ProgressColumn):
        """Show the time left as the log estimates it."""

        def render(self, task: Task) -> Text:
            log = task.fields["log"]
            return Text(", ".join(filter(None, [log.describe_time_left(), log.remark])))

    live = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeLeftColumn(),
        # The terminal wraps long lines, so that a command in a message can be copied as one line.
        console=Console(stderr=True, soft_wrap=True),
        transient=True,
        redirect_stdout=False,
    )
    return Display(ended=ended, live=live)
