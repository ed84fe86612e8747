"""Read a representative sample of a model's rows: whole runs, or long pieces of runs.

The time of a clustering depends on the distances between nearest neighbours, which are mostly in the same
run. A sample of single rows has hardly any of them. For 100,000 rows of 768 dimensions, a sample of 16,000
single rows predicted 2.4 times the time of the neighbour pass and 0.5 times that of the verify pass; a sample
of 16,000 rows in whole runs predicted 0.9 and 0.7 times.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.arrays.rows import has_direction
from panic_tda.storage import cells
from panic_tda.storage.bulk import stream_rows
from panic_tda.storage.cells import convert_integers, naming_damage, row_locator
from panic_tda.storage.database import Database
from panic_tda.storage.read.census import FLOAT_BYTES, ModelCensus
from panic_tda.storage.read.vectors_by_id import read_vectors_at
from panic_tda.storage.schema.sampling import keep_join_order, sample
from panic_tda.storage.schema.tables import Embedding, Invocation, Run
from panic_tda.types import Float32Array, IntArray

FEWEST_RUNS = 16
"""Smallest number of runs in a sample; pieces of long runs are read to reach it."""
_BATCH_ROWS = 500
_SEED = 0

_embedding = Embedding.__table__
_invocation = Invocation.__table__


@dataclass(frozen=True)
class RowSample:
    """A sample of rows of several runs.

    Attributes
    ----------
    vectors : (n, d) float32
        Stored vectors, finite and not zero. Rows of one run are consecutive, in the order of its outputs; the
        order of runs is random.
    n_runs : int
        Number of runs in the sample.
    seconds : float
        Time for reading the vectors, in seconds, without finding their rows.
    """

    vectors: Float32Array
    n_runs: int
    seconds: float


class _SampleRows(NamedTuple):
    """The locations of sampled rows.

    Attributes
    ----------
    locators : list
        Locator of each row; see `cells.row_locator`.
    runs : (n,) int64
        Number of the run of each row.
    indexes : (n,) int64
        Output index of each row.
    """

    locators: list[Any]
    runs: IntArray
    indexes: IntArray


def read_row_sample(database: Database, census: ModelCensus, *, downsample: int, n_rows: int) -> RowSample:
    """Read about `n_rows` rows of a model from randomly chosen runs.

    Parameters
    ----------
    database : Database
        Read in one short transaction: the indexes once or twice, and the rows of the sample only.
    census : ModelCensus
        Census of the model for this factor.
    downsample : int
        Sampling factor: the rows of a run are `downsample` outputs apart.
    n_rows : int
        Largest number of rows; if the model has no more rows, all are read.

    Returns
    -------
    RowSample
        The sample; it is the same for the same database and factor.
    """
    rng = np.random.default_rng(_SEED)
    with database.reading() as connection:
        sampled_rows = _find_rows(connection, census, downsample, n_rows, rng)
        began = time.monotonic()
        vectors = read_vectors_at(connection, sampled_rows.locators, dimensions=census.width // FLOAT_BYTES)
        seconds = time.monotonic() - began
    valid = has_direction(vectors)
    return RowSample(vectors[valid], len(np.unique(sampled_rows.runs[valid])), seconds)


def _find_rows(
    connection: Connection, census: ModelCensus, downsample: int, n_rows: int, rng: np.random.Generator
) -> _SampleRows:
    stored = cells.read_stored_values(connection, sa.select(Run.id).order_by(Run.id))
    # No invocation belongs to a run whose id is not text.
    ids = [identity for identity in stored if isinstance(identity, str)]
    runs = [ids[number] for number in rng.permutation(len(ids))]
    n_chosen = len(runs)
    if census.n_sampled > n_rows and runs:
        rows_per_run = max(1, min(n_rows // FEWEST_RUNS, census.n_sampled // len(runs)))
        n_chosen = min(n_chosen, math.ceil(n_rows / rows_per_run))
    while True:
        candidate_rows = _look_up(connection, census, downsample, runs[:n_chosen])
        # If the model has embeddings of few runs only, the pieces are longer.
        n_pieces = len(np.unique(candidate_rows.runs)) if n_chosen == len(runs) else FEWEST_RUNS
        longest = max(1, n_rows // max(1, min(FEWEST_RUNS, n_pieces)))
        cut = _cut_pieces(candidate_rows, n_rows if census.n_sampled <= n_rows else longest, n_rows, rng)
        if 2 * len(cut.locators) >= min(n_rows, census.n_sampled) or n_chosen == len(runs):
            return cut
        n_chosen = min(len(runs), n_chosen * max(2, n_rows // max(1, len(cut.locators))))


def _look_up(connection: Connection, census: ModelCensus, downsample: int, runs: list[str]) -> _SampleRows:
    """Find all sampled rows of these runs."""
    # The rule for a factor above 1 reads indexes only. For factor 1, `chosen_at` chooses every output.
    rule = sample(max(2, downsample))
    run = sa.type_coerce(_invocation.c.run_id, sa.String)
    query = (
        sa.select(row_locator(connection, _embedding), run, rule.output_index)
        .select_from(rule.source)
        .where(
            _embedding.c.embedding_model == census.model,
            sa.func.length(_embedding.c.vector) == census.width,
            rule.chosen_at(downsample),
            keep_join_order(run.in_(runs)),
        )
    )
    numbers = {name: number for number, name in enumerate(runs)}
    rows = [row for batch in stream_rows(connection, query, batch_rows=_BATCH_ROWS) for row in batch]
    with naming_damage(connection, query):
        indexes = convert_integers([index for _, _, index in rows])
    return _SampleRows(
        locators=[locator for locator, _, _ in rows],
        runs=np.array([numbers[name] for _, name, _ in rows], dtype=np.int64),
        indexes=indexes,
    )


def _cut_pieces(
    candidate_rows: _SampleRows, longest: int, n_rows: int, rng: np.random.Generator
) -> _SampleRows:
    """Cut a piece of at most `longest` rows from each run, and return at most `n_rows` rows in all."""
    order = np.lexsort((candidate_rows.indexes, candidate_rows.runs))
    _, first, counts = np.unique(candidate_rows.runs[order], return_index=True, return_counts=True)
    first = first + rng.integers(0, np.maximum(1, counts - longest + 1))
    of_piece = np.arange(len(order)) - np.repeat(first, counts)
    selected = order[(of_piece >= 0) & (of_piece < longest)][:n_rows]
    return _SampleRows(
        [candidate_rows.locators[number] for number in selected],
        candidate_rows.runs[selected],
        candidate_rows.indexes[selected],
    )
