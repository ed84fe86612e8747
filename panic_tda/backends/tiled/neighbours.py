"""First pass: the nearest rows of every row, each tile of products used for its rows and its columns."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from panic_tda.backends.tiled import kernels
from panic_tda.backends.tiled.layout import Layout, schedule
from panic_tda.backends.tiled.survivors import Scanner, Space
from panic_tda.backends.tiled.workers import PerThread, Workers

if TYPE_CHECKING:
    from panic_tda.progress import Progress
    from panic_tda.types import Float32Array, Int32Array

SPARE_NEIGHBOURS = 8
FEWEST_NEIGHBOURS = 16


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


def empty_lists(n: int, length: int) -> NeighbourLists:
    """Return lists without entries."""
    return NeighbourLists(
        np.full((n, length), -1, dtype=np.int32), np.full((n, length), -np.inf, dtype=np.float32)
    )


def find_neighbours(
    space: Space, layout: Layout, lists: NeighbourLists, team: Workers, progress: Progress
) -> None:
    """Fill the lists.

    Every pair of rows is looked at once. The threshold of a row is the worst product on its list, so a pair
    that could not enter either list is dropped; which pairs are kept does not depend on the order in which
    threads meet them.
    """
    pairs = schedule(space.points, layout)
    sizes = np.diff(layout.starts)
    work = sizes[pairs[:, 0]] * sizes[pairs[:, 1]]
    progress.phase("neighbours", float(work.sum()))
    locks = [threading.Lock() for _ in range(layout.n_tiles)]
    scanners = PerThread(lambda: Scanner(space, int(sizes.max())))

    def one(number: int) -> int:
        first, second = pairs[number]
        _one_pair(scanners.get(), layout, lists, (first, second), locks)
        return number

    # Rows have no thresholds before the diagonal is done.
    for stage in (range(layout.n_tiles), range(layout.n_tiles, len(pairs))):
        for number in team.map(one, stage):
            progress.advance(float(work[number]))


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
