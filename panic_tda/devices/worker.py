"""The process of one device: does the tasks that come on stdin, tells of them on stdout.

What it says are messages, one dataclass for each kind; `pool` starts it and hears it.
"""

from __future__ import annotations

import copy
import logging
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, BinaryIO

from panic_tda.errors import unexpected
from panic_tda.interrupts import watch_signals
from panic_tda.progress import Progress

ADVANCE_SECONDS = 0.2
"""Least time between two messages of the same phase."""
_EXIT_TERMINATED = 128 + signal.SIGTERM

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Logged:
    """A line for the log."""

    record: logging.LogRecord


@dataclass(frozen=True)
class Phase:
    """The task's next phase began."""

    name: str
    total: float | None


@dataclass(frozen=True)
class Advanced:
    """The phase has come further by so much."""

    amount: float


@dataclass(frozen=True)
class PhaseFailed:
    """The phase is over, and failed."""


@dataclass(frozen=True)
class Done:
    """The task is over, with what the work returned."""

    result: Any


@dataclass(frozen=True)
class Failed:
    """The task is over without a result."""

    reason: str


Message = Logged | Phase | Advanced | PhaseFailed | Done | Failed


def serve() -> None:
    """Be the process of one device: do the tasks that come on stdin, tell of them on stdout."""
    # The two pipes are kept from whatever a library reads or prints.
    source = os.fdopen(os.dup(0), "rb")
    channel = _Channel(os.fdopen(os.dup(1), "wb"))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, channel.terminate)
    with watch_signals({signal.SIGTERM}, lambda _number: os._exit(_EXIT_TERMINATED)):
        _serve(source, channel)


def _serve(source: BinaryIO, channel: _Channel) -> None:
    work, name = pickle.load(source)
    logger = logging.getLogger("panic_tda")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(_Forwarded(channel, name))
    while True:
        try:
            task = pickle.load(source)
        except EOFError:
            return
        channel.send(_outcome(work, task, _Told(channel)))


def _outcome(work: Callable[[Any, Progress], Any], task: Any, progress: Progress) -> Done | Failed:
    try:
        result = work(task, progress)
        pickle.dumps(result)
    except Exception as error:
        # Whatever breaks in one task must not cost the others theirs; the log has the whole story.
        _log.debug("a task failed unexpectedly", exc_info=True)
        return Failed(unexpected(error))
    return Done(result)


class _Channel:
    """Sends messages whole, whatever signal comes in between."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self._lock = threading.Lock()
        self._sending = self._terminated = False

    def send(self, message: Message) -> None:
        data = pickle.dumps(message)
        # Signals are handled in the main thread only, so that only its own messages could be cut.
        is_main = threading.current_thread() is threading.main_thread()
        self._sending |= is_main
        try:
            with self._lock:
                self._sink.write(data)
                self._sink.flush()
        except OSError:
            # Nobody listens any more: the caller was killed, and nobody waits for a result.
            sys.exit(_EXIT_TERMINATED)
        finally:
            self._sending &= not is_main
        if is_main and self._terminated:
            self._leave()

    def terminate(self, _number: int, _frame: FrameType | None) -> None:
        """Handle SIGTERM."""
        self._terminated = True
        if not self._sending:
            self._leave()

    def _leave(self) -> None:
        self._terminated = False  # What is said on the way out is to be heard.
        sys.exit(_EXIT_TERMINATED)


class _Told:
    """Progress of a task, as messages."""

    def __init__(self, channel: _Channel, clock: Callable[[], float] = time.monotonic) -> None:
        self._channel = channel
        self._clock = clock
        self._unsaid = 0.0
        self._said = 0.0

    def phase(self, name: str, total: float | None = None) -> None:
        self._unsaid, self._said = 0.0, self._clock()
        self._channel.send(Phase(name, total))

    def advance(self, amount: float) -> None:
        self._unsaid += amount
        if self._clock() - self._said >= ADVANCE_SECONDS:
            said, self._unsaid, self._said = self._unsaid, 0.0, self._clock()
            self._channel.send(Advanced(said))

    def failed(self) -> None:
        self._channel.send(PhaseFailed())


class _Forwarded(logging.Handler):
    """Log records as messages, under the name of the device."""

    def __init__(self, channel: _Channel, name: str) -> None:
        super().__init__()
        self._channel = channel
        self._prefix = f"{name}: "

    def emit(self, record: logging.LogRecord) -> None:
        # Arguments and tracebacks cannot all be pickled: the message goes as text.
        said = copy.copy(record)
        said.msg, said.args = self._prefix + self.format(record), None
        said.exc_info = said.exc_text = said.stack_info = None
        self._channel.send(Logged(said))
