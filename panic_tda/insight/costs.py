"""Predict the time of a fit from one timed fit of a sample of the rows.

Each phase is multiplied by how much more work it has with all rows: the number of rows, of pairs of rows, or
for the passes of the tiled engine the number of pairs of tiles, of which the first ones take longer
(`pass_work`; the engine shows its progress by the same numbers). At 384 dimensions, predictions from
16,000 rows were 0.98 times the processor time of the neighbour pass at 64,000 rows and 0.85 times that of the
verify pass.

Processor time and the number of busy cores are measured for each phase: other processes on the machine
disturb them less than wall-clock time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from panic_tda.clustering import backends, phases
from panic_tda.clustering.geometry import convert_rows
from panic_tda.clustering.placement import Placement
from panic_tda.clustering.recipe import cluster_rows
from panic_tda.clustering.warm_up import compile_kernels
from panic_tda.devices.machine import available_cores
from panic_tda.parameters import ClusteringParameters
from panic_tda.progress import Progress
from panic_tda.types import Float32Array

_DEVICE_ROWS, _MATRIX_ROWS, _ROWS_OF_A_CORE = 65_536, 4_096, 11_585
"""Rows that are measured: on a device; with a matrix of distances; and for the tiled engine on the host,
times the square root of the number of cores, so that each core has the same number of tiles (16,384 rows on
two cores take about a second)."""


class PhaseTime(NamedTuple):
    """Time of a phase.

    Attributes
    ----------
    seconds : float
        Wall-clock seconds.
    work : float
        Processor seconds of all threads (on a device, wall-clock seconds).
    """

    seconds: float
    work: float

    @property
    def cores(self) -> float:
        """Mean number of busy cores: at least 1, even if other processes used the core for a while."""
        busy = self.work / max(self.seconds, 1e-9)
        # Most phases of small fits: their number of cores need not be asked for.
        return 1.0 if busy <= 1.0 else min(busy, available_cores())


@dataclass(frozen=True)
class Costs:
    """Measured times of a fit of a sample of the rows.

    Attributes
    ----------
    placement : Placement
        Backend and device of the fit.
    n_rows, n_features : int
        Shape of the sample; no row if it was too small to be fitted.
    measured : dict of str to PhaseTime
        Times by phase.
    start : float
        Additional seconds of the first fit of a process, for loading compiled code and libraries.
    """

    placement: Placement
    n_rows: int
    n_features: int
    measured: dict[str, PhaseTime]
    start: float

    def predict(self, n_rows: int) -> float:
        """Predict the seconds of a process's first fit, of `n_rows` rows like these, on an idle machine."""
        work = self.predict_work(n_rows)
        return self.start + sum(work[phase] / measured.cores for phase, measured in self.measured.items())

    def predict_work(self, n_rows: int) -> dict[str, float]:
        """Predict the processor seconds of each phase (on a device, seconds) for `n_rows` rows."""
        return {
            phase: measured.work * self._count(phase, n_rows) / self._count(phase, self.n_rows)
            for phase, measured in self.measured.items()
        }

    def _count(self, phase: str, n_rows: int) -> float:
        """Return the work of a phase in some unit."""
        if phase in phases.LINEAR:
            return float(n_rows)
        if self.placement.backend.name == backends.TILED:
            from panic_tda.clustering.tiled import pass_work

            return pass_work.count(phase, n_rows, self.n_features, on_device=self.placement.on_device)
        return float(n_rows) ** 2


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
    start: float | None = None,
    progress: Progress,
) -> Costs:
    """Measure a fit of a sample of rows, with the parameters of the fit of all rows.

    Parameters
    ----------
    vectors : (n, d) float32
        Sample of the rows; not modified.
    parameters : ClusteringParameters
        Parameters with the `min_samples` of the fit of all rows; sizes of clusters do not affect the time.
    placement : Placement
        Backend and device of the fit of all rows.
    start : float, optional
        Additional seconds of the first fit of a process, if known; None measures them by a fit more.
    progress : Progress
        Receives the number of rows fitted.

    Returns
    -------
    Costs
        With fewer than two rows only the start.
    """
    n, d = vectors.shape
    compile_kernels(placement.backend, progress, parameters.metric)
    if n < 2:
        return Costs(placement, 0, d, {}, start or 0.0)
    progress.phase(f"measure a fit of {n:,} rows", float(n))
    first = _time_fit(vectors, parameters, placement) if start is None else {}
    measured = _time_fit(vectors, parameters, placement)
    progress.advance(float(n))
    if start is None:
        start = max(
            0.0, sum(time.work for time in first.values()) - sum(time.work for time in measured.values())
        )
    return Costs(placement, n, d, measured, start)


def _time_fit(
    rows: Float32Array, parameters: ClusteringParameters, placement: Placement
) -> dict[str, PhaseTime]:
    """Fit rows, and return the time of each phase."""
    # The processor time of a fit on a device says nothing: the processor may wait or not.
    watch = _Stopwatch(time.perf_counter if placement.on_device else time.process_time)
    samples = min(parameters.min_samples or 1, len(rows))
    # Cluster sizes that suit all rows would leave no cluster in a sample, and so no work.
    parameters = replace(parameters, min_samples=samples, min_cluster_size=None, max_cluster_size=None)
    cluster_rows(convert_rows(rows.copy(), parameters.metric), parameters, watch, placement=placement)
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

    def stop(self) -> dict[str, PhaseTime]:
        """Return the measured times by phase."""
        self.phase("")
        taken: dict[str, PhaseTime] = {}
        for (name, began, work_before), (_, ended, work_after) in pairwise(self._marks):
            # A phase may occur more than once.
            before = taken.get(name, PhaseTime(0.0, 0.0))
            taken[name] = PhaseTime(before.seconds + ended - began, before.work + work_after - work_before)
        return taken
