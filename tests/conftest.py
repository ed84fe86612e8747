"""Fixtures for all tests: databases, devices, and how parallel processes share them."""

from __future__ import annotations

import gc
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from panic_tda.clustering import backends
from panic_tda.clustering.backends import cuml
from panic_tda.devices import cuda
from panic_tda.devices.machine import available_cores
from panic_tda.records import ClusteringRecord
from panic_tda.types import FinishedClustering
from tests import strict_arrays
from tests.field_files import FieldFacts, FieldSpec, write_field_file
from tests.snapshots import field_copy, opened, snapshot
from tests.stand_ins import StandIn, require_device

if TYPE_CHECKING:
    from panic_tda.storage.database import Database
    from tests.servers import Server

_TESTS = Path(__file__).parent
# No limit of time, which a busy machine exceeds, and the same examples in every run.
# For other examples in each run: pytest --hypothesis-profile=explore
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("repeatable", parent=settings.get_profile("explore"), derandomize=True)
settings.load_profile("repeatable")
SLOW = (
    "cli/test_completion.py",
    "cli/test_display.py",
    "cli/test_environments.py",
    "cli/test_terminal.py",
    "cli/test_trajectories.py",
    "clustering/test_dask_executor.py",
    "clustering/test_dask_models.py",
    "clustering/test_euclidean.py",
    "clustering/test_hierarchy_peers.py",
    "clustering/test_prediction.py",
    "clustering/test_uncompiled.py",
    "clustering/test_warm_up.py",
    "clustering/tiled/test_improving_edges.py",
    "clustering/tiled/test_microkernels.py",
    "clustering/tiled/test_resume.py",
    "clustering/tiled/test_tiled.py",
    "clustering/tiled/test_tiled_device.py",
    "clustering/tiled/test_tiled_labels.py",
    "clustering/tiled/test_tiled_resume.py",
    "clustering/tiled/test_unusable_states.py",
    "commands/test_listings.py",
    "commands/test_tables.py",
    "devices/test_kernel_cache.py",
    "devices/test_machine.py",
    "faults/",
    "files/test_damaged_files.py",
    "files/test_exporting.py",
    "files/test_invalid_vectors",
    "files/test_pipeline_dumps.py",
    "files/test_text_tables.py",
    "insight/test_assigning.py",
    "insight/test_differences.py",
    "insight/test_memoryless.py",
    "insight/test_planning.py",
    "insight/test_recurrence.py",
    "insight/test_recut.py",
    "insight/test_trajectories.py",
    "peers/",
    "report/test_figure.py",
    "report/test_naming_and_opening.py",
    "report/test_page",
    "storage/test_copies_at_once.py",
    "storage/test_copying.py",
    "storage/test_doctor.py",
    "storage/test_doctor_trees.py",
    "storage/test_dumps.py",
    "storage/test_excerpts.py",
    "storage/test_large_texts.py",
    "storage/test_locks.py",
    "storage/test_repairs.py",
    "storage/test_pgvector.py",
    "storage/test_postgres.py",
    "storage/test_recovery.py",
    "storage/test_sampling.py",
    "storage/test_server_waits.py",
    "storage/test_trees.py",
    "storage/test_two_processes.py",
    "storage/test_upgrade.py",
    "test_check_gpu.py",
    "test_devices.py",
    "test_export_commands.py",
    "test_hostile_arguments.py",
    "test_outputs.py",
    "test_paths.py",
    "test_readme.py",
    "test_scripts.py",
    "test_work_folder.py",
    "test_workers.py",
)
"""What `scripts/test.sh` leaves out unless it is asked for everything (`--all`), by how paths begin: tests
that start processes, servers or browsers by the dozen, and grids of inputs. Left out are also the runs on
PostgreSQL of tests for both kinds of database, and in other files the functions that are marked slow: those
that take 2 processor seconds or more in all their cases, where other tests reach the same code."""
_TEMPORARY = tempfile.gettempdir()
"""Tests put another folder in its place, which the server's user may not enter."""


class UpgradedFile(NamedTuple):
    """A database with our tables, and what was written into it before."""

    database: Database
    facts: FieldFacts

    @property
    def path(self) -> Path:
        """Path of the SQLite file; not for a server."""
        assert self.database.path is not None, "the test asks for a file: mark it sqlite_only"
        return self.database.path

    @property
    def target(self) -> str:
        """Path or URL that opens the database."""
        return str(self.database.path or self.database.url.render_as_string(hide_password=False))

    def opened(self) -> AbstractContextManager[Any]:
        """Open the database as other programs do, without foreign keys; commit when the block ends."""
        return opened(self.target)

    def snapshot(self) -> dict[str, tuple[str, list[Any]]]:
        """Return all contents; see `snapshots.snapshot`."""
        return snapshot(self.target)


MakeFile = Callable[..., UpgradedFile]
_NEEDS_DEVICE = re.compile(r"\bgpu\b|\bupload\b|\bany_device\b")
"""What a file with tests that need a device has in it: the marker, or a fixture that has it."""
MakeDisk = Callable[[int], Path]
PLAIN = FieldSpec()
FREE_BYTES = 24 * 2**30


