"""Native calls that a signal can end: who has such a call under way says so here.

Python runs the handler of a signal when the main thread comes back from native code, which a statement of a
database may keep for minutes.
"""

from __future__ import annotations

import contextlib
from typing import Protocol
from weakref import WeakSet


class Interruptible(Protocol):
    """Something whose native calls end early, with an error, when another thread says so."""

    def interrupt(self) -> None:
        """End the call that is under way, if there is one."""


interruptible: WeakSet[Interruptible] = WeakSet()
"""What is interrupted when a signal comes."""


def interrupt_all() -> None:
    """End all native calls that can be ended; called from a thread of its own."""
    for one in list(interruptible):
        # Closed meanwhile, there is nothing to end.
        with contextlib.suppress(Exception):
            one.interrupt()
