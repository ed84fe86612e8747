"""Test real Dask workers: results as in this process, and the effects of killed and unsuitable workers."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from panic_tda.cli.display import PhaseLog
from panic_tda.clustering import dask_executor, dask_workers
from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.checkpoint import Checkpoint
from panic_tda.clustering.tiled.engine import Settings, TiledBackend
from panic_tda.clustering.tiled.sharing import estimate_task_bytes
from panic_tda.errors import MissingPath, WorkersFailed
from panic_tda.main import main
from panic_tda.progress import Prefixed, annotate
from panic_tda.types import SpanningTree
from tests.executors import Watched
from tests.processes import started
from tests.snapshots import REPOSITORY

distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
dask = pytest.importorskip("dask")
pytestmark = pytest.mark.xdist_group("dask")
SECONDS = 180.0
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


@pytest.fixture(scope="module", autouse=True)
def patience() -> Iterator[None]:
    """Wait longer for workers: a busy machine takes half a minute to start one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dask_executor, "CONNECT_SECONDS", SECONDS)
        yield


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
        dask_workers.start_workers(1) as own,
    ):
        yield own


def test_one_two_and_four_workers_give_the_tree_of_this_process(
    local: Any, rows: np.ndarray, tree: SpanningTree
) -> None:
    for count in (1, 2, 4):
        local.client.cluster.scale(count)
        wait_until(lambda count=count: local.slots == count)
        assert_same(fit(rows, executor=local), tree)
    # Two are enough for what follows.
    local.client.cluster.scale(2)


def test_the_progress_line_has_workers_and_their_pace(local: Any, caplog: pytest.LogCaptureFixture) -> None:
    log = PhaseLog()
    log.phase("verify", 8.0)
    with caplog.at_level(logging.INFO):
        for number, _ in enumerate(local.map(read_pid, range(4))):
            annotate(Prefixed(log, "model: "), local.pace)
            log.advance(1.0)
            if number == 2:
                log.log_progress()
        dask_executor.DaskExecutor(local.client, "workers")
    line, connected = [
        record.getMessage() for record in caplog.records if record.name.startswith("panic_tda")
    ]
    assert re.search(r"^verify: 38 %, about .* left, \d workers?, \d+\.\d tasks/(s|min)$", line), line
    assert re.search(r"dashboard http://127\.0\.0\.1:\d+", connected), connected


def test_workers_with_too_little_memory_are_refused_before_the_work(local: Any, tmp_path: Path) -> None:
    with pytest.raises(WorkersFailed, match=r"the workers on \S+ need .* are available there: start fewer"):
        local.prepare(tmp_path, 1 << 50)
    assert list(tmp_path.iterdir()) == []


def load_libraries() -> int:
    """Fit a few rows in this process, which loads all code; return its largest resident memory so far."""
    fit(make_rows(300))
    return read_peak_bytes()


def read_peak_bytes() -> int:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) << 10


def test_workers_take_no_more_memory_than_is_said(local: Any, tmp_path: Path) -> None:
    """The memory of the client is tested in `tiled.test_tasks`."""
    rows, tile_rows = make_rows(3_000, 1_024), 256
    options = FitOptions(min_samples=7, distance_floor=1e-3, executor=local, work_dir=tmp_path)
    # Those that the first test needs no more have ended.
    wait_until(lambda: local.slots <= 2)
    before = local.client.run(load_libraries)
    # Twice what the handbook says of the libraries, which take more on some machines than on others.
    assert max(before.values()) < 500 << 20
    TiledBackend(Settings(tile_rows=tile_rows)).fit(rows, np.ones(len(rows), dtype=np.int64), options)
    after = local.client.run(read_peak_bytes)
    task_bytes = estimate_task_bytes(rows.shape, options.min_samples, local.slots, tile_rows)
    growth = max(after[worker] - n_bytes for worker, n_bytes in before.items())
    assert rows.nbytes / 4 < growth < task_bytes


