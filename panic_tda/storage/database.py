"""Opening databases: URLs, connections, pragmas, transactions, versions.

SQLite is read through Python's own `sqlite3` only. A second SQLite library in the process would drop the
first one's POSIX locks whenever it closes the file, and committed rows would be lost with them.
"""

from __future__ import annotations

import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from panic_tda.errors import DatabaseError, MissingPath, NeedsUpgrade, WrongUsage

SCHEMA_VERSION = "0002"
"""The revision that this code reads and writes; the newest one in `migrations/versions`."""
VERSION_TABLE = "panic_tda_version"
BUSY_TIMEOUT_SECONDS = 60.0
CACHE_KIBIBYTES = 256 << 10
PIPELINE_TABLES = ("experimentconfig", "run", "invocation", "embedding")


class Database:
    """A database that exists, and the ways to talk to it.

    Connections are opened for one purpose and closed with it; nothing is held while computing.
    """

    def __init__(self, url: URL) -> None:
        self.url = url
        self.path = Path(url.database).resolve() if _is_sqlite(url) and url.database else None

    def __str__(self) -> str:
        return str(self.path) if self.path else self.url.render_as_string(hide_password=True)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Open a connection that cannot write, inside one read transaction."""
        with self._connected("ro", "BEGIN") as connection:
            yield connection

    @contextmanager
    def writing(self, *, foreign_keys: bool = True) -> Iterator[Connection]:
        """Open a write transaction; it commits when the block ends and rolls back when it raises."""
        with self._connected("rw", "BEGIN IMMEDIATE", foreign_keys=foreign_keys) as connection:
            yield connection

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open a read-only session for the mapped classes of `schemas`."""
        with self.reading() as connection, Session(connection) as session:
            yield session

    def require_current(self) -> None:
        """Check that the tables are those this code knows.

        Raises
        ------
        NeedsUpgrade
            They are older; `panic-tda upgrade` brings them up.
        DatabaseError
            They are newer, or this is no database of the pipeline at all.
        """
        with self.reading() as connection:
            version = schema_version(connection)
            missing = sorted(set(PIPELINE_TABLES) - set(sa.inspect(connection).get_table_names()))
        if missing:
            raise DatabaseError(
                f"{self} is not a database of the generation pipeline: it has no table {', '.join(missing)}"
            )
        if version is None or version < SCHEMA_VERSION:
            raise NeedsUpgrade(
                f"{self} has no clustering tables of version {SCHEMA_VERSION} yet "
                f"(it has {version or 'none'}); run: panic-tda upgrade --db {shlex.quote(str(self))}"
            )
        if version > SCHEMA_VERSION:
            raise DatabaseError(
                f"{self} was written by a newer panic_tda (tables of version {version}, this one knows "
                f"{SCHEMA_VERSION}); install that version"
            )

    def require_writable(self) -> None:
        """Check now, not after hours of computing, that a result can be saved.

        Raises
        ------
        DatabaseError
            The file is marked read-only, or no write transaction can be opened.
        """
        if self.path and not self.path.stat().st_mode & 0o222:
            # Root may write it all the same; the mark is the owner's word.
            raise DatabaseError(
                f"{self} is read-only; make it writable (chmod u+w), with {self.path.name}-wal and -shm "
                "where they are, or work on a copy"
            )
        with self.writing() as connection:
            connection.rollback()

    @contextmanager
    def _connected(self, mode: str, begin: str, *, foreign_keys: bool = True) -> Iterator[Connection]:
        engine = self._engine(mode, begin, foreign_keys=foreign_keys)
        try:
            with engine.begin() as connection:
                yield connection
        except DBAPIError as error:
            raise DatabaseError(f"{self}: {_reason(error)}") from error
        finally:
            engine.dispose()

    def _engine(self, mode: str, begin: str, *, foreign_keys: bool) -> Engine:
        if self.path is None:
            try:
                engine = sa.create_engine(self.url, poolclass=NullPool)
            except ModuleNotFoundError as error:
                raise DatabaseError("PostgreSQL needs a driver: pip install 'psycopg[binary]'") from error
            if mode == "ro":
                return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            return engine
        path = self.path
        engine = sa.create_engine(
            "sqlite://", creator=lambda: _connect(path, mode, foreign_keys), poolclass=NullPool
        )
        # The driver's own transaction control opens none for reads, so that two SELECTs could see two
        # states of the file; here every connection begins explicitly.
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        return engine


