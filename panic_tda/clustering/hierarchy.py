"""From a minimum spanning tree to flat clusters: condensed tree (see `condensed`), selection, labels.

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

from typing import TYPE_CHECKING

import numpy as np

from panic_tda.clustering.compiled import compiled
from panic_tda.clustering.condensed import ROOT, Condensed, condense, single_linkage
from panic_tda.errors import OUTLIER
from panic_tda.types import FlatClusters, SpanningTree

if TYPE_CHECKING:
    from panic_tda.parameters import EffectiveParameters
    from panic_tda.types import BoolArray, FloatArray, IntArray

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
    Selection follows hdbscan 0.8.44, but for `max_cluster_size`: here no cluster has more rows than that.
    The climb to epsilon ends at the uppermost ancestor that is small enough, where hdbscan merges without a
    limit; and the root counts with the rows that it would label (those within epsilon, or without epsilon at
    its densest level), where hdbscan adds up the sizes of its children: 0 for a root without a split. The
    method "leaf" has no such limit.

    Three rules of hdbscan surprise: with `allow_single_cluster`, rows of a
    chosen root are still outliers unless they lie within epsilon (or, without epsilon, at the root's
    densest level); "leaf" finds nothing where the root never splits; and a cluster born exactly at epsilon
    stays when it is chosen, yet is passed over by descendants that climb. Other than there, ties have no
    order, epsilon is compared with heights (not 1/λ with 1/epsilon), and densities count up to
    1 / max(epsilon, distance_floor) in a probability.

    Persistence is the mean over members of 1 - height/birth, unlike a stability not dominated by the few
    densest rows; it is NaN for the root, which was never born.

    Time is that of sorting the edges; memory about 150 bytes a row.
    """
    n = len(tree.height) + 1
    if n < max(2, parameters.min_cluster_size):
        return FlatClusters(np.full(n, OUTLIER, dtype=np.int64), np.zeros(n), np.zeros(0))
    linkage = single_linkage(tree, parameters.distance_floor)
    return flatten(condense(linkage, parameters.min_cluster_size, tree.tie_tolerance), parameters)


def flatten(condensed: Condensed, parameters: EffectiveParameters) -> FlatClusters:
    """Choose clusters from a condensed tree; its `min_cluster_size` must be that of the parameters."""
    return _label(condensed, select(condensed, parameters), parameters)


def select(condensed: Condensed, parameters: EffectiveParameters) -> BoolArray:
    """Mark the chosen clusters, (m,) bool."""
    epsilon, allow_root = parameters.cluster_selection_epsilon, parameters.allow_single_cluster
    n = largest = len(condensed.row_cluster)
    if parameters.cluster_selection_method == "leaf":
        chosen = np.ones(len(condensed.parent), dtype=np.bool_)
        chosen[condensed.parent] = False
    else:
        # Compiled code takes 64 bits; a limit above n is none.
        largest = min(parameters.max_cluster_size or n, n)
        if allow_root and largest < n:
            limit = _root_limit(condensed, epsilon)
            allow_root = bool(np.count_nonzero(condensed.row_height <= limit) <= largest)
        chosen = _excess_of_mass(condensed, largest, allow_root)
    if epsilon > 0 and not chosen[ROOT]:
        chosen = _climb_to_epsilon(condensed, chosen, epsilon, largest, allow_root)
    return chosen


@compiled
def _excess_of_mass(condensed: Condensed, max_cluster_size: int, allow_root: bool) -> BoolArray:
    """Choose the clusters of largest total stability, none inside another or above the largest size."""
    parent, size = condensed.parent, condensed.size
    stability = _stabilities(condensed)
    chosen = np.zeros(len(parent), dtype=np.bool_)
    total, carry = np.zeros(len(parent)), np.zeros(len(parent))
    for cluster in range(len(parent) - 1, -1, -1):
        own, below = stability[cluster], total[cluster] + carry[cluster]
        is_small = size[cluster] <= max_cluster_size or cluster == ROOT
        chosen[cluster] = is_small and below - own <= STABILITY_TOLERANCE * own
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
def _stabilities(condensed: Condensed) -> FloatArray:
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
    condensed: Condensed, chosen: BoolArray, epsilon: float, max_cluster_size: int, allow_root: bool
) -> BoolArray:
    """Replace chosen clusters born below epsilon by their first ancestor born above it.

    Where that one has more than `max_cluster_size` rows, the uppermost below it that has not takes its place.
    """
    parent, birth = condensed.parent, condensed.birth
    raised = np.zeros(len(parent), dtype=np.bool_)
    # Where a climb through each cluster ends; parents come first, so one look up is enough.
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


def _label(condensed: Condensed, chosen: BoolArray, parameters: EffectiveParameters) -> FlatClusters:
    """Turn chosen clusters into labels, probabilities and persistence."""
    epsilon = parameters.cluster_selection_epsilon
    densest = densest_levels(condensed)
    owner = nearest_chosen(condensed.parent, chosen)[condensed.row_cluster]
    if chosen[ROOT]:
        # Beside other clusters, the root's own rows are outliers; it is chosen there only when epsilon is
        # exactly the height of its split.
        limit = _root_limit(condensed, epsilon) if np.count_nonzero(chosen) == 1 else 0.0
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
    persistence[numbers == ROOT] = np.nan
    return FlatClusters(labels, probabilities, persistence, root_selected=bool(chosen[ROOT]))


def _root_limit(condensed: Condensed, epsilon: float) -> float:
    """Return the height up to which rows belong to the root when it is the only cluster."""
    return epsilon or float(densest_levels(condensed)[ROOT])


@compiled
def nearest_chosen(parent: IntArray, chosen: BoolArray) -> IntArray:
    """Innermost chosen cluster around each cluster, itself included, or `OUTLIER`."""
    nearest = np.full(len(parent), OUTLIER, dtype=np.int64)
    for cluster in range(len(parent)):
        if chosen[cluster]:
            nearest[cluster] = cluster
        elif cluster != ROOT:
            nearest[cluster] = nearest[parent[cluster]]
    return nearest


@compiled
def densest_levels(condensed: Condensed) -> FloatArray:
    """Lowest height at which rows or child clusters leave each cluster."""
    densest = np.full(len(condensed.parent), np.inf)
    for row in range(len(condensed.row_cluster)):
        cluster = condensed.row_cluster[row]
        densest[cluster] = min(densest[cluster], condensed.row_height[row])
    for cluster in range(1, len(condensed.parent)):
        above = condensed.parent[cluster]
        densest[above] = min(densest[above], condensed.birth[cluster])
    return densest
