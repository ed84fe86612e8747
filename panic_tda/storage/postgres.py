"""Set up connections to PostgreSQL, and log waits for the server and for locks."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine

from panic_tda.errors import DatabaseError
from panic_tda.storage import connections

_LOOK_SECONDS = 1.0
_WATCHER_TIMEOUT_SECONDS = 5
# A lock timeout that the server or the URL sets is not changed.
_PREPARE = """
    SELECT current_setting('server_encoding'), set_config('row_security', 'off', false),
    set_config('lock_timeout', CASE current_setting('lock_timeout')
        WHEN '0' THEN %s ELSE current_setting('lock_timeout') END, false)
"""
_IS_BLOCKED = """
    SELECT cardinality(pg_blocking_pids(pid)) > 0
        AND clock_timestamp() - query_start > make_interval(secs => %s)
    FROM pg_stat_activity WHERE pid = %s
"""

_log = logging.getLogger(__name__)


def connect_arguments(url: URL) -> dict[str, Any]:
    """Return settings of the driver that neither the URL nor the environment sets.

    A server that does not answer within `connections.BUSY_TIMEOUT_SECONDS` is an error, also after the
    connection was made. The time of a query is not limited.
    """
    seconds = max(2, int(connections.BUSY_TIMEOUT_SECONDS))
    settings = {
        "connect_timeout": seconds,
        "client_encoding": "UTF8",
        "keepalives_idle": seconds // 2,
        "keepalives_interval": max(1, seconds // 6),
        "keepalives_count": 3,
        "tcp_user_timeout": 1000 * seconds,
    }
    if "PGCONNECT_TIMEOUT" in os.environ:
        del settings["connect_timeout"]
    return {name: value for name, value in settings.items() if name not in url.query}


def prepare(engine: Engine, name: str) -> None:
    """Make every connection of an engine log waits for the server, and configure its session.

    A wait for a lock ends after `connections.BUSY_TIMEOUT_SECONDS`. A row-level security policy that hides
    rows is an error. A database with another encoding than UTF-8 is refused with a `DatabaseError`.
    """

    def connect(dialect: Any, _record: Any, arguments: Any, settings: Any) -> Any:
        with _log_if_slow(f"{name}: waiting for the server to answer"):
            return dialect.connect(*arguments, **settings)

    def set_session(connection: Any, _record: Any) -> None:
        row = connection.execute(_PREPARE, (f"{1000 * connections.BUSY_TIMEOUT_SECONDS:.0f}",)).fetchone()
        connection.commit()
        if row[0] != "UTF8":
            connection.close()
            raise DatabaseError(
                f"{name} has the encoding {row[0]}, and only UTF8 keeps all texts; copy it into a database "
                "created WITH ENCODING 'UTF8'"
            )

    event.listen(engine, "connect", _keep_unreadable_times)
    event.listen(engine, "do_connect", connect)
    event.listen(engine, "connect", set_session)


def _keep_unreadable_times(connection: Any, _record: Any) -> None:
    """Make the driver return times that Python cannot represent as text, so that errors can show them.

    PostgreSQL stores `infinity`, `-infinity` and years before 1 or above 9999.
    """
    from psycopg import DataError
    from psycopg.types.datetime import TimestampBinaryLoader, TimestampLoader

    class TextLoader(TimestampLoader):
        def load(self, data: Any) -> Any:
            try:
                return super().load(data)
            except DataError:
                return bytes(data).decode()

    class BinaryLoader(TimestampBinaryLoader):
        def load(self, data: Any) -> Any:
            try:
                return super().load(data)
            except DataError as error:
                return str(error)

    for loader in (TextLoader, BinaryLoader):
        connection.adapters.register_loader("timestamp", loader)


@contextmanager
def logging_lock_waits(engine: Engine, connection: Connection, name: str) -> Iterator[None]:
    """Log once, from another thread and connection, when a statement waits for a lock of another process."""
    driver: Any = connection.connection.driver_connection
    pid, has_ended = driver.info.backend_pid, threading.Event()

    def watch() -> None:
        if has_ended.wait(connections.LOG_AFTER_SECONDS):
            return
        # An error of this check must not stop the statement.
        with suppress(Exception), _open_second_connection(engine) as watcher:
            while not has_ended.wait(_LOOK_SECONDS):
                row = watcher.execute(_IS_BLOCKED, (connections.LOG_AFTER_SECONDS, pid)).fetchone()
                if row is not None and row[0]:
                    _log.info("%s: waiting for a lock held by another process", name)
                    return

    watcher = threading.Thread(target=watch, name="lock waits", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        has_ended.set()
        watcher.join(_WATCHER_TIMEOUT_SECONDS)


@contextmanager
def _open_second_connection(engine: Engine) -> Iterator[Any]:
    arguments, settings = engine.dialect.create_connect_args(engine.url)
    limits = connect_arguments(engine.url) | {"connect_timeout": _WATCHER_TIMEOUT_SECONDS}
    connection: Any = engine.dialect.connect(*arguments, **{**settings, **limits})
    try:
        connection.autocommit = True
        yield connection
    finally:
        connection.close()


@contextmanager
def _log_if_slow(line: str) -> Iterator[None]:
    timer = threading.Timer(connections.LOG_AFTER_SECONDS, _log.info, (line,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