def open_database(target: Database | str | Path, *, create: bool = False) -> Database:
    """Open a database by path or SQLAlchemy URL.

    Parameters
    ----------
    target : Database, str or Path
        A path of an SQLite file, or a URL (`sqlite:///…`, `postgresql+psycopg://…`); what is open already
        is returned as it is.
    create : bool
        Make a new, empty database where there is none.

    Raises
    ------
    MissingPath
        There is no such file and `create` was not asked for.
    DatabaseError
        It is no database.
    """
    if isinstance(target, Database):
        return target
    database = Database(_parse(target))
    path = database.path
    if path is not None and not path.exists():
        if not create:
            raise MissingPath(f"no database at {path}; name an existing file with --db or PANIC_TDA_DB")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        except OSError as error:
            raise DatabaseError(f"no database can be made at {path}: {error.strerror}") from error
        _create_tables(database)
    elif path is not None and path.is_dir():
        raise MissingPath(f"{path} is a folder; name a database file with --db or PANIC_TDA_DB")
    else:
        with database.reading() as connection:
            empty = not sa.inspect(connection).get_table_names()
        if empty and create:
            _create_tables(database)
    return database


def open_current(database: Database | str | Path) -> Database:
    """Open a database and check that its tables are those of this version.

    Raises
    ------
    MissingPath, DatabaseError, NeedsUpgrade
        There is none, it is something else, or older.
    """
    database = open_database(database)
    database.require_current()
    return database


def sqlite_version() -> str:
    """Return the version of the one SQLite library of this process."""
    return sqlite3.sqlite_version


def migrate(connection: Connection) -> None:
    """Run all outstanding migrations inside the transaction of `connection`."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "panic_tda.storage:migrations")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def schema_version(connection: Connection) -> str | None:
    """Return the revision of our tables in this database, None where there are none."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    version = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar()
    return None if version is None else str(version)


def _parse(target: str | Path) -> URL:
    text = str(target)
    if not text:
        raise WrongUsage("the name of the database is empty; give a path with --db or PANIC_TDA_DB")
    if "://" not in text:
        return URL.create("sqlite", database=text)
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise WrongUsage(f"{text!r} is neither a path nor a database URL: {error}") from error
    backend = url.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        raise WrongUsage(f"databases are SQLite or PostgreSQL; got {backend} in {url.render_as_string()}")
    if backend == "sqlite" and url.database in (None, "", ":memory:"):
        raise WrongUsage(
            f"{text} names no file, so nothing would be kept; give a path with --db or PANIC_TDA_DB"
        )
    return url.set(drivername="postgresql+psycopg") if backend == "postgresql" else url


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _connect(path: Path, mode: str, foreign_keys: bool) -> sqlite3.Connection:
    # The path is percent-encoded: a '?' or '#' in it would end it, a '%' would be taken for an escape.
    uri = f"file:{quote(str(path))}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None)
    try:
        _configure(connection, mode, foreign_keys)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _configure(connection: sqlite3.Connection, mode: str, foreign_keys: bool) -> None:
    connection.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")
    # Ids are looked up and inserted in no order: a million rows' indexes are to fit. Taken when needed only.
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIBIBYTES}")
    if mode == "rw" and connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        connection.execute("PRAGMA journal_mode = WAL")


def _create_tables(database: Database) -> None:
    with database.writing() as connection:
        migrate(connection)


def _reason(error: DBAPIError) -> str:
    reason = str(error.orig)
    if "locked" in reason:
        return f"{reason} for {BUSY_TIMEOUT_SECONDS:g} s by another process; try again when it is done"
    if "readonly" in reason or "unable to open" in reason:
        # A file in WAL mode is not opened without its log and the index of it.
        return (
            f"{reason}; the file must be readable, and the folder and the -wal and -shm in it writable "
            "(SQLite keeps its log there, also while reading); or work on a copy"
        )
    return reason
