"""Find the heights at which clusters join, and the sizes at which a tree has stable clusters.

References
----------
.. [1] Bot, McInnes, Aerts (2025). Persistent multiscale density-based clustering. arXiv:2512.16558.
   https://doi.org/10.48550/arXiv.2512.16558
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

import numpy as np

from panic_tda.clustering.compiled import compiled
from panic_tda.clustering.condensed import build_single_linkage
from panic_tda.clustering.trees import find
from panic_tda.progress import Progress
from panic_tda.storage.database import Database
from panic_tda.storage.read.clusterings import open_clustering
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.types import OUTLIER, FloatArray, IntArray, SpanningTree

MOST_LAYERS = 10


@dataclass(frozen=True)
class Merge:
    """Two sets of clusters that join.

    Attributes
    ----------
    height : float
        Chord at which they join.
    a, b : int
        Label of the largest cluster of each set; a is the larger cluster.
    n_clusters : int
        Number of clusters in both sets.
    """

    height: float
    a: int
    b: int
    n_clusters: int


@dataclass(frozen=True)
class Layer:
    """A `min_cluster_size` at which the persistence of the leaves has a local maximum.

    Attributes
    ----------
    min_cluster_size : int
        Smallest value of the layer.
    n_clusters : int
        Number of leaves, which are the clusters of the selection method leaf.
    persistence : float
        Sum over the leaves of the range of sizes for which each is a leaf.
    """

    min_cluster_size: int
    n_clusters: int
    persistence: float


@dataclass(frozen=True)
class TreeMerges:
    """Merges and stable layers in the tree of a stored clustering.

    Attributes
    ----------
    clustering : UUID
        Its id.
    merges : tuple of Merge
        By ascending height.
    layers : tuple of Layer
        The most persistent first.
    """

    clustering: UUID
    merges: tuple[Merge, ...]
    layers: tuple[Layer, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the object that `show-merges --json` prints, of plain values."""
        return asdict(self) | {"clustering": str(self.clustering)}


def read_merges(
    database: Database, clustering: ClusteringSummary, *, progress: Progress | None = None
) -> TreeMerges:
    """Read the tree of a stored clustering, and find where its clusters join, and its stable layers.

    Raises
    ------
    NoTree
        The clustering was stored without a tree, or embeddings were deleted since.
    """
    with open_clustering(database, clustering, progress) as stored:
        tree, labels = stored.tree, stored.assignments.labels
    record = clustering.record
    layers = find_layers(tree, distance_floor=record.distance_floor, min_samples=record.min_samples)
    return TreeMerges(clustering.id, list_merges(tree, labels), layers)


def list_merges(tree: SpanningTree, labels: IntArray) -> tuple[Merge, ...]:
    """List the merges of clusters, (n,) int64 labels, by ascending height in the spanning tree."""
    order = np.argsort(tree.height, kind="stable")
    n_clusters = int(labels.max(initial=OUTLIER)) + 1
    rows = _join(tree.u[order], tree.v[order], labels, n_clusters)
    return tuple(
        Merge(float(tree.height[order[edge]]), int(a), int(b), int(size))
        for edge, a, b, size in rows.tolist()
    )


def find_layers(
    tree: SpanningTree, *, distance_floor: float, min_samples: int = 1, most: int = MOST_LAYERS
) -> tuple[Layer, ...]:
    """Find the stable layers of leaf clusters in a tree, the most persistent first [1]_.

    Parameters
    ----------
    tree : SpanningTree
        Over n rows.
    distance_floor : float
        Least distance.
    min_samples : int
        Number of neighbours for the core distances of the tree; smaller clusters do not count, because their
        rows were made equally dense by rows outside them.
    most : int
        Maximum number of layers.

    Notes
    -----
    A cluster is a leaf of the condensed tree for every `min_cluster_size` above the largest at which it would
    still split (but above `min_samples`), up to the largest at which it still splits off. The sum of these
    ranges over the leaves at each size is a function of the size, whose local maxima are the layers; of equal
    neighbouring values the first counts. Merges at one height are taken one after another. The package
    fast-plscan finds the same layers; its sizes are one smaller, because its clusters are larger than them.
    """
    sizes, counts, persistence = trace_persistence(
        tree, distance_floor=distance_floor, min_samples=min_samples
    )
    if not len(sizes):
        return ()
    padded = np.concatenate([[-np.inf], persistence, [-np.inf]])
    peaks = np.flatnonzero((padded[1:-1] > padded[:-2]) & (padded[1:-1] >= padded[2:]))
    order = peaks[np.argsort(-persistence[peaks], kind="stable")][:most]
    return tuple(Layer(int(sizes[at]), int(counts[at]), float(persistence[at])) for at in order)


