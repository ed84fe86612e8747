"""Signals that are heard in time, also while native code keeps Python from hearing anything.

Python runs a signal's handler between two steps of the main thread. A statement of a database, a sort or a
product of matrices is one step, however long it lasts. So another thread hears of the signal too: it ends
statements, and where the handler has not run after `GRACE_SECONDS`, it does what is to be done then.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Protocol
from weakref import WeakSet

GRACE_SECONDS = 3.0
"""So long native code may take to come back."""


class Interruptible(Protocol):
    """Something whose native calls end early, with an error, when another thread says so."""

    def interrupt(self) -> None:
        """End the call that is under way, if there is one."""


interruptible: WeakSet[Interruptible] = WeakSet()
"""What is interrupted when a signal comes: who has native calls of this kind adds itself."""


@contextlib.contextmanager
def watched(
    numbers: set[signal.Signals], ran: threading.Event, unheard: Callable[[int], None]
) -> Iterator[None]:
    """Watch over signals from another thread; to be entered in the main one.

    Parameters
    ----------
    numbers : set of signal
        Those that are watched. They have handlers of Python.
    ran : Event
        Is set by the handlers.
    unheard : callable
        Told the number of a signal whose handler has not run in time.
    """
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    woken = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)

    def watch() -> None:
        while received := receiver.recv(1):
            if received[0] in numbers:
                _interrupt_all()
                if not ran.wait(GRACE_SECONDS):
                    unheard(received[0])

    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        sender.close()
        watcher.join()
        receiver.close()


def _interrupt_all() -> None:
    for one in list(interruptible):
        # Closed meanwhile, there is nothing to end.
        with contextlib.suppress(Exception):
            one.interrupt()
