"""Test with a sample of the rows whether a spanning tree is a minimum one.

A tree from a neighbour graph may miss the shortest edge between two of its parts. An edge of the complete
graph is an improving edge if it is shorter than the longest edge on the tree's path between its ends. A
minimum spanning tree has no improving edge.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from panic_tda.arrays.namespace import namespace, to_host
from panic_tda.arrays.rows import slices
from panic_tda.clustering.trees import DendrogramOrder, Edges, PathsFrom, dendrogram_order, paths_from
from panic_tda.progress import Progress, Silent
from panic_tda.types import (
    Array,
    ArrayModule,
    Float32Array,
    FloatArray,
    ImprovingEdgeSample,
    IntArray,
    SpanningTree,
)

SAMPLE_ROWS = 2_048
BLOCK_COLUMNS = 2_048
_SEED = 0
_UNIT_ROUNDOFF = 2.0**-24
"""Of float32."""


def sample_improving_edges(
    vectors: Float32Array,
    tree: SpanningTree,
    *,
    distance_floor: float,
    n_sampled: int = SAMPLE_ROWS,
    margin: float | None = None,
    progress: Progress | None = None,
) -> ImprovingEdgeSample:
    """Return the share of sampled rows that have an improving edge.

    Parameters
    ----------
    vectors : (n, d) float32
        Unit rows, n at least 2, in host or device memory, where all products are computed.
    tree : SpanningTree
        A tree over these rows, with their core distances.
    distance_floor : float
        Smaller distances count as this one.
    n_sampled : int
        Largest number of rows to sample; the same n gives the same sample.
    margin : float, optional
        Difference of squared distances by which an edge must be shorter to count. The default is the largest
        rounding error of the square of a float32 height and of a core distance, 8·1.01·d·2⁻²⁴ (3.7e-4 at 768
        dimensions), so that rounding alone never makes a row count.
    progress : Progress, optional
        Receives the number of pairs of rows compared.

    Returns
    -------
    ImprovingEdgeSample
        The share, and the number of sampled rows.

    Raises
    ------
    ValueError
        The tree has no core distances.

    Notes
    -----
    The length of an edge is its mutual reachability distance by the tree's own core distances. If the backend
    missed a neighbour, a core distance is too large, never too small, and so is the length. The share is then
    a lower bound.

    Each row is tested by one edge: that with the largest difference in float32, computed again in float64.
    Differences below the rounding of a product in float32 can be missed, but no row is counted wrongly.

    Takes one product of the sampled rows with all rows, and some 230 MiB in addition to the rows at 2,048
    sampled rows.
    """
    if tree.core_distances is None:
        raise ValueError("the check needs the core distances of the tree")
    n, d = vectors.shape
    margin = 8 * 1.01 * d * _UNIT_ROUNDOFF if margin is None else margin
    leaves = _order_leaves(tree, distance_floor)
    cores = np.maximum(tree.core_distances, distance_floor)[leaves.order]
    positions = np.flatnonzero(np.isin(leaves.order, sample_rows(n, n_sampled)))
    best = _find_best_edges(vectors, leaves, cores, positions, progress or Silent())
    squared = _compute_squared_distances(vectors, leaves.order[positions], leaves.order[best.position])
    weight = np.maximum(squared, np.maximum(cores[positions], cores[best.position]) ** 2)
    n_improving = np.count_nonzero(best.path**2 - weight > margin)
    return ImprovingEdgeSample(share=float(n_improving / len(positions)), sample=len(positions))


def sample_rows(n: int, n_sampled: int = SAMPLE_ROWS) -> IntArray:
    """Choose rows at random; the same arguments give the same rows."""
    chosen: IntArray = np.random.default_rng(_SEED).choice(n, min(n, n_sampled), replace=False)
    return chosen


class _BestEdges(NamedTuple):
    """The best edge of each sampled row: the position of its other end, and the path maximum to it."""

    position: IntArray
    path: FloatArray


def _order_leaves(tree: SpanningTree, distance_floor: float) -> DendrogramOrder:
    order = np.argsort(tree.height, kind="stable")
    height = np.maximum(tree.height[order], distance_floor)
    return dendrogram_order(len(order) + 1, Edges(tree.u[order], tree.v[order], height))


def _find_best_edges(
    vectors: Float32Array, leaves: DendrogramOrder, cores: FloatArray, positions: IntArray, progress: Progress
) -> _BestEdges:
    xp: ArrayModule = namespace(vectors)
    paths = PathsFrom(*(xp.asarray(part) for part in paths_from(leaves.gaps, positions)))
    order, squares = xp.asarray(leaves.order), xp.asarray(cores**2)
    sampled = xp.asarray(positions)
    rows = vectors[order[sampled]]
    own, numbers = squares[sampled][:, None], xp.arange(len(positions))
    largest_gain = xp.full(len(positions), -np.inf)
    position, path = xp.zeros(len(positions), dtype=np.int64), xp.zeros(len(positions))
    progress.phase("check a sample of the tree", total=float(len(positions) * len(cores)))
    for part in slices(len(cores), BLOCK_COLUMNS):
        highest = paths.maxima(part)
        weight = 2.0 - 2.0 * (rows @ vectors[order[part]].T)
        weight = xp.maximum(xp.maximum(weight, squares[part][None, :]), own)
        gains = highest**2 - weight
        column = xp.argmax(gains, axis=1)
        better = gains[numbers, column] > largest_gain
        largest_gain = xp.where(better, gains[numbers, column], largest_gain)
        position = xp.where(better, column + part.start, position)
        path = xp.where(better, highest[numbers, column], path)
        progress.advance(float(len(positions) * (part.stop - part.start)))
    return _BestEdges(to_host(position), to_host(path))


def _compute_squared_distances(vectors: Float32Array, first: Array, second: Array) -> FloatArray:
    xp: ArrayModule = namespace(vectors)
    difference = vectors[xp.asarray(first)].astype(np.float64) - vectors[xp.asarray(second)]
    squared: FloatArray = to_host(xp.sum(difference * difference, axis=1))
    return squared
