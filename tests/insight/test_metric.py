"""Euclidean clusterings in a database: fitted, stored, shown, cut again, and refused where metrics mix."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from panic_tda import HDBSCAN
from panic_tda.storage.database import Database, open_database
from panic_tda.storage.read.results import find_clustering
from tests.clustering.test_euclidean import islands
from tests.command_line import invoke, read_json, succeed
from tests.snapshots import opened

N_NEW = 60


def make_vectors() -> np.ndarray:
    """Rows in groups of different lengths, so that cosine finds other clusters."""
    return islands(3, 300, 1).astype(np.float32) * np.float32(7)


def write_file(path: Path, vectors: np.ndarray, first_run: int) -> Path:
    n = len(vectors)
    runs = [f"run {first_run + row // 20}" for row in range(n)]
    columns = {
        "run": runs,
        "sequence_number": [row % 20 for row in range(n)],
        "text": [f"text {first_run} {row}" for row in range(n)],
        "embedding_model": ["Flat"] * n,
        "vector": pa.array(list(vectors), pa.list_(pa.float32())),
    }
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("metric")
    database = open_database(folder / "flat.sqlite", create=True)
    vectors = make_vectors()
    file = write_file(folder / "old.parquet", vectors[:-N_NEW], 0)
    succeed("import-embeddings", file, db=database)
    with opened(database.path or "") as connection:
        # Only cosine has no place for a vector of zeros.
        connection.execute("UPDATE embedding SET vector = zeroblob(12) WHERE rowid = 5")
    read_json("cluster-embeddings", "--metric", "euclidean", "--min-cluster-size", 8, db=database)
    assert database.path is not None
    return database.path


@pytest.fixture
def flat(template: Path, tmp_path: Path) -> Database:
    """A database with a Euclidean clustering."""
    return open_database(Path(shutil.copyfile(template, tmp_path / "flat.sqlite")))


def read_rows(database: Database, table: str) -> dict[str, tuple[int, float]]:
    with opened(database.path or "") as connection:
        query = f"SELECT embedding_id, label, probability FROM {table} WHERE result_key = 1 ORDER BY 1"
        return {identity: (label, value) for identity, label, value in connection.execute(query)}


def read_vectors(database: Database) -> dict[str, np.ndarray]:
    with opened(database.path or "") as connection:
        rows = connection.execute("SELECT id, vector FROM embedding ORDER BY id").fetchall()
    return {identity: np.frombuffer(vector, "<f4") for identity, vector in rows}


def test_a_database_gives_what_the_estimator_gives(flat: Database) -> None:
    stored, vectors = read_rows(flat, "embeddingcluster"), read_vectors(flat)
    assert list(stored) == list(vectors)
    model = HDBSCAN(8, metric="euclidean").fit(np.stack(list(vectors.values())))
    assert any(not vector.any() for vector in vectors.values())
    assert [label for label, _ in stored.values()] == model.labels_.tolist()
    assert [value for _, value in stored.values()] == model.probabilities_.tolist()
    assert len(set(model.labels_.tolist())) > 3


def test_listings_show_the_metric(flat: Database) -> None:
    assert read_json("list-clusterings", db=flat)[0]["metric"] == "euclidean"
    assert "metric euclidean" in invoke("list-clusterings", db=flat).output
    text = invoke("show-clustering", db=flat).output
    assert "epsilon 0 (euclidean)" in text
    assert "cosine" not in text


@pytest.mark.parametrize(
    "options",
    [("--epsilon", 6.5), ("--min-cluster-size", 5, "--min-samples", 9), ("--selection-method", "leaf")],
)
def test_a_recut_is_what_a_fit_gives(flat: Database, options: tuple[object, ...]) -> None:
    (recut,) = read_json("recut-clustering", "latest", *options, db=flat)["results"]
    settings = ("--min-cluster-size", 8) if "--min-cluster-size" not in options else ()
    words = ("cluster-embeddings", "--metric", "euclidean", *settings, *options)
    (fitted,) = read_json(*words, db=flat)["results"]
    compared = read_json("compare-clusterings", recut["id"], fitted["id"], db=flat)
    assert (compared["ari_with_outliers"], compared["outliers"]["only_a"]) == (1.0, 0)
    medoids = [
        [(cluster["label"], cluster["size"], cluster["medoid_embedding_id"]) for cluster in shown["clusters"]]
        for identity in (recut["id"], fitted["id"])
        for shown in read_json("show-clustering", identity, "--limit", 0, db=flat)
    ]
    assert medoids[0] == medoids[1]
    assert read_json("list-clusterings", db=flat)[1]["metric"] == "euclidean"


def test_new_embeddings_are_assigned_by_the_stored_metric(flat: Database, tmp_path: Path) -> None:
    file = write_file(tmp_path / "new.parquet", make_vectors()[-N_NEW:] + np.float32(1.5), 100)
    succeed("import-embeddings", file, db=flat)
    old = np.stack([read_vectors(flat)[identity] for identity in read_rows(flat, "embeddingcluster")])
    assert read_json("assign-embeddings", db=flat)["results"][0]["n_new"] == N_NEW
    predicted = read_rows(flat, "embeddingprediction")
    new = np.stack([read_vectors(flat)[identity] for identity in predicted])
    labels, probabilities = HDBSCAN(8, metric="euclidean").fit(old).predict_with_probability(new)
    assert list(predicted.values()) == list(zip(labels.tolist(), probabilities.tolist(), strict=True))
    assert len(set(labels.tolist())) > 2


def test_what_measures_chords_refuses_another_metric(flat: Database, tmp_path: Path) -> None:
    for command in (
        ["show-density"],
        ["sweep-clustering"],
        ["report-clustering", "latest", "--output", tmp_path / "page.html"],
        ["plot-clustering", "latest", "--output", tmp_path / "rows.png"],
        ["export-clustering", "latest", tmp_path / "rows.csv", "--with-map"],
    ):
        result = invoke(*command, db=flat)
        assert result.exit_code in (1, 2), command
        assert "needs a clustering of the metric cosine; this one has the metric euclidean" in result.output
    assert not list(tmp_path.glob("*.html")) + list(tmp_path.glob("rows*"))


def test_what_reads_the_tree_works_with_any_metric(flat: Database, tmp_path: Path) -> None:
    assert len(read_json("sweep-clustering", "--epsilon", "0,3,6", db=flat)["settings"]) >= 3
    merges = read_json("show-merges", db=flat)["merges"]
    assert max(merge["height"] for merge in merges) > 2
    assert read_json("stability-clustering", "--resamples", 2, db=flat)["clusters"]
    path = tmp_path / "rows.parquet"
    succeed("export-clustering", "latest", path, db=flat)
    table = pq.read_table(path)
    assert table["core_distance"].null_count == 0
    assert max(table["core_distance"].to_pylist()) > 2
    (finding,) = json.loads(invoke("doctor", "--json", db=flat).stdout)["findings"]
    assert finding["kind"] == "vector_zero"  # cosine would refuse it


def test_two_metrics_are_not_compared(flat: Database) -> None:
    (cosine,) = read_json("cluster-embeddings", "--min-cluster-size", 8, "--skip-invalid", db=flat)["results"]
    with flat.session() as session:
        source = find_clustering(session, str(cosine["id"]))
    assert source.record.metric == "cosine"
    euclidean_id = read_json("list-clusterings", db=flat)[1]["id"]
    result = invoke("compare-clusterings", cosine["id"], euclidean_id, db=flat)
    assert result.exit_code != 0
    assert "only clusterings of one metric can be compared; got cosine" in result.output


def test_plans_take_the_metric(flat: Database) -> None:
    (model,) = read_json("plan-clustering", "--downsample", 1, "--metric", "euclidean", db=flat)["models"]
    (cosine,) = read_json("plan-clustering", "--downsample", 1, db=flat)["models"]
    assert model["plans"][0]["seconds"]["total"] > 0
    sizes = [plans["plans"][0]["memory"]["tiled"]["bytes"] for plans in (cosine, model)]
    assert sizes[1] - sizes[0] >= 8 * 3 * model["n_total"]
