"""Predict the time of a fit from fits of parts of the rows.

Each phase of a fit takes time per row and time per pair of rows: `a·n + b·n^growth`. Fits of a quarter, a
half and all of some thousand rows determine a and b. The growth is 2 for a matrix of distances. The tiled
engine visits all pairs of tiles, but with more rows it prunes more of them, because nearest neighbours are
nearer; on the other hand the rows no longer fit into the processor's cache. Predictions from 16,000 rows for
20,000 to 300,000 rows of 768 and 384 dimensions, in runs of 100 to 1,000 steps, with a growth of 1.95, were
0.82 to 1.38 times the measured time on one core (16 cases; with 1.9, 0.78 to 1.30; with 2, 0.87 to 1.47), and
0.77 to 1.00 times on two cores (20,000 to 100,000 rows).

Processor time and the number of busy cores are measured for each phase: other processes on the machine
disturb them less than wall-clock time.
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
from panic_tda.clustering.geometry import convert_rows
from panic_tda.clustering.recipe import cluster_rows
from panic_tda.clustering.warm_up import compile_kernels
from panic_tda.devices.machine import available_cores

if TYPE_CHECKING:
    from panic_tda.clustering.placement import Placement
    from panic_tda.parameters import ClusteringParameters
    from panic_tda.progress import Progress
    from panic_tda.types import Float32Array

DIVISIONS = (4, 2, 1)
"""Numbers of parts that the rows are divided into; each part is fitted."""
_GROWTH = {"tiled": 1.95}
_QUADRATIC = 2.0
_DEVICE_ROWS, _MATRIX_ROWS, _ROWS_OF_A_CORE = 65_536, 4_096, 11_585
"""Rows that are measured: on a device; with a matrix of distances; and for the tiled engine on the host,
times the square root of the number of cores, so that each core has the same number of tiles (16,384 rows on
two cores take about a second)."""


@dataclass(frozen=True)
class Costs:
    """Measured times of fits of parts of the rows.

    Attributes
    ----------
    backend : str
        Backend of the fits.
    work : dict of int to dict of str to float
        Processor seconds (on a device, wall-clock seconds) by number of rows and by phase; the median of
        parts with the same number of rows.
    cores : dict of str to float
        Largest mean number of busy cores by phase (on a device, 1).
    start : float
        Additional seconds of the first fit of a process, for loading compiled code and libraries.
    """

    backend: str
    work: dict[int, dict[str, float]]
    cores: dict[str, float]
    start: float

    def predict(self, n_rows: int) -> float:
        """Predict the seconds of a process's first fit, of `n_rows` rows like these, on an idle machine."""
        pairs = 1.0, _GROWTH.get(self.backend, _QUADRATIC)
        seconds = self.start
        for phase, cores in self.cores.items():
            measured = {n: work.get(phase, 0.0) for n, work in self.work.items()}
            seconds += extrapolate(measured, n_rows, (0.0, 1.0) if phase in phases.LINEAR else pairs) / cores
        return seconds


def extrapolate(seconds: dict[int, float], n_rows: int, powers: tuple[float, float]) -> float:
    """Extrapolate the time for `n_rows` rows from the times for fewer rows.

    Parameters
    ----------
    seconds : dict of int to float
        Measured seconds by number of rows.
    n_rows : int
        Number of rows to predict for.
    powers : tuple of float
        Exponents p and q.

    Returns
    -------
    float
        Seconds by the fit `a·n^p + b·n^q` with the least relative squares, a and b not negative. The result
        never decreases with the number of rows.
    """
    from scipy.optimize import nnls

    measured = {n: taken for n, taken in seconds.items() if n > 0 and taken > 0}
    if not measured:
        return 0.0
    n, taken = np.array(list(measured), dtype=float), np.array(list(measured.values()))
    # Row counts are divided by the largest one: their powers would differ by many orders of magnitude.
    terms = (n / n.max())[:, None] ** powers
    factors = nnls(terms / taken[:, None], np.ones(len(n)))[0]
    return float(factors @ (n_rows / n.max()) ** np.array(powers))


