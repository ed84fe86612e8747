"""Clusters of many settings from one spanning tree, without a new fit.

All settings share the single linkage tree; those with the same `min_cluster_size` share the condensed tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from panic_tda.clustering.condensed import (
    CondensedTree,
    SingleLinkageTree,
    build_single_linkage,
    condense_tree,
)
from panic_tda.clustering.hierarchy import FlatClusters, choose_clusters
from panic_tda.records import EffectiveParameters
from panic_tda.types import OUTLIER, Int32Array, IntArray, SpanningTree

Outcome = TypeVar("Outcome")


class Cut(NamedTuple):
    """Numbers of clusters and outliers that a setting gives.

    Attributes
    ----------
    parameters : EffectiveParameters
        The setting.
    n_clusters, n_outliers, largest : int
        Number of clusters, of rows outside all clusters, and of rows in the largest cluster (0 without one).
    root_selected : bool
        Whether the root cluster was selected.
    """

    parameters: EffectiveParameters
    n_clusters: int
    n_outliers: int
    largest: int
    root_selected: bool


def cut_all(
    tree: SpanningTree,
    settings: Sequence[EffectiveParameters],
    evaluate: Callable[[EffectiveParameters, FlatClusters], Outcome],
    *,
    threads: int = 1,
) -> Iterator[Outcome]:
    """Cut a tree at every setting, and yield what `evaluate` returns for the clusters of each, in order.

    Parameters
    ----------
    tree : SpanningTree
        n - 1 edges over n rows.
    settings : sequence of EffectiveParameters
        All must have the distance floor of the first; `min_samples` belongs to the tree and is ignored.
    evaluate : callable
        Called in several threads with a setting and its clusters; its results stay in memory until the
        iterator yields them.
    threads : int
        Number of settings that are cut at the same time.

    Notes
    -----
    Takes 24 bytes per row for the single linkage tree, 16 for each `min_cluster_size`, and about 100 for each
    thread.
    """
    if not settings:
        return
    n = len(tree.height) + 1
    linkage = build_single_linkage(tree, settings[0].distance_floor)
    sizes = list(dict.fromkeys(setting.min_cluster_size for setting in settings))
    with ThreadPoolExecutor(max_workers=threads) as team:
        condensed = {size: team.submit(_condense, linkage, size, tree.tie_tolerance) for size in sizes}

        def cut(setting: EffectiveParameters) -> Outcome:
            # The condensed trees come first in the queue, so that this never waits for a later task.
            return evaluate(setting, _extract(condensed[setting.min_cluster_size].result(), setting, n))

        yield from team.map(cut, settings)


def largest_cluster_size(labels: IntArray | Int32Array) -> int:
    """Return the number of rows in the largest cluster, or 0 if there is no cluster."""
    members = labels[labels != OUTLIER]
    return int(np.bincount(members).max()) if len(members) else 0


def count_rows(setting: EffectiveParameters, flat: FlatClusters) -> Cut:
    """Count the clusters and outliers of a setting; for `cut_all`."""
    return Cut(
        parameters=setting,
        n_clusters=len(flat.persistence),
        n_outliers=int(np.count_nonzero(flat.labels == OUTLIER)),
        largest=largest_cluster_size(flat.labels),
        root_selected=flat.root_selected,
    )


def _condense(linkage: SingleLinkageTree, size: int, tolerance: float) -> CondensedTree | None:
    """Condense a tree, or return None if it has too few rows for a cluster."""
    n = len(linkage.height) + 1
    return None if n < max(2, size) else condense_tree(linkage, size, tolerance)


def _extract(condensed: CondensedTree | None, setting: EffectiveParameters, n: int) -> FlatClusters:
    if condensed is None:
        return FlatClusters.without_clusters(n)
    return choose_clusters(condensed, setting)
