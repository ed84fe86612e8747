"""Open databases by path or URL; manage their transactions and schema versions.

SQLite files are opened with Python's `sqlite3` only. If a second SQLite library in the process closed the
file, it would drop the POSIX locks of the first one, and committed rows could be lost.
"""

from __future__ import annotations

import os
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from panic_tda.disk import require_regular_file, resolve_path
from panic_tda.errors import DamagedValue, DatabaseError, MissingPath, NeedsUpgrade
from panic_tda.outputs import WORK_FOLDER, WORK_SUFFIX, create_file, require_distinct
from panic_tda.storage import connections, pgvector, postgres
from panic_tda.storage.reasons import explain_error, is_driver_error
from panic_tda.storage.urls import parse_target

SCHEMA_VERSION = "0003"
"""The revision that this code reads and writes; the newest one in `migrations/versions`."""
VERSION_TABLE = "panic_tda_version"
COPY_TABLE = "panic_tda_copy"
"""A table that exists only in an unfinished copy of a database; see `copying`."""
PIPELINE_TABLES = ("experimentconfig", "run", "invocation", "embedding")
NEWER_TABLES = ("experiments", "runs", "invocations", "embeddings")
"""Tables of the newer generation pipeline, whose databases can only be imported."""
_SECRETS = ("password", "sslpassword")
"""Query parameters of a URL that must not be shown."""
_OLDER_VERSIONS = ("0001", "0002")
_SAVING_LOCK = 0x70616E6963746461
"""Id of the advisory lock on PostgreSQL for saving a clustering: `panictda` in ASCII."""


