"""Compare path and range maxima of spanning trees with walks along them."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panic_tda.clustering.trees import (
    Edges,
    RangeMaxima,
    concatenate,
    dendrogram_order,
    minimum_forest,
    path_maxima,
    paths_from,
)
from tests import strict_arrays


def random_edges(n: int, seed: int, *, more: int = 0) -> Edges:
    """Return a spanning tree of n rows with additional edges and some tied heights."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(n)
    below = np.array([rng.integers(0, row) for row in range(1, n)], dtype=np.int64)
    u = np.concatenate([shuffled[1:], rng.integers(0, n, more)])
    v = np.concatenate([shuffled[below], rng.integers(0, n, more)])
    return Edges(u, v, rng.integers(1, max(2, n), n - 1 + more) / 4)


def heaviest_on_path(n: int, tree: Edges) -> np.ndarray:
    """Return the heaviest edge on each path by walking from every row to all others."""
    beside: list[list[tuple[int, float]]] = [[] for _ in range(n)]
    for u, v, height in zip(*(part.tolist() for part in tree), strict=True):
        beside[u].append((v, height))
        beside[v].append((u, height))
    heaviest = np.zeros((n, n))
    for start in range(n):
        waiting, visited = deque([start]), {start}
        while waiting:
            row = waiting.popleft()
            for neighbour, height in beside[row]:
                if neighbour not in visited:
                    visited.add(neighbour)
                    heaviest[start, neighbour] = max(heaviest[start, row], height)
                    waiting.append(neighbour)
    return heaviest


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10_000), st.integers(0, 60))
def test_no_edge_is_lighter_than_its_path_in_the_minimum_forest(n: int, seed: int, more: int) -> None:
    edges = random_edges(n, seed, more=more)
    tree = minimum_forest(n, edges)
    assert len(tree.u) == n - 1
    assert (np.diff(tree.height) >= 0).all()
    heaviest = heaviest_on_path(n, tree)
    assert (np.isfinite(heaviest) & ((heaviest > 0) | np.eye(n, dtype=bool))).all()
    apart = edges.u != edges.v
    assert (heaviest[edges.u, edges.v][apart] <= edges.height[apart]).all()


def test_components_that_no_edge_joins_stay_apart() -> None:
    edges = Edges(np.array([0]), np.array([1]), np.array([2.0]))
    two = Edges(np.array([2, 3]), np.array([3, 2]), np.array([1.0, 1.0]))
    forest = minimum_forest(5, concatenate([edges, two]))
    assert sorted(zip(forest.u.tolist(), forest.v.tolist(), strict=True)) == [(0, 1), (2, 3)]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10_000))
def test_in_dendrogram_order_the_largest_merge_height_between_is_the_path_maximum(n: int, seed: int) -> None:
    tree = minimum_forest(n, random_edges(n, seed))
    order, gaps = dendrogram_order(n, tree)
    assert sorted(order.tolist()) == list(range(n))
    heaviest = heaviest_on_path(n, tree)
    for p in range(n):
        for q in range(p + 1, n):
            assert gaps[p + 1 : q + 1].max() == heaviest[order[p], order[q]]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 40), st.integers(0, 10_000))
def test_path_maxima_between_adjacent_rows_of_every_order(n: int, seed: int) -> None:
    tree = minimum_forest(n, random_edges(n, seed))
    order = np.random.default_rng(seed).permutation(n).astype(np.int32)
    gaps = path_maxima(tree, order)
    assert gaps[0] == np.inf
    np.testing.assert_array_equal(gaps[1:], heaviest_on_path(n, tree)[order[:-1], order[1:]])


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9, 64, 65])
@pytest.mark.parametrize("library", ["numpy", "strict"])
def test_range_maxima_are_those_of_every_range(n: int, library: str) -> None:
    values = np.random.default_rng(n).random(n)
    there = strict_arrays.namespace.asarray if library == "strict" else np.asarray
    begin, end = (axis.reshape(-1) for axis in np.meshgrid(np.arange(n + 1), np.arange(n + 1)))
    maxima = RangeMaxima(there(values)).of(there(begin), there(end))
    maxima = maxima.get() if library == "strict" else maxima
    wanted = [values[first:last].max(initial=0.0) for first, last in zip(begin, end, strict=True)]
    np.testing.assert_array_equal(maxima, wanted)


@pytest.mark.parametrize("n_sampled", [1, 2, 9, 40])
def test_path_maxima_are_the_largest_merge_heights_between(n_sampled: int) -> None:
    rng = np.random.default_rng(n_sampled)
    gaps = np.concatenate([[np.inf], rng.random(39)])
    positions = np.sort(rng.choice(40, n_sampled, replace=False))
    maxima = paths_from(gaps, positions).maxima(slice(0, 40))
    for row, position in enumerate(positions.tolist()):
        for last in range(40):
            low, high = sorted((position, last))
            assert maxima[row, last] == max(gaps[low + 1 : high + 1], default=0)
