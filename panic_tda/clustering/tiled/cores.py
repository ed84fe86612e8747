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

from panic_tda.arrays.namespace import part, to_host
from panic_tda.clustering.tiled.layout import tile_starts

if TYPE_CHECKING:
    from panic_tda.clustering.tiled.space import Lists, Space
    from panic_tda.clustering.tiled.workers import Workers
    from panic_tda.progress import Progress
    from panic_tda.types import Float32Array, FloatArray, IntArray

_BATCH_ROWS = 256
_TILE_ROWS = 4_096


class Cores(NamedTuple):
    """Core distances, and how many rows had to be looked up again."""

    distances: FloatArray
    n_redone: int


def core_distances(
    space: Space,
    weights: IntArray,
    lists: Lists,
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

    def chunk(rows: slice) -> None:
        space.work.cores_from_lists(space, weights, lists, rows, min_samples, floor, (cores, kth, again))
        progress.advance(float(rows.stop - rows.start))

    team.chunks(chunk, n)
    flagged = np.flatnonzero(again)

    def batch(rows: slice) -> None:
        _among_all(space, weights, min_samples, floor, flagged[rows], kth, cores)

    team.chunks(batch, len(flagged), largest=_BATCH_ROWS)
    return Cores(cores, len(flagged))


def _among_all(
    space: Space,
    weights: IntArray,
    min_samples: int,
    floor: float,
    rows: IntArray,
    kth: Float32Array,
    cores: FloatArray,
) -> None:
    """Do for a batch of rows, with all rows as neighbours, what else is done with their lists."""
    xp, n = space.xp, len(weights)
    asking = xp.asarray(rows)
    batch = space.take(asking)
    middle = xp.asarray(kth[rows].astype(np.float64))[:, None]
    high, low = middle + 2 * space.margin, middle - 2 * space.margin
    nearer = xp.zeros(len(rows), dtype=xp.int64)
    near: list[tuple[IntArray, IntArray]] = []
    for begin, end in pairwise(tile_starts(n, _TILE_ROWS).tolist()):
        products = batch @ part(xp, space.vectors, slice(begin, end)).T
        others = xp.arange(begin, end) != asking[:, None]
        nearer += xp.sum(
            xp.where((products > high) & others, xp.asarray(weights[begin:end])[None, :], 0), axis=1
        )
        i, j = xp.nonzero((products <= high) & (products >= low) & others)
        near.append((to_host(i), to_host(j) + begin))
    i, j = (np.concatenate(ends) for ends in zip(*near, strict=True))
    measured = space.work.distances(space, rows[i], j)
    order = np.lexsort((measured, i))
    i, j, measured = i[order], j[order], measured[order]
    bounds = np.searchsorted(i, np.arange(len(rows) + 1))
    missing = min_samples - weights[rows] - to_host(nearer)
    for place, row in enumerate(rows):
        own = slice(bounds[place], bounds[place + 1])
        at = np.searchsorted(np.cumsum(weights[j[own]]), missing[place])
        cores[row] = max(float(measured[own][at]), floor)
