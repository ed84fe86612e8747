"""From a minimum spanning tree to flat clusters: single linkage, condensed tree, selection, labels.

Every step is a loop over arrays (no recursion), so a chain of a million merges is as good as a balanced
tree. Merges at one height are one multiway merge, which makes the outcome a function of the distances
alone: which of several equally light spanning trees the edges came from, and in which order, is no matter.

Distances are called heights here; the literature's λ is 1/height. A component of the graph below some
height is a cluster while it has at least `min_cluster_size` rows.

References
----------
Campello, Moulavi, Sander: Density-Based Clustering Based on Hierarchical Density Estimates. PAKDD 2013.
https://doi.org/10.1007/978-3-642-37456-2_14
Malzer, Baum: A Hybrid Approach To Hierarchical Density-based Cluster Selection. MFI 2020.
https://doi.org/10.1109/MFI49285.2020.9235263
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from panic_tda.clustering.compiled import compiled
from panic_tda.clustering.trees import find
from panic_tda.errors import OUTLIER, PanicTdaError
from panic_tda.types import FlatClusters, SpanningTree

if TYPE_CHECKING:
    from panic_tda.parameters import EffectiveParameters
    from panic_tda.types import BoolArray, FloatArray, IntArray

ROOT = 0
"""Number of the condensed tree's root, which holds all rows."""

TIE_SPAN = 10
"""Merges of one multiway merge lie at most this many tolerances below its uppermost.

Ties are few numbers measured twice. Where rows are many, distances are dense: among 3 million heights within
8 % of each other, most follow the next by less than 1e-6, and without a limit a tree with that tolerance lost
1 % of its range to one merge of 115,000.
"""

STABILITY_TOLERANCE = 1e-9
"""Children replace their parent when their stability is larger by more than this share of it.

Sums of the same numbers in another order differ in their last digits; those must not choose clusters.
"""


def extract(tree: SpanningTree, parameters: EffectiveParameters) -> FlatClusters:
    """Choose clusters from the hierarchy of a minimum spanning tree.

    Parameters
    ----------
    tree : SpanningTree
        n - 1 edges over all n rows, copies of rows included.
    parameters : EffectiveParameters
        Everything but `min_samples` is used; `distance_floor` must be positive.

    Returns
    -------
    FlatClusters
        Clusters numbered in no order that means anything. A chosen cluster that ends up without rows has
        no number.

    Raises
    ------
    PanicTdaError
        The edges do not form a spanning tree, or have heights that are not finite.

    Notes
    -----
    Selection follows hdbscan 0.8.44, of which three rules surprise: with `allow_single_cluster`, rows of a
    chosen root are still outliers unless they lie within epsilon (or, without epsilon, at the root's
    densest level); "leaf" finds nothing where the root never splits; and a cluster born exactly at epsilon
    stays when it is chosen, yet is passed over by descendants that climb. Other than there, ties have no
    order, epsilon is compared with heights (not 1/λ with 1/epsilon), and densities count up to
    1 / max(epsilon, distance_floor) in a probability.

    Persistence is the mean over members of 1 - height/birth: 1 for the root, which was never born, and
    unlike a stability not dominated by the few densest rows.

    Time is that of sorting the edges; memory about 150 bytes a row.
    """
    n = len(tree.height) + 1
    if n < max(2, parameters.min_cluster_size):
        return FlatClusters(np.full(n, OUTLIER, dtype=np.int64), np.zeros(n), np.zeros(0))
    linkage = _single_linkage(tree, parameters.distance_floor)
    condensed = _condense(linkage, parameters.min_cluster_size, tree.tie_tolerance)
    return _flatten(condensed, _select(condensed, parameters), parameters)


# Named tuples, not dataclasses: compiled functions take them as they are.
class _Linkage(NamedTuple):
    """Single linkage tree. Nodes 0 to n - 1 are rows, n to 2n - 2 are merges in ascending height.

    Attributes
    ----------
    parent : (2n - 1,) int64
        Merge that takes the node in; always a larger number. The last node has none.
    size : (2n - 1,) int64
        Rows below the node.
    height : (n - 1,) float64
        Height of merge n + i at i, ascending.
    """

    parent: IntArray
    size: IntArray
    height: FloatArray


