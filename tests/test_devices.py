"""Test models on several devices: workers that share each model, or have one each.

The devices are invented (`stand_in_worker`, `stand_in_device`); the processes are real.
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
from panic_tda.clustering import backends, dask_executor, dask_workers
from panic_tda.clustering_manager import cluster_all_data
from panic_tda.devices import cuda
from panic_tda.errors import InvalidParameter, UnsupportedOnBackend
from panic_tda.main import main
from panic_tda.parameters import ClusteringParameters, Resources
from panic_tda.storage.write import pending
from panic_tda.storage.write.recovery import save_pending
from panic_tda.types import CLUSTERED, FAILED, SKIPPED, ModelOutcome
from tests import stand_in_device
from tests.conftest import MakeFile, UpgradedFile
from tests.device_work import SECONDS, wait_for
from tests.field_files import FieldSpec
from tests.processes import started
from tests.snapshots import REPOSITORY, opened, snapshot

dask = pytest.importorskip("dask", reason="the extra dask is not installed")
pytest.importorskip("distributed", reason="the extra dask is not installed")
pytestmark = pytest.mark.xdist_group("dask")
MODELS = ("A", "B", "C", "D")
SPEC = FieldSpec(runs=6, length=40, dimensions=16, text_models=MODELS)
TILED, ONE_EACH = ClusteringParameters(backend="tiled"), ClusteringParameters(backend="cuml")


@pytest.fixture(autouse=True)
def two_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "count", lambda: 2)
    monkeypatch.delenv(cuda.VISIBLE, raising=False)
    monkeypatch.setitem(backends.MODULES, "cuml", backends.MODULES["tiled"])
    monkeypatch.setattr(dask_executor, "CONNECT_SECONDS", SECONDS)


@pytest.fixture
def stand_ins() -> Iterator[None]:
    with dask.config.set(stand_in_device.PRELOAD):
        yield


@pytest.fixture(autouse=True)
def nothing_is_left_running() -> Iterator[None]:
    before = find_workers()
    yield
    assert find_workers() <= before


def find_workers(process: psutil.Process | None = None) -> set[psutil.Process]:
    children = (process or psutil.Process()).children(recursive=True)
    return {child for child in children if "spawn_main" in " ".join(child.cmdline())}


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


def test_workers_with_a_device_each_share_every_model(
    upgraded: MakeFile, caplog: pytest.LogCaptureFixture
) -> None:
    file, second_file = upgraded(SPEC), upgraded(SPEC, "other.sqlite")
    heard: list[str] = []
    with (
        caplog.at_level(logging.INFO, "panic_tda"),
        dask.config.set({"distributed.worker.preload": ["tests.stand_in_worker"]}),
    ):
        outcomes = cluster_all_data(file.path, progress=Listener(heard.append))
    alone = cluster_all_data(second_file.path, parameters=TILED, resources=Resources(devices=(0,)))
    assert {outcome.status for outcome in outcomes} == {CLUSTERED}
    assert len(outcomes) == len(alone) == len(MODELS)
    assert stored(file.path) == stored(second_file.path)
    assert "2 worker processes of this machine: 2 slots on CUDA devices" in caplog.text
    # One after the other.
    assert [name for name in heard if name.endswith(": save")] == [f"{model}: save" for model in MODELS]


def test_each_device_has_a_model_of_its_own_where_the_backend_takes_one(
    upgraded: MakeFile, stand_ins: None
) -> None:
    file, second_file = upgraded(SPEC), upgraded(SPEC, "other.sqlite")
    for path in (file.path, second_file.path):
        with opened(path) as connection:
            connection.execute("DELETE FROM embedding WHERE embedding_model IN ('A', 'B') AND rowid % 2")
    models = ["B", "D", "C", "A"]
    heard: list[str] = []
    outcomes = cluster_all_data(file.path, models, parameters=ONE_EACH, progress=Listener(heard.append))
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


def test_a_killed_process_fails_its_own_model_only(
    upgraded: MakeFile, stand_ins: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = upgraded(SPEC)
    monkeypatch.setenv(stand_in_device.ENDS, "B")
    outcomes = by_model(cluster_all_data(file.path, parameters=ONE_EACH))
    assert outcomes["B"].status == FAILED
    assert outcomes["B"].reason is not None
    assert re.fullmatch(
        r"its process on device [01] was ended, as the system does when memory runs out", outcomes["B"].reason
    )
    assert "B failed: its process on device" in caplog.text
    others = set(MODELS) - {"B"}
    assert {outcomes[model].status for model in others} == {CLUSTERED}
    assert set(stored(file.path)) == others


def test_one_device_clusters_whole_models(
    upgraded: MakeFile, stand_ins: None, caplog: pytest.LogCaptureFixture
) -> None:
    file = upgraded(SPEC)
    folder = file.path.with_name(f"{file.path.name}.panic-tda")
    loading: list[str] = []

    def hear(name: str) -> None:
        if name.endswith(": load"):
            loading.append(name)

    for parameters, devices in ((TILED, (1,)), (TILED, (0,)), (TILED, ()), (ONE_EACH, (1, 0))):
        caplog.clear()
        with caplog.at_level(logging.INFO, "panic_tda"):
            outcomes = cluster_all_data(
                file.path,
                MODELS[: 1 if devices == (1, 0) else 2],
                parameters=parameters,
                resources=Resources(devices=devices),
                progress=Listener(hear),
            )
        assert {outcome.status for outcome in outcomes} == {CLUSTERED}
        assert not folder.exists()
        left_out = "1 of 2 CUDA devices are used, because backend cuml takes one for a model"
        assert (left_out in caplog.text) == (devices == (1, 0))
    here = ["A: load", "B: load"] * 2
    assert loading == ["device 1: A: load", "device 1: B: load", *here, "device 1: A: load"]


@pytest.mark.parametrize(
    "parameters", [ClusteringParameters(backend="sklearn"), ClusteringParameters(metric="euclidean")]
)
def test_fits_on_the_processor_start_no_workers(upgraded: MakeFile, parameters: ClusteringParameters) -> None:
    workers: set[psutil.Process] = set()
    (outcome,) = cluster_all_data(
        upgraded(SPEC).path,
        ["A"],
        parameters=parameters,
        progress=Listener(lambda _name: workers.update(find_workers())),
    )
    assert outcome.status == CLUSTERED
    assert not workers


def test_without_dask_one_device_is_used(
    upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = upgraded(SPEC)
    monkeypatch.setattr(dask_workers.importlib.util, "find_spec", lambda _name: None)
    (outcome,) = cluster_all_data(file.path, ["A"], parameters=TILED)
    assert outcome.status == CLUSTERED
    assert "1 of 2 CUDA devices is used: Dask is not installed: pip install '.[dask]'" in caplog.text
    for devices in ((1,), (0, 1)):
        with pytest.raises(UnsupportedOnBackend, match="Dask is not installed"):
            cluster_all_data(file.path, ["A"], parameters=TILED, resources=Resources(devices=devices))


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
import dask
from panic_tda.devices import cuda
from panic_tda.main import main
from tests import stand_in_device
if __name__ == "__main__":
    dask.config.set(stand_in_device.PRELOAD)
    stand_in_device.replace_cuml()
    cuda.count = lambda: 2
    main(prog_name="panic-tda")
"""


