"""Which cluster each embedding belongs to, and which invocation it is of, read back whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.errors import OUTLIER
from panic_tda.parameters import ClusteringRecord
from panic_tda.storage import cells
from panic_tda.storage.bulk import ID_LENGTH, stream_columns
from panic_tda.storage.columns import damaged_value
from panic_tda.storage.schema.tables import ClusteringResult, Embedding, EmbeddingCluster

if TYPE_CHECKING:
    from panic_tda.types import BytesArray, FloatArray, IntArray

_ROWS = 50_000
_GONE = -1
_SMALL_LABEL = 1 << 16
"""Labels below cost no memory; whether there is such a cluster is for the doctor to say."""
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
    """Read all assignments of a clustering: one range of the table's key, 48 bytes a row in memory.

    Raises
    ------
    DamagedValue
        A label is not one of the clustering's, a probability is not from 0 to 1, or an id is none.
    """
    columns = (EmbeddingCluster.embedding_id, EmbeddingCluster.label, EmbeddingCluster.probability)
    query = (
        sa.select(sa.type_coerce(columns[0], sa.String), *columns[1:])
        .where(EmbeddingCluster.result_key == key_of(clustering_id))
        .order_by(EmbeddingCluster.embedding_id)
    )
    parts = list(
        stream_columns(
            connection, query, batch_rows=_ROWS, convert=(_identities, cells.integers, cells.shares)
        )
    )
    empty = (np.empty(0, dtype="S32"), np.empty(0, dtype=np.int64), np.empty(0))
    ids, labels, probabilities = (
        np.concatenate(of_column) for of_column in zip(*(parts or [empty]), strict=True)
    )
    require_labels(connection, clustering_id, labels)
    return Assignments(ids, labels, probabilities)


def require_labels(connection: Connection, clustering_id: UUID, labels: IntArray) -> None:
    """Check that labels are those of a clustering's clusters, so that arrays of one element a label fit.

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
    # Of a clustering that lost rows before it was saved, other clusters keep their labels.
    n_labels = max(n_labels, record.n_clusters + (record.n_vanished or 0))
    wrong = (labels < OUTLIER) | (labels >= n_labels)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        ids = sa.select(EmbeddingCluster.embedding_id).where(
            EmbeddingCluster.result_key == key_of(clustering_id)
        )
        (identity,) = cells.read_rows(
            connection, ids.order_by(EmbeddingCluster.embedding_id).offset(row).limit(1)
        )[0]
        raise damaged_value(
            "embeddingcluster",
            "label",
            [str(clustering_id), str(identity)],
            f"labels from {OUTLIER} to {n_labels - 1} are allowed; got {labels[row]}",
        )


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
    parts = list(stream_columns(connection, assigned, batch_rows=_ROWS, convert=(_identities_or_none,)))
    return np.concatenate([np.empty(0, dtype=f"S{ID_LENGTH}"), *(ids for (ids,) in parts)])


def key_of(clustering_id: UUID) -> sa.ScalarSelect[Any]:
    """Return the subquery for the key by which rows name this clustering."""
    return sa.select(ClusteringResult.key).where(ClusteringResult.id == clustering_id).scalar_subquery()


def _by_row_number(connection: Connection, assigned: sa.Select[Any], clustering_id: UUID) -> BytesArray:
    number = sa.literal_column("embedding.rowid", sa.Integer)
    numbers = [
        of_batch
        for (of_batch,) in stream_columns(
            connection,
            assigned.with_only_columns(sa.func.coalesce(number, _GONE)),
            batch_rows=_ROWS,
            convert=(cells.integers,),
        )
    ]
    model = sa.select(ClusteringResult.embedding_model).where(ClusteringResult.id == clustering_id)
    of_model = sa.select(number, _embedding.c.invocation_id).where(
        _embedding.c.embedding_model == model.scalar_subquery()
    )
    parts = list(
        stream_columns(connection, of_model, batch_rows=_ROWS, convert=(cells.integers, _identities_or_none))
    )
    wanted = np.concatenate([np.empty(0, dtype=np.int64), *numbers])
    stored = np.concatenate([np.array([_GONE]), *(rows for rows, _ in parts)])
    invocations = np.concatenate([np.array([b""], dtype=f"S{ID_LENGTH}"), *(part for _, part in parts)])
    order = np.argsort(stored)
    places = order[np.searchsorted(stored, wanted, sorter=order).clip(max=len(stored) - 1)]
    return np.where(stored[places] == wanted, invocations[places], b"")


def _identities(values: Sequence[Any]) -> BytesArray:
    # Field files have ids of other forms, which are ids all the same.
    if not all(type(value) is str and len(value) <= ID_LENGTH for value in values):
        raise ValueError("a value is not an id stored as text")
    return np.array(values, dtype=f"S{ID_LENGTH}")


def _identities_or_none(values: Sequence[Any]) -> BytesArray:
    return _identities([value or "" for value in values])
