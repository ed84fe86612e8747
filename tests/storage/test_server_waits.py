"""Test that waits for a PostgreSQL server are logged and end, and that unsuitable servers are refused."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy.engine import make_url

from panic_tda.errors import DatabaseError
from panic_tda.storage import connections
from panic_tda.storage.database import Database, open_database
from panic_tda.storage.write.copying import copy_database
from tests import processes
from tests.cli.processes import SECONDS, environment, read_until
from tests.conftest import MakeFile
from tests.servers import Server

pytestmark = pytest.mark.xdist_group("postgres")
WAITING = "waiting for a lock held by another process"


def plain(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


@pytest.fixture
def filled(url: str, upgraded: MakeFile) -> str:
    """The URL of a database with the rows of a field file."""
    copy_database(upgraded().database, url)
    return url


def test_a_table_that_another_process_locks_is_waited_for_until_the_limit(
    filled: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(connections, "BUSY_TIMEOUT_SECONDS", 2.5)
    monkeypatch.setattr(connections, "LOG_AFTER_SECONDS", 0.1)
    database = open_database(filled)
    with psycopg.connect(plain(filled)) as other_connection:
        other_connection.execute("LOCK TABLE embedding IN ACCESS EXCLUSIVE MODE")
        with (
            pytest.raises(DatabaseError, match=r"another process held a lock for 2\.5 s .*try again"),
            database.reading() as connection,
        ):
            connection.exec_driver_sql("SELECT count(*) FROM embedding")
    lines = [record.getMessage() for record in caplog.records if WAITING in record.getMessage()]
    assert lines == [f"{database}: {WAITING}"]


def test_a_long_query_does_not_count_as_waiting(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(connections, "BUSY_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(connections, "LOG_AFTER_SECONDS", 0.05)
    with Database(make_url(url).set(drivername="postgresql+psycopg")).reading() as connection:
        assert connection.exec_driver_sql("SELECT 1 FROM pg_sleep(1.5)").scalar() == 1
    assert WAITING not in caplog.text


@contextmanager
def frozen(locking_connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Suspend the server process that waits for a lock, and release the lock."""
    query = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    ((pid,),) = locking_connection.execute(query).fetchall()
    comm = Path(f"/proc/{pid}/comm")
    is_local = os.geteuid() == 0 and comm.exists() and comm.read_text().startswith("postgres")
    if is_local:
        os.kill(pid, signal.SIGSTOP)
    try:
        locking_connection.rollback()
        yield
    finally:
        if is_local:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize(
    ("number", "code", "is_frozen"), [(signal.SIGINT, 130, True), (signal.SIGTERM, 143, False)]
)
def test_a_command_that_waits_for_a_table_says_so_and_stops_at_a_signal(
    filled: str, tmp_path: Path, number: signal.Signals, code: int, is_frozen: bool
) -> None:
    """It stops even if its server process hangs and ignores the request to cancel."""
    command = [sys.executable, "-m", "panic_tda", "doctor", "--db", filled]
    with psycopg.connect(plain(filled)) as other_connection:
        other_connection.execute("LOCK TABLE embedding IN ACCESS EXCLUSIVE MODE")
        with processes.started(command, cwd=tmp_path, env=environment()) as process:
            read_until(process, WAITING)
            with frozen(other_connection) if is_frozen else nullcontext():
                process.send_signal(number)
                assert process.wait(timeout=SECONDS) == code


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_server_that_never_answers_is_an_error_after_the_limit(
    silent_port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(connections, "BUSY_TIMEOUT_SECONDS", 2)
    monkeypatch.setattr(connections, "LOG_AFTER_SECONDS", 0.1)
    monkeypatch.delenv("PGCONNECT_TIMEOUT", raising=False)
    with pytest.raises(DatabaseError, match=r"did not answer in time .*; check that it runs"):
        open_database(f"postgresql://me:sesame@127.0.0.1:{silent_port}/none")
    (line,) = [record.getMessage() for record in caplog.records if "to answer" in record.getMessage()]
    assert "sesame" not in line


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_in_another_encoding_is_refused(server: Server, tmp_path: Path, encoding: str) -> None:
    name = f"panic_tda_encoding_{encoding.lower()}"
    server.execute(
        f"CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    try:
        for create in (False, True):
            with pytest.raises(DatabaseError, match=rf"has the encoding {encoding}, .*ENCODING 'UTF8'"):
                open_database(server.url_of(name), create=create)
    finally:
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_rows_that_a_policy_hides_are_an_error(filled: str, tmp_path: Path) -> None:
    role = "panic_tda_some_rows"
    with psycopg.connect(plain(filled)) as owner:
        owner.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'sesame'")
        owner.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
        owner.execute("ALTER TABLE embedding ENABLE ROW LEVEL SECURITY")
        owner.execute(f"CREATE POLICY half ON embedding TO {role} USING (id < '8')")
    try:
        limited = make_url(filled).set(username=role, password="sesame").render_as_string(hide_password=False)
        with pytest.raises(DatabaseError, match=r"row-level security .* BYPASSRLS"):
            copy_database(limited, tmp_path / "copy.sqlite")
    finally:
        with psycopg.connect(plain(filled)) as owner:
            owner.execute(f"DROP OWNED BY {role}")
            owner.execute(f"DROP ROLE {role}")


def test_texts_are_utf8_whatever_the_environment_says(filled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    with open_database(filled).reading() as connection:
        assert connection.exec_driver_sql("SHOW client_encoding").scalar() == "UTF8"
        assert connection.exec_driver_sql("SELECT '風船'").scalar() == "風船"


def test_limits_in_the_url_are_kept(url: str) -> None:
    with open_database(f"{url}?options=-clock_timeout%3D7s").reading() as connection:
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == "7s"
    with open_database(url).reading() as connection:
        assert re.fullmatch(r"1min|60s", str(connection.exec_driver_sql("SHOW lock_timeout").scalar()))
