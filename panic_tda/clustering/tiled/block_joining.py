"""Joining by an executor: blocks of query rows times blocks of panels.

The number of rows that ask grows with the rows, and so does that of the panels among which each row chooses.
What comes after the choice takes time in proportion to the rows, and stays in this process; so do searches of
few rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from panic_tda.arrays.rows import slices
from panic_tda.clustering.tiled import host, joining
from panic_tda.clustering.tiled.tasks import PanelChoice, PanelTask, choose_panels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from panic_tda.clustering.executor import Executor
    from panic_tda.clustering.tiled.contract import Space
    from panic_tda.clustering.tiled.layout import Layout
    from panic_tda.clustering.tiled.row_files import RowWriter
    from panic_tda.clustering.tiled.workers import Workers
    from panic_tda.types import FloatArray, IntArray

BLOCK_ROWS = 16_384
"""Rows, and panels, of a task: about a second of work."""
MOST_ROWS_HERE = joining.MAX_QUERY_ROWS
"""Rows that choose among all panels in this process, in time proportional to the number of panels."""


class BlockSearch(joining.Search):
    """Search of the nearest rows in other components; see `joining.Search`.

    Parameters
    ----------
    space, layout, cores, team
        As for `joining.Search`, in host memory.
    executor : Executor
        Runs the tasks.
    writer : RowWriter
        Writes the rows for the tasks; the caller removes the files.
    """

    def __init__(
        self,
        space: Space,
        layout: Layout,
        cores: FloatArray,
        team: Workers,
        *,
        executor: Executor,
        writer: RowWriter,
    ) -> None:
        super().__init__(space, layout, cores, team)
        assert isinstance(self._search, host.OutsideSearch)
        self._panels = self._search
        self._executor, self._writer = executor, writer

    def _find_outside(self, query_rows: IntArray, *, full_rows: bool) -> IntArray:
        if len(query_rows) <= MOST_ROWS_HERE:
            return super()._find_outside(query_rows, full_rows=full_rows)
        chosen, outside = self._choose_panels(query_rows), np.empty(len(query_rows), dtype=np.int64)

        def probe(part: slice) -> None:
            outside[part] = self._panels.probe(query_rows[part], chosen[part])

        self.team.chunks(probe, len(query_rows), largest=joining.ASKED_AT_ONCE)
        return outside

    def _choose_panels(self, query_rows: IntArray) -> IntArray:
        """Return the most similar panels of each query row; see `host.choose_panels`."""
        search, n_panels = self._panels, len(self._panels.centres)
        coordinates = self._writer.write_coordinates(query_rows)
        centres = self._writer.write_matrix(search.centres)
        owners = search.representative[query_rows]
        blocks = [
            (rows, panels)
            for rows in slices(len(query_rows), BLOCK_ROWS)
            for panels in slices(n_panels, BLOCK_ROWS)
        ]
        waiting = {(rows.start, panels.start) for rows, panels in blocks}
        best: dict[int, PanelChoice] = {}

        def make_tasks() -> Iterator[PanelTask]:
            for rows, panels in blocks:
                yield PanelTask(
                    coordinates, centres, (rows.start, rows.stop), (panels.start, panels.stop),
                    owners[rows], search.only[panels], self._writer.on_device,
                )  # fmt: skip

        for task, choice in self._executor.map(choose_panels, make_tasks()):
            first, key = task.rows[0], (task.rows[0], task.panels[0])
            if key in waiting:
                waiting.remove(key)
                best[first] = _merge(best[first], choice) if first in best else choice
        coordinates.path.unlink(missing_ok=True)
        return np.concatenate([best[first].panels for first in sorted(best)]).astype(np.int64)


def _merge(first: PanelChoice, second: PanelChoice) -> PanelChoice:
    """Return the most similar of two choices of the same rows."""
    panels, products = (np.concatenate(both, axis=1) for both in zip(first, second, strict=True))
    order = np.argsort(-products, axis=1, kind="stable")[:, : first.panels.shape[1]]
    return PanelChoice(np.take_along_axis(panels, order, axis=1), np.take_along_axis(products, order, axis=1))
