"""Edges of a pair of tiles that are lighter than the tree's path between their ends.

Three kinds of numbers meet here, and only here:

*row*       a number of the matrix, in no order that means anything;
*position*  a place in the tree's leaf order: `layout.order[position]` is a row, and path maxima are maxima of
            ranges of positions. A tile is such a range;
*place*     a number within the rows or the columns of one tile, after dead ones have left: what a scanner
            answers with.

`by_position` brings what belongs to rows into the order of positions; `edges_of_pair` cuts tiles out of it,
and makes rows again of the places that come back.

For positions p < q of two tiles, the largest gap in (p, q] is the largest of three: from p to the end of its
tile (`to_end`), of the tiles between, and from the start of the other tile to q (`from_start`). So each row
has one number, its *height*, and the path maximum of a pair is the larger of its rows' heights.

A pair (p, q) can only matter when core_p and core_q are both below its path maximum. A row whose core
distance is not below its own height and not below the largest height on the other side is *dead*: none of its
pairs in this pair of tiles can matter, and it leaves the products.
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

    from panic_tda.clustering.tiled.contract import ImprovingEdges, Scanner
    from panic_tda.types import Array, ArrayModule, FloatArray, Int32Array, IntArray


def by_position(xp: ArrayModule, leaves: DendrogramOrder, cores: FloatArray, starts: IntArray) -> ByPosition:
    """Bring rows into leaf order.

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
    """Largest gap of the whole tiles that lie between the two of each pair, 0 where there are none.

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


def live_rows(cores: tuple[Array, Array], heights: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return the local indices of the rows of two tiles that their core distances do not rule out."""
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
    """Turn places into rows, and keep a minimum spanning forest."""
    # Rows and columns of two tiles are different ones, so their places are told apart by an offset.
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
