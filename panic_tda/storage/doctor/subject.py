"""The database that is examined: what it has, and how its rows are reached without reading an image."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ColumnElement, Select

from panic_tda.errors import NeedsUpgrade
from panic_tda.progress import Progress
from panic_tda.storage.cells import stored_values
from panic_tda.storage.database import PIPELINE_TABLES, Database, schema_version
from panic_tda.storage.doctor.findings import Findings

IMAGE = "output_image_data"
BATCH_ROWS = 2048
_TABLES = (
    *(*PIPELINE_TABLES, "persistencediagram"),
    *("clusteringresult", "cluster", "embeddingcluster", "clusteringtree"),
)
_ROWS = re.compile(r"(SCAN|SEARCH) (TABLE )?invocation(_\d+)?\b(?!.* COVERING INDEX )")


@dataclass(frozen=True)
class Subject:
    """A database, and what is known of it before anything is looked for.

    Attributes
    ----------
    database : Database
        Of the generation pipeline, upgraded or not.
    version : str or None
        Of our tables; None before the upgrade.
    columns : dict of str to tuple of str
        Names of the columns of each table, in the order in which a row has them.
    progress : Progress
        Told what is looked at.
    """

    database: Database
    version: str | None
    columns: dict[str, tuple[str, ...]]
    progress: Progress

    @contextmanager
    def reading(self, what: str, total: int | None = None) -> Iterator[Connection]:
        """Begin a phase, and open a connection for it: no transaction lasts longer than one check."""
        self.progress.phase(what, total)
        with self.database.reading() as connection:
            yield connection

    def has(self, table: str, *names: str) -> bool:
        """Tell whether there is a table with columns of these names."""
        return table in self.columns and set(names) <= set(self.columns[table])

    def has_ours(self, table: str) -> bool:
        """Tell whether there is a clustering table, and it is not the old pipeline's."""
        return self.version is not None and table in self.columns

    def before_images(self, names: Collection[str]) -> bool:
        """Tell whether columns of invocations can be read without going through the image of their row."""
        order = self.columns["invocation"]
        return IMAGE not in order or max(map(order.index, names)) < order.index(IMAGE)

    def may_read(
        self, connection: Connection, query: Select[Any], names: Collection[str], found: Findings, *kinds: str
    ) -> bool:
        """Tell whether a query reads no image; where it would, its kinds are left out.

        A row is read up to the last column that is asked for, and SQLite gets at what lies behind an image by
        reading all of the image. With an index that has the columns no row is read.
        """
        if not reads_invocations(connection, query):
            return True
        if self.before_images(names):
            self.progress.phase(f"{', '.join(kinds)}: no index has it yet, so invocations are read")
            return True
        missing = f"{', '.join(sorted(names))} of invocations"
        found.leave_out(
            kinds, f"no index has {missing} yet, and in their rows images stand before: upgrade first"
        )
        return False


def look_at(database: Database, progress: Progress) -> Subject:
    """Open what is to be examined.

    Raises
    ------
    DatabaseError
        It is no database of the pipeline, or of a newer version.
    """
    with suppress(NeedsUpgrade):
        database.require_current()
    with database.reading() as connection:
        inspector = sa.inspect(connection)
        columns = {
            table: tuple(column["name"] for column in inspector.get_columns(table))
            for table in sorted(set(inspector.get_table_names()) & set(_TABLES))
        }
        return Subject(database, schema_version(connection), columns, progress)


def has_index(connection: Connection, name: str) -> bool:
    """Tell whether there is an index of this name, which may be one on an expression."""
    sqlite = connection.dialect.name == "sqlite"
    table, column = ("sqlite_master", "name") if sqlite else ("pg_indexes", "indexname")
    query = sa.select(sa.literal(1)).select_from(sa.table(table)).where(sa.column(column) == name)
    return connection.execute(query.limit(1)).first() is not None


def reads_invocations(connection: Connection, query: Select[Any]) -> bool:
    """Tell whether SQLite reads rows of invocations for a query; PostgreSQL keeps images apart from them."""
    if connection.dialect.name != "sqlite":
        return False
    text = query.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
    plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}").all()
    return any(_ROWS.match(step[3]) for step in plan)


def place(connection: Connection, table: sa.TableClause | Any) -> ColumnElement[Any]:
    """Return by what rows of a table are looked up: in SQLite their place in the file."""
    sqlite = connection.dialect.name == "sqlite"
    return sa.literal_column(f"{table.name}.rowid") if sqlite else table.c.id


def ids_at(connection: Connection, table: Any, wanted: Select[Any]) -> Iterator[Any]:
    """Yield the ids of the rows at the places that a query finds, as they are stored.

    Ids of invocations come from an index that has all of them: there may be an image before the id in a row.
    """
    at = place(connection, table)
    if table.name == "invocation" and connection.dialect.name == "sqlite":
        # What is no bare column is not looked up: the index on ids is gone through.
        at = sa.literal_column(f"+{table.name}.rowid")
    query = sa.select(table.c.id).where(at.in_(wanted.correlate(None)))
    return first_values(connection, query)


def first_values(connection: Connection, query: Select[Any]) -> Iterator[Any]:
    """Yield the first column of a query's rows, as it is stored; see `cells.stored_values`."""
    return stored_values(connection, query)
