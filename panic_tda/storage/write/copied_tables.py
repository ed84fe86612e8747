"""The tables that a copy brings: which there are, how both sides are read alike, and how they are made."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SAWarning
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.sql import Select

from panic_tda.errors import DatabaseError
from panic_tda.storage.bulk import are_ids
from panic_tda.storage.database import PIPELINE_TABLES, VERSION_TABLE, migrate
from panic_tda.storage.schema.tables import Base, Id

_Result = TypeVar("_Result")
_IMAGE = "output_image_data"
# Rows with large values are asked for few at a time.
_FETCH_ROWS, _FETCH_LARGE_ROWS = 2048, 16

_others = sa.MetaData()
# Of the pipeline's, which we leave alone.
_PERSISTENCE_DIAGRAM = sa.Table(
    "persistencediagram",
    _others,
    sa.Column("id", Id, primary_key=True),
    sa.Column("started_at", sa.DateTime),
    sa.Column("completed_at", sa.DateTime),
    sa.Column("diagram_data", sa.LargeBinary),
    sa.Column("run_id", Id, nullable=False, index=True),
    sa.Column("embedding_model", sa.String, nullable=False),
)
_ALEMBIC_VERSION = sa.Table(
    "alembic_version", _others, sa.Column("version_num", sa.String(32), primary_key=True)
)
_OURS = ("clusteringresult", "cluster", "embeddingcluster", "clusteringtree")
_TABLES = (
    *(Base.metadata.tables[name] for name in PIPELINE_TABLES),
    _PERSISTENCE_DIAGRAM,
    _ALEMBIC_VERSION,
    *(Base.metadata.tables[name] for name in _OURS),
)


@dataclass(frozen=True)
class CopiedTable:
    """A table that is copied.

    Attributes
    ----------
    described : sqlalchemy.Table
        As our schema says it.
    columns : tuple of str
        Those that the source has too, in the order of our schema, bytes last.
    exact : bool
        Times are copied as they are written, not as what they say: both databases are SQLite's.
    """

    described: sa.Table
    columns: tuple[str, ...]
    exact: bool

    @property
    def name(self) -> str:
        """Of the table."""
        return self.described.name

    @property
    def fetch_rows(self) -> int:
        """How many rows are asked for, and in memory, at once."""
        large = any(_is_bytes(self.described.c[name]) and name != "vector" for name in self.columns)
        return _FETCH_LARGE_ROWS if large else _FETCH_ROWS

    @property
    def n_blobs(self) -> int:
        """How many values of `summed`, the last ones, are bytes."""
        return sum(_is_bytes(self.described.c[name]) and name != _IMAGE for name in self.columns)

    def behind(self, connection: Connection, position: list[Any]) -> Select[Any]:
        """Return the query for the rows behind a position, each with its own first, in the source's order."""
        keys = self.place(connection)
        chosen = [*keys, *(self._read(connection, name) for name in self.columns)]
        query = sa.select(*chosen).select_from(self.described).order_by(*keys)
        if not position:
            return query
        marks = [sa.literal(value) for value in position]
        # Of a tuple of one, SQLite would go through the table.
        after = keys[0] > marks[0] if len(keys) == 1 else sa.tuple_(*keys) > sa.tuple_(*marks)
        return query.where(after)

    def summed(self, connection: Connection) -> Select[Any]:
        """Return the query for what a checksum is made of, in any order."""
        chosen = [
            sa.literal_column(f"octet_length({name})" if _postgresql(connection) else f"length({name})")
            if name == _IMAGE
            else self._read(connection, name)
            for name in self.columns
        ]
        return sa.select(*chosen).select_from(self.described)

    def check(self, *, strict: bool) -> Callable[[tuple[Any, ...]], None]:
        """Return what refuses a row that the other side would store otherwise."""
        if not strict or self.columns[0] != "id":
            return lambda values: None

        def check(values: tuple[Any, ...]) -> None:
            if not are_ids(values[:1]):
                raise DatabaseError(
                    f"{self.name} has a row whose id is not 32 lower-case hexadecimal digits, which "
                    f"PostgreSQL would keep otherwise: {values[0]!r}; repair it first (panic-tda doctor)"
                )

        return check

    def place(self, connection: Connection) -> list[sa.ColumnElement[Any]]:
        """Return by what the rows lie in order: in SQLite, mostly, their place in the file."""
        if not _postgresql(connection) and self.described.dialect_options["sqlite"]["with_rowid"]:
            return [sa.literal_column("rowid")]
        return [sa.literal_column(column.name) for column in self.described.primary_key.columns]

    def _read(self, connection: Connection, name: str) -> sa.ColumnElement[Any]:
        """Return the expression that gives a column's value alike on both sides."""
        kind = self.described.c[name].type
        text = None
        if isinstance(kind, sa.DateTime) and not self.exact:
            text = f"CASE WHEN length({name}) = 19 THEN {name} || '.000000' ELSE {name} END"
            if _postgresql(connection):
                text = f"to_char({name}, 'YYYY-MM-DD HH24:MI:SS.US')"
        elif isinstance(kind, sa.JSON) and _postgresql(connection):
            text = f"{name}::text"
        # A column of the schema, so that a value that cannot be read is named.
        return self.described.c[name] if text is None else sa.literal_column(text)


