"""First pass over the tile pairs: find the nearest rows of every row.

Each tile of products is used for its rows and for its columns.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from panic_tda.arrays.namespace import to_host
from panic_tda.clustering import phases
from panic_tda.clustering.tiled.layout import Layout, estimate_work, find_batch_bounds, schedule_tile_pairs
from panic_tda.clustering.tiled.state_checks import check_neighbours, neighbours_forms
from panic_tda.clustering.tiled.workers import PerThread, Workers

if TYPE_CHECKING:
    from panic_tda.clustering.backends.base import Checkpoint
    from panic_tda.clustering.tiled.contract import Lists, NeighbourScan, Space
    from panic_tda.progress import Progress
    from panic_tda.types import FloatArray, Int32Array

SPARE_NEIGHBOURS = 8
FEWEST_NEIGHBOURS = 16
NEAR_WORK, DECLINE = (7.0, 4.0, 2.2, 1.8, 1.5), 0.5
"""Measured at 100,000 × 768 and 300,000 × 384: the first tile pairs take times as long as those that follow;
as thresholds rise, the last take half as long."""
_BATCHES = 16
"""Batches per thread between two moments at which no list is being written."""
STATE = "neighbours"


def list_length(n: int, min_samples: int) -> int:
    """Return the length of a neighbour list: a few more than needed, so that rounding seldom spoils it."""
    return min(n - 1, max(min_samples, FEWEST_NEIGHBOURS) + SPARE_NEIGHBOURS)


def find_neighbours(
    space: Space,
    layout: Layout,
    lists: Lists,
    *,
    team: Workers,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
) -> Layout:
    """Fill the lists, or go on filling them where a killed run stopped.

    Every pair of rows is looked at once. The threshold of a row is the worst product on its list, so a pair
    that could not enter either list is dropped.

    Parameters
    ----------
    space : Space
        n rows.
    layout : Layout
        Tiles of rows that resemble each other; where a killed run stopped, its own order counts.
    lists : Lists
        Without entries.
    team : Workers
        Threads.
    progress : Progress
        Receives the number of pairs of rows compared.
    checkpoint : Checkpoint or None
        Where the lists are kept between batches.

    Returns
    -------
    Layout
        The order that was used.
    """
    layout, pairs, n_done = resume(space, layout, lists, checkpoint)
    sizes = np.diff(layout.starts)
    work = announce(space, layout, pairs, n_done, progress)
    scanners = PerThread(lambda: space.kernels.scanner(space, int(sizes.max())))
    scan: NeighbourScan | None = None

    def scan_tile(tile: int) -> None:
        rows = layout.rows(tile)
        for candidates in scanners.get().nearest(rows, lists.rows.shape[1]):
            lists.push_within(candidates, tile, rows)

    bounds = find_batch_bounds(pairs, layout.n_tiles)
    while n_done < len(pairs):
        number = int(np.searchsorted(bounds, n_done))
        if n_done < layout.n_tiles:
            # Rows have no thresholds before the diagonal is done.
            tasks = range(n_done, layout.n_tiles)
            results = zip(tasks, team.map(scan_tile, tasks), strict=True)
            end = layout.n_tiles
        else:
            # The batches end where a state may be saved.
            scan = scan or space.kernels.neighbour_scan(space, layout, lists, team)
            tasks = range(number, min(len(bounds) - 1, number + _BATCHES * team.n_threads))
            batches = [pairs[bounds[task] : bounds[task + 1]] for task in tasks]
            results = zip(tasks, team.map(scan.scan, batches), strict=True)
            end = int(bounds[tasks[-1] + 1])
        for task, _ in results:
            progress.advance(float(work[bounds[task] : bounds[task + 1]].sum()))
        n_done = end
        if checkpoint is not None and n_done < len(pairs) and checkpoint.due():
            save(checkpoint, layout, pairs, n_done, lists)
    lists.flush()
    return layout


def resume(
    space: Space, layout: Layout, lists: Lists, checkpoint: Checkpoint | None
) -> tuple[Layout, Int32Array, int]:
    """Return the layout, all tile pairs, and how many of these are done: those of the saved state, if any.

    The lists are filled from that state; without one, they stay empty.
    """
    order, pairs, n_done = layout.order, schedule_tile_pairs(space.coordinates, layout), 0
    if checkpoint is not None:
        n, length = lists.rows.shape
        stored = checkpoint.load(
            STATE,
            neighbours_forms(n, length, layout.n_tiles),
            into={"rows": lists.rows, "sims": lists.sims},
            check=partial(check_neighbours, n_tiles=layout.n_tiles),
        )
        if stored is not None:
            order, pairs, n_done = stored["order"], stored["pairs"], int(stored["done"])
        else:
            # Half a state may have been read.
            lists.rows[:], lists.sims[:] = -1, -np.inf
    return Layout(space.xp.asarray(order), layout.starts), pairs, n_done


def save(checkpoint: Checkpoint, layout: Layout, pairs: Int32Array, n_done: int, lists: Lists) -> None:
    """Save the lists, and the tile pairs of which the first `n_done` are done: the diagonal is among them."""
    lists.flush()
    rows, sims = to_host(lists.rows), to_host(lists.sims)
    checkpoint.save(STATE, order=to_host(layout.order), pairs=pairs, done=n_done, rows=rows, sims=sims)


def announce(space: Space, layout: Layout, pairs: Int32Array, n_done: int, progress: Progress) -> FloatArray:
    """Begin the phase, and return the work of each tile pair."""
    near, decline = (NEAR_WORK, DECLINE) if space.bounded else ((), 0.0)
    work = estimate_work(layout, pairs, near, decline)
    progress.phase(phases.NEIGHBOURS, float(work.sum()))
    if n_done:
        progress.advance(float(work[:n_done].sum()))
    return work
