"""Flat clusters from a minimum spanning tree: condensed tree (see `condensed`), selection, labels.

Every step is a loop over arrays, without recursion, so that a chain of a million merges is no problem.
Merges at one height are one multiway merge. The result therefore depends on the distances alone, not on
the choice among several minimum spanning trees, nor on the order of the edges.

Distances are called heights here; the literature's λ is 1/height. A component of the graph of all edges up
to a height is a cluster if it has at least `min_cluster_size` rows.

References
----------
Campello, Moulavi, Sander: Density-Based Clustering Based on Hierarchical Density Estimates. PAKDD 2013.
https://doi.org/10.1007/978-3-642-37456-2_14
Malzer, Baum: A Hybrid Approach To Hierarchical Density-based Cluster Selection. MFI 2020.
https://doi.org/10.1109/MFI49285.2020.9235263
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from panic_tda.clustering.compiled import compiled
from panic_tda.clustering.condensed import ROOT, CondensedTree, build_single_linkage, condense_tree
from panic_tda.records import EffectiveParameters
from panic_tda.types import OUTLIER, BoolArray, FloatArray, IntArray, SpanningTree

STABILITY_TOLERANCE = 1e-9
"""Children replace their parent if their stability exceeds the parent's by more than this share of it.

Sums of the same numbers in another order differ in their last digits, which must not decide.
"""


@dataclass(frozen=True)
class FlatClusters:
    """Labels, probabilities and persistence of clusters, before these get their final numbers.

    Attributes
    ----------
    labels : (n,) int64
        Cluster of each row, 0 to n_clusters - 1, or `OUTLIER`.
    probabilities : (n,) float64
        Membership strength in 0 to 1; 0 for outliers.
    persistence : (n_clusters,) float64
        Mean share of the cluster's life that a member spends in it, 0 to 1; NaN for the root cluster.
    root_selected : bool
        Whether the root cluster, which contains all rows, was selected.
    """

    labels: IntArray
    probabilities: FloatArray
    persistence: FloatArray
    root_selected: bool = False

    @classmethod
    def without_clusters(cls, n: int) -> Self:
        """Return the result of `n` rows that are all outliers."""
        return cls(np.full(n, OUTLIER, dtype=np.int64), np.zeros(n), np.zeros(0))


def extract_clusters(tree: SpanningTree, parameters: EffectiveParameters) -> FlatClusters:
    """Choose clusters from the hierarchy of a minimum spanning tree.

    Parameters
    ----------
    tree : SpanningTree
        n - 1 edges over all n rows, copies of rows included.
    parameters : EffectiveParameters
        All but `min_samples` are used; `distance_floor` must be positive.

    Returns
    -------
    FlatClusters
        Clusters, numbered in no meaningful order. A chosen cluster without rows of its own has no number.

    Raises
    ------
    PanicTdaError
        The edges do not form a spanning tree, or have heights that are not finite.

    Notes
    -----
    Selection follows hdbscan 0.8.44, except for `max_cluster_size`: here no cluster has more rows than that.
    The merging up to epsilon stops at the uppermost ancestor that is small enough; hdbscan merges without a
    limit. The size of the root is the number of rows that it would label (those within epsilon, or without
    epsilon those at its densest level); hdbscan takes the sum of its children's sizes, which is 0 for a root
    without a split. The method "leaf" ignores `max_cluster_size`.

    Three rules of hdbscan may surprise. With `allow_single_cluster`, rows of a chosen root are outliers
    unless they lie within epsilon (or, without epsilon, at the root's densest level). The method "leaf" finds
    nothing if the root never splits. A cluster born exactly at epsilon stays if it is chosen, but descendants
    that are merged up to epsilon skip it.

    Unlike in hdbscan, ties have no order, epsilon is compared with heights (not 1/λ with 1/epsilon), and
    densities above 1 / max(epsilon, distance_floor) count as this value in a probability.

    Persistence is the mean over members of 1 - height/birth. Unlike a stability, it is not dominated by the
    few densest rows. It is NaN for the root, which has no birth.

    Takes the time of sorting the edges and about 150 bytes of memory per row.
    """
    n = len(tree.height) + 1
    if n < max(2, parameters.min_cluster_size):
        return FlatClusters.without_clusters(n)
    linkage = build_single_linkage(tree, parameters.distance_floor)
    return choose_clusters(
        condense_tree(linkage, parameters.min_cluster_size, tree.tie_tolerance), parameters
    )


def relabel_by_size(flat: FlatClusters) -> FlatClusters:
    """Number clusters by size, the largest first; of equally large ones, that with the smallest row first."""
    n_clusters = len(flat.persistence)
    members = np.flatnonzero(flat.labels != OUTLIER)
    sizes = np.bincount(flat.labels[members], minlength=n_clusters)
    smallest = np.full(n_clusters, len(flat.labels))
    np.minimum.at(smallest, flat.labels[members], members)
    order = np.lexsort((smallest, -sizes))
    number = np.empty(n_clusters, dtype=np.int64)
    number[order] = np.arange(n_clusters)
    labels = np.full(len(flat.labels), OUTLIER, dtype=np.int64)
    labels[members] = number[flat.labels[members]]
    return replace(flat, labels=labels, persistence=flat.persistence[order])


def choose_clusters(condensed: CondensedTree, parameters: EffectiveParameters) -> FlatClusters:
    """Choose clusters from a condensed tree; its `min_cluster_size` must be that of the parameters."""
    return _label_rows(condensed, mark_chosen(condensed, parameters), parameters)


def mark_chosen(condensed: CondensedTree, parameters: EffectiveParameters) -> BoolArray:
    """Mark the chosen clusters, (m,) bool."""
    epsilon, allow_root = parameters.cluster_selection_epsilon, parameters.allow_single_cluster
    n = largest = len(condensed.row_cluster)
    if parameters.cluster_selection_method == "leaf":
        chosen = np.ones(len(condensed.parent), dtype=np.bool_)
        chosen[condensed.parent] = False
    else:
        # Compiled code takes 64-bit integers; a limit above n has no effect.
        largest = min(parameters.max_cluster_size or n, n)
        if allow_root and largest < n:
            limit = _get_root_limit(condensed, epsilon)
            allow_root = bool(np.count_nonzero(condensed.row_height <= limit) <= largest)
        chosen = _choose_by_stability(condensed, largest, allow_root)
    if epsilon > 0 and not chosen[ROOT]:
        chosen = _climb_to_epsilon(condensed, chosen, epsilon, largest, allow_root)
    return chosen


@compiled
def _choose_by_stability(condensed: CondensedTree, max_cluster_size: int, allow_root: bool) -> BoolArray:
    """Choose disjoint clusters with the largest total stability (excess of mass), none above the limit."""
    parent, size = condensed.parent, condensed.size
    stability = sum_stabilities(condensed)
    chosen = np.zeros(len(parent), dtype=np.bool_)
    total, carry = np.zeros(len(parent)), np.zeros(len(parent))
    for cluster in range(len(parent) - 1, -1, -1):
        own, below = stability[cluster], total[cluster] + carry[cluster]
        is_small = size[cluster] <= max_cluster_size or cluster == ROOT
        chosen[cluster] = is_small and below - own <= STABILITY_TOLERANCE * own
        if cluster != ROOT:
            add_compensated(total, carry, parent[cluster], own if chosen[cluster] else below)
    chosen[ROOT] = chosen[ROOT] and allow_root
    covered = chosen.copy()
    for cluster in range(1, len(parent)):
        if covered[parent[cluster]]:
            covered[cluster] = True
            chosen[cluster] = False
    return chosen


@compiled
def sum_stabilities(condensed: CondensedTree) -> FloatArray:
    """Return the stability of each cluster: the sum of λ - λ_birth over its rows, λ where a row leaves it."""
    parent, birth = condensed.parent, condensed.birth
    total, carry = np.zeros(len(parent)), np.zeros(len(parent))
    for row in range(len(condensed.row_cluster)):
        cluster = condensed.row_cluster[row]
        add_compensated(total, carry, cluster, 1.0 / condensed.row_height[row] - 1.0 / birth[cluster])
    for cluster in range(1, len(parent)):
        above = parent[cluster]
        add_compensated(
            total, carry, above, condensed.size[cluster] * (1.0 / birth[cluster] - 1.0 / birth[above])
        )
    return total + carry


@compiled
def add_compensated(total: FloatArray, carry: FloatArray, index: int, value: float) -> None:
    """Add a value by compensated summation (Neumaier), so that the order of the rows does not matter."""
    old = total[index]
    new = old + value
    if abs(old) >= abs(value):
        carry[index] += (old - new) + value
    else:
        carry[index] += (value - new) + old
    total[index] = new


@compiled
def _climb_to_epsilon(
    condensed: CondensedTree, chosen: BoolArray, epsilon: float, max_cluster_size: int, allow_root: bool
) -> BoolArray:
    """Replace chosen clusters born below epsilon by their first ancestor born above it.

    If that ancestor has more than `max_cluster_size` rows, the uppermost smaller cluster below it is taken.
    """
    parent, birth = condensed.parent, condensed.birth
    raised = np.zeros(len(parent), dtype=np.bool_)
    # The ancestor that replaces each cluster. Parents come first, so their own goals are known.
    goal = np.zeros(len(parent), dtype=np.int64)
    for cluster in range(1, len(parent)):
        above = parent[cluster]
        if above == ROOT:
            goal[cluster] = ROOT if allow_root else cluster
        elif birth[above] <= epsilon and goal[above] == ROOT:
            goal[cluster] = ROOT
        elif condensed.size[above] > max_cluster_size:
            goal[cluster] = cluster
        else:
            goal[cluster] = above if birth[above] > epsilon else goal[above]
        if chosen[cluster]:
            raised[goal[cluster] if birth[cluster] < epsilon else cluster] = True
    return raised


def _label_rows(condensed: CondensedTree, chosen: BoolArray, parameters: EffectiveParameters) -> FlatClusters:
    """Turn chosen clusters into labels, probabilities and persistence."""
    epsilon = parameters.cluster_selection_epsilon
    densest = densest_levels(condensed)
    owner = nearest_chosen(condensed.parent, chosen)[condensed.row_cluster]
    if chosen[ROOT]:
        # If other clusters are chosen too, the root's own rows are outliers. That happens only if epsilon is
        # exactly the height of the root's split.
        limit = _get_root_limit(condensed, epsilon) if np.count_nonzero(chosen) == 1 else 0.0
        owner[(owner == ROOT) & (condensed.row_height > limit)] = OUTLIER
    members = np.flatnonzero(owner != OUTLIER)
    numbers, of_member = np.unique(owner[members], return_inverse=True)

    labels = np.full(len(owner), OUTLIER, dtype=np.int64)
    labels[members] = of_member
    heights = condensed.row_height[members]
    # Heights below epsilon count as equal. Copies (at the floor) do not lower the probabilities around them.
    finest = max(epsilon, parameters.distance_floor)
    strengths = np.maximum(densest[numbers], finest)[of_member] / np.maximum(heights, finest)
    probabilities = np.zeros(len(owner))
    probabilities[members] = np.minimum(strengths, 1.0)
    share_of_life = 1.0 - heights / condensed.birth[numbers][of_member]
    persistence = np.bincount(of_member, share_of_life) / np.bincount(of_member)
    persistence[numbers == ROOT] = np.nan
    return FlatClusters(labels, probabilities, persistence, root_selected=bool(chosen[ROOT]))


def _get_root_limit(condensed: CondensedTree, epsilon: float) -> float:
    """Return the height up to which rows belong to the root when it is the only cluster."""
    return epsilon or float(densest_levels(condensed)[ROOT])


@compiled
def nearest_chosen(parent: IntArray, chosen: BoolArray) -> IntArray:
    """Return the innermost chosen cluster that contains each cluster (itself included), or `OUTLIER`."""
    nearest = np.full(len(parent), OUTLIER, dtype=np.int64)
    for cluster in range(len(parent)):
        if chosen[cluster]:
            nearest[cluster] = cluster
        elif cluster != ROOT:
            nearest[cluster] = nearest[parent[cluster]]
    return nearest


@compiled
def densest_levels(condensed: CondensedTree) -> FloatArray:
    """Return the lowest height at which rows or child clusters leave each cluster."""
    densest = np.full(len(condensed.parent), np.inf)
    for row in range(len(condensed.row_cluster)):
        cluster = condensed.row_cluster[row]
        densest[cluster] = min(densest[cluster], condensed.row_height[row])
    for cluster in range(1, len(condensed.parent)):
        above = condensed.parent[cluster]
        densest[above] = min(densest[above], condensed.birth[cluster])
    return densest