def trace_persistence(
    tree: SpanningTree, *, distance_floor: float, min_samples: int = 1
) -> tuple[IntArray, IntArray, FloatArray]:
    """Return the sizes at which leaves begin or end, the number of leaves, and the sum of their ranges.

    Returns
    -------
    sizes, counts : (s,) int64
        Values of `min_cluster_size`, ascending from `min_samples` + 1, and the leaves at each and up to the
        next.
    persistence : (s,) float64
        Sum over these of the number of sizes for which each is a leaf.
    """
    if len(tree.height) < 1:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0)
    linkage = build_single_linkage(tree, distance_floor)
    first, last = _leaf_ranges(linkage.parent, linkage.size, max(1, min_samples))
    lives = first <= last
    first, last = first[lives], last[lives]
    sizes = np.unique(np.concatenate([first, last + 1]))
    starts, ends = np.searchsorted(sizes, first), np.searchsorted(sizes, last + 1)
    lengths = (last - first + 1).astype(float)

    def sum_up(weights: FloatArray) -> FloatArray:
        steps = np.bincount(starts, weights=weights, minlength=len(sizes))
        return np.cumsum(steps - np.bincount(ends, weights=weights, minlength=len(sizes)))

    counts = np.rint(sum_up(np.ones(len(first)))).astype(np.int64)
    return sizes[counts > 0], counts[counts > 0], sum_up(lengths)[counts > 0]


@compiled
def _join(u: IntArray, v: IntArray, labels: IntArray, n_clusters: int) -> IntArray:
    """Join rows by edges of ascending height; one row (edge, a, b, clusters in both) for each merge."""
    n = len(labels)
    above = np.arange(n)
    first = np.full(n, n_clusters)
    n_clusters_below = np.zeros(n, dtype=np.int64)
    is_counted = np.zeros(n_clusters, dtype=np.bool_)
    for row in range(n):
        if labels[row] >= 0:
            first[row] = labels[row]
            # A cluster's own rows join before they meet another's: it counts once.
            if not is_counted[labels[row]]:
                is_counted[labels[row]] = True
                n_clusters_below[row] = 1
    # Of the clusters of this tree at most n_clusters - 1 join; stored labels may be those of no cut of it.
    merges = np.empty((len(u), 4), dtype=np.int64)
    n_merges = 0
    for edge in range(len(u)):
        left, right = find(above, u[edge]), find(above, v[edge])
        above[right] = left
        total = n_clusters_below[left] + n_clusters_below[right]
        if first[left] < n_clusters and first[right] < n_clusters and first[left] != first[right]:
            merges[n_merges, 0] = edge
            merges[n_merges, 1] = min(first[left], first[right])
            merges[n_merges, 2] = max(first[left], first[right])
            merges[n_merges, 3] = total
            n_merges += 1
        first[left] = min(first[left], first[right])
        n_clusters_below[left] = total
    return merges[:n_merges]


@compiled
def _leaf_ranges(parent: IntArray, size: IntArray, least: int) -> tuple[IntArray, IntArray]:
    """Return for each node but the root the sizes above `least` from and up to which it is a leaf."""
    n_nodes = len(parent)
    smaller = np.full(n_nodes, n_nodes)
    for node in range(n_nodes - 1):
        smaller[parent[node]] = min(smaller[parent[node]], size[node])
    splits = np.full(n_nodes, least)
    for node in range(n_nodes - 1):
        # Children come before their parents.
        if smaller[node] < n_nodes:
            splits[node] = max(splits[node], smaller[node])
        splits[parent[node]] = max(splits[parent[node]], splits[node])
    first, last = np.empty(n_nodes - 1, dtype=np.int64), np.empty(n_nodes - 1, dtype=np.int64)
    for node in range(n_nodes - 1):
        first[node], last[node] = splits[node] + 1, smaller[parent[node]]
    return first, last
