"""Test real Dask workers: results as in this process, and the effects of killed and unsuitable workers."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from panic_tda.clustering import dask_executor
from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.checkpoint import Checkpoint
from panic_tda.clustering.tiled.engine import Settings, TiledBackend
from panic_tda.errors import MissingPath, WorkersFailed
from panic_tda.types import SpanningTree
from tests.executors import Watched
from tests.processes import started
from tests.snapshots import REPOSITORY

distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
dask = pytest.importorskip("dask")
pytestmark = pytest.mark.xdist_group("dask")
SECONDS = 60.0
"""After this long something that should have happened is considered stuck."""


def make_rows(n: int = 1500, d: int = 200) -> np.ndarray:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((9, d))[rng.integers(9, size=n)] + rng.standard_normal((n, d))
    rows *= np.arange(1, d + 1) ** -0.5
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def fit(rows: np.ndarray, **options: Any) -> SpanningTree:
    fit_options = FitOptions(min_samples=7, distance_floor=1e-3, **options)
    return TiledBackend(Settings(tile_rows=64)).fit(rows, np.ones(len(rows), dtype=np.int64), fit_options)


def assert_same(first: SpanningTree, second: SpanningTree) -> None:
    np.testing.assert_array_equal(first.core_distances, second.core_distances)
    np.testing.assert_array_equal(np.sort(first.height), np.sort(second.height))


def wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not is_true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def end_worker(_task: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def read_pid(_task: int) -> int:
    return os.getpid()


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return make_rows()


@pytest.fixture(scope="module")
def tree(rows: np.ndarray) -> SpanningTree:
    return fit(rows)


@pytest.fixture(scope="module")
def local() -> Iterator[Any]:
    """Start local workers that give up a task when it ends one of them."""
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        dask_executor.start_workers(1) as own,
    ):
        yield own


def test_one_two_and_four_workers_give_the_tree_of_this_process(
    local: Any, rows: np.ndarray, tree: SpanningTree
) -> None:
    for count in (1, 2, 4):
        local._client.cluster.scale(count)
        wait_until(lambda count=count: local.slots == count)
        assert_same(fit(rows, executor=local), tree)


def test_a_killed_worker_loses_nothing(local: Any, rows: np.ndarray, tree: SpanningTree) -> None:
    killed: list[int] = []

    def kill(n_results: int) -> None:
        if n_results in (2, 8):
            pid = next(iter(local._client.run(os.getpid).values()))
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    assert_same(fit(rows, executor=Watched(local, kill)), tree)
    assert len(killed) == 2


def test_a_task_that_ends_its_workers_is_given_up_with_a_remedy(local: Any) -> None:
    with pytest.raises(WorkersFailed, match=r"a task ended 2 workers .* tcp.*127\.0\.0\.1.*memory"):
        list(local.map(end_worker, [1]))
    assert len(dict(local.map(read_pid, range(4)))) == 4


CLIENT = """
import os, signal, sys
from pathlib import Path
import numpy as np
from panic_tda.clustering import dask_executor
from panic_tda.clustering.checkpoint import Checkpoint
from tests.clustering.test_dask_executor import Watched, fit

