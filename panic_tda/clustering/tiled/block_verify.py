"""Second pass over the tile pairs by an executor: workers find improving edges, this process holds the tree.

The tree is improved while results arrive, and no task waits for that: a task may be measured against any
older tree, since path maxima only fall. Rows keep their positions, as in `verify`, whose waves this pass has
not.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np

from panic_tda.clustering.tiled import verify
from panic_tda.clustering.tiled.blocks import divide_tiles, group_pairs, make_part, sort_pairs
from panic_tda.clustering.tiled.improving_edges import by_position
from panic_tda.clustering.tiled.layout import Layout, schedule_tile_pairs, tile_starts
from panic_tda.clustering.tiled.tasks import EdgeTask, find_improving_edges
from panic_tda.clustering.trees import (
    DendrogramOrder,
    Edges,
    RangeMaxima,
    concatenate,
    dendrogram_order,
    minimum_forest,
    path_maxima,
)
from panic_tda.progress import annotate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from panic_tda.clustering.backends.base import Checkpoint
    from panic_tda.clustering.executor import Executor
    from panic_tda.clustering.tiled.contract import Space
    from panic_tda.clustering.tiled.row_files import RowFiles, RowWriter
    from panic_tda.progress import Progress
    from panic_tda.types import BoolArray, FloatArray, Int32Array, IntArray


class BlockVerifier:
    """Improves a spanning tree until it is a minimum one; see `verify.Verifier`.

    Saved states are those of `verify`: the work can go on with another number of workers, or without.

    Parameters
    ----------
    space, cores, tile_rows, progress, prune_rows, checkpoint
        As for `verify.Verifier`, in host memory.
    executor : Executor
        Runs the tasks.
    writer : RowWriter
        Writes the rows for the tasks.

    Attributes
    ----------
    n_candidates : int
        Edges that the tasks returned.
    """

    def __init__(
        self,
        space: Space,
        cores: FloatArray,
        *,
        tile_rows: int,
        executor: Executor,
        writer: RowWriter,
        progress: Progress,
        prune_rows: bool = True,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self._space, self._cores, self._executor, self._writer = space, cores, executor, writer
        self._progress, self._prune_rows, self._checkpoint = progress, prune_rows, checkpoint
        self._starts = tile_starts(len(cores), tile_rows)
        self.n_candidates = 0

    def minimize_tree(self, tree: Edges) -> Edges:
        """Return a minimum spanning tree, by ascending height; see `verify.Verifier.minimize_tree`."""
        n_tiles = len(self._starts) - 1
        stored = None
        if self._checkpoint is not None:
            stored = verify.load(self._checkpoint, len(self._cores), n_tiles)
        if stored is not None:
            return self._process_pairs(stored, may_restart=False)[0]
        tree, is_poor = self._process_pairs(self._begin(tree), may_restart=True)
        return self._process_pairs(self._begin(tree), may_restart=False)[0] if is_poor else tree

    def _begin(self, tree: Edges) -> verify.SavedPass:
        leaves = dendrogram_order(len(self._cores), tree)
        pairs = schedule_tile_pairs(self._space.coordinates, Layout(leaves.order, self._starts))
        size = verify.FIRST_WAVE * (len(self._starts) - 1)
        return verify.SavedPass(tree, leaves, pairs, 0, size)

    def _process_pairs(self, at: verify.SavedPass, *, may_restart: bool) -> tuple[Edges, bool]:
        """Look at the tile pairs that are left; return the best tree, and whether to begin once more.

        If the pairs within blocks have many edges, the tree was poor: the dendrogram order of a better tree
        saves more than these pairs cost.
        """
        order, pairs = at.leaves.order, at.pairs
        work = verify.estimate_pass_work(self._space, Layout(order, self._starts), pairs)
        verify.announce(work, at.n_done, self._progress)
        is_done = np.arange(len(pairs)) < at.n_done
        if is_done.all():
            return at.tree, False
        files = self._writer.write(order, bounded=self._space.bounded)
        current = _CurrentTree(at.tree, at.leaves, self._cores, self._starts)
        n_tiles, executor = len(self._starts) - 1, self._executor
        bounds = divide_tiles(n_tiles, executor.slots, on_device=executor.on_device)
        groups = group_pairs(pairs, np.flatnonzero(~is_done), bounds)
        within = np.concatenate([np.empty(0, dtype=np.int64), *groups.within])

        def finish(numbers: IntArray) -> None:
            numbers = numbers[~is_done[numbers]]
            is_done[numbers] = True
            self._progress.advance(float(work[numbers].sum()))

        def make_tasks() -> Iterator[EdgeTask]:
            for numbers in (*groups.within, *groups.between):
                is_live = np.ones(len(numbers), dtype=np.bool_)
                if self._prune_rows:
                    is_live = current.may_improve(pairs[numbers])
                finish(numbers[~is_live])
                if is_live.any():
                    yield self._make_task(files, current, pairs, numbers[is_live], bounds)

        may_restart = may_restart and bool(groups.between)
        size, n_before, n_first = at.size, np.count_nonzero(is_done), self.n_candidates
        with closing(self._executor.map(find_improving_edges, make_tasks())) as results:
            for task, edges in results:
                rows = order[task.part.positions].astype(np.int64)
                current.add(Edges(rows[edges.u], rows[edges.v], edges.height))
                self.n_candidates += len(edges.u)
                finish(task.part.numbers)
                annotate(self._progress, self._executor.pace)
                if may_restart and is_done[within].all():
                    may_restart = False
                    if self.n_candidates - n_first > verify.POOR_TREE * len(self._cores):
                        break
                if np.count_nonzero(is_done) - n_before >= size or current.is_full:
                    current.improve()
                    n_before = np.count_nonzero(is_done)
                    size = min(2 * size, max(size, len(pairs) // verify.LAST_WAVES))
                self._save_if_due(current, pairs, is_done, size)
        current.improve()
        self._writer.remove_files()
        return current.tree, not is_done.all()

    def _make_task(
        self, files: RowFiles, current: _CurrentTree, pairs: Int32Array, numbers: IntArray, bounds: IntArray
    ) -> EdgeTask:
        part, tiles = make_part(pairs, numbers, self._starts, bounds), current.tiles
        values = {
            name: np.concatenate([getattr(tiles, name)[begin:end] for begin, end in part.ranges])
            for name in ("cores", "merge_heights", "to_end", "from_start")
        }
        between = current.heights_between(pairs[numbers])
        return EdgeTask(files=files, part=part, between=between, prune_rows=self._prune_rows, **values)

    def _save_if_due(self, current: _CurrentTree, pairs: Int32Array, is_done: BoolArray, size: int) -> None:
        may_save = is_done[: len(self._starts) - 1].all() and not is_done.all()
        if self._checkpoint is not None and may_save and self._checkpoint.due():
            current.improve()
            sorted_pairs, n_done = sort_pairs(pairs, is_done)
            verify.save(
                self._checkpoint, verify.SavedPass(current.tree, current.leaves, sorted_pairs, n_done, size)
            )


class _CurrentTree:
    """The best spanning tree so far, and its values by position, with which new tasks compare.

    Attributes
    ----------
    tree : Edges
        Without the edges that were added since `improve`.
    leaves : DendrogramOrder
        Positions of the rows, which stay, and the tree's merge heights between them.
    tiles : ByPosition
        Values of the rows in this order.
    """

    def __init__(self, tree: Edges, leaves: DendrogramOrder, cores: FloatArray, starts: IntArray) -> None:
        self._cores, self._starts = cores, starts
        self._added: list[Edges] = []
        self._use(tree, leaves)

    def _use(self, tree: Edges, leaves: DendrogramOrder) -> None:
        self.tree, self.leaves = tree, leaves
        self.tiles = by_position(np, leaves, self._cores, self._starts)
        begins = self._starts[:-1]
        self._largest = RangeMaxima(np.maximum.reduceat(leaves.gaps, begins))
        self._lowest_core = np.minimum.reduceat(self.tiles.cores, begins)
        self._to_end = np.maximum.reduceat(self.tiles.to_end, begins)
        self._from_start = np.maximum.reduceat(self.tiles.from_start, begins)

    @property
    def is_full(self) -> bool:
        """Return whether so many edges were added that they should be thinned out."""
        n = len(self._cores)
        return sum(len(edges.u) for edges in self._added) > n + min(n, verify.THIN_OUT)

    def add(self, edges: Edges) -> None:
        """Add edges; an edge that comes twice does no harm."""
        if len(edges.u):
            self._added.append(edges)

    def improve(self) -> None:
        """Replace the tree by the best one from all edges known."""
        if self._added:
            tree = minimum_forest(len(self._cores), concatenate([self.tree, *self._added]))
            self._added = []
            order = self.leaves.order
            self._use(tree, DendrogramOrder(order, path_maxima(tree, order)))

    def heights_between(self, pairs: Int32Array) -> FloatArray:
        """Return the largest merge height of the tiles between the two of each pair."""
        heights: FloatArray = self._largest.of(pairs[:, 0].astype(np.int64) + 1, pairs[:, 1].astype(np.int64))
        return heights

    def may_improve(self, pairs: Int32Array) -> BoolArray:
        """Return which pairs of tiles may have an edge below the tree's path maximum.

        In the others, the core distances of one tile reach every path maximum between the two.
        """
        first, second = pairs[:, 0], pairs[:, 1]
        highest = np.maximum(self._to_end[first], self._from_start[second])
        highest = np.maximum(highest, self.heights_between(pairs))
        may: BoolArray = np.maximum(self._lowest_core[first], self._lowest_core[second]) < highest
        return may