class _Condensed(NamedTuple):
    """Condensed tree: the clusters, and where every row left them. Parents have smaller numbers.

    Attributes
    ----------
    parent : (m,) int64
        Cluster from which each cluster split off; the root's is itself.
    birth : (m,) float64
        Height of that split; infinite for the root.
    size : (m,) int64
        Rows at birth.
    row_cluster : (n,) int64
        Last (deepest) cluster of each row.
    row_height : (n,) float64
        Height at which the row fell out of it.
    """

    parent: IntArray
    birth: FloatArray
    size: IntArray
    row_cluster: IntArray
    row_height: FloatArray


def _single_linkage(tree: SpanningTree, distance_floor: float) -> _Linkage:
    heights = np.maximum(np.asarray(tree.height, dtype=np.float64), distance_floor)
    u, v = (np.asarray(ends, dtype=np.int64) for ends in (tree.u, tree.v))
    n = len(heights) + 1
    # Compiled loops check no bounds: a wrong row would be a wrong address.
    broken = (np.minimum(u, v) < 0) | (np.maximum(u, v) >= n) | ~np.isfinite(heights)
    if broken.any():
        raise _not_a_tree(tree, int(np.argmax(broken)), f"lies outside the {n} rows or has no finite height")
    order = np.argsort(heights, kind="stable")
    parent, size, n_merged = _merge_rows(u[order], v[order])
    if n_merged < len(order):
        raise _not_a_tree(tree, int(order[n_merged]), "closes a cycle")
    return _Linkage(parent, size, heights[order])


def _not_a_tree(tree: SpanningTree, edge: int, fault: str) -> PanicTdaError:
    return PanicTdaError(
        f"the backend owes a spanning tree, but its edge {edge}, ({tree.u[edge]}, {tree.v[edge]}) at height "
        f"{tree.height[edge]:g}, {fault}; this is a fault of the backend, try another one"
    )


@compiled
def _merge_rows(u: IntArray, v: IntArray) -> tuple[IntArray, IntArray, int]:
    """Join rows along edges of ascending height; stops early at an edge within one component."""
    n = len(u) + 1
    parent = np.full(2 * n - 1, -1, dtype=np.int64)
    size = np.ones(2 * n - 1, dtype=np.int64)
    # Disjoint sets over the nodes, apart from `parent` because finding shortens the paths.
    leader = np.arange(2 * n - 1)
    for edge in range(n - 1):
        merge = n + edge
        left, right = find(leader, u[edge]), find(leader, v[edge])
        if left == right:
            return parent, size, edge
        parent[left] = parent[right] = leader[left] = leader[right] = merge
        size[merge] = size[left] + size[right]
    return parent, size, n - 1


def _condense(linkage: _Linkage, min_cluster_size: int, tie_tolerance: float) -> _Condensed:
    """Find the clusters, and where every row leaves them.

    Both loops go down: a parent has a larger number than its children, so what is asked of it, its uppermost
    merge or its cluster, is known before they come. Six rows, `min_cluster_size` 2::

        4          10       cluster 0 splits
               ┌───┴───┐
        2      │       9    cluster 1 goes on with merge 8, and row 5 falls out
               │     ┌─┴─┐
        1     6,7    8   │  merge 6 is a part of 7, cluster 2; rows 0 to 4 fall out
             ┌─┼─┐  ┌┴┐  │
        0    0 1 2  3 4  5

    >>> u, v, height = np.array([[0, 1, 3, 4, 2], [1, 2, 4, 5, 3], [1, 1, 1, 2, 4]])
    >>> linkage = _single_linkage(SpanningTree(u, v, height), distance_floor=0.1)
    >>> linkage.parent.tolist()
    [6, 6, 7, 8, 8, 9, 7, 10, 9, 10, -1]
    >>> top, n_large = _contract(linkage, 2, 1e-9)
    >>> top[6:].tolist(), n_large[6:].tolist()
    ([7, 7, 8, 9, 10], [0, 0, 0, 1, 2])
    >>> clusters = _condense(linkage, 2, 1e-9)
    >>> clusters.birth.tolist(), clusters.row_cluster.tolist(), clusters.row_height.tolist()
    ([inf, 4.0, 4.0], [2, 2, 2, 1, 1, 1], [1.0, 1.0, 1.0, 1.0, 1.0, 2.0])
    """
    top, n_large = _contract(linkage, min_cluster_size, tie_tolerance)
    n_clusters = 1 + int(n_large[n_large >= 2].sum())
    return _follow_clusters(linkage, min_cluster_size, top, n_large, n_clusters)