class Database:
    """A database that exists, with its read and write transactions.

    Each transaction opens a connection and closes it at the end; no connection is open during a computation.
    """

    def __init__(self, url: URL) -> None:
        self.url = url
        self.path = resolve_path(Path(url.database)) if _is_sqlite(url) and url.database else None
        self.identity: dict[str, Any] | None = None
        """Values that identify the database; set by `pending.identify_database`."""

    def __str__(self) -> str:
        # Without password, because it is shown in terminals and logs.
        shown = self.url.difference_update_query(_SECRETS)
        return str(self.path) if self.path else shown.render_as_string(hide_password=True)

    @property
    def work_root(self) -> Path:
        """Return the default folder of checkpoints."""
        return self.path.with_name(f"{self.path.name}{WORK_SUFFIX}") if self.path else Path(WORK_FOLDER)

    def command(self, name: str, *words: object) -> str:
        """Return the shell command line for a command on this database; it never contains a password.

        >>> Database(parse_target("sqlite:////data/a b.sqlite")).command("upgrade")
        "panic-tda upgrade --db '/data/a b.sqlite'"
        """
        option = [] if self._has_secret else ["--db", str(self)]
        line = shlex.join(["panic-tda", name, *option, *map(str, words)])
        return f"{line} (with PANIC_TDA_DB set to the URL of the database)" if self._has_secret else line

    @property
    def _has_secret(self) -> bool:
        return self.url.password is not None or any(name in self.url.query for name in _SECRETS)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a connection that cannot write, inside one read transaction."""
        # BEGIN takes no lock, but the first read does; wait for it here.
        with self._connect("ro", "BEGIN", "SELECT 1 FROM sqlite_master LIMIT 1") as connection:
            yield connection

    @contextmanager
    def writing(self, *, foreign_keys: bool = True) -> Iterator[Connection]:
        """Open a write transaction; it commits when the block ends and rolls back when it raises.

        Raises
        ------
        DatabaseError
            The file is marked read-only, another process holds a lock, a statement fails, or the file was
            removed meanwhile.
        """
        if self.path and self.path.exists() and not self.path.stat().st_mode & 0o222:
            # Checked explicitly, because root can write to files that are marked read-only.
            raise DatabaseError(
                f"{self} is read-only; make it writable (chmod u+w), with {self.path.name}-wal and -shm "
                "where they are, or work on a copy"
            )
        before = self._identify_file()
        with self._connect("rw", "BEGIN IMMEDIATE", foreign_keys=foreign_keys) as connection:
            yield connection
        if self._identify_file() != before:
            # SQLite reports no error: it writes to the file that it opened, which has no name any more.
            raise DatabaseError(
                f"{self} was removed or replaced while it was written; what was written is lost"
            )

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open a read-only session for the mapped classes of `schema.tables`."""
        with self.reading() as connection, Session(connection) as session:
            yield session

    def require_current(self) -> None:
        """Check that the tables have the schema version of this code.

        Raises
        ------
        NeedsUpgrade
            The version is older; `panic-tda upgrade` upgrades it.
        DatabaseError
            The version is newer or unknown, or this is not a database of the pipeline.
        """
        with self.reading() as connection:
            version = schema_version(connection)
            inspector = sa.inspect(connection)
            present = inspector.get_table_names()
            has_ours = "clusteringresult" in present and "key" in {
                column["name"] for column in inspector.get_columns("clusteringresult")
            }
        if COPY_TABLE in present:
            name = "TARGET, the URL of this database" if self._has_secret else shlex.quote(str(self))
            raise DatabaseError(
                f"{self} is an unfinished copy; complete it with: panic-tda copy-database SOURCE {name}"
            )
        if set(NEWER_TABLES) <= set(present):
            source = shlex.quote(str(self))
            raise DatabaseError(
                f"{self} is a database of the pipeline's newer generation (tables "
                f"{', '.join(NEWER_TABLES)}); import it into a new one: "
                f"panic-tda import-embeddings {source} --db NEW.sqlite"
            )
        missing = sorted(set(PIPELINE_TABLES) - set(present))
        if missing:
            raise DatabaseError(
                f"{self} is not a database of the generation pipeline: it has no table {', '.join(missing)}"
            )
        if version is None and has_ours:
            raise DatabaseError(
                f"{self} has clusterings of panic_tda, and its table {VERSION_TABLE} is missing or empty; "
                "restore that table from a copy, with the version in its column version_num"
            )
        if version is None or version in _OLDER_VERSIONS:
            raise NeedsUpgrade(
                f"{self} has no clustering tables of version {SCHEMA_VERSION} yet "
                f"(it has {version or 'none'}); run: {self.command('upgrade')}"
            )
        if version != SCHEMA_VERSION and not (version.isdigit() and version > SCHEMA_VERSION):
            raise DatabaseError(
                f"{self} has the unknown version {version!r:.40} in its table {VERSION_TABLE}; this "
                f"panic_tda knows versions up to {SCHEMA_VERSION}"
            )
        if version != SCHEMA_VERSION:
            raise DatabaseError(
                f"{self} was written by a newer panic_tda (tables of version {version}, this one knows "
                f"{SCHEMA_VERSION}); install that version"
            )

    def require_writable(self) -> None:
        """Check that a write transaction can be opened.

        Raises
        ------
        DatabaseError
            See `writing`.
        """
        with self.writing() as connection:
            connection.rollback()

    def _identify_file(self) -> tuple[int, int] | None:
        """Return device and inode of the file; None if it does not exist."""
        try:
            status = self.path.stat() if self.path else None
        except OSError:
            return None
        return None if status is None else (status.st_dev, status.st_ino)

    @contextmanager
    def _connect(self, mode: str, *begin: str, foreign_keys: bool = True) -> Iterator[Connection]:
        engine = self._create_engine(mode, begin, foreign_keys=foreign_keys)
        try:
            with engine.begin() as connection, self._logging_lock_waits(engine, connection):
                yield connection
        except (DBAPIError, DatabaseError) as error:
            if isinstance(error, DamagedValue) or not is_driver_error(error):
                raise
            raise DatabaseError(
                f"{self}: {explain_error(error, self.path, connections.BUSY_TIMEOUT_SECONDS)}"
            ) from error
        finally:
            engine.dispose()

    def _logging_lock_waits(self, engine: Engine, connection: Connection) -> AbstractContextManager[None]:
        """Log waits for locks of a PostgreSQL server; `connections` logs those for SQLite."""
        if self.path is not None:
            return nullcontext()
        return postgres.logging_lock_waits(engine, connection, str(self))

    def _create_engine(self, mode: str, begin: tuple[str, ...], *, foreign_keys: bool) -> Engine:
        if self.path is None:
            try:
                arguments = postgres.connect_arguments(self.url)
                engine = sa.create_engine(self.url, poolclass=NullPool, connect_args=arguments)
            except ModuleNotFoundError as error:
                raise DatabaseError("PostgreSQL needs a driver: pip install 'psycopg[binary]'") from error
            postgres.prepare(engine, str(self))
            pgvector.read_as_bytes(engine)
            if mode == "ro":
                return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            # Set explicitly: after waiting for a lock, rows that were committed meanwhile must be visible.
            return engine.execution_options(isolation_level="READ COMMITTED")
        return _create_sqlite_engine(self.path, mode, begin, foreign_keys)


