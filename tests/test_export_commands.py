"""Test the export commands: what they print, what the files contain, and how they fail."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from panic_tda.report.gathering import gather
from panic_tda.storage.read.results import find_clustering
from tests import processes
from tests.cli.processes import environment
from tests.command_line import invoke, succeed
from tests.conftest import MakeFile, UpgradedFile
from tests.exported import COLUMNS, clustered, expected_rows
from tests.field_files import FieldSpec
from tests.insight.test_step_rows import COLUMNS as STEP_COLUMNS
from tests.snapshots import REPOSITORY, opened

EXPORTS = ("export-clustering", "export-trajectories")


@pytest.fixture
def file(upgraded: MakeFile) -> UpgradedFile:
    file = upgraded(FieldSpec(text_models=("Nomic", "STSBMpnet")))
    for model in file.facts.models:
        clustered(file.database, model)
    return file


def exported(file: UpgradedFile, *words: object) -> str:
    result = succeed(*words, db=file.path)
    return result.stdout


def refused(file: UpgradedFile, *words: object, code: int = 2) -> str:
    result = invoke(*words, db=file.path)
    assert result.exit_code == code, result.output
    return result.stderr


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def test_a_clustering_is_exported(file: UpgradedFile, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    printed = exported(file, "export-clustering", "latest", path, "--model", "STSBMpnet")
    rows = rows_of(path)
    assert printed == f"Wrote {len(rows)} rows to {path} ({path.stat().st_size:,} bytes).\n"
    listed = json.loads(exported(file, "list-clusterings", "--json"))
    (identity,) = (clustering["id"] for clustering in listed if clustering["embedding_model"] == "STSBMpnet")
    assert [row["embedding_id"] for row in rows] == [
        row["embedding_id"] for row in expected_rows(file.path, identity)
    ]
    by_id = tmp_path / "by_id.parquet"
    printed = exported(file, "export-clustering", identity[:13], by_id, "--with-vectors", "--json")
    assert json.loads(printed) == {"file": str(by_id), "rows": len(rows), "bytes": by_id.stat().st_size}
    records = rows_of(by_id)
    assert {len(row.pop("vector")) for row in records} == {8}
    assert records == rows


@pytest.mark.usefixtures("no_umap")
def test_the_map_is_that_of_the_report(file: UpgradedFile, tmp_path: Path) -> None:
    with file.database.session() as session:
        source = find_clustering(session, model="Nomic")
    plain = tmp_path / "plain.parquet"
    exported(file, "export-clustering", source.id, plain)
    record = next(row for row in rows_of(plain) if not row["is_medoid"])
    with opened(file.path) as connection:
        invocation = record["invocation_id"].replace("-", "")
        connection.execute("DELETE FROM invocation WHERE id = ?", (invocation,))
    path = tmp_path / "rows.parquet"
    exported(file, "export-clustering", source.id, path, "--with-map")
    rows = rows_of(path)
    assert list(rows[0]) == [
        *COLUMNS,
        "outlier_score",
        "nearest_cluster",
        "nearest_cluster_distance",
        "x",
        "y",
    ]
    # What belongs to no step any more is not on the map.
    assert [row["embedding_id"] for row in rows if row["x"] is None] == [record["embedding_id"]]
    placed = [row for row in rows if row["x"] is not None]
    page = gather(file.database, source)["map"]
    assert page["n"] == len(placed) == len(rows) - 1
    xy = np.array([(row["x"], row["y"]) for row in placed], dtype=np.float32)
    low, high = xy.min(axis=0), xy.max(axis=0)
    span = (high - low).max()
    assert span > 0.1
    np.testing.assert_array_equal(page["x"], np.rint((xy[:, 0] - low[0]) / span * 65_535))
    np.testing.assert_array_equal(page["y"], np.rint((xy[:, 1] - low[1]) / span * 65_535))
    assert page["labels"].tolist() == [row["label"] for row in placed]


def test_words_of_clusters_are_exported_on_request(file: UpgradedFile, tmp_path: Path) -> None:
    with file.database.session() as session:
        source = find_clustering(session, model="Nomic")
    path = tmp_path / "rows.parquet"
    exported(file, "export-clustering", source.id, path, "--with-words")
    rows = rows_of(path)
    assert list(rows[0]) == [
        *COLUMNS,
        "outlier_score",
        "nearest_cluster",
        "nearest_cluster_distance",
        "cluster_words",
    ]
    (shown,) = json.loads(exported(file, "show-clustering", source.id, "--words", "--limit", "0", "--json"))
    words = {cluster["label"]: ", ".join(cluster["words"]) for cluster in shown["clusters"]}
    assert {(row["label"], row["cluster_words"]) for row in rows if row["label"] >= 0} == set(words.items())
    assert {row["cluster_words"] for row in rows if row["label"] < 0} <= {None}
    assert all(words.values())


def test_trajectories_are_exported(file: UpgradedFile, tmp_path: Path) -> None:
    path = tmp_path / "steps.parquet"
    metadata = json.loads(
        exported(file, "export-trajectories", "latest", path, "--model", "Nomic", "--json", "--with-drift")
    )
    rows = rows_of(path)
    assert metadata == {"file": str(path), "rows": len(rows), "bytes": path.stat().st_size}
    assert list(rows[0]) == [*STEP_COLUMNS, "drift", "stride"]
    assert len(rows) == file.facts.spec.runs * file.facts.spec.length // 2
    strict = tmp_path / "strict.parquet"
    exported(file, "export-trajectories", "latest", strict, "--model", "Nomic", "--core-probability", "1")
    cores = [sum(row["flag"] == "core" for row in table) for table in (rows, rows_of(strict))]
    assert 0 < cores[1] < cores[0]


@pytest.mark.parametrize("command", EXPORTS)
def test_wrong_usage_is_reported_before_anything_is_read(
    file: UpgradedFile, tmp_path: Path, command: str
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("before")
    assert "exists; replace it with --force" in refused(file, command, "latest", path, "--model", "Nomic")
    assert path.read_text() == "before"
    assert "must end in .parquet" in refused(
        file, command, "latest", tmp_path / "rows.xlsx", "--model", "Nomic"
    )
    assert "no folder" in refused(file, command, "latest", tmp_path / "none" / "rows.csv", "--model", "Nomic")
    assert "choose one with --model" in refused(file, command, "latest", tmp_path / "other.csv")
    assert "Missing argument 'FILE'" in refused(file, command, tmp_path / "other.csv")
    assert "none of 2 stored clusterings" in refused(file, command, "ffff", tmp_path / "other.csv")
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".csv") == ["rows.csv"]
    exported(file, command, "latest", path, "--model", "Nomic", "--force")
    assert path.read_text() != "before"


def test_csv_with_vectors_is_wrong_usage(file: UpgradedFile, tmp_path: Path) -> None:
    words = ("export-clustering", "latest", tmp_path / "rows.csv", "--model", "Nomic", "--with-vectors")
    assert "a .csv file has no vectors" in refused(file, *words)
    failed = invoke(*words, "--json", db=file.path)
    assert json.loads(failed.stdout)["error"]["type"] == "WrongUsage"


@pytest.mark.parametrize("command", EXPORTS)
def test_a_read_only_database_is_exported(file: UpgradedFile, tmp_path: Path, command: str) -> None:
    before = file.path.read_bytes()
    file.path.chmod(0o444)
    path = tmp_path / "rows.ndjson"
    exported(file, command, "latest", path, "--model", "Nomic")
    assert path.stat().st_size > 1000
    assert file.path.read_bytes() == before


SLOW = """
import sys, time
from panic_tda.files import exporting
from panic_tda.storage.read import exports

