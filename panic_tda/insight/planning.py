"""Estimate rows, memory and time of clusterings on this machine, by model and sampling factor.

Nothing is written. Rows are counted in the indexes. Memory is estimated from the number of rows, and time
from a fit of some thousand rows of each model and factor (`costs`). These are rows of whole runs, because the
time of a fit depends on the distances of nearest neighbours (`storage.read.row_samples`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from panic_tda.arrays import device
from panic_tda.clustering import backends
from panic_tda.clustering.placement import Placement, choose_placement
from panic_tda.devices import cuda
from panic_tda.devices.machine import busy_cores
from panic_tda.errors import PanicTdaError, release_frames
from panic_tda.insight.costs import measure, rows_to_measure
from panic_tda.insight.memory import memory_by_backend
from panic_tda.insight.plans import (
    FEWEST_ROWS,
    Calibration,
    FactorPlan,
    ModelPlan,
    Plan,
    Seconds,
    factor_between,
    smallest_within,
)
from panic_tda.parameters import KEEP_NEIGHBOURS, ClusteringParameters, validate_downsample
from panic_tda.progress import Prefixed, Progress, Silent
from panic_tda.storage.database import Database, open_current
from panic_tda.storage.read.census import (
    FLOAT_BYTES,
    ModelCensus,
    choose_models,
    list_models,
    take_censuses,
)
from panic_tda.storage.read.row_samples import read_row_sample
from panic_tda.wording import pluralize

DOWNSAMPLES = (1, 10, 100, 1_000)
"""Default sampling factors."""
SAVED_ROWS_PER_SECOND, SAVED_BY_A_SERVER = 250_000, 40_000
"""Assignments with their tree that are saved per second, into an SQLite file and into PostgreSQL."""
_REFINEMENTS = 3
"""Number of factors between the default ones that are tried to find the smallest that ends in time."""


def plan_clustering(
    database: Database | str | Path,
    models: Sequence[str] = (),
    *,
    parameters: ClusteringParameters | None = None,
    downsamples: Sequence[int] = (),
    within: float | None = None,
    devices: tuple[int, ...] | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Estimate rows, memory and time of clusterings of models on this machine when it is idle.

    Parameters
    ----------
    database : Database, str or Path
        A database with tables of this version; read only.
    models : sequence of str
        Embedding models; none means all.
    parameters : ClusteringParameters, optional
        Parameters of the clusterings; default values if not given.
    downsamples : sequence of int
        Sampling factors; none means `DOWNSAMPLES` and, with `within`, factors between them.
    within : float, optional
        Seconds within which the clusterings must end.
    devices : tuple of int, optional
        As `Resources.devices`; the first device that this process sees is measured.
    progress : Progress, optional
        Receives the phases.

    Raises
    ------
    UnknownModel, NoEmbeddings, NeedsUpgrade, DatabaseError, InvalidParameter, UnsupportedOnBackend
        Before anything was measured.
    """
    began, busy = time.monotonic(), busy_cores()
    factors = sorted({validate_downsample(factor) for factor in downsamples}) or list(DOWNSAMPLES)
    parameters = parameters or ClusteringParameters()
    database = open_current(database)
    with cuda.cuda_disabled() if devices == () else contextlib.nullcontext():
        backends.require_available(parameters)
        n_lanes = max(1, 0 if parameters.backend in backends.ON_HOST else len(cuda.choose(devices)))
        with database.reading() as connection:
            present = list_models(connection)
        planner = _Planner(database, parameters, progress or Silent())
        plans = [planner.plan(model, factors) for model in choose_models(database, models, present)]
        totals = _sum_up_totals(plans, n_lanes)
        for _ in range(_REFINEMENTS if within is not None and not downsamples else 0):
            factor = factor_between(totals, within or 0.0)
            if factor is None:
                break
            plans = [planner.extend(model, factor) for model in plans]
            totals = _sum_up_totals(plans, n_lanes)
    return Plan(
        models=tuple(
            replace(model, smallest_factor_within=smallest_within(model.seconds, within)) for model in plans
        ),
        within_seconds=within,
        smallest_factor_within=smallest_within(totals, within),
        totals=totals,
        start_seconds=max(planner.starts.values(), default=0.0),
        busy_cores=busy,
        seconds=time.monotonic() - began,
    )


def _sum_up_totals(models: Sequence[ModelPlan], n_lanes: int) -> dict[int, float | None]:
    totals: dict[int, float | None] = {}
    for plans in zip(*(model.plans for model in models), strict=True):
        each = [plan.usable_seconds for plan in plans]
        known = [seconds for seconds in each if seconds is not None]
        # The total is at least the time of the longest model, and of all models divided evenly.
        total = max(max(known, default=0.0), sum(known) / n_lanes)
        totals[plans[0].downsample] = None if len(known) < len(each) else total
    return totals