@lru_cache(maxsize=8)
def _create_sqlite_engine(path: Path, mode: str, begin: tuple[str, ...], foreign_keys: bool) -> Engine:
    """Create an engine without open connections; cached, because it keeps the queries that it compiled."""
    engine = sa.create_engine(
        "sqlite://", creator=lambda: connections.connect(path, mode, foreign_keys), poolclass=NullPool
    )
    # Python's sqlite3 opens no transaction for reads, so two SELECTs could see two states of the file;
    # here every connection begins a transaction explicitly.
    event.listen(engine, "begin", lambda connection: connections.begin(connection, begin, path))
    return engine


def open_database(
    target: Database | str | Path,
    *,
    create: bool = False,
    tables: bool = True,
    source: Database | None = None,
) -> Database:
    """Open a database by path or SQLAlchemy URL.

    Parameters
    ----------
    target : Database, str or Path
        Path of an SQLite file (`~` is the home folder), or URL (`sqlite:///…`, `postgresql://…`,
        `postgres://…`). A `Database` is returned unchanged.
    create : bool
        Whether to create a new, empty database if it does not exist.
    tables : bool
        Whether to create the tables in a new database.
    source : Database, optional
        Source of which a new database will be a copy: only users who can read its file can read the new one.

    Raises
    ------
    MissingPath
        There is no such file, and `create` is False.
    WrongUsage
        With `create`: the path is reserved for a file of another database, or it is the source.
    DatabaseError
        It is not a database.
    """
    if isinstance(target, Database):
        return target
    database = Database(parse_target(target))
    path = database.path
    if path is not None and create:
        require_distinct(path, source.path if source else None)
    if path is not None and not path.exists():
        if not create:
            raise MissingPath(f"no database at {path}; name an existing file with --db or PANIC_TDA_DB")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(create_file(path, source.path if source else None))
        except OSError as error:
            # Another process may have created it just now. (EEXIST is not enough: the parent may be a file.)
            if not path.exists():
                raise DatabaseError(f"no database can be created at {path}: {error.strerror}") from error
        if tables:
            _create_tables(database)
    else:
        if path is not None:
            require_regular_file(path, "name a database file with --db or PANIC_TDA_DB")
        with database.reading() as connection:
            pgvector.require_readable(connection, database)
            is_empty = not sa.inspect(connection).get_table_names()
        if is_empty and create and tables:
            _create_tables(database)
    return database


def open_current(database: Database | str | Path) -> Database:
    """Open a database and check that it has the schema version of this code.

    Raises
    ------
    MissingPath, DatabaseError, NeedsUpgrade
        The database does not exist, is not a panic_tda database, or has an older schema.
    """
    database = open_database(database)
    database.require_current()
    return database


def sqlite_version() -> str:
    """Return the version of the SQLite library of this process."""
    return sqlite3.sqlite_version


def migrate(connection: Connection) -> None:
    """Run all outstanding migrations inside the transaction of `connection`, under a lock."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "panic_tda.storage.schema:migrations")
    config.attributes["connection"] = connection
    # A second process waits here, and then has no outstanding migrations.
    lock_for_saving(connection)
    pgvector.create_length_function(connection)
    command.upgrade(config, "head")


def schema_version(connection: Connection) -> str | None:
    """Return the schema version of panic_tda's tables; None if they are missing."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    version = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar()
    return None if version is None else str(version)


def count_rows(connection: Connection, table: str) -> int:
    """Return the number of rows of a table."""
    return int(connection.execute(sa.select(sa.func.count()).select_from(sa.table(table))).scalar_one())


def lock_for_saving(connection: Connection) -> None:
    """Lock the database against saving by others until this transaction ends; SQLite has locked it already.

    Raises
    ------
    DatabaseError
        Another process kept the lock for `connections.BUSY_TIMEOUT_SECONDS`.
    """
    if connection.dialect.name != "postgresql":
        return

    def attempt() -> None:
        # Tried repeatedly, because a wait inside the server could be neither logged nor interrupted.
        if not connection.execute(sa.select(sa.func.pg_try_advisory_xact_lock(_SAVING_LOCK))).scalar():
            seconds = connections.BUSY_TIMEOUT_SECONDS
            raise connections.LockTaken(
                f"another process was saving or upgrading for {seconds:g} s; try again"
            )

    connections.retry_while_locked(attempt, "the database")


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _create_tables(database: Database) -> None:
    with database.writing() as connection:
        migrate(connection)
