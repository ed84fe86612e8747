"""Slow, obvious oracles: the definitions themselves, in float64 on full matrices.

Nothing here shares code with the package. Distances are chord lengths between the rows as they are given
(unit float32 rows), evaluated in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.distance import cdist

from panic_tda.types import SpanningTree

if TYPE_CHECKING:
    from panic_tda.types import FloatArray


def chord_distances(vectors: np.ndarray) -> FloatArray:
    """Chord length between every two rows.

    Parameters
    ----------
    vectors : (n, d) float32 or float64
        Unit rows; they are not normalised again.

    Returns
    -------
    (n, n) float64
        Exactly symmetric, exactly 0 between identical rows: `cdist` sums squared differences. The textbook
        expansion 2 - 2xy would lose half the digits of short distances.
    """
    rows = np.asarray(vectors, dtype=np.float64)
    return cdist(rows, rows)


def core_distances(distances: FloatArray, min_samples: int) -> FloatArray:
    """Distance of every row to its `min_samples`-th nearest row, the row itself being the first.

    Parameters
    ----------
    distances : (n, n) float64
        Chord lengths over all rows, copies included.
    min_samples : int
        1 to n; 1 gives zeros.

    Returns
    -------
    (n,) float64
    """
    if not 1 <= min_samples <= len(distances):
        raise ValueError(f"min_samples must be 1 to {len(distances)}; got {min_samples}")
    return np.sort(distances, axis=1)[:, min_samples - 1].copy()


def mutual_reachability(distances: FloatArray, min_samples: int, distance_floor: float = 0.0) -> FloatArray:
    """Largest of the distance and both core distances, at least `distance_floor`.

    Returns
    -------
    (n, n) float64
        The diagonal holds zeros and means nothing.
    """
    cores = core_distances(distances, min_samples)
    reachability = np.maximum(distances, np.maximum(cores[:, None], cores[None, :]))
    reachability = np.maximum(reachability, distance_floor)
    np.fill_diagonal(reachability, 0.0)
    return reachability


def prim_tree(reachability: FloatArray) -> SpanningTree:
    """Build a minimum spanning tree by Prim's algorithm on the full matrix.

    Parameters
    ----------
    reachability : (n, n) float64
        Symmetric weights; the diagonal is not looked at.

    Returns
    -------
    SpanningTree
        n - 1 edges in the order in which rows were reached from row 0.
    """
    n = len(reachability)
    weight, source = np.full(n, np.inf), np.zeros(n, dtype=np.int64)
    outside = np.ones(n, dtype=bool)
    u, v, height = (np.empty(max(n - 1, 0), dtype=kind) for kind in (np.int64, np.int64, np.float64))
    row = 0
    for edge in range(n - 1):
        outside[row] = False
        closer = outside & (reachability[row] < weight)
        weight[closer], source[closer] = reachability[row][closer], row
        row = int(np.argmin(np.where(outside, weight, np.inf)))
        u[edge], v[edge], height[edge] = source[row], row, weight[row]
    return SpanningTree(u, v, height)


def prim_weights(reachability: FloatArray) -> FloatArray:
    """Ascending edge weights of the minimum spanning tree: unique even where the tree is not."""
    return np.sort(prim_tree(reachability).height)


def spanning_tree(vectors: np.ndarray, min_samples: int, distance_floor: float = 0.0) -> SpanningTree:
    """Build an exact tree over all rows, copies included, with its core distances."""
    distances = chord_distances(vectors)
    tree = prim_tree(mutual_reachability(distances, min_samples, distance_floor))
    return SpanningTree(tree.u, tree.v, tree.height, core_distances(distances, min_samples))
