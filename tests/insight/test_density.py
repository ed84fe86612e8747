"""Compare counts of core distances and outliers with slow counts."""

from __future__ import annotations

import builtins
import itertools
import json
import os
import shutil
import stat
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panic_tda import clustering_manager
from panic_tda.errors import NoTree
from panic_tda.files.importing import import_embeddings
from panic_tda.insight import density
from panic_tda.insight.recut import Changes, recut_clustering
from panic_tda.parameters import ClusteringParameters, Resources
from panic_tda.storage.database import Database, open_database
from panic_tda.storage.read.results import ClusteringSummary, find_clustering
from panic_tda.storage.read.trees import read_core_distances
from tests.command_line import invoke, read_json, succeed
from tests.snapshots import opened, snapshot

SAMPLE = Path(__file__).parents[2] / "panic_tda" / "sample"


@pytest.fixture(scope="module")
def clustered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Database, ClusteringSummary]:
    database = open_database(tmp_path_factory.mktemp("density") / "sample.sqlite", create=True)
    import_embeddings(sorted(SAMPLE.glob("*_minilm.parquet")), database)
    # Three writers, so that there is something to tell apart.
    with opened(database.path or "") as connection:
        connection.execute("UPDATE invocation SET model = 'writer ' || (length(output_text) % 3)")
    clustering_manager.cluster_all_data(database, downsample=2)
    with database.session() as session:
        return database, find_clustering(session)


@pytest.fixture(scope="module")
def rows(clustered: tuple[Database, ClusteringSummary]) -> list[dict[str, Any]]:
    """Every assigned embedding with its text, its step and its core distance, by plain SQL."""
    database, source = clustered
    with database.reading() as connection:
        cores = read_core_distances(connection, source.id)
    assert cores is not None
    with opened(database.path or "") as connection:
        rows = connection.execute(
            "SELECT a.label, i.output_text, i.model, i.run_id, i.sequence_number FROM embeddingcluster a "
            "JOIN embedding e ON e.id = a.embedding_id JOIN invocation i ON i.id = e.invocation_id "
            "ORDER BY a.embedding_id"
        ).fetchall()
        parities = connection.execute(
            "SELECT run_id, min(sequence_number % 2) = max(sequence_number % 2) FROM invocation GROUP BY 1"
        )
        strides = {run: 2 if alike else 1 for run, alike in parities}
    return [
        {
            "outlier": label == -1,
            "text": text,
            "writer": writer,
            "step": number // strides[run],
            "core": core,
        }
        for (label, text, writer, run, number), core in zip(rows, cores.tolist(), strict=True)
    ]


@pytest.fixture(scope="module")
def measured(clustered: tuple[Database, ClusteringSummary]) -> density.Density:
    return density.examine(*clustered)


def test_the_histogram_counts_every_row_once(measured: density.Density, rows: list[dict[str, Any]]) -> None:
    edges = measured.histogram.edges
    assert (len(edges), len(measured.histogram.all)) == (201, 200)
    width = edges[1] - edges[0]
    assert np.allclose(np.diff(edges), width)
    cores = [row["core"] for row in rows]
    assert (edges[0], edges[-1]) == (min(cores), max(cores))
    for chosen, counts in (
        (rows, measured.histogram.all),
        ([r for r in rows if r["outlier"]], measured.histogram.outliers),
    ):
        expected = [0] * 200
        for row in chosen:
            # Beyond the last edge that is not above it.
            number = sum(edge <= row["core"] for edge in edges) - 1
            expected[min(number, 199)] += 1
        assert counts == expected
    assert (measured.n_rows, measured.n_outliers) == (len(rows), sum(row["outlier"] for row in rows))


