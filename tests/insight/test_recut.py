"""A recut of a stored tree has the labels and medoids of a new fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from panic_tda import clustering_manager
from panic_tda.errors import DatabaseError, InvalidParameter, NoTree
from panic_tda.files.importing import import_embeddings
from panic_tda.insight.recut import Changes, recut_clustering
from panic_tda.parameters import ClusteringParameters, Resources
from panic_tda.storage.database import Database, open_database
from panic_tda.storage.read.neighbour_graphs import FIRST_PART
from panic_tda.storage.read.results import ClusteringSummary, find_clustering
from panic_tda.storage.schema.upgrade import upgrade
from panic_tda.storage.write.saving import delete_clusterings
from panic_tda.types import UNCHANGED
from tests.command_line import invoke, read_json, succeed
from tests.snapshots import field_copy, opened, snapshot

SAMPLE = Path(__file__).parents[2] / "panic_tda" / "sample"
SETTINGS: dict[str, dict[str, Any]] = {
    "epsilon 0": {"epsilon": 0.0},
    "epsilon 0.25": {"epsilon": 0.25},
    "epsilon 0.7, single": {"epsilon": 0.7, "allow_single_cluster": True},
    "epsilon 1.3, single": {"epsilon": 1.3, "allow_single_cluster": True},
    "leaf": {"selection_method": "leaf"},
    "leaf, epsilon 0": {"selection_method": "leaf", "epsilon": 0.0},
    "size 4": {"min_cluster_size": 4},
    "a share": {"min_cluster_size": 0.02},
    "small clusters only": {"max_cluster_size": 60, "epsilon": 0.0},
    "samples 3": {"min_samples": 3},
    "everything": {
        "epsilon": 0.3,
        "min_samples": 15,
        "min_cluster_size": 6,
        "max_cluster_size": 200,
        "allow_single_cluster": True,
    },
}


def sample(folder: Path) -> tuple[Database, str]:
    database = open_database(folder / "sample.sqlite", create=True)
    import_embeddings(sorted(SAMPLE.glob("*.parquet")), database)
    return database, "MiniLM"


def field(folder: Path) -> tuple[Database, str]:
    database = open_database(field_copy(folder))
    upgrade(database)
    return database, "Nomic"


DATA = {"sample": sample, "field file": field}


def summary(database: Database, clustering_id: object) -> ClusteringSummary:
    with database.session() as session:
        return find_clustering(session, str(clustering_id))


def cluster(database: Database, model: str, **options: Any) -> ClusteringSummary:
    (outcome,) = clustering_manager.cluster_all_data(
        database, [model], parameters=ClusteringParameters(**options)
    )
    assert outcome.id is not None, outcome.reason
    return summary(database, outcome.id)


def stored(database: Database, summary: ClusteringSummary) -> dict[str, list[Any]]:
    """Return everything stored of a clustering except its id, times and parameters."""
    queries = {
        "assignments": "SELECT embedding_id, label, probability FROM embeddingcluster",
        "clusters": "SELECT label, medoid_embedding_id, size, persistence, medoid_copies FROM cluster",
        "tree": "SELECT part, data FROM clusteringtree",
    }
    with opened(database.path or "") as connection:
        query = "SELECT key FROM clusteringresult WHERE id = ?"
        ((key,),) = connection.execute(query, (summary.id.hex,)).fetchall()
        return {
            name: sorted(connection.execute(f"{query} WHERE result_key = ?", (key,)))
            for name, query in queries.items()
        }


@pytest.mark.parametrize("make", DATA.values(), ids=DATA)
def test_a_recut_equals_a_new_fit(tmp_path: Path, make: Any) -> None:
    database, model = make(tmp_path)
    source = cluster(database, model)
    n_different = set()
    for name, changes in SETTINGS.items():
        outcome = recut_clustering(database, source, Changes(**changes))
        recut = summary(database, outcome.id)
        fit = cluster(database, model, **{"min_samples": source.record.min_samples} | changes)
        recut_rows, expected = stored(database, recut), stored(database, fit)
        assert recut_rows["assignments"] == expected["assignments"], name
        assert recut_rows["clusters"] == expected["clusters"], name
        texts, fitted = recut.record.to_json(), fit.record.to_json()
        assert texts.pop("recut_of") == str(source.id)
        # The recut does not store the neighbours again.
        assert ("recut_of" in fitted, "keep_neighbours" in texts) == (False, False)
        assert fitted.pop("keep_neighbours") == 20
        assert texts | {"seconds": 0} == fitted | {"seconds": 0}
        n_different.add((outcome.n_clusters, outcome.n_outliers))
    # Settings that all find the same would show nothing.
    assert len(n_different) >= 8


def test_a_recut_can_be_recut_after_its_source_was_deleted(tmp_path: Path) -> None:
    database, model = sample(tmp_path)
    source = cluster(database, model)
    first = summary(database, recut_clustering(database, source, Changes(epsilon=0.2)).id)
    expected = stored(database, source)
    expected["tree"] = [(part, data) for part, data in expected["tree"] if part < FIRST_PART]
    delete_clusterings(database, [source.id])
    back = recut_clustering(database, first, Changes(epsilon=source.record.cluster_selection_epsilon))
    assert stored(database, summary(database, back.id)) == expected


def test_a_recut_that_changes_nothing_stores_nothing(tmp_path: Path) -> None:
    database, model = sample(tmp_path)
    source = cluster(database, model, selection_method="leaf", epsilon=0.0)
    size = source.record.min_cluster_size
    before = snapshot(database.path or "")
    for changes in (
        Changes(),
        Changes(min_cluster_size=size),
        Changes(epsilon=0.0),
        Changes(max_cluster_size=0),
    ):
        outcome = recut_clustering(database, source, changes)
        assert (outcome.status, outcome.id) == (UNCHANGED, source.id)
        assert outcome.n_clusters == source.record.n_clusters
        assert "nothing was stored" in (outcome.reason or "")
    words = [
        "recut-clustering",
        "--model",
        model,
        "--min-cluster-size",
        str(size),
        "--db",
        str(database.path),
    ]
    shown = succeed(*words)
    assert f"clustering {source.id} has these settings already; nothing was stored" in shown.stdout
    (result,) = read_json(*words)["results"]
    assert (result["status"], result["id"]) == ("unchanged", str(source.id))
    assert snapshot(database.path or "") == before


def test_stored_settings_without_effect_on_the_new_method_are_dropped(tmp_path: Path) -> None:
    database, model = sample(tmp_path)
    source = cluster(database, model, max_cluster_size=100, allow_single_cluster=True)
    leaves = recut_clustering(database, source, Changes(selection_method="leaf", epsilon=0.0))
    record = summary(database, leaves.id).record
    assert (record.max_cluster_size, record.allow_single_cluster) == (None, False)
    # What is given is refused, not dropped.
    for setting in ({"max_cluster_size": 100}, {"allow_single_cluster": True}):
        with pytest.raises(InvalidParameter, match="no effect"):
            recut_clustering(database, source, Changes(selection_method="leaf", epsilon=0.0, **setting))


def test_a_recut_is_of_the_rows_that_were_clustered(tmp_path: Path) -> None:
    database, model = sample(tmp_path)
    (outcome,) = clustering_manager.cluster_all_data(database, [model], downsample=3)
    source = summary(database, outcome.id)
    recut = recut_clustering(database, source, Changes(epsilon=0.3))
    record = summary(database, recut.id).record
    assert (record.downsample, record.n_embeddings, record.n_total) == (3, outcome.n_embeddings, 2400)
    # Rows that came since do not matter.
    with opened(database.path or "") as connection:
        connection.execute(
            "INSERT INTO embedding (id, invocation_id, embedding_model, vector) "
            "SELECT '0' || substr(id, 2), invocation_id, 'MiniLM', vector FROM embedding "
            "WHERE embedding_model = 'LSA' AND invocation_id NOT IN (SELECT invocation_id FROM embedding "
            "WHERE embedding_model = 'MiniLM') LIMIT 1"
        )
    again = recut_clustering(database, source, Changes(epsilon=0.3))
    assert stored(database, summary(database, again.id)) == stored(database, summary(database, recut.id))


def test_parameters_of_the_tree_cannot_be_changed(tmp_path: Path) -> None:
    database, model = sample(tmp_path)
    source = cluster(database, model)
    with pytest.raises(InvalidParameter, match=r"must be 1 to 20, .*; got 21; .* --keep-neighbours 21\)"):
        recut_clustering(database, source, Changes(min_samples=21))
    with pytest.raises(InvalidParameter, match="min_samples must be a whole number of at least 1"):
        recut_clustering(database, source, Changes(min_samples=0))
    assert recut_clustering(database, source, Changes(min_samples=10)).n_clusters
    # The size may go below the tree's min_samples, which stays.
    small = recut_clustering(database, source, Changes(min_cluster_size=3))
    assert summary(database, small.id).record.min_samples == 5
    with pytest.raises(InvalidParameter, match="epsilon must be"):
        recut_clustering(database, source, Changes(epsilon=3.0))


def test_without_stored_neighbours_min_samples_cannot_change(tmp_path: Path) -> None:
    database, model = sample(tmp_path)
    (outcome,) = clustering_manager.cluster_all_data(
        database, [model], resources=Resources(keep_neighbours=0), downsample=5
    )
    without = summary(database, outcome.id)
    with pytest.raises(
        InvalidParameter, match=r"must be 5, .*; got 10; .*--keep-neighbours 0; cluster again"
    ):
        recut_clustering(database, without, Changes(min_samples=10))
    (outcome,) = clustering_manager.cluster_all_data(
        database, [model], resources=Resources(keep_neighbours=12), downsample=5
    )
    source = summary(database, outcome.id)
    recut = summary(database, recut_clustering(database, source, Changes(min_samples=12)).id)
    with pytest.raises(InvalidParameter, match=f"must be 12, .*it was cut from clustering {source.id}"):
        recut_clustering(database, recut, Changes(min_samples=5))
    words = ["recut-clustering", str(source.id), "--min-samples", "13", "--db", str(database.path)]
    refused = invoke(*words)
    assert refused.exit_code == 2
    assert "min_samples must be 1 to 12, up to which neighbours are stored; got 13" in refused.stderr


def test_without_a_stored_tree_recut_is_refused(tmp_path: Path) -> None:
    database, model = sample(tmp_path)
    (outcome,) = clustering_manager.cluster_all_data(
        database, [model], resources=Resources(keep_tree=False), downsample=5
    )
    with pytest.raises(NoTree, match=r"--no-tree; cluster again"):
        recut_clustering(database, summary(database, outcome.id), Changes(epsilon=0.2))
    few = cluster(database, model, min_cluster_size=3000)
    with pytest.raises(NoTree, match=r"has 2400 embeddings, fewer than .*\(3000\)"):
        recut_clustering(database, few, Changes(min_cluster_size=10))


def test_deleted_and_changed_embeddings_are_detected(tmp_path: Path) -> None:
    database, model = sample(tmp_path)
    source = cluster(database, model)
    copy = tmp_path / "copy.sqlite"
    shutil.copyfile(database.path or "", copy)
    with opened(copy, isolation_level=None) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(
            "DELETE FROM embedding WHERE id = (SELECT min(embedding_id) FROM embeddingcluster)"
        )
    with pytest.raises(NoTree, match="2399 assignments, and a tree of 2400 rows"):
        recut_clustering(copy, source, Changes(epsilon=0.2))
    with opened(database.path or "") as connection:
        connection.execute(
            "UPDATE embedding SET vector = "
            "(SELECT vector FROM embedding WHERE embedding_model = 'MiniLM' LIMIT 1) "
            "WHERE id = (SELECT max(id) FROM embedding WHERE embedding_model = 'MiniLM')"
        )
    with pytest.raises(DatabaseError, match="have other vectors now; cluster again"):
        recut_clustering(database, source, Changes(epsilon=0.2))


def test_the_command_prints_like_cluster_embeddings(tmp_path: Path) -> None:
    database, model = sample(tmp_path)
    source = cluster(database, model)
    words = ["recut-clustering", "--model", model, "--min-cluster-size", "1%", "--no-allow-single-cluster"]
    result = succeed(*words, "--epsilon", "0.3", "--json", db=database)
    (outcome,) = json.loads(result.stdout)["results"]
    record = summary(database, outcome["id"]).record
    assert (outcome["status"], outcome["n_embeddings"]) == ("clustered", 2400)
    assert (record.min_cluster_size, record.allow_single_cluster) == (24, False)
    assert (record.cluster_selection_epsilon, record.recut_of) == (0.3, str(source.id))
    refused = invoke("recut-clustering", outcome["id"], "--min-samples", "3", db=database)
    assert refused.exit_code == 2
    assert "min_samples must be 5, as the clustering has no neighbour lists" in refused.stderr
