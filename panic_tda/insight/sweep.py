"""Compare many cuts of one stored tree side by side; none of them is stored.

References
----------
.. [1] Moulavi, Jaskowiak, Campello, Zimek, Sander (2014). Density-based clustering validation. SDM 2014.
   https://doi.org/10.1137/1.9781611973440.96
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from panic_tda.clustering.cuts import Cut, count_rows, cut_all
from panic_tda.clustering.hierarchy import FlatClusters
from panic_tda.devices.machine import available_cores
from panic_tda.errors import InvalidParameter
from panic_tda.insight.agreement import adjusted_rand, contingency
from panic_tda.insight.recut import Changes
from panic_tda.progress import Progress, Silent
from panic_tda.records import EffectiveParameters
from panic_tda.storage.database import Database
from panic_tda.storage.read.clusterings import open_clustering
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.types import OUTLIER, FloatArray, Int32Array, IntArray, SpanningTree

CLIFF_ARI = 0.75
"""Neighbouring settings with a smaller adjusted Rand index have an abrupt change between them."""
MOST_SETTINGS = 1_000


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Settings of a sweep: all combinations of the values. None keeps the value of the clustering.

    Parameters
    ----------
    epsilons : sequence of float, optional
        Chord distances.
    min_samples : sequence of int, optional
        At most `keep_neighbours` of the clustering.
    min_cluster_sizes : sequence of (int or float), optional
        Counts, or shares of the rows in (0, 1).
    selection_methods : sequence of str, optional
        Members of `parameters.SELECTION_METHODS`.
    allow_single_cluster : bool, optional
        Whether the root cluster may be selected. None takes the value of the clustering, and also the
        opposite value at settings where it gives other clusters.
    """

    epsilons: Sequence[float] | None = None
    min_samples: Sequence[int] | None = None
    min_cluster_sizes: Sequence[int | float] | None = None
    selection_methods: Sequence[str] | None = None
    allow_single_cluster: bool | None = None


