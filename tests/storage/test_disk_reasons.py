"""Test that errors of full or refusing disks are recognised from SQLite's extended codes."""

from __future__ import annotations

import errno
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from panic_tda.errors import DatabaseError
from panic_tda.storage import connections, reasons
from tests.conftest import MakeFile
from tests.snapshots import REPOSITORY, snapshot

WRITE_BEYOND_A_LIMIT = """
import resource, sys
from panic_tda.storage.database import open_database
database = open_database(sys.argv[1])
# Beyond what is there, so that it is the log that meets it.
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), int(sys.argv[2])))
with database.writing() as connection:
    connection.exec_driver_sql("CREATE TABLE large (data BLOB)")
    for _ in range(40):
        connection.exec_driver_sql("INSERT INTO large VALUES (randomblob(100000))")
    connection.exec_driver_sql("PRAGMA cache_spill = 1")
"""


def error_of(name: str) -> sqlite3.OperationalError:
    """Return an error as the driver raises it, with this code."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname, error.sqlite_errorcode = name, getattr(sqlite3, name)
    return error


def test_a_limit_of_file_sizes_is_named_and_nothing_is_changed(upgraded: MakeFile) -> None:
    file = upgraded()
    before = snapshot(file.path)
    command = [sys.executable, "-c", WRITE_BEYOND_A_LIMIT, str(file.path), str(1 << 20)]
    process = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert process.returncode == 1
    last = process.stderr.strip().splitlines()[-1]
    assert "panic_tda.errors.DatabaseError" in last
    assert "the files of this process are limited to 1 MiB (ulimit -f)" in last
    assert "damaged" not in last
    assert snapshot(file.path) == before


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("SQLITE_IOERR_SHMMAP", "does not share memory maps"),
        ("SQLITE_IOERR_SHMOPEN", "does not share memory maps"),
        ("SQLITE_IOERR_SHMSIZE", "does not share memory maps"),
        ("SQLITE_IOERR_LOCK", "has no file locks"),
        ("SQLITE_IOERR_RDLOCK", "has no file locks"),
        ("SQLITE_IOERR_WRITE", "refused to write"),
        ("SQLITE_IOERR_FSYNC", "refused to write"),
        ("SQLITE_IOERR_TRUNCATE", "refused to write"),
        ("SQLITE_IOERR_READ", "the file is damaged"),
        ("SQLITE_IOERR_SHORT_READ", "the file is damaged"),
        ("SQLITE_CORRUPT", "the file is damaged"),
        ("SQLITE_NOTADB", "the file is damaged"),
        ("SQLITE_FULL", "make room"),
        ("SQLITE_BUSY", "by another process"),
        ("SQLITE_BUSY_RECOVERY", "by another process"),
        ("SQLITE_READONLY_DIRECTORY", "must be readable"),
        ("SQLITE_CANTOPEN", "must be readable"),
    ],
)
def test_each_error_code_has_its_message(tmp_path: Path, name: str, words: str) -> None:
    explained = reasons.explain_error(error_of(name), tmp_path / "field.sqlite", 60)
    assert words in explained
    assert ("the file is damaged" in explained) == (words == "the file is damaged")


def test_a_quota_is_detected_by_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A quota takes a file system of its own; what is read of it is the number of its error.
    monkeypatch.setattr(reasons, "try_to_write", lambda folder: errno.EDQUOT)
    explained = reasons.explain_error(error_of("SQLITE_IOERR_WRITE"), tmp_path / "field.sqlite", 60)
    assert f"the disk quota of {tmp_path} is used up" in explained


def test_codes_are_read_from_wrapped_errors(upgraded: MakeFile) -> None:
    file = upgraded()
    with open(file.path, "r+b") as raw:
        raw.truncate(file.path.stat().st_size // 2)
    with (
        pytest.raises(DatabaseError, match="the file is damaged"),
        file.database.reading() as connection,
    ):
        connection.exec_driver_sql("SELECT sum(length(vector)) FROM embedding").all()


def test_the_word_locked_in_a_message_does_not_count_as_a_lock(tmp_path: Path) -> None:
    error = sqlite3.OperationalError("no such table: locked_readonly_malformed")
    error.sqlite_errorname, error.sqlite_errorcode = "SQLITE_ERROR", sqlite3.SQLITE_ERROR
    assert reasons.explain_error(error, tmp_path / "field.sqlite", 60) == str(error)


def test_a_folder_without_locks_is_not_waited_for(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = upgraded()
    monkeypatch.setattr(connections, "LOG_AFTER_SECONDS", 0.0)
    # What such a file system answers to a lock: SQLite takes it for a lock of somebody else.
    monkeypatch.setattr("fcntl.lockf", without_locks)
    with closing(sqlite3.connect(file.path, isolation_level=None)) as other_connection:
        other_connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseError, match="has no file locks"), file.database.writing() as connection:
            connection.rollback()


def without_locks(*_arguments: Any) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def test_folders_that_support_locks_are_recognised(tmp_path: Path) -> None:
    assert reasons.supports_locks(tmp_path)
    assert reasons.supports_locks(tmp_path / "missing")
