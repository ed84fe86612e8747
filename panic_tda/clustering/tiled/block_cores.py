"""Core distances of rows with too short a list, by an executor: groups of such rows times blocks of all rows.

Few such rows are compared with all rows in this process, in time proportional to the number of rows. Dense
groups of near-copies can make it any number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from panic_tda.arrays.rows import slices
from panic_tda.clustering.tiled.blocks import divide_tiles
from panic_tda.clustering.tiled.cores import NearestRows, batch_rows
from panic_tda.clustering.tiled.tasks import SearchTask, find_near_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from panic_tda.clustering.executor import Executor
    from panic_tda.clustering.tiled.layout import Layout
    from panic_tda.clustering.tiled.row_files import RowWriter
    from panic_tda.types import FloatArray, IntArray

GROUP_ROWS = 4_096
"""Rows of a task: with them, reading a block takes a small part of the time of comparing it."""


class BlockSearch:
    """See `cores.SearchAllRows`.

    Parameters
    ----------
    layout : Layout
        Tiles of all n rows.
    weights : (n,) int64
        Copies of each row.
    min_samples : int
        Number of rows to count, the row itself included.
    executor : Executor
        Runs the tasks.
    writer : RowWriter
        Writes the rows for the tasks; the caller removes the files.
    """

    def __init__(
        self, layout: Layout, weights: IntArray, *, min_samples: int, executor: Executor, writer: RowWriter
    ) -> None:
        self._layout, self._weights, self._batch_rows = layout, weights, batch_rows(min_samples)
        self._executor, self._writer = executor, writer

    def __call__(
        self, rows: IntArray, missing: IntArray, upper_bounds: FloatArray
    ) -> Iterator[tuple[IntArray, NearestRows]]:
        """Yield some of the rows at a time, with their neighbours."""
        layout = self._layout
        positions = np.empty(len(layout.order), dtype=np.int64)
        positions[layout.order] = np.arange(len(layout.order))
        by_position = np.argsort(positions[rows])
        rows, missing = rows[by_position], missing[by_position]
        files = self._writer.write(layout.order, bounded=self._writer.space.bounded)
        query_rows = self._writer.write_vectors(rows)
        executor = self._executor
        bounds = layout.starts[divide_tiles(layout.n_tiles, executor.slots, on_device=executor.on_device)]
        # Only of the groups that are being compared: a group is drawn when the one before it is nearly done.
        groups: dict[int, tuple[IntArray, NearestRows, set[int]]] = {}

        def make_tasks() -> Iterator[SearchTask]:
            for number, part in enumerate(slices(len(rows), GROUP_ROWS)):
                own, at = rows[part], positions[rows[part]]
                nearest = NearestRows(upper_bounds[own].copy(), missing[part])
                # The block of the rows themselves first: it has most of the near rows.
                first = int(np.searchsorted(bounds, at[0], side="right")) - 1
                blocks = np.roll(np.arange(len(bounds) - 1), -first).tolist()
                groups[number] = own, nearest, set(blocks)
                for block in blocks:
                    begin, end = int(bounds[block]), int(bounds[block + 1])
                    yield SearchTask(
                        number, block, files, (begin, end), self._weights[layout.order[begin:end]],
                        query_rows, (part.start, part.stop),
                        np.where((at >= begin) & (at < end), at - begin, -1),
                        missing[part], nearest.bounds.copy(), self._batch_rows,
                    )  # fmt: skip

        for task, near in self._executor.map(find_near_rows, make_tasks()):
            own, nearest, remaining = groups.get(task.number, (rows, None, set[int]()))
            if nearest is None or task.block not in remaining:
                # It came twice; its rows would count twice.
                continue
            remaining.remove(task.block)
            others = layout.order[near.others + task.positions[0]].astype(np.int64)
            distances = near.distances
            if files.on_device:
                # Devices sum in another order than processors. What is stored does not depend on the workers.
                space = self._writer.space
                distances = space.kernels.distances(space, own[near.queries], others)
            nearest.add(near.queries, others, distances, self._weights[others])
            if not remaining:
                del groups[task.number]
                yield own, nearest