def pytest_configure(config: pytest.Config) -> None:
    """Skip the package's doctests if only tests that need a device are selected."""
    if _is_for_device(config):
        config.option.doctestmodules = False


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files whose tests would all be deselected: a machine may lack what they import."""
    if collection_path.suffix != ".py":
        return None
    if config.option.markexpr == "not slow" and _place(collection_path).startswith(SLOW):
        return True
    if _is_for_device(config) and not _NEEDS_DEVICE.search(collection_path.read_text(encoding="utf-8")):
        return True
    return None


def _place(path: Path) -> str:
    """Return the path of a test file below tests/; all doctests of the package share one."""
    return path.relative_to(_TESTS).as_posix() if path.is_relative_to(_TESTS) else "examples"


def _is_for_device(config: pytest.Config) -> bool:
    return bool(config.option.markexpr == "gpu")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: Sequence[object]) -> None:
    """Limit BLAS and OpenMP threads of each parallel test process and of its children."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // len(specs))))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow tests, and distribute tests among processes by what they share."""
    items[:] = [item for item in items if not _is_of_the_other_engine(item)]
    for item in items:
        path = _place(item.path)
        if path.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("gpu"):
            # Two processes would share the device's memory, which tests measure.
            item.add_marker(pytest.mark.xdist_group("device"))
        elif not item.get_closest_marker("xdist_group"):
            # Tests of one file share what is made once for it.
            group = "page" if path.startswith("report/test_page") else path
            on_server = "server" in getattr(item, "fixturenames", ())
            item.add_marker(pytest.mark.xdist_group("postgres" if on_server else group))
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Groups are begun in this order: no process is to be left alone with a long one in the end.
        items.sort(key=lambda item: (_group_of(item) != "postgres", item.get_closest_marker("slow") is None))


def _group_of(item: pytest.Item) -> str:
    marker = item.get_closest_marker("xdist_group")
    assert marker is not None
    return str(marker.args[0])


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Require that pytest-xdist sees the groups: it marks a test by the end of its id."""
    is_grouped = getattr(session.config.option, "loadgroup", False)
    if is_grouped and session.items and not any("@" in item.nodeid for item in session.items):
        raise pytest.UsageError(
            "this pytest-xdist ignores xdist_group with this pytest: every fixture of a "
            "file would be made in every process; install the versions of env/cpu.txt"
        )


def _is_of_the_other_engine(item: pytest.Item) -> bool:
    """Return whether a value of a parametrization is marked `sqlite_only`, and this is not SQLite."""
    values = getattr(item, "callspec", None)
    on_server = values is not None and values.params.get("engine") == "postgresql"
    return on_server and item.get_closest_marker("sqlite_only") is not None


@pytest.fixture(autouse=True)
def log_reaches_the_test() -> Iterator[None]:
    """Restore the logger after commands have configured it, so that `caplog` receives its records."""
    logger = logging.getLogger("panic_tda")
    yield
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


@pytest.fixture(autouse=True, scope="module")
def loaded_for_good() -> None:
    """Freeze objects loaded so far, so that garbage collections in each clustering are quick."""
    gc.freeze()


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable coverage in child processes."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


@pytest.fixture
def no_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide umap-learn, which takes longer to import and compile than most of what uses it."""
    monkeypatch.setitem(sys.modules, "umap", None)


@pytest.fixture
def no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this machine look like one without a device."""
    for module in (cuda, cuml):
        monkeypatch.setattr(module, "unavailable_reason", lambda: "CuPy is not installed")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a device with 24 GiB of free memory, for checks before a fit."""
    monkeypatch.setattr(cuml, "unavailable_reason", lambda: None)
    monkeypatch.setattr(cuda, "allocatable_bytes", lambda: FREE_BYTES)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests of databases on both kinds, except those for SQLite only."""
    if "engine" in metafunc.fixturenames and metafunc.definition.get_closest_marker("both_engines"):
        kinds = ["sqlite"]
        if not metafunc.definition.get_closest_marker("sqlite_only"):
            marks = (pytest.mark.xdist_group("postgres"), pytest.mark.slow)
            kinds.append(pytest.param("postgresql", marks=marks))
        metafunc.parametrize("engine", kinds, indirect=True)


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> str:
    """The kind of database that a test works on."""
    return getattr(request, "param", "sqlite")


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """A new SQLite file with empty tables."""
    from panic_tda.storage.database import open_database

    return open_database(tmp_path / "new.sqlite", create=True)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A PostgreSQL server."""
    from tests import servers

    with servers.started(_TEMPORARY) as server:
        yield server


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    """The URL of a database without tables on a PostgreSQL server."""
    with server.database() as url:
        yield url


@pytest.fixture(scope="session")
def upgraded_template(tmp_path_factory: pytest.TempPathFactory) -> Callable[[FieldSpec], FieldFacts]:
    """Write a field file and bring it to our tables, once for each spec: tests work on copies."""

    @cache
    def make(spec: FieldSpec) -> FieldFacts:
        from panic_tda.storage.database import open_database
        from panic_tda.storage.schema.upgrade import upgrade

        facts = write_field_file(tmp_path_factory.mktemp("template") / "field.sqlite", spec)
        upgrade(open_database(facts.path))
        return facts

    return make


