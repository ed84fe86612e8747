"""Exact medoids of clusters, in linear time.

The weighted sum of cosine distances from p to the members q of its cluster is
Σ w_q − x_p·S/‖x_p‖ with S = Σ w_q x_q. The medoid therefore has the largest dot product with the weighted sum
of its cluster, and no distance between two members is computed.
"""

from __future__ import annotations

import numpy as np

from panic_tda.arrays.namespace import namespace
from panic_tda.arrays.rows import chunks
from panic_tda.records import COSINE
from panic_tda.types import Array, ArrayModule, FloatArray, IntArray

TIE_TOLERANCE = 1e-9
"""Scores that differ by less, relative to the cluster's weight, count as equal.

The same products computed in other chunks differ by less than this.
"""


def find_medoids(
    vectors: Array, labels: IntArray, weights: FloatArray, n_clusters: int, metric: str = COSINE
) -> dict[int, int]:
    """Find the medoid of every cluster, the member with the smallest weighted sum of distances.

    Parameters
    ----------
    vectors : (n, d) float32
        Unit rows, as a NumPy or a CuPy array, which is processed in the memory that holds it. For the metric
        euclidean, rows of float64 in host memory.
    labels : (n,) int64
        Cluster of each row, 0 to n_clusters - 1, or `OUTLIER`; in host memory.
    weights : (n,) float64
        Weight of each row as a member: its membership probability times the number of its copies; in host
        memory. Zeros are allowed, even for all members of a cluster.
    n_clusters : int
        Number of clusters.
    metric : {"cosine", "euclidean"}
        Distance of two rows.

    Returns
    -------
    dict of int to int
        Row of the medoid by label. With cosine, it is the first member whose score differs from the best by
        at most `TIE_TOLERANCE` times the cluster's weight; with euclidean, the first member whose sum is at
        most `1 + TIE_TOLERANCE` times the smallest one.

    Raises
    ------
    ValueError
        A cluster has no rows.

    Notes
    -----
    Cosine takes O(n·d) time, in two passes over the rows, and 24 bytes of memory per row and a few chunks
    (1 MiB in host memory, 64 MiB on a GPU). Sums and products are in float64.

    With euclidean, members are tried by ascending distance from the cluster's mean. By the triangle
    inequality, the sum of a member j is at least |W·d(i, j) - S_i| for a sum S_i that is known and the total
    weight W, which rules out most members in few dimensions [1]_. In many dimensions the time grows with the
    square of the cluster.

    References
    ----------
    .. [1] Newling, Fleuret (2017). A sub-quadratic exact medoid algorithm. AISTATS 2017.
       https://proceedings.mlr.press/v54/newling17a.html
    """
    find = _find_medoid if metric == COSINE else _find_euclidean_medoid
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.arange(n_clusters + 1))
    empty = np.flatnonzero(np.diff(bounds) == 0)
    if len(empty):
        raise ValueError(f"every cluster must have rows; cluster {empty[0]} has none")
    return {
        label: find(vectors, order[bounds[label] : bounds[label + 1]], weights) for label in range(n_clusters)
    }


def _find_medoid(vectors: Array, rows: IntArray, weights: FloatArray) -> int:
    """Return the medoid of `rows`, which must ascend."""
    xp = namespace(vectors)
    groups = [rows[chunk] for chunk in chunks(vectors, len(rows))]

    total = xp.zeros(vectors.shape[1], dtype=xp.float64)
    for group in groups:
        total += xp.asarray(weights[group]) @ _take_members(xp, vectors, group)
    scores = xp.concatenate(
        [_score_members(xp, _take_members(xp, vectors, group), total) for group in groups]
    )
    threshold = xp.max(scores) - TIE_TOLERANCE * float(weights[rows].sum())
    return int(rows[int(xp.argmax(scores >= threshold))])


def _find_euclidean_medoid(vectors: FloatArray, rows: IntArray, weights: FloatArray) -> int:
    members, member_weights = vectors[rows], weights[rows]
    total = float(member_weights.sum())
    if not total:
        return int(rows[0])
    sums, lower = np.full(len(rows), np.inf), np.zeros(len(rows))
    best = np.inf
    mean = member_weights @ members / total
    for member in np.argsort(_measure_from(members, mean), kind="stable"):
        # Twice the tolerance: bounds are rounded too.
        if lower[member] > best * (1 + 2 * TIE_TOLERANCE):
            continue
        distances = _measure_from(members, members[member])
        sums[member] = member_weights @ distances
        best = min(best, float(sums[member]))
        np.maximum(lower, np.abs(total * distances - sums[member]), out=lower)
    return int(rows[int(np.argmax(sums <= best * (1 + TIE_TOLERANCE)))])


def _measure_from(members: FloatArray, point: FloatArray) -> FloatArray:
    difference = members - point
    distances: FloatArray = np.sqrt(np.einsum("ij,ij->i", difference, difference))
    return distances


def _take_members(xp: ArrayModule, vectors: Array, rows: IntArray) -> Array:
    return xp.asarray(xp.take(vectors, xp.asarray(rows), axis=0), dtype=xp.float64)


def _score_members(xp: ArrayModule, members: Array, total: Array) -> Array:
    return members @ total / xp.sqrt(xp.sum(members * members, axis=1))
