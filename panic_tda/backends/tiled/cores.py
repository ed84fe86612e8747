"""Exact core distances from neighbour lists found in float32.

With s' = 1 - d²/2 of a pair, its float32 product s̃ lies within η of s'. Let T be the product of the row's
k-th neighbour as float32 sees it, copies counted. Then the true k-th neighbour has s' within η of T; rows
with s̃ > T + 2η are certainly nearer and rows with s̃ < T - 2η certainly farther. Only the few rows in
between are measured in float64. A list whose worst entry still lies above T - 2η may have lost some of
them; its row is looked up again among all rows.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit

from panic_tda.backends.tiled import kernels
from panic_tda.backends.tiled.layout import tile_starts

if TYPE_CHECKING:
    from panic_tda.backends.tiled.neighbours import NeighbourLists
    from panic_tda.backends.tiled.survivors import Space
    from panic_tda.backends.tiled.workers import Workers
    from panic_tda.progress import Progress
    from panic_tda.types import BoolArray, Float32Array, FloatArray, Int32Array, IntArray

_BATCH_ROWS = 256
_TILE_ROWS = 4_096


class Cores(NamedTuple):
    """Core distances, and how many rows had to be looked up again."""

    distances: FloatArray
    n_redone: int


def core_distances(
    space: Space,
    weights: IntArray,
    lists: NeighbourLists,
    min_samples: int,
    floor: float,
    team: Workers,
    progress: Progress,
) -> Cores:
    """Measure the distance of every row to its `min_samples`-th nearest row, itself and copies counted.

    Parameters
    ----------
    space : Space
        n rows.
    weights : (n,) int64
        Multiplicities, summing to at least `min_samples`.
    lists : NeighbourLists
        At least `min_samples` neighbours a row, or all other rows.
    min_samples : int
        k.
    floor : float
        Smaller distances come back as this one: several copies of a row, or near-copies.
    team : Workers
        Threads.
    progress : Progress
        Told the work.

    Returns
    -------
    Cores
        (n,) float64 chord lengths.
    """
    n = len(weights)
    progress.phase("core distances", float(n))
    cores = np.empty(n)
    again = np.zeros(n, dtype=np.bool_)
    kth = np.empty(n, dtype=np.float32)

    def chunk(part: slice) -> None:
        _from_lists(
            space.vectors, weights, lists.rows, lists.sims, min_samples, floor, space.margin,
            part.start, part.stop, cores, kth, again,
        )  # fmt: skip
        progress.advance(float(part.stop - part.start))

    team.chunks(chunk, n)
    flagged = np.flatnonzero(again)

    def batch(part: slice) -> None:
        _among_all(space, weights, min_samples, floor, flagged[part], kth, cores)

    team.chunks(batch, len(flagged), largest=_BATCH_ROWS)
    return Cores(cores, len(flagged))


@njit(cache=True, nogil=True)
def _from_lists(
    vectors: Float32Array,
    weights: IntArray,
    list_rows: Int32Array,
    list_sims: Float32Array,
    min_samples: int,
    floor: float,
    margin: float,
    begin: int,
    end: int,
    cores: FloatArray,
    kth: Float32Array,
    again: BoolArray,
) -> None:
    length = list_rows.shape[1]
    complete = length == len(weights) - 1
    measured = np.empty(length)
    for row in range(begin, end):
        missing = min_samples - weights[row]
        if missing <= 0:
            cores[row] = floor
            continue
        order = np.argsort(list_sims[row])[::-1]
        reached, at = 0, 0
        while True:
            reached += weights[list_rows[row, order[at]]]
            if reached >= missing or at == length - 1:
                break
            at += 1
        kth[row] = list_sims[row, order[at]]
        high, low = kth[row] + 2 * margin, kth[row] - 2 * margin
        first = 0
        while first < at and list_sims[row, order[first]] > high:
            missing -= weights[list_rows[row, order[first]]]
            first += 1
        last = at + 1
        while last < length and list_sims[row, order[last]] >= low:
            last += 1
        for t in range(first, last):
            measured[t - first] = kernels.distance(vectors[row], vectors[list_rows[row, order[t]]])
        core = _weighted_kth(measured[: last - first], weights, list_rows[row], order[first:last], missing)
        cores[row] = max(core, floor)
        # Below the floor all distances are one, whatever else is near.
        again[row] = last == length and not complete and core > floor


@njit(cache=True, nogil=True)
def _weighted_kth(
    measured: FloatArray, weights: IntArray, rows: Int32Array, entries: IntArray, missing: int
) -> float:
    order = np.argsort(measured)
    reached = 0
    for t in order:
        reached += weights[rows[entries[t]]]
        if reached >= missing:
            return float(measured[t])
    return float(measured[order[-1]])


def _among_all(
    space: Space,
    weights: IntArray,
    min_samples: int,
    floor: float,
    rows: IntArray,
    kth: Float32Array,
    cores: FloatArray,
) -> None:
    """Repeat `_from_lists` for a batch of rows with all rows as neighbours."""
    n = len(weights)
    batch = space.vectors[rows]
    high = (kth[rows] + 2 * space.margin)[:, None]
    low = (kth[rows] - 2 * space.margin)[:, None]
    nearer = np.zeros(len(rows), dtype=np.int64)
    near: list[tuple[IntArray, IntArray]] = []
    starts = tile_starts(n, _TILE_ROWS)
    for begin, end in pairwise(starts):
        products = batch @ space.vectors[begin:end].T
        others = np.arange(begin, end) != rows[:, None]
        nearer += ((products > high) & others) @ weights[begin:end]
        i, j = np.nonzero((products <= high) & (products >= low) & others)
        near.append((i, j + begin))
    i = np.concatenate([part[0] for part in near])
    j = np.concatenate([part[1] for part in near])
    measured = np.empty(len(i))
    kernels.distances(space.vectors, rows[i], j, measured)
    order = np.lexsort((measured, i))
    i, j, measured = i[order], j[order], measured[order]
    bounds = np.searchsorted(i, np.arange(len(rows) + 1))
    for place, row in enumerate(rows):
        own = slice(bounds[place], bounds[place + 1])
        missing = min_samples - weights[row] - nearer[place]
        at = np.searchsorted(np.cumsum(weights[j[own]]), missing)
        cores[row] = max(float(measured[own][at]), floor)
