"""Upgrade a database of the generation pipeline to panic_tda's tables: plan the upgrade, and apply it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.errors import DatabaseError, NeedsUpgrade
from panic_tda.storage import pgvector
from panic_tda.storage.database import (
    SCHEMA_VERSION,
    VERSION_TABLE,
    Database,
    count_rows,
    migrate,
    schema_version,
)
from panic_tda.wording import format_bytes

CLUSTERING_TABLES = ("clusteringresult", "cluster", "embeddingcluster", "clusteringtree")
INDEXES = (
    "ix_embedding_model_length_invocation",
    "ix_invocation_id_run_type_number",
    "ix_invocation_run_type_number",
)
OLD_INDEX = "ix_embedding_embedding_model"
_REQUIRED_COLUMNS = {
    "run": ("id",),
    "invocation": ("id", "run_id", "type", "sequence_number"),
    "embedding": ("id", "invocation_id", "embedding_model", "vector"),
}
"""Columns that a database needs to be clustered."""
_SINCE_0003 = (f"table {CLUSTERING_TABLES[-1]}", "column cluster.medoid_copies")

# Bytes per row of the index of embeddings and of both indexes of invocations (measured: 50 and 132, with a
# model name of five letters).
_BYTES_PER_EMBEDDING = 64
_BYTES_PER_INVOCATION = 144
# An index is written to the log and then to the file.
_COPIES = 2
# Some builds of SQLite overwrite dropped rows, and write them to the log too: 400 bytes per row of the old
# tables with their indexes.
_DROPPED_BYTES_PER_ROW = 512
SPARE_BYTES = 4 << 20


@dataclass(frozen=True)
class UpgradePlan:
    """The changes that an upgrade makes to one database.

    Attributes
    ----------
    database : str
        Its path or URL.
    version : str or None
        Version of panic_tda's tables; None if they are missing or those of the old pipeline.
    dropped : tuple of (str, int)
        Tables that are dropped, with their row counts.
    replaced : tuple of str
        Indexes that are dropped because new indexes replace them.
    created : tuple of str
        Tables, indexes and functions that are created; empty if the database is up to date.
    bytes_kept : int
        Estimated size of the new indexes, by which the file grows.
    bytes_needed : int
        Estimated upper limit of the disk space that is used during the upgrade.
    bytes_free : int or None
        Free space on the file's file system; None for PostgreSQL, where it is unknown.
    sorting_folder : Path or None
        Folder of the temporary files in which SQLite sorts indexes, if it is on another file system.
    sorting_free : int or None
        Free bytes on the file system of `sorting_folder`.
    """

    database: str
    version: str | None
    dropped: tuple[tuple[str, int], ...] = ()
    replaced: tuple[str, ...] = ()
    created: tuple[str, ...] = ()
    bytes_kept: int = 0
    bytes_needed: int = 0
    bytes_free: int | None = None
    sorting_folder: Path | None = None
    sorting_free: int | None = None

    @property
    def bytes_sorted(self) -> int:
        """Return the size of the temporary files; it is at most that of the new indexes."""
        return self.bytes_kept

    @property
    def is_current(self) -> bool:
        """Return whether the database needs no change."""
        return not self.created

    def describe(self) -> str:
        """Describe the changes in lines of text: dropped, created and unchanged tables, and disk space."""
        if self.is_current:
            return f"{self.database} is up to date (version {self.version}); there is nothing to do."
        lines = [f"Upgrade of {self.database} to version {SCHEMA_VERSION}:"]
        if self.dropped:
            lines.append("- drops the old clustering tables with all that is in them:")
            lines += [
                f"    {table}: {rows:,} {'row' if rows == 1 else 'rows'}" for table, rows in self.dropped
            ]
            lines.append("  The old pipeline's own clustering commands stop working on this file.")
        if self.replaced:
            lines.append(f"- drops index {', '.join(self.replaced)}, which the new ones replace")
        lines.append(f"- creates {', '.join(self.created)}")
        if self.version is None:
            lines.append("- leaves every other table as it is, row for row")
        else:
            lines.append("- keeps every clustering, and every table as it is, row for row")
        if self.bytes_kept:
            lines.append("- keeps other programs from writing while it runs, and reads every embedding once")
            lines.append("- reads every invocation, but no image where images stand last in a row")
            lines.append(f"- makes the file larger by about {format_bytes(self.bytes_kept)}")
        free = "" if self.bytes_free is None else f"; {format_bytes(self.bytes_free)} are free"
        lines.append(f"- needs about {format_bytes(self.bytes_needed)} of disk while it runs{free}")
        if self.sorting_free is not None:
            lines.append(
                f"- sorts in temporary files of up to {format_bytes(self.bytes_sorted)} in "
                f"{self.sorting_folder}; {format_bytes(self.sorting_free)} are free there"
            )
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.describe()


def plan_upgrade(database: Database) -> UpgradePlan:
    """Return the plan of an upgrade without changing anything.

    Raises
    ------
    DatabaseError
        It is not a database of the generation pipeline, or its version is newer.
    """
    try:
        database.require_current()
    except NeedsUpgrade:
        with database.reading() as connection:
            return _build_plan(database, connection)
    return UpgradePlan(str(database), SCHEMA_VERSION)


def upgrade(database: Database) -> UpgradePlan:
    """Upgrade the database to `SCHEMA_VERSION` in one transaction, and return the plan that was applied.

    An interruption leaves the database unchanged. Tables that are not in the plan are not changed.

    Raises
    ------
    DatabaseError
        See `plan_upgrade`; or the disk has too little space, or the file cannot be written.
    """
    plan = plan_upgrade(database)
    if plan.is_current:
        return plan
    if plan.bytes_free is not None and plan.bytes_free < plan.bytes_needed:
        raise DatabaseError(
            f"the upgrade of {database} takes up to {format_bytes(plan.bytes_needed)} of disk, "
            f"{format_bytes(plan.bytes_free)} are free on its file system; make room and run it again"
        )
    if plan.sorting_free is not None and plan.sorting_free < plan.bytes_sorted:
        raise DatabaseError(
            f"the upgrade of {database} sorts in temporary files of up to {format_bytes(plan.bytes_sorted)} "
            f"in {plan.sorting_folder}, where {format_bytes(plan.sorting_free)} are free; make room, or name "
            "another folder in the environment variable SQLITE_TMPDIR, and run it again"
        )
    database.require_writable()
    # Foreign keys off: with them on, dropping a table would also delete the rows of other tables that refer
    # to its rows.
    with database.writing(foreign_keys=False) as connection:
        migrate(connection)
    return plan


def _build_plan(database: Database, connection: Connection) -> UpgradePlan:
    inspector = sa.inspect(connection)
    _require_columns(database, inspector)
    version = schema_version(connection)
    present = set(inspector.get_table_names())
    # The clustering tables of an earlier version of panic_tda are not dropped.
    ours = CLUSTERING_TABLES if version is None else ()
    dropped = tuple((table, count_rows(connection, table)) for table in ours if table in present)
    has_indexes = version is not None and version >= "0002"
    created = [f"table {table}" for table in ours]
    created += [] if has_indexes else [f"index {index}" for index in INDEXES]
    created += [] if version is None else _SINCE_0003
    if VERSION_TABLE not in present:
        created.append(f"table {VERSION_TABLE}")
    if pgvector.lacks_length_function(connection):
        created.append(f"function {pgvector.LENGTH_FUNCTION}")
    index_bytes = 0
    if not has_indexes:
        index_bytes = _BYTES_PER_EMBEDDING * count_rows(connection, "embedding")
        index_bytes += _BYTES_PER_INVOCATION * count_rows(connection, "invocation")
    needed = SPARE_BYTES + _COPIES * index_bytes + _DROPPED_BYTES_PER_ROW * sum(rows for _, rows in dropped)
    folder = _find_sorting_folder() if index_bytes and database.path else None
    is_elsewhere = folder is not None and not _is_same_disk(folder, database)
    return UpgradePlan(
        database=str(database),
        version=version,
        dropped=dropped,
        replaced=(OLD_INDEX,) if not has_indexes and inspector.has_index("embedding", OLD_INDEX) else (),
        created=tuple(created),
        bytes_kept=index_bytes,
        bytes_needed=needed if is_elsewhere or database.path is None else needed + index_bytes,
        bytes_free=shutil.disk_usage(database.path.parent).free if database.path else None,
        sorting_folder=folder if is_elsewhere else None,
        sorting_free=shutil.disk_usage(folder).free if folder is not None and is_elsewhere else None,
    )


def _require_columns(database: Database, inspector: sa.Inspector) -> None:
    """Check before reading any row that the columns of the new indexes exist."""
    for table, columns in _REQUIRED_COLUMNS.items():
        present = {column["name"] for column in inspector.get_columns(table)}
        for column in columns:
            if column not in present:
                raise DatabaseError(f"{database}: table {table} has no column {column}; nothing was changed")


def _find_sorting_folder() -> Path | None:
    """Return the folder of SQLite's temporary files (https://sqlite.org/tempfiles.html, section 5)."""
    named = (os.environ.get(name) for name in ("SQLITE_TMPDIR", "TMPDIR"))
    for folder in (*named, "/var/tmp", "/usr/tmp", "/tmp", "."):
        if folder and os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
            return Path(folder)
    return None


def _is_same_disk(folder: Path, database: Database) -> bool:
    assert database.path is not None
    return folder.stat().st_dev == database.path.parent.stat().st_dev
