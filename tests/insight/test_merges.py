"""Test merges and layers: by hand, and against cuts of the tree at every height and size."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from panic_tda import hdbscan as cluster
from panic_tda.clustering.condensed import build_single_linkage, condense_tree
from panic_tda.insight.merges import Merge, find_layers, list_merges, trace_persistence
from panic_tda.types import OUTLIER, SpanningTree


def test_merges_match_a_hand_computed_example() -> None:
    # 0 0 - 2 2 - 1 1, one outlier beside.
    tree = SpanningTree(np.arange(6), np.arange(1, 7), np.array([0.1, 0.5, 0.1, 0.3, 0.1, 0.9]))
    labels = np.array([0, 0, 2, 2, 1, 1, OUTLIER])
    assert list_merges(tree, labels) == (Merge(0.3, 1, 2, 2), Merge(0.5, 0, 1, 3))
    assert list_merges(tree, np.full(7, OUTLIER)) == ()


def test_labels_that_are_not_a_cut_of_the_tree_add_nothing_to_the_merges() -> None:
    # Damaged labels: 0 and 1 alternate, so that nearly every edge joins both. More merges than clusters were
    # written beyond the end of their array, which ended the process.
    n = 400
    tree = SpanningTree(np.arange(n - 1), np.arange(1, n), np.linspace(0.1, 1.0, n - 1))
    merges = list_merges(tree, np.arange(n) % 2)
    assert {(merge.a, merge.b) for merge in merges} == {(0, 1)}
    assert len(merges) > 1


def planted_blobs(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(6, 12))
    near = (centres[:, None] + 0.25 * rng.normal(size=(6, 40, 12))).reshape(-1, 12)
    return np.vstack([near, rng.normal(size=(60, 12))]).astype(np.float32)


def test_clusters_are_in_one_component_from_the_height_of_their_merge_on() -> None:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    clustering = cluster(planted_blobs(3), min_cluster_size=10, min_samples=5, epsilon=0.0)
    tree, labels = clustering.tree, clustering.labels
    assert tree is not None
    merges = list_merges(tree, labels)
    assert len(merges) == clustering.n_clusters - 1 > 1
    assert [merge.height for merge in merges] == sorted(merge.height for merge in merges)
    n = len(labels)
    for merge in merges:
        for edges, together in ((tree.height <= merge.height, True), (tree.height < merge.height, False)):
            graph = coo_array((np.ones(edges.sum()), (tree.u[edges], tree.v[edges])), shape=(n, n))
            _, components = connected_components(graph, directed=False)
            of_a, of_b = (set(components[labels == label].tolist()) for label in (merge.a, merge.b))
            assert (len(of_a | of_b) == 1) == together


@pytest.mark.parametrize("seed", range(4))
def test_leaves_are_those_of_the_condensed_tree_at_every_size(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 80
    tree = SpanningTree(rng.integers(0, np.arange(1, n)), np.arange(1, n), rng.random(n - 1))
    sizes, counts, persistence = trace_persistence(tree, distance_floor=1e-9)
    linkage = build_single_linkage(tree, 1e-9)
    for size in range(2, int(sizes.max()) + 1):
        parents = condense_tree(linkage, size, 1e-12).parent
        leaves = set(range(1, len(parents))) - set(parents[1:].tolist())
        at = np.flatnonzero(sizes <= size)
        assert (counts[at[-1]] if len(at) else 0) == len(leaves), size
    assert (persistence > 0).all()


@pytest.mark.parametrize("min_samples", [2, 4])
def test_persistence_is_that_of_the_leaves_at_every_size(min_samples: int) -> None:
    # The definition of Bot, McInnes and Aerts, by cutting the tree at every size above min_samples: a leaf is
    # its rows, and persists for as many sizes as it is a leaf for.
    rng = np.random.default_rng(11)
    n = 120
    tree = SpanningTree(rng.integers(0, np.arange(1, n)), np.arange(1, n), rng.random(n - 1))
    linkage = build_single_linkage(tree, 1e-9)
    leaves: dict[int, list[bytes]] = {}
    for size in range(min_samples + 1, n):
        condensed = condense_tree(linkage, size, 1e-12)
        ends = set(range(1, len(condensed.parent))) - set(condensed.parent[1:].tolist())
        leaves[size] = [np.flatnonzero(condensed.row_cluster == end).tobytes() for end in ends]
    lives = Counter(leaf for of_size in leaves.values() for leaf in of_size)
    expected = {size: sum(lives[leaf] for leaf in of_size) for size, of_size in leaves.items() if of_size}
    sizes, _, persistence = trace_persistence(tree, distance_floor=1e-9, min_samples=min_samples)
    traced = {size: float(persistence[np.searchsorted(sizes, size, side="right") - 1]) for size in expected}
    assert traced == expected
    peaks = [0.0, *(expected[size] for size in sorted(expected)), 0.0]
    layers = find_layers(tree, distance_floor=1e-9, min_samples=min_samples, most=99)
    assert {layer.min_cluster_size for layer in layers} == {
        size
        for number, size in enumerate(sorted(expected), start=1)
        if peaks[number] > peaks[number - 1]
        and peaks[number] > next(value for value in peaks[number:] if value != peaks[number])
    }


def test_planted_layers_are_found() -> None:
    # Three groups of 60 rows, each of which is three groups of 20.
    rng = np.random.default_rng(5)
    coarse = rng.normal(size=(3, 30)) * 3
    fine = (coarse[:, None] + rng.normal(size=(3, 3, 30))).reshape(9, 30)
    vectors = (fine[:, None] + 0.2 * rng.normal(size=(9, 20, 30))).reshape(180, 30).astype(np.float32)
    clustering = cluster(vectors, min_cluster_size=5, min_samples=3, epsilon=0.0)
    assert clustering.tree is not None
    nine = find_layers(clustering.tree, distance_floor=1e-9)[0]
    assert (nine.n_clusters, 2 <= nine.min_cluster_size <= 20) == (9, True)
    sizes, counts, _ = trace_persistence(clustering.tree, distance_floor=1e-9)
    assert counts[np.flatnonzero(sizes <= 40)[-1]] == 3
    again = cluster(
        vectors, min_cluster_size=nine.min_cluster_size, min_samples=3, epsilon=0.0, selection_method="leaf"
    )
    assert again.n_clusters == 9


def test_a_single_row_has_no_layers() -> None:
    empty = np.empty(0, dtype=np.int64)
    assert find_layers(SpanningTree(empty, empty, np.empty(0)), distance_floor=1e-9) == ()
