"""End a process in time after a signal, also while Python cannot act on it.

Python runs a signal's handler between two steps of the main thread. A statement of a database, a sort or a
product of matrices is one step, however long it lasts. And where the handler runs inside a weak reference's
callback or a finalizer, Python drops the exception that it raises. So another thread receives the signal too:
it ends statements, sends the signal again where the exception was dropped, and ends the process after
`GRACE_SECONDS`.
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
"""So long a process may take to end by itself after a signal."""
_POLL_SECONDS = 0.05


class Interruptible(Protocol):
    """Something whose native calls end early, with an error, when another thread says so."""

    def interrupt(self) -> None:
        """End the call that is under way, if there is one."""


interruptible: WeakSet[Interruptible] = WeakSet()
"""What is interrupted when a signal comes: who has native calls of this kind adds itself."""

_n_rescues = 0


@contextlib.contextmanager
def rescue() -> Iterator[None]:
    """Let what is done inside last as long as it takes after a signal: it saves work that would be lost."""
    global _n_rescues
    _n_rescues += 1
    try:
        yield
    finally:
        _n_rescues -= 1


@contextlib.contextmanager
def watch_signals(numbers: set[signal.Signals], end_process: Callable[[int], None]) -> Iterator[None]:
    """Watch signals from another thread; to be entered in the main one.

    Parameters
    ----------
    numbers : set of signal
        Those that are watched. Their handlers are Python's and raise an exception that leaves this context.
    end_process : callable
        Called with the number of a signal after which this context was not left in time; does not return.
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
        with _dropped_exceptions(dropped):
            yield
    finally:
        left.set()
        signal.set_wakeup_fd(previous_fd)
        sender.close()
        watcher.join()
        receiver.close()


@contextlib.contextmanager
def _dropped_exceptions(dropped: threading.Event) -> Iterator[None]:
    """Set `dropped` when Python drops what a handler raised, instead of printing a traceback."""
    previous = sys.unraisablehook

    def note(unraisable: sys.UnraisableHookArgs) -> None:
        if issubclass(unraisable.exc_type, (KeyboardInterrupt, SystemExit)):
            dropped.set()
        else:
            previous(unraisable)

    sys.unraisablehook = note
    try:
        yield
    finally:
        sys.unraisablehook = previous


def _interrupt_all() -> None:
    for one in list(interruptible):
        # Closed meanwhile, there is nothing to end.
        with contextlib.suppress(Exception):
            one.interrupt()