def rows_to_measure(placement: Placement) -> int:
    """Return the number of rows to measure: the more cores or the faster the device, the more rows."""
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
    are_all: bool = False,
    start: float | None = None,
    progress: Progress,
) -> Costs:
    """Measure fits of parts of some rows, with the parameters of the fit of all rows.

    Parameters
    ----------
    vectors : (n, d) float32
        Sample of the rows, with the rows of a run next to each other; not modified.
    parameters : ClusteringParameters
        Parameters with the `min_samples` of the fit of all rows; sizes of clusters do not affect the time.
    placement : Placement
        Backend and device of the fit of all rows.
    are_all : bool
        Whether these are all rows: then their fit alone is measured, as nothing has to be extrapolated.
    start : float, optional
        Additional seconds of the first fit of a process, if known; None measures them.
    progress : Progress
        Receives the number of rows fitted.

    Returns
    -------
    Costs
        With fewer than two rows only the start.
    """
    compile_kernels(placement.backend, progress, parameters.metric)
    divisions = (1,) if are_all else DIVISIONS
    parts = [part for count in divisions for part in np.array_split(vectors, count) if len(part) > 1]
    progress.phase(f"measure fits of up to {len(vectors):,} rows", float(sum(map(len, parts))))
    first = _time_fit(parts[0], parameters, placement) if parts and start is None else {}
    fits: list[tuple[int, dict[str, _PhaseTime]]] = []
    for part in parts:
        fits.append((len(part), _time_fit(part, parameters, placement)))
        progress.advance(float(len(part)))
    if first:
        start = max(
            0.0,
            sum(taken.work for taken in first.values()) - sum(taken.work for taken in fits[0][1].values()),
        )
    phases = sorted({phase for _, fit in fits for phase in fit})
    return Costs(
        placement.backend.name,
        work={n: {phase: _compute_median_work(fits, n, phase) for phase in phases} for n, _ in fits},
        cores={phase: max(fit[phase].cores for _, fit in fits if phase in fit) for phase in phases},
        start=start or 0.0,
    )


def _compute_median_work(fits: list[tuple[int, dict[str, _PhaseTime]]], n_rows: int, phase: str) -> float:
    """Return the median work of a phase in fits of `n_rows` rows; 0 in fits without the phase."""
    return statistics.median(fit[phase].work if phase in fit else 0.0 for n, fit in fits if n == n_rows)


class _PhaseTime(NamedTuple):
    """Time of a phase.

    Attributes
    ----------
    seconds : float
        Wall-clock seconds.
    work : float
        Processor seconds of all threads.
    """

    seconds: float
    work: float

    @property
    def cores(self) -> float:
        """Mean number of busy cores: at least 1, even if other processes used the core for a while."""
        busy = self.work / max(self.seconds, 1e-9)
        # Most phases of small fits: their number of cores need not be asked for.
        return 1.0 if busy <= 1.0 else min(busy, available_cores())


def _time_fit(
    part: Float32Array, parameters: ClusteringParameters, placement: Placement
) -> dict[str, _PhaseTime]:
    """Fit a part, and return the time of each phase."""
    # The processor time of a fit on a device says nothing: the processor may wait or not.
    watch = _Stopwatch(time.perf_counter if placement.on_device else time.process_time)
    samples = min(parameters.min_samples or 1, len(part))
    # Cluster sizes that suit all rows would leave no cluster in a part, and so no work.
    parameters = replace(parameters, min_samples=samples, min_cluster_size=None, max_cluster_size=None)
    rows = convert_rows(part.copy(), parameters.metric)
    cluster_rows(rows, parameters, watch, placement=placement)
    return watch.stop()


class _Stopwatch:
    """Listener that measures the wall-clock time and the work of every phase."""

    def __init__(self, work: Callable[[], float]) -> None:
        self._work = work
        self._marks: list[tuple[str, float, float]] = []

    def phase(self, name: str, total: float | None = None) -> None:
        """Begin to measure a phase."""
        self._marks.append((name, time.perf_counter(), self._work()))

    def advance(self, amount: float) -> None:
        """Ignore the steps of a phase."""

    def stop(self) -> dict[str, _PhaseTime]:
        """Return the measured times by phase."""
        self.phase("")
        taken: dict[str, _PhaseTime] = {}
        for (name, began, work_before), (_, ended, work_after) in pairwise(self._marks):
            # A phase may occur more than once.
            before = taken.get(name, _PhaseTime(0.0, 0.0))
            taken[name] = _PhaseTime(before.seconds + ended - began, before.work + work_after - work_before)
        return taken
