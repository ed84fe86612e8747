"""The backend `sklearn`: scikit-learn's implementation of Prim's algorithm on our own distance matrix.

`sklearn.cluster.HDBSCAN` itself is not called. Its brute-force algorithm computes `X @ X.T` on one buffer,
which crashes or is silently wrong above some 30,000 rows, and its tree algorithms need minutes in hundreds of
dimensions. Here the distances are computed tile by tile from separate buffers.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from panic_tda.arrays.rows import slices
from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.neighbour_graph import empty_lists, fill_lists
from panic_tda.errors import UnsupportedOnBackend
from panic_tda.types import Float32Array, FloatArray, IntArray, NeighbourLists, SpanningTree
from panic_tda.wording import format_bytes

MAX_ROWS = 20_000
TILE_ROWS = 1024
# Below this squared distance, x² + y² - 2xy loses more digits than the tie tolerance permits.
_CLOSE = 1e-2


class SklearnBackend:
    """The reference backend: O(n²) time and memory, float64 throughout."""

    name = "sklearn"
    exact = True
    weighted = False

    def check(self, n_rows: int, n_features: int, options: FitOptions) -> None:
        """Refuse more rows than `MAX_ROWS`, or a distance matrix above the memory limit."""
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
        """Return False; see `Backend.rows_on_device`."""
        return False

    def bytes_needed(self, n_rows: int, n_features: int, options: FitOptions) -> int:
        """Estimate the bytes of the distance matrix and of the rows; see `Backend.bytes_needed`."""
        return 8 * n_rows * n_rows + 4 * n_rows * n_features

    def fit(self, vectors: Float32Array, weights: IntArray, options: FitOptions) -> SpanningTree:
        """Build the tree; see `Backend.fit`."""
        n = len(vectors)
        options.progress.phase("distances", total=n * n / 2)
        heights = chord_distance_matrix(vectors, options)
        options.progress.phase("spanning tree")
        cores = _find_core_distances(heights, options)
        lists = _find_nearer_rows(heights, cores, options) if options.keep_neighbours else None
        np.maximum(heights, cores[:, None], out=heights)
        np.maximum(heights, cores[None, :], out=heights)
        return replace(_build_spanning_tree(heights, cores), neighbours=lists)


def chord_distance_matrix(vectors: Float32Array, options: FitOptions) -> FloatArray:
    """Return all pairwise chord distances.

    Parameters
    ----------
    vectors : (n, d) float32
        Rows; their geometry is evaluated in float64.
    options : FitOptions
        The distance floor and the receiver of the progress are used.

    Returns
    -------
    (n, n) float64
        Exactly symmetric; zeros on the diagonal, at least `distance_floor` elsewhere.
    """
    n = len(vectors)
    distances = np.empty((n, n))
    tiles = list(slices(n, TILE_ROWS))
    for number, i in enumerate(tiles):
        rows = vectors[i].astype(np.float64)
        for j in tiles[number:]:
            columns = vectors[j].astype(np.float64)
            tile = np.maximum(_compute_tile(rows, columns), options.distance_floor)
            if i == j:
                # x·y and y·x may be rounded differently.
                tile = np.maximum(tile, tile.T)
                np.fill_diagonal(tile, 0.0)
            distances[i, j] = tile
            distances[j, i] = tile.T
            options.progress.advance(tile.size if i != j else tile.size / 2)
    return distances


def _compute_tile(rows: FloatArray, columns: FloatArray) -> FloatArray:
    squared: FloatArray = np.einsum("ij,ij->i", rows, rows)[:, None] - 2 * (rows @ columns.T)
    squared += np.einsum("ij,ij->i", columns, columns)
    p, q = np.nonzero(squared < _CLOSE)
    for pairs in slices(len(p), TILE_ROWS):
        difference = rows[p[pairs]] - columns[q[pairs]]
        squared[p[pairs], q[pairs]] = np.einsum("ij,ij->i", difference, difference)
    return np.sqrt(squared)


def _find_core_distances(distances: FloatArray, options: FitOptions) -> FloatArray:
    nearest = options.tree_min_samples - 1
    # Copied, because a view of one column would keep the partitioned rows in memory.
    cores = [
        np.partition(distances[rows], nearest, axis=1)[:, nearest].copy()
        for rows in slices(len(distances), TILE_ROWS)
    ]
    return np.maximum(np.concatenate(cores), options.distance_floor)


def _find_nearer_rows(distances: FloatArray, cores: FloatArray, options: FitOptions) -> NeighbourLists:
    """List the rows that are nearer to each row than its core distance; copies are rows like others."""
    lists = empty_lists(len(distances), options.tree_min_samples)
    for part in slices(len(distances), TILE_ROWS):
        own = np.arange(part.start, part.stop)
        is_near = distances[part] < cores[part, None]
        is_near[own - part.start, own] = False
        owners, rows = np.nonzero(is_near)
        owners += part.start
        fill_lists(lists, owners, rows, distances[owners, rows])
    return lists


def _build_spanning_tree(heights: FloatArray, cores: FloatArray) -> SpanningTree:
    """Build the minimum spanning tree of a matrix of mutual reachability distances, (n, n).

    In scikit-learn's edges, the start is the row that was joined before, but the distance is that from the
    nearest of all joined rows. Here the start is that nearest row.
    """
    # scikit-learn takes a second to import, and other backends do not need it.
    from sklearn.cluster._hdbscan._linkage import mst_from_mutual_reachability

    edges = mst_from_mutual_reachability(heights)
    v = edges["next_node"].astype(np.int64)
    joined = np.concatenate([edges["current_node"][:1].astype(np.int64), v])
    u = np.array(
        [joined[np.argmin(heights[row, joined[: i + 1]])] for i, row in enumerate(v)], dtype=np.int64
    )
    return SpanningTree(u, v, edges["distance"].astype(np.float64), cores)
