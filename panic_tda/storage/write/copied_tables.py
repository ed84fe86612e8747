"""Find the tables to copy, read them in the same form from SQLite and PostgreSQL, and create them."""

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
from panic_tda.storage.columns import are_ids
from panic_tda.storage.database import PIPELINE_TABLES, VERSION_TABLE, migrate
from panic_tda.storage.schema.tables import EMBEDDING_PREDICTION, PROMPT_EMBEDDING, Base, Id

_Result = TypeVar("_Result")
_IMAGE = "output_image_data"
# Rows with large values are fetched in small batches.
_FETCH_ROWS, _FETCH_LARGE_ROWS = 2048, 16

_others = sa.MetaData()
# A table of the pipeline that panic_tda does not use.
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
_MIGRATED = ("clusteringresult", "cluster", "embeddingcluster", "clusteringtree")
_OURS = (*_MIGRATED, EMBEDDING_PREDICTION.name)
_TABLES = (
    *(Base.metadata.tables[name] for name in PIPELINE_TABLES),
    _PERSISTENCE_DIAGRAM,
    _ALEMBIC_VERSION,
    *(Base.metadata.tables[name] for name in _MIGRATED),
    EMBEDDING_PREDICTION,
    PROMPT_EMBEDDING,
)


@dataclass(frozen=True)
class CopiedTable:
    """A table that is copied.

    Attributes
    ----------
    described : sqlalchemy.Table
        Its definition in panic_tda's schema.
    columns : tuple of str
        Columns that the source has too, in the order of the schema, columns of bytes last.
    exact : bool
        Whether times are copied character by character, because both databases are SQLite files.
    """

    described: sa.Table
    columns: tuple[str, ...]
    exact: bool

    @property
    def name(self) -> str:
        """Return the name of the table."""
        return self.described.name

    @property
    def fetch_rows(self) -> int:
        """Return the number of rows per fetch, which are in memory together."""
        large = any(_is_bytes(self.described.c[name]) and name != "vector" for name in self.columns)
        return _FETCH_LARGE_ROWS if large else _FETCH_ROWS

    @property
    def n_blobs(self) -> int:
        """Return the number of columns of `select_for_checksum` that are bytes; they are the last ones."""
        return sum(_is_bytes(self.described.c[name]) and name != _IMAGE for name in self.columns)

    def select_after(self, connection: Connection, position: list[Any]) -> Select[Any]:
        """Return the query for the rows after a position, each with its position, in the source's order."""
        keys = self.order_columns(connection)
        chosen = [*keys, *(self._read(connection, name) for name in self.columns)]
        query = sa.select(*chosen).select_from(self.described).order_by(*keys)
        if not position:
            return query
        marks = [sa.literal(value) for value in position]
        # For a tuple of one column, SQLite would scan the table.
        after = keys[0] > marks[0] if len(keys) == 1 else sa.tuple_(*keys) > sa.tuple_(*marks)
        return query.where(after)

    def select_for_checksum(self, connection: Connection) -> Select[Any]:
        """Return the query for the values that enter the checksum, in any order."""
        chosen = [
            sa.literal_column(f"octet_length({name})" if _is_postgresql(connection) else f"length({name})")
            if name == _IMAGE
            else self._read(connection, name)
            for name in self.columns
        ]
        return sa.select(*chosen).select_from(self.described)

    def make_check(self, *, strict: bool) -> Callable[[tuple[Any, ...]], None]:
        """Return a function that raises an error for a row that the target would store differently."""
        if not strict or self.columns[0] != "id":
            return lambda values: None

        def check(values: tuple[Any, ...]) -> None:
            if not are_ids(values[:1]):
                raise DatabaseError(
                    f"{self.name} has a row whose id is not 32 lower-case hexadecimal digits, which "
                    f"PostgreSQL would store differently: {values[0]!r}; repair it first (panic-tda doctor)"
                )

        return check

    def order_columns(self, connection: Connection) -> list[sa.ColumnElement[Any]]:
        """Return the columns that order the rows: mostly the rowid in SQLite, otherwise the primary key."""
        if not _is_postgresql(connection) and self.described.dialect_options["sqlite"]["with_rowid"]:
            return [sa.literal_column("rowid")]
        return [sa.literal_column(column.name) for column in self.described.primary_key.columns]

    def _read(self, connection: Connection, name: str) -> sa.ColumnElement[Any]:
        """Return the expression for a column's value in the form that both databases share."""
        kind = self.described.c[name].type
        text = None
        if isinstance(kind, sa.DateTime) and not self.exact:
            text = f"CASE WHEN length({name}) = 19 THEN {name} || '.000000' ELSE {name} END"
            if _is_postgresql(connection):
                # to_char would turn infinity into NULL, and a year BC into a year AD.
                text = (
                    f"CASE WHEN isfinite({name}) AND {name} >= '0001-01-01' "
                    f"THEN to_char({name}, 'YYYY-MM-DD HH24:MI:SS.US') ELSE {name}::text END"
                )
        elif isinstance(kind, sa.JSON) and _is_postgresql(connection):
            text = f"{name}::text"
        # A column of the schema, so that an error names the value that cannot be read.
        return self.described.c[name] if text is None else sa.literal_column(text)


