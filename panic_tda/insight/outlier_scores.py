"""Score outliers by how much sparser they are than their cluster, and find the cluster nearest to each.

References
----------
.. [1] Campello, Moulavi, Zimek, Sander (2015). Hierarchical density estimates for data clustering,
   visualization, and outlier detection. ACM Transactions on Knowledge Discovery from Data 10(1), 5.
   https://doi.org/10.1145/2733381
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from panic_tda.clustering.condensed import build_single_linkage, condense_tree
from panic_tda.errors import NoTree
from panic_tda.parameters import EffectiveParameters
from panic_tda.progress import Progress
from panic_tda.storage.database import Database
from panic_tda.storage.read.clusterings import open_clustering
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.types import OUTLIER, FloatArray, IntArray, SpanningTree

COLUMNS = ("outlier_score", "nearest_cluster")


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


def find_nearest_clusters(tree: SpanningTree, labels: IntArray) -> IntArray:
    """Return the nearest cluster of every row, (n,) int64; for a member its own cluster.

    For an outlier it is the cluster of the nearest member, which is at the end of the shortest path in the
    spanning tree, by the sum of heights. `OUTLIER` if there are no clusters.
    """
    members = np.flatnonzero(labels != OUTLIER)
    if not len(members):
        return labels.copy()
    n = len(labels)
    graph = coo_array((tree.height, (tree.u, tree.v)), shape=(n, n)).tocsr()
    _, _, sources = dijkstra(graph, directed=False, indices=members, return_predecessors=True, min_only=True)
    return np.asarray(labels[sources], dtype=np.int64)


def read_columns(
    database: Database, clustering: ClusteringSummary, *, progress: Progress | None = None
) -> pa.RecordBatch:
    """Return `outlier_score` and `nearest_cluster` of every assignment of a clustering, in their order.

    Both are null if the clustering was stored without a tree, or embeddings were deleted since.
    """
    with open_clustering(database, clustering, progress) as stored:
        labels = stored.assignments.labels
        try:
            tree = stored.tree
        except NoTree:
            nothing = [pa.nulls(len(labels), kind) for kind in (pa.float64(), pa.int64())]
            return pa.record_batch(nothing, names=list(COLUMNS))
    scores = pa.array(score_outliers(tree, clustering.record), from_pandas=True)
    nearest = find_nearest_clusters(tree, labels)
    mask = nearest == OUTLIER
    return pa.record_batch([scores, pa.array(nearest, mask=mask)], names=list(COLUMNS))
