"""scikit-learn's HDBSCAN on a distance matrix of ours, for its linkage only.

Its own brute-force path computes `X @ X.T` on one buffer, which crashes or is silently wrong above some
30,000 rows, and its tree paths need minutes in hundreds of dimensions; so the distances are ours, filled by
tiles from distinct buffers, and everything after the single linkage is ours too.
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
        """Three matrices of distances, and the rows; see `fit`."""
        return 24 * n_rows * n_rows + 4 * n_rows * n_features

    def fit(self, vectors: Float32Array, weights: IntArray, options: FitOptions) -> SpanningTree:
        """Build the tree; see `Backend.fit`.

        Notes
        -----
        Takes three times the 8·n² bytes of the matrix, most of it where scikit-learn checks its symmetry:
        10.0 GB were measured at 20,000 rows.
        """
        # scikit-learn takes a second to import; other backends need not wait for it.
        from sklearn.cluster import HDBSCAN

        n = len(vectors)
        options.progress.phase("distances", total=n * n / 2)
        distances = chord_distance_matrix(vectors, options)
        options.progress.phase("linkage")
        # Before scikit-learn overwrites the matrix with mutual reachability.
        cores = _core_distances(distances, options)
        model = HDBSCAN(
            metric="precomputed",
            min_samples=options.min_samples,
            # One cluster of all rows at most: scikit-learn's own labels are not used and shall cost nothing.
            min_cluster_size=max(2, n),
            allow_single_cluster=False,
            copy=False,
        ).fit(distances)
        return _spanning_tree(model._single_linkage_tree_, cores)


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
    cores = [
        np.partition(distances[first : first + TILE_ROWS], nearest, axis=1)[:, nearest]
        for first in range(0, len(distances), TILE_ROWS)
    ]
    return np.maximum(np.concatenate(cores), options.distance_floor)


def _spanning_tree(merges: np.ndarray, cores: FloatArray) -> SpanningTree:
    # A merge joins two components by their numbers in SciPy's layout; any leaf of each side will do.
    left = merges["left_node"].astype(np.int64)
    right = merges["right_node"].astype(np.int64)
    n = len(cores)
    leaf = np.concatenate([np.arange(n), np.empty(len(merges), dtype=np.int64)])
    for merge, node in enumerate(left.tolist()):
        leaf[n + merge] = leaf[node]
    return SpanningTree(leaf[left], leaf[right], merges["value"].astype(np.float64), cores)
