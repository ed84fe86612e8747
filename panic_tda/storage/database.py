"""Opening databases: URLs, transactions, versions.

SQLite is read through Python's own `sqlite3` only. A second SQLite library in the process would drop the
first one's POSIX locks whenever it closes the file, and committed rows would be lost with them.
"""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from panic_tda.disk import require_regular_file, resolve_path
from panic_tda.errors import DamagedValue, DatabaseError, MissingPath, NeedsUpgrade, WrongUsage
from panic_tda.outputs import WORK_FOLDER, WORK_SUFFIX, create_file, require_apart
from panic_tda.paths import expand_home
from panic_tda.storage import connections, pgvector, postgres
from panic_tda.storage.reasons import needs_reason, reason

SCHEMA_VERSION = "0003"
"""The revision that this code reads and writes; the newest one in `migrations/versions`."""
VERSION_TABLE = "panic_tda_version"
COPY_TABLE = "panic_tda_copy"
"""Stands in a copy of a database that is not complete yet; see `copying`."""
PIPELINE_TABLES = ("experimentconfig", "run", "invocation", "embedding")
NEWER_TABLES = ("experiments", "runs", "invocations", "embeddings")
"""Tables of the pipeline's newer generation, whose databases are imported, not worked on."""
_SECRETS = ("password", "sslpassword")
"""What a URL may say behind its question mark and nobody else is to read."""
# `postgres` is what libpq also takes, and hosts of databases hand out.
_POSTGRES_DRIVERS = ("postgresql", "postgresql+psycopg", "postgres", "postgres+psycopg")
_DRIVERS = ("sqlite", "sqlite+pysqlite", *_POSTGRES_DRIVERS)
_BROKEN_URL = re.compile(r"[a-z][a-z0-9+.-]+:/|(sqlite|postgres)[a-z0-9+]*:", flags=re.IGNORECASE)
_OLDER_VERSIONS = ("0001", "0002")
_SAVING_LOCK = 0x70616E6963746461
"""The advisory lock on PostgreSQL under which a clustering takes its key: `panictda` in ASCII."""


class Database:
    """A database that exists, and the ways to talk to it.

    Connections are opened for one purpose and closed with it; nothing is held while computing.
    """

    def __init__(self, url: URL) -> None:
        self.url = url
        self.path = resolve_path(Path(url.database)) if _is_sqlite(url) and url.database else None
        self.identity: dict[str, Any] | None = None
        """What tells it from all others, once `pending.identify` has asked for it."""

    def __str__(self) -> str:
        # Shown without password: it goes to terminals and logs.
        shown = self.url.difference_update_query(_SECRETS)
        return str(self.path) if self.path else shown.render_as_string(hide_password=True)

    @property
    def work_root(self) -> Path:
        """Folder in which runs keep their unfinished states, where none is named."""
        return self.path.with_name(f"{self.path.name}{WORK_SUFFIX}") if self.path else Path(WORK_FOLDER)

    def command(self, name: str, *words: object) -> str:
        """Return a line of shell that runs a command on this database; a password is left to the environment.

        >>> Database(make_url("sqlite:////data/a b.sqlite")).command("upgrade")
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
        # A plain BEGIN takes no lock yet: the first read does, and is waited for here.
        with self._connected("ro", "BEGIN", "SELECT 1 FROM sqlite_master LIMIT 1") as connection:
            yield connection

    @contextmanager
    def writing(self, *, foreign_keys: bool = True) -> Iterator[Connection]:
        """Open a write transaction; it commits when the block ends and rolls back when it raises.

        Raises
        ------
        DatabaseError
            The file is marked read-only, another process keeps it locked, a statement fails, or somebody
            removed the file meanwhile.
        """
        if self.path and self.path.exists() and not self.path.stat().st_mode & 0o222:
            # Root may write it all the same; the mark is the owner's word.
            raise DatabaseError(
                f"{self} is read-only; make it writable (chmod u+w), with {self.path.name}-wal and -shm "
                "where they are, or work on a copy"
            )
        before = self._file()
        with self._connected("rw", "BEGIN IMMEDIATE", foreign_keys=foreign_keys) as connection:
            yield connection
        if self._file() != before:
            # SQLite goes on in the file that it opened, which has no name any more, and says nothing.
            raise DatabaseError(
                f"{self} was removed or replaced while it was written; nothing of it is in what is there now"
            )

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
            As `writing`.
        """
        with self.writing() as connection:
            connection.rollback()

    def _file(self) -> tuple[int, int] | None:
        """Return what tells the file from another one under its name; None where there is none."""
        try:
            found = self.path.stat() if self.path else None
        except OSError:
            return None
        return None if found is None else (found.st_dev, found.st_ino)

    @contextmanager
    def _connected(self, mode: str, *begin: str, foreign_keys: bool = True) -> Iterator[Connection]:
        engine = self._engine(mode, begin, foreign_keys=foreign_keys)
        try:
            with engine.begin() as connection, self._logging_lock_waits(engine, connection):
                yield connection
        except (DBAPIError, DatabaseError) as error:
            if isinstance(error, DamagedValue) or not needs_reason(error):
                raise
            raise DatabaseError(
                f"{self}: {reason(error, self.path, connections.BUSY_TIMEOUT_SECONDS)}"
            ) from error
        finally:
            engine.dispose()

    def _logging_lock_waits(self, engine: Engine, connection: Connection) -> AbstractContextManager[None]:
        """Log waits for locks that the server waits for; those of SQLite are waited for here."""
        if self.path is not None:
            return nullcontext()
        return postgres.logging_lock_waits(engine, connection, str(self))

    def _engine(self, mode: str, begin: tuple[str, ...], *, foreign_keys: bool) -> Engine:
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
            # Whatever the server's default: who has waited for a lock is to see what was committed meanwhile.
            return engine.execution_options(isolation_level="READ COMMITTED")
        path = self.path
        engine = sa.create_engine(
            "sqlite://", creator=lambda: connections.connect(path, mode, foreign_keys), poolclass=NullPool
        )
        # The driver's own transaction control opens none for reads, so that two SELECTs could see two
        # states of the file; here every connection begins explicitly.
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
        A path of an SQLite file (`~` is the home folder), or a URL (`sqlite:///…`, `postgresql://…`,
        `postgres://…`); what is open already is returned as it is.
    create : bool
        Make a new, empty database where there is none.
    tables : bool
        Give it our tables.
    source : Database, optional
        What a new one is to be a copy of: a file is then readable by no more users than the source's.

    Raises
    ------
    MissingPath
        There is no such file and `create` was not asked for.
    WrongUsage
        With `create`: it lies where SQLite or this package keeps what belongs to another database, or it is
        the source.
    DatabaseError
        It is no database.
    """
    if isinstance(target, Database):
        return target
    database = Database(_parse(target))
    path = database.path
    if path is not None and create:
        require_apart(path, source.path if source else None)
    if path is not None and not path.exists():
        if not create:
            raise MissingPath(f"no database at {path}; name an existing file with --db or PANIC_TDA_DB")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(create_file(path, source.path if source else None))
        except OSError as error:
            # Another process may have made it just now. The parent may be a file, which "exists" too.
            if not path.exists():
                raise DatabaseError(f"no database can be made at {path}: {error.strerror}") from error
        if tables:
            _create_tables(database)
    else:
        if path is not None:
            require_regular_file(path, "name a database file with --db or PANIC_TDA_DB")
        with database.reading() as connection:
            pgvector.require_readable(connection, database)
            empty = not sa.inspect(connection).get_table_names()
        if empty and create and tables:
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
    """Run all outstanding migrations inside the transaction of `connection`, alone."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "panic_tda.storage.schema:migrations")
    config.attributes["connection"] = connection
    # Who comes second finds nothing outstanding.
    lock_for_saving(connection)
    pgvector.measure_as_bytes(connection)
    command.upgrade(config, "head")


