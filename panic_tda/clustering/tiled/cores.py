"""Exact core distances from neighbour lists found in float32.

Let s' = 1 - d²/2 for the distance d of two rows; their float32 product s̃ lies within η of s' (`margins`). For
a row and its neighbours by falling s̃, copies counted:

`missing` is how many samples the row needs beside itself and its copies, `min_samples` - weight.
`kth` is the product at which the neighbours' weights add up to that. The neighbours up to there all have
s' ≥ kth - η, so the one looked for has, too. Only those with s̃ > kth can have s' > kth + η, and these weigh
less than `missing`, so the one looked for has s' ≤ kth + η.
`high` = kth + 2η: what has s̃ > `high` has s' > kth + η and is certainly nearer than the one looked for. It
need not be measured, but counts: `missing` goes down by its weight.
`low` = kth - 2η: what has s̃ < `low` has s' < kth - η and is certainly farther.
`first`, `last` (in `cores_from_lists`) bound what is left, s̃ from `low` to `high`. These few are measured in
float64, and the `missing`-th of them by distance is the one looked for.

A list whose last entry still has s̃ ≥ `low` may have lost some of them, unless it holds all rows; its row is
looked up again among all rows. Its list bounds the distance from above: only rows closer than this bound can
change the result. The bound shrinks as tiles are processed, so fewer rows qualify. A row keeps at most as
many others as it misses samples, however many lie within η of the k-th. If float32 products leave more than a
third of a tile undecided, the tile is multiplied in float64 before pairs are measured: these products err by
1e-12 (`margins.square_margin`) and cost half as much as measuring. The next tile then begins with them.

Two functions implement the rule for the lists, with these names: `row_kernels.cores_from_lists` for the lists
of `host`, and `device.cores_from_lists`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from panic_tda.arrays.namespace import squared_lengths, take_slice, to_host
from panic_tda.arrays.rows import slices
from panic_tda.clustering.neighbour_graph import fill_lists
from panic_tda.clustering.phases import CORE_DISTANCES
from panic_tda.clustering.tiled import margins
from panic_tda.clustering.tiled.nearer_rows import fill_from_lists

if TYPE_CHECKING:
    from panic_tda.clustering.tiled.contract import Kernels, Lists, Space
    from panic_tda.clustering.tiled.workers import Workers
    from panic_tda.progress import Progress
    from panic_tda.types import Array, ArrayModule, FloatArray, IntArray, NeighbourLists

_BATCH_ROWS, _BATCH_NEAREST = 256, 1 << 16
"""Largest number of rows per batch, and of neighbours that a batch keeps; a batch has at least one row."""
_DENSE_SHARE = 1 / 3
"""Share of undecided pairs above which the whole tile is multiplied in float64.

