"""Second pass: every edge that the first tree missed, or the proof that there is none.

A pair of rows can only be in a minimum spanning tree instead of an edge of the first one when it is lighter
than the heaviest edge on the tree's path between them; otherwise it is a heaviest edge of a cycle. With the
rows in leaf order, that path maximum is the largest of the gaps between them, and most rows of most tiles
cannot have a lighter edge: their core distance alone is too large.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

from panic_tda.backends.tiled import forest, kernels, margins
from panic_tda.backends.tiled.forest import Edges, find
from panic_tda.backends.tiled.layout import Layout, tile_starts
from panic_tda.backends.tiled.survivors import Scanner, Space
from panic_tda.backends.tiled.workers import Workers

if TYPE_CHECKING:
    from panic_tda.progress import Progress
    from panic_tda.types import FloatArray, Int32Array, IntArray


class LeafOrder(NamedTuple):
    """The leaves of a spanning tree's hierarchy, side by side as they merge.

    Attributes
    ----------
    order : (n,) int32
        Row at each position.
    gaps : (n,) float64
        Height at which the row at a position joined the one before it; the first is infinite. The largest
        gap after position p up to position q is the heaviest edge on the path between their rows.
    """

    order: Int32Array
    gaps: FloatArray


def leaf_order(n: int, tree: Edges) -> LeafOrder:
    """Order the rows by joining lists along the edges, which come by ascending height.

    The larger list comes first, which keeps rows that were joined late at the end.
    """
    order, gaps = np.empty(n, dtype=np.int32), np.empty(n)
    _join_lists(tree.u, tree.v, tree.height, order, gaps)
    return LeafOrder(order, gaps)


@njit(cache=True, nogil=True)
def _join_lists(u: IntArray, v: IntArray, height: FloatArray, order: Int32Array, gaps: FloatArray) -> None:
    n = len(order)
    leader, size, tail, following = np.arange(n), np.ones(n, np.int64), np.arange(n), np.full(n, -1)
    head = np.arange(n)
    joined = np.full(n, np.inf)
    for t in range(len(u)):
        a, b = find(leader, u[t]), find(leader, v[t])
        if size[a] < size[b]:
            a, b = b, a
        following[tail[a]] = head[b]
        joined[head[b]] = height[t]
        tail[a] = tail[b]
        leader[b] = a
        size[a] += size[b]
    row = head[find(leader, 0)]
    for position in range(n):
        order[position], gaps[position] = row, joined[row]
        row = following[row]


class _Tiles(NamedTuple):
    """What a tile pair needs of its rows; all but the layout by position."""

    layout: Layout
    cores: FloatArray
    gaps: FloatArray
    to_end: FloatArray
    """Largest gap after a position, up to the end of its tile."""
    from_start: FloatArray
    """Largest gap from the start of its tile up to a position, both included."""
    largest: FloatArray
    """Largest gap of each tile."""


class Pruning(NamedTuple):
    """What may be left out of the products; switched off only to show that it changes nothing."""

    dead_rows: bool = True
    axes: bool = True


def missed_edges(
    space: Space,
    cores: FloatArray,
    tree: Edges,
    tile_rows: int,
    team: Workers,
    progress: Progress,
    pruning: Pruning = Pruning(),
) -> Iterator[Edges]:
    """Yield edges that, with those of `tree`, contain a minimum spanning tree.

    Parameters
    ----------
    space : Space
        n rows.
    cores : (n,) float64
        Core distances.
    tree : Edges
        Any spanning tree with true heights, ascending.
    tile_rows : int
        Most rows of a tile.
    team : Workers
        Threads.
    progress : Progress
        Told the pairs of rows looked at.
    pruning : Pruning
        Which short cuts are taken.
    """
    tiles = _prepare(leaf_order(len(cores), tree), cores, tile_rows)
    local = threading.local()

    def one(task: tuple[int, int, float]) -> tuple[Edges, float]:
        if not hasattr(local, "scanner"):
            local.scanner = Scanner(space, tile_rows)
        first, second, between = task
        done = float(len(tiles.layout.rows(first)) * len(tiles.layout.rows(second)))
        if first == second:
            return _within(local.scanner, space, tiles, first), done
        return _across(local.scanner, space, tiles, task, pruning), done

    sizes = np.diff(tiles.layout.starts).astype(np.float64)
    progress.phase("verify", float((sizes.sum() ** 2 + (sizes**2).sum()) / 2))
    for edges, done in team.map(one, _tasks(tiles)):
        progress.advance(done)
        if len(edges.u):
            yield edges


def _prepare(leaves: LeafOrder, cores: FloatArray, tile_rows: int) -> _Tiles:
    n = len(cores)
    layout = Layout(leaves.order, tile_starts(n, tile_rows))
    to_end, from_start = np.empty(n), np.empty(n)
    for begin, end in zip(layout.starts[:-1], layout.starts[1:], strict=True):
        gaps = leaves.gaps[begin:end]
        from_start[begin:end] = np.maximum.accumulate(gaps)
        to_end[end - 1] = 0.0
        to_end[begin : end - 1] = np.maximum.accumulate(gaps[:0:-1])[::-1]
    largest = from_start[layout.starts[1:] - 1]
    return _Tiles(layout, cores[leaves.order], leaves.gaps, to_end, from_start, largest)


def _tasks(tiles: _Tiles) -> Iterator[tuple[int, int, float]]:
    n_tiles = tiles.layout.n_tiles
    for first in range(n_tiles):
        between = 0.0
        for second in range(first, n_tiles):
            yield first, second, between
            if second > first:
                between = max(between, float(tiles.largest[second]))


def _within(scanner: Scanner, space: Space, tiles: _Tiles, tile: int) -> Edges:
    part = slice(tiles.layout.starts[tile], tiles.layout.starts[tile + 1])
    rows, gaps, cores = tiles.layout.order[part], tiles.gaps[part], tiles.cores[part]
    products = scanner.multiply(space.vectors, rows, rows)
    # The gap before the first row belongs to the pairs with the tiles before.
    finite = np.where(np.isfinite(gaps), gaps, 0.0)
    lower = margins.lower_products(finite, space.margin)
    found = kernels.collect_within(products, lower, gaps, cores, scanner.codes)
    height = np.empty(found + 1)
    found = kernels.light_pairs_within(space.vectors, rows, scanner.codes, found, cores, gaps, height)
    return _local_forest(rows, rows, scanner.codes[:found], height[:found])


def _across(
    scanner: Scanner, space: Space, tiles: _Tiles, task: tuple[int, int, float], pruning: Pruning
) -> Edges:
    first, second, between = task
    one = np.arange(tiles.layout.starts[first], tiles.layout.starts[first + 1])
    two = np.arange(tiles.layout.starts[second], tiles.layout.starts[second + 1])
    heights = tiles.to_end[one], np.maximum(tiles.from_start[two], between)
    if pruning.dead_rows:
        alive = tiles.cores[one] < np.maximum(heights[0], heights[1].max())
        one, heights = one[alive], (heights[0][alive], heights[1])
        alive = tiles.cores[two] < np.maximum(heights[1], heights[0].max(initial=0.0))
        two, heights = two[alive], (heights[0], heights[1][alive])
        if not len(one) or not len(two):
            return _NOTHING
    sides = tiles.layout.order[one], tiles.layout.order[two]
    cores = tiles.cores[one], tiles.cores[two]
    lower = (
        margins.lower_products(heights[0], space.margin),
        margins.lower_products(heights[1], space.margin),
    )
    codes, _, found = scanner.pairs(
        *sides, lower, lambda codes, found: kernels.drop_dead_pairs(codes, found, cores, heights)
    )
    height = np.empty(found + 1)
    found = kernels.light_pairs(space.vectors, sides, codes, found, cores, heights, height)
    return _local_forest(*sides, codes[:found], height[:found])


_NOTHING = Edges(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0))


def _local_forest(rows: Int32Array, columns: Int32Array, codes: Int32Array, height: FloatArray) -> Edges:
    """Keep a minimum spanning forest of a tile's pairs: no other of them can be in that of all rows."""
    if not len(codes):
        return _NOTHING
    i, j = np.divmod(codes.astype(np.int64), len(columns))
    apart = 0 if rows is columns else len(rows)
    kept = forest.minimum_forest(apart + len(columns), Edges(i, j + apart, height))
    return Edges(rows[kept.u].astype(np.int64), columns[kept.v - apart].astype(np.int64), kept.height)
