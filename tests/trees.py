"""Spanning trees of the data sets and by hand, the grid of parameters, and comparisons of results."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from panic_tda.clustering.hierarchy import FlatClusters, extract_clusters
from panic_tda.records import EffectiveParameters
from panic_tda.types import OUTLIER, SpanningTree
from tests import reference
from tests.datasets import DATASETS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from panic_tda.types import FloatArray

FLOOR = 1e-3
PLAIN = EffectiveParameters(
    cluster_selection_epsilon=0.0,
    min_cluster_size=2,
    min_samples=1,
    allow_single_cluster=False,
    cluster_selection_method="eom",
    max_cluster_size=None,
    distance_floor=FLOOR,
)
GRID = [
    replace(
        PLAIN,
        min_cluster_size=size,
        cluster_selection_epsilon=epsilon,
        allow_single_cluster=single,
        cluster_selection_method=method,
        max_cluster_size=largest,
    )
    for size, epsilon, single, (method, largest) in product(
        (2, 3, 5, 12),
        (0.0, 0.05, 0.2, 0.4, 0.9),
        (False, True),
        (("eom", None), ("eom", 14), ("leaf", None)),
    )
]


@cache
def distances_of(name: str) -> FloatArray:
    return reference.chord_distances(DATASETS[name]())


@cache
def tree_of(name: str, min_samples: int) -> SpanningTree:
    """Return a minimum spanning tree without the distance floor."""
    return reference.prim_tree(reference.mutual_reachability(distances_of(name), min_samples))


@cache
def merges_of(name: str, min_samples: int) -> reference.Merge:
    return reference.threshold_merges(reference.mutual_reachability(distances_of(name), min_samples, FLOOR))


def neighbour_counts(name: str) -> list[int]:
    n = len(distances_of(name))
    return sorted({min(k, n) for k in (1, 2, 5, 10)})


def edges(*triples: tuple[int, int, float]) -> SpanningTree:
    u, v, height = zip(*triples, strict=True)
    return SpanningTree(np.array(u), np.array(v), np.array(height))


def path(heights: Sequence[float]) -> SpanningTree:
    """Return a tree that joins row i + 1 to row i."""
    rows = np.arange(len(heights))
    return SpanningTree(rows, rows + 1, np.array(heights, dtype=np.float64))


def by_smallest_row(clusters: FlatClusters) -> FlatClusters:
    """Number clusters in the order of their smallest rows."""
    members = clusters.labels != OUTLIER
    present, first = np.unique(clusters.labels[members], return_index=True)
    assert np.array_equal(present, np.arange(len(clusters.persistence))), "clusters without rows, or gaps"
    order = np.argsort(first)
    labels = clusters.labels.copy()
    labels[members] = np.argsort(order)[labels[members]]
    return replace(clusters, labels=labels, persistence=clusters.persistence[order])


def assert_same(clusters: FlatClusters, expected: FlatClusters, note: object = "") -> None:
    clusters, expected = by_smallest_row(clusters), by_smallest_row(expected)
    np.testing.assert_array_equal(clusters.labels, expected.labels, err_msg=str(note))
    np.testing.assert_allclose(clusters.probabilities, expected.probabilities, rtol=1e-9, err_msg=str(note))
    np.testing.assert_allclose(
        clusters.persistence, expected.persistence, rtol=1e-9, atol=1e-15, err_msg=str(note)
    )
    assert clusters.root_selected == expected.root_selected, note


def labels_of(tree: SpanningTree, parameters: EffectiveParameters) -> list[int]:
    labels: list[int] = by_smallest_row(extract_clusters(tree, parameters)).labels.tolist()
    return labels
