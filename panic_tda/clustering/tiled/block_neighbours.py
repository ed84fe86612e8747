"""First pass over the tile pairs by an executor: its workers find neighbours, this process holds the lists.

Tasks are pairs of blocks. Those within a block come first and are waited for: they hold every tile's pair
with itself and most of the similar ones, and without the thresholds that come from these, the other tasks
would find and return many times as much.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from panic_tda.clustering.tiled import kernels, neighbours
from panic_tda.clustering.tiled.blocks import divide_tiles, group_pairs, make_part, sort_pairs
from panic_tda.clustering.tiled.tasks import NeighbourTask, find_neighbours
from panic_tda.progress import annotate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from panic_tda.clustering.backends.base import Checkpoint
    from panic_tda.clustering.executor import Executor
    from panic_tda.clustering.tiled.contract import Lists, Space
    from panic_tda.clustering.tiled.layout import Layout
    from panic_tda.clustering.tiled.row_files import RowWriter
    from panic_tda.progress import Progress
    from panic_tda.types import IntArray


def fill_lists(
    space: Space,
    layout: Layout,
    lists: Lists,
    *,
    executor: Executor,
    writer: RowWriter,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
) -> Layout:
    """Fill the lists, or go on filling them; see `neighbours.find_neighbours`.

    Saved states are those of `neighbours`: the work can go on with another number of workers, or without.

    Parameters
    ----------
    space, layout, lists, progress, checkpoint
        As for `neighbours.find_neighbours`, in host memory.
    executor : Executor
        Runs the tasks.
    writer : RowWriter
        Writes the rows for the tasks; the caller removes the files.

    Returns
    -------
    Layout
        The order that was used.
    """
    layout, pairs, n_done = neighbours.resume(space, layout, lists, checkpoint)
    work = neighbours.announce(space, layout, pairs, n_done, progress)
    is_done = np.arange(len(pairs)) < n_done
    if is_done.all():
        return layout
    files = writer.write(layout.order, bounded=space.bounded)
    bounds = divide_tiles(layout.n_tiles, executor.slots, on_device=executor.on_device)
    groups = group_pairs(pairs, np.flatnonzero(~is_done), bounds)

    def make_tasks(chosen: list[IntArray]) -> Iterator[NeighbourTask]:
        for numbers in chosen:
            part = make_part(pairs, numbers, layout.starts, bounds)
            thresholds = lists.sims[layout.order[part.positions], 0]
            yield NeighbourTask(files, part, thresholds, lists.rows.shape[1])

    for chosen in (groups.within, groups.between):
        for task, entries in executor.map(find_neighbours, make_tasks(chosen)):
            kernels.merge_entries(*entries, layout.order[task.part.positions], lists.rows, lists.sims)
            numbers = task.part.numbers[~is_done[task.part.numbers]]
            is_done[numbers] = True
            progress.advance(float(work[numbers].sum()))
            annotate(progress, executor.pace)
            may_save = is_done[: layout.n_tiles].all() and not is_done.all()
            if checkpoint is not None and may_save and checkpoint.due():
                neighbours.save(checkpoint, layout, *sort_pairs(pairs, is_done), lists)
    return layout
