"""Test models shared among devices: one process for each, one database, results as they finish.

How many devices there are is the only thing invented here: the processes are real, find no device, and
cluster on the processor.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
import pytest
from click.testing import CliRunner

from panic_tda.cli.parsing import parse_devices
from panic_tda.clustering_manager import cluster_all_data
from panic_tda.devices import cuda
from panic_tda.devices import pool as device_pool
from panic_tda.errors import InvalidParameter
from panic_tda.main import main
from panic_tda.parameters import ClusteringParameters, Resources
from panic_tda.storage.write import pending
from panic_tda.storage.write.recovery import save_pending
from panic_tda.types import CLUSTERED, FAILED, SKIPPED, ModelOutcome
from tests.conftest import MakeFile, UpgradedFile
from tests.device_work import SECONDS, wait_for
from tests.field_files import FieldSpec
from tests.processes import started
from tests.snapshots import REPOSITORY, opened, snapshot

MODELS = ("A", "B", "C", "D")
SPEC = FieldSpec(runs=6, length=40, dimensions=16, text_models=MODELS)
# `auto` would take scikit-learn for so few rows, whose models stay in one process.
TILED = ClusteringParameters(backend="tiled")


@pytest.fixture(autouse=True)
def two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "count", lambda: 2)
    monkeypatch.delenv(cuda.VISIBLE, raising=False)


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    before = set(psutil.Process().children())
    yield
    assert set(psutil.Process().children()) <= before


class Listener:
    """Call a function for every phase."""

    def __init__(self, heard: Callable[[str], None]) -> None:
        self.heard = heard

    def phase(self, name: str, total: float | None = None) -> None:
        self.heard(name)

    def advance(self, amount: float) -> None: ...


class Lock:
    """Another program that holds the write lock."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.connection.execute("BEGIN IMMEDIATE")

    def release(self) -> None:
        self.connection.close()


def worker_of(device: str) -> psutil.Process:
    (child_process,) = (
        child
        for child in psutil.Process().children()
        if child.environ().get("CUDA_VISIBLE_DEVICES") == device.removeprefix("device ")
    )
    return child_process


