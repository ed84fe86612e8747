"""Run real commands, kill, stop or starve them, and check the database afterwards."""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from panic_tda.clustering_manager import cluster_all_data
from panic_tda.parameters import ClusteringParameters
from panic_tda.storage.database import open_database
from panic_tda.storage.schema.upgrade import CLUSTERING_TABLES, upgrade
from tests.field_files import FieldSpec, write_field_file
from tests.processes import accept_interrupts
from tests.snapshots import REPOSITORY, opened, snapshot

SECONDS = 600
"""After this long a process that should have ended is considered stuck, also on a machine with much to do."""

COMMAND = """
import sys
from panic_tda.clustering.checkpoint import Checkpoint
# A state is saved whenever there could be one: a kill is to find some.
Checkpoint.__init__.__kwdefaults__["save_seconds"] = 0.0
from panic_tda.main import main
main(prog_name="panic-tda")
"""
FIT = ("cluster-embeddings", "--backend", "tiled", "--epsilon", "0", "--no-allow-single-cluster")
FIT_MODELS = ("cluster-embeddings", "--backend", "tiled")
PLAN = ("plan-clustering", "--downsample", "1")
FILES_AND_STATES = ("--memory-limit", "1MiB")
"""Rows and lists go into files."""
PHASE = re.compile(r"DEBUG +(?:[\w ]+: )?(.*) …$")


@dataclass
class Run:
    """A run of the command.

    Attributes
    ----------
    code : int
        Exit code; below zero the signal that killed it.
    seconds : float
        From start to end.
    lines : list of (float, str)
        What it said on stderr, and when.
    signalled : float
        When a signal was sent.
    cpu_seconds : float
        Processor seconds of all of it.
    cpu_signalled : float
        Processor seconds before the signal.
    """

    code: int = 0
    seconds: float = 0.0
    lines: list[tuple[float, str]] = field(default_factory=list)
    signalled: float = math.nan
    cpu_seconds: float = 0.0
    cpu_signalled: float = math.nan

    @property
    def stderr(self) -> str:
        return "\n".join(line for _, line in self.lines)

    @property
    def phases(self) -> list[tuple[float, str]]:
        """Start times and names of the phases."""
        return [(when, match[1]) for when, line in self.lines if (match := PHASE.search(line))]

    @property
    def where(self) -> str:
        return self.phases[-1][1] if self.phases else "before the first phase"


def environment(**more: str) -> dict[str, str]:
    inherited = {
        name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "NUMBA_CACHE_DIR") if name in os.environ
    }
    return inherited | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)} | more