def command(file: UpgradedFile, *words: str) -> AbstractContextManager[subprocess.Popen[str]]:
    return started(
        [sys.executable, "-c", COMMAND, "cluster-embeddings", "--backend", "cuml", *words],
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


def test_a_signal_ends_the_processes_and_keeps_what_was_computed(upgraded: MakeFile) -> None:
    file = upgraded(SPEC)
    before = snapshot(file.path)
    with command(file, "-v") as process:
        assert process.stderr is not None
        text, lock = "", None
        # A result waits for the lock.
        while not re.search(r"[A-D]: save …", text):
            text += (line := process.stderr.readline())
            assert line, text
            lock = lock or Lock(file.path)
        workers = find_workers(psutil.Process(process.pid))
        process.send_signal(signal.SIGTERM)
        stderr = process.stderr.read()
        process.wait(timeout=SECONDS)
        assert lock is not None
        lock.release()
    assert process.returncode == 143, stderr
    assert "terminated; nothing unfinished is in the database" in stderr
    assert "Traceback" not in stderr
    assert workers
    wait_for(lambda: not any(map(_runs, workers)))
    assert snapshot(file.path) == before
    # What was computed is kept, and it said where.
    (pending_file,) = pending.find_pending(file.database)
    assert str(pending_file) in stderr
    assert len(save_pending(file.database)) == 1


def _runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
