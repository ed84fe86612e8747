"""Many cuts of one tree: what the settings next to each other give, without a fit.

The single linkage tree is the same for all of them, the condensed tree for those of one `min_cluster_size`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from panic_tda.clustering.condensed import Condensed, Linkage, condense, single_linkage
from panic_tda.clustering.hierarchy import flatten
from panic_tda.errors import OUTLIER
from panic_tda.parameters import EffectiveParameters
from panic_tda.types import FlatClusters, SpanningTree

if TYPE_CHECKING:
    from panic_tda.types import Int32Array, IntArray

Found = TypeVar("Found")


class Cut(NamedTuple):
    """What a setting gives.

    Attributes
    ----------
    parameters : EffectiveParameters
        The setting.
    n_clusters, n_outliers, largest : int
        Clusters, rows in none, and rows of the largest cluster (0 where there is none).
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
        root_selected=flat.root_selected,
    )


def _condense(linkage: Linkage, size: int, tolerance: float) -> Condensed | None:
    """Condense, where there are rows enough for a cluster at all."""
    n = len(linkage.height) + 1
    return None if n < max(2, size) else condense(linkage, size, tolerance)


def _flat(condensed: Condensed | None, one: EffectiveParameters, n: int) -> FlatClusters:
    if condensed is None:
        return FlatClusters(np.full(n, OUTLIER, dtype=np.int64), np.zeros(n), np.zeros(0))
    return flatten(condensed, one)
