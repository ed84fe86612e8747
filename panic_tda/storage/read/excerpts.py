"""A few thousand rows of a model that are like all of them: whole runs, or long pieces of them.

What a clustering costs depends on how near the nearest rows are, and these stand in the same run; of rows
that are drawn one by one, hardly any is there. Of 100,000 rows of 768 dimensions, 16,000 drawn like that let
expect 2.4 times what the neighbour pass took and half of what the verify pass took; as many in whole runs,
0.9 and 0.7 times.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.arrays.rows import slices, usable
from panic_tda.storage.bulk import stream_rows
from panic_tda.storage.database import Database
from panic_tda.storage.read.census import ModelCensus
from panic_tda.storage.schema.sampling import holds, sample
from panic_tda.storage.schema.tables import Embedding, Invocation, Run

if TYPE_CHECKING:
    from panic_tda.types import Float32Array, IntArray

FEWEST_RUNS = 16
"""Of longer runs only pieces are read, so that there are so many of them."""
_BATCH_ROWS = 500
_SEED = 0

_embedding = Embedding.__table__
_invocation = Invocation.__table__


@dataclass(frozen=True)
class Excerpt:
    """Rows of some runs, as a sampling factor chooses them.

    Attributes
    ----------
    vectors : (n, d) float32
        As stored; finite and not zero. Rows of one run stand together, in the order of its outputs, and the
        runs in a random one.
    n_runs : int
        Runs that they are of.
    seconds : float
        What reading the vectors took, without finding them.
    """

    vectors: Float32Array
    n_runs: int
    seconds: float


class _Found(NamedTuple):
    """Where rows of some runs are.

    Attributes
    ----------
    places : list
        What finds each row: its number in the file, or its id where rows have none.
    runs : (n,) int64
        Number of the run of each.
    indexes : (n,) int64
        Its output index.
    """

    places: list[Any]
    runs: IntArray
    indexes: IntArray


def read_excerpt(database: Database, census: ModelCensus, *, downsample: int, n_rows: int) -> Excerpt:
    """Read about `n_rows` rows of a model, of runs that are chosen at random.

    Parameters
    ----------
    database : Database
        Read in one short transaction; the indexes are walked through once or twice, no row but the chosen
        ones is read.
    census : ModelCensus
        Of this model and factor.
    downsample : int
        Sampling factor: the rows of a run are `downsample` outputs apart.
    n_rows : int
        Rows wanted, at most; where there are no more, all of them are read.

    Returns
    -------
    Excerpt
        The same rows for the same database and factor.
    """
    rng = np.random.default_rng(_SEED)
    with database.reading() as connection:
        found = _find(connection, census, downsample, n_rows, rng)
        began = time.monotonic()
        vectors, present = _read(connection, found.places, census.width)
        seconds = time.monotonic() - began
    valid = usable(vectors)
    return Excerpt(vectors[valid], len(np.unique(found.runs[present][valid])), seconds)


def _find(
    connection: Connection, census: ModelCensus, downsample: int, n_rows: int, rng: np.random.Generator
) -> _Found:
    runs = connection.execute(sa.select(sa.type_coerce(Run.id, sa.String)).order_by(Run.id)).scalars().all()
    runs = [runs[number] for number in rng.permutation(len(runs))]
    n_chosen = len(runs)
    if census.n_sampled > n_rows and runs:
        of_one = max(1, min(n_rows // FEWEST_RUNS, census.n_sampled // len(runs)))
        n_chosen = min(n_chosen, math.ceil(n_rows / of_one))
    while True:
        found = _look_up(connection, census, downsample, runs[:n_chosen])
        # Where the model embeds few runs in all, their pieces are longer.
        n_pieces = len(np.unique(found.runs)) if n_chosen == len(runs) else FEWEST_RUNS
        longest = max(1, n_rows // max(1, min(FEWEST_RUNS, n_pieces)))
        cut = _cut(found, n_rows if census.n_sampled <= n_rows else longest, n_rows, rng)
        if 2 * len(cut.places) >= min(n_rows, census.n_sampled) or n_chosen == len(runs):
            return cut
        n_chosen = min(len(runs), n_chosen * max(2, n_rows // max(1, len(cut.places))))


def _look_up(connection: Connection, census: ModelCensus, downsample: int, runs: list[str]) -> _Found:
    """Find all sampled rows of these runs."""
    # The rule of a factor above 1 asks nothing that is not in an index; of factor 1, every output is one.
    rule = sample(max(2, downsample))
    run = sa.type_coerce(_invocation.c.run_id, sa.String)
    query = (
        sa.select(_place(connection), run, rule.output_index)
        .select_from(rule.source)
        .where(
            _embedding.c.embedding_model == census.model,
            sa.func.length(_embedding.c.vector) == census.width,
            rule.chosen_at(downsample),
            holds(run.in_(runs)),
        )
    )
    numbers = {name: number for number, name in enumerate(runs)}
    found = [row for batch in stream_rows(connection, query, batch_rows=_BATCH_ROWS) for row in batch]
    return _Found(
        places=[place for place, _, _ in found],
        runs=np.array([numbers[name] for _, name, _ in found], dtype=np.int64),
        indexes=np.array([index for _, _, index in found], dtype=np.int64),
    )


def _cut(found: _Found, longest: int, n_rows: int, rng: np.random.Generator) -> _Found:
    """Keep of each run a piece that is not too long, and of all no more than are wanted."""
    order = np.lexsort((found.indexes, found.runs))
    _, first, counts = np.unique(found.runs[order], return_index=True, return_counts=True)
    first = first + rng.integers(0, np.maximum(1, counts - longest + 1))
    of_piece = np.arange(len(order)) - np.repeat(first, counts)
    kept = order[(of_piece >= 0) & (of_piece < longest)][:n_rows]
    return _Found([found.places[number] for number in kept], found.runs[kept], found.indexes[kept])


def _read(connection: Connection, places: list[Any], width: int) -> tuple[Float32Array, IntArray]:
    """Return the vectors at some places, in their order, and which of the places they are of."""
    number, column = {place: at for at, place in enumerate(places)}, _place(connection)
    found: list[tuple[Any, bytes]] = []
    # In the order of the file, which is the fast one.
    in_order = sorted(number)
    for some in slices(len(in_order), _BATCH_ROWS):
        query = sa.select(column, _embedding.c.vector).where(column.in_(in_order[some]))
        for batch in stream_rows(connection, query, batch_rows=_BATCH_ROWS):
            # SQLite has a length of a text, too.
            found += [(place, vector) for place, vector in batch if isinstance(vector, bytes)]
    at = np.array([number[place] for place, _ in found], dtype=np.int64)
    matrix = np.frombuffer(b"".join(vector for _, vector in found), dtype="<f4")
    matrix = matrix.reshape(len(found), width // 4)
    order = np.argsort(at)
    return matrix[order], at[order]


def _place(connection: Connection) -> sa.ColumnElement[Any]:
    if connection.dialect.name == "sqlite":
        return sa.literal_column("embedding.rowid", sa.Integer)
    return sa.type_coerce(_embedding.c.id, sa.String)