def test_the_dip_test_uses_the_rows_of_the_histogram(
    measured: density.Density, rows: list[dict[str, Any]]
) -> None:
    from diptest import diptest

    statistic, p_value = diptest(np.array(sorted(row["core"] for row in rows)))
    assert measured.dip is not None
    assert (measured.dip.statistic, measured.dip.p_value) == (
        pytest.approx(statistic),
        pytest.approx(p_value),
    )
    assert measured.dip.n_rows == sum(measured.histogram.all) == len(rows)
    assert measured.n_distinct == len({row["text"] for row in rows}) < len(rows)


def test_two_groups_have_two_modes_and_one_has_one() -> None:
    rng = np.random.default_rng(0)
    first_mode, second_mode = rng.normal(0.3, 0.05, 500), rng.normal(0.9, 0.05, 500)
    both = density.dip(np.concatenate([first_mode, second_mode]))
    single = density.dip(first_mode)
    assert both is not None
    assert single is not None
    assert both.p_value < 0.001 < 0.05 < single.p_value
    many = density.dip(rng.normal(size=80_000))
    assert many is not None
    assert many.n_rows == 72_000
    assert density.dip(rng.normal(size=80_000)) != many


@pytest.mark.parametrize("n", [0, 1, 3, 4])
def test_few_rows_have_no_dip_test(n: int) -> None:
    assert (density.dip(np.linspace(0.1, 0.2, n)) is None) == (n < 4)


def shares(rows: list[dict[str, Any]], key: Any) -> dict[Any, tuple[int, float]]:
    groups: dict[Any, list[bool]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row["outlier"])
    return {name: (len(group), sum(group) / len(group)) for name, group in groups.items()}


def test_outliers_are_counted_by_writer(measured: density.Density, rows: list[dict[str, Any]]) -> None:
    expected = shares(rows, lambda row: row["writer"])
    assert len(expected) == 3
    assert {
        file.name: (file.n_rows, pytest.approx(file.outlier_share)) for file in measured.by_writer
    } == expected
    counts = [group.n_rows for group in measured.by_writer]
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize(("name", "key"), [("by_step", "step"), ("by_text_length", "text")])
def test_outliers_are_counted_by_deciles(
    measured: density.Density, rows: list[dict[str, Any]], name: str, key: str
) -> None:
    values = [len(row[key]) if key == "text" else row[key] for row in rows]
    deciles = getattr(measured, name)
    assert 5 < len(deciles) <= 10
    assert deciles[0].first == min(values)
    assert deciles[-1].last == max(values)
    assert sum(decile.n_rows for decile in deciles) == len(rows)
    for decile in deciles:
        inside = [
            row["outlier"]
            for row, value in zip(rows, values, strict=True)
            if decile.first <= value <= decile.last
        ]
        assert (len(inside), sum(inside) / len(inside)) == (
            decile.n_rows,
            pytest.approx(decile.outlier_share),
        )


@given(st.lists(st.integers(0, 30), min_size=1, max_size=80))
def test_deciles_divide_as_evenly_as_ties_allow(values: list[int]) -> None:
    result = density.by_decile(np.array(values), np.zeros(len(values), dtype=bool))
    # Groups do not overlap, and none is wider than a tenth but for the ties at its end.
    for group, second_group in itertools.pairwise(result):
        assert group.first is not None
        assert group.last is not None
        assert group.first <= group.last < (second_group.first or 0)
    for group in result:
        below_last = sum((group.first or 0) <= value < (group.last or 0) for value in values)
        assert below_last < max(1.0, len(values) / 10) + 1
    assert sum(group.n_rows for group in result) == len(values)


