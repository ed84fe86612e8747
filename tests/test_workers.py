"""Test that `cluster-embeddings --workers` stores the same result, and what workers refuse."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from panic_tda.clustering import dask_executor, dask_workers
from panic_tda.devices import cuda
from panic_tda.errors import InvalidParameter
from panic_tda.files.importing import import_embeddings
from panic_tda.main import main
from panic_tda.parameters import Resources
from panic_tda.storage.database import Database, open_database
from panic_tda.storage.read.results import find_clustering
from panic_tda.storage.read.trees import read_tree
from panic_tda.storage.schema.upgrade import upgrade
from tests.snapshots import REPOSITORY, opened, run_python

SAMPLE = sorted((REPOSITORY / "panic_tda" / "sample").glob("*.parquet"))
pytestmark = pytest.mark.xdist_group("dask")


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait longer for workers: a busy machine takes half a minute to start one."""
    monkeypatch.setattr(dask_executor, "CONNECT_SECONDS", 180.0)


def run(database: Database, *words: str) -> list[dict[str, Any]]:
    """Cluster all models by the command, and return its outcomes."""
    command = ["cluster-embeddings", "--db", str(database), "--json", *words]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.stderr
    outcomes: list[dict[str, Any]] = json.loads(result.stdout)["results"]
    return outcomes


def stored(database: Database, clustering_id: str) -> dict[str, Any]:
    """Return everything that depends on the clusters, and the sorted tree heights."""
    with database.session() as session:
        summary = find_clustering(session, clustering_id)
        tree = read_tree(session.connection(), summary.id)
    assert tree is not None
    with opened(database.path or "") as connection:
        (key,) = connection.execute(
            "SELECT key FROM clusteringresult WHERE id = ?", (summary.id.hex,)
        ).fetchone()
        assignments, clusters = (
            sorted(connection.execute(f"SELECT {columns} FROM {table} WHERE result_key = ?", (key,)))
            for table, columns in (
                ("embeddingcluster", "embedding_id, label, probability"),
                ("cluster", "label, medoid_embedding_id, size, persistence, medoid_copies"),
            )
        )
    return {
        "assignments": assignments,
        "clusters": clusters,
        "heights": np.sort(tree.height).tolist(),
        "core distances": tree.core_distances.tolist(),
    }


def test_the_sample_and_a_field_file_are_clustered_by_workers_as_without(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the extra dask is not installed")
    path = tmp_path / "both.sqlite"
    if field := os.environ.get("PANIC_TDA_FIELD_DB"):
        shutil.copyfile(field, path)
        upgrade(open_database(path))
    database = open_database(path, create=not field)
    import_embeddings(SAMPLE, database)
    alone = {
        outcome["embedding_model"]: stored(database, outcome["id"])
        for outcome in run(database, "--backend", "tiled")
    }
    assert {"MiniLM", "LSA"} <= alone.keys()
    for count in ("1", "2", "4"):
        outcomes = run(database, "--workers", count)
        assert {outcome["embedding_model"]: stored(database, outcome["id"]) for outcome in outcomes} == alone
    assert not list(tmp_path.rglob("*.rows"))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--workers", "0"), 2, "workers must be a whole number of at least 1; got 0"),
        (("--workers", "2", "--scheduler", "tcp://host:1"), 2, "processes here or a scheduler's, not both"),
        (
            ("--workers", "3"),
            2,
            "workers must be at most 2, the number of CUDA devices, as each worker has one",
        ),
        (("--workers", "2", "--devices", "1"), 2, "at most 1, the number of CUDA devices"),
        (("--workers", "2", "--devices", "0,2"), 2, "devices must be among 0, 1"),
        (("--scheduler", "tcp://host:1", "--devices", "0"), 2, "none beside scheduler, whose workers have"),
        (("--workers", "2", "--backend", "sklearn"), 1, "use --backend tiled with --workers"),
        (("--scheduler", " "), 2, "an address such as tcp://host:8786"),
    ],
)
def test_options_that_workers_do_not_support_are_refused(
    words: tuple[str, ...], code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "count", lambda: 2)
    database = open_database(tmp_path / "empty.sqlite", create=True)
    result = CliRunner().invoke(main, ["cluster-embeddings", "--db", str(database), *words])
    assert result.exit_code == code, result.output
    assert message in result.output


def test_workers_that_cannot_use_their_devices_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("distributed", reason="the extra dask is not installed")
    monkeypatch.setattr(cuda, "count", lambda: 2)
    # What this process sees of the devices, no other process does.
    monkeypatch.setenv(cuda.VISIBLE, "-1,-1")
    database = open_database(tmp_path / "sample.sqlite", create=True)
    import_embeddings(SAMPLE[:1], database)
    result = CliRunner().invoke(main, ["cluster-embeddings", "--db", str(database), "--workers", "1"])
    assert result.exit_code == 1
    assert re.search(r"worker \S+ cannot compute on a CUDA device \(.+\). .* --devices none", result.output)
    assert "Traceback" not in result.output


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dask_workers.importlib.util, "find_spec", lambda _name: None)
    database = open_database(tmp_path / "empty.sqlite", create=True)
    result = CliRunner().invoke(main, ["cluster-embeddings", "--db", str(database), "--workers", "2"])
    assert result.exit_code == 1
    assert "Dask is not installed: pip install '.[dask]'" in result.output


def test_a_scheduler_of_the_environment_is_used_unless_workers_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", str(tmp_path / "gone.json"))
    database = open_database(tmp_path / "sample.sqlite", create=True)
    import_embeddings(SAMPLE[:1], database)
    command = ["cluster-embeddings", "--db", str(database)]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2
    assert "there is no scheduler file" in result.output
    assert CliRunner().invoke(main, [*command, "--workers", "0"]).exit_code == 2
    with pytest.raises(InvalidParameter, match="not both"):
        Resources(workers=1, scheduler="tcp://host:1")


def test_a_fit_without_workers_needs_no_dask() -> None:
    code = """
import sys
sys.modules.update(dask=None, distributed=None)
import numpy as np
from panic_tda import hdbscan
rows = np.random.default_rng(0).standard_normal((60, 3))
print(hdbscan(rows, backend="tiled").record.backend)
"""
    process = run_python(code)
    assert (process.returncode, process.stdout.strip()) == (0, "tiled"), process.stderr
