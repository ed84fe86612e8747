"""Read the predicted assignments of clusterings, and find the embeddings that a clustering does not hold.

Predicted assignments are those of embeddings that were added after the fit. They have a table of their own,
so that the rows of a fit, and everything that is computed from these, stay as they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.progress import Progress
from panic_tda.storage import cells
from panic_tda.storage.bulk import ID_LENGTH, stream_columns
from panic_tda.storage.columns import are_ids
from panic_tda.storage.read.assignments import Assignments, count_assignments, read_assignments
from panic_tda.storage.read.census import FLOAT_BYTES, show_id
from panic_tda.storage.read.summaries import ClusteringSummary
from panic_tda.storage.schema.sampling import sample
from panic_tda.storage.schema.tables import EMBEDDING_PREDICTION, ClusteringResult, Embedding
from panic_tda.types import BytesArray, Float32Array, IntArray

_ROWS = 2_000
_embedding = Embedding.__table__
_prediction = EMBEDDING_PREDICTION


@dataclass(frozen=True)
class UnassignedRows:
    """The embeddings of a model that a clustering does not hold.

    Attributes
    ----------
    locators : (m,) int64 or S32
        Their row locators (see `cells.row_locator`), ascending: the order of the file on SQLite.
    n_invalid : int
        Number of further ones whose vector is missing or of another length than the clustering's vectors.
    first_invalid : locator or None
        Locator of the first of these.
    """

    locators: IntArray | BytesArray
    n_invalid: int
    first_invalid: Any = None


@dataclass(frozen=True)
class NewRows:
    """Embeddings with their vectors.

    Attributes
    ----------
    ids : (m,) S32
        Embedding ids.
    vectors : (m, d) float32
        Their vectors, as stored.
    invalid_ids : tuple of str
        Ids, for messages, of further embeddings whose id is not 32 lower-case hexadecimal digits.
    """

    ids: BytesArray
    vectors: Float32Array
    invalid_ids: tuple[str, ...] = ()


def has_predictions(connection: Connection) -> bool:
    """Return whether the database has the table of predicted assignments."""
    return bool(sa.inspect(connection).has_table(_prediction.name))


def read_predictions(
    connection: Connection, clustering_id: UUID, *, progress: Progress | None = None
) -> Assignments:
    """Read the predicted assignments of a clustering, with locators; see `read_assignments`."""
    if not has_predictions(connection):
        empty = np.empty(0, dtype=f"S{ID_LENGTH}")
        is_sqlite = connection.dialect.name == "sqlite"
        locators = np.empty(0, dtype=np.int64) if is_sqlite else empty
        return Assignments(empty, np.empty(0, dtype=np.int64), np.empty(0), locators)
    return read_assignments(
        connection, clustering_id, with_locators=True, progress=progress, table=_prediction
    )


def count_predictions(connection: Connection, clustering_id: UUID) -> int:
    """Count the predicted assignments of a clustering."""
    if not has_predictions(connection):
        return 0
    return count_assignments(connection, clustering_id, table=_prediction)


def count_all_predictions(connection: Connection) -> dict[UUID, int]:
    """Count the predicted assignments of each clustering that has some and can be read, by its id."""
    if not has_predictions(connection):
        return {}
    query = (
        sa.select(ClusteringResult.id, sa.func.count())
        .join(_prediction, _prediction.c.result_key == ClusteringResult.key)
        .group_by(ClusteringResult.id)
    )
    # A damaged id of one clustering must not hide the others.
    return {values[0]: values[1] for values, _, _ in cells.read_each(connection, query) if values is not None}


def find_unassigned(
    connection: Connection,
    clustering: ClusteringSummary,
    assigned: Sequence[Assignments],
    *,
    width: int,
    downsample: int = 1,
) -> UnassignedRows:
    """Find the embeddings of the clustering's model that have no assignment.

    Parameters
    ----------
    connection : Connection
        From `Database.reading`.
    clustering : ClusteringSummary
        A stored clustering.
    assigned : sequence of Assignments
        Its assignments, those of the fit and the predicted ones, with locators.
    width : int
        Number of bytes of a vector of the clustering.
    downsample : int
        Sampling factor; 1 finds every embedding whose invocation is stored.

    Notes
    -----
    Only indexes are read on SQLite. PostgreSQL stores vectors outside the rows.
    """
    length = sa.func.length(_embedding.c.vector)
    known: Any = np.concatenate([rows.locators for rows in assigned])

    def find_new(condition: sa.ColumnElement[bool]) -> Any:
        locators = _read_locators(connection, clustering.embedding_model, downsample, condition)
        return np.sort(locators[~np.isin(locators, known)])

    # One range of the index for each condition: SQLite before 3.41 reads the vectors to return their lengths.
    invalid = np.concatenate([find_new(part) for part in (length.is_(None), length < width, length > width)])
    return UnassignedRows(find_new(length == width), len(invalid), invalid[0] if len(invalid) else None)


def _read_locators(
    connection: Connection, model: str, downsample: int, condition: sa.ColumnElement[bool]
) -> Any:
    """Return the locators of the sampled embeddings of a model for which a condition holds."""
    chosen = sample(downsample)
    query = (
        sa.select(cells.row_locator(connection, _embedding))
        .select_from(chosen.source)
        .where(_embedding.c.embedding_model == model, chosen.chosen, condition)
    )
    convert = cells.convert_integers if connection.dialect.name == "sqlite" else _convert_ids
    parts: list[Any] = [convert(())]
    for (batch,) in stream_columns(connection, query, batch_rows=_ROWS, convert=(convert,)):
        parts.append(batch)
    return np.concatenate(parts)


def read_new_rows(
    connection: Connection, clustering: ClusteringSummary, locators: IntArray | BytesArray, *, width: int
) -> NewRows:
    """Read ids and vectors of embeddings by locator; rows that were deleted or changed since are left out."""
    at = cells.row_locator(connection, _embedding)
    # Read as bytes, because values of another length need not be vectors.
    stored = sa.type_coerce(_embedding.c.vector, sa.LargeBinary)
    keys = [value.decode() if isinstance(value, bytes) else value for value in locators.tolist()]
    query = sa.select(sa.type_coerce(_embedding.c.id, sa.String), stored).where(
        at.in_(keys), _embedding.c.embedding_model == clustering.embedding_model
    )
    rows = [
        (identity, bytes(vector))
        for identity, vector in connection.execute(query)
        if isinstance(vector, (bytes, memoryview)) and len(vector) == width
    ]
    invalid_ids = tuple(show_id(identity) for identity, _ in rows if not are_ids((identity,)))
    rows = [(identity, vector) for identity, vector in rows if are_ids((identity,))]
    ids = np.array([identity for identity, _ in rows], dtype=f"S{ID_LENGTH}")
    vectors = np.frombuffer(b"".join(vector for _, vector in rows), dtype="<f4")
    return NewRows(ids, vectors.reshape(len(rows), width // FLOAT_BYTES).copy(), invalid_ids)


def read_shown_id(connection: Connection, locator: Any) -> str:
    """Return the id of the embedding with this locator, for a message."""
    at = cells.row_locator(connection, _embedding)
    key = locator.decode() if isinstance(locator, bytes) else int(locator)
    query = sa.select(sa.type_coerce(_embedding.c.id, sa.String)).where(at == key)
    return show_id(connection.execute(query).scalar())


def _convert_ids(values: Sequence[Any]) -> BytesArray:
    return np.array(values, dtype=f"S{ID_LENGTH}")