def _silence_warnings(function: Callable[..., _Result]) -> Callable[..., _Result]:
    """Silence SQLAlchemy's warnings about indexes on expressions and columns of pgvector.

    Inspecting tables warns of both; neither is copied.
    """

    @functools.wraps(function)
    def silenced(*arguments: Any, **options: Any) -> _Result:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SAWarning)
            return function(*arguments, **options)

    return silenced


@_silence_warnings
def find_tables(
    connection: Connection, *, clusterings: bool, exact: bool
) -> tuple[list[CopiedTable], list[str]]:
    """Return the tables of a source to copy, and the names of tables and columns that are left out.

    Parameters
    ----------
    connection : Connection
        Connection to the source.
    clusterings : bool
        Whether the clustering tables are panic_tda's, not the old pipeline's.
    exact : bool
        See `CopiedTable`.
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


@_silence_warnings
def create_tables(connection: Connection, *, like: Connection, tables: Collection[CopiedTable]) -> None:
    """Create the tables of a copy, in its first transaction.

    A source without a unique constraint may have repeated rows, so the copy gets only the constraints that
    the source has. A source may also have orphans, which PostgreSQL would refuse, so foreign keys are added
    after the rows.
    """
    inspector = sa.inspect(like)
    metadata = sa.MetaData()
    for table in tables:
        if table.name in _OURS:
            continue
        constraints_and_indexes: list[Any] = [*inspector.get_unique_constraints(table.name)]
        constraints_and_indexes += inspector.get_indexes(table.name)
        unique = [
            set(entry["column_names"]) for entry in constraints_and_indexes if entry.get("unique", True)
        ]
        copy = table.described.to_metadata(metadata)
        for constraint in list(copy.constraints):
            if isinstance(constraint, sa.UniqueConstraint) and set(constraint.columns.keys()) not in unique:
                copy.constraints.discard(constraint)
        keys: list[Any] | None = [] if _is_postgresql(connection) else None
        connection.execute(CreateTable(copy, include_foreign_key_constraints=keys))
        for index in copy.indexes:
            connection.execute(CreateIndex(index))
    migrate(connection)
    if any(table.described is EMBEDDING_PREDICTION for table in tables):
        EMBEDDING_PREDICTION.create(connection)
    if _is_postgresql(connection):
        inspector = sa.inspect(connection)
        present = inspector.get_table_names()
        for name in filter(present.__contains__, _OURS):
            for key in inspector.get_foreign_keys(name):
                connection.exec_driver_sql(f"ALTER TABLE {name} DROP CONSTRAINT {key['name']}")


def add_foreign_keys(connection: Connection) -> None:
    """Add the foreign keys to a copy on PostgreSQL.

    NOT VALID enforces them for new rows only, so that existing orphans stay.
    """
    if not _is_postgresql(connection):
        return
    present = sa.inspect(connection).get_table_names()
    for table in (*Base.metadata.sorted_tables, EMBEDDING_PREDICTION):
        for column in table.columns if table.name in present else ():
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


def _is_postgresql(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql"
