"""Test two copies into one target at once, and targets that are no copy of this source."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from panic_tda.errors import PanicTdaError
from panic_tda.storage.write import copying
from panic_tda.storage.write.copying import copy_database
from tests.conftest import MakeFile, UpgradedFile
from tests.field_files import FieldSpec
from tests.snapshots import REPOSITORY, opened, run_python

pytestmark = pytest.mark.xdist_group("postgres")
TABLES = ("experimentconfig", "run", "invocation", "embedding", "clusteringresult")
COMMAND = """
import sys
from panic_tda.main import main
from panic_tda.storage.write import copying
copying.BATCH_BYTES = 2000
print("ready", flush=True)
sys.stdin.readline()
main(["copy-database", *sys.argv[1:]], prog_name="panic-tda")
"""
KILLED = """
import os, signal, sys
from panic_tda.storage.write import copying
copying.BATCH_BYTES = 2000
insert, left = copying.insert_into, 5

def insert_or_die(*arguments):
    global left
    left -= 1
    insert(*arguments) if left else os.kill(os.getpid(), signal.SIGKILL)

copying.insert_into = insert_or_die
copying.copy_database(sys.argv[1], sys.argv[2])
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def target(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Target of a copy."""
    return str(request.getfixturevalue("url") if request.param == "postgresql" else tmp_path / "copy.sqlite")


@pytest.fixture
def source(upgraded: MakeFile) -> UpgradedFile:
    return upgraded(FieldSpec())


def start_copy(source: object, target: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(source), target],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def copy_at_once(source: object, target: str) -> list[tuple[int, list[str]]]:
    """Start two copies together; return their exit codes, and the errors that they print."""
    processes = [start_copy(source, target) for _ in range(2)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    ended = []
    for process in processes:
        _, stderr = process.communicate()
        assert "Traceback" not in stderr
        ended.append((process.returncode, [line for line in stderr.splitlines() if line.startswith("Error")]))
    return ended


def rows(target: object) -> dict[str, int]:
    with opened(str(target)) as connection:
        return {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES}


@pytest.mark.parametrize("begun", [False, True])
def test_two_copies_at_once_lose_nothing_and_name_the_other_process(
    source: UpgradedFile, target: str, begun: bool
) -> None:
    if begun:
        assert run_python(KILLED, source.path, target).returncode < 0
    for code, errors in copy_at_once(source.path, target):
        if code:
            (error,) = errors
            assert code == 1
            assert "another process" in error
            assert error.endswith(
                ("then run this again", "run this again to compare it", "try again when it is done")
            )
    # Whoever came second runs it again: it goes on, or compares what the other one has completed.
    copy_database(source.path, target)
    assert rows(target) == rows(source.path)


def test_a_copy_that_another_process_completes_between_two_looks_is_named(
    source: UpgradedFile, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL said that the relation panic_tda_copy does not exist."""
    assert run_python(KILLED, source.path, url).returncode < 0

    read_rows = copying.read_rows

    def read_later(*arguments: Any) -> Any:
        with opened(url) as other_process:
            other_process.execute("DROP TABLE panic_tda_copy")
        return read_rows(*arguments)

    monkeypatch.setattr(copying, "read_rows", read_later)
    with pytest.raises(PanicTdaError, match="another process has completed the copy"):
        copy_database(source.path, url)


def test_an_unfinished_copy_is_refused_for_another_source_and_with_damaged_notes(
    source: UpgradedFile, target: str, upgraded: MakeFile
) -> None:
    assert run_python(KILLED, source.path, target).returncode < 0
    other_file = upgraded(FieldSpec(), "other.sqlite")
    before = rows(target)
    with pytest.raises(
        PanicTdaError, match=f"is an unfinished copy of {source.path}, not of {other_file.path}"
    ):
        copy_database(other_file.path, target)
    for statement in (
        "UPDATE panic_tda_copy SET position = 'none'",
        "UPDATE panic_tda_copy SET position = '{}'",
        "DELETE FROM panic_tda_copy",
    ):
        with opened(target) as connection:
            connection.execute(statement)
        with pytest.raises(PanicTdaError, match=r"its stored progress cannot be read \(table panic_tda_copy"):
            copy_database(source.path, target)
    assert rows(target) == before


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DROP TABLE panic_tda_version", "its table panic_tda_version is missing or empty"),
        ("DELETE FROM panic_tda_version", "its table panic_tda_version is missing or empty"),
        ("UPDATE panic_tda_version SET version_num = 'abcd'", "has the unknown version 'abcd'"),
        ("UPDATE panic_tda_version SET version_num = '9999'", "was written by a newer panic_tda"),
    ],
)
def test_a_missing_or_unknown_version_is_an_error_of_one_sentence(
    source: UpgradedFile, tmp_path: Path, statement: str, words: str
) -> None:
    with opened(source.path) as connection:
        connection.execute(statement)
    with pytest.raises(PanicTdaError, match=words):
        copy_database(source.path, tmp_path / "copy.sqlite")
