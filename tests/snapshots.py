"""Read everything that is in an SQLite file, to compare it with a later state."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@contextmanager
def opened(target: Path | str, **options: Any) -> Iterator[Any]:
    """Open an SQLite file; commit and close it when the block ends.

    At a URL, do the same with a database of a server.
    """
    if "://" in str(target):
        from tests import servers

        with servers.opened(str(target)) as connection:
            yield connection
    else:
        with closing(sqlite3.connect(target, **options)) as connection, connection:
            yield connection


def rows(database: Any, query: str) -> list[tuple[Any, ...]]:
    """Return what a query finds in a `Database`."""
    with opened(database.path or database.url.render_as_string(hide_password=False)) as connection:
        return list(connection.execute(query).fetchall())


def snapshot(target: Path | str, *, without: tuple[str, ...] = ()) -> dict[str, tuple[str, list[Any]]]:
    """Return each table's and index's definition and rows with their storage classes, by name."""
    if "://" in str(target):
        from tests import servers

        return servers.snapshot(str(target))
    path = Path(target)
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        tables = connection.execute(
            "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
        ).fetchall()
        tables_by_name: dict[str, tuple[str, list[Any]]] = {}
        for kind, name, table, sql in tables:
            if table in without:
                continue
            tables_by_name[name] = (sql, _rows(connection, table) if kind == "table" else [])
        return tables_by_name
    finally:
        connection.close()


def _rows(connection: sqlite3.Connection, table: str) -> list[Any]:
    columns = [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]
    wanted = ", ".join(f'"{column}", typeof("{column}")' for column in columns)
    return sorted(connection.execute(f'SELECT {wanted} FROM "{table}"'), key=repr)


def field_copy(folder: Path) -> Path:
    """Copy the real field file that the environment names, or skip the test."""
    source = os.environ.get("PANIC_TDA_FIELD_DB")
    if not source:
        pytest.skip("PANIC_TDA_FIELD_DB names no field file; the test needs a real one of layout 1")
    path = folder / "field.sqlite"
    shutil.copyfile(source, path)
    return path


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter, as a process that can be killed."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


KILL_AFTER = """
import os, signal
from sqlalchemy import event
from sqlalchemy.engine import Engine

def kill_after(beginning, times=1):
    seen = []

    @event.listens_for(Engine, "after_cursor_execute")
    def die(connection, cursor, statement, *rest):
        if not seen and statement.startswith("BEGIN IMMEDIATE"):
            # Even the smallest change is to reach the disk before the process dies.
            connection.connection.execute("PRAGMA cache_size = 5")
        if " ".join(statement.split()).startswith(beginning):
            seen.append(statement)
            if len(seen) == times:
                os.kill(os.getpid(), signal.SIGKILL)
"""
"""Defines `kill_after` in a child process: it dies by SIGKILL once such a statement was executed."""
