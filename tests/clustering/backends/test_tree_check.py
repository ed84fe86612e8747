"""Test the share of rows with an improving edge: 0 for exact trees, otherwise that of the reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.sparse.csgraph import minimum_spanning_tree

from panic_tda.clustering.backends import tree_check
from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.backends.tree_check import sample_improving_edges
from panic_tda.clustering.tiled.engine import TiledBackend
from panic_tda.types import SpanningTree
from tests import reference, strict_arrays
from tests.clustering.datasets import unit_rows
from tests.clustering.test_backends import FLOOR, ROWS, Recorder
from tests.conftest import require_backend

MIN_SAMPLES = 4


def clusters(n: int = 300, d: int = 24) -> np.ndarray:
    rng = np.random.default_rng(3)
    return unit_rows(rng.standard_normal((6, d))[rng.integers(6, size=n)] + 0.4 * rng.standard_normal((n, d)))


def exact_tree(rows: np.ndarray) -> SpanningTree:
    options = FitOptions(min_samples=MIN_SAMPLES, distance_floor=FLOOR)
    return TiledBackend().fit(rows, np.ones(len(rows), dtype=np.int64), options)


def neighbour_graph_tree(rows: np.ndarray) -> SpanningTree:
    """Build the tree of the neighbour graph, with components joined in row order."""
    distances = reference.chord_distances(rows)
    weights = reference.mutual_reachability(distances, MIN_SAMPLES, FLOOR)
    n = len(rows)
    in_graph = np.zeros((n, n), dtype=bool)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :MIN_SAMPLES]
    in_graph[np.arange(n)[:, None], nearest] = True
    in_graph |= in_graph.T
    # Every pair of neighbours in row order is an edge too, so heavy that it comes last.
    heavy = weights + 10 * np.triu(np.ones((n, n)), 1) * ~in_graph
    edges = minimum_spanning_tree(np.triu(np.where(heavy > 0, heavy, 0), 1)).tocoo()
    height = weights[edges.row, edges.col]
    # A link that the graph did not have is the first that came, not the lightest.
    linked = ~in_graph[edges.row, edges.col]
    height = np.where(linked, height * 1.2, height)
    return SpanningTree(
        edges.row.astype(np.int64),
        edges.col.astype(np.int64),
        height,
        core_distances=reference.core_distances(distances, MIN_SAMPLES),
    )


def oracle(rows: np.ndarray, tree: SpanningTree, margin: float) -> np.ndarray:
    """Return for each row whether it has an improving edge: all pairs, paths walked edge by edge."""
    n = len(rows)
    weights = reference.mutual_reachability(reference.chord_distances(rows), MIN_SAMPLES, FLOOR)
    linked: list[list[tuple[int, float]]] = [[] for _ in range(n)]
    for u, v, height in zip(tree.u.tolist(), tree.v.tolist(), tree.height.tolist(), strict=True):
        linked[u].append((v, height))
        linked[v].append((u, height))
    has = np.zeros(n, dtype=bool)
    for row in range(n):
        highest, waiting = {row: 0.0}, [row]
        while waiting:
            at = waiting.pop()
            for neighbour, height in linked[at]:
                if neighbour not in highest:
                    highest[neighbour] = max(highest[at], height)
                    waiting.append(neighbour)
        has[row] = any(
            highest[other_row] ** 2 - weights[row, other_row] ** 2 > margin
            for other_row in range(n)
            if other_row != row
        )
    return has


@pytest.mark.parametrize("n_sampled", [7, 2_048])
@pytest.mark.parametrize("name", ["blobs", "noise in 768 dimensions", "chain", "near copies"])
def test_an_exact_tree_has_no_improving_edge(name: str, n_sampled: int) -> None:
    rows = np.unique(ROWS[name], axis=0)
    sample = sample_improving_edges(
        rows, exact_tree(rows), distance_floor=FLOOR, n_sampled=n_sampled, margin=1e-12
    )
    assert (sample.share, sample.sample) == (0.0, min(len(rows), n_sampled))


@pytest.mark.parametrize("margin", [1e-5, 0.01, 0.05])
def test_a_tree_of_a_neighbour_graph_has_the_oracles_share(margin: float) -> None:
    rows = clusters()
    tree = neighbour_graph_tree(rows)
    expected = oracle(rows, tree, margin)
    assert 0 < expected.mean() < 1
    sample = sample_improving_edges(rows, tree, distance_floor=FLOOR, margin=margin)
    assert (sample.share, sample.sample) == (expected.mean(), len(rows))


@pytest.mark.slow
@pytest.mark.parametrize("columns", [37, 2_048])
@pytest.mark.parametrize("n_sampled", [1, 2, 20, 100, 299])
def test_a_sample_has_its_own_share(monkeypatch: pytest.MonkeyPatch, n_sampled: int, columns: int) -> None:
    monkeypatch.setattr(tree_check, "BLOCK_COLUMNS", columns)
    rows = clusters()
    tree = neighbour_graph_tree(rows)
    chosen = tree_check.sample_rows(len(rows), n_sampled)
    assert len(set(chosen.tolist())) == n_sampled
    shares = {margin: oracle(rows, tree, margin)[chosen].mean() for margin in (0.01, 0.05, 0.2)}
    for margin, expected in shares.items():
        sample = sample_improving_edges(rows, tree, distance_floor=FLOOR, n_sampled=n_sampled, margin=margin)
        assert (sample.share, sample.sample) == (expected, n_sampled)


def test_one_heavy_edge_is_found_in_the_rows_behind_it() -> None:
    rows = clusters()
    tree = exact_tree(rows)
    heaviest = int(np.argmax(tree.height))
    height = tree.height.copy()
    height[heaviest] *= 1.5
    wrong = replace(tree, height=height)
    expected = oracle(rows, wrong, 1e-9)
    assert expected.any()
    assert sample_improving_edges(rows, wrong, distance_floor=FLOOR, margin=1e-9).share == expected.mean()


def test_rounding_to_float32_counts_no_row() -> None:
    for name in ("blobs", "noise in 768 dimensions"):
        tree = exact_tree(ROWS[name])
        assert tree.core_distances is not None
        # Off by more than rounding to float32 makes of them, and less than a product's error can.
        noise = 1 + 1e-6 * np.random.default_rng(0).standard_normal(len(tree.height))
        rounded = replace(
            tree,
            height=(tree.height * noise).astype(np.float32).astype(np.float64),
            core_distances=tree.core_distances.astype(np.float32).astype(np.float64),
        )
        assert sample_improving_edges(ROWS[name], rounded, distance_floor=FLOOR).share == 0
        assert sample_improving_edges(ROWS[name], rounded, distance_floor=FLOOR, margin=0).share > 0


def test_distances_below_the_floor_are_not_improving() -> None:
    rows = np.unique(ROWS["near copies"], axis=0)
    tree = replace(exact_tree(rows), height=np.full(len(rows) - 1, 2.0))
    assert sample_improving_edges(rows, tree, distance_floor=2.0).share == 0
    assert sample_improving_edges(rows, tree, distance_floor=FLOOR).share == 1


def test_a_tree_of_two_rows_is_checked() -> None:
    rows = ROWS["two rows"]
    tree = SpanningTree(np.array([0]), np.array([1]), np.array([1.9]), core_distances=np.zeros(2))
    assert sample_improving_edges(rows, tree, distance_floor=FLOOR).share == 1
    distance = np.linalg.norm(rows[0].astype(np.float64) - rows[1])
    exact = replace(tree, height=np.array([distance]))
    assert sample_improving_edges(rows, exact, distance_floor=FLOOR).share == 0


@pytest.mark.parametrize(
    "place", ["stand-in", pytest.param("device", marks=pytest.mark.gpu)], ids=["stand-in", "device"]
)
def test_the_result_is_the_same_on_a_device(place: str) -> None:
    rows = clusters()
    tree = neighbour_graph_tree(rows)
    there: Any = strict_arrays.namespace.asarray(rows)
    if place == "device":
        require_backend("tiled", on_device=True)
        import cupy

        there = cupy.asarray(rows)
    for margin in (0.01, 0.2):
        here = sample_improving_edges(rows, tree, distance_floor=FLOOR, n_sampled=100, margin=margin)
        assert sample_improving_edges(there, tree, distance_floor=FLOOR, n_sampled=100, margin=margin) == here


def test_core_distances_are_needed() -> None:
    rows = ROWS["two rows"]
    with pytest.raises(ValueError, match="core distances"):
        sample_improving_edges(
            rows, SpanningTree(np.array([0]), np.array([1]), np.array([1.0])), distance_floor=FLOOR
        )


def test_progress_is_reported() -> None:
    rows, recorder = clusters(), Recorder()
    sample_improving_edges(rows, exact_tree(rows), distance_floor=FLOOR, n_sampled=10, progress=recorder)
    ((_, total, steps),) = recorder.phases
    assert total == sum(steps) == 10 * len(rows)