def stored(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Assignments by model."""
    connection = sqlite3.connect(path)
    calls: dict[str, list[tuple[Any, ...]]] = {}
    for model, *row in connection.execute(
        "SELECT embedding_model, embedding_id, label, probability FROM embeddingcluster "
        "JOIN clusteringresult ON key = result_key ORDER BY 1, 2"
    ):
        calls.setdefault(model, []).append(tuple(row))
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    return calls


def by_model(outcomes: list[ModelOutcome]) -> dict[str, ModelOutcome]:
    return {outcome.embedding_model: outcome for outcome in outcomes}


def test_several_devices_store_the_same_as_one_process_and_begin_with_the_largest_models(
    upgraded: MakeFile,
) -> None:
    file, second_file = upgraded(SPEC), upgraded(SPEC, "other.sqlite")
    for path in (file.path, second_file.path):
        with opened(path) as connection:
            connection.execute("DELETE FROM embedding WHERE embedding_model IN ('A', 'B') AND rowid % 2")
    models = ["B", "D", "C", "A"]
    heard: list[str] = []
    outcomes = cluster_all_data(file.path, models, parameters=TILED, progress=Listener(heard.append))
    alone = cluster_all_data(second_file.path, models, parameters=TILED, resources=Resources(devices=(0,)))
    assert [outcome.embedding_model for outcome in outcomes] == models
    assert {outcome.status for outcome in outcomes} == {CLUSTERED}
    assert [outcome.n_clusters for outcome in outcomes] == [outcome.n_clusters for outcome in alone]
    assert stored(file.path) == stored(second_file.path)
    assert set(stored(file.path)) == set(MODELS)
    # Each line names device and model.
    phases = [name.split(": ") for name in heard if name.endswith(": load")]
    assert {model for _, model, _ in phases} == set(MODELS)
    # The first model of each device.
    assert {device: model for device, model, _ in reversed(phases)} in (
        {"device 0": "C", "device 1": "D"},
        {"device 0": "D", "device 1": "C"},
    )
    # Nothing is left of the unfinished work's folder.
    assert not file.path.with_name(f"{file.path.name}.panic-tda").exists()


def test_a_killed_process_fails_its_own_model_only_and_two_save_at_once(
    upgraded: MakeFile, caplog: pytest.LogCaptureFixture
) -> None:
    file = upgraded(SPEC)
    locks: list[Lock] = []
    killed: list[tuple[str, int]] = []
    saving: set[str] = set()

    def hear(name: str) -> None:
        # Before any process starts, so that none can have saved.
        if name == "count embeddings":
            locks.append(Lock(file.path))
        if name.endswith(": save"):
            device, model, _ = name.split(": ")
            if not killed:
                # It waits for the lock, so that it dies before it has saved.
                worker = worker_of(device)
                worker.kill()
                killed.append((model, worker.pid))
            else:
                saving.add(device)
                if saving == {"device 0", "device 1"}:
                    locks[0].release()

    outcomes = by_model(cluster_all_data(file.path, parameters=TILED, progress=Listener(hear)))
    ((lost, _),) = killed
    assert outcomes[lost].status == FAILED
    assert outcomes[lost].reason is not None
    assert "was ended by SIGKILL, as the system does when memory runs out" in outcomes[lost].reason
    assert f"{lost} failed: its process on device" in caplog.text
    others = set(MODELS) - {lost}
    assert {outcomes[model].status for model in others} == {CLUSTERED}
    assert set(stored(file.path)) == others
    # The state of the killed one is kept, and the same command goes on from it.
    folder = file.path.with_name(f"{file.path.name}.panic-tda")
    assert [path.name for path in folder.iterdir()] == [lost]
    assert cluster_all_data(file.path, [lost], parameters=TILED)[0].status == CLUSTERED
    assert set(stored(file.path)) == set(MODELS)
    assert not folder.exists()


def test_one_model_or_one_device_needs_no_other_process(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = upgraded(SPEC)
    caplog.set_level(logging.INFO, "panic_tda")

    def forbidden(*_words: object, **_more: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(device_pool, "run_on_devices", forbidden)
    for models, devices in ((["A"], None), (MODELS, (0,)), (MODELS, ()), (["A"], (0, 1))):
        outcomes = cluster_all_data(file.path, models, parameters=TILED, resources=Resources(devices=devices))
        assert {outcome.status for outcome in outcomes} == {CLUSTERED}
    # Once for each time that a device is left over.
    assert caplog.text.count("1 of 2 CUDA devices are used, one for each model; with --workers 2, ") == 2
    outcomes = cluster_all_data(file.path, parameters=ClusteringParameters(backend="sklearn"))
    assert {outcome.status for outcome in outcomes} == {CLUSTERED}


def test_a_device_that_is_not_the_first_gets_a_process_of_its_own(upgraded: MakeFile) -> None:
    file = upgraded(SPEC)
    folder = file.path.with_name(f"{file.path.name}.panic-tda")
    loading: list[tuple[str, bool]] = []

    def hear(name: str) -> None:
        if name.endswith(": load"):
            loading.append((name, folder.exists()))

    resources = Resources(devices=(1,))
    cluster_all_data(file.path, ["A", "B"], parameters=TILED, resources=resources, progress=Listener(hear))
    # The models' common folder stays until all are done: another process may be making its own in it.
    assert loading == [("device 1: A: load", False), ("device 1: B: load", True)]
    assert not folder.exists()


def test_without_devices_cuda_is_disabled(upgraded: MakeFile) -> None:
    reasons: list[str | None] = []
    cluster_all_data(
        upgraded(SPEC).path,
        ["A"],
        parameters=TILED,
        resources=Resources(devices=()),
        progress=Listener(lambda _name: reasons.append(cuda.unavailable_reason())),
    )
    assert reasons[-1] == "CUDA is disabled (--devices none)"
    assert cuda.unavailable_reason() != reasons[-1]


def test_a_wrong_number_is_refused_before_anything_is_done(upgraded: MakeFile) -> None:
    file = upgraded(SPEC)
    before = snapshot(file.path)
    with pytest.raises(InvalidParameter, match=r"must be among 0, 1.*got 0, 7"):
        cluster_all_data(file.path, resources=Resources(devices=(0, 7)))
    assert snapshot(file.path) == before


@pytest.mark.parametrize(
    ("text", "devices"), [("0", (0,)), ("0,1", (0, 1)), (" 1 , 0 ", (1, 0)), ("none", ()), ("None", ())]
)
def test_devices_are_read_from_text(text: str, devices: tuple[int, ...]) -> None:
    assert parse_devices(text) == devices


@pytest.mark.parametrize("text", ["", ",", "0,", "-1", "all", "0;1", "0 1", "1.0", "٣"])
def test_invalid_device_lists_are_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match="numbers such as 0 or 0,1, or none; got"):
        parse_devices(text)


# ---------------------------------------------------------------------------- as a command

COMMAND = """
from panic_tda.devices import cuda
cuda.count = lambda: 2
from panic_tda.main import main
main(prog_name="panic-tda")
"""


def command(file: UpgradedFile, *words: str) -> AbstractContextManager[subprocess.Popen[str]]:
    return started(
        [sys.executable, "-c", COMMAND, "cluster-embeddings", "--backend", "tiled", *words],
        cwd=file.path.parent,
        env=os.environ
        | {"PYTHONPATH": str(REPOSITORY), "PANIC_TDA_DB": str(file.path), "OMP_NUM_THREADS": "1"},
    )


def test_the_command_logs_which_device_clusters_which_model_and_sends_no_refused_one(
    upgraded: MakeFile,
) -> None:
    file = upgraded(SPEC)
    with opened(file.path) as connection:
        connection.execute(
            "UPDATE embedding SET vector = x'00' WHERE embedding_model = 'A' AND rowid % 7 = 0"
        )
        connection.execute(
            "DELETE FROM embedding WHERE embedding_model = 'B' AND rowid NOT IN "
            "(SELECT min(rowid) FROM embedding WHERE embedding_model = 'B')"
        )
    with command(file, "--devices", "0,1", "--json") as process:
        stdout, stderr = process.communicate(timeout=SECONDS)
    assert process.returncode == 1, stderr
    statuses = {row["embedding_model"]: row["status"] for row in json.loads(stdout)["results"]}
    assert statuses == {"A": FAILED, "B": SKIPPED, "C": CLUSTERED, "D": CLUSTERED}
    for model in ("C", "D"):
        assert re.search(
            rf"INFO    device [01]: {model}: 120 embeddings, 120 after downsampling by 1", stderr
        )
        assert re.search(rf"INFO    device [01]: {model}: neighbours: done in", stderr)
    assert not re.search(r"device [01]: [AB]: neighbours", stderr)
    assert set(stored(file.path)) == {"C", "D"}


@pytest.mark.parametrize("words", [("--devices", "5"), ("--devices", "one")])
def test_the_command_refuses_wrong_devices(upgraded: MakeFile, words: tuple[str, ...]) -> None:
    words_of_command = ["cluster-embeddings", "--backend", "tiled", *words, "--db", str(upgraded(SPEC).path)]
    result = CliRunner().invoke(main, words_of_command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "devices" in result.stderr


def test_a_signal_ends_the_processes_and_leaves_the_database_as_it_was(upgraded: MakeFile) -> None:
    file = upgraded(SPEC)
    before = snapshot(file.path)
    with command(file, "-v") as process:
        assert process.stderr is not None
        text, lock = "", None
        # Both have computed, and wait for the lock to save.
        while not ("device 0: " in text and len(re.findall(r"device [01]: [A-D]: save …", text)) == 2):
            text += (line := process.stderr.readline())
            assert line, text
            lock = lock or Lock(file.path)
        workers = psutil.Process(process.pid).children()
        wait_for(lambda: all(_has_open(worker, file.path) for worker in workers))
        process.send_signal(signal.SIGTERM)
        while "for the processes to stop" not in line:
            line = process.stderr.readline()
            assert line
        assert lock is not None
        lock.release()
        # What was read along with that line is in the buffer, which `communicate` would pass by.
        stderr = process.stderr.read()
        process.wait(timeout=SECONDS)
    assert process.returncode == 143, stderr
    assert "terminated; nothing unfinished is in the database" in stderr
    assert "Traceback" not in stderr
    assert len(workers) == 2
    assert not any(map(_runs, workers))
    assert snapshot(file.path) == before
    # What was computed is kept, and they said where.
    pending_files = pending.find_pending(file.database)
    assert len(pending_files) == 2
    assert all(str(path) in stderr for path in pending_files), stderr
    assert len(save_pending(file.database)) == 2


def _has_open(process: psutil.Process, path: Path) -> bool:
    return any(Path(opened.path) == path for opened in process.open_files())


def _runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