def schema_version(connection: Connection) -> str | None:
    """Return the revision of our tables in this database, None where there are none."""
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    version = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar()
    return None if version is None else str(version)


def lock_for_saving(connection: Connection) -> None:
    """Keep others from saving until this transaction ends; on SQLite it has the one write lock already.

    Raises
    ------
    DatabaseError
        Another process kept the lock for `connections.BUSY_TIMEOUT_SECONDS`.
    """
    if connection.dialect.name != "postgresql":
        return

    def attempt() -> None:
        # Tried, not waited for: any role may, and a wait in the server could neither be told of nor ended.
        if not connection.execute(sa.select(sa.func.pg_try_advisory_xact_lock(_SAVING_LOCK))).scalar():
            seconds = connections.BUSY_TIMEOUT_SECONDS
            raise connections.LockTaken(
                f"another process was saving or upgrading for {seconds:g} s; try again"
            )

    connections.retry_while_locked(attempt, "the database")


def _parse(target: str | Path) -> URL:
    text = str(target)
    if not text:
        raise WrongUsage("the name of the database is empty; give a path with --db or PANIC_TDA_DB")
    if "://" not in text:
        if _BROKEN_URL.match(text) and not os.path.exists(text):
            # As a path, folders would be named after the password in it.
            raise WrongUsage(
                "a database URL has :// after its scheme, as postgresql://USER@HOST/NAME (the one given is "
                "not shown: it may hold a password)"
            )
        return URL.create("sqlite", database=str(expand_home(text)))
    try:
        url = make_url(text)
    except (ArgumentError, ValueError) as error:
        if "@" in text:
            # What cannot be taken apart may hold a password, and the error a part of it.
            raise WrongUsage("the database URL (not shown: it may hold a password) is none") from None
        raise WrongUsage(f"{text!r} is neither a path nor a database URL: {error}") from error
    backend = url.get_backend_name()
    if url.drivername not in _DRIVERS:
        raise WrongUsage(
            f"databases are SQLite or PostgreSQL (sqlite:///, postgresql://); got {url.drivername}://"
        )
    if backend == "sqlite" and (url.query or url.host or url.username):
        given = ", ".join(url.query) or "a host"
        raise WrongUsage(f"an SQLite URL is sqlite:/// and a path, without anything else; got {given}")
    if backend == "sqlite" and url.database in (None, "", ":memory:"):
        raise WrongUsage(
            f"{text} names no file, so nothing would be kept; give a path with --db or PANIC_TDA_DB"
        )
    if backend != "sqlite":
        return url.set(drivername="postgresql+psycopg")
    return url.set(database=str(expand_home(url.database or "")))


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _create_tables(database: Database) -> None:
    with database.writing() as connection:
        migrate(connection)