@dataclass(frozen=True)
class Setting:
    """Clusters at one setting, compared with the stored clusters and with those of the setting before.

    Attributes
    ----------
    epsilon, min_samples, min_cluster_size, selection_method, allow_single_cluster
        The setting.
    n_clusters, n_outliers : int
        Number of clusters, and of rows in no cluster.
    largest_share : float
        Share of the rows that the largest cluster holds, 0 to 1; 0 where there is none.
    root_selected : bool
        Whether the root cluster, which holds all rows, was selected.
    median_persistence : float or None
        Over the clusters, 0 to 1; None where there are none, or the root cluster alone.
    ari_stored : float
        Adjusted Rand index of the labels with the stored ones, outliers counting as a cluster.
    ari_previous : float or None
        Adjusted Rand index with the neighbouring setting, over the rows that are in a cluster at both. The
        neighbour has the epsilon before; the first epsilon is compared with the same epsilon at the size
        before, and the first size with the same size at the `min_samples` before. None if there is no
        neighbour, or no row is in a cluster at both.
    cliff : bool
        Whether `ari_previous` is below `CLIFF_ARI`.
    relative_validity : float or None
        How much denser the clusters are inside than between each other, -1 to 1, by the tree (see
        `relative_validity`); None for fewer than two clusters. It compares cuts of one tree, nothing else,
        and so settings of one `min_samples`.
    """

    epsilon: float
    min_samples: int
    min_cluster_size: int
    selection_method: str
    allow_single_cluster: bool
    n_clusters: int
    n_outliers: int
    largest_share: float
    root_selected: bool
    median_persistence: float | None
    ari_stored: float
    ari_previous: float | None
    cliff: bool
    relative_validity: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return an element of `settings` in `sweep-clustering --json`, of plain values."""
        return asdict(self)


class _CutSummary(NamedTuple):
    """Labels of a cut, and the figures that need the tree."""

    labels: Int32Array
    cut: Cut
    median_persistence: float | None
    relative_validity: float | None


def sweep_clustering(
    database: Database | str | Path,
    source: ClusteringSummary,
    grid: Grid,
    *,
    progress: Progress | None = None,
) -> list[Setting]:
    """Cut the tree of a stored clustering at every setting of a grid; nothing is stored.

    Parameters
    ----------
    database : Database, str or Path
        Database of the clustering; it may be read-only.
    source : ClusteringSummary
        From `results.find_clustering`.
    grid : Grid
        At most `MOST_SETTINGS` settings.
    progress : Progress, optional
        Receives the number of settings done.

    Returns
    -------
    list of Setting
        By `min_samples`, then method, then size, then epsilon, each in the order of the grid. If
        `allow_single_cluster` of the grid is None, a setting is followed by the one with the opposite value
        if that gives other clusters.
        The figures are those of the clustering that `recut_clustering` would store.

    Raises
    ------
    InvalidParameter
        A value outside its range, or too many settings.
    NoTree
        The clustering was stored without a tree or the neighbour lists that another `min_samples` needs, or
        embeddings were deleted since.

    Notes
    -----
    Settings are cut in one thread per core. Memory: 4 bytes per row and setting, and 32 per row and
    `min_samples`, besides that of `cuts.cut_all`.
    """
    progress = progress or Silent()
    settings = resolve(grid, source)
    with open_clustering(database, source, progress) as stored:
        trees = {number: stored.tree_at(number) for number in {setting.min_samples for setting in settings}}
        labels = stored.assignments.labels
    described = sweep(trees, labels, settings, progress=progress)
    if grid.allow_single_cluster is not None:
        return described
    return _add_opposites(trees, labels, settings, described, progress)


def _add_opposites(
    trees: Mapping[int, SpanningTree],
    stored: IntArray,
    settings: Sequence[EffectiveParameters],
    described: Sequence[Setting],
    progress: Progress,
) -> list[Setting]:
    """Insert the opposite `allow_single_cluster` after every setting for which it gives other clusters."""
    opposites = {
        number: replace(setting, allow_single_cluster=not setting.allow_single_cluster)
        for number, setting in enumerate(settings)
        # A leaf is never the root: both give the same clusters, unless epsilon merges leaves.
        if setting.cluster_selection_method != "leaf" or setting.cluster_selection_epsilon > 0
    }
    others = dict(
        zip(opposites, sweep(trees, stored, list(opposites.values()), progress=progress), strict=True)
    )
    both = [(setting, others.get(number)) for number, setting in enumerate(described)]
    return [
        setting
        for first, second in both
        for setting in (first, second)
        # The two differ only if the root cluster is selected in one of them.
        if setting is first or (setting is not None and (first.root_selected or setting.root_selected))
    ]


def resolve(grid: Grid, source: ClusteringSummary) -> list[EffectiveParameters]:
    """Return every setting of a grid for the rows of a clustering; see `sweep_clustering`."""
    all_min_samples: Sequence[int | None] = grid.min_samples or [None]
    methods: Sequence[str | None] = grid.selection_methods or [None]
    sizes: Sequence[int | float | None] = grid.min_cluster_sizes or [None]
    epsilons: Sequence[float | None] = grid.epsilons or [None]
    n_settings = len(all_min_samples) * len(methods) * len(sizes) * len(epsilons)
    if n_settings > MOST_SETTINGS:
        raise InvalidParameter(
            f"a sweep takes up to {MOST_SETTINGS:,} settings, got {n_settings:,}; take larger steps"
        )
    changes = Changes(allow_single_cluster=grid.allow_single_cluster)
    combinations = (
        replace(
            changes,
            min_samples=min_samples,
            selection_method=method,
            min_cluster_size=size,
            epsilon=epsilon,
        )
        for min_samples in all_min_samples
        for method in methods
        for size in sizes
        for epsilon in epsilons
    )
    # A count and a share of rows may be the same size.
    return list(dict.fromkeys(combination.resolve(source.record) for combination in combinations))


def sweep(
    trees: Mapping[int, SpanningTree],
    stored: IntArray,
    settings: Sequence[EffectiveParameters],
    *,
    progress: Progress | None = None,
) -> list[Setting]:
    """Cut trees over n rows at every setting, and compare with the stored labels, (n,) int64.

    `trees` has the tree of each `min_samples`; settings with the same one follow each other.
    """
    progress = progress or Silent()
    progress.phase("sweep", total=2 * len(settings))
    threads = available_cores()

    def summarise_cut(setting: EffectiveParameters, flat: FlatClusters) -> _CutSummary:
        return _CutSummary(
            labels=flat.labels.astype(np.int32),
            cut=count_rows(setting, flat),
            median_persistence=_compute_median(flat.persistence),
            relative_validity=relative_validity(
                trees[setting.min_samples], flat.labels, len(flat.persistence)
            ),
        )

    summaries = []
    for min_samples, group in groupby(settings, key=lambda setting: setting.min_samples):
        for summary in cut_all(trees[min_samples], list(group), summarise_cut, threads=threads):
            summaries.append(summary)
            progress.advance(1)
    before = _find_neighbours(settings)

    def describe(number: int) -> Setting:
        setting, summary, neighbour = settings[number], summaries[number], before[number]
        previous = (
            None if neighbour is None else _compare_clustered(summaries[neighbour].labels, summary.labels)
        )
        return Setting(
            epsilon=setting.cluster_selection_epsilon,
            min_samples=setting.min_samples,
            min_cluster_size=setting.min_cluster_size,
            selection_method=setting.cluster_selection_method,
            allow_single_cluster=setting.allow_single_cluster,
            n_clusters=summary.cut.n_clusters,
            n_outliers=summary.cut.n_outliers,
            largest_share=summary.cut.largest / len(summary.labels),
            root_selected=summary.cut.root_selected,
            median_persistence=summary.median_persistence,
            ari_stored=_compare_labels(stored, summary.labels),
            ari_previous=previous,
            cliff=previous is not None and previous < CLIFF_ARI,
            relative_validity=summary.relative_validity,
        )

    described = []
    with ThreadPoolExecutor(max_workers=threads) as team:
        for setting in team.map(describe, range(len(settings))):
            described.append(setting)
            progress.advance(1)
    return described


def relative_validity(tree: SpanningTree, labels: IntArray, n_clusters: int) -> float | None:
    """Compute the relative validity of clusters: their separation against their sparseness in the tree.

    Parameters
    ----------
    tree : SpanningTree
        Over n rows.
    labels : (n,) int64
        Cluster of each row, 0 to n_clusters - 1, or `OUTLIER`.
    n_clusters : int
        Number of clusters.

    Returns
    -------
    float or None
        Mean over all rows of (separation - sparseness) / max(separation, sparseness) of their cluster; 0 for
        outliers. This is the validity index of [1]_ with distances in the tree instead of all distances, like
        hdbscan's `relative_validity_`. Sparseness is the longest edge inside a cluster, separation the
        shortest edge to another cluster, or twice the longest edge of the tree if there is none. None for
        fewer than two clusters. With ties in the distances the value depends on which minimum spanning tree
        was stored.
    """
    if n_clusters < 2:
        return None
    left, right, height = labels[tree.u], labels[tree.v], tree.height
    inside = (left == right) & (left != OUTLIER)
    between = (left != right) & (left != OUTLIER) & (right != OUTLIER)
    sparseness = np.zeros(n_clusters)
    np.maximum.at(sparseness, left[inside], height[inside])
    longest = float(height.max())
    separation = np.full(n_clusters, np.inf)
    for ends in (left, right):
        np.minimum.at(separation, ends[between], height[between])
    separation[np.isinf(separation)] = 2 * longest
    sizes = np.bincount(labels[labels != OUTLIER], minlength=n_clusters)
    validity = (separation - sparseness) / np.maximum(separation, sparseness)
    return float((sizes * validity).sum() / len(labels))


def _compare_labels(left: IntArray | Int32Array, right: IntArray | Int32Array) -> float:
    return adjusted_rand(contingency(left, right))


def _compare_clustered(left: Int32Array, right: Int32Array) -> float | None:
    """Return the adjusted Rand index over the rows that are outliers in neither; None where there are none.

    Rows that only become outliers, or cease to be outliers, change no border between clusters.
    """
    clustered = (left != OUTLIER) & (right != OUTLIER)
    return _compare_labels(left[clustered], right[clustered]) if clustered.any() else None


def _compute_median(persistence: FloatArray) -> float | None:
    median = float(np.median(persistence)) if len(persistence) else math.nan
    return None if math.isnan(median) else median


def _find_neighbours(settings: Sequence[EffectiveParameters]) -> list[int | None]:
    """Return the neighbour of each setting: that of the epsilon, the size or the `min_samples` before."""
    latest: dict[EffectiveParameters, int] = {}
    neighbours = []
    for number, setting in enumerate(settings):
        # All parameters but one equal those of the neighbour.
        varied = {"cluster_selection_epsilon": 0.0}, {"min_cluster_size": 0}, {"min_samples": 0}
        keys = [replace(setting, **value) for value in varied]
        neighbours.append(next((latest[key] for key in keys if key in latest), None))
        latest.update(dict.fromkeys(keys, number))
    return neighbours
