"""Test that waiting for a lock is logged and can be interrupted by signals."""

from __future__ import annotations

import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import pytest

from panic_tda.storage.write import pending
from tests import processes
from tests.cli.processes import SECONDS, count_results, environment, read_until
from tests.conftest import MakeFile, UpgradedFile

WAITING = "waiting for a lock held by another process"
COMMAND = [sys.executable, "-m", "panic_tda"]
# The fit ends when the test says so.
HELD_UP = """
import sys, time
from pathlib import Path
from panic_tda import model_fits
cluster_rows = model_fits.cluster_rows

def held_up(*arguments, **options):
    found = cluster_rows(*arguments, **options)
    print("HERE NOW", file=sys.stderr, flush=True)
    while not Path("go on").exists():
        time.sleep(0.01)
    return found

model_fits.cluster_rows = held_up
from panic_tda.main import main
main(prog_name="panic-tda")
"""


@contextmanager
def hold_lock(path: Path, *statements: str) -> Iterator[sqlite3.Connection]:
    """Lock a file from a connection of this process."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)
        yield connection


def started(file: UpgradedFile, command: list[str]) -> AbstractContextManager[subprocess.Popen[str]]:
    return processes.started([*command, "--db", str(file.path)], cwd=file.path.parent, env=environment())


@pytest.mark.parametrize(
    ("command", "lock", "number", "code"),
    [
        (["cluster-embeddings"], ["BEGIN IMMEDIATE"], signal.SIGTERM, 143),
        (
            ["delete-clusterings", "--all", "--yes"],
            ["PRAGMA locking_mode = EXCLUSIVE", "BEGIN IMMEDIATE"],
            signal.SIGINT,
            130,
        ),
        (["list-clusterings"], ["PRAGMA journal_mode = DELETE", "BEGIN EXCLUSIVE"], signal.SIGTERM, 143),
    ],
)
def test_waiting_for_a_lock_is_logged_and_stops_at_a_signal(
    upgraded: MakeFile, command: list[str], lock: list[str], number: signal.Signals, code: int
) -> None:
    file = upgraded()
    with hold_lock(file.path, *lock) as connection, started(file, [*COMMAND, *command]) as process:
        read_until(process, f"{re.escape(str(file.path))}: {WAITING}")
        process.send_signal(number)
        assert process.wait(timeout=SECONDS) == code
        assert connection.in_transaction


def test_a_released_lock_lets_the_command_succeed(upgraded: MakeFile) -> None:
    file = upgraded()
    lock = hold_lock(file.path, "PRAGMA locking_mode = EXCLUSIVE", "BEGIN IMMEDIATE")
    with lock as connection, started(file, [*COMMAND, "cluster-embeddings", "--backend", "tiled"]) as process:
        read_until(process, WAITING)
        connection.close()
        _, stderr = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, stderr
    assert count_results(file.path) == 2


def test_a_signal_while_waiting_to_save_makes_the_result_a_pending_file(upgraded: MakeFile) -> None:
    file = upgraded()
    command = [sys.executable, "-c", HELD_UP, "cluster-embeddings", "Nomic", "--backend", "tiled"]
    with started(file, command) as process:
        read_until(process, "HERE NOW")
        with hold_lock(file.path, "BEGIN IMMEDIATE"):
            (file.path.parent / "go on").touch()
            read_until(process, WAITING)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=SECONDS) == 130
            assert process.stderr is not None
            text = process.stderr.read()
    (path,) = pending.find_pending(file.database)
    assert f"interrupted while saving; the result is kept in {path}" in text
    assert count_results(file.path) == 0