def test_outlier_counts_at_other_settings_equal_those_of_recut(
    clustered: tuple[Database, ClusteringSummary], measured: density.Density, tmp_path: Path
) -> None:
    source_database, source = clustered
    shutil.copyfile(source_database.path or "", tmp_path / "copy.sqlite")
    database = open_database(tmp_path / "copy.sqlite")
    assert [cut.parameters.cluster_selection_epsilon for cut in measured.by_epsilon] == list(density.EPSILONS)
    sizes = [cut.parameters.min_cluster_size for cut in measured.by_min_cluster_size]
    assert (sizes[0], sizes[-1]) == (2, 12)
    assert sizes == sorted(set(sizes))
    assert [cut.parameters.min_samples for cut in measured.by_min_samples] == [2, 3, 4, 5, 7, 10, 14, 20]
    outliers = [cut.n_outliers for cut in measured.by_min_samples]
    assert outliers[0] < outliers[3] == measured.n_outliers < outliers[-1]
    for cut in (*measured.by_epsilon[::4], *measured.by_min_cluster_size[::4], *measured.by_min_samples[::3]):
        outcome = recut_clustering(
            database,
            source,
            Changes(
                epsilon=cut.parameters.cluster_selection_epsilon,
                min_samples=cut.parameters.min_samples,
                min_cluster_size=cut.parameters.min_cluster_size,
            ),
        )
        assert (cut.n_clusters, cut.n_outliers) == (outcome.n_clusters, outcome.n_outliers)


def test_without_stored_neighbours_the_command_names_the_remedy(tmp_path: Path) -> None:
    database = open_database(tmp_path / "sample.sqlite", create=True)
    import_embeddings(sorted(SAMPLE.glob("*_lsa.parquet")), database)
    clustering_manager.cluster_all_data(database, downsample=8, resources=Resources(keep_neighbours=0))
    words = ["show-density", "--db", str(database.path)]
    shown = " ".join(invoke(*words).stdout.split())
    assert "No outliers by min_samples: there are no neighbour lists" in shown
    assert "--keep-neighbours 0; cluster again" in shown
    output = read_json(*words)
    assert (output["by_min_samples"], len(output["by_epsilon"])) == ([], 13)


def test_the_command_reads_a_read_only_file(
    clustered: tuple[Database, ClusteringSummary], measured: density.Density, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.sqlite"
    shutil.copyfile(clustered[0].path or "", copy)
    before = snapshot(copy)
    os.chmod(copy, stat.S_IREAD)
    as_json = succeed("show-density", "--json", db=copy)
    printed = json.loads(as_json.stdout)
    assert printed["clustering"] == str(clustered[1].id)
    assert printed["histogram"]["all"] == measured.histogram.all
    assert len(printed["by_epsilon"]) == 13
    assert printed["by_epsilon"][0]["outlier_share"] == measured.by_epsilon[0].n_outliers / measured.n_rows
    shown = succeed("show-density", "latest", db=copy)
    assert max(map(len, shown.stdout.splitlines())) <= 100
    bars = [line for line in shown.stdout.splitlines() if " to " in line and ("█" in line or "░" in line)]
    assert bars
    assert max(map(len, bars)) <= 80
    assert f"{measured.n_distinct} distinct" in " ".join(shown.stdout.split())
    assert snapshot(copy) == before


def test_without_the_package_the_dip_test_is_left_out(
    clustered: tuple[Database, ClusteringSummary], monkeypatch: pytest.MonkeyPatch
) -> None:
    really = builtins.__import__

    def refuse(name: str, *arguments: Any, **named: Any) -> Any:
        if name == "diptest":
            raise ImportError(name)
        return really(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    words = ["show-density", "--db", str(clustered[0])]
    shown = succeed(*words)
    assert "needs the package diptest: pip install '.[density]'" in " ".join(shown.stdout.split())
    assert read_json(*words)["dip"] is None


def test_without_a_tree_there_are_no_core_distances(
    clustered: tuple[Database, ClusteringSummary], tmp_path: Path
) -> None:
    shutil.copyfile(clustered[0].path or "", tmp_path / "copy.sqlite")
    database = open_database(tmp_path / "copy.sqlite")
    parameters = ClusteringParameters(epsilon=0.2)
    clustering_manager.cluster_all_data(
        database, parameters=parameters, downsample=4, resources=Resources(keep_tree=False)
    )
    with database.session() as session, pytest.raises(NoTree, match="has no spanning tree"):
        density.examine(database, find_clustering(session))