def kill(n_results):
    if n_results == int(sys.argv[2]):
        print(*executor._client.run(os.getpid).values(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

folder = Path(sys.argv[1])
with dask_executor.start_workers(1) as executor:
    checkpoint = Checkpoint(folder / "work", "rows", save_seconds=0)
    fit(np.load(folder / "rows.npy"), executor=Watched(executor, kill), checkpoint=checkpoint)
"""


def test_a_killed_client_takes_its_workers_along_and_its_work_goes_on(
    tmp_path: Path, rows: np.ndarray, tree: SpanningTree, caplog: pytest.LogCaptureFixture
) -> None:
    np.save(tmp_path / "rows.npy", rows)
    command = [sys.executable, "-c", CLIENT, str(tmp_path), "7"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr
    pids = [int(word) for word in process.stdout.split()]
    assert pids
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    with caplog.at_level(logging.INFO):
        assert_same(fit(rows, checkpoint=Checkpoint(tmp_path / "work", "rows")), tree)
    assert "going on from the state" in caplog.text


@dataclass
class Cluster:
    """A scheduler in a process of its own."""

    file: Path
    process: subprocess.Popen[str]

    @property
    def name(self) -> str:
        return str(self.file)


@contextmanager
def run_worker(cluster: Cluster, *prefix: str, source: Path = REPOSITORY) -> Iterator[subprocess.Popen[str]]:
    """Run a worker without a nanny, so that it is not replaced when killed."""
    command = [*prefix, sys.executable, "-m", "distributed.cli.dask_worker", "--no-nanny", "--nthreads", "1"]
    command += ["--scheduler-file", cluster.name, "--no-dashboard"]
    environment = os.environ | {"PYTHONPATH": str(source)}
    with started(command, cwd=cluster.file.parent, env=environment) as process:
        yield process


def test_mixed_processors_are_warned_of(
    local: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import llvmlite.binding

    # Of this process alone: the workers ask their own processors.
    monkeypatch.setattr(llvmlite.binding, "get_host_cpu_name", lambda: "pentium4")
    with caplog.at_level(logging.WARNING):
        dask_executor.DaskExecutor(local._client, "workers")
    assert "pentium4 on this process" in caplog.text


def test_nobody_at_an_address_and_no_file_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_executor, "_CONNECT_SECONDS", 0.5)
    with (
        pytest.raises(MissingPath, match=r"no scheduler file .*gone\.json"),
        dask_executor.connect(str(tmp_path / "gone.json")),
    ):
        pass
    with (
        pytest.raises(WorkersFailed, match=r"no scheduler answers at tcp://127\.0\.0\.1:9"),
        dask_executor.connect("tcp://127.0.0.1:9"),
    ):
        pass


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    file = folder / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    command += ["--scheduler-file", str(file), "--no-dashboard"]
    with started(command, cwd=folder, env=dict(os.environ)) as process:
        wait_until(lambda: file.exists() or process.poll() is not None)
        yield Cluster(file, process)


def test_a_scheduler_without_workers_is_named(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_executor, "_CONNECT_SECONDS", 1.0)
    with (
        pytest.raises(WorkersFailed, match="has no workers: start some with `dask worker"),
        dask_executor.connect(cluster.name),
    ):
        pass


@pytest.fixture
def changed_source(tmp_path: Path) -> Path:
    """Return a copy of the package with a changed source file and the same version."""
    folder = tmp_path / "changed"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "panic_tda", folder / "panic_tda", ignore=ignored)
    with (folder / "panic_tda/clustering/tiled/tasks.py").open("a") as file:
        file.write("# changed\n")
    return folder


def test_a_worker_with_other_code_is_refused_by_name(cluster: Cluster, changed_source: Path) -> None:
    with (
        run_worker(cluster, source=changed_source),
        pytest.raises(
            WorkersFailed, match=r"worker tcp://\S+ has the source of panic_tda.clustering \w+, and"
        ),
        dask_executor.connect(cluster.name),
    ):
        pass


def test_a_worker_that_does_not_see_the_folder_is_refused_by_name(
    cluster: Cluster, tmp_path: Path, rows: np.ndarray
) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    alone = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {folder} && exec "$@"', "sh"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted for one process here; it takes root")
    with (
        run_worker(cluster, *alone),
        dask_executor.connect(cluster.name) as executor,
        pytest.raises(WorkersFailed, match=r"worker tcp://\S+ does not see the files .* --work-dir"),
    ):
        fit(rows, executor=executor, work_dir=folder)


def test_work_goes_on_after_the_scheduler_was_killed(
    cluster: Cluster, tmp_path: Path, rows: np.ndarray, tree: SpanningTree
) -> None:
    # The last test that the scheduler serves.
    def kill(n_results: int) -> None:
        if n_results == 6:
            cluster.process.kill()

    work = tmp_path / "work"
    checkpoint = Checkpoint(work, "rows", save_seconds=0)
    with (
        run_worker(cluster),
        dask_executor.connect(cluster.name) as executor,
        pytest.raises(WorkersFailed, match=r"connection to the scheduler .* was lost.*same command"),
    ):
        fit(rows, executor=Watched(executor, kill), checkpoint=checkpoint)
    assert [path.name for path in work.rglob("*.state")] == ["neighbours.state"]
    assert_same(fit(rows, checkpoint=Checkpoint(work, "rows")), tree)