def run(
    path: Path,
    words: Sequence[object],
    *,
    after: float | None = None,
    phase: str | None = None,
    number: signal.Signals = signal.SIGKILL,
    code: str = COMMAND,
    env: dict[str, str] | None = None,
    prefix: Sequence[str] = (),
) -> Run:
    """Run the command, and send it a signal `after` seconds from its start or from the start of a phase."""
    command = [
        *prefix,
        sys.executable,
        "-c",
        code,
        str(words[0]),
        "-v",
        "--db",
        str(path),
        *map(str, words[1:]),
    ]
    began, result = time.perf_counter(), Run()
    with accept_interrupts():
        process = subprocess.Popen(
            command,
            cwd=path.parent,
            env=env or environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def send() -> None:
        with suppress(psutil.NoSuchProcess):
            result.cpu_signalled = sum(psutil.Process(process.pid).cpu_times()[:2])
        result.signalled = time.perf_counter() - began
        process.send_signal(number)

    stuck = threading.Event()
    limit = threading.Timer(SECONDS, lambda: (stuck.set(), process.kill()))
    limit.start()
    timer = None if after is None else threading.Timer(after, send)
    if timer is not None and phase is None:
        timer.start()
    assert process.stderr is not None
    with process.stderr:
        for line in process.stderr:
            result.lines.append((time.perf_counter() - began, line.rstrip("\n")))
            match = PHASE.search(line)
            if timer is not None and match and match[1] == phase and not timer.is_alive():
                timer.start()
                phase = None
    _, status, usage = os.wait4(process.pid, 0)
    result.code = process.returncode = os.waitstatus_to_exitcode(status)
    result.cpu_seconds = usage.ru_utime + usage.ru_stime
    limit.cancel()
    disturbance = "undisturbed" if after is None else f"after {number.name}"
    assert not stuck.is_set(), f"it did not end, {disturbance}: {result.stderr}"
    result.seconds = time.perf_counter() - began
    if timer is not None:
        timer.cancel()
    return result


# --------------------------------------------------------------------------- what must hold


def require_complete(path: Path) -> int:
    """Check the file and every clustering in it against its own record, and count the clusterings."""
    if not path.exists() or not path.stat().st_size:
        return 0
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("PRAGMA integrity_check").fetchall()
        assert rows == [("ok",)], rows
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "clusteringtree" not in tables:
            return 0
        keys = dict(connection.execute("SELECT key, parameters FROM clusteringresult").fetchall())
        for table in CLUSTERING_TABLES[1:]:
            referring = {row[0] for row in connection.execute(f"SELECT DISTINCT result_key FROM {table}")}
            assert referring <= set(keys), f"{table} has rows of a clustering that is not there"
        for key in keys:
            _require_complete_clustering(connection, key)
    return len(keys)


def _require_complete_clustering(connection: sqlite3.Connection, key: int) -> None:
    def fetch_value(query: str) -> Any:
        return connection.execute(query, (key,)).fetchone()[0]

    recorded = {
        name: fetch_value(f"SELECT json_extract(parameters, '$.{name}') FROM clusteringresult WHERE key = ?")
        for name in ("n_embeddings", "n_outliers", "n_clusters", "input_sha256")
    }
    assert (
        fetch_value("SELECT count(*) FROM embeddingcluster WHERE result_key = ?") == recorded["n_embeddings"]
    )
    outliers = fetch_value("SELECT count(*) FROM embeddingcluster WHERE label = -1 AND result_key = ?")
    assert outliers == recorded["n_outliers"]
    sizes = dict(
        connection.execute(
            "SELECT label, count(*) FROM embeddingcluster WHERE result_key = ? AND label >= 0 GROUP BY label",
            (key,),
        )
    )
    clusters = connection.execute(
        "SELECT c.label, c.size, a.label FROM cluster c LEFT JOIN embeddingcluster a "
        "ON a.result_key = c.result_key AND a.embedding_id = c.medoid_embedding_id WHERE c.result_key = ?",
        (key,),
    ).fetchall()
    assert {label: size for label, size, _ in clusters} == sizes
    assert len(clusters) == recorded["n_clusters"]
    assert all(label == of_medoid for label, _, of_medoid in clusters)
    assert recorded["input_sha256"]
    assert fetch_value("SELECT count(*) FROM clusteringtree WHERE result_key = ?") >= 1


def read_results(path: Path) -> dict[str, Any]:
    """Return, by model, the clusters and the input hash of the latest clustering, without times."""
    answer_by_model = {}
    with closing(sqlite3.connect(path)) as connection:
        for model, key, sha256 in connection.execute(
            "SELECT embedding_model, key, json_extract(parameters, '$.input_sha256') FROM clusteringresult "
            "ORDER BY created_at"
        ).fetchall():
            rows = connection.execute(
                "SELECT embedding_id, label, probability FROM embeddingcluster WHERE result_key = ? "
                "ORDER BY 1",
                (key,),
            ).fetchall()
            clusters = connection.execute(
                "SELECT label, medoid_embedding_id, size, persistence FROM cluster WHERE result_key = ? "
                "ORDER BY 1",
                (key,),
            ).fetchall()
            answer_by_model[model] = sha256, rows, clusters
    return answer_by_model


def read_all_rows(path: Path) -> dict[str, Any]:
    """Return all rows of all tables."""
    return dict(snapshot(path))


def find_leftover_files(path: Path) -> list[str]:
    """Return the names of unexpected files beside a database."""
    known = {path.name, f"{path.name}-wal", f"{path.name}-shm"}
    return sorted(
        str(file.relative_to(path.parent))
        for file in path.parent.rglob("*")
        if file.is_file() and file.name not in known
    )


# --------------------------------------------------------------------------- stages


@dataclass(frozen=True)
class Stage:
    """Work that is disturbed.

    Attributes
    ----------
    words : tuple
        The command.
    prepare : callable
        Makes the database before it, of about so many rows.
    outcome : callable
        Reads what the work comes to.
    phases : tuple of str
        Those within which it is to be disturbed.
    again_words : tuple, optional
        Of the run that completes the work; the same by default.
    """

    words: tuple[object, ...]
    prepare: Callable[[Path, int], None]
    outcome: Callable[[Path], Any]
    phases: tuple[str, ...]


def spec(n_rows: int, **more: Any) -> FieldSpec:
    """A file with about so many embeddings in each of two models."""
    length = 40 if n_rows < 5_000 else 400
    return FieldSpec(runs=max(1, 2 * n_rows // length), length=length, dimensions=32, **more)


def field_file(path: Path, n_rows: int) -> None:
    write_field_file(path, spec(n_rows, layout=2, wal=True, unique="index", alembic_version="3f2a9c1d0b7e"))


def upgraded_file(path: Path, n_rows: int) -> None:
    write_field_file(path, spec(n_rows, layout=0))
    upgrade(open_database(path))


def clustered_file(path: Path, n_rows: int) -> None:
    upgraded_file(path, n_rows)
    parameters = ClusteringParameters(backend="tiled", epsilon=0.0, allow_single_cluster=False)
    cluster_all_data(open_database(path), parameters=parameters)
    without_log(path)


def file_of_models(path: Path, n_rows: int) -> None:
    """Write a model of 20 embeddings per hundred rows: many short phases."""
    models = tuple(f"Model{number:03d}" for number in range(max(2, n_rows // 100)))
    write_field_file(path, FieldSpec(layout=0, runs=1, length=40, text_models=models))
    upgrade(open_database(path))


def write_import_file(path: Path, n_rows: int) -> None:
    """Write the file to import, and no database."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((n_rows, 32)).astype(np.float32)
    texts = [f"a text {row}" for row in range(n_rows)]
    columns = {
        "text": texts,
        "vector": pa.FixedSizeListArray.from_arrays(vectors.ravel(), 32),
        "embedding_model": ["Imported"] * n_rows,
        "run": [f"run {row // 100}" for row in range(n_rows)],
        "sequence_number": [row % 100 for row in range(n_rows)],
    }
    pq.write_table(pa.table(columns), path.parent / "import.parquet")


_PASSES = ("neighbours", "core distances", "forest", "verify")
STAGES = {
    "import": Stage(("import-embeddings", "import.parquet"), write_import_file, read_all_rows, ("import",)),
    "upgrade": Stage(("upgrade", "--yes"), field_file, read_all_rows, ("upgrade",)),
    "load": Stage((*FIT, *FILES_AND_STATES), upgraded_file, read_results, ("load", "fingerprint")),
    "fit": Stage((*FIT, *FILES_AND_STATES), upgraded_file, read_results, _PASSES),
    "save": Stage((*FIT, *FILES_AND_STATES), upgraded_file, read_results, ("hierarchy", "medoids", "save")),
    "plan": Stage(PLAN, file_of_models, read_all_rows, ("count embeddings", "measure a fit of 20 rows")),
    "models": Stage(
        FIT_MODELS, file_of_models, read_results, ("count embeddings", "load", "medoids", "save")
    ),
    "delete": Stage(("delete-clusterings", "--all", "--yes"), clustered_file, read_all_rows, ("delete",)),
}


@contextmanager
def prepared(stage: Stage, template: Path, place: Path) -> Iterator[Path]:
    """Copy what a stage starts from to another folder, and remove it in the end."""
    shutil.copytree(template, place)
    try:
        yield place / "field.sqlite"
    finally:
        shutil.rmtree(place)


def make_template(stage: Stage, folder: Path, n_rows: int) -> Path:
    folder.mkdir()
    stage.prepare(folder / "field.sqlite", n_rows)
    return folder


def without_log(path: Path) -> None:
    """Move the write-ahead log into the file, so that the file can be copied alone."""
    with opened(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def longest(undisturbed: Run, phase: str) -> float:
    """Return how long a phase lasted the first time."""
    starts = [when for when, _ in undisturbed.phases] + [undisturbed.seconds]
    for number, (when, name) in enumerate(undisturbed.phases):
        if name == phase:
            return starts[number + 1] - when
    raise AssertionError(f"no phase {phase!r} in {undisturbed.phases}")
