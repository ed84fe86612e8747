"""Second pass over the tile pairs: find all improving edges and make the spanning tree a minimum one.

A spanning tree is a minimum one when no edge is lighter than the heaviest edge on the tree's path between its
ends: each edge outside the tree is then a heaviest one of a cycle. With the rows in dendrogram order, that
path maximum is the largest merge height between them. Most rows of most tiles cannot have an improving edge,
because their core distance is too large (`improving_edges`).

Tile pairs are compared in *waves*. After each wave, the best tree of all edges known so far replaces the
earlier one, and the next wave is compared with it. Path maxima only fall from a tree to the next, so an edge
that was not lighter than one of them is not lighter than the last: finished tile pairs stay finished. They
are pairs of ranges of positions, so every row keeps its position. Only the merge heights change, to the new
tree's path maxima between neighbouring positions. A range of those bounds the path maximum between its ends
from above, so that no edge that could matter is left out.

The first wave is also a test: if it finds many edges the tree was poor, and one fresh start, in the
dendrogram order of the better tree, saves more than the wave cost. Later waves grow, since each takes a sort
of the edges and the tree improves less and less; between two of them the state can be saved.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from panic_tda.clustering import phases
from panic_tda.clustering.tiled.improving_edges import by_position, edges_within, merge_heights_between
from panic_tda.clustering.tiled.layout import (
    Layout,
    estimate_work,
    find_batch_bounds,
    schedule_tile_pairs,
    tile_starts,
)
from panic_tda.clustering.tiled.state_checks import check_verify, verify_forms
from panic_tda.clustering.tiled.workers import PerThread, Workers
from panic_tda.clustering.trees import (
    DendrogramOrder,
    Edges,
    concatenate,
    dendrogram_order,
    minimum_forest,
    path_maxima,
)

if TYPE_CHECKING:
    from panic_tda.clustering.backends.base import Checkpoint
    from panic_tda.clustering.tiled.contract import EdgeScan, Space
    from panic_tda.progress import Progress
    from panic_tda.types import FloatArray, Int32Array


FIRST_WAVE = 2
"""Tile pairs, per tile, after which the tree is improved for the first time."""
NEAR_WORK = (5.0, 1.5, 1.5, 1.5)
"""Measured at 100,000 × 768 and 300,000 × 384: time of the first tile pairs, in times of a later one."""
LAST_WAVES = 16
"""Waves grow up to this part of all tile pairs; between two of them the state can be saved."""
STATE = "verify"
POOR_TREE = 0.1
"""Candidates of the first wave, per row, from which on starting over with the better tree pays."""
THIN_OUT = 1 << 20
"""Edges held beyond the number of rows, and no more than there are rows, at which they are thinned out."""


class SavedPass(NamedTuple):
    """Saved state of the pass; see `_State`."""

    tree: Edges
    leaves: DendrogramOrder
    pairs: Int32Array
    n_done: int
    size: int


def load(checkpoint: Checkpoint, n: int, n_tiles: int) -> SavedPass | None:
    """Return the saved state of the pass over `n` rows, or None."""
    forms, check = verify_forms(n, n_tiles), partial(check_verify, n_tiles=n_tiles)
    stored = checkpoint.load(STATE, forms, check=check)
    if stored is None:
        return None
    tree = Edges(*(stored[name] for name in Edges._fields))
    leaves = DendrogramOrder(*(stored[name] for name in DendrogramOrder._fields))
    return SavedPass(tree, leaves, stored["pairs"], int(stored["done"]), int(stored["size"]))


def save(checkpoint: Checkpoint, at: SavedPass) -> None:
    """Save the state of the pass; the pairs of each tile with itself are among those that are done."""
    checkpoint.save(
        STATE, **at.tree._asdict(), **at.leaves._asdict(), pairs=at.pairs, done=at.n_done, size=at.size
    )


class _State(NamedTuple):
    """State of the pass between two waves.

    Attributes
    ----------
    tree : Edges
        The best spanning tree so far, by ascending height; its ends are rows.
    leaves : DendrogramOrder
        Positions of the rows, which stay from the first wave on, and the tree's merge heights between them.
    pairs : (pairs, 2) int32
        All tile pairs in the order in which they are looked at.
    n_done : int
        How many of them have been.
    size : int
        How many the next wave takes.
    scan : EdgeScan
        Of the rows in this order.
    """

    tree: Edges
    leaves: DendrogramOrder
    pairs: Int32Array
    n_done: int
    size: int
    scan: EdgeScan

    @property
    def finished(self) -> bool:
        """Return whether all tile pairs have been processed."""
        return self.n_done >= len(self.pairs)


def estimate_pass_work(space: Space, layout: Layout, pairs: Int32Array) -> FloatArray:
    """Return the work of each tile pair."""
    return estimate_work(layout, pairs, NEAR_WORK if space.bounded else ())


def announce(work: FloatArray, n_done: int, progress: Progress) -> None:
    """Begin the phase, with the tile pairs that are done."""
    progress.phase(phases.VERIFY, float(work.sum()))
    if n_done:
        progress.advance(float(work[:n_done].sum()))


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
        Receives the number of pairs of rows compared.
    prune_rows : bool
        Whether to leave out rows that cannot have an improving edge; this changes only the time.
    checkpoint : Checkpoint or None
        Where the state is kept between waves.

    Attributes
    ----------
    n_candidates : int
        Edges found that were lighter than a tree's path.
    """

    def __init__(
        self,
        space: Space,
        cores: FloatArray,
        *,
        tile_rows: int,
        team: Workers,
        progress: Progress,
        prune_rows: bool = True,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self._space, self._cores, self._team, self._progress = space, cores, team, progress
        self._prune_rows, self._checkpoint = prune_rows, checkpoint
        self._starts = tile_starts(len(cores), tile_rows)
        self._scanners = PerThread(lambda: space.kernels.scanner(space, tile_rows))
        self.n_candidates = 0

    def minimize_tree(self, tree: Edges) -> Edges:
        """Return a minimum spanning tree, by ascending height.

        Parameters
        ----------
        tree : Edges
            Any spanning tree with true heights, ascending. Where a killed run stopped, its own counts.
        """
        at = self._resumed() or self._first_wave(tree)
        while not at.finished:
            at = self._after(at, self._wave(at))
        return at.tree

    def _first_wave(self, tree: Edges) -> _State:
        """Look at the first tile pairs; begin once more if the tree turns out to be poor."""
        at = self._begin(tree)
        better = self._wave(at)
        poor = self.n_candidates > POOR_TREE * len(self._cores)
        if poor and at.size < len(at.pairs):
            # A poor tree shows between the tiles that look most similar, and the dendrogram order of a better
            # one then saves more than these pairs cost.
            at = self._begin(better)
            better = self._wave(at)
        return self._after(at, better)

    def _begin(self, tree: Edges) -> _State:
        leaves = dendrogram_order(len(self._cores), tree)
        pairs = schedule_tile_pairs(self._space.coordinates, Layout(leaves.order, self._starts))
        at = _State(tree, leaves, pairs, 0, self._first_size, self._scan(leaves))
        self._announce(at)
        return at

    def _after(self, at: _State, tree: Edges) -> _State:
        """Return the state after a wave that led to `tree`, and save it when that is due."""
        # Positions stay, so that finished pairs stay finished; only the merge heights shrink.
        leaves = DendrogramOrder(at.leaves.order, path_maxima(tree, at.leaves.order))
        size = min(2 * at.size, max(self._first_size, len(at.pairs) // LAST_WAVES))
        after = _State(tree, leaves, at.pairs, at.n_done + at.size, size, at.scan)
        if self._checkpoint is not None and not after.finished and self._checkpoint.due():
            save(self._checkpoint, SavedPass(tree, leaves, after.pairs, after.n_done, size))
        return after

    def _resumed(self) -> _State | None:
        if self._checkpoint is None:
            return None
        stored = load(self._checkpoint, len(self._cores), len(self._starts) - 1)
        if stored is None:
            return None
        at = _State(*stored, self._scan(stored.leaves))
        self._announce(at)
        return at

    def _scan(self, leaves: DendrogramOrder) -> EdgeScan:
        layout = Layout(self._space.xp.asarray(leaves.order), self._starts)
        return self._space.kernels.edge_scan(self._space, layout, self._team)

    @property
    def _first_size(self) -> int:
        return FIRST_WAVE * (len(self._starts) - 1)

    def _announce(self, at: _State) -> None:
        announce(self._work(at), at.n_done, self._progress)

    def _work(self, at: _State) -> FloatArray:
        return estimate_pass_work(self._space, Layout(at.leaves.order, self._starts), at.pairs)

    def _wave(self, at: _State) -> Edges:
        """Look at some tile pairs, and return the best tree from all edges known then."""
        n, part = len(self._cores), slice(at.n_done, at.n_done + at.size)
        pairs, work = at.pairs[part], self._work(at)[part]
        tiles = by_position(self._space.xp, at.leaves, self._cores, self._starts)
        between = merge_heights_between(at.leaves, self._starts, pairs)
        at.scan.use(tiles, prune_rows=self._prune_rows)
        bounds = find_batch_bounds(at.pairs, len(self._starts) - 1) - at.n_done
        bounds = np.unique(np.clip(bounds, 0, len(pairs)))
        edge_sets, n_held = [at.tree], 0

        def find(number: int) -> Edges:
            batch = slice(int(bounds[number]), int(bounds[number + 1]))
            first, second = pairs[batch.start].tolist()
            if first == second:
                return edges_within(self._scanners.get(), tiles, first)
            return at.scan.find(pairs[batch], between[batch])

        amounts = np.add.reduceat(work, bounds[:-1]) if len(work) else work
        for amount, edges in zip(amounts, self._team.map(find, range(len(bounds) - 1)), strict=True):
            self._progress.advance(float(amount))
            self.n_candidates += len(edges.u)
            if len(edges.u):
                edge_sets.append(edges)
                n_held += len(edges.u)
            if n_held > n + min(n, THIN_OUT):
                edge_sets, n_held = [minimum_forest(n, concatenate(edge_sets))], 0
        return minimum_forest(n, concatenate(edge_sets)) if len(edge_sets) > 1 else edge_sets[0]