@pytest.fixture
def upgraded(
    tmp_path: Path,
    engine: str,
    upgraded_template: Callable[[FieldSpec], FieldFacts],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[MakeFile]:
    """Make a field file of our tables by its spec, or a database of a server."""
    for name in ("sqlalchemy", "alembic"):
        pytest.importorskip(name, reason=f"needs {name}")
    from panic_tda.storage.database import open_database

    if engine == "postgresql":
        # What is kept beside a file is kept in the current folder there.
        monkeypatch.chdir(tmp_path)
    with ExitStack() as databases:

        def make(spec: FieldSpec = PLAIN, name: str = "field.sqlite") -> UpgradedFile:
            if engine == "sqlite":
                template = upgraded_template(spec)
                path = Path(shutil.copyfile(template.path, tmp_path / name))
                return UpgradedFile(open_database(path), replace(template, path=path))
            server: Server = request.getfixturevalue("server")
            name_of_template, facts = server.field_database(spec, tmp_path / name)
            url = databases.enter_context(server.database(name_of_template))
            return UpgradedFile(open_database(url), facts)

        yield make


@pytest.fixture(scope="session")
def real_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the upgraded real field file, or skip if the environment names none."""
    from panic_tda.storage.database import open_database
    from panic_tda.storage.schema.upgrade import upgrade

    path = field_copy(tmp_path_factory.mktemp("real"))
    upgrade(open_database(path))
    return path


@pytest.fixture
def real_file(tmp_path: Path, real_template: Path) -> Database:
    """A copy of the real field file with our tables."""
    from panic_tda.storage.database import open_database

    return open_database(shutil.copyfile(real_template, tmp_path / "field.sqlite"))


@pytest.fixture
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for temporary files that no other program uses."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def require_backend(name: str, *, on_device: bool) -> None:
    """Skip the test where a backend cannot run, or there is no device to run it on."""
    reason = backends.unavailable_reason(name)
    if reason is None and on_device:
        reason = cuda.unavailable_reason()
    if reason is not None:
        pytest.skip(f"{reason}; with a device, run: pytest -m gpu")


def ids_of(file: UpgradedFile, model: str = "Nomic") -> list[str]:
    """Return the ids of a model's embeddings, ascending."""
    return [embedding.id for embedding in file.facts.sample(model)]


def make_finished(ids: Sequence[str], *, model: str = "Nomic", seed: int = 0) -> FinishedClustering:
    """Invent a clustering of these embeddings, with outliers and clusters of several sizes."""
    from panic_tda.storage.schema.tables import uuid7

    rng = np.random.default_rng(seed)
    n = len(ids)
    labels = np.sort(rng.integers(-1, 4, n))[rng.permutation(n)]
    cluster_labels = sorted(set(labels.tolist()) - {-1})
    return FinishedClustering(
        id=uuid7(),
        embedding_model=model,
        started_at=datetime(2025, 7, 15, 10, 0, 0, 123456),
        completed_at=datetime(2025, 7, 15, 11, 45),
        record=ClusteringRecord(
            cluster_selection_epsilon=0.4,
            min_cluster_size=10,
            min_samples=5,
            allow_single_cluster=True,
            cluster_selection_method="eom",
            max_cluster_size=None,
            distance_floor=1e-3,
            backend="sklearn",
            exact=True,
            n_embeddings=n,
            n_unique=n,
            n_clusters=len(cluster_labels),
            n_outliers=int((labels == -1).sum()),
            versions={"numpy": np.__version__},
            seconds={"fit": 0.1 + 0.2},
            downsample=1,
        ),
        ids=np.array(sorted(ids), dtype="S32"),
        labels=labels,
        probabilities=np.where(labels == -1, 0.0, rng.random(n)),
        medoids={label: int(rng.choice(np.flatnonzero(labels == label))) for label in cluster_labels},
        persistence={label: float(rng.random()) for label in cluster_labels},
    )


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Make the package find the stand-in for a device."""
    return StandIn(monkeypatch)


@pytest.fixture(params=["stand-in", pytest.param("cuda", marks=pytest.mark.gpu)])
def upload(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Return the function that copies an array to the stand-in or to a real device."""
    if request.param == "stand-in":
        return cast("Callable[[Any], Any]", strict_arrays.namespace.asarray)
    require_device()
    import cupy

    return cast("Callable[[Any], Any]", cupy.asarray)


@pytest.fixture(params=["stand-in", pytest.param("cuda", marks=pytest.mark.gpu)])
def any_device(request: pytest.FixtureRequest) -> None:
    """Make the package find the stand-in or the real device."""
    if request.param == "stand-in":
        request.getfixturevalue("stand_in")
    else:
        require_device()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[MakeDisk]:
    """Mount a file system of a given size in memory."""
    mounted: list[Path] = []

    def make(size: int) -> Path:
        folder = tmp_path / f"disk {len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        try:
            process = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no command mount")
        if process.returncode:
            pytest.skip(f"a small file system cannot be mounted: {process.stderr.strip()}; only root may")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)