@compiled
def _contract(linkage: _Linkage, min_cluster_size: int, tolerance: float) -> tuple[IntArray, IntArray]:
    """Make one multiway merge of merges that follow each other at one height.

    Returns
    -------
    top : (2n - 1,) int64
        Uppermost merge of the node's multiway merge, whose height holds for all of it; rows are their own.
    n_large : (2n - 1,) int64
        At every `top`, how many of its children have at least `min_cluster_size` rows.
    """
    parent, size, height = linkage.parent, linkage.size, linkage.height
    n_nodes, n = len(parent), len(height) + 1
    top = np.arange(n_nodes)
    n_large = np.zeros(n_nodes, dtype=np.int64)
    for node in range(n_nodes - 2, -1, -1):
        above = parent[node]
        uppermost = height[top[above] - n]
        if (
            node >= n
            and height[above - n] - height[node - n] <= tolerance * height[above - n]
            and uppermost - height[node - n] <= TIE_SPAN * tolerance * uppermost
        ):
            top[node] = top[above]
        elif size[node] >= min_cluster_size:
            n_large[top[above]] += 1
    return top, n_large


@compiled
def _follow_clusters(
    linkage: _Linkage, min_cluster_size: int, top: IntArray, n_large: IntArray, n_clusters: int
) -> _Condensed:
    """Follow the clusters down from the root: split at two or more large children, else lose the small."""
    height = linkage.height
    n_nodes, n = len(linkage.parent), len(height) + 1
    parent = np.zeros(n_clusters, dtype=np.int64)
    birth = np.full(n_clusters, np.inf)
    size = np.full(n_clusters, n)
    cluster = np.zeros(n_nodes, dtype=np.int64)
    fell_at = np.zeros(n_nodes)  # 0: still inside its cluster
    found = 1
    for node in range(n_nodes - 2, -1, -1):
        if top[node] != node:
            continue
        above = top[linkage.parent[node]]
        cluster[node] = cluster[above]
        if fell_at[above] > 0.0:
            fell_at[node] = fell_at[above]
        elif linkage.size[node] < min_cluster_size:
            fell_at[node] = height[above - n]
        elif n_large[above] >= 2:
            parent[found], birth[found] = cluster[above], height[above - n]
            size[found] = linkage.size[node]
            cluster[node] = found
            found += 1
    return _Condensed(parent, birth, size, cluster[:n].copy(), fell_at[:n].copy())


def _select(condensed: _Condensed, parameters: EffectiveParameters) -> BoolArray:
    """Mark the chosen clusters, (m,) bool."""
    epsilon, allow_root = parameters.cluster_selection_epsilon, parameters.allow_single_cluster
    if parameters.cluster_selection_method == "leaf":
        chosen = np.ones(len(condensed.parent), dtype=np.bool_)
        chosen[condensed.parent] = False
    else:
        n = len(condensed.row_cluster)
        # Compiled code takes 64 bits; a limit above n is none.
        largest = min(parameters.max_cluster_size or n, n)
        chosen = _excess_of_mass(condensed, largest, allow_root)
    if epsilon > 0 and not chosen[ROOT]:
        chosen = _climb_to_epsilon(condensed, chosen, epsilon, allow_root)
    return chosen


@compiled
def _excess_of_mass(condensed: _Condensed, max_cluster_size: int, allow_root: bool) -> BoolArray:
    """Choose the clusters of largest total stability, none inside another."""
    parent = condensed.parent
    stability = _stabilities(condensed)
    size = condensed.size.copy()
    # The limit sees the root as the sum of its child clusters, without the rows that fell out before.
    size[ROOT] = condensed.size[1:][parent[1:] == ROOT].sum()
    chosen = np.zeros(len(parent), dtype=np.bool_)
    total, carry = np.zeros(len(parent)), np.zeros(len(parent))
    for cluster in range(len(parent) - 1, -1, -1):
        own, below = stability[cluster], total[cluster] + carry[cluster]
        chosen[cluster] = below - own <= STABILITY_TOLERANCE * own and size[cluster] <= max_cluster_size
        if cluster != ROOT:
            _add(total, carry, parent[cluster], own if chosen[cluster] else below)
    chosen[ROOT] = chosen[ROOT] and allow_root
    covered = chosen.copy()
    for cluster in range(1, len(parent)):
        if covered[parent[cluster]]:
            covered[cluster] = True
            chosen[cluster] = False
    return chosen


