"""The rows of stored clusterings: what a listing says of each, and why a row cannot be read."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.errors import DatabaseError
from panic_tda.parameters import ClusteringRecord
from panic_tda.storage import cells
from panic_tda.storage.columns import are_ids, show_value
from panic_tda.storage.schema.tables import ClusteringResult

_ROW = "row="
_result = ClusteringResult.__table__


@dataclass(frozen=True)
class ClusteringSummary:
    """What a listing says of one stored clustering."""

    id: UUID
    embedding_model: str
    algorithm: str
    created_at: datetime
    started_at: datetime
    completed_at: datetime
    record: ClusteringRecord

    @property
    def seconds(self) -> float:
        """Time the computation took."""
        return (self.completed_at - self.started_at).total_seconds()


@dataclass(frozen=True)
class UnreadableClustering:
    """A stored clustering whose row holds a value that cannot be read.

    Attributes
    ----------
    reference : str
        What names it: its id, or `row=` and the number of its row where the id itself cannot be read.
    embedding_model : str or None
        None where it cannot be read.
    reason : str
        Which value cannot be read, and why.
    row : int
        What finds its row: the row's number in an SQLite file, elsewhere the key.
    """

    reference: str
    embedding_model: str | None
    reason: str
    row: int


def read_summaries(
    connection: Connection, *, model: str | None = None
) -> tuple[list[ClusteringSummary], list[UnreadableClustering]]:
    """Return the clusterings of one model or of all, the latest first, and those that cannot be read."""
    row_number = row_column(connection)
    names = (
        "key",
        "id",
        "created_at",
        "started_at",
        "completed_at",
        "embedding_model",
        "algorithm",
        "parameters",
    )
    query = sa.select(row_number, *(_result.c[name] for name in names)).order_by(row_number)
    readable: list[tuple[tuple[datetime, int], ClusteringSummary]] = []
    unreadable: list[UnreadableClustering] = []
    for values, damaged, stored in cells.read_each(connection, query):
        if model is not None and stored["embedding_model"] != model:
            continue
        if values is None:
            unreadable.append(_unreadable(stored, str(damaged)))
            continue
        _, key, clustering_id, created, started, completed, embedding_model, algorithm, parameters = values
        try:
            record = ClusteringRecord.from_json(parameters)
        except DatabaseError as error:
            unreadable.append(_unreadable(stored, str(error)))
            continue
        summary = ClusteringSummary(
            clustering_id, embedding_model, algorithm, created, started, completed, record
        )
        readable.append(((summary.created_at, key), summary))
    readable.sort(key=lambda pair: pair[0], reverse=True)
    return [summary for _, summary in readable], unreadable


def row_column(connection: Connection) -> sa.ColumnElement[Any]:
    """Return the column that finds a row of `clusteringresult` whatever its values are."""
    if connection.dialect.name == "sqlite":
        return sa.literal_column("clusteringresult.rowid", sa.BigInteger)
    return _result.c.key


def matches(clustering: ClusteringSummary | UnreadableClustering, reference: str) -> bool:
    """Tell whether an id or the beginning of one names a clustering."""
    if isinstance(clustering, UnreadableClustering) and clustering.reference.startswith(_ROW):
        return reference == clustering.reference
    name = clustering.id.hex if isinstance(clustering, ClusteringSummary) else clustering.reference
    digits = reference.lower().replace("-", "")
    return bool(digits) and name.replace("-", "").startswith(digits)


def _unreadable(stored: dict[str, Any], reason: str) -> UnreadableClustering:
    model, row = stored["embedding_model"], next(iter(stored.values()))
    reference = show_value(stored["id"]) if are_ids((stored["id"],)) else f"{_ROW}{row}"
    return UnreadableClustering(reference, model if isinstance(model, str) else None, reason, row)
