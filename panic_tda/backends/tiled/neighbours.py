"""First pass: the nearest rows of every row, each tile of products used for its rows and its columns."""

from __future__ import annotations

import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from panic_tda.backends.tiled import kernels
from panic_tda.backends.tiled.layout import Layout, expected_work, schedule
from panic_tda.backends.tiled.survivors import Scanner, Space
from panic_tda.backends.tiled.workers import PerThread, Workers

if TYPE_CHECKING:
    from panic_tda.backends.base import Checkpoint
    from panic_tda.progress import Progress
    from panic_tda.types import Float32Array, Int32Array

SPARE_NEIGHBOURS = 8
FEWEST_NEIGHBOURS = 16
_NEAR_WORK, _DECLINE = (7.0, 4.0, 2.2, 1.8, 1.5), 0.5
"""Measured at 100,000 × 768 and 300,000 × 384: the first tile pairs take times as long as those that follow;
as thresholds rise, the last take half as long."""
_BATCH = 64
"""Tile pairs per thread between two moments at which no list is being written."""
STATE = "neighbours"


@dataclass(frozen=True)
class NeighbourLists:
    """The rows with the largest float32 products, for every row, itself left out.

    Attributes
    ----------
    rows : (n, length) int32
        A heap with the worst neighbour first, -1 where there is none yet.
    sims : (n, length) float32
        Products, minus infinity where there is none yet.
    """

    rows: Int32Array
    sims: Float32Array


def list_length(n: int, min_samples: int) -> int:
    """Neighbours kept per row: a few more than needed, so that rounding seldom spoils a list."""
    return min(n - 1, max(min_samples, FEWEST_NEIGHBOURS) + SPARE_NEIGHBOURS)


def empty_lists(n: int, length: int, folder: Path | None = None) -> NeighbourLists:
    """Return lists without entries, in files of `folder` when one is given."""
    rows, sims = (_array(folder, (n, length), kind) for kind in (np.int32, np.float32))
    rows[:], sims[:] = -1, -np.inf
    return NeighbourLists(rows, sims)


def _array(folder: Path | None, shape: tuple[int, int], kind: type) -> Any:
    if folder is None:
        return np.empty(shape, dtype=kind)
    # The file has no name: it goes with the process, however that ends.
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.asarray(np.memmap(file, dtype=kind, mode="w+", shape=shape))


def find_neighbours(
    space: Space,
    layout: Layout,
    lists: NeighbourLists,
    team: Workers,
    progress: Progress,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Fill the lists, or go on filling them where a killed run stopped.

    Every pair of rows is looked at once. The threshold of a row is the worst product on its list, so a pair
    that could not enter either list is dropped; which pairs are kept does not depend on the order in which
    threads meet them.
    """
    order, pairs, done = layout.order, schedule(space.points, layout), 0
    if checkpoint is not None and (stored := checkpoint.load(STATE)) is not None:
        order, pairs, done = stored["order"], stored["pairs"], int(stored["done"])
        lists.rows[:], lists.sims[:] = stored["rows"], stored["sims"]
    layout = Layout(order, layout.starts)
    sizes = np.diff(layout.starts)
    near, decline = (_NEAR_WORK, _DECLINE) if space.bounded else ((), 0.0)
    work = expected_work(layout, pairs, near, decline)
    progress.phase("neighbours", float(work.sum()))
    if done:
        progress.advance(float(work[:done].sum()))
    locks = [threading.Lock() for _ in range(layout.n_tiles)]
    scanners = PerThread(lambda: Scanner(space, int(sizes.max())))

    def one(number: int) -> int:
        first, second = pairs[number]
        _one_pair(scanners.get(), layout, lists, (first, second), locks)
        return number

    while done < len(pairs):
        # Rows have no thresholds before the diagonal is done; later batches end where a state may be saved.
        end = layout.n_tiles if done < layout.n_tiles else min(len(pairs), done + _BATCH * team.n_threads)
        for number in team.map(one, range(done, end)):
            progress.advance(float(work[number]))
        done = end
        if checkpoint is not None and done < len(pairs) and checkpoint.due():
            checkpoint.save(STATE, order=order, pairs=pairs, done=done, rows=lists.rows, sims=lists.sims)


def _one_pair(
    scanner: Scanner,
    layout: Layout,
    lists: NeighbourLists,
    pair: tuple[int, int],
    locks: list[threading.Lock],
) -> None:
    rows = layout.rows(pair[0])
    if pair[0] == pair[1]:
        found = scanner.nearest(rows, lists.rows.shape[1])
        kernels.merge_into_lists(*found, rows, rows, lists.rows, lists.sims)
        return
    columns = layout.rows(pair[1])
    # Thresholds only rise; one read too early lets a few more pairs pass.
    found = scanner.pairs(rows, columns, (lists.sims[rows, 0], lists.sims[columns, 0]))
    with locks[pair[0]]:
        kernels.merge_into_lists(*found, rows, columns, lists.rows, lists.sims)
    with locks[pair[1]]:
        kernels.merge_transposed(*found, rows, columns, lists.rows, lists.sims)
