"""Measure a fit from outside: seconds on the clock and of the processor, and memory, for every phase."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from bench import resident

BEFORE = "before"
"""The phase that lasts until the first one is announced."""


@dataclass
class Phase:
    """Time and memory of a phase.

    Attributes
    ----------
    seconds, cpu_seconds : float
        On the clock, and of all threads.
    peak : int
        Most bytes of the process in memory.
    trace : list of (float, float)
        Seconds since the phase began, and share of the announced work that was done then.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak: int = 0
    trace: list[tuple[float, float]] = field(default_factory=list)


class Watch:
    """A listener to the progress of one fit.

    Attributes
    ----------
    phases : dict of str to Phase
        In the order in which they came.
    """

    def __init__(self) -> None:
        self.phases = {BEFORE: Phase()}
        self._stop = threading.Event()

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._begin(BEFORE, None)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._stop.set()
        self._thread.join()

    def phase(self, name: str, total: float | None = None) -> None:
        """Begin a phase; one that is announced again goes on."""
        self._end()
        self._begin(name, total)

    def advance(self, amount: float) -> None:
        """Note how much is done when."""
        self._done += amount
        if self._total:
            self._now.trace.append((time.perf_counter() - self._began[0], self._done / self._total))

    def _begin(self, name: str, total: float | None) -> None:
        self._now = self.phases.setdefault(name, Phase())
        self._total, self._done = total, 0.0
        self._now.peak = max(self._now.peak, resident())
        self._began = time.perf_counter(), time.process_time()

    def _end(self) -> None:
        began, cpu = self._began
        self._now.seconds += time.perf_counter() - began
        self._now.cpu_seconds += time.process_time() - cpu

    def _look(self) -> None:
        while not self._stop.wait(0.005):
            self._now.peak = max(self._now.peak, resident())