@compiled
def _stabilities(condensed: _Condensed) -> FloatArray:
    """Sum of λ - λ_birth over the rows of each cluster, while they are in it."""
    parent, birth = condensed.parent, condensed.birth
    total, carry = np.zeros(len(parent)), np.zeros(len(parent))
    for row in range(len(condensed.row_cluster)):
        cluster = condensed.row_cluster[row]
        _add(total, carry, cluster, 1.0 / condensed.row_height[row] - 1.0 / birth[cluster])
    for cluster in range(1, len(parent)):
        above = parent[cluster]
        _add(total, carry, above, condensed.size[cluster] * (1.0 / birth[cluster] - 1.0 / birth[above]))
    return total + carry


@compiled
def _add(total: FloatArray, carry: FloatArray, index: int, value: float) -> None:
    """Add `value` and keep what rounding drops (Neumaier), so that the order of the rows is no matter."""
    old = total[index]
    new = old + value
    if abs(old) >= abs(value):
        carry[index] += (old - new) + value
    else:
        carry[index] += (value - new) + old
    total[index] = new


@compiled
def _climb_to_epsilon(
    condensed: _Condensed, chosen: BoolArray, epsilon: float, allow_root: bool
) -> BoolArray:
    """Replace chosen clusters born below epsilon by their first ancestor born above it."""
    parent, birth = condensed.parent, condensed.birth
    raised = np.zeros(len(parent), dtype=np.bool_)
    # Where a climb through each cluster ends; parents come first, so one look up is enough.
    goal = np.zeros(len(parent), dtype=np.int64)
    for cluster in range(1, len(parent)):
        above = parent[cluster]
        if above == ROOT:
            goal[cluster] = ROOT if allow_root else cluster
        else:
            goal[cluster] = above if birth[above] > epsilon else goal[above]
        if chosen[cluster]:
            raised[goal[cluster] if birth[cluster] < epsilon else cluster] = True
    return raised


def _flatten(condensed: _Condensed, chosen: BoolArray, parameters: EffectiveParameters) -> FlatClusters:
    """Turn chosen clusters into labels, probabilities and persistence."""
    epsilon = parameters.cluster_selection_epsilon
    densest = _densest_levels(condensed)
    owner = _nearest_chosen(condensed.parent, chosen)[condensed.row_cluster]
    if chosen[ROOT]:
        # Beside other clusters, the root's own rows are outliers; it is chosen there only when epsilon is
        # exactly the height of its split.
        limit = (epsilon or densest[ROOT]) if np.count_nonzero(chosen) == 1 else 0.0
        owner[(owner == ROOT) & (condensed.row_height > limit)] = OUTLIER
    members = np.flatnonzero(owner != OUTLIER)
    numbers, of_member = np.unique(owner[members], return_inverse=True)

    labels = np.full(len(owner), OUTLIER, dtype=np.int64)
    labels[members] = of_member
    heights = condensed.row_height[members]
    # Nothing is distinguished below epsilon, and copies (at the floor) do not fade their surroundings.
    finest = max(epsilon, parameters.distance_floor)
    strengths = np.maximum(densest[numbers], finest)[of_member] / np.maximum(heights, finest)
    probabilities = np.zeros(len(owner))
    probabilities[members] = np.minimum(strengths, 1.0)
    share_of_life = 1.0 - heights / condensed.birth[numbers][of_member]
    persistence = np.bincount(of_member, share_of_life) / np.bincount(of_member)
    return FlatClusters(labels, probabilities, persistence)


@compiled
def _nearest_chosen(parent: IntArray, chosen: BoolArray) -> IntArray:
    """Innermost chosen cluster around each cluster, itself included, or `OUTLIER`."""
    nearest = np.full(len(parent), OUTLIER, dtype=np.int64)
    for cluster in range(len(parent)):
        if chosen[cluster]:
            nearest[cluster] = cluster
        elif cluster != ROOT:
            nearest[cluster] = nearest[parent[cluster]]
    return nearest


@compiled
def _densest_levels(condensed: _Condensed) -> FloatArray:
    """Lowest height at which rows or child clusters leave each cluster."""
    densest = np.full(len(condensed.parent), np.inf)
    for row in range(len(condensed.row_cluster)):
        cluster = condensed.row_cluster[row]
        densest[cluster] = min(densest[cluster], condensed.row_height[row])
    for cluster in range(1, len(condensed.parent)):
        above = condensed.parent[cluster]
        densest[above] = min(densest[above], condensed.birth[cluster])
    return densest