class _Planner:
    """Planner of one model after another; start times are measured once per backend.

    Attributes
    ----------
    starts : dict of str to float
        Additional seconds of the first fit of a process, by backend.
    """

    def __init__(self, database: Database, parameters: ClusteringParameters, progress: Progress) -> None:
        self._database, self._parameters, self._progress = database, parameters, progress
        self._folder = database.work_root.resolve().parent
        self.starts: dict[str, float] = {}

    def plan(self, model: str, factors: Sequence[int]) -> ModelPlan:
        """Plan one model."""
        progress = Prefixed(self._progress, f"{model}: ")
        progress.phase("count embeddings")
        began = time.monotonic()
        censuses = take_censuses(self._database, model, factors)
        counting = time.monotonic() - began
        largest = max(censuses.values(), key=lambda census: census.n_usable)
        plans = [self._plan_factor(census, factor, counting, progress) for factor, census in censuses.items()]
        return ModelPlan(
            embedding_model=model,
            n_total=largest.n_total,
            dimensions=largest.width // FLOAT_BYTES,
            longest_run=largest.longest,
            calibration=Calibration(
                n_rows=sum(plan.measured_rows for plan in plans),
                counting_seconds=counting,
                seconds=time.monotonic() - began,
            ),
            plans=tuple(plans),
            notes=tuple(_write_notes(censuses)),
        )

    def extend(self, model: ModelPlan, factor: int) -> ModelPlan:
        """Plan one more factor of a model."""
        further = self.plan(model.embedding_model, [factor])
        plans = sorted((*model.plans, *further.plans), key=lambda plan: plan.downsample)
        calibration = replace(
            model.calibration,
            n_rows=model.calibration.n_rows + further.calibration.n_rows,
            seconds=model.calibration.seconds + further.calibration.seconds,
        )
        return replace(model, calibration=calibration, plans=tuple(plans))

    def _plan_factor(
        self, census: ModelCensus, factor: int, counting: float, progress: Progress
    ) -> FactorPlan:
        shape = census.n_usable, census.width // FLOAT_BYTES
        plan = FactorPlan(downsample=factor, n_rows=census.n_usable)
        if census.n_usable < FEWEST_ROWS:
            return replace(plan, reason=f"at least {FEWEST_ROWS} {pluralize(FEWEST_ROWS, 'row')} are needed")
        plan = replace(plan, memory=memory_by_backend(self._parameters, *shape, folder=self._folder))
        try:
            placement = choose_placement(self._parameters, *shape, keep_neighbours=KEEP_NEIGHBOURS)
            name = placement.backend.name
            with (
                device.translate_out_of_memory(*shape, name)
                if placement.on_device
                else contextlib.nullcontext()
            ):
                plan = self._measure_factor(plan, census, placement, counting=counting, progress=progress)
        except PanicTdaError as error:
            release_frames(error)
            return replace(plan, reason=str(error))
        finally:
            device.free_device_memory()
        return replace(plan, reason=plan.reason or plan.memory[name].reason)

    def _measure_factor(
        self,
        plan: FactorPlan,
        census: ModelCensus,
        placement: Placement,
        *,
        counting: float,
        progress: Progress,
    ) -> FactorPlan:
        name, factor = placement.backend.name, plan.downsample
        progress.phase(f"read rows at factor {factor:,}")
        wanted = rows_to_measure(placement, census.n_usable)
        excerpt = read_row_sample(self._database, census, downsample=factor, n_rows=wanted)
        if not len(excerpt.vectors):
            return replace(plan, reason="all rows that were read are zero vectors")
        costs = measure(
            excerpt.vectors,
            replace(self._parameters, min_samples=self._parameters.resolve(census.n_usable).min_samples),
            placement,
            start=self.starts.get(name),
            progress=progress,
        )
        self.starts[name] = costs.start
        read = excerpt.seconds / max(1, len(excerpt.vectors))
        looked_up = factor > 1 or census.n_orphans
        return replace(
            plan,
            backend=name,
            measured_rows=len(excerpt.vectors),
            measured_runs=excerpt.n_runs,
            seconds=Seconds(
                load=census.n_usable * read + (2 * counting if looked_up else 0.0),
                fit=costs.predict(census.n_usable),
                save=census.n_usable / (SAVED_ROWS_PER_SECOND if self._database.path else SAVED_BY_A_SERVER),
            ),
        )


def _write_notes(censuses: Mapping[int, ModelCensus]) -> list[str]:
    notes = []
    beyond = [factor for factor, census in censuses.items() if factor > 1 and census.longest <= factor]
    if beyond:
        longest = censuses[beyond[0]].longest
        notes.append(
            f"factors from {longest:,} on keep only the first outputs: the longest run has {longest:,}"
        )
    census = censuses[min(censuses)]
    n_invalid = census.n_sampled - census.n_usable
    if n_invalid:
        notes.append(
            f"{n_invalid:,} of {census.n_sampled:,} "
            f"{pluralize(census.n_sampled, 'vector')} are missing or not of the common length: without "
            "--skip-invalid the model fails"
        )
    return notes
