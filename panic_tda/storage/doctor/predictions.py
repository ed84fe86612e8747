"""Check the predicted assignments of stored clusterings."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.storage.cells import as_literal, read_stored_values
from panic_tda.storage.columns import ROUNDING
from panic_tda.storage.doctor.database_info import DatabaseInfo
from panic_tda.storage.doctor.findings import Findings, show_id
from panic_tda.storage.read.summaries import read_result_rows
from panic_tda.storage.schema.tables import EMBEDDING_PREDICTION, Cluster, EmbeddingCluster
from panic_tda.types import OUTLIER

DAMAGED = "damaged_prediction"
_prediction = EMBEDDING_PREDICTION
_assignment: Any = EmbeddingCluster.__table__


def check_predictions(info: DatabaseInfo, findings: Findings) -> None:
    """Find predicted assignments with invalid values, and those of embeddings that the clustering holds."""
    if not info.has_ours(_prediction.name):
        return
    with info.reading("check predicted assignments") as connection:
        for row in read_result_rows(connection):
            for identity in _read_damaged_ids(connection, row.key):
                findings.add(DAMAGED, identity, f"in clustering {show_id(row.id)}")


def find_damaged_predictions(info: DatabaseInfo) -> dict[Any, list[Any]]:
    """Return the embedding ids of invalid predicted assignments, by the key of their clustering."""
    if not info.has_ours(_prediction.name):
        return {}
    with info.reading("find damaged predictions") as connection:
        damaged = {row.key: _read_damaged_ids(connection, row.key) for row in read_result_rows(connection)}
    return {key: ids for key, ids in damaged.items() if ids}


def delete_damaged(connection: Connection, key: Any) -> int:
    """Delete the invalid predicted assignments of a clustering, and return their number."""
    deletion = sa.delete(_prediction).where(_is_damaged(connection, key))
    return int(connection.execute(deletion).rowcount)


def _read_damaged_ids(connection: Connection, key: Any) -> list[Any]:
    query = sa.select(_prediction.c.embedding_id).where(_is_damaged(connection, key))
    return list(read_stored_values(connection, query))


def _is_damaged(connection: Connection, key: Any) -> sa.ColumnElement[bool]:
    label, probability = _prediction.c.label, _prediction.c.probability
    of_key = _prediction.c.result_key == as_literal(key)
    labels = sa.select(Cluster.label).where(Cluster.result_key == as_literal(key))
    is_held = sa.select(sa.literal(1)).where(
        _assignment.c.result_key == as_literal(key),
        _assignment.c.embedding_id == _prediction.c.embedding_id,
    )
    wrong = [
        (label != OUTLIER) & label.not_in(labels),
        ~probability.between(-ROUNDING, 1 + ROUNDING),
        is_held.exists(),
    ]
    if connection.dialect.name == "sqlite":
        wrong += [sa.func.typeof(label) != "integer", sa.func.typeof(probability).not_in(["real", "integer"])]
    return of_key & sa.or_(*wrong)
