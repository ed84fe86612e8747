"""Which cluster each embedding belongs to, read back whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.storage.bulk import stream_rows
from panic_tda.storage.schemas import ClusteringResult, EmbeddingCluster

if TYPE_CHECKING:
    from panic_tda.types import BytesArray, FloatArray, IntArray

_ROWS = 50_000


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


def key_of(clustering_id: UUID) -> sa.ScalarSelect[Any]:
    """Return the subquery for the key by which rows name this clustering."""
    return sa.select(ClusteringResult.key).where(ClusteringResult.id == clustering_id).scalar_subquery()


def _columns(batches: Iterator[list[tuple[Any, ...]]]) -> Iterator[tuple[tuple[Any, ...], ...]]:
    for rows in batches:
        yield tuple(zip(*rows, strict=True))