def count_page_faults(_task: int) -> int:
    """Return the pages that the system gives this process for arrays that it frees at once."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        np.ones(1 << 20, dtype=np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is not that of GNU")
def test_workers_use_freed_memory_again(local: Any) -> None:
    """By Dask's setting of the allocator, each array of a MiB would take 256 new pages."""
    for _, n_faults in local.map(count_page_faults, range(2)):
        assert n_faults < 100 * 256 / 4


def test_a_killed_worker_loses_nothing(local: Any, rows: np.ndarray, tree: SpanningTree) -> None:
    killed: list[int] = []

    def kill(n_results: int) -> None:
        if n_results in (2, 8):
            pid = next(iter(local.client.run(os.getpid).values()))
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    assert_same(fit(rows, executor=Watched(local, kill)), tree)
    assert len(killed) == 2


def test_a_worker_that_is_lost_while_it_is_asked_is_not_taken_for_an_unsuitable_one(
    local: Any, tmp_path: Path
) -> None:
    for pid in local.client.run(os.getpid).values():
        threading.Timer(0.2, os.kill, (pid, signal.SIGKILL)).start()
    began = time.monotonic()
    while time.monotonic() < began + 1:
        local.prepare(tmp_path, 1)


CLIENT = """
import os, signal, sys
from pathlib import Path
import numpy as np
from panic_tda.cli.display import PhaseLog
from panic_tda.clustering import dask_executor, dask_workers
from panic_tda.clustering.checkpoint import Checkpoint
from tests.clustering.test_dask_executor import Watched, fit

def kill(n_results):
    if n_results == int(sys.argv[2]):
        print(*executor.client.run(os.getpid).values(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

folder = Path(sys.argv[1])
with dask_workers.start_workers(1) as executor:
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
    """A scheduler in a process of its own, with TLS where certificates can be made."""

    file: Path
    process: subprocess.Popen[str]
    environment: dict[str, str]
    config: dict[str, Any]
    network: Network | None

    @property
    def name(self) -> str:
        return str(self.file)

    @property
    def address(self) -> str:
        return str(json.loads(self.file.read_text())["address"])

    @contextmanager
    def connect(self) -> Iterator[dask_executor.DaskExecutor]:
        merged = dask.config.merge(dask.config.config, self.config)
        with dask.config.set(merged), dask_workers.connect(self.name) as executor:
            yield executor


@contextmanager
def run_worker(
    cluster: Cluster, *prefix: str, source: Path = REPOSITORY, options: Sequence[str] = ()
) -> Iterator[subprocess.Popen[str]]:
    """Run a worker without a nanny, so that it is not replaced when killed."""
    command = [*prefix, sys.executable, "-m", "distributed.cli.dask_worker", "--no-nanny", "--nthreads", "1"]
    command += ["--scheduler-file", cluster.name, "--no-dashboard", *options]
    environment = cluster.environment | {"PYTHONPATH": str(source)}
    with started(command, cwd=cluster.file.parent, env=environment) as process:
        yield process


@dataclass
class Network:
    """A second network namespace, as if it were another host, and the cable between the two."""

    name: str
    address: str

    @property
    def there(self) -> list[str]:
        """The prefix of a command that runs there."""
        return ["ip", "netns", "exec", self.name]

    def cut(self) -> None:
        subprocess.run(["ip", "link", "set", self.name, "down"], check=True)


@contextmanager
def open_network() -> Iterator[Network | None]:
    """Open a second network namespace; None where that is not allowed."""
    number = os.getpid() % 16_000
    name, subnet = f"tda{number}", f"10.{200 + number // 4096}.{number // 16 % 256}"
    here, there = (f"{subnet}.{number % 16 * 4 + host}" for host in (1, 2))
    commands = (
        f"ip netns add {name}",
        f"ip link add {name} type veth peer name eth0 netns {name}",
        f"ip addr add {here}/30 dev {name}",
        f"ip link set {name} up",
        f"ip -n {name} addr add {there}/30 dev eth0",
        f"ip -n {name} link set eth0 up",
        f"ip -n {name} link set lo up",
    )
    try:
        yield Network(name, here) if all(is_possible(command) for command in commands) else None
    finally:
        is_possible(f"ip netns del {name}")


def is_possible(command: str) -> bool:
    """Run a command, and return whether it succeeded."""
    words = command.split()
    if shutil.which(words[0]) is None:
        return False
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def make_certificate(folder: Path) -> dict[str, Any]:
    """Make a certificate that is its own authority; return the configuration that uses it everywhere."""
    key, certificate = folder / "key.pem", folder / "ca.pem"
    options = "-x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=dask"
    if not is_possible(f"openssl req {options} -keyout {key} -out {certificate}"):
        return {}
    own = {"cert": str(certificate), "key": str(key)}
    tls = {"ca-file": str(certificate), "scheduler": own, "worker": own, "client": own}
    return {"distributed": {"comm": {"default-scheme": "tls", "require-encryption": True, "tls": tls}}}


def test_mixed_processors_are_warned_of(
    local: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import llvmlite.binding

    # Of this process alone: the workers ask their own processors.
    monkeypatch.setattr(llvmlite.binding, "get_host_cpu_name", lambda: "pentium4")
    with caplog.at_level(logging.WARNING):
        dask_executor.DaskExecutor(local.client, "workers")
    assert "pentium4 on this process" in caplog.text


def test_nobody_at_an_address_and_no_file_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask_executor, "CONNECT_SECONDS", 0.5)
    with (
        pytest.raises(MissingPath, match=r"no scheduler file .*gone\.json"),
        dask_workers.connect(str(tmp_path / "gone.json")),
    ):
        pass
    with (
        pytest.raises(WorkersFailed, match=r"no scheduler answers at tcp://127\.0\.0\.1:9"),
        dask_workers.connect("tcp://127.0.0.1:9"),
    ):
        pass


def test_a_task_that_ends_its_workers_is_given_up_with_a_remedy(local: Any) -> None:
    with pytest.raises(WorkersFailed, match=r"a task ended 2 workers .* tcp.*127\.0\.0\.1.*memory"):
        list(local.map(end_worker, [1]))
    assert len(dict(local.map(read_pid, range(4)))) == 4


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    file, config = folder / "scheduler.json", make_certificate(folder)
    (folder / "dask.yaml").write_text(json.dumps(config))
    # A worker that does not answer is given up soon; not so soon that a busy one is.
    environment = os.environ | {
        "DASK_CONFIG": str(folder / "dask.yaml"),
        "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "20s",
    }
    with open_network() as network:
        host = network.address if network else "127.0.0.1"
        command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", host, "--port", "0"]
        command += ["--scheduler-file", str(file), "--no-dashboard"]
        with started(command, cwd=folder, env=environment) as process:
            wait_until(lambda: file.exists() or process.poll() is not None)
            yield Cluster(file, process, environment, config, network)


@pytest.fixture(scope="module")
def worker(cluster: Cluster) -> Iterator[subprocess.Popen[str]]:
    """The worker of the last tests: before it starts, others are refused one by one."""
    with run_worker(cluster) as process:
        yield process


def test_a_scheduler_without_workers_is_named(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask_executor, "CONNECT_SECONDS", 10.0)
    with (
        pytest.raises(WorkersFailed, match="has no workers: start some with `dask worker"),
        cluster.connect(),
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
            WorkersFailed, match=r"worker \S+://\S+ has the source of panic_tda.clustering \w+, and"
        ),
        cluster.connect(),
    ):
        pass


def test_a_worker_without_the_folder_or_the_memory_is_refused_by_name(
    cluster: Cluster, tmp_path: Path, rows: np.ndarray
) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    alone = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {folder} && exec "$@"', "sh"]
    may_mount = subprocess.run([*alone, "true"], capture_output=True, check=False).returncode == 0
    with (
        run_worker(cluster, *(alone if may_mount else []), options=["--memory-limit", "64MiB"]),
        cluster.connect() as executor,
    ):
        with pytest.raises(WorkersFailed, match=r"worker \S+://\S+ needs .* for 1 task .*64 MiB.*--nthreads"):
            fit(rows, executor=executor, work_dir=tmp_path / "work")
        if not may_mount:
            pytest.skip("no file system can be mounted for one process here; it takes root")
        with pytest.raises(WorkersFailed, match=r"worker \S+://\S+ does not see the files .* --work-dir"):
            fit(rows, executor=executor, work_dir=folder)


@pytest.mark.usefixtures("worker")
def test_whoever_has_no_certificate_is_refused(cluster: Cluster) -> None:
    if not cluster.config:
        pytest.skip("openssl, which makes certificates, is not installed")
    assert cluster.address.startswith("tls://")
    with (
        pytest.raises(WorkersFailed, match=r"no scheduler answers at tls://\S+ .*certificates"),
        dask_workers.connect(cluster.address),
    ):
        pass
    arguments = ["plan-clustering", "--rows", "300", "--features", "8", "--scheduler", cluster.name, "--json"]
    with cluster.connect() as executor:
        assert json.loads(CliRunner().invoke(main, arguments).stdout)["slots"] == 1
        assert all(address.startswith("tls://") for address in executor.count_threads())
        assert dict(executor.map(abs, range(3))) == {0: 0, 1: 1, 2: 2}


@pytest.mark.usefixtures("worker")
def test_a_scheduler_without_the_package_is_named(cluster: Cluster) -> None:
    # It has no tests.
    with (
        cluster.connect() as executor,
        pytest.raises(WorkersFailed, match=r"scheduler of .* cannot load .* install .* there as here"),
    ):
        list(executor.map(read_pid, range(3)))


@pytest.mark.usefixtures("worker")
def test_a_host_that_is_cut_off_loses_nothing(
    cluster: Cluster, rows: np.ndarray, tree: SpanningTree, tmp_path: Path
) -> None:
    network = cluster.network
    if network is None:
        pytest.skip("no network namespace can be made here; it takes root and the command ip")

    def cut(n_results: int) -> None:
        if n_results == 3:
            network.cut()

    with run_worker(cluster, *network.there), cluster.connect() as executor:
        wait_until(lambda: executor.slots == 2)
        assert len({address.rsplit(":", 1)[0] for address in executor.count_threads()}) == 2
        assert_same(fit(rows, executor=Watched(executor, cut), work_dir=tmp_path / "work"), tree)
        assert executor.slots == 1


@pytest.mark.usefixtures("worker")
def test_a_frozen_worker_loses_nothing(
    cluster: Cluster, rows: np.ndarray, tree: SpanningTree, tmp_path: Path
) -> None:
    with run_worker(cluster) as frozen, cluster.connect() as executor:

        def freeze(n_results: int) -> None:
            if n_results == 3:
                frozen.send_signal(signal.SIGSTOP)

        wait_until(lambda: executor.slots == 2)
        assert_same(fit(rows, executor=Watched(executor, freeze), work_dir=tmp_path / "work"), tree)
        assert executor.slots == 1


@pytest.mark.usefixtures("worker")
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
        cluster.connect() as executor,
        pytest.raises(WorkersFailed, match=r"connection to the scheduler .* was lost.*same command"),
    ):
        fit(rows, executor=Watched(executor, kill), checkpoint=checkpoint)
    assert [path.name for path in work.rglob("*.state")] == ["neighbours.state"]
    assert_same(fit(rows, checkpoint=Checkpoint(work, "rows")), tree)
