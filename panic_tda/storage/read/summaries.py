"""Read the rows of stored clusterings for listings, with the reason where a row cannot be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.errors import DatabaseError
from panic_tda.records import ClusteringRecord
from panic_tda.storage import cells
from panic_tda.storage.columns import are_ids, show_value
from panic_tda.storage.schema.tables import ClusteringResult

_ROW = "row="
_COLUMNS = (
    *("key", "id", "created_at", "started_at", "completed_at"),
    *("embedding_model", "algorithm", "parameters"),
)
_result = ClusteringResult.__table__


@dataclass(frozen=True)
class ClusteringSummary:
    """The id, model, algorithm, times and record of one stored clustering."""

    id: UUID
    embedding_model: str
    algorithm: str
    created_at: datetime
    started_at: datetime
    completed_at: datetime
    record: ClusteringRecord

    @property
    def seconds(self) -> float:
        """Return the time of the computation in seconds."""
        return (self.completed_at - self.started_at).total_seconds()


@dataclass(frozen=True)
class UnreadableClustering:
    """A stored clustering whose row has an unreadable value.

    Attributes
    ----------
    reference : str
        Name for commands: the id, or `row=` and the row number if the id cannot be read.
    embedding_model : str or None
        None if it cannot be read.
    reason : str
        Name of the unreadable value, and the reason.
    row : int
        Locator of its row: the row number in an SQLite file, the key in PostgreSQL.
    """

    reference: str
    embedding_model: str | None
    reason: str
    row: int


@dataclass(frozen=True)
class ResultRow:
    """A row of `clusteringresult` with valid or invalid values.

    Attributes
    ----------
    locator : int
        Locator of the row; see `row_column`.
    key, id, embedding_model
        As stored.
    summary : ClusteringSummary or None
        None if a value cannot be read.
    fault : str
        Name of the unreadable value, and the reason; empty if all values are readable.
    """

    locator: int
    key: Any
    id: Any
    embedding_model: Any
    summary: ClusteringSummary | None
    fault: str

    @property
    def record(self) -> ClusteringRecord | None:
        """Return the record; None if a value cannot be read."""
        return None if self.summary is None else self.summary.record


def read_result_rows(connection: Connection) -> Iterator[ResultRow]:
    """Yield the rows of all clusterings, in the order in which they were stored."""
    locator = row_column(connection)
    query = sa.select(locator, *(_result.c[name] for name in _COLUMNS)).order_by(locator)
    for values, damaged, stored in cells.read_each(connection, query):
        summary, fault = None, str(damaged or "")
        if values is not None:
            _, _, identity, created, started, completed, model, algorithm, parameters = values
            try:
                record = ClusteringRecord.from_json(parameters)
                summary = ClusteringSummary(identity, model, algorithm, created, started, completed, record)
            except DatabaseError as error:
                fault = str(error)
        row = next(iter(stored.values()))
        yield ResultRow(row, stored["key"], stored["id"], stored["embedding_model"], summary, fault)


def read_summaries(
    connection: Connection, *, model: str | None = None
) -> tuple[list[ClusteringSummary], list[UnreadableClustering]]:
    """Return the readable clusterings of one model or of all, the latest first, and the unreadable ones."""
    rows = [row for row in read_result_rows(connection) if model in (None, row.embedding_model)]
    readable = [(row.summary.created_at, row.key, row.summary) for row in rows if row.summary is not None]
    readable.sort(key=lambda entry: entry[:2], reverse=True)
    unreadable = [_build_unreadable(row) for row in rows if row.summary is None]
    return [summary for _, _, summary in readable], unreadable


def row_column(connection: Connection) -> sa.ColumnElement[Any]:
    """Return the column that locates a row of `clusteringresult` even if its values are invalid."""
    if connection.dialect.name == "sqlite":
        return sa.literal_column("clusteringresult.rowid", sa.BigInteger)
    return _result.c.key


def matches(clustering: ClusteringSummary | UnreadableClustering, reference: str) -> bool:
    """Return whether a reference is the id of a clustering or the beginning of it."""
    if isinstance(clustering, UnreadableClustering) and clustering.reference.startswith(_ROW):
        return reference == clustering.reference
    name = clustering.id.hex if isinstance(clustering, ClusteringSummary) else clustering.reference
    digits = reference.lower().replace("-", "")
    return bool(digits) and name.replace("-", "").startswith(digits)


def _build_unreadable(row: ResultRow) -> UnreadableClustering:
    reference = show_value(row.id) if are_ids((row.id,)) else f"{_ROW}{row.locator}"
    model = row.embedding_model if isinstance(row.embedding_model, str) else None
    return UnreadableClustering(reference, model, row.fault, row.locator)
