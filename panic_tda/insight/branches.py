"""List the clusters of a condensed tree, with the heights of their splits and the selected ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from panic_tda.clustering.condensed import ROOT, build_single_linkage, condense_tree
from panic_tda.clustering.hierarchy import densest_levels, mark_chosen, nearest_chosen
from panic_tda.records import ClusteringRecord
from panic_tda.types import OUTLIER, FloatArray, IntArray, SpanningTree

MOST_BRANCHES = 3_000


@dataclass(frozen=True)
class Branches:
    """Clusters of a condensed tree; parents come before their children, and the root is the first.

    Attributes
    ----------
    parents : (b,) int64
        Position of the parent of each cluster; the root is its own parent.
    births, deaths : (b,) float64
        Heights (chords) at which each cluster split off, and at which it split or lost its last rows. The
        birth of the root is the largest height of the tree.
    sizes : (b,) int64
        Number of rows at birth.
    labels : (b,) int64
        Label of each cluster; `OUTLIER` if it was not selected.
    n_all : int
        Number of clusters in the whole tree.
    """

    parents: IntArray
    births: FloatArray
    deaths: FloatArray
    sizes: IntArray
    labels: IntArray
    n_all: int


def find_branches(
    tree: SpanningTree, stored: IntArray, record: ClusteringRecord, *, most: int = MOST_BRANCHES
) -> Branches | None:
    """Condense the tree of a stored clustering again, and find the stored clusters in it.

    Parameters
    ----------
    tree : SpanningTree
        Spanning tree of the n rows of the clustering.
    stored : (n,) int64
        Stored labels.
    record : ClusteringRecord
        Stored parameters.
    most : int
        If there are more clusters, this number of the largest is returned, besides the selected ones and all
        their ancestors.

    Returns
    -------
    Branches or None
        None if there are fewer rows than `min_cluster_size`.
    """
    n = len(stored)
    if n < max(2, record.min_cluster_size):
        return None
    linkage = build_single_linkage(tree, record.distance_floor)
    condensed = condense_tree(linkage, record.min_cluster_size, tree.tie_tolerance)
    chosen = mark_chosen(condensed, record)
    labels = np.full(len(chosen), OUTLIER, dtype=np.int64)
    owners = nearest_chosen(condensed.parent, chosen)[condensed.row_cluster]
    members = np.flatnonzero((owners != OUTLIER) & (stored != OUTLIER))
    labels[owners[members]] = stored[members]
    selected = _select_branches(condensed.parent, condensed.size, labels != OUTLIER, most)
    positions = np.cumsum(selected) - 1
    births = condensed.birth.copy()
    births[ROOT] = linkage.height[-1]
    return Branches(
        parents=positions[condensed.parent[selected]],
        births=births[selected],
        deaths=densest_or_split(condensed.parent, births, densest_levels(condensed))[selected],
        sizes=condensed.size[selected],
        labels=labels[selected],
        n_all=len(chosen),
    )


def densest_or_split(parents: IntArray, births: FloatArray, densest: FloatArray) -> FloatArray:
    """Return the height at which each cluster ends: that of its split, or its densest level."""
    deaths = densest.copy()
    children = np.arange(1, len(parents))
    deaths[parents[children]] = births[children]
    return deaths


def _select_branches(parents: IntArray, sizes: IntArray, chosen: IntArray, most: int) -> IntArray:
    selected = chosen.copy()
    selected[np.argsort(-sizes, kind="stable")[:most]] = True
    for cluster in range(len(parents) - 1, 0, -1):
        if selected[cluster]:
            selected[parents[cluster]] = True
    selected[ROOT] = True
    return np.asarray(selected)
