"""Predict the time of a fit from timed fits of two samples of the rows.

A fit of a quarter of the sample shows how the time of each phase grows (`extrapolate`). That depends on the
rows: the more captions there are, the larger is the share of pairs that the thresholds reject; of rows
without near neighbours hardly any are.

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

_MOST_ROWS, _MATRIX_ROWS, _ROWS_OF_A_CORE = 65_536, 4_096, 11_585
"""Rows of the larger sample: at most; with a matrix of distances; and for the tiled engine on the host at
least, times the square root of the number of cores, so that each core has the same number of tiles."""
_PARTS = 4
"""The larger sample is at most this part of all rows, and so many times as large as the smaller one."""


class PhaseTime(NamedTuple):
    """Time of a phase.

    Attributes
    ----------
    seconds : float
        Wall-clock seconds.
    work : float
        Processor seconds of all threads (on a device, wall-clock seconds).
    work_of_part : float or None
        The same for the smaller sample; None if the work grows with the number of rows.
    """

    seconds: float
    work: float
    work_of_part: float | None = None

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
        Shape of the larger sample; no row if it was too small to be fitted.
    n_part : int
        Rows of the smaller sample.
    measured : dict of str to PhaseTime
        Times by phase.
    start : float
        Additional seconds of the first fit of a process, for loading compiled code and libraries.
    """

    placement: Placement
    n_rows: int
    n_features: int
    n_part: int
    measured: dict[str, PhaseTime]
    start: float

    def predict(self, n_rows: int) -> float:
        """Predict the seconds of a process's first fit, of `n_rows` rows like these, on an idle machine."""
        work = self.predict_work(n_rows)
        return self.start + sum(work[phase] / measured.cores for phase, measured in self.measured.items())

    def predict_work(self, n_rows: int) -> dict[str, float]:
        """Predict the processor seconds of each phase (on a device, seconds) for `n_rows` rows."""
        growth = n_rows / max(1, self.n_rows)
        return {
            phase: time.work * growth
            if time.work_of_part is None
            else extrapolate(time.work, time.work_of_part, self.n_part / self.n_rows, growth)
            for phase, time in self.measured.items()
        }


def rows_to_measure(placement: Placement, n_rows: int) -> int:
    """Return the number of rows to measure for a fit of `n_rows`."""
    if placement.on_device:
        return min(n_rows, _MOST_ROWS)
    if placement.backend.name in backends.ON_HOST:
        return min(n_rows, _MATRIX_ROWS)
    least = round(_ROWS_OF_A_CORE * math.sqrt(available_cores()))
    return min(n_rows, _MOST_ROWS, max(least, n_rows // _PARTS))


def measure(
    vectors: Float32Array,
    parameters: ClusteringParameters,
    placement: Placement,
    *,
    start: float | None = None,
    progress: Progress,
) -> Costs:
    """Measure fits of a sample of rows and of its first quarter, with the parameters of the fit of all rows.

    Parameters
    ----------
    vectors : (n, d) float32
        Sample of the rows, run after run, so that a part of it has rows as near to each other as all have;
        not modified.
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
        return Costs(placement, 0, d, 0, {}, start or 0.0)
    part = vectors[: max(2, n // _PARTS)]
    progress.phase(f"measure a fit of {n:,} rows", float(n))
    first = _time_fit(part, parameters, placement) if start is None else {}
    of_part = _time_fit(part, parameters, placement)
    measured = _time_fit(vectors, parameters, placement)
    progress.advance(float(n))
    if start is None:
        start = max(
            0.0, sum(time.work for time in first.values()) - sum(time.work for time in of_part.values())
        )
    for phase in measured.keys() - phases.LINEAR:
        # Rows of a part that are all copies have no pairs.
        work_of_part = of_part.get(phase, PhaseTime(0.0, 0.0)).work
        measured[phase] = measured[phase]._replace(work_of_part=work_of_part)
    return Costs(placement, n, d, len(part), measured, start)


def extrapolate(work: float, work_of_part: float, part: float, growth: float) -> float:
    """Return the work of more rows, from that of some rows and of a part of them.

    The geometric mean of two laws through both points: a · n + b · n², and n to a power from 1 to 2. Work
    that is no such sum counts as the nearest one. The passes over 131,072 and 200,000 rows like captions took
    0.9 to 1.1 times as long as this mean, from 4,096 and 16,384 rows as from 16,384 and 65,536; the sum alone
    was 1.1 to 1.4 times too long, the power as much too short.

    Parameters
    ----------
    work, work_of_part : float
        Seconds with all measured rows, and with a part of them.
    part : float
        Share of the measured rows that the part has, above 0; at 1 the work is taken to grow with the square.
    growth : float
        How many times as many rows as were measured there are.

    Returns
    -------
    float
        Seconds.
    """
    ratio = min(part, max(part**2, work_of_part / work)) if work else part
    if part == 1:
        return work * growth**2
    square_share = (part - ratio) / (part - part**2)
    power = math.log(ratio) / math.log(part)
    return work * math.sqrt(growth * (1 + square_share * (growth - 1)) * growth**power)


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