def _quiet(function: Callable[..., _Result]) -> Callable[..., _Result]:
    """Have SQLAlchemy look at tables without a warning of what it does not know.

    Indexes on an expression, of which none that we ask for is one, and columns of pgvector.
    """

    @functools.wraps(function)
    def quietly(*arguments: Any, **options: Any) -> _Result:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SAWarning)
            return function(*arguments, **options)

    return quietly


@_quiet
def find(connection: Connection, *, clusterings: bool, exact: bool) -> tuple[list[CopiedTable], list[str]]:
    """Return the tables of a source that are copied, and the names of tables and columns that are not.

    Parameters
    ----------
    connection : Connection
        To the source.
    clusterings : bool
        The clustering tables are ours.
    exact : bool
        As of `CopiedTable`.
    """
    inspector = sa.inspect(connection)
    present = inspector.get_table_names()
    tables, left_out = [], []
    for described in _TABLES:
        if described.name not in present or (described.name in _OURS and not clusterings):
            continue
        stored = {column["name"] for column in inspector.get_columns(described.name)}
        columns = [column for column in described.columns if column.name in stored]
        columns.sort(key=_is_bytes)
        tables.append(CopiedTable(described, tuple(column.name for column in columns), exact))
        left_out += [f"{described.name}.{name}" for name in sorted(stored - set(described.c.keys()))]
    copied = {table.name for table in tables}
    left_out += [name for name in present if name not in copied and name != VERSION_TABLE]
    return tables, left_out


@_quiet
def create(connection: Connection, *, like: Connection, tables: Collection[CopiedTable]) -> None:
    """Make the tables of a copy, in its first transaction.

    What the source does not keep unique, files of the field hold twice, and the copy must too. Orphans are
    in them as well, which PostgreSQL would refuse: its foreign keys come when the rows are there.
    """
    inspector = sa.inspect(like)
    together = sa.MetaData()
    for table in tables:
        if table.name in _OURS:
            continue
        found: list[Any] = [*inspector.get_unique_constraints(table.name)]
        found += inspector.get_indexes(table.name)
        unique = [set(one["column_names"]) for one in found if one.get("unique", True)]
        made = table.described.to_metadata(together)
        for constraint in list(made.constraints):
            if isinstance(constraint, sa.UniqueConstraint) and set(constraint.columns.keys()) not in unique:
                made.constraints.discard(constraint)
        keys: list[Any] | None = [] if _postgresql(connection) else None
        connection.execute(CreateTable(made, include_foreign_key_constraints=keys))
        for index in made.indexes:
            connection.execute(CreateIndex(index))
    migrate(connection)
    if _postgresql(connection):
        inspector = sa.inspect(connection)
        for name in _OURS:
            for key in inspector.get_foreign_keys(name):
                connection.exec_driver_sql(f"ALTER TABLE {name} DROP CONSTRAINT {key['name']}")


def constrain(connection: Connection) -> None:
    """Give a copy on PostgreSQL its foreign keys: what is written from now on obeys them.

    NOT VALID leaves the orphans that are there alone.
    """
    if not _postgresql(connection):
        return
    for table in Base.metadata.sorted_tables:
        for column in table.columns:
            for key in column.foreign_keys:
                cascade = f" ON DELETE {key.ondelete}" if key.ondelete else ""
                target = f"{key.column.table.name} ({key.column.name}){cascade}"
                connection.exec_driver_sql(
                    f"ALTER TABLE {table.name} ADD CONSTRAINT {table.name}_{column.name}_fkey "
                    f"FOREIGN KEY ({column.name}) REFERENCES {target} NOT VALID"
                )


def _is_bytes(column: sa.Column[Any]) -> bool:
    kind = column.type
    return isinstance(getattr(kind, "impl", kind), sa.LargeBinary)


def _postgresql(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql"
