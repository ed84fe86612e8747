"""Slow, obvious reference implementations: the definitions in float64 on full matrices.

Nothing here shares code with the package. Distances are chord lengths between the rows as they are given
(unit float32 rows), evaluated in float64.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import fsum, inf, nan
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cdist

from panic_tda.clustering.hierarchy import FlatClusters
from panic_tda.types import OUTLIER, SpanningTree

if TYPE_CHECKING:
    from panic_tda.records import EffectiveParameters
    from panic_tda.types import FloatArray, IntArray


def chord_distances(vectors: np.ndarray) -> FloatArray:
    """Chord length between every two rows.

    Parameters
    ----------
    vectors : (n, d) float32 or float64
        Unit rows; they are not normalised again.

    Returns
    -------
    (n, n) float64
        Exactly symmetric, exactly 0 between identical rows: `cdist` sums squared differences. The textbook
        expansion 2 - 2xy would lose half the digits of short distances.
    """
    rows = np.asarray(vectors, dtype=np.float64)
    return cdist(rows, rows)


def core_distances(distances: FloatArray, min_samples: int) -> FloatArray:
    """Distance of every row to its `min_samples`-th nearest row, the row itself being the first.

    Parameters
    ----------
    distances : (n, n) float64
        Chord lengths over all rows, copies included.
    min_samples : int
        1 to n; 1 gives zeros.

    Returns
    -------
    (n,) float64
    """
    if not 1 <= min_samples <= len(distances):
        raise ValueError(f"min_samples must be 1 to {len(distances)}; got {min_samples}")
    return np.sort(distances, axis=1)[:, min_samples - 1].copy()


def mutual_reachability(distances: FloatArray, min_samples: int, distance_floor: float = 0.0) -> FloatArray:
    """Largest of the distance and both core distances, at least `distance_floor`.

    Returns
    -------
    (n, n) float64
        The diagonal holds zeros and means nothing.
    """
    cores = core_distances(distances, min_samples)
    reachability = np.maximum(distances, np.maximum(cores[:, None], cores[None, :]))
    reachability = np.maximum(reachability, distance_floor)
    np.fill_diagonal(reachability, 0.0)
    return reachability


def prim_tree(reachability: FloatArray) -> SpanningTree:
    """Build a minimum spanning tree by Prim's algorithm on the full matrix.

    Parameters
    ----------
    reachability : (n, n) float64
        Symmetric weights; the diagonal is not looked at.

    Returns
    -------
    SpanningTree
        n - 1 edges in the order in which rows were reached from row 0.
    """
    n = len(reachability)
    weight, source = np.full(n, np.inf), np.zeros(n, dtype=np.int64)
    outside = np.ones(n, dtype=bool)
    u, v, height = (np.empty(max(n - 1, 0), dtype=kind) for kind in (np.int64, np.int64, np.float64))
    row = 0
    for edge in range(n - 1):
        outside[row] = False
        closer = outside & (reachability[row] < weight)
        weight[closer], source[closer] = reachability[row][closer], row
        row = int(np.argmin(np.where(outside, weight, np.inf)))
        u[edge], v[edge], height[edge] = source[row], row, weight[row]
    return SpanningTree(u, v, height)


def prim_weights(reachability: FloatArray) -> FloatArray:
    """Ascending edge weights of the minimum spanning tree: unique even where the tree is not."""
    return np.sort(prim_tree(reachability).height)


def spanning_tree(vectors: np.ndarray, min_samples: int, distance_floor: float = 0.0) -> SpanningTree:
    """Build an exact tree over all rows, copies included, with its core distances."""
    distances = chord_distances(vectors)
    tree = prim_tree(mutual_reachability(distances, min_samples, distance_floor))
    return SpanningTree(tree.u, tree.v, tree.height, core_distances(distances, min_samples))


@dataclass
class Merge:
    """A component, the height below which it falls apart, and the components it falls into."""

    rows: IntArray
    height: float = 0.0
    children: list[Merge] = field(default_factory=list)


def threshold_merges(reachability: FloatArray, tie_tolerance: float = 1e-9) -> Merge:
    """Components of the graph below every threshold, as a tree.

    A component that falls apart within a relative `tie_tolerance` of the height of the component around it
    is passed over: what it falls into are children of the component around it.

    Parameters
    ----------
    reachability : (n, n) float64
        Symmetric weights. Chains up to some hundred rows; the recursion is as deep as the hierarchy.
    """

    def merge(rows: IntArray) -> Merge:
        if len(rows) == 1:
            return Merge(rows)
        among = reachability[np.ix_(rows, rows)]
        thresholds = np.unique(among[np.triu_indices(len(rows), 1)])
        # No component is whole before every row is linked to its nearest one; most are whole just then.
        farthest = np.where(np.eye(len(rows), dtype=bool), inf, among).min(axis=1).max()
        low, high = int(np.searchsorted(thresholds, farthest)), len(thresholds) - 1
        if connected_components(among <= farthest)[0] == 1:
            high = low
        while low < high:
            middle = (low + high) // 2
            if connected_components(among <= thresholds[middle])[0] == 1:
                high = middle
            else:
                low = middle + 1
        height = float(thresholds[low])
        _, component = connected_components(among < height)
        node = Merge(rows, height)
        for number in range(component.max() + 1):
            part = merge(rows[component == number])
            tied = part.children and height - part.height <= tie_tolerance * height
            node.children += part.children if tied else [part]
        return node

    return merge(np.arange(len(reachability)))


@dataclass(eq=False)
class Cluster:
    """A component of at least `min_cluster_size` rows, from its birth on down."""

    rows: IntArray
    birth: float
    parent: Cluster | None
    split: float = inf
    children: list[Cluster] = field(default_factory=list)
    left: dict[int, float] = field(default_factory=dict)
    """Height at which rows fell out, of those that did so before the split."""

    def stability(self) -> float:
        """Sum over rows of the λ at which they leave minus the λ of the birth."""
        return fsum(1 / self.left.get(int(row), self.split) - 1 / self.birth for row in self.rows)

    def densest(self) -> float:
        """Lowest height at which anything leaves."""
        return min([*self.left.values(), self.split])


def condensed_clusters(merges: Merge, min_cluster_size: int) -> list[Cluster]:
    """All clusters of the hierarchy, parents first; the first is the root."""
    clusters: list[Cluster] = []

    def follow(node: Merge, birth: float, parent: Cluster | None) -> Cluster:
        cluster = Cluster(node.rows, birth, parent)
        clusters.append(cluster)
        while True:
            large = [child for child in node.children if len(child.rows) >= min_cluster_size]
            for child in node.children:
                if len(child.rows) < min_cluster_size:
                    cluster.left.update(dict.fromkeys(child.rows.tolist(), node.height))
            if len(large) != 1:
                break
            node = large[0]
        if large:
            cluster.split = node.height
            cluster.children = [follow(child, node.height, cluster) for child in large]
        return cluster

    follow(merges, inf, None)
    return clusters


def excess_of_mass(root: Cluster, allow_root: bool, max_cluster_size: float) -> list[Cluster]:
    """Clusters of the largest total stability; equal within a relative 1e-9, the outer one is kept."""

    def best(cluster: Cluster) -> tuple[float, list[Cluster]]:
        inner = [best(child) for child in cluster.children]
        below, own = fsum(value for value, _ in inner), cluster.stability()
        refused = len(cluster.rows) > max_cluster_size if cluster.parent else not allow_root
        if refused or below > own * (1 + 1e-9):
            return below, [chosen for _, choices in inner for chosen in choices]
        return own, [cluster]

    return best(root)[1]


def raised_to_epsilon(cluster: Cluster, epsilon: float, allow_root: bool, limit: float) -> Cluster:
    """Return the first ancestor born above epsilon of a cluster born below it.

    Where that one has more than `limit` rows, return the uppermost ancestor that has not. The root's rows are
    the caller's business.
    """
    if cluster.birth >= epsilon:
        return cluster
    climbed = [cluster]
    while climbed[-1].parent is not None and (climbed[-1] is cluster or climbed[-1].birth <= epsilon):
        climbed.append(climbed[-1].parent)
    if climbed[-1].parent is None:
        if allow_root:
            return climbed[-1]
        climbed.pop()
    return [ancestor for ancestor in climbed if len(ancestor.rows) <= limit][-1]


def chosen_clusters(clusters: list[Cluster], parameters: EffectiveParameters) -> list[Cluster]:
    """Select clusters as hdbscan 0.8.44 does, but none of more than `max_cluster_size` rows."""
    root, epsilon = clusters[0], parameters.cluster_selection_epsilon
    is_eom = parameters.cluster_selection_method == "eom"
    limit = parameters.max_cluster_size if is_eom and parameters.max_cluster_size else inf
    heights = [height for cluster in clusters for height in cluster.left.values()]
    root_size = sum(height <= (epsilon or root.densest()) for height in heights)
    allow_root = parameters.allow_single_cluster and root_size <= limit
    if parameters.cluster_selection_method == "leaf":
        chosen = [cluster for cluster in clusters[1:] if not cluster.children]
    else:
        chosen = excess_of_mass(root, allow_root, limit)
    if epsilon == 0 or chosen == [root]:
        return chosen
    return list(dict.fromkeys(raised_to_epsilon(cluster, epsilon, allow_root, limit) for cluster in chosen))


def threshold_clusters(merges: Merge, parameters: EffectiveParameters) -> FlatClusters:
    """Flat clusters by the definition; numbered by their smallest row.

    Parameters
    ----------
    merges : Merge
        From `threshold_merges`, on weights that are at least the `distance_floor` of `parameters`.
    """
    n = len(merges.rows)
    labels, probabilities = np.full(n, OUTLIER), np.zeros(n)
    if parameters.min_cluster_size > n or n < 2:
        return FlatClusters(labels, probabilities, np.zeros(0))
    clusters = condensed_clusters(merges, parameters.min_cluster_size)
    height = {row: left for cluster in clusters for row, left in cluster.left.items()}
    chosen = chosen_clusters(clusters, parameters)
    epsilon, root = parameters.cluster_selection_epsilon, clusters[0]
    finest = max(epsilon, parameters.distance_floor)

    members: dict[Cluster, list[int]] = {}
    rows_of = {cluster: set(cluster.rows.tolist()) for cluster in chosen}
    for row in range(n):
        around = [cluster for cluster in chosen if row in rows_of[cluster]]
        if not around:
            continue
        owner = min(around, key=lambda cluster: len(cluster.rows))
        if owner is root and (len(chosen) > 1 or height[row] > (epsilon or root.densest())):
            continue
        members.setdefault(owner, []).append(row)

    persistence = []
    for label, (cluster, rows) in enumerate(members.items()):
        labels[rows] = label
        top = 1 / max(cluster.densest(), finest)
        probabilities[rows] = [min(1 / max(height[row], finest), top) / top for row in rows]
        mean = fsum(1 - (1 / cluster.birth) / (1 / height[row]) for row in rows) / len(rows)
        persistence.append(nan if cluster is root else mean)
    return FlatClusters(labels, probabilities, np.array(persistence), root_selected=root in chosen)


def cluster_rows(vectors: np.ndarray, parameters: EffectiveParameters) -> FlatClusters:
    """Cluster unit rows by the definition, from the full distance matrix."""
    reachability = mutual_reachability(
        chord_distances(vectors), parameters.min_samples, parameters.distance_floor
    )
    return threshold_clusters(threshold_merges(reachability), parameters)


def medoids(vectors: np.ndarray, labels: IntArray, weights: FloatArray) -> dict[int, int]:
    """Member with the least weighted sum of cosine distances to all members of its cluster.

    Rows within 1e-9 of the least sum (relative to the weights' sum) are tied, and the first one is taken.
    """
    chosen = {}
    for label in np.unique(labels[labels != OUTLIER]):
        rows = np.flatnonzero(labels == label)
        members = np.asarray(vectors[rows], dtype=np.float64)
        cosine_distances = 1 - members @ members.T / np.linalg.norm(members, axis=1)[:, None]
        sums = cosine_distances @ weights[rows]
        tied = sums <= sums.min() + 1e-9 * weights[rows].sum()
        chosen[int(label)] = int(rows[tied][0])
    return chosen
