"""Test that one fit gives the trees of every smaller min_samples, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from panic_tda.arrays.rows import normalise
from panic_tda.clustering import backends
from panic_tda.clustering.backends.base import Backend, FitOptions
from panic_tda.clustering.checkpoint import Checkpoint
from panic_tda.clustering.duplicates import find_distinct
from panic_tda.clustering.hierarchy import extract_clusters, relabel_by_size
from panic_tda.clustering.neighbour_graph import lower_min_samples
from panic_tda.clustering.placement import Placement
from panic_tda.clustering.recipe import cluster_rows
from panic_tda.clustering.tiled.engine import Settings, TiledBackend
from panic_tda.parameters import ClusteringParameters
from panic_tda.progress import Silent
from panic_tda.types import Clustering, NeighbourLists, SpanningTree
from tests import reference
from tests.datasets import DATASETS, unit_rows

if TYPE_CHECKING:
    from panic_tda.types import Float32Array

FLOOR = 1e-3
K = 12
BACKENDS: dict[str, Callable[[], Backend]] = {
    "sklearn": lambda: backends.get_backend("sklearn"),
    "tiled": lambda: TiledBackend(Settings(tile_rows=16, threads=2)),
}


def cluster(
    rows: Float32Array, backend: Backend, min_samples: int, *, keep: int = 0, **more: float
) -> Clustering:
    placement = Placement(
        backend=backend,
        options=FitOptions(min_samples=2, distance_floor=0.0, keep_neighbours=keep),
        rows_on_device=False,
    )
    parameters = ClusteringParameters(min_samples=min_samples, min_cluster_size=4, **more)
    return cluster_rows(rows.copy(), parameters, Silent(), placement=placement)


def pile(n: int) -> Float32Array:
    """Return rows so close together that float32 products cannot order them."""
    rng = np.random.default_rng(3)
    return unit_rows(np.eye(1, 40) + rng.normal(size=(n, 40)) * 2e-4)


@pytest.mark.parametrize("make", BACKENDS.values(), ids=BACKENDS)
# Without ties; with many; with copies, of which some rows have more than K; below the floor.
@pytest.mark.parametrize("name", ["blobs_in_noise", "tied_groups", "duplicates", "near_copies"])
def test_a_lowered_tree_is_that_of_a_fit(name: str, make: Callable[[], Backend]) -> None:
    rows, backend = DATASETS[name](), make()
    graph = cluster(rows, backend, K, keep=K).graph
    assert graph is not None
    n_clusters = set()
    for min_samples in (1, 2, 3, 5, 8, 11, K):
        fresh = cluster(rows, backend, min_samples, epsilon=0.2)
        assert fresh.tree is not None
        tree = lower_min_samples(graph, min_samples, FLOOR)
        assert np.array_equal(np.sort(tree.height), np.sort(fresh.tree.height))
        assert np.array_equal(tree.core_distances, fresh.tree.core_distances)
        flat = relabel_by_size(extract_clusters(tree, fresh.record))
        assert np.array_equal(flat.labels, fresh.labels)
        assert np.array_equal(flat.probabilities, fresh.probabilities)
        n_clusters.add((fresh.n_clusters, fresh.record.n_outliers))
    # Where min_samples changes nothing, nothing is shown.
    assert len(n_clusters) > 1


@pytest.mark.parametrize("make", BACKENDS.values(), ids=BACKENDS)
def test_a_fit_that_keeps_more_neighbours_finds_the_same(make: Callable[[], Backend]) -> None:
    rows = DATASETS["drifting_walks"]()
    plain, clustering = (cluster(rows, make(), 5, keep=keep) for keep in (0, 20))
    assert np.array_equal(clustering.labels, plain.labels)
    assert np.array_equal(clustering.probabilities, plain.probabilities)
    assert clustering.medoid_indices == plain.medoid_indices
    assert (plain.graph, plain.record.keep_neighbours, clustering.record.keep_neighbours) == (None, None, 20)
    assert clustering.tree is not None
    assert clustering.tree.neighbours is None


def test_no_more_neighbours_than_rows_are_kept() -> None:
    rows = DATASETS["lattice"]()[:9]
    for make in BACKENDS.values():
        clustering = cluster(rows, make(), 4, keep=1000)
        assert clustering.record.keep_neighbours == 9
        assert np.array_equal(clustering.labels, cluster(rows, make(), 4).labels)


def test_equal_rows_have_empty_lists() -> None:
    rows = np.repeat(unit_rows([[1.0, 2.0]]), 12, axis=0)
    for make in BACKENDS.values():
        clustering = cluster(rows, make(), 3, keep=8)
        assert clustering.graph is not None
        tree = lower_min_samples(clustering.graph, 1, FLOOR)
        assert sorted(tree.height) == [FLOOR] * 11


def fitted(rows: Float32Array, min_samples: int, **more: object) -> SpanningTree:
    normalise(rows := rows.copy())
    distinct = find_distinct(rows)
    options = FitOptions(
        min_samples=min_samples,
        distance_floor=FLOOR,
        keep_neighbours=min_samples,
        **more,  # type: ignore[arg-type]
    )
    return TiledBackend(Settings(tile_rows=64, threads=2)).fit(rows[distinct.first], distinct.counts, options)


def nearer_rows(rows: Float32Array, min_samples: int) -> list[dict[int, float]]:
    """Return the nearer rows of each distinct row by the definition, from all distances."""
    normalise(rows := rows.copy())
    distinct = find_distinct(rows)
    distances = np.maximum(reference.chord_distances(rows), FLOOR)
    cores = np.maximum(reference.core_distances(reference.chord_distances(rows), min_samples), FLOOR)
    first = distinct.first
    return [
        {
            at: distances[row, neighbour]
            for at, neighbour in enumerate(first)
            if neighbour != row and distances[row, neighbour] < cores[row] * (1 - 1e-9)
        }
        for row in first
    ]


@pytest.mark.parametrize(
    "rows", [pile(300), DATASETS["duplicates"](), DATASETS["tied_groups"]()], ids=["pile", "copies", "ties"]
)
def test_lists_have_all_rows_that_are_nearer_than_the_core_distance(rows: Float32Array) -> None:
    lists = fitted(rows, 10).neighbours
    assert lists is not None
    for expected, listed, distances in zip(nearer_rows(rows, 10), lists.rows, lists.distances, strict=True):
        actual = dict(zip(listed[listed >= 0].tolist(), distances[listed >= 0].tolist(), strict=True))
        assert actual.keys() == expected.keys()
        assert np.allclose([actual[at] for at in expected], list(expected.values()), rtol=1e-9)
        assert (np.diff(distances[listed >= 0]) >= 0).all()


def assert_same_lists(actual: NeighbourLists | None, expected: NeighbourLists | None) -> None:
    assert actual is not None
    assert expected is not None
    assert np.array_equal(actual.rows, expected.rows)
    assert np.array_equal(actual.distances, expected.distances)


def test_lists_come_back_with_the_tree_of_a_killed_run(tmp_path: Path) -> None:
    rows = DATASETS["blobs_in_noise"]()
    expected = fitted(rows, 10).neighbours
    assert_same_lists(fitted(rows, 10, checkpoint=Checkpoint(tmp_path, "0" * 64)).neighbours, expected)
    read = fitted(rows, 10, checkpoint=Checkpoint(tmp_path, "0" * 64))
    assert_same_lists(read.neighbours, expected)
    # Without its lists, a tree is not enough.
    (file,) = tmp_path.rglob("*nearer-rows*")
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    assert_same_lists(fitted(rows, 10, checkpoint=Checkpoint(tmp_path, "0" * 64)).neighbours, expected)


def test_lists_above_the_memory_limit_are_in_files(tmp_path: Path) -> None:
    rows = DATASETS["blobs_in_noise"]()
    lists = fitted(rows, 10, memory_limit=1 << 20, work_dir=tmp_path).neighbours
    assert lists is not None
    assert isinstance(lists.distances.base, np.memmap)
    assert_same_lists(lists, fitted(rows, 10).neighbours)


def test_a_larger_min_samples_is_refused() -> None:
    graph = cluster(DATASETS["blobs"](), BACKENDS["tiled"](), 5, keep=5).graph
    assert graph is not None
    with pytest.raises(ValueError, match="min_samples must be 1 to 5; got 6"):
        lower_min_samples(graph, 6, FLOOR)
    with pytest.raises(ValueError, match="no neighbour lists"):
        lower_min_samples(replace(graph, neighbours=None), 3, FLOOR)
