"""Open connections to SQLite files, and retry while another process holds a lock (SQLite and PostgreSQL).

`database` decides which connections and transactions are needed; this module does not.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from panic_tda.errors import DatabaseError
from panic_tda.interrupts import interruptible
from panic_tda.paths import sqlite_uri
from panic_tda.storage.reasons import explain_missing_locks, supports_locks

BUSY_TIMEOUT_SECONDS = 60.0
LOG_AFTER_SECONDS, _PAUSE_SECONDS = 2.0, 0.02
CACHE_KIBIBYTES, STREAM_CACHE_KIBIBYTES = 256 << 10, 4 << 10

_log = logging.getLogger(__name__)


class LockTaken(DatabaseError):
    """An error that another process holds the lock."""


def connect(path: Path, mode: str, foreign_keys: bool) -> sqlite3.Connection:
    """Open a file with mode `ro` or `rw`, outside a transaction; a signal can interrupt its statements."""
    uri = sqlite_uri(path, mode, immutable=mode == "ro" and _needs_immutable(path))
    connection = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, factory=_Connection)
    interruptible.add(connection)
    try:
        retry_while_locked(lambda: _configure(connection, mode, foreign_keys), path)
    except BaseException:
        connection.close()
        raise
    return connection


def begin(connection: Connection, statements: tuple[str, ...], path: Path) -> None:
    """Begin a transaction with these statements; wait while another process holds the lock."""
    # A failed statement rolls back, so all of them are repeated.
    retry_while_locked(lambda: [connection.exec_driver_sql(statement) for statement in statements], path)
    driver = connection.connection.driver_connection
    assert driver is not None
    # The transaction holds its lock now; later waits are short.
    driver.execute(f"PRAGMA busy_timeout = {1000 * BUSY_TIMEOUT_SECONDS:.0f}")


def retry_while_locked(attempt: Callable[[], object], name: object) -> None:
    """Call `attempt` until no other process holds the lock, for up to `BUSY_TIMEOUT_SECONDS`.

    SQLite's own wait runs in C, where Python's signal handlers cannot run: Ctrl-C would have no effect until
    it ends.
    """
    began, is_logged = time.monotonic(), False
    while True:
        try:
            attempt()
            return
        except (sqlite3.OperationalError, DBAPIError, LockTaken) as error:
            waited = time.monotonic() - began
            if not _is_lock(error) or waited >= BUSY_TIMEOUT_SECONDS:
                raise
        if waited >= LOG_AFTER_SECONDS and not is_logged:
            is_logged = True
            if isinstance(name, Path) and not supports_locks(name.parent):
                raise DatabaseError(f"{name}: {explain_missing_locks(name)}")
            _log.info("%s: waiting for a lock held by another process", name)
        time.sleep(_PAUSE_SECONDS)


@contextmanager
def streaming_cache(connection: Connection) -> Iterator[None]:
    """Keep few pages of an SQLite file in memory inside the block, which reads every page once.

    Memory that is used for the first time costs more than the page that is read into it: 460 MB of vectors
    took 0.4 s of processor time, and 0.8 s with the cache of other queries.
    """
    if connection.dialect.name != "sqlite":
        yield
        return
    driver: Any = connection.connection.driver_connection
    driver.execute(f"PRAGMA cache_size = -{STREAM_CACHE_KIBIBYTES}")
    try:
        yield
    finally:
        # The connection may have been closed, or a signal may interrupt it.
        with suppress(sqlite3.Error):
            driver.execute(f"PRAGMA cache_size = -{CACHE_KIBIBYTES}")


class _Connection(sqlite3.Connection):
    """A connection that supports weak references; the driver's own class does not."""


def _needs_immutable(path: Path) -> bool:
    """Return whether SQLite can open a file only as `immutable`, which promises that nobody writes it.

    In WAL mode, even a reader creates a log and its index beside the file if they are missing.
    """
    logs = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
    if os.access(path.parent, os.W_OK) or any(log.exists() for log in logs):
        return False
    with closing(sqlite3.connect(sqlite_uri(path, "ro"), uri=True, timeout=0)) as connection:
        try:
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1")
        except sqlite3.OperationalError as error:
            return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
    return False


def _configure(connection: sqlite3.Connection, mode: str, foreign_keys: bool) -> None:
    connection.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")
    # Ids come in no order, so the indexes of a million rows should fit. SQLite allocates on demand.
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIBIBYTES}")
    # Committed data must survive a power failure, whatever default SQLite was built with.
    connection.execute("PRAGMA synchronous = EXTRA")
    if mode == "rw" and connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        connection.execute("PRAGMA journal_mode = WAL")


def _is_lock(error: Exception) -> bool:
    cause = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(cause, "sqlite_errorcode", None)
    # The extended codes have the plain one in their lowest byte.
    return isinstance(cause, LockTaken) or (code is not None and code & 0xFF == sqlite3.SQLITE_BUSY)
