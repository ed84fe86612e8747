"""What a sample of rows says of a spanning tree that need not be a minimum one.

A tree from a neighbour graph may join two places by an edge that neither end found among its nearest rows,
or miss the lightest one. Edges of the complete graph that are lighter than the heaviest on the tree's path
between their ends are the proof: in a minimum spanning tree there is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from panic_tda.arrays.namespace import namespace, to_host
from panic_tda.arrays.rows import slices
from panic_tda.clustering.trees import DendrogramOrder, Edges, PathsFrom, dendrogram_order, paths_from
from panic_tda.progress import Progress, Silent
from panic_tda.types import LighterEdges

if TYPE_CHECKING:
    from panic_tda.types import Array, ArrayModule, Float32Array, FloatArray, IntArray, SpanningTree

SAMPLE_ROWS = 2_048
_COLUMNS = 2_048
_SEED = 0
_UNIT_ROUNDOFF = 2.0**-24
"""Of float32."""


def count_improvable_rows(
    vectors: Float32Array,
    tree: SpanningTree,
    *,
    distance_floor: float,
    n_sampled: int = SAMPLE_ROWS,
    margin: float | None = None,
    progress: Progress | None = None,
) -> LighterEdges:
    """Count sampled rows with an edge that is lighter than the tree's path between its ends.

    Parameters
    ----------
    vectors : (n, d) float32
        Unit rows, n at least 2, in host or device memory; all products are made where they lie.
    tree : SpanningTree
        Over these rows, with their core distances.
    distance_floor : float
        Smaller distances count as this one.
    n_sampled : int
        Rows to sample, at most; the same ones for the same n.
    margin : float, optional
        Squared distance by which an edge must be lighter to count. By default what rounding can do to the
        square of a float32 height and of a core distance, 8·1.01·d·2⁻²⁴ (3.7e-4 at 768 dimensions): rounding
        of the tree's own numbers makes no row count.
    progress : Progress, optional
        Told the pairs of rows looked at.

    Returns
    -------
    LighterEdges
        The share, and how many rows were sampled.

    Raises
    ------
    ValueError
        The tree comes without core distances.

    Notes
    -----
    An edge weighs what the tree's own core distances make of it. Those that miss a neighbour are too large,
    never too small, and so are the weights: the share is then a lower bound.

    Each row is judged by one edge, that with the largest lead in float32, measured again in float64: leads
    below float32's rounding of a product can be missed, and none is invented.

    Takes one product of the sampled rows with all rows, and some 230 MiB beside them at 2,048 sampled rows.
    """
    if tree.core_distances is None:
        raise ValueError("the check needs the core distances that the tree was made with")
    n, d = vectors.shape
    margin = 8 * 1.01 * d * _UNIT_ROUNDOFF if margin is None else margin
    leaves = _leaves(tree, distance_floor)
    cores = np.maximum(tree.core_distances, distance_floor)[leaves.order]
    positions = np.flatnonzero(np.isin(leaves.order, sample_rows(n, n_sampled)))
    best = _largest_leads(vectors, leaves, cores, positions, progress or Silent())
    squared = _squared_distances(vectors, leaves.order[positions], leaves.order[best.position])
    weight = np.maximum(squared, np.maximum(cores[positions], cores[best.position]) ** 2)
    lighter = np.count_nonzero(best.path**2 - weight > margin)
    return LighterEdges(share=float(lighter / len(positions)), sample=len(positions))


def sample_rows(n: int, n_sampled: int = SAMPLE_ROWS) -> IntArray:
    """Choose rows at random, the same ones for the same numbers."""
    chosen: IntArray = np.random.default_rng(_SEED).choice(n, min(n, n_sampled), replace=False)
    return chosen


class _Leads(NamedTuple):
    """For each sampled row, the position of the row to which its edge leads most, and the path maximum."""

    position: IntArray
    path: FloatArray


def _leaves(tree: SpanningTree, distance_floor: float) -> DendrogramOrder:
    order = np.argsort(tree.height, kind="stable")
    height = np.maximum(tree.height[order], distance_floor)
    return dendrogram_order(len(order) + 1, Edges(tree.u[order], tree.v[order], height))


def _largest_leads(
    vectors: Float32Array, leaves: DendrogramOrder, cores: FloatArray, positions: IntArray, progress: Progress
) -> _Leads:
    xp: ArrayModule = namespace(vectors)
    paths = PathsFrom(*(xp.asarray(part) for part in paths_from(leaves.gaps, positions)))
    order, squares = xp.asarray(leaves.order), xp.asarray(cores**2)
    sampled = xp.asarray(positions)
    rows = vectors[order[sampled]]
    own, numbers = squares[sampled][:, None], xp.arange(len(positions))
    lead = xp.full(len(positions), -np.inf)
    position, path = xp.zeros(len(positions), dtype=np.int64), xp.zeros(len(positions))
    progress.phase("check a sample of the tree", total=float(len(positions) * len(cores)))
    for part in slices(len(cores), _COLUMNS):
        highest = paths.maxima(part)
        weight = 2.0 - 2.0 * (rows @ vectors[order[part]].T)
        weight = xp.maximum(xp.maximum(weight, squares[part][None, :]), own)
        leads = highest**2 - weight
        column = xp.argmax(leads, axis=1)
        better = leads[numbers, column] > lead
        lead = xp.where(better, leads[numbers, column], lead)
        position = xp.where(better, column + part.start, position)
        path = xp.where(better, highest[numbers, column], path)
        progress.advance(float(len(positions) * (part.stop - part.start)))
    return _Leads(to_host(position), to_host(path))


def _squared_distances(vectors: Float32Array, first: Array, second: Array) -> FloatArray:
    xp: ArrayModule = namespace(vectors)
    difference = vectors[xp.asarray(first)].astype(np.float64) - vectors[xp.asarray(second)]
    squared: FloatArray = to_host(xp.sum(difference * difference, axis=1))
    return squared
