"""Predict the time of a fit that Dask workers share, by a closed formula from two timed samples.

    start + (passes + tasks · 25 ms + bytes / (1 GB/s)) / slots + bytes / (slots · 200 MB/s)
    + tasks · 10 ms + client

The passes over all pairs of tiles are shared, with what each task adds: the bytes that it reads and packs,
and thresholds that it learns anew. Everything else is done by the client, the process of the command. Workers
of this machine share its cores (`predict_local`). Samples of random rows like captions are fitted here
without workers (`costs`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from panic_tda.clustering import phases
from panic_tda.clustering.placement import choose_placement
from panic_tda.clustering.tiled import axes, host, neighbours
from panic_tda.clustering.tiled.blocks import divide_tiles
from panic_tda.clustering.tiled.sharing import estimate_task_bytes
from panic_tda.devices import cuda
from panic_tda.devices.machine import available_cores
from panic_tda.insight.costs import Costs, measure, rows_to_measure
from panic_tda.parameters import KEEP_NEIGHBOURS, ClusteringParameters
from panic_tda.progress import Progress, Silent
from panic_tda.types import Float32Array

_WORKER_TASK_SECONDS, _WORKER_BYTES_PER_SECOND = 0.025, 1e9
"""Processor time of a worker for a task, and the bytes that it reads and packs in a second of it.

Measured at 384 dimensions with 1 and 2 workers, in addition to a fit without tasks: 0.6 and 1.3 s for 27,000
rows, 0.4 and 1.2 s for 54,000.
"""
_TASK_SECONDS = 0.01
"""Time of the client and the scheduler for a task."""
_BYTES_PER_SECOND = 200e6
"""Assumed: what each slot reads in a second, such as 16 of a host that reads 3.2 GB/s."""
_ENTRIES, _ENTRY_SECONDS = 1.5, 55e-9
"""Entries of neighbour lists that tasks return, in times of those of the lists, and time for merging one."""
_PAIR_SECONDS = 0.4e-6
"""Time of the client for a pair of tiles in each pass: to schedule, and to group by blocks."""
_FEWEST_ROWS = 1_000
_SAMPLE_NUMBERS = 1 << 26
"""Most numbers of a sample: drawing one takes some 16 bytes for each."""
_PAIR_BYTES = 40
"""Memory of the client for a pair of tiles: the schedule, and sorting it."""
_WORKER_SECONDS = 1.9
"""Processor time of a new worker process for loading libraries and compiled code: 1.1 s until it is
connected, and 0.8 s in its first tasks."""
_RUN_LENGTH, _RUNS_OF_A_CENTRE = 100, 12
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class WorkersPlan:
    """Estimate of a fit that workers share.

    Attributes
    ----------
    n_rows, n_features, slots : int
        Shape of the rows, and tasks that run at the same time.
    measured_rows : int
        Rows of the sample that was timed.
    cpu_seconds : float
        Processor seconds of the client and of all workers.
    seconds : float
        Seconds of the fit, the sum of the following ones.
    start_seconds, pass_seconds, task_seconds, read_seconds, client_seconds : float
        Loading compiled code, passes over all pairs of rows, handling of tasks, reading of rows, and what the
        client does alone.
    n_tasks : int
        Tasks of both passes.
    bytes_read : int
        Bytes that all tasks read.
    file_bytes, task_bytes, client_bytes : int
        Bytes of the files of a pass, of a task in a worker's memory, and of the client's memory.
    local_seconds : float or None
        Seconds if the workers are processes of this machine and share its cores; None if they are not.
    n_devices : int
        CUDA devices of this machine, of which such workers would take one each; 0 if they are others.
    """

    n_rows: int
    n_features: int
    slots: int
    measured_rows: int
    cpu_seconds: float
    seconds: float
    start_seconds: float
    pass_seconds: float
    task_seconds: float
    read_seconds: float
    client_seconds: float
    n_tasks: int
    bytes_read: int
    file_bytes: int
    task_bytes: int
    client_bytes: int
    local_seconds: float | None = None
    n_devices: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the object that `plan-clustering --rows --json` prints, of plain values."""
        return asdict(self)


def plan_workers(
    n_rows: int,
    n_features: int,
    slots: int,
    *,
    are_local: bool = False,
    parameters: ClusteringParameters | None = None,
    progress: Progress | None = None,
) -> WorkersPlan:
    """Estimate the time and the memory of a fit that workers share; a sample is timed.

    Parameters
    ----------
    n_rows, n_features : int
        Shape of the rows.
    slots : int
        Tasks that run at the same time, each on a core of its own like those of this machine.
    are_local : bool
        Whether they may be processes of this machine; their time is then predicted too.
    parameters : ClusteringParameters, optional
        Parameters of the clustering; default values if not given.
    progress : Progress, optional
        Receives the phases.
    """
    costs = measure_sample(n_rows, n_features, parameters=parameters, progress=progress)
    plan = predict(costs, n_rows, slots, parameters=parameters)
    if not are_local:
        return plan
    return replace(plan, local_seconds=predict_local(plan, available_cores()), n_devices=cuda.count())


def predict_local(plan: WorkersPlan, n_cores: int) -> float:
    """Predict the seconds of a fit whose workers are processes of one machine with so many cores.

    The files that they read were written there just before, and are in its memory.
    """
    workers_of_a_core = max(1.0, plan.slots / n_cores)
    return (
        plan.seconds
        - plan.read_seconds
        + (workers_of_a_core - 1) * plan.pass_seconds
        + max(0.0, workers_of_a_core * _WORKER_SECONDS - plan.start_seconds)
    )