exporting.GROUP_ROWS = exports.BATCH_ROWS = 5
write = exporting.FORMATS[".csv"]

def slowly(file, schema, groups):
    def slow():
        for number, group in enumerate(groups):
            yield group
            if number == 2:
                print("HERE NOW", file=sys.stderr, flush=True)
                time.sleep(60)
    write(file, schema, slow())

exporting.FORMATS[".csv"] = slowly
from panic_tda.main import main
main(prog_name="panic-tda")
"""


def test_ctrl_c_leaves_the_existing_file(file: UpgradedFile, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    path = folder / "rows.csv"
    path.write_text("before")
    words = ["export-clustering", "latest", str(path), "--model", "Nomic", "--force", "--db", str(file.path)]
    command = [sys.executable, "-c", SLOW, *words]
    with processes.started(command, cwd=REPOSITORY, env=environment()) as process:
        assert process.stderr is not None
        watchdog = threading.Timer(180, process.kill)
        watchdog.start()
        while "HERE NOW" not in (line := process.stderr.readline()):
            assert line
        assert len(list(folder.iterdir())) == 2
        os.kill(process.pid, signal.SIGINT)
        _, output = process.communicate(timeout=180)
        watchdog.cancel()
        assert process.returncode == 130
    assert "Traceback" not in output
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("rows.csv", "before")]
