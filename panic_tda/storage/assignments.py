"""Which cluster each embedding belongs to, and which invocation it is of, read back whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.storage.bulk import ID_LENGTH, stream_rows
from panic_tda.storage.schemas import ClusteringResult, Embedding, EmbeddingCluster

if TYPE_CHECKING:
    from panic_tda.types import BytesArray, FloatArray, IntArray

_ROWS = 50_000
_GONE = -1
_embedding = Embedding.__table__


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
    """

    ids: BytesArray
    labels: IntArray
    probabilities: FloatArray


def read_assignments(connection: Connection, clustering_id: UUID) -> Assignments:
    """Read all assignments of a clustering: one range of the table's key, 48 bytes a row in memory."""
    columns = (EmbeddingCluster.embedding_id, EmbeddingCluster.label, EmbeddingCluster.probability)
    query = (
        sa.select(sa.type_coerce(columns[0], sa.String), *columns[1:])
        .where(EmbeddingCluster.result_key == key_of(clustering_id))
        .order_by(EmbeddingCluster.embedding_id)
    )
    parts = [
        (np.array(ids, dtype="S32"), np.array(labels, dtype=np.int64), np.array(probabilities, dtype=float))
        for ids, labels, probabilities in _columns(stream_rows(connection, query, batch_rows=_ROWS))
    ]
    empty = (np.empty(0, dtype="S32"), np.empty(0, dtype=np.int64), np.empty(0))
    joined = [np.concatenate(of_column) for of_column in zip(*(parts or [empty]), strict=True)]
    return Assignments(*joined)


def read_invocations(connection: Connection, clustering_id: UUID) -> BytesArray:
    """Read the invocation of each assigned embedding, without reading a row of an embedding.

    Parameters
    ----------
    connection : Connection
        From `Database.reading`.
    clustering_id : UUID
        A stored clustering.

    Returns
    -------
    (n,) S32
        Ids of invocations, in the order of `read_assignments`; empty where the embedding has gone since.

    Notes
    -----
    No index of SQLite has both ids; but each has the row's number. So the numbers come from the index on the
    embeddings' ids, and the invocations by number from the one on models: that is read for the whole model.
    PostgreSQL keeps vectors beside its rows, which are short then.
    """
    assigned = (
        sa.select(_embedding.c.invocation_id)
        .select_from(EmbeddingCluster)
        .outerjoin(_embedding, _embedding.c.id == EmbeddingCluster.embedding_id)
        .where(EmbeddingCluster.result_key == key_of(clustering_id))
        .order_by(EmbeddingCluster.embedding_id)
    )
    if connection.dialect.name == "sqlite":
        return _by_row_number(connection, assigned, clustering_id)
    found = [row[0] for rows in stream_rows(connection, assigned, batch_rows=_ROWS) for row in rows]
    return np.array([invocation or "" for invocation in found], dtype=f"S{ID_LENGTH}")


def key_of(clustering_id: UUID) -> sa.ScalarSelect[Any]:
    """Return the subquery for the key by which rows name this clustering."""
    return sa.select(ClusteringResult.key).where(ClusteringResult.id == clustering_id).scalar_subquery()


def _by_row_number(connection: Connection, assigned: sa.Select[Any], clustering_id: UUID) -> BytesArray:
    number = sa.literal_column("embedding.rowid", sa.Integer)
    numbers = [
        np.array([_GONE if row[0] is None else row[0] for row in rows], dtype=np.int64)
        for rows in stream_rows(connection, assigned.with_only_columns(number), batch_rows=_ROWS)
    ]
    model = sa.select(ClusteringResult.embedding_model).where(ClusteringResult.id == clustering_id)
    of_model = sa.select(number, _embedding.c.invocation_id).where(
        _embedding.c.embedding_model == model.scalar_subquery()
    )
    parts = [
        (np.array(rows, dtype=np.int64), np.array(invocations, dtype=f"S{ID_LENGTH}"))
        for rows, invocations in _columns(stream_rows(connection, of_model, batch_rows=_ROWS))
    ]
    wanted = np.concatenate([np.empty(0, dtype=np.int64), *numbers])
    stored = np.concatenate([np.array([_GONE]), *(rows for rows, _ in parts)])
    invocations = np.concatenate([np.array([b""], dtype=f"S{ID_LENGTH}"), *(part for _, part in parts)])
    order = np.argsort(stored)
    places = order[np.searchsorted(stored, wanted, sorter=order).clip(max=len(stored) - 1)]
    return np.where(stored[places] == wanted, invocations[places], b"")


def _columns(batches: Iterator[list[tuple[Any, ...]]]) -> Iterator[tuple[tuple[Any, ...], ...]]:
    for rows in batches:
        yield tuple(zip(*rows, strict=True))
