"""Second pass: every edge that the first tree missed, or the proof that there is none.

A pair of rows can only be in a minimum spanning tree instead of an edge of the first one when it is lighter
than the heaviest edge on the tree's path between them; otherwise it is a heaviest edge of a cycle. With the
rows in leaf order, that path maximum is the largest of the gaps between them, and most rows of most tiles
cannot have a lighter edge: their core distance alone is too large.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from panic_tda.arrays.namespace import namespace, to_host
from panic_tda.clustering.tiled.layout import Layout, expected_work, schedule, tile_starts
from panic_tda.clustering.tiled.workers import PerThread, Workers
from panic_tda.clustering.trees import (
    Edges,
    LeafOrder,
    RangeMaxima,
    concatenate,
    leaf_order,
    minimum_forest,
    path_maxima,
)

if TYPE_CHECKING:
    from panic_tda.clustering.backends.base import Checkpoint
    from panic_tda.clustering.tiled.space import Scanner, Space
    from panic_tda.clustering.tiled.survivors import LightPairs
    from panic_tda.progress import Progress
    from panic_tda.types import FloatArray, Int32Array, IntArray


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


class _Tiles(NamedTuple):
    """What a tile pair needs of its rows, in the memory where they are worked on.

    All but the layout by position.
    """

    layout: Layout
    cores: Any
    gaps: Any
    to_end: Any
    """Largest gap after a position, up to the end of its tile."""
    from_start: Any
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
        self._scanners = PerThread(lambda: space.work.scanner(space, tile_rows))
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
        tiles, between = _prepare(self._space.xp, leaves, self._cores, self._starts, pairs)
        found, held = [at.tree], 0

        def one(number: int) -> Edges:
            first, second = (int(tile) for tile in pairs[number])
            if first == second:
                return _within(self._scanners.get(), tiles, first)
            return _across(
                self._scanners.get(), tiles, (first, second), float(between[number]), self._dead_rows
            )

        for amount, edges in zip(work, self._team.map(one, range(len(pairs))), strict=True):
            self._progress.advance(float(amount))
            self.n_candidates += len(edges.u)
            if len(edges.u):
                found.append(edges)
                held += len(edges.u)
            if held > n + _THIN_OUT:
                found, held = [minimum_forest(n, concatenate(found))], 0
        return minimum_forest(n, concatenate(found)) if len(found) > 1 else found[0]


def _prepare(
    xp: Any, leaves: LeafOrder, cores: FloatArray, starts: IntArray, pairs: Int32Array
) -> tuple[_Tiles, FloatArray]:
    n = len(cores)
    to_end, from_start = np.empty(n), np.empty(n)
    for begin, end in pairwise(starts):
        gaps = leaves.gaps[begin:end]
        from_start[begin:end] = np.maximum.accumulate(gaps)
        to_end[end - 1] = 0.0
        to_end[begin : end - 1] = np.maximum.accumulate(gaps[:0:-1])[::-1]
    # Largest gap of the whole tiles that lie between the two of a pair.
    between = RangeMaxima(from_start[starts[1:] - 1]).of(
        pairs[:, 0].astype(np.int64) + 1, pairs[:, 1].astype(np.int64)
    )
    layout = Layout(xp.asarray(leaves.order), starts)
    rows = (xp.asarray(values) for values in (cores[leaves.order], leaves.gaps, to_end, from_start))
    return _Tiles(layout, *rows), between


def _within(scanner: Scanner, tiles: _Tiles, tile: int) -> Edges:
    part = slice(tiles.layout.starts[tile], tiles.layout.starts[tile + 1])
    rows = tiles.layout.rows(tile)
    return _local_forest(rows, rows, scanner.light_within(rows, tiles.gaps[part], tiles.cores[part]))


def _across(scanner: Scanner, tiles: _Tiles, pair: tuple[int, int], between: float, dead_rows: bool) -> Edges:
    xp, starts = namespace(tiles.cores), tiles.layout.starts
    one, two = (slice(starts[tile], starts[tile + 1]) for tile in pair)
    rows, columns = tiles.layout.order[one], tiles.layout.order[two]
    cores = tiles.cores[one], tiles.cores[two]
    heights = tiles.to_end[one], xp.maximum(tiles.from_start[two], between)
    if dead_rows:
        alive = xp.flatnonzero(cores[0] < xp.maximum(heights[0], xp.max(heights[1])))
        if not len(alive):
            return _NOTHING
        rows, cores, heights = rows[alive], (cores[0][alive], cores[1]), (heights[0][alive], heights[1])
        alive = xp.flatnonzero(cores[1] < xp.maximum(heights[1], xp.max(heights[0])))
        if not len(alive):
            return _NOTHING
        columns, cores = columns[alive], (cores[0], cores[1][alive])
        heights = heights[0], heights[1][alive]
    return _local_forest(rows, columns, scanner.light_across((rows, columns), cores, heights))


_NOTHING = Edges(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0))


def _local_forest(rows: Any, columns: Any, pairs: LightPairs) -> Edges:
    """Keep a minimum spanning forest of a tile's pairs: no other of them can be in that of all rows."""
    if not len(pairs.height):
        return _NOTHING
    one, two = (to_host(side).astype(np.int64) for side in (rows, columns))
    apart = 0 if rows is columns else len(one)
    kept = minimum_forest(apart + len(two), Edges(pairs.i, pairs.j + apart, pairs.height))
    return Edges(one[kept.u], two[kept.v - apart], kept.height)