def measure_sample(
    n_rows: int,
    n_features: int,
    *,
    parameters: ClusteringParameters | None = None,
    progress: Progress | None = None,
) -> Costs:
    """Time a fit of random rows of this length, no more than `n_rows`."""
    parameters = _choose_engine(parameters, n_rows)
    with cuda.cuda_disabled():
        # This machine need not have room for all rows.
        placement = choose_placement(parameters, _FEWEST_ROWS, n_features, keep_neighbours=KEEP_NEIGHBOURS)
        n_sample = min(rows_to_measure(placement, n_rows), _SAMPLE_NUMBERS // n_features)
        sample = draw_rows(n_sample, n_features)
        return measure(sample, parameters, placement, progress=progress or Silent())


def predict(
    costs: Costs, n_rows: int, slots: int, *, parameters: ClusteringParameters | None = None
) -> WorkersPlan:
    """Predict the fit of `n_rows` rows by workers, from the fit of a sample; see `plan_workers`."""
    d = costs.n_features
    min_samples = max(_choose_engine(parameters, n_rows).min_samples or 1, KEEP_NEIGHBOURS)
    work = costs.predict_work(n_rows)
    n_tiles = -(-n_rows // host.TILE_ROWS)
    blocks = np.diff(divide_tiles(n_tiles, slots))
    passes = sum(seconds for phase, seconds in work.items() if phase in phases.PASSES)
    alone = {phase: seconds for phase, seconds in work.items() if phase not in phases.PASSES}
    entries = n_rows * neighbours.list_length(n_rows, min_samples)
    n_pairs = n_tiles * (n_tiles + 1) // 2
    merging = entries * _ENTRIES * _ENTRY_SECONDS + len(phases.PASSES) * n_pairs * _PAIR_SECONDS
    n_tasks = len(phases.PASSES) * len(blocks) * (len(blocks) + 1) // 2
    n_axes = axes.DEFAULT_N_AXES
    file_bytes = 4 * n_rows * (d + (n_axes + 1 if axes.bound_saves_time(n_axes, d) else 0))
    # Each block is read once for each block, itself included, in each pass.
    bytes_read = len(phases.PASSES) * len(blocks) * file_bytes
    passes += n_tasks * _WORKER_TASK_SECONDS + bytes_read / _WORKER_BYTES_PER_SECOND
    parts = {
        "start_seconds": max(costs.start, _WORKER_SECONDS),
        "pass_seconds": passes / slots,
        "task_seconds": n_tasks * _TASK_SECONDS,
        "read_seconds": bytes_read / (slots * _BYTES_PER_SECOND),
        "client_seconds": merging
        + sum(seconds / costs.measured[phase].cores for phase, seconds in alone.items()),
    }
    options = replace(costs.placement.options, min_samples=min_samples)
    return WorkersPlan(
        n_rows=n_rows,
        n_features=d,
        slots=slots,
        measured_rows=costs.n_rows,
        cpu_seconds=costs.start
        + slots * _WORKER_SECONDS
        + passes
        + n_tasks * _TASK_SECONDS
        + merging
        + sum(alone.values()),
        seconds=sum(parts.values()),
        n_tasks=n_tasks,
        bytes_read=bytes_read,
        file_bytes=file_bytes,
        task_bytes=estimate_task_bytes((n_rows, d), min_samples, slots, host.TILE_ROWS),
        client_bytes=costs.placement.backend.bytes_needed(n_rows, d, options) + n_pairs * _PAIR_BYTES,
        n_devices=0,
        **parts,
    )


def draw_rows(n: int, d: int) -> Float32Array:
    """Draw unit rows run after run, as captions are: a run walks about a centre, and repeats rows.

    A common direction has 28 % of the squared length, centres 48 %, walks 14 %, and what is of single rows
    10 %. The variances of the axes fall like those of captions embedded by MiniLM. One row in seven is a copy
    of the row before. Both passes over 200,000 × 384 took 18.5 s of processor time, and 18.7 s over rows with
    the measured spectrum of captions.

    Returns
    -------
    (n, d) float32
    """
    rng = np.random.default_rng(_SEED)
    spectrum = (1 + np.arange(d, dtype=np.float32) / 10) ** -1
    spectrum /= np.linalg.norm(spectrum)
    n_runs = -(-n // _RUN_LENGTH)

    def draw(*shape: int, variance: float) -> Float32Array:
        numbers: Float32Array = rng.standard_normal((*shape, d), dtype=np.float32)
        numbers *= spectrum * np.float32(variance**0.5)
        return numbers

    centres = draw(max(4, n_runs // _RUNS_OF_A_CENTRE), variance=0.48)
    # Some centres have many runs, most have few.
    rows = draw(n_runs, _RUN_LENGTH, variance=0.10)
    rows += centres[(rng.random(n_runs) ** 2 * len(centres)).astype(np.int64), None]
    rows[..., 0] += 0.28**0.5
    walk = draw(n_runs, variance=0.14)
    for step in range(_RUN_LENGTH):
        rows[:, step] += walk
        walk = 0.9 * walk + draw(n_runs, variance=0.14 * (1 - 0.9**2))
    for step in range(1, _RUN_LENGTH):
        copied = rng.random(n_runs) < 1 / 7
        rows[copied, step] = rows[copied, step - 1]
    rows = rows.reshape(-1, d)[:n]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def _choose_engine(parameters: ClusteringParameters | None, n_rows: int) -> ClusteringParameters:
    """Return the effective parameters with the engine whose work can be shared."""
    parameters = replace(parameters or ClusteringParameters(), backend="tiled")
    return replace(parameters, min_samples=parameters.resolve(n_rows).min_samples)
