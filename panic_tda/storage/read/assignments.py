"""Which cluster each embedding belongs to, and which invocation it is of, read back whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.errors import OUTLIER
from panic_tda.parameters import ClusteringRecord
from panic_tda.progress import Progress, Silent
from panic_tda.storage import cells
from panic_tda.storage.bulk import ID_LENGTH, stream_columns
from panic_tda.storage.columns import damaged_value
from panic_tda.storage.schema.tables import ClusteringResult, Embedding, EmbeddingCluster

if TYPE_CHECKING:
    from panic_tda.types import BytesArray, FloatArray, IntArray

_ROWS = 2_000
"""Rows fetched at once: few enough to be in the cache still when they become arrays (1,610,000 assignments
took 1.3 s like this, 1.6 s with 50,000)."""
_GONE = -1
_SMALL_LABEL = 1 << 16
"""Labels below cost no memory; whether there is such a cluster is for the doctor to say."""
_embedding = Embedding.__table__
_assignment = EmbeddingCluster.__table__


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
        What finds the row of each embedding (see `cells.row_locator`), -1 where an SQLite file has none; None
        where nobody asked for it.
    """

    ids: BytesArray
    labels: IntArray
    probabilities: FloatArray
    locators: IntArray | BytesArray | None = None


def read_assignments(
    connection: Connection,
    clustering_id: UUID,
    *,
    with_locators: bool = False,
    progress: Progress | None = None,
) -> Assignments:
    """Read all assignments of a clustering: one range of the table's key, 48 bytes a row in memory.

    Parameters
    ----------
    connection : Connection
        From `Database.reading`.
    clustering_id : UUID
        A stored clustering.
    with_locators : bool
        Whether to find the rows of the embeddings too: on SQLite a look into the index on their ids for each.
    progress : Progress, optional
        Told the rows read.

    Raises
    ------
    DamagedValue
        A label is not one of the clustering's, a probability is not from 0 to 1, or an id is none.
    """
    identity = sa.type_coerce(_assignment.c.embedding_id, sa.String)
    columns: list[Any] = [identity, _assignment.c.label, _assignment.c.probability]
    convert: list[Callable[[Any], Any]] = [_identities, cells.integers, cells.shares]
    located = with_locators and connection.dialect.name == "sqlite"
    if located:
        columns.append(_locator_or_gone(connection))
        convert.append(cells.integers)
    query = _in_order(clustering_id, columns, with_embeddings=located)
    ids, labels, probabilities, *locators = _read_columns(connection, query, convert, progress)
    require_labels(connection, clustering_id, labels)
    elsewhere = ids if with_locators else None
    return Assignments(ids, labels, probabilities, locators[0] if located else elsewhere)


def count_assignments(connection: Connection, clustering_id: UUID) -> int:
    """Count the assignments of a clustering."""
    of_this = _assignment.c.result_key == key_of(clustering_id)
    return int(connection.execute(sa.select(sa.func.count()).where(of_this)).scalar_one())


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
    if connection.dialect.name != "sqlite":
        query = _in_order(clustering_id, [_embedding.c.invocation_id], with_embeddings=True)
        only: BytesArray = _read_columns(connection, query, [_identities_or_none])[0]
        return only
    query = _in_order(clustering_id, [_locator_or_gone(connection)], with_embeddings=True)
    (wanted,) = _read_columns(connection, query, [cells.integers])
    model = sa.select(ClusteringResult.embedding_model).where(ClusteringResult.id == clustering_id)
    of_model = sa.select(cells.row_locator(connection, _embedding), _embedding.c.invocation_id).where(
        _embedding.c.embedding_model == model.scalar_subquery()
    )
    stored, invocations = _read_columns(connection, of_model, [cells.integers, _identities_or_none])
    stored, invocations = np.append(stored, _GONE), np.append(invocations, b"")
    order = np.argsort(stored)
    positions = order[np.searchsorted(stored, wanted, sorter=order).clip(max=len(stored) - 1)]
    return np.where(stored[positions] == wanted, invocations[positions], b"")


def key_of(clustering_id: UUID) -> sa.ScalarSelect[Any]:
    """Return the subquery for the key by which rows name this clustering."""
    return sa.select(ClusteringResult.key).where(ClusteringResult.id == clustering_id).scalar_subquery()


def _in_order(clustering_id: UUID, columns: Sequence[Any], *, with_embeddings: bool) -> sa.Select[Any]:
    """Select columns of the assignments, by ascending embedding id, with or without those of embeddings."""
    joined = _assignment.outerjoin(_embedding, _embedding.c.id == _assignment.c.embedding_id)
    return (
        sa.select(*columns)
        .select_from(joined if with_embeddings else _assignment)
        .where(_assignment.c.result_key == key_of(clustering_id))
        .order_by(_assignment.c.embedding_id)
    )


def _locator_or_gone(connection: Connection) -> Any:
    return sa.func.coalesce(cells.row_locator(connection, _embedding), _GONE)


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


def _identities(values: Sequence[Any]) -> BytesArray:
    # Field files have ids of other forms, which are ids all the same.
    if not all(type(value) is str and len(value) <= ID_LENGTH for value in values):
        raise ValueError("a value is not an id stored as text")
    return np.array(values, dtype=f"S{ID_LENGTH}")


def _identities_or_none(values: Sequence[Any]) -> BytesArray:
    return _identities([value or "" for value in values])