At 768 dimensions that takes 40 ns per pair, and measuring one pair 100 ns.
"""
_PAIR_BYTES = 128
"""A pair of rows, its products, its distance, and what sorting takes."""


class Cores(NamedTuple):
    """Core distances, and how many rows had to be looked up again."""

    distances: FloatArray
    n_redone: int


def core_distances(
    space: Space,
    weights: IntArray,
    lists: Lists,
    *,
    min_samples: int,
    floor: float,
    team: Workers,
    progress: Progress,
    nearer: NeighbourLists | None = None,
) -> Cores:
    """Measure the distance of every row to its `min_samples`-th nearest row, itself and copies counted.

    Parameters
    ----------
    space : Space
        n rows.
    weights : (n,) int64
        Multiplicities, summing to at least `min_samples`.
    lists : Lists
        At least `min_samples` neighbours a row, or all other rows.
    min_samples : int
        k.
    floor : float
        Smaller distances come back as this one: several copies of a row, or near-copies.
    team : Workers
        Threads.
    progress : Progress
        Told the work.
    nearer : NeighbourLists, optional
        Lists without entries, of this `min_samples`, to fill with the rows nearer than the core distance.

    Returns
    -------
    Cores
        (n,) float64 chord lengths.
    """
    n = len(weights)
    progress.phase(CORE_DISTANCES, float(n))
    cores = np.empty(n)
    again = np.zeros(n, dtype=np.bool_)

    def chunk(rows: slice) -> None:
        space.kernels.cores_from_lists(
            space, weights, lists, rows, min_samples=min_samples, floor=floor, out=(cores, again)
        )
        if nearer is not None:
            fill_from_lists(space, lists, rows, cores[rows], ~again[rows], floor=floor, out=nearer)

    team.chunks(chunk, n, progress=progress)
    flagged = np.flatnonzero(again)

    def batch(chosen: slice) -> None:
        rows = flagged[chosen]
        nearest = _among_all(space, weights, rows, min_samples - weights[rows], cores[rows])
        cores[rows] = np.maximum(nearest.cores, floor)
        if nearer is not None:
            values = np.maximum(nearest.values, floor)
            near = values < cores[rows][nearest.owners]
            fill_lists(nearer, rows[nearest.owners[near]], nearest.rows[near], values[near])

    team.chunks(batch, len(flagged), largest=_batch_rows(min_samples))
    return Cores(cores, len(flagged))


def batch_bytes(work: Kernels, n_features: int, min_samples: int) -> int:
    """Return the most bytes that a thread takes to look rows up again."""
    batch, width = _batch_rows(min_samples), _width(work)
    taken: int = batch * (width + min_samples) * _PAIR_BYTES + 12 * (batch + width) * n_features
    return taken


def _batch_rows(min_samples: int) -> int:
    return max(1, min(_BATCH_ROWS, _BATCH_NEAREST // min_samples))


def _width(work: Kernels) -> int:
    width: int = work.TILE_ROWS // 2
    return width


class _Nearest:
    """The nearest rows that some rows have met so far, as many of them as may have a say.

    Attributes
    ----------
    cores : (m,) float64
        For each row that asks, the distance from which on nothing matters any more; in the end, its core
        distance.
    owners, rows, values : (pairs,) int64, int64, float64
        The numbers of the rows that ask, the rows that they met, and their distances.
    """

    def __init__(self, cores: FloatArray, missing: IntArray) -> None:
        self.cores, self._missing = cores, missing
        self.owners, self.rows, self._weights = np.empty((3, 0), dtype=np.int64)
        self.values = np.empty(0)

    def meet(self, owners: IntArray, rows: IntArray, values: FloatArray, weights: IntArray) -> None:
        """Look at further rows, their distances and weights, with the numbers of those that ask."""
        near = np.flatnonzero(values < self.cores[owners])
        if not len(near):
            return
        owners, rows, values, weights = (
            np.concatenate([before, new[near]])
            for before, new in (
                (self.owners, owners),
                (self.rows, rows),
                (self.values, values),
                (self._weights, weights),
            )
        )
        order = np.lexsort((values, owners))
        owners, rows, values, weights = owners[order], rows[order], values[order], weights[order]
        total = np.cumsum(weights)
        before = total - weights
        before -= before[np.searchsorted(owners, owners)]
        missing = self._missing[owners]
        last = (before < missing) & (before + weights >= missing)
        self.cores[owners[last]] = values[last]
        contributing = np.flatnonzero(before < missing)
        self.owners, self.rows = owners[contributing], rows[contributing]
        self.values, self._weights = values[contributing], weights[contributing]


def _among_all(
    space: Space, weights: IntArray, rows: IntArray, missing: IntArray, cores: FloatArray
) -> _Nearest:
    """Measure core distances of some rows, of which `cores` are upper bounds, among all other rows."""
    xp, dense = space.xp, False
    batch, nearest = space.take(xp.asarray(rows)), _Nearest(cores, missing)
    for tile in slices(len(weights), _width(space.kernels)):
        columns, bounds = take_slice(xp, space.vectors, tile), xp.asarray(nearest.cores)
        if not dense:
            reach = batch @ columns.T >= margins.lower_products(bounds, space.margin)[:, None]
            dense = int(xp.count_nonzero(reach)) > _DENSE_SHARE * reach.size
        if dense:
            squares, margin = _squares(batch, columns), margins.square_margin(batch.shape[1], space.margin)
            reach = squares <= (bounds * bounds + margin)[:, None]
            in_doubt = xp.count_nonzero(squares <= (bounds * bounds + 2 * space.margin)[:, None])
            dense = int(in_doubt) > _DENSE_SHARE * reach.size
        i, j = (to_host(ends) for ends in xp.nonzero(reach))
        j = j + tile.start
        others = np.flatnonzero(rows[i] != j)
        i, j = i[others], j[others]
        nearest.meet(i, j, space.kernels.distances(space, rows[i], j), weights[j])
    return nearest


def _squares(batch: Array, columns: Array) -> Array:
    """Return ‖x‖² + ‖y‖² - 2·x·y in float64."""
    left, right = batch.astype(np.float64), columns.astype(np.float64)
    squares = left @ right.T
    squares *= -2
    squares += squared_lengths(left)[:, None]
    squares += squared_lengths(right)[None, :]
    return squares


def weighted_kth(xp: ArrayModule, groups: Array, values: Array, weights: Array, missing: Array) -> Array:
    """Find each group's smallest value at which the weights of the values up to it reach what is missing.

    Parameters
    ----------
    groups : (m,) integers
        Group of each value, 0 to g - 1, none without values.
    values : (m,) float64
    weights : (m,) int64
    missing : (g,) int64
        Where a group's weights never reach it, its largest value is found.

    Returns
    -------
    (g,) float64
        An array of `xp`, as are all others.
    """
    order = xp.argsort(values, kind="stable")
    order = order[xp.argsort(groups[order], kind="stable")]
    groups = groups[order]
    last = xp.searchsorted(groups, xp.arange(len(missing)), side="right")
    first = xp.concatenate([xp.zeros(1, dtype=last.dtype), last[:-1]])
    total = xp.concatenate([xp.zeros(1, dtype=xp.int64), xp.cumsum(weights[order])])
    short = (total[1:] - total[first[groups]]) < missing[groups]
    counts = xp.concatenate([xp.zeros(1, dtype=xp.int64), xp.cumsum(short.astype(xp.int64))])
    return values[order[xp.minimum(first + counts[last] - counts[first], last - 1)]]
