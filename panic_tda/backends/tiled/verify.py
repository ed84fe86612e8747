"""Second pass: every edge that the first tree missed, or the proof that there is none.

A pair of rows can only be in a minimum spanning tree instead of an edge of the first one when it is lighter
than the heaviest edge on the tree's path between them; otherwise it is a heaviest edge of a cycle. With the
rows in leaf order, that path maximum is the largest of the gaps between them, and most rows of most tiles
cannot have a lighter edge: their core distance alone is too large.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

from panic_tda.backends.tiled import forest, kernels, margins
from panic_tda.backends.tiled.forest import Edges, find
from panic_tda.backends.tiled.layout import Layout, expected_work, schedule, tile_starts
from panic_tda.backends.tiled.survivors import Scanner, Space
from panic_tda.backends.tiled.workers import PerThread, Workers

if TYPE_CHECKING:
    from panic_tda.backends.base import Checkpoint
    from panic_tda.progress import Progress
    from panic_tda.types import Float32Array, FloatArray, Int32Array, IntArray


_FIRST_WAVE = 2
"""Tile pairs, per tile, after which the tree is improved for the first time."""
_NEAR_WORK = (5.0, 1.5, 1.5, 1.5)
"""Measured at 100,000 × 768 and 300,000 × 384: time of the first tile pairs, in times of a later one."""
_LAST_WAVES = 16
"""Waves grow up to this part of all tile pairs; between two of them the state can be saved."""
STATE = "verify"
_POOR_TREE = 0.1
"""Candidates of the first wave, per row, from which on starting over with the better tree pays."""
_THIN_OUT = 1 << 20
"""Edges held beyond the number of rows at which they are thinned out."""


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


class _State(NamedTuple):
    """Where the pass is: the best tree so far, the order of its start, and the pairs still to look at."""

    tree: Edges
    leaves: LeafOrder
    pairs: Int32Array
    done: int
    size: int
    """Tile pairs of the next wave."""
    may_start_over: bool = True


class Verifier:
    """Improves a spanning tree until it is a minimum one.

    Parameters
    ----------
    space : Space
        n rows.
    cores : (n,) float64
        Core distances.
    tile_rows : int
        Most rows of a tile.
    team : Workers
        Threads.
    progress : Progress
        Told the pairs of rows looked at.
    dead_rows : bool
        Whether rows that cannot have a lighter edge leave the products; switching it off changes nothing
        but the time.
    checkpoint : Checkpoint or None
        Where the tree is kept between waves.
    """

    def __init__(
        self,
        space: Space,
        cores: FloatArray,
        tile_rows: int,
        team: Workers,
        progress: Progress,
        *,
        dead_rows: bool = True,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self._space, self._cores, self._team, self._progress = space, cores, team, progress
        self._dead_rows, self._checkpoint = dead_rows, checkpoint
        self._starts = tile_starts(len(cores), tile_rows)
        self._scanners = PerThread(lambda: Scanner(space, tile_rows))
        self.n_candidates = 0

    def close(self, tree: Edges) -> Edges:
        """Return a minimum spanning tree, by ascending height.

        Parameters
        ----------
        tree : Edges
            Any spanning tree with true heights, ascending.
        """
        n, n_tiles = len(self._cores), len(self._starts) - 1
        n_pairs = n_tiles * (n_tiles + 1) // 2
        at = self._resumed() or self._start(tree, _FIRST_WAVE * n_tiles)
        self._announce(at)
        while at.done < n_pairs:
            before = self.n_candidates
            tree = self._wave(at)
            poor = self.n_candidates - before > _POOR_TREE * n
            if poor and at.done == 0 and at.may_start_over and at.size < n_pairs:
                # A poor tree shows between the tiles that look most similar, and the leaf order of a better
                # one then saves more than these pairs cost.
                at = self._start(tree, at.size)._replace(may_start_over=False)
                self._announce(at)
                continue
            # Positions stay, so that finished pairs stay finished; only the gaps shrink.
            leaves = LeafOrder(at.leaves.order, path_maxima(tree, at.leaves.order))
            size = min(2 * at.size, max(_FIRST_WAVE * n_tiles, n_pairs // _LAST_WAVES))
            at = at._replace(tree=tree, leaves=leaves, done=at.done + at.size, size=size)
            self._save(at, n_pairs)
        return at.tree

    def _start(self, tree: Edges, size: int) -> _State:
        leaves = leaf_order(len(self._cores), tree)
        return _State(tree, leaves, schedule(self._space.points, Layout(leaves.order, self._starts)), 0, size)

    def _announce(self, at: _State) -> None:
        work = self._work(at.leaves, at.pairs)
        self._progress.phase("verify", float(work.sum()))
        if at.done:
            self._progress.advance(float(work[: at.done].sum()))

    def _work(self, leaves: LeafOrder, pairs: Int32Array) -> FloatArray:
        near = _NEAR_WORK if self._space.bounded else ()
        return expected_work(Layout(leaves.order, self._starts), pairs, near)

    def _save(self, at: _State, n_pairs: int) -> None:
        if self._checkpoint is not None and at.done < n_pairs and self._checkpoint.due():
            self._checkpoint.save(
                STATE, **at.tree._asdict(), **at.leaves._asdict(), pairs=at.pairs, done=at.done, size=at.size
            )

    def _resumed(self) -> _State | None:
        stored = None if self._checkpoint is None else self._checkpoint.load(STATE)
        if stored is None:
            return None
        tree = Edges(*(stored[name] for name in Edges._fields))
        leaves = LeafOrder(*(stored[name] for name in LeafOrder._fields))
        return _State(tree, leaves, stored["pairs"], int(stored["done"]), int(stored["size"]), False)

    def _wave(self, at: _State) -> Edges:
        """Look at some tile pairs, and return the best tree from all edges known then."""
        n, leaves = len(self._cores), at.leaves
        part = slice(at.done, at.done + at.size)
        pairs, work = at.pairs[part], self._work(leaves, at.pairs)[part]
        tiles, between = _prepare(leaves, self._cores, self._starts, pairs)
        found, held = [at.tree], 0

        def one(number: int) -> Edges:
            first, second = pairs[number]
            if first == second:
                return _within(self._scanners.get(), self._space, tiles, first)
            return _across(
                self._scanners.get(), self._space, tiles, (first, second), between[number], self._dead_rows
            )

        for amount, edges in zip(work, self._team.map(one, range(len(pairs))), strict=True):
            self._progress.advance(float(amount))
            self.n_candidates += len(edges.u)
            if len(edges.u):
                found.append(edges)
                held += len(edges.u)
            if held > n + _THIN_OUT:
                found, held = [forest.minimum_forest(n, forest.concatenate(found))], 0
        return forest.minimum_forest(n, forest.concatenate(found)) if len(found) > 1 else found[0]


def path_maxima(tree: Edges, order: Int32Array) -> FloatArray:
    """Heaviest edge on the tree's path between the rows at each position and the one before it.

    Parameters
    ----------
    tree : Edges
        A spanning tree, by ascending height.
    order : (n,) int32
        Row at each position.

    Returns
    -------
    (n,) float64
        The first is infinite.
    """
    gaps = np.empty(len(order))
    _climb(tree.u, tree.v, tree.height, order, gaps)
    return gaps


@njit(cache=True, nogil=True)
def _climb(u: IntArray, v: IntArray, height: FloatArray, order: Int32Array, gaps: FloatArray) -> None:
    n = len(order)
    # Joined by size and never shortened, the forest of leaders is at most log2(n) deep, and heights rise
    # along it: the path maximum is met where the climbs from both rows meet.
    leader, size, joined = np.arange(n), np.ones(n, np.int64), np.full(n, np.inf)
    for t in range(len(u)):
        a, b = u[t], v[t]
        while leader[a] != a:
            a = leader[a]
        while leader[b] != b:
            b = leader[b]
        if size[a] < size[b]:
            a, b = b, a
        leader[b], joined[b] = a, height[t]
        size[a] += size[b]
    gaps[0] = np.inf
    for position in range(1, n):
        a, b, highest = order[position - 1], order[position], 0.0
        while a != b:
            if joined[a] > joined[b]:
                a, b = b, a
            highest = joined[a]
            a = leader[a]
        gaps[position] = highest


def _prepare(
    leaves: LeafOrder, cores: FloatArray, starts: IntArray, pairs: Int32Array
) -> tuple[_Tiles, FloatArray]:
    n = len(cores)
    to_end, from_start = np.empty(n), np.empty(n)
    for begin, end in pairwise(starts):
        gaps = leaves.gaps[begin:end]
        from_start[begin:end] = np.maximum.accumulate(gaps)
        to_end[end - 1] = 0.0
        to_end[begin : end - 1] = np.maximum.accumulate(gaps[:0:-1])[::-1]
    between = _range_maxima(
        from_start[starts[1:] - 1], pairs[:, 0].astype(np.int64) + 1, pairs[:, 1].astype(np.int64)
    )
    layout = Layout(leaves.order, starts)
    return _Tiles(layout, cores[leaves.order], leaves.gaps, to_end, from_start), between


def _range_maxima(values: FloatArray, begin: IntArray, end: IntArray) -> FloatArray:
    """Largest of values[begin:end] for many ranges, 0 for empty ones, from maxima of powers of two."""
    table = [values]
    while 2 ** len(table) <= len(values):
        half = 2 ** (len(table) - 1)
        table.append(np.maximum(table[-1][:-half], table[-1][half:]))
    level = np.frexp(np.maximum(end - begin, 1))[1] - 1
    largest = np.zeros(len(begin))
    for power, maxima in enumerate(table):
        chosen = (level == power) & (end > begin)
        first, last = begin[chosen], end[chosen] - 2**power
        largest[chosen] = np.maximum(maxima[first], maxima[last])
    return largest


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
    scanner: Scanner,
    space: Space,
    tiles: _Tiles,
    pair: tuple[int, int],
    between: float,
    dead_rows: bool,
) -> Edges:
    one, two = (np.arange(tiles.layout.starts[tile], tiles.layout.starts[tile + 1]) for tile in pair)
    heights = tiles.to_end[one], np.maximum(tiles.from_start[two], between)
    if dead_rows:
        alive = tiles.cores[one] < np.maximum(heights[0], heights[1].max())
        one, heights = one[alive], (heights[0][alive], heights[1])
        alive = tiles.cores[two] < np.maximum(heights[1], heights[0].max(initial=0.0))
        two, heights = two[alive], (heights[0], heights[1][alive])
        if not len(one) or not len(two):
            return _NOTHING
    sides = tiles.layout.order[one], tiles.layout.order[two]
    cores = tiles.cores[one], tiles.cores[two]
    lower = tuple(_thresholds(heights[side], cores[side], space.margin) for side in (0, 1))
    codes, _, found = scanner.pairs(
        *sides,
        (lower[0], lower[1]),
        lambda codes, found: kernels.drop_dead_pairs(codes, found, cores, heights),
    )
    height = np.empty(found + 1)
    found = kernels.light_pairs(space.vectors, sides, codes, found, cores, heights, height)
    return _local_forest(*sides, codes[:found], height[:found])


def _thresholds(heights: FloatArray, cores: FloatArray, margin: float) -> Float32Array:
    """Product below which a row's own largest gap rules a pair out.

    A row whose core distance exceeds that gap has none: its pairs live only below the other row's.
    """
    lower = margins.lower_products(heights, margin)
    lower[cores >= heights] = np.inf
    return lower


_NOTHING = Edges(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0))


def _local_forest(rows: Int32Array, columns: Int32Array, codes: Int32Array, height: FloatArray) -> Edges:
    """Keep a minimum spanning forest of a tile's pairs: no other of them can be in that of all rows."""
    if not len(codes):
        return _NOTHING
    i, j = np.divmod(codes.astype(np.int64), len(columns))
    apart = 0 if rows is columns else len(rows)
    kept = forest.minimum_forest(apart + len(columns), Edges(i, j + apart, height))
    return Edges(rows[kept.u].astype(np.int64), columns[kept.v - apart].astype(np.int64), kept.height)
