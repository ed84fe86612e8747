"""Score outliers by how much sparser they are than their cluster, and find the cluster nearest to each.

References
----------
.. [1] Campello, Moulavi, Zimek, Sander (2015). Hierarchical density estimates for data clustering,
   visualization, and outlier detection. ACM Transactions on Knowledge Discovery from Data 10(1), 5.
   https://doi.org/10.1145/2733381
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from panic_tda.clustering.condensed import build_single_linkage, condense_tree
from panic_tda.errors import NoTree
from panic_tda.progress import Progress
from panic_tda.records import EffectiveParameters
from panic_tda.storage.database import Database
from panic_tda.storage.read.clusterings import open_clustering
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.types import OUTLIER, FloatArray, IntArray, SpanningTree

COLUMNS = ("outlier_score", "nearest_cluster", "nearest_cluster_distance")


class NearestClusters(NamedTuple):
    """The nearest cluster of every row of a clustering.

    Attributes
    ----------
    labels : (n,) int64
        The cluster, for a member its own; `OUTLIER` if there are no clusters.
    distances : (n,) float64
        Mutual reachability distance at which the row joins it; 0 for a member, infinite without clusters.
    """

    labels: IntArray
    distances: FloatArray


def score_outliers(tree: SpanningTree, parameters: EffectiveParameters) -> FloatArray:
    """Return the GLOSH score of every row [1]_.

    Parameters
    ----------
    tree : SpanningTree
        Over n rows.
    parameters : EffectiveParameters
        `min_cluster_size` and `distance_floor` count.

    Returns
    -------
    (n,) float64
        1 - λ / λ_max, 0 to 1, with λ the density at which the row falls out of the innermost cluster of the
        condensed tree that it is in, and λ_max the largest density in that cluster: 0 in the densest part,
        near 1 far from it. NaN if there are fewer rows than `min_cluster_size`.

    Notes
    -----
    Equal to hdbscan's `outlier_scores_`, except that distances of 0 are the distance floor here. The score is
    not a probability, and scores of different trees cannot be compared.
    """
    n = len(tree.height) + 1
    if n < max(2, parameters.min_cluster_size):
        return np.full(n, np.nan)
    linkage = build_single_linkage(tree, parameters.distance_floor)
    condensed = condense_tree(linkage, parameters.min_cluster_size, tree.tie_tolerance)
    densest = np.full(len(condensed.parent), np.inf)
    np.minimum.at(densest, condensed.row_cluster, condensed.row_height)
    # Children have larger numbers than their parents.
    for cluster in range(len(densest) - 1, 0, -1):
        above = condensed.parent[cluster]
        densest[above] = min(densest[above], densest[cluster])
    return np.asarray(1 - densest[condensed.row_cluster] / condensed.row_height)


def find_nearest_clusters(tree: SpanningTree, labels: IntArray) -> NearestClusters:
    """Return the nearest cluster of every row, and the distance at which the row joins it.

    For an outlier it is the cluster of the nearest member, which is at the end of the shortest path in the
    spanning tree, by the sum of heights. The distance is the largest height on that path.
    """
    members = np.flatnonzero(labels != OUTLIER)
    if not len(members):
        return NearestClusters(labels.copy(), np.full(len(labels), np.inf))
    n = len(labels)
    graph = coo_array((tree.height, (tree.u, tree.v)), shape=(n, n)).tocsr()
    _, before, sources = dijkstra(
        graph, directed=False, indices=members, return_predecessors=True, min_only=True
    )
    return NearestClusters(
        np.asarray(labels[sources], dtype=np.int64), _find_largest_heights(tree, before.astype(np.int64))
    )


def _find_largest_heights(tree: SpanningTree, before: IntArray) -> FloatArray:
    """Return the largest height on the path from each row to the end of its path.

    Parameters
    ----------
    tree : SpanningTree
        Over n rows.
    before : (n,) int64
        Next row of each path; negative at its end.
    """
    n = len(before)
    largest = np.zeros(n)
    for start, end in ((tree.u, tree.v), (tree.v, tree.u)):
        is_step = before[start] == end
        largest[start[is_step]] = tree.height[is_step]
    following = np.where(before < 0, np.arange(n), before)
    # Each round doubles the length of the paths that are covered.
    while not np.array_equal(following, following[following]):
        largest = np.maximum(largest, largest[following])
        following = following[following]
    return np.asarray(np.maximum(largest, largest[following]))


def read_columns(
    database: Database, clustering: ClusteringSummary, *, progress: Progress | None = None
) -> pa.RecordBatch:
    """Return the columns `COLUMNS` of every assignment of a clustering, in their order.

    They are null if the clustering was stored without a tree, or embeddings were deleted since.
    """
    with open_clustering(database, clustering, progress) as stored:
        labels = stored.assignments.labels
        try:
            tree = stored.tree
        except NoTree:
            kinds = (pa.float64(), pa.int64(), pa.float64())
            nothing = [pa.nulls(len(labels), kind) for kind in kinds]
            return pa.record_batch(nothing, names=list(COLUMNS))
    scores = pa.array(score_outliers(tree, clustering.record), from_pandas=True)
    nearest = find_nearest_clusters(tree, labels)
    mask = nearest.labels == OUTLIER
    columns = [scores, *(pa.array(column, mask=mask) for column in nearest)]
    return pa.record_batch(columns, names=list(COLUMNS))
