"""The doctor compares stored trees with the vectors that they join."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from panic_tda import clustering_manager
from panic_tda.files.importing import import_embeddings
from panic_tda.insight.recut import Changes, recut_clustering
from panic_tda.parameters import ClusteringParameters
from panic_tda.storage.database import Database, open_database
from panic_tda.storage.doctor import examine_database
from panic_tda.storage.doctor.trees import SAMPLE_EDGES, WRONG_TREE
from panic_tda.storage.doctor.trees import TREE as DAMAGED_TREE
from panic_tda.storage.read import trees
from panic_tda.storage.read.assignments import read_assignments
from panic_tda.storage.read.results import ClusteringSummary, list_clusterings
from panic_tda.storage.read.vectors_by_id import read_vectors
from panic_tda.storage.write.trees import save_tree
from panic_tda.types import SpanningTree
from tests.conftest import MakeFile, UpgradedFile
from tests.field_files import FieldSpec
from tests.snapshots import opened

pytestmark = [pytest.mark.both_engines, pytest.mark.usefixtures("temporary_folder")]

SAMPLE = Path(__file__).parents[2] / "panic_tda" / "sample"


def summaries(database: Database) -> list[ClusteringSummary]:
    with database.session() as session:
        return list_clusterings(session)


def wrong_trees(database: Database) -> list[str]:
    return [
        tree_id for finding in examine_database(database, [WRONG_TREE]).findings for tree_id in finding.ids
    ]


def stored_tree(database: Database, summary: ClusteringSummary) -> SpanningTree:
    with database.reading() as connection:
        return trees.require_tree(connection, summary.id, summary.record)


def store_tree(database: Database, summary: ClusteringSummary, tree: SpanningTree) -> None:
    with database.writing() as connection:
        query = f"SELECT key FROM clusteringresult WHERE id = '{summary.id.hex}'"
        key = connection.exec_driver_sql(query).scalar_one()
        connection.exec_driver_sql(f"DELETE FROM clusteringtree WHERE result_key = {key}")
        save_tree(connection, key, tree)


def as_an_earlier_version_stored(tree: SpanningTree) -> SpanningTree:
    """Return the same merges with the first row of either side at the ends of each edge."""
    n = len(tree.height) + 1
    component = np.arange(n)
    order = np.argsort(tree.height, kind="stable")
    ends = []
    for u, v in zip(tree.u[order], tree.v[order], strict=True):
        left, right = component[u], component[v]
        ends.append((left, right))
        component[component == right] = left
    u, v = np.array(ends).T
    return replace(tree, u=u, v=v, height=tree.height[order])


def clustered(file: UpgradedFile, **options: object) -> ClusteringSummary:
    clustering_manager.cluster_all_data(file.database, parameters=ClusteringParameters(**options))  # type: ignore[arg-type]
    return summaries(file.database)[0]


@pytest.mark.parametrize("backend", ["sklearn", "tiled"])
def test_stored_trees_have_the_heights_of_their_rows(upgraded: MakeFile, backend: str) -> None:
    file = upgraded(FieldSpec(text_models=("Nomic",), duplicates=6))
    summary = clustered(file, backend=backend)
    assert_edges_are_true(file.database, summary)
    assert wrong_trees(file.database) == []


@pytest.mark.sqlite_only("the sample is large")
def test_trees_of_the_sample_have_the_heights_of_their_rows(tmp_path: Path) -> None:
    database = open_database(tmp_path / "sample.sqlite", create=True)
    import_embeddings(sorted(SAMPLE.glob("*.parquet")), database)
    for backend in ("sklearn", "tiled"):
        clustering_manager.cluster_all_data(
            database, parameters=ClusteringParameters(backend=backend), downsample=3
        )
    assert len(summaries(database)) >= 4
    for summary in summaries(database):
        assert_edges_are_true(database, summary)
    assert wrong_trees(database) == []


@pytest.mark.sqlite_only("a file")
def test_trees_of_a_real_file_have_the_heights_of_their_rows(real_file: Database) -> None:
    for backend in ("sklearn", "tiled"):
        clustering_manager.cluster_all_data(real_file, parameters=ClusteringParameters(backend=backend))
    for summary in summaries(real_file):
        assert_edges_are_true(real_file, summary)
    assert wrong_trees(real_file) == []


def assert_edges_are_true(database: Database, summary: ClusteringSummary) -> None:
    """Measure every edge of a stored tree again, from the stored vectors."""
    tree, record = stored_tree(database, summary), summary.record
    with database.reading() as connection:
        ids = read_assignments(connection, summary.id).ids
        (width,) = {len(vector) // 4 for vector in some_vectors(database, summary.embedding_model)}
        rows = read_vectors(connection, ids, dimensions=width).astype(np.float64)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)
    distances = np.linalg.norm(rows[tree.u] - rows[tree.v], axis=1)
    assert tree.core_distances is not None
    cores = np.maximum(tree.core_distances[tree.u], tree.core_distances[tree.v])
    expected = np.maximum(np.maximum(distances, cores), record.distance_floor)
    np.testing.assert_allclose(tree.height, expected, rtol=1e-9)


def some_vectors(database: Database, model: str) -> list[bytes]:
    with database.reading() as connection:
        query = (
            f"SELECT vector FROM embedding WHERE embedding_model = '{model}' AND vector IS NOT NULL LIMIT 1"
        )
        return [bytes(row[0]) for row in connection.exec_driver_sql(query)]


def test_trees_of_an_earlier_version_are_found(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(text_models=("Nomic",)))
    wrong = clustered(file)
    right = clustered(file)
    store_tree(file.database, wrong, as_an_earlier_version_stored(stored_tree(file.database, wrong)))
    examined = examine_database(file.database)
    (finding,) = (finding for finding in examined.findings if finding.kind == WRONG_TREE)
    assert (finding.count, finding.ids) == (1, (str(wrong.id),))
    assert right.id != wrong.id
    assert f"of {len(stored_tree(file.database, wrong).height)} sampled edges" in finding.details[0]
    assert "cluster-embeddings" in finding.remedy


def test_a_recut_of_a_wrong_tree_is_reported_too(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(text_models=("Nomic",)))
    source = clustered(file)
    store_tree(file.database, source, as_an_earlier_version_stored(stored_tree(file.database, source)))
    cut = recut_clustering(file.database, source, Changes(min_cluster_size=5))
    assert cut.id != source.id
    assert sorted(wrong_trees(file.database)) == sorted([str(source.id), str(cut.id)])


def test_approximate_trees_are_allowed_the_rounding_of_float32(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(text_models=("Nomic",)))
    summary = clustered(file)
    tree = stored_tree(file.database, summary)
    # Half of what float32 products of 8 dimensions may be off by.
    store_tree(file.database, summary, replace(tree, height=np.sqrt(tree.height**2 + 2e-6)))
    assert wrong_trees(file.database) == [str(summary.id)]
    text = "REPLACE(CAST(parameters AS TEXT), '\"exact\": true', '\"exact\": false')"
    with opened(file.target) as raw:
        cast = "CAST({} AS JSON)" if "postgres" in file.target else "{}"
        raw.execute(f"UPDATE clusteringresult SET parameters = {cast.format(text)}")
    assert not summaries(file.database)[0].record.exact
    assert wrong_trees(file.database) == []


def test_a_damaged_tree_is_not_reported_as_wrong(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(text_models=("Nomic",)))
    summary = clustered(file)
    tree = stored_tree(file.database, summary)
    store_tree(file.database, summary, replace(tree, u=tree.u + 10_000))
    assert_is_damaged(file.database, summary)
    with opened(file.target) as raw:
        byte = "'\\x00'" if "postgres" in file.target else "x'00'"
        raw.execute(f"UPDATE clusteringtree SET data = {byte}")
    assert_is_damaged(file.database, summary)


def assert_is_damaged(database: Database, summary: ClusteringSummary) -> None:
    (finding,) = examine_database(database, [DAMAGED_TREE, WRONG_TREE]).findings
    assert (finding.kind, finding.ids) == (DAMAGED_TREE, (str(summary.id),))


def test_edges_of_deleted_embeddings_are_not_reported(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(text_models=("Nomic",)))
    summary = clustered(file)
    with file.database.reading() as connection:
        removed_ids = read_assignments(connection, summary.id).ids[[3, 20]]
    with opened(file.target) as raw:
        raw.execute("UPDATE embedding SET vector = NULL WHERE id = ?", (removed_ids[0].decode(),))
    assert wrong_trees(file.database) == []
    with opened(file.target) as raw:
        raw.execute("DELETE FROM embeddingcluster WHERE embedding_id = ?", (removed_ids[1].decode(),))
    assert wrong_trees(file.database) == []


@pytest.mark.sqlite_only("a file")
def test_the_number_of_vectors_read_is_bounded(
    real_file: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clustering_manager.cluster_all_data(real_file, ["Nomic"])
    (summary,) = summaries(real_file)
    assert real_file.path is not None
    shutil.copyfile(real_file.path, tmp_path / "wrong.sqlite")
    wrong = open_database(tmp_path / "wrong.sqlite")
    store_tree(wrong, summary, as_an_earlier_version_stored(stored_tree(wrong, summary)))
    monkeypatch.setattr("panic_tda.storage.doctor.trees.SAMPLE_EDGES", 40)
    assert SAMPLE_EDGES == 1_000
    (finding,) = examine_database(wrong, [WRONG_TREE]).findings
    assert finding.details[0].endswith(" of 40 sampled edges")
