"""Describe the examined database: its tables, columns and indexes, and which queries read no image."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql import Select

from panic_tda.errors import NeedsUpgrade
from panic_tda.progress import Progress
from panic_tda.storage.cells import read_stored_values, row_locator
from panic_tda.storage.database import PIPELINE_TABLES, Database, schema_version
from panic_tda.storage.doctor.findings import Findings
from panic_tda.storage.schema.tables import EMBEDDING_PREDICTION, PROMPT_EMBEDDING

IMAGE = "output_image_data"
BATCH_ROWS = 2048
_TABLES = (
    *(*PIPELINE_TABLES, "clusteringresult", "cluster", "embeddingcluster", "clusteringtree"),
    *(EMBEDDING_PREDICTION.name, PROMPT_EMBEDDING.name),
)
_ROWS = re.compile(r"(SCAN|SEARCH) (TABLE )?invocation(_\d+)?\b(?!.* COVERING INDEX )")


@dataclass(frozen=True)
class DatabaseInfo:
    """A database with its schema version and columns, as read before the checks.

    Attributes
    ----------
    database : Database
        A database of the generation pipeline, upgraded or not.
    version : str or None
        Version of panic_tda's tables; None before the upgrade.
    columns : dict of str to tuple of str
        Column names of each table, in the order of storage.
    progress : Progress
        Receives the phases of the checks.
    """

    database: Database
    version: str | None
    columns: dict[str, tuple[str, ...]]
    progress: Progress

    @contextmanager
    def reading(self, phase: str, total: int | None = None) -> Iterator[Connection]:
        """Begin a phase and open a connection for it: a transaction lasts no longer than one check."""
        self.progress.phase(phase, total)
        with self.database.reading() as connection:
            yield connection

    def has(self, table: str, *names: str) -> bool:
        """Return whether the table exists and has all of these columns."""
        return table in self.columns and set(names) <= set(self.columns[table])

    def has_ours(self, table: str) -> bool:
        """Return whether a clustering table exists and is panic_tda's, not the old pipeline's."""
        return self.version is not None and table in self.columns

    def are_before_images(self, names: Collection[str]) -> bool:
        """Return whether these columns of `invocation` are stored before the image of their row."""
        order = self.columns["invocation"]
        return IMAGE not in order or max(map(order.index, names)) < order.index(IMAGE)

    def may_read(
        self,
        connection: Connection,
        query: Select[Any],
        names: Collection[str],
        findings: Findings,
        *kinds: str,
    ) -> bool:
        """Return whether a query reads no image; if it would read one, report its kinds as skipped.

        SQLite reads a row up to the last column of the query: for a column that is stored behind an image it
        reads the whole image. If an index has all the columns, no row is read.
        """
        if not reads_invocations(connection, query):
            return True
        if self.are_before_images(names):
            self.progress.phase(f"{', '.join(kinds)}: without an index, all invocations are read")
            return True
        missing = f"{', '.join(sorted(names))} of invocations"
        findings.leave_out(
            kinds, f"no index has {missing} yet, and they are stored behind images: upgrade first"
        )
        return False


def inspect(database: Database, progress: Progress) -> DatabaseInfo:
    """Return the schema version and the columns of a database.

    Raises
    ------
    DatabaseError
        It is not a database of the pipeline, or its version is newer.
    """
    with suppress(NeedsUpgrade):
        database.require_current()
    with database.reading() as connection:
        inspector = sa.inspect(connection)
        columns = {
            table: tuple(column["name"] for column in inspector.get_columns(table))
            for table in sorted(set(inspector.get_table_names()) & set(_TABLES))
        }
        return DatabaseInfo(database, schema_version(connection), columns, progress)


def has_index(connection: Connection, name: str) -> bool:
    """Return whether an index of this name exists; it may be an index on an expression."""
    sqlite = connection.dialect.name == "sqlite"
    table, column = ("sqlite_master", "name") if sqlite else ("pg_indexes", "indexname")
    query = sa.select(sa.literal(1)).select_from(sa.table(table)).where(sa.column(column) == name)
    return connection.execute(query.limit(1)).first() is not None


def reads_invocations(connection: Connection, query: Select[Any]) -> bool:
    """Return whether SQLite reads rows of `invocation` for a query; PostgreSQL stores images elsewhere."""
    if connection.dialect.name != "sqlite":
        return False
    text = query.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
    plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}").all()
    return any(_ROWS.match(step[3]) for step in plan)


def read_ids_at(connection: Connection, table: Any, wanted: Select[Any]) -> Iterator[Any]:
    """Yield the stored ids of the rows whose locators (see `row_locator`) a query returns.

    Ids of invocations are read from the index on ids, because an image may be stored before the id in a row.
    """
    at: Any = row_locator(connection, table)
    if table.name == "invocation" and connection.dialect.name == "sqlite":
        # SQLite looks up a bare rowid in the table; for an expression it scans the index on ids.
        at = sa.literal_column(f"+{table.name}.rowid")
    query = sa.select(table.c.id).where(at.in_(wanted.correlate(None)))
    return read_stored_values(connection, query)
