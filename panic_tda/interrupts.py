"""Timely end of a process after a signal, even while Python cannot run the signal's handler.

Python runs a signal's handler between two instructions of the main thread. A database statement, a sort or a
matrix product is one instruction, however long it takes. If the handler runs inside a weak reference's
callback or a finalizer, Python discards the exception that it raises. Therefore another thread receives the
signal too. It interrupts database statements, sends the signal again if the exception was discarded, and ends
the process after `GRACE_SECONDS`.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Protocol
from weakref import WeakSet

GRACE_SECONDS = 3.0
"""Time in which a process must end by itself after a signal, in seconds."""
_POLL_SECONDS = 0.05


class Interruptible(Protocol):
    """An object whose native calls another thread can end early, with an error."""

    def interrupt(self) -> None:
        """End the running call, if there is one."""


interruptible: WeakSet[Interruptible] = WeakSet()
"""Objects that are interrupted after a signal; code that creates such an object adds it."""

received_signals: set[int] = set()
"""Signals whose handler ran. Some native calls drop the exception of a handler, and an interrupted import or
constructor leaves a module or an object incomplete: errors that follow are caused by the signal."""

_n_rescues = 0


@contextlib.contextmanager
def rescue() -> Iterator[None]:
    """Suspend the time limit after a signal inside the block, which saves work that would be lost."""
    global _n_rescues
    _n_rescues += 1
    try:
        yield
    finally:
        _n_rescues -= 1


@contextlib.contextmanager
def watch_signals(numbers: set[signal.Signals], end_process: Callable[[int], None]) -> Iterator[None]:
    """Watch signals from another thread inside the block, which must run in the main thread.

    Parameters
    ----------
    numbers : set of signal
        The signals. Each must have a Python handler that raises an exception, which ends the block.
    end_process : callable
        Called with the number of a signal if the block does not end in time after it; does not return.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    previous_fd = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    left, dropped = threading.Event(), threading.Event()
    main_thread = threading.main_thread()

    def watch() -> None:
        while received := receiver.recv(1):
            if received[0] in numbers and not left.is_set():
                _interrupt_all()
                await_end(received[0])

    def await_end(number: int) -> None:
        deadline = time.monotonic() + GRACE_SECONDS
        while not left.wait(_POLL_SECONDS):
            if dropped.is_set():
                dropped.clear()
                signal.pthread_kill(main_thread.ident or 0, number)
            if _n_rescues:
                deadline = time.monotonic() + GRACE_SECONDS
            elif time.monotonic() > deadline:
                end_process(number)
                return

    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    try:
        with _detect_dropped_exceptions(dropped):
            yield
    finally:
        left.set()
        signal.set_wakeup_fd(previous_fd)
        sender.close()
        watcher.join()
        receiver.close()


@contextlib.contextmanager
def _detect_dropped_exceptions(dropped: threading.Event) -> Iterator[None]:
    """Set `dropped` if Python discards the exception of a handler, instead of printing a traceback.

    After a signal, errors of finalizers are not printed either, until the process ends.
    """
    previous = sys.unraisablehook

    def note(unraisable: sys.UnraisableHookArgs) -> None:
        if issubclass(unraisable.exc_type, (KeyboardInterrupt, SystemExit)):
            dropped.set()
        elif not received_signals:
            previous(unraisable)

    sys.unraisablehook = note
    try:
        yield
    finally:
        if not received_signals:
            sys.unraisablehook = previous


def _interrupt_all() -> None:
    for connection in list(interruptible):
        # It may have been closed meanwhile.
        with contextlib.suppress(Exception):
            connection.interrupt()
