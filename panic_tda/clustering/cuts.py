"""Many cuts of one tree: what the settings next to each other give, without a fit.

The single linkage tree is the same for all of them, the condensed tree for those of one `min_cluster_size`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from panic_tda.clustering.condensed import Condensed, Linkage, condense, single_linkage
from panic_tda.clustering.hierarchy import flatten
from panic_tda.errors import OUTLIER
from panic_tda.parameters import SELECTION_METHODS, EffectiveParameters
from panic_tda.types import FlatClusters, SpanningTree

if TYPE_CHECKING:
    from panic_tda.types import Int32Array, IntArray

Found = TypeVar("Found")

NEARLY_ALL = 0.9
"""A cluster that holds more than this share of the rows says little about them."""
_FACTORS = (0.9, 1.1, 0.75, 1.25, 0.5, 1.5, 2.0)
_SIZE_FACTORS = (0.5, 2.0, 0.25, 4.0)
_MOST_SUGGESTED = 3


class Cut(NamedTuple):
    """What a setting gives.

    Attributes
    ----------
    parameters : EffectiveParameters
        The setting.
    n_clusters, n_outliers, largest : int
        Clusters, rows in none, and rows of the largest cluster (0 where there is none).
    """

    parameters: EffectiveParameters
    n_clusters: int
    n_outliers: int
    largest: int

    def options(self, base: EffectiveParameters) -> str:
        """Say as options of the commands in what the setting differs from another one."""
        ours = self.parameters
        said = []
        if ours.cluster_selection_epsilon != base.cluster_selection_epsilon:
            said.append(f"--epsilon {ours.cluster_selection_epsilon:g}")
        if ours.min_cluster_size != base.min_cluster_size:
            said.append(f"--min-cluster-size {ours.min_cluster_size}")
        if ours.cluster_selection_method != base.cluster_selection_method:
            said.append(f"--selection-method {ours.cluster_selection_method}")
        if ours.max_cluster_size != base.max_cluster_size:
            said.append("without --max-cluster-size")
        if ours.allow_single_cluster != base.allow_single_cluster:
            said.append(
                "--allow-single-cluster" if ours.allow_single_cluster else "--no-allow-single-cluster"
            )
        return " ".join(said)


def cut_all(
    tree: SpanningTree,
    settings: Sequence[EffectiveParameters],
    look: Callable[[EffectiveParameters, FlatClusters], Found],
    *,
    threads: int = 1,
) -> Iterator[Found]:
    """Cut a tree at every setting, and yield what `look` makes of the clusters, in the order of the settings.

    Parameters
    ----------
    tree : SpanningTree
        n - 1 edges over n rows.
    settings : sequence of EffectiveParameters
        All with the distance floor of the first; `min_samples` belongs to the tree and is not looked at.
    look : callable
        Called in several threads; what it returns is kept until it is asked for.
    threads : int
        Settings that are cut at the same time.

    Notes
    -----
    Takes 24 bytes a row for the linkage, 16 for each `min_cluster_size` that is under way, and about 100 for
    each thread.
    """
    if not settings:
        return
    n = len(tree.height) + 1
    linkage = single_linkage(tree, settings[0].distance_floor)
    sizes = list(dict.fromkeys(one.min_cluster_size for one in settings))
    with ThreadPoolExecutor(max_workers=threads) as team:
        condensed = {size: team.submit(_condense, linkage, size, tree.tie_tolerance) for size in sizes}

        def cut(one: EffectiveParameters) -> Found:
            # Waits for nothing that is behind it in the queue.
            return look(one, _flat(condensed[one.min_cluster_size].result(), one, n))

        yield from team.map(cut, settings)


def nearby(tree: SpanningTree, effective: EffectiveParameters) -> list[Cut]:
    """Look at the settings near one that found nothing, or one cluster of nearly everything.

    Returns
    -------
    list of Cut
        At most three that find clusters of which none holds nearly everything: those with the fewest outliers
        of each kind of change (the single cluster, epsilon, the size, the method, no largest size), the
        fewest first. Empty where none does.
    """
    kinds = _neighbours(effective)
    cuts = cut_all(tree, [one for kind in kinds for one in kind], count_rows)
    n = len(tree.height) + 1
    best: list[Cut] = []
    for kind in kinds:
        useful = [cut for cut, _ in zip(cuts, kind, strict=False) if 0 < cut.largest <= NEARLY_ALL * n]
        best += sorted(useful, key=lambda cut: cut.n_outliers)[:1]
    return sorted(best, key=lambda cut: cut.n_outliers)[:_MOST_SUGGESTED]


def largest_of(labels: IntArray | Int32Array) -> int:
    """Return the number of rows in the largest cluster, 0 where there is none."""
    members = labels[labels != OUTLIER]
    return int(np.bincount(members).max()) if len(members) else 0


def count_rows(one: EffectiveParameters, flat: FlatClusters) -> Cut:
    """Count what a setting gives; for `cut_all`."""
    return Cut(
        parameters=one,
        n_clusters=len(flat.persistence),
        n_outliers=int(np.count_nonzero(flat.labels == OUTLIER)),
        largest=largest_of(flat.labels),
    )


def _condense(linkage: Linkage, size: int, tolerance: float) -> Condensed | None:
    """Condense, where there are rows enough for a cluster at all."""
    n = len(linkage.height) + 1
    return None if n < max(2, size) else condense(linkage, size, tolerance)


def _flat(condensed: Condensed | None, one: EffectiveParameters, n: int) -> FlatClusters:
    if condensed is None:
        return FlatClusters(np.full(n, OUTLIER, dtype=np.int64), np.zeros(n), np.zeros(0))
    return flatten(condensed, one)


def _neighbours(effective: EffectiveParameters) -> list[list[EffectiveParameters]]:
    """Return settings that differ in one thing, by what that is; in epsilon, without a single cluster too."""
    epsilon, size = effective.cluster_selection_epsilon, effective.min_cluster_size
    bases = [effective]
    if effective.allow_single_cluster:
        bases.append(replace(effective, allow_single_cluster=False))
    epsilons = [round(min(2.0, factor * epsilon), 6) for factor in _FACTORS] if epsilon else [0.1, 0.2, 0.4]
    sizes = [max(2, round(factor * size)) for factor in _SIZE_FACTORS]
    others = [method for method in SELECTION_METHODS if method != effective.cluster_selection_method]
    unlimited = [replace(effective, max_cluster_size=None)] if effective.max_cluster_size else []
    return [
        bases[1:],
        [replace(base, cluster_selection_epsilon=value) for base in bases for value in epsilons],
        [replace(effective, min_cluster_size=value) for value in dict.fromkeys(sizes) if value != size],
        [replace(effective, cluster_selection_method=method) for method in others],
        unlimited,
    ]
