"""The spanning tree of scikit-learn's HDBSCAN on a distance matrix of ours.

`sklearn.cluster.HDBSCAN` itself is not called, only its implementation of Prim's algorithm: its brute-force
path computes `X @ X.T` on one buffer, which crashes or is silently wrong above some 30,000 rows, and its tree
paths need minutes in hundreds of dimensions. The distances are ours, filled by tiles from distinct buffers,
and so is everything after the spanning tree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from panic_tda.clustering.backends.base import FitOptions
from panic_tda.errors import UnsupportedOnBackend
from panic_tda.parameters import format_bytes
from panic_tda.types import SpanningTree

if TYPE_CHECKING:
    from panic_tda.types import Float32Array, FloatArray, IntArray

MAX_ROWS = 20_000
TILE_ROWS = 1024
# Below this squared distance, x² + y² - 2xy loses more digits than the tie tolerance allows.
_CLOSE = 1e-2


class SklearnBackend:
    """The reference backend: O(n²) time and memory, float64 throughout."""

    name = "sklearn"
    exact = True
    weighted = False

    def check(self, n_rows: int, n_features: int, options: FitOptions) -> None:
        """Refuse more rows than a distance matrix is reasonable for."""
        if n_rows > MAX_ROWS:
            raise UnsupportedOnBackend(
                f"backend sklearn accepts up to {MAX_ROWS:,} rows (its distance matrix takes 8·n² bytes), "
                f"got {n_rows:,}; use --backend auto, or sample with --downsample"
            )
        needed = 24 * n_rows * n_rows
        if options.memory_limit is not None and needed > options.memory_limit:
            raise UnsupportedOnBackend(
                f"backend sklearn needs {format_bytes(needed)} above the vectors for {n_rows:,} rows, and "
                f"--memory-limit allows {format_bytes(options.memory_limit)}; use --backend tiled, or sample "
                "with --downsample"
            )

    def rows_on_device(self, n_rows: int, n_features: int, options: FitOptions) -> bool:
        """Say no: see `Backend.rows_on_device`."""
        return False

    def bytes_needed(self, n_rows: int, n_features: int, options: FitOptions) -> int:
        """Estimate the bytes of the matrix of distances, which becomes that of heights, and of the rows."""
        return 8 * n_rows * n_rows + 4 * n_rows * n_features

    def fit(self, vectors: Float32Array, weights: IntArray, options: FitOptions) -> SpanningTree:
        """Build the tree; see `Backend.fit`."""
        n = len(vectors)
        options.progress.phase("distances", total=n * n / 2)
        heights = chord_distance_matrix(vectors, options)
        options.progress.phase("spanning tree")
        cores = _core_distances(heights, options)
        np.maximum(heights, cores[:, None], out=heights)
        np.maximum(heights, cores[None, :], out=heights)
        return _spanning_tree(heights, cores)


def chord_distance_matrix(vectors: Float32Array, options: FitOptions) -> FloatArray:
    """Return all pairwise chord distances.

    Parameters
    ----------
    vectors : (n, d) float32
        Rows; their geometry is evaluated in float64.
    options : FitOptions
        For the distance floor and the listener.

    Returns
    -------
    (n, n) float64
        Exactly symmetric; nothing below `distance_floor` off the diagonal, zeros on it.
    """
    n = len(vectors)
    distances = np.empty((n, n))
    starts = range(0, n, TILE_ROWS)
    for i in starts:
        rows = vectors[i : i + TILE_ROWS].astype(np.float64)
        for j in starts[i // TILE_ROWS :]:
            columns = vectors[j : j + TILE_ROWS].astype(np.float64)
            tile = np.maximum(_tile_distances(rows, columns), options.distance_floor)
            if i == j:
                # A product need not round x·y and y·x alike.
                tile = np.maximum(tile, tile.T)
                np.fill_diagonal(tile, 0.0)
            distances[i : i + TILE_ROWS, j : j + TILE_ROWS] = tile
            distances[j : j + TILE_ROWS, i : i + TILE_ROWS] = tile.T
            options.progress.advance(tile.size if i != j else tile.size / 2)
    return distances


def _tile_distances(rows: FloatArray, columns: FloatArray) -> FloatArray:
    squared: FloatArray = np.einsum("ij,ij->i", rows, rows)[:, None] - 2 * (rows @ columns.T)
    squared += np.einsum("ij,ij->i", columns, columns)
    p, q = np.nonzero(squared < _CLOSE)
    for first in range(0, len(p), TILE_ROWS):
        pairs = slice(first, first + TILE_ROWS)
        difference = rows[p[pairs]] - columns[q[pairs]]
        squared[p[pairs], q[pairs]] = np.einsum("ij,ij->i", difference, difference)
    return np.sqrt(squared)


def _core_distances(distances: FloatArray, options: FitOptions) -> FloatArray:
    nearest = options.min_samples - 1
    # Copied, since a view of one column would hold the partitioned rows.
    cores = [
        np.partition(distances[first : first + TILE_ROWS], nearest, axis=1)[:, nearest].copy()
        for first in range(0, len(distances), TILE_ROWS)
    ]
    return np.maximum(np.concatenate(cores), options.distance_floor)


def _spanning_tree(heights: FloatArray, cores: FloatArray) -> SpanningTree:
    """Build the minimum spanning tree of a matrix of mutual reachability distances, (n, n).

    scikit-learn names the row that was joined before as the start of each edge, and the distance from the
    nearest of all joined rows. That is enough to merge components; here the nearest row is the start.
    """
    # scikit-learn takes a second to import; other backends need not wait for it.
    from sklearn.cluster._hdbscan._linkage import mst_from_mutual_reachability

    edges = mst_from_mutual_reachability(heights)
    v = edges["next_node"].astype(np.int64)
    joined = np.concatenate([edges["current_node"][:1].astype(np.int64), v])
    u = np.array(
        [joined[np.argmin(heights[row, joined[: i + 1]])] for i, row in enumerate(v)], dtype=np.int64
    )
    return SpanningTree(u, v, edges["distance"].astype(np.float64), cores)
