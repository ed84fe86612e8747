"""Read the cluster assignments of a stored clustering, and the invocations of its embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.progress import Progress, Silent
from panic_tda.records import ClusteringRecord
from panic_tda.storage import cells
from panic_tda.storage.bulk import ID_LENGTH, stream_columns
from panic_tda.storage.columns import build_damage_error
from panic_tda.storage.schema.tables import ClusteringResult, Embedding, EmbeddingCluster
from panic_tda.types import OUTLIER, BytesArray, FloatArray, IntArray

_ROWS = 2_000
"""Rows per fetch: few enough to stay in the processor's cache until they become arrays (1,610,000 assignments
took 1.3 s, and 1.6 s with 50,000 rows per fetch)."""
_GONE = -1
_SMALL_LABEL = 1 << 16
"""Labels below this need little memory, so they are not checked here; `doctor` checks them."""
_embedding = Embedding.__table__
_assignment: Any = EmbeddingCluster.__table__


@dataclass(frozen=True)
class Assignments:
    """The rows of one clustering, in ascending order of embedding id.

    Attributes
    ----------
    ids : (n,) S32
        Embedding ids, 32 lower-case hexadecimal characters each, ascending.
    labels : (n,) int64
        Cluster of each, or `OUTLIER`.
    probabilities : (n,) float64
        Membership strengths, 0 to 1.
    locators : (n,) int64 or S32 or None
        Row locator of each embedding (see `cells.row_locator`), -1 where an SQLite file has no such row; None
        if locators were not requested.
    """

    ids: BytesArray
    labels: IntArray
    probabilities: FloatArray
    locators: IntArray | BytesArray | None = None

    def join(self, further: Assignments) -> Assignments:
        """Return these rows followed by further ones; both must have locators."""
        return Assignments(
            np.concatenate([self.ids, further.ids]),
            np.concatenate([self.labels, further.labels]),
            np.concatenate([self.probabilities, further.probabilities]),
            np.concatenate([self.locators, further.locators]),
        )


def read_assignments(
    connection: Connection,
    clustering_id: UUID,
    *,
    with_locators: bool = False,
    progress: Progress | None = None,
    table: sa.Table = _assignment,
) -> Assignments:
    """Read all assignments of a clustering, in 48 bytes of memory per row.

    Parameters
    ----------
    connection : Connection
        From `Database.reading`.
    clustering_id : UUID
        A stored clustering.
    with_locators : bool
        Whether to find the rows of the embeddings too; on SQLite this is one index lookup for each.
    progress : Progress, optional
        Receives the number of rows read.
    table : sqlalchemy.Table
        `embeddingcluster`, or a table with the same columns; see `predictions`.

    Raises
    ------
    DamagedValue
        A label is not one of the clustering's, a probability is not from 0 to 1, or an id is invalid.
    """
    columns: list[Any] = [table.c.embedding_id, table.c.label, table.c.probability]
    convert: list[Callable[[Any], Any]] = [_convert_ids, cells.convert_integers, cells.convert_shares]
    source: Any = table
    has_locators = with_locators and connection.dialect.name == "sqlite"
    if has_locators:
        source = table.outerjoin(_embedding, _embedding.c.id == table.c.embedding_id)
        columns.append(sa.func.coalesce(cells.row_locator(connection, _embedding), _GONE))
        convert.append(cells.convert_integers)
    query = (
        sa.select(*columns)
        .select_from(source)
        .where(table.c.result_key == select_key(clustering_id))
        .order_by(table.c.embedding_id)
    )
    ids, labels, probabilities, *locators = _read_columns(connection, query, convert, progress)
    require_labels(connection, clustering_id, labels, table=table)
    ids_as_locators = ids if with_locators else None
    return Assignments(ids, labels, probabilities, locators[0] if has_locators else ids_as_locators)


def count_assignments(connection: Connection, clustering_id: UUID, *, table: sa.Table = _assignment) -> int:
    """Count the assignments of a clustering in a table; see `read_assignments`."""
    has_key = table.c.result_key == select_key(clustering_id)
    return int(connection.execute(sa.select(sa.func.count()).where(has_key)).scalar_one())


def require_labels(
    connection: Connection, clustering_id: UUID, labels: IntArray, *, table: sa.Table = _assignment
) -> None:
    """Check that labels belong to a clustering, so that arrays with one element per label have a valid size.

    Raises
    ------
    DamagedValue
        A label is below `OUTLIER`, or there is no such cluster.
    """
    n_labels = max(len(labels), _SMALL_LABEL)
    if not len(labels) or (labels.min() >= OUTLIER and labels.max() < n_labels):
        return
    query = sa.select(ClusteringResult.parameters).where(ClusteringResult.id == clustering_id)
    ((parameters,),) = cells.read_rows(connection, query)
    record = ClusteringRecord.from_json(parameters)
    # If embeddings were deleted before the result was saved, clusters may have vanished; the others keep
    # their labels.
    n_labels = max(n_labels, record.n_clusters + (record.n_vanished or 0))
    wrong = (labels < OUTLIER) | (labels >= n_labels)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        ids = sa.select(table.c.embedding_id).where(table.c.result_key == select_key(clustering_id))
        (identity,) = cells.read_rows(connection, ids.order_by(table.c.embedding_id).offset(row).limit(1))[0]
        raise build_damage_error(
            table.name,
            "label",
            [str(clustering_id), str(identity)],
            f"labels from {OUTLIER} to {n_labels - 1} are allowed; got {labels[row]}",
        )


def read_invocations(connection: Connection, model: str, locators: IntArray | BytesArray) -> BytesArray:
    """Read the invocation of each assigned embedding, without reading a row of an embedding.

    Parameters
    ----------
    connection : Connection
        From `Database.reading`.
    model : str
        The embedding model.
    locators : (n,) int64 or S32
        Row locators, as in `Assignments`.

    Returns
    -------
    (n,) S32
        Ids of invocations, in the order of the assignments; empty where the embedding was deleted since.

    Notes
    -----
    No SQLite index has both ids, but every index has the row number. The row numbers come from the index on
    embedding ids, and the invocation of each row number from the index on models, which is read for the whole
    model. PostgreSQL stores vectors outside the rows, so its rows are short.
    """
    of_model = sa.select(cells.row_locator(connection, _embedding), _embedding.c.invocation_id)
    convert = (
        cells.convert_integers if connection.dialect.name == "sqlite" else _convert_ids,
        _convert_optional_ids,
    )
    stored, invocations = _read_columns(
        connection, of_model.where(_embedding.c.embedding_model == model), convert
    )
    if not len(stored):
        return np.zeros(len(locators), dtype=f"S{ID_LENGTH}")
    order = np.argsort(stored)
    positions = order[np.searchsorted(stored, locators, sorter=order).clip(max=len(stored) - 1)]
    return np.where(stored[positions] == locators, invocations[positions], b"")


def select_key(clustering_id: UUID) -> sa.ScalarSelect[Any]:
    """Return the subquery for the `result_key` of a clustering."""
    return sa.select(ClusteringResult.key).where(ClusteringResult.id == clustering_id).scalar_subquery()


def _read_columns(
    connection: Connection,
    query: sa.Select[Any],
    convert: Sequence[Callable[[Any], Any]],
    progress: Progress | None = None,
) -> list[Any]:
    parts = [[function(()) for function in convert]]
    for batch in stream_columns(connection, query, batch_rows=_ROWS, convert=convert):
        parts.append(list(batch))
        (progress or Silent()).advance(len(batch[0]))
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _convert_ids(values: Sequence[Any]) -> BytesArray:
    # Some databases have ids that are not 32 hexadecimal digits; they are accepted here.
    if not all(type(value) is str and len(value) <= ID_LENGTH for value in values):
        raise ValueError("a value is not an id stored as text")
    return np.array(values, dtype=f"S{ID_LENGTH}")


def _convert_optional_ids(values: Sequence[Any]) -> BytesArray:
    return _convert_ids([value or "" for value in values])
