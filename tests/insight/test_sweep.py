"""Test that a sweep shows what recut would store for every setting, and the agreement between settings."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from panic_tda import clustering_manager, hdbscan
from panic_tda.errors import InvalidParameter
from panic_tda.files.importing import import_embeddings
from panic_tda.insight.agreement import adjusted_rand, contingency
from panic_tda.insight.recut import Changes, recut_clustering
from panic_tda.insight.sweep import CLIFF_ARI, Grid, relative_validity, sweep_clustering
from panic_tda.parameters import ClusteringParameters
from panic_tda.storage.database import Database, open_database
from panic_tda.storage.read.assignments import read_assignments
from panic_tda.storage.read.results import ClusteringSummary, find_clustering, get_cluster_details
from panic_tda.types import OUTLIER, SpanningTree
from tests.command_line import invoke, read_json, succeed
from tests.snapshots import snapshot

SAMPLE = Path(__file__).parents[2] / "panic_tda" / "sample"
GRID = Grid(
    epsilons=[0.0, 0.3, 0.6, 0.9, 1.1],
    min_cluster_sizes=[4, 10, 0.05],
    selection_methods=["eom", "leaf"],
    allow_single_cluster=False,
)


@pytest.fixture(scope="module")
def clustered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Database, ClusteringSummary]:
    database = open_database(tmp_path_factory.mktemp("sweep") / "sample.sqlite", create=True)
    import_embeddings(sorted(SAMPLE.glob("*_lsa.parquet")), database)
    clustering_manager.cluster_all_data(database)
    with database.session() as session:
        return database, find_clustering(session)


def labels_of(database: Database, clustering_id: Any) -> Any:
    with database.reading() as connection:
        return read_assignments(connection, clustering_id).labels


@pytest.mark.slow
def test_a_row_equals_what_recut_stores(
    clustered: tuple[Database, ClusteringSummary], tmp_path: Path
) -> None:
    source_database, source = clustered
    settings = sweep_clustering(source_database, source, GRID)
    options = [
        (method, size, epsilon)
        for method in ("eom", "leaf")
        for size in (4, 10, 120)
        for epsilon in GRID.epsilons
    ]
    assert [
        (setting.selection_method, setting.min_cluster_size, setting.epsilon) for setting in settings
    ] == options
    shutil.copyfile(source_database.path or "", tmp_path / "copy.sqlite")
    database = open_database(tmp_path / "copy.sqlite")
    stored = labels_of(database, source.id)
    cut: dict[tuple[str, int, float], Any] = {}
    for setting, key in zip(settings, options, strict=True):
        changes = Changes(
            epsilon=setting.epsilon, min_cluster_size=setting.min_cluster_size, selection_method=key[0]
        )
        outcome = recut_clustering(database, source, changes)
        assert (setting.n_clusters, setting.n_outliers) == (outcome.n_clusters, outcome.n_outliers)
        cut[key] = labels = labels_of(database, outcome.id)
        with database.session() as session:
            details = get_cluster_details(outcome.id, session)
        sizes = [detail.size for detail in details]
        assert setting.largest_share == pytest.approx(max(sizes, default=0) / len(labels))
        persistence = [detail.persistence for detail in details]
        assert setting.median_persistence == (pytest.approx(np.median(persistence)) if persistence else None)
        assert setting.ari_stored == pytest.approx(adjusted_rand_score(stored, labels))
    outliers_count = []
    for number, (setting, (method, size, epsilon)) in enumerate(zip(settings, options, strict=True)):
        before: tuple[str, int, float] | None = None
        if epsilon != GRID.epsilons[0]:
            before = options[number - 1]
        elif size != 4:
            before = (method, {10: 4, 120: 10}[size], epsilon)
        if before is None:
            assert (setting.ari_previous, setting.cliff) == (None, False)
        else:
            left, right = cut[before], cut[method, size, epsilon]
            both = (left != OUTLIER) & (right != OUTLIER)
            expected = adjusted_rand_score(left[both], right[both])
            assert setting.ari_previous == pytest.approx(expected)
            assert setting.cliff == (expected < CLIFF_ARI)
            outliers_count.append(adjusted_rand_score(left, right))
    assert {setting.cliff for setting in settings} == {True, False}
    # Where outliers only join or leave, the same clusters would have been told to be others.
    assert min(outliers_count) < CLIFF_ARI
    assert len({setting.n_clusters for setting in settings}) > 10


def test_a_sweep_over_min_samples_equals_new_fits(
    clustered: tuple[Database, ClusteringSummary], tmp_path: Path
) -> None:
    shutil.copyfile(clustered[0].path or "", tmp_path / "copy.sqlite")
    database, source = open_database(tmp_path / "copy.sqlite"), clustered[1]
    grid = Grid(min_samples=[2, 5, 20], epsilons=[0.2, 0.4], allow_single_cluster=False)
    settings = sweep_clustering(database, source, grid)
    assert [(setting.min_samples, setting.epsilon) for setting in settings] == [
        *((number, epsilon) for number in (2, 5, 20) for epsilon in (0.2, 0.4)),
    ]
    fits = []
    for setting in settings:
        parameters = ClusteringParameters(
            min_samples=setting.min_samples,
            min_cluster_size=source.record.min_cluster_size,
            epsilon=setting.epsilon,
        )
        (outcome,) = clustering_manager.cluster_all_data(database, parameters=parameters)
        assert (setting.n_clusters, setting.n_outliers) == (outcome.n_clusters, outcome.n_outliers)
        fits.append(labels_of(database, outcome.id))
        assert setting.ari_stored == pytest.approx(
            adjusted_rand_score(labels_of(database, source.id), fits[-1])
        )
    assert len({setting.n_outliers for setting in settings if setting.epsilon == 0.4}) == 3
    # The first epsilon of the next min_samples is compared with that of the setting before.
    assert settings[0].ari_previous is None
    both = (fits[0] != OUTLIER) & (fits[2] != OUTLIER)
    assert settings[2].ari_previous == pytest.approx(adjusted_rand_score(fits[0][both], fits[2][both]))
    with pytest.raises(InvalidParameter, match="must be 1 to 20, up to which neighbours are stored; got 21"):
        sweep_clustering(database, source, Grid(min_samples=[5, 21]))


def test_the_command_shows_min_samples_where_it_varies(clustered: tuple[Database, ClusteringSummary]) -> None:
    words = ["sweep-clustering", "--db", str(clustered[0].path), "--epsilon", "0.4"]
    assert "min_samples 5, cut anew" in " ".join(invoke(*words).stdout.split())
    shown = invoke(*words, "--min-samples", "2,5").stdout
    (head,) = (line for line in shown.splitlines() if line.startswith("epsilon"))
    assert head.split()[:3] == ["epsilon", "min_samples", "min_cluster_size"]
    (stored,) = (
        line for line in shown.splitlines() if line.startswith("    0.4") and line.endswith("stored")
    )
    assert stored.split()[:2] == ["0.4", "5"]
    result = invoke(*words, "--min-samples", "2:4:1", "--json").stdout
    assert [setting["min_samples"] for setting in json.loads(result)["settings"]] == [2, 3, 4]


def test_settings_that_are_not_swept_stay_and_the_stored_one_has_agreement_1(
    clustered: tuple[Database, ClusteringSummary],
) -> None:
    database, source = clustered
    (setting,) = sweep_clustering(database, source, Grid())
    record = source.record
    assert (setting.n_clusters, setting.n_outliers) == (record.n_clusters, record.n_outliers)
    assert (setting.ari_stored, setting.ari_previous) == (1.0, None)
    (other_setting,) = sweep_clustering(database, source, Grid(allow_single_cluster=False, epsilons=[1.2]))
    assert other_setting.n_clusters > 1
    with pytest.raises(InvalidParameter, match="epsilon must be"):
        sweep_clustering(database, source, Grid(epsilons=[0.4, 2.1]))
    with pytest.raises(InvalidParameter, match=r"up to 1,000 settings, got 2,000"):
        sweep_clustering(database, source, Grid(epsilons=[0.001 * step for step in range(2000)]))


@pytest.mark.parametrize("single", [False, True])
def test_a_setting_is_shown_with_and_without_a_single_cluster_where_they_differ(
    clustered: tuple[Database, ClusteringSummary], tmp_path: Path, single: bool
) -> None:
    shutil.copyfile(clustered[0].path or "", tmp_path / "copy.sqlite")
    database = open_database(tmp_path / "copy.sqlite")
    source = clustered[1]
    if single:
        outcome = recut_clustering(database, source, Changes(allow_single_cluster=True, epsilon=1.2))
        with database.session() as session:
            source = find_clustering(session, str(outcome.id))
    grid = Grid(epsilons=[0.0, 0.4, 1.2], selection_methods=["eom", "leaf"])
    settings = sweep_clustering(database, source, grid)
    shown = [
        (setting.selection_method, setting.epsilon, setting.allow_single_cluster) for setting in settings
    ]
    expected = [("eom", 0.0, single), ("eom", 0.4, single), ("eom", 1.2, single), ("eom", 1.2, not single)]
    # Beside leaf, epsilon 0 leaves the single cluster without effect.
    expected += [
        ("leaf", 0.0, False),
        ("leaf", 0.4, single),
        ("leaf", 1.2, single),
        ("leaf", 1.2, not single),
    ]
    assert shown == expected
    for setting in settings:
        root = (setting.epsilon, setting.allow_single_cluster) == (1.2, True)
        assert setting.root_selected == root
        # One cluster of everything had validity 0.5 and persistence 1, the best of its table.
        assert (setting.relative_validity is None) == (setting.median_persistence is None) == root
        assert (setting.n_clusters == 1) == root
    for setting in settings:
        changes = Changes(
            epsilon=setting.epsilon,
            selection_method=setting.selection_method,
            allow_single_cluster=setting.allow_single_cluster,
        )
        outcome = recut_clustering(database, source, changes)
        assert (outcome.n_clusters, outcome.n_outliers, outcome.root_selected) == (
            *(setting.n_clusters, setting.n_outliers, setting.root_selected),
        )


def test_undefined_values_are_dashes_in_the_table_and_null_in_json(
    clustered: tuple[Database, ClusteringSummary], tmp_path: Path
) -> None:
    shutil.copyfile(clustered[0].path or "", tmp_path / "copy.sqlite")
    database = open_database(tmp_path / "copy.sqlite")
    words = ["sweep-clustering", "--epsilon", "0.4,1.2", "--db", str(database.path)]
    shown = invoke(*words).stdout
    (line,) = (line for line in shown.splitlines() if "  root" in line)
    assert line.split()[:4] == ["1.2", "10", "eom", "yes"]
    assert line.split()[9:11] == ["–", "–"]
    assert "--no-allow-single-cluster excludes it" in " ".join(shown.split())
    settings = read_json(*words)["settings"]
    assert [setting["relative_validity"] is None for setting in settings] == [
        setting["root_selected"] for setting in settings
    ]
    assert [setting["median_persistence"] is None for setting in settings] == [
        setting["root_selected"] for setting in settings
    ]
    outcome = recut_clustering(database, clustered[1], Changes(epsilon=1.2, allow_single_cluster=True))
    words = ["show-clustering", str(outcome.id), "--db", str(database.path)]
    assert "persistence     –" in invoke(*words).stdout
    (printed_setting,) = read_json(*words)
    assert [cluster["persistence"] for cluster in printed_setting["clusters"]] == [None]
    assert printed_setting["parameters"]["root_selected"] is True


@given(st.lists(st.tuples(st.integers(-1, 4), st.integers(-1, 3)), min_size=1, max_size=60))
def test_agreement_equals_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    # So many rows that scikit-learn does not take the labels for measurements.
    left, right = np.repeat(np.array(pairs), 3, axis=0).T
    assert adjusted_rand(contingency(left, right)) == pytest.approx(
        adjusted_rand_score(left, right), abs=1e-12
    )


def obvious_validity(tree: SpanningTree, labels: Any) -> float:
    """The definition, edge by edge, with dictionaries."""
    inside: dict[int, list[float]] = {}
    between: dict[int, list[float]] = {}
    for u, v, height in zip(tree.u, tree.v, tree.height, strict=True):
        a, b = labels[u], labels[v]
        if a == b != -1:
            inside.setdefault(a, []).append(height)
        elif a != -1 and b != -1:
            between.setdefault(a, []).append(height)
            between.setdefault(b, []).append(height)
    clusters = set(labels.tolist()) - {-1}
    longest = max(tree.height)
    instead = 2 * longest
    total = 0.0
    for cluster in clusters:
        sparse = max(inside.get(cluster, [0.0]))
        apart = min(between.get(cluster, [instead]))
        total += (labels == cluster).sum() * (apart - sparse) / max(apart, sparse)
    return total / len(labels)


@pytest.mark.parametrize("seed", range(6))
def test_validity_matches_its_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = np.arange(1, 60)
    tree = SpanningTree(rng.integers(0, rows), rows, rng.random(59))
    n_clusters = 2 + seed % 3
    labels = rng.integers(-1, n_clusters, 60)
    labels[:n_clusters] = np.arange(n_clusters)
    assert relative_validity(tree, labels, n_clusters) == pytest.approx(obvious_validity(tree, labels))
    assert relative_validity(tree, np.full(60, -1), 0) is None
    assert relative_validity(tree, np.zeros(60, dtype=int), 1) is None
    assert relative_validity(tree, np.where(labels == 0, 0, -1), 1) is None


@pytest.mark.parametrize("name", ["groups", "copies", "ties"])
def test_exact_backends_agree_on_validity(name: str) -> None:
    rng = np.random.default_rng(0)
    groups = rng.standard_normal((5, 8))[rng.integers(0, 5, 400)] + 0.4 * rng.standard_normal((400, 8))
    lattice = rng.integers(-2, 3, (300, 4))
    rows = {
        "groups": groups,
        "copies": np.repeat(groups[:150], 3, axis=0),
        "ties": lattice[np.abs(lattice).sum(axis=1) > 0],
    }[name]
    clusterings = {
        backend: hdbscan(rows, backend=backend, epsilon=0.0, min_cluster_size=8, min_samples=5)
        for backend in ("sklearn", "tiled")
    }
    np.testing.assert_array_equal(clusterings["sklearn"].labels, clusterings["tiled"].labels)
    validity = {}
    for backend, clustering in clusterings.items():
        assert clustering.tree is not None
        validity[backend] = relative_validity(clustering.tree, clustering.labels, clustering.n_clusters)
        assert validity[backend] == pytest.approx(obvious_validity(clustering.tree, clustering.labels))
    # At exact ties the backends may store different spanning trees of the same weight.
    if name != "ties":
        assert validity["sklearn"] == pytest.approx(validity["tiled"], rel=1e-9)
        return
    heights = [
        np.sort(clustering.tree.height) for clustering in clusterings.values() if clustering.tree is not None
    ]
    np.testing.assert_allclose(heights[0], heights[1], rtol=1e-9)


def test_exact_backends_agree_on_validity_in_a_real_file(real_file: Database) -> None:
    grid = Grid(epsilons=[0.0, 0.4, 0.6], min_cluster_sizes=[10], selection_methods=["eom", "leaf"])
    swept = []
    for backend in ("sklearn", "tiled"):
        parameters = ClusteringParameters(backend=backend)
        (outcome,) = clustering_manager.cluster_all_data(real_file, ["Nomic"], parameters=parameters)
        with real_file.session() as session:
            source = find_clustering(session, str(outcome.id))
        swept.append([setting.relative_validity for setting in sweep_clustering(real_file, source, grid)])
    assert len(set(swept[0])) > 1
    assert swept[0] == pytest.approx(swept[1], rel=1e-9)


def test_validity_equals_that_of_hdbscan() -> None:
    from hdbscan import HDBSCAN

    rng = np.random.default_rng(3)
    rows = np.concatenate([rng.normal(centre, 0.3, (40, 3)) for centre in (0.0, 2.0, 5.0)])
    model = HDBSCAN(min_cluster_size=10, min_samples=4, gen_min_span_tree=True, algorithm="generic").fit(rows)
    edges = model.minimum_spanning_tree_.to_numpy()
    tree = SpanningTree(edges[:, 0].astype(int), edges[:, 1].astype(int), edges[:, 2])
    labels = model.labels_.astype(np.int64)
    assert labels.max() == 2
    assert relative_validity(tree, labels, 3) == pytest.approx(model.relative_validity_)


def test_the_command_reads_a_read_only_file(
    clustered: tuple[Database, ClusteringSummary], tmp_path: Path
) -> None:
    database, source = clustered
    copy = tmp_path / "copy.sqlite"
    shutil.copyfile(database.path or "", copy)
    before = snapshot(copy)
    os.chmod(copy, stat.S_IREAD)
    words = ["sweep-clustering", "--epsilon", "0.2,0.4:0.6:0.2", "--min-cluster-size", "10,2%"]
    words += ["--db", str(copy)]
    as_json = succeed(*words, "--json")
    printed = json.loads(as_json.stdout)
    assert printed["clustering"] == str(source.id)
    assert [(setting["min_cluster_size"], setting["epsilon"]) for setting in printed["settings"]] == [
        *((10, 0.2), (10, 0.4), (10, 0.6), (48, 0.2), (48, 0.4), (48, 0.6))
    ]
    assert printed["settings"][0].keys() >= {
        *("epsilon", "min_cluster_size", "selection_method", "allow_single_cluster", "n_clusters"),
        *("n_outliers", "largest_share", "median_persistence", "ari_stored", "ari_previous", "cliff"),
    }
    shown = succeed(*words)
    (line,) = (line for line in shown.stdout.splitlines() if "  stored" in line)
    assert line.split()[:2] == ["0.4", "10"]
    assert snapshot(copy) == before
    plain = invoke("sweep-clustering", "--json", db=copy)
    assert [setting["epsilon"] for setting in json.loads(plain.stdout)["settings"]] == [
        *(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2),
        1.2,  # with a single cluster, which is another there
    ]


@pytest.mark.parametrize(
    "text", ["0.2:0.6", "0.6:0.2:0.1", "0:1:0", "0:1:1e-9", "x", "", "0.1,,0.2", "nan:1:1"]
)
def test_invalid_values_are_refused(clustered: tuple[Database, ClusteringSummary], text: str) -> None:
    result = invoke("sweep-clustering", "--epsilon", text, db=clustered[0])
    assert result.exit_code == 2
    assert "FROM:TO:STEP such as 0.2:0.6:0.05" in result.stderr
    assert repr(text) in result.stderr
