"""The process of one device: reads tasks from stdin, runs them, and writes messages to stdout.

Each kind of message is a dataclass. `pool` starts the process and handles its messages.
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
"""Least time between two messages about progress in the same phase, in seconds."""
_EXIT_TERMINATED = 128 + signal.SIGTERM

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Logged:
    """Message with a log record."""

    record: logging.LogRecord


@dataclass(frozen=True)
class Phase:
    """Message that the next phase of the task has begun."""

    name: str
    total: float | None


@dataclass(frozen=True)
class Advanced:
    """Message that the phase has advanced by an amount."""

    amount: float


@dataclass(frozen=True)
class PhaseFailed:
    """Message that the phase has failed."""


@dataclass(frozen=True)
class Done:
    """Message that the task has finished, with its result."""

    result: Any


@dataclass(frozen=True)
class Failed:
    """Message that the task has failed, with the reason."""

    reason: str


Message = Logged | Phase | Advanced | PhaseFailed | Done | Failed


def serve() -> None:
    """Run the tasks from stdin, and write messages to stdout, until stdin ends."""
    # Libraries that read stdin or print to stdout must not use the two pipes.
    source = os.fdopen(os.dup(0), "rb")
    channel = Channel(os.fdopen(os.dup(1), "wb"))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, channel.terminate)
    with watch_signals({signal.SIGTERM}, lambda _number: os._exit(_EXIT_TERMINATED)):
        _run_tasks(source, channel)


def _run_tasks(source: BinaryIO, channel: Channel) -> None:
    work, name = pickle.load(source)
    logger = logging.getLogger("panic_tda")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(_LogForwarder(channel, name))
    while True:
        try:
            task = pickle.load(source)
        except EOFError:
            return
        channel.send(_run_task(work, task, ProgressForwarder(channel)))


def _run_task(work: Callable[[Any, Progress], Any], task: Any, progress: Progress) -> Done | Failed:
    try:
        result = work(task, progress)
        pickle.dumps(result)
    except Exception as error:
        # An error in one task must not stop the others; the log has the traceback.
        _log.debug("a task failed unexpectedly", exc_info=True)
        return Failed(unexpected(error))
    return Done(result)


class Channel:
    """Sender of messages, which a signal does not cut off."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self._lock = threading.Lock()
        self._sending = self._terminated = False

    def send(self, message: Message) -> None:
        data = pickle.dumps(message)
        # Signals are handled in the main thread, so that they can cut off only its messages.
        is_main = threading.current_thread() is threading.main_thread()
        self._sending |= is_main
        try:
            with self._lock:
                self._sink.write(data)
                self._sink.flush()
        except OSError:
            # The caller was killed, so that nobody waits for a result.
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
        self._terminated = False  # so that messages during the exit are sent
        sys.exit(_EXIT_TERMINATED)


class ProgressForwarder:
    """Progress that is sent as messages."""

    def __init__(self, channel: Channel, clock: Callable[[], float] = time.monotonic) -> None:
        self._channel = channel
        self._clock = clock
        self._unsent = 0.0
        self._sent_at = 0.0

    def phase(self, name: str, total: float | None = None) -> None:
        self._unsent, self._sent_at = 0.0, self._clock()
        self._channel.send(Phase(name, total))

    def advance(self, amount: float) -> None:
        self._unsent += amount
        if self._clock() - self._sent_at >= ADVANCE_SECONDS:
            amount, self._unsent, self._sent_at = self._unsent, 0.0, self._clock()
            self._channel.send(Advanced(amount))

    def failed(self) -> None:
        self._channel.send(PhaseFailed())


class _LogForwarder(logging.Handler):
    """Logging handler that sends records as messages, with the name of the device as prefix."""

    def __init__(self, channel: Channel, name: str) -> None:
        super().__init__()
        self._channel = channel
        self._prefix = f"{name}: "

    def emit(self, record: logging.LogRecord) -> None:
        # Not all arguments and tracebacks can be pickled, so that the message is sent as text.
        sendable = copy.copy(record)
        sendable.msg, sendable.args = self._prefix + self.format(record), None
        sendable.exc_info = sendable.exc_text = sendable.stack_info = None
        self._channel.send(Logged(sendable))
