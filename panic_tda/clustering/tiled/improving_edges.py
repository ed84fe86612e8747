"""Find improving edges of tile pairs: edges below the tree's path maximum between their ends.

Only this module uses three kinds of indices together:

*row*          a number of the matrix; the order of rows has no meaning.
*position*     an index into the tree's dendrogram order: `layout.order[position]` is a row, and path maxima
               are maxima of ranges of positions. A tile is such a range.
*local index*  an index into the rows or the columns of one tile, without the pruned rows. Scanners return
               local indices.

`by_position` arranges the values of the rows by position. `edges_within` and the edge scans take tiles from
it, and convert the returned local indices back to rows.

For positions p < q of two tiles, the largest merge height in (p, q] is the largest of three: from p to the
end of its tile (`to_end`), of the tiles between, and from the start of the second tile to q (`from_start`).
So each row has one number, its *height*, and the path maximum of a pair is the larger of its rows' heights.

A pair (p, q) can only matter when core_p and core_q are both below its path maximum. A row is *pruned* when
its core distance is not below its own height and not below the largest height on the other side: none of
its pairs in this pair of tiles can matter, so they are not multiplied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from panic_tda.arrays.namespace import namespace, to_host
from panic_tda.clustering.tiled.contract import ByPosition
from panic_tda.clustering.tiled.layout import Layout
from panic_tda.clustering.trees import DendrogramOrder, Edges, RangeMaxima, concatenate, minimum_forest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from panic_tda.clustering.tiled.contract import ImprovingEdges, Scanner, Space
    from panic_tda.types import Array, ArrayModule, FloatArray, Int32Array, IntArray

_SEED, _SAMPLE_ROWS = 0, 512
"""Of `estimate_candidates`."""


def by_position(xp: ArrayModule, leaves: DendrogramOrder, cores: FloatArray, starts: IntArray) -> ByPosition:
    """Arrange the values of the rows in dendrogram order.

    Parameters
    ----------
    xp : module
        The library that works.
    leaves : DendrogramOrder
        n positions.
    cores : (n,) float64
        Core distances by row.
    starts : (tiles + 1,) int64
        Position at which each tile begins, and the end.
    """
    here = Layout(leaves.order, starts)
    to_end, from_start = np.zeros(len(cores)), np.empty(len(cores))
    for tile in range(here.n_tiles):
        part = here.positions(tile)
        merge_heights = leaves.gaps[part]
        from_start[part] = np.maximum.accumulate(merge_heights)
        to_end[part][:-1] = np.maximum.accumulate(merge_heights[:0:-1])[::-1]
    values = (xp.asarray(of) for of in (cores[leaves.order], leaves.gaps, to_end, from_start))
    return ByPosition(Layout(xp.asarray(leaves.order), starts), *values)


def merge_heights_between(leaves: DendrogramOrder, starts: IntArray, pairs: Int32Array) -> FloatArray:
    """Return the largest merge height of the tiles between the two of each pair; 0 where there are none.

    Parameters
    ----------
    leaves : DendrogramOrder
        n positions.
    starts : (tiles + 1,) int64
        As for `by_position`.
    pairs : (pairs, 2) int32
        Tiles I <= J.
    """
    largest = RangeMaxima(np.maximum.reduceat(leaves.gaps, starts[:-1]))
    between: FloatArray = largest.of(pairs[:, 0].astype(np.int64) + 1, pairs[:, 1].astype(np.int64))
    return between


def edges_within(scanner: Scanner, tiles: ByPosition, tile: int) -> Edges:
    """Find a minimum spanning forest of the improving edges within one tile."""
    part, rows = tiles.layout.positions(tile), tiles.layout.rows(tile)
    return forest_of(
        rows, rows, scanner.find_improving_within(rows, tiles.merge_heights[part], tiles.cores[part])
    )


def estimate_candidates(space: Space, cores: FloatArray, leaves: DendrogramOrder) -> float:
    """Estimate the share of pairs of rows that the bound by axes cannot reject, from a sample of rows."""
    size = min(_SAMPLE_ROWS, len(cores))
    positions = np.sort(np.random.default_rng(_SEED).choice(len(cores), size, replace=False))
    rows = leaves.order[positions]
    # From each position of the sample to the next one; a path maximum is the largest of those between.
    steps = np.maximum.reduceat(leaves.gaps[1 : positions[-1] + 1], positions[:-1])
    heights = np.zeros((size, size))
    for i in range(size - 1):
        heights[i, i + 1 :] = np.maximum.accumulate(steps[i:])
    products = space.coordinates[rows] @ space.coordinates[rows].T.copy()
    is_candidate = (heights > cores[rows][:, None]) & (heights > cores[rows])
    is_candidate &= products >= 1 - heights * heights / 2
    return float(np.mean(is_candidate[np.triu_indices(size, 1)]))


def find_unpruned_rows(cores: tuple[Array, Array], heights: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return the local indices of the unpruned rows of two tiles, (rows, columns)."""
    xp = namespace(cores[0])
    rows = xp.flatnonzero(cores[0] < xp.maximum(heights[0], xp.max(heights[1])))
    if not len(rows):
        return rows, rows
    return rows, xp.flatnonzero(cores[1] < xp.maximum(heights[1], xp.max(heights[0][rows])))


NO_EDGES = Edges(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0))


def local_forest(edges: Edges) -> Edges:
    """Keep a minimum spanning forest of edges that touch few of all rows."""
    rows, ends = np.unique(np.concatenate([edges.u, edges.v]), return_inverse=True)
    u, v = np.split(ends, 2)
    forest = minimum_forest(len(rows), Edges(u, v, edges.height))
    return Edges(rows[forest.u], rows[forest.v], forest.height)


def forest_of(rows: Array, columns: Array, parts: Iterable[ImprovingEdges]) -> Edges:
    """Convert local indices to rows, and return a minimum spanning forest."""
    # Rows and columns of two tiles are different ones, so an offset separates their local indices.
    offset = 0 if rows is columns else len(rows)
    forest = NO_EDGES
    for pairs in parts:
        if len(pairs.height):
            more = Edges(pairs.i, pairs.j + offset, pairs.height)
            forest = minimum_forest(
                offset + len(columns), concatenate([forest, more]) if len(forest.u) else more
            )
    if not len(forest.u):
        return NO_EDGES
    row_numbers, column_numbers = (to_host(side).astype(np.int64) for side in (rows, columns))
    return Edges(row_numbers[forest.u], column_numbers[forest.v - offset], forest.height)
