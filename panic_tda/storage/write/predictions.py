"""Write predicted assignments: of embeddings that were added after the fit of a clustering."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.errors import UnknownClustering
from panic_tda.storage.bulk import select_by_keys
from panic_tda.storage.database import Database, lock_for_saving
from panic_tda.storage.schema.tables import EMBEDDING_PREDICTION, ClusteringResult
from panic_tda.storage.write.insertion import insert_new_rows
from panic_tda.types import BytesArray, FloatArray, IntArray

_COLUMNS = ("result_key", "embedding_id", "label", "probability")


def save_predictions(
    database: Database, clustering_id: UUID, ids: BytesArray, labels: IntArray, probabilities: FloatArray
) -> int:
    """Save predicted assignments in one transaction, and return the number of new ones.

    Embeddings that the clustering holds, or that were deleted meanwhile, are left out.

    Parameters
    ----------
    database : Database
        Database of the clustering.
    clustering_id : UUID
        A stored clustering.
    ids : (m,) S32
        Embedding ids.
    labels, probabilities : (m,) int64, (m,) float64
        Cluster of each, or `OUTLIER`, and its membership probability.

    Raises
    ------
    UnknownClustering
        The clustering was deleted meanwhile.
    DatabaseError
        The database cannot be written.
    """
    with database.writing() as connection:
        lock_for_saving(connection)
        EMBEDDING_PREDICTION.create(connection, checkfirst=True)
        query = sa.select(ClusteringResult.key).where(ClusteringResult.id == clustering_id)
        key = connection.execute(query).scalar()
        if key is None:
            raise UnknownClustering(f"clustering {clustering_id} was deleted meanwhile")
        names = [identity.decode() for identity in ids.tolist()]
        stored = {name for (name,) in select_by_keys(connection, "embedding", ["id"], {"id": names})}
        allowed = stored - _find_held(connection, key, names)
        rows = [
            (key, name, label, probability)
            for name, label, probability in zip(names, labels.tolist(), probabilities.tolist(), strict=True)
            if name in allowed
        ]
        return insert_new_rows(
            connection, EMBEDDING_PREDICTION.name, _COLUMNS, rows, key="result_key, embedding_id"
        )


def _find_held(connection: Connection, key: int, names: list[str]) -> set[str]:
    """Return those ids that the fit of a clustering holds."""
    keys: dict[str, list[Any]] = {"result_key": [key] * len(names), "embedding_id": names}
    return {name for (name,) in select_by_keys(connection, "embeddingcluster", ["embedding_id"], keys)}
