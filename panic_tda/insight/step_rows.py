"""Stream the steps of runs as rows, with their states and drifts."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from functools import partial

import numpy as np
import pyarrow as pa

from panic_tda.arrays.rows import slices
from panic_tda.insight.milestones import FLAGS, Trajectories, find_states
from panic_tda.progress import Progress
from panic_tda.storage.database import Database
from panic_tda.storage.read.clusterings import open_clustering
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.storage.read.row_streams import RowStream, describe, with_dashes
from panic_tda.storage.read.vectors_by_id import read_vectors
from panic_tda.types import BoolArray, BytesArray, Float32Array, FloatArray, IntArray

BATCH_ROWS = 2048
COLUMNS = pa.schema(
    [
        ("run_id", pa.string()),
        ("step", pa.int64()),
        ("sequence_number", pa.int64()),
        ("label", pa.int64()),
        ("state", pa.int64()),
        ("flag", pa.string()),
        ("visit", pa.int64()),
        ("predicted", pa.bool_()),
    ]
)
DRIFT = (pa.field("drift", pa.float64()), pa.field("stride", pa.float64()))


class Course:
    """Measurement of drift and stride along runs, in batches of consecutive steps.

    Distances are chords between vectors scaled to unit length.
    """

    def __init__(self, dimensions: int) -> None:
        self._first = self._previous = np.full(dimensions, np.nan)

    def measure(self, vectors: Float32Array, positions: IntArray) -> tuple[FloatArray, FloatArray]:
        """Measure the next batch of steps.

        Parameters
        ----------
        vectors : (n, d) float32
            Vectors of the steps that follow the previous batch.
        positions : (n,) int64
            Number of steps of the same run before each step; 0 at the beginning of a run.

        Returns
        -------
        drift, stride : (n,) float64
            Distance of each step to the first step of its run, and to the step before. NaN for zero vectors,
            and for the stride of a first step.
        """
        with np.errstate(invalid="ignore"):
            wide = vectors.astype(np.float64)
            units = wide / np.linalg.norm(wide, axis=1, keepdims=True)
            # The run at the beginning of the batch may have its first step in an earlier batch.
            known = np.concatenate([self._first[None], units])
            firsts = known[np.maximum(0, np.arange(len(units)) - positions + 1)]
            before = np.concatenate([self._previous[None], units[:-1]])
            drift = np.linalg.norm(units - firsts, axis=1)
            stride = np.linalg.norm(units - before, axis=1)
        stride[positions == 0] = np.nan
        self._first, self._previous = firsts[-1], units[-1]
        return drift, stride


@contextmanager
def open_steps(
    database: Database,
    clustering: ClusteringSummary,
    *,
    core_probability: float = 0.0,
    with_drift: bool = False,
    progress: Progress | None = None,
) -> Iterator[RowStream]:
    """Read the steps of all runs in a clustering, and yield them as rows, by run and step.

    Parameters
    ----------
    database : Database
        Database of the clustering. It is read in one transaction, which lasts until the end of the block.
    clustering : ClusteringSummary
        A stored clustering.
    core_probability : float
        Members of a cluster with at least this membership probability are its core; at 0 all are.
    with_drift : bool
        Whether there are columns `drift` and `stride`: the chords from the step's vector, scaled to unit
        length, to that of the run's first sampled step, and to that of the step before. Each vector is looked
        up once, when its row is gone through.
    progress : Progress, optional
        Told the assignments and steps read; not the rows that are gone through afterwards.

    Yields
    ------
    RowStream
        Columns as `milestones.Trajectories` has them, and `predicted`: whether the cluster is predicted.
        Memory: as `read_steps`, and 48 bytes an assignment for the drift.

    Raises
    ------
    InvalidParameter
        `core_probability` is no probability.
    """
    with open_clustering(database, clustering, progress) as stored:
        steps = find_states(stored.all_steps, core_probability=core_probability)
        are_predicted = stored.mark_predicted(steps)
        schema, measured = COLUMNS, None
        if with_drift:
            schema = pa.schema([*COLUMNS, *DRIFT])
            all_ids = np.concatenate([stored.assignments.ids, stored.predictions.ids])
            ids, dimensions = all_ids[steps.rows], stored.dimensions
            # How many steps of its run come before each.
            positions = np.arange(len(steps.steps)) - steps.offsets[:-1][steps.run_numbers]
            look_up = partial(read_vectors, stored.connection, dimensions=dimensions)
            measured = _measure_drifts(ids, positions, Course(dimensions), look_up)
        schema = schema.with_metadata(describe(clustering, core_probability=core_probability))
        # The batches are closed before the connection that they read from, also after an error in the block.
        with closing(_make_batches(steps, are_predicted, measured, schema)) as batches:
            yield RowStream(schema, len(steps.steps), batches, database.path)


def _make_batches(
    steps: Trajectories,
    are_predicted: BoolArray,
    measured: Iterator[tuple[FloatArray, FloatArray]] | None,
    schema: pa.Schema,
) -> Generator[pa.RecordBatch, None, None]:
    run_ids, numbers = with_dashes(pa.array(steps.run_ids, pa.string())), steps.run_numbers
    flags = pa.array(FLAGS)
    for part in slices(len(numbers), BATCH_ROWS):
        columns = [
            run_ids.take(pa.array(numbers[part])),
            pa.array(steps.steps[part]),
            pa.array(steps.sequence_numbers[part]),
            pa.array(steps.labels[part]),
            pa.array(steps.states[part]),
            flags.take(pa.array(steps.flags[part])),
            pa.array(steps.visits[part]),
            pa.array(are_predicted[part]),
        ]
        if measured is not None:
            columns += [pa.array(column, from_pandas=True) for column in next(measured)]
        yield pa.record_batch(columns, schema=schema)


def _measure_drifts(
    ids: BytesArray, positions: IntArray, course: Course, look_up: Callable[[BytesArray], Float32Array]
) -> Iterator[tuple[FloatArray, FloatArray]]:
    for part in slices(len(ids), BATCH_ROWS):
        yield course.measure(look_up(ids[part]), positions[part])
