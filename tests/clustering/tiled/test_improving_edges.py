"""Compare path maxima and improving edges of tile pairs with a loop over all pairs of positions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panic_tda.arrays.rows import normalise
from panic_tda.clustering.tiled.improving_edges import by_position, edges_within, merge_heights_between
from panic_tda.clustering.tiled.layout import tile_starts
from panic_tda.clustering.tiled.space import build_space
from panic_tda.clustering.tiled.workers import workers
from panic_tda.clustering.trees import DendrogramOrder, Edges, dendrogram_order, minimum_forest
from tests import strict_arrays


class Problem(NamedTuple):
    """Unit rows with core distances, and a random spanning tree in leaf order."""

    vectors: np.ndarray
    cores: np.ndarray
    distances: np.ndarray
    leaves: DendrogramOrder
    starts: np.ndarray


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, tile_rows = draw(st.integers(2, 30)), draw(st.integers(1, 12))
    vectors = (rng.standard_normal((n, 5)) + draw(st.sampled_from([0.0, 2.0]))).astype(np.float32)
    normalise(vectors)
    cores = draw(st.sampled_from([0.0, 0.5, 1.5])) * rng.random(n)
    apart = vectors[:, None].astype(np.float64) - vectors[None].astype(np.float64)
    distances = np.maximum(np.sqrt((apart**2).sum(axis=2)), np.maximum(cores[:, None], cores))
    label = rng.permutation(n)
    u, v = label[1:], label[(rng.random(n - 1) * np.arange(1, n)).astype(np.int64)]
    leaves = dendrogram_order(n, minimum_forest(n, Edges(u, v, distances[u, v])))
    # Below the heights by more than their last bits, so that no edge of the tree is light by accident.
    leaves = DendrogramOrder(leaves.order, leaves.gaps * (1 - 1e-9))
    return Problem(vectors, cores, distances, leaves, tile_starts(n, tile_rows))


def tile_pairs(starts: np.ndarray) -> np.ndarray:
    return np.stack(np.triu_indices(len(starts) - 1), axis=1).astype(np.int32)


@settings(deadline=None)
@given(problem=problems())
def test_the_path_maximum_of_two_tiles_is_the_larger_height(problem: Problem) -> None:
    tiles = by_position(np, problem.leaves, problem.cores, problem.starts)
    pairs = tile_pairs(problem.starts)
    np.testing.assert_array_equal(tiles.cores, problem.cores[problem.leaves.order])
    for (first, second), between in zip(
        pairs.tolist(), merge_heights_between(problem.leaves, problem.starts, pairs), strict=True
    ):
        for p in range(problem.starts[first], problem.starts[first + 1]):
            for q in range(max(p + 1, problem.starts[second]), problem.starts[second + 1]):
                expected = problem.leaves.gaps[p + 1 : q + 1].max()
                if first != second:
                    assert max(tiles.to_end[p], between, tiles.from_start[q]) == expected


@pytest.mark.parametrize("prune_rows", [False, True])
@pytest.mark.parametrize("xp", [np, strict_arrays.namespace], ids=["host", "device"])
@settings(deadline=None, max_examples=30)
@given(problem=problems())
def test_edges_are_the_forest_of_all_improving_pairs(xp: object, prune_rows: bool, problem: Problem) -> None:
    vectors, cores, distances, leaves, starts = problem
    space = build_space(xp, xp.asarray(vectors), 0, np.random.default_rng(0))
    tiles, pairs = by_position(xp, leaves, cores, starts), tile_pairs(starts)
    scanner = space.kernels.scanner(space, int(np.diff(starts).max()))
    with workers(1) as team:
        scan = space.kernels.edge_scan(space, tiles.layout, team)
    scan.use(tiles, prune_rows=prune_rows)
    for number, pair in enumerate(pairs.tolist()):
        between = merge_heights_between(leaves, starts, pairs[number : number + 1])
        if pair[0] == pair[1]:
            edges = edges_within(scanner, tiles, pair[0])
        else:
            edges = scan.find(pairs[number : number + 1], between)
        light = []
        for p in range(starts[pair[0]], starts[pair[0] + 1]):
            for q in range(max(p + 1, starts[pair[1]]), starts[pair[1] + 1]):
                u, v = int(leaves.order[p]), int(leaves.order[q])
                if distances[u, v] < leaves.gaps[p + 1 : q + 1].max():
                    light.append((u, v, distances[u, v]))
        u, v, height = np.array(light).reshape(-1, 3).T
        expected = minimum_forest(len(vectors), Edges(u.astype(np.int64), v.astype(np.int64), height))
        # All of the edges may come, or a forest of them.
        assert {tuple(sorted(ends)) for ends in zip(edges.u.tolist(), edges.v.tolist(), strict=True)} <= {
            tuple(sorted(ends)) for ends in zip(u.astype(int).tolist(), v.astype(int).tolist(), strict=True)
        }
        edges = minimum_forest(len(vectors), edges)
        np.testing.assert_allclose(np.sort(edges.height), expected.height, rtol=1e-12)
        np.testing.assert_allclose(edges.height, distances[edges.u, edges.v], rtol=1e-12)
