"""Predict the time of a fit from fits of parts of the rows.

A fit costs something for every row and something for every pair of rows: `a·n + b·n^growth`, phase by phase.
Parts of a quarter, a half and the whole of some thousand rows tell the two apart. For a matrix of distances
the growth is 2. The tiled engine looks at all pairs of tiles, but rules out more of what is in them the more
rows there are, since the nearest rows of each are nearer; on the other hand they leave the processor's cache.
From 16,000 rows on to 20,000 … 300,000 of 768 and 384 dimensions, in runs of 100 to 1,000 steps, a growth of
1.95 gave 0.82 to 1.38 times the time that the fit took on one core (16 cases; with 1.9, 0.78 to 1.30; with 2,
0.87 to 1.47), and 0.77 to 1.00 times on two (20,000 to 100,000 rows).

What is measured is processor time, and how many cores each phase keeps at work: what else the machine does
meanwhile misleads less than it would by the clock.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from panic_tda.clustering import backends, phases
from panic_tda.clustering.recipe import cluster_rows
from panic_tda.clustering.warm_up import compile_kernels
from panic_tda.devices.machine import available_cores

if TYPE_CHECKING:
    from panic_tda.clustering.placement import Placement
    from panic_tda.parameters import ClusteringParameters
    from panic_tda.progress import Progress
    from panic_tda.types import Float32Array

DIVISIONS = (4, 2, 1)
"""Into how many parts the rows are divided; each part is fitted."""
_GROWTH = {"tiled": 1.95}
_QUADRATIC = 2.0
_DEVICE_ROWS, _MATRIX_ROWS, _ROWS_OF_A_CORE = 65_536, 4_096, 11_585
"""Rows that are measured: on a device; where a matrix of distances is made; and elsewhere, times the root of
the number of cores, so that each has as many tiles (16,384 rows on two, a second's work)."""


@dataclass(frozen=True)
class Costs:
    """Measured times of fits of parts of the rows.

    Attributes
    ----------
    backend : str
        What fitted them.
    work : dict of int to dict of str to float
        Processor seconds (on a device, seconds) by number of rows and by phase; the median where several
        parts have as many rows.
    cores : dict of str to float
        How many cores a phase had at work at once, at most (on a device, 1).
    start : float
        What the first fit of a process takes in addition: loading compiled code and libraries.
    """

    backend: str
    work: dict[int, dict[str, float]]
    cores: dict[str, float]
    start: float

    def predict(self, n_rows: int) -> float:
        """Return the seconds that a fit of `n_rows` rows like these takes, the first of its process.

        Those of a machine with nothing else to do.
        """
        pairs = 1.0, _GROWTH.get(self.backend, _QUADRATIC)
        seconds = self.start
        for phase, cores in self.cores.items():
            measured = {n: work.get(phase, 0.0) for n, work in self.work.items()}
            seconds += carry_on(measured, n_rows, (0.0, 1.0) if phase in phases.LINEAR else pairs) / cores
        return seconds


def carry_on(seconds: dict[int, float], n_rows: int, powers: tuple[float, float]) -> float:
    """Predict what `n_rows` rows take from what fewer of them took.

    Parameters
    ----------
    seconds : dict of int to float
        By number of rows.
    n_rows : int
        For which to predict.
    powers : tuple of float
        Of the number of rows, p and q.

    Returns
    -------
    float
        By the least relative squares of `a·n^p + b·n^q`, a and b not negative; with more rows, never less.
    """
    from scipy.optimize import nnls

    measured = {n: taken for n, taken in seconds.items() if n > 0 and taken > 0}
    if not measured:
        return 0.0
    n, taken = np.array(list(measured), dtype=float), np.array(list(measured.values()))
    # In shares of the largest number of rows: powers of the numbers themselves are of very different sizes.
    terms = (n / n.max())[:, None] ** powers
    factors = nnls(terms / taken[:, None], np.ones(len(n)))[0]
    return float(factors @ (n_rows / n.max()) ** np.array(powers))


def rows_to_measure(placement: Placement) -> int:
    """Return how many rows tell what a fit takes: the more, the more that works on them at once."""
    if placement.on_device:
        return _DEVICE_ROWS
    if placement.backend.name in backends.ON_HOST:
        return _MATRIX_ROWS
    return min(_DEVICE_ROWS, round(_ROWS_OF_A_CORE * math.sqrt(available_cores())))


def measure(
    vectors: Float32Array,
    parameters: ClusteringParameters,
    placement: Placement,
    *,
    start: float | None = None,
    progress: Progress,
) -> Costs:
    """Fit parts of some rows as all of the rows will be.

    Parameters
    ----------
    vectors : (n, d) float32
        Rows that resemble all of them, those of one run side by side; left as they are.
    parameters : ClusteringParameters
        With the `min_samples` of the fit of all rows; what it says of clusters is nothing to the time.
    placement : Placement
        Where all of the rows will be fitted.
    start : float, optional
        What the first fit of a process takes in addition, where that is known; None finds it out.
    progress : Progress
        Told the rows fitted.

    Returns
    -------
    Costs
        Without rows, or of one alone, nothing but the start.
    """
    compile_kernels(placement.backend, progress)
    parts = [part for count in DIVISIONS for part in np.array_split(vectors, count) if len(part) > 1]
    progress.phase(f"measure fits of up to {len(vectors):,} rows", float(sum(map(len, parts))))
    first = _fit(parts[0], parameters, placement) if parts and start is None else {}
    fits: list[tuple[int, dict[str, _Taken]]] = []
    for part in parts:
        fits.append((len(part), _fit(part, parameters, placement)))
        progress.advance(float(len(part)))
    if first:
        start = max(
            0.0,
            sum(taken.work for taken in first.values()) - sum(taken.work for taken in fits[0][1].values()),
        )
    phases = sorted({phase for _, fit in fits for phase in fit})
    return Costs(
        placement.backend.name,
        work={n: {phase: _median(fits, n, phase) for phase in phases} for n, _ in fits},
        cores={phase: max(fit[phase].cores for _, fit in fits if phase in fit) for phase in phases},
        start=start or 0.0,
    )


def _median(fits: list[tuple[int, dict[str, _Taken]]], n_rows: int, phase: str) -> float:
    """Return the work of a phase in fits of so many rows; one that does without it has none."""
    return statistics.median(fit[phase].work if phase in fit else 0.0 for n, fit in fits if n == n_rows)


class _Taken(NamedTuple):
    """Time of a phase.

    Attributes
    ----------
    seconds : float
        By the clock.
    work : float
        Of the processor, of all threads.
    """

    seconds: float
    work: float

    @property
    def cores(self) -> float:
        """Mean number of busy cores: at least 1, even if other processes used the core for a while."""
        return min(max(1.0, self.work / max(self.seconds, 1e-9)), available_cores())


def _fit(part: Float32Array, parameters: ClusteringParameters, placement: Placement) -> dict[str, _Taken]:
    """Return what each phase of a fit took."""
    # A device works while the processor waits, or does not.
    watch = _Stopwatch(time.perf_counter if placement.on_device else time.process_time)
    samples = min(parameters.min_samples or 1, len(part))
    # Sizes of clusters are those of all rows: of a part they would leave no cluster, and so no work.
    parameters = replace(parameters, min_samples=samples, min_cluster_size=None, max_cluster_size=None)
    cluster_rows(part.copy(), parameters, watch, placement=placement)
    return watch.stop()


class _Stopwatch:
    """A listener that takes the time of every phase, by the clock and by another measure of work."""

    def __init__(self, work: Callable[[], float]) -> None:
        self._work = work
        self._marks: list[tuple[str, float, float]] = []

    def phase(self, name: str, total: float | None = None) -> None:
        """Begin to take the time of a phase."""
        self._marks.append((name, time.perf_counter(), self._work()))

    def advance(self, amount: float) -> None:
        """Hear nothing of the steps."""

    def stop(self) -> dict[str, _Taken]:
        """Return what was taken, by phase."""
        self.phase("")
        taken: dict[str, _Taken] = {}
        for (name, began, work_before), (_, ended, work_after) in pairwise(self._marks):
            # A phase may begin anew.
            before = taken.get(name, _Taken(0.0, 0.0))
            taken[name] = _Taken(before.seconds + ended - began, before.work + work_after - work_before)
        return taken
