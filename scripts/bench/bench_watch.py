"""Looks into a fit of the tiled engine from outside: seconds, products and memory of every phase.

Nothing in the engine knows of this: its methods are wrapped while a `Watch` is open, and are what they were
afterwards.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench import resident

from panic_tda.clustering.tiled import host
from panic_tda.clustering.tiled.host import Scanner

BEFORE = "before"
"""The phase that lasts until the first one is announced."""


@dataclass
class Phase:
    """What a phase took.

    Attributes
    ----------
    seconds, cpu_seconds : float
        On the clock, and of all threads.
    in_products, in_copies : float
        Seconds on the clock of all threads together: multiplying rows of tiles, and bringing them side by
        side for it.
    rows, axes : int
        Pairs multiplied in full length, and pairs multiplied on the principal axes alone.
    peak : int
        Most bytes of the process in memory.
    trace : list of (float, float)
        Seconds since the phase began, and share of the announced work that was done then.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    in_products: float = 0.0
    in_copies: float = 0.0
    rows: int = 0
    axes: int = 0
    peak: int = 0
    trace: list[tuple[float, float]] = field(default_factory=list)


class Watch:
    """A listener to the progress of one fit that also wraps its products.

    Parameters
    ----------
    dimensions : int
        Length of a row; shorter products are those on the axes.

    Attributes
    ----------
    phases : dict of str to Phase
        In the order in which they came.
    """

    def __init__(self, dimensions: int) -> None:
        self._dimensions = dimensions
        self.phases = {BEFORE: Phase()}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Watch:
        self._wrap(Scanner, "multiply", self._multiplied)
        self._wrap(Scanner, "_dots", self._dotted)
        self._wrap(Scanner, "_gather", self._copied)
        self._wrap(host, "multiply", self._joined)
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._begin(BEFORE, None)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._stop.set()
        self._thread.join()
        for undo in reversed(self._undo):
            undo()

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

    def _wrap(self, owner: Any, name: str, note: Callable[..., None]) -> None:
        inner = getattr(owner, name)

        def wrapped(*arguments: Any) -> Any:
            began = time.perf_counter()
            try:
                return inner(*arguments)
            finally:
                seconds = time.perf_counter() - began
                with self._lock:
                    note(seconds, *arguments)

        setattr(owner, name, wrapped)
        self._undo.append(lambda: setattr(owner, name, inner))

    def _multiplied(self, seconds: float, _scanner: Any, matrix: Any, rows: Any, columns: Any) -> None:
        self._now.in_products += seconds
        self._count(matrix, len(rows) * len(columns))

    def _dotted(self, seconds: float, _scanner: Any, _rows: Any, _columns: Any, codes: Any) -> None:
        self._now.in_products += seconds
        self._now.rows += len(codes)

    def _copied(self, seconds: float, *_: Any) -> None:
        # Copies are made inside of what counts as a product, and are none.
        self._now.in_copies += seconds
        self._now.in_products -= seconds

    def _joined(self, seconds: float, left: Any, right: Any) -> None:
        self._now.in_products += seconds
        self._count(left, len(left) * len(right))

    def _count(self, matrix: Any, pairs: int) -> None:
        if matrix.shape[1] == self._dimensions:
            self._now.rows += pairs
        else:
            self._now.axes += pairs
