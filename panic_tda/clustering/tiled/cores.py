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
`first`, `last` bound what is left, s̃ from `low` to `high`. These few are measured in float64, and the
`missing`-th of them by distance is the one looked for.

A list whose last entry still has s̃ ≥ `low` may have lost some of them, unless it holds all rows; its row is
looked up again among all rows, by the same rule and with the same `kth`. That this came of another product of
the same rows does no harm: the proof needs of `kth` only that the one looked for has s' within η of it.

Three codes follow this, with these names: the lists as `host` keeps them (`row_kernels.cores_from_lists`), as
`device` does (`device.cores_from_lists`), and all rows (`_among_all`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from panic_tda.arrays.namespace import part, to_host
from panic_tda.clustering.tiled.layout import tile_starts

if TYPE_CHECKING:
    from panic_tda.clustering.tiled.contract import Lists, Space
    from panic_tda.clustering.tiled.workers import Workers
    from panic_tda.progress import Progress
    from panic_tda.types import Array, ArrayModule, Float32Array, FloatArray, IntArray

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
    *,
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
        space.work.cores_from_lists(
            space, weights, lists, rows, min_samples=min_samples, floor=floor, out=(cores, kth, again)
        )

    team.chunks(chunk, n, progress=progress)
    flagged = np.flatnonzero(again)

    def batch(chosen: slice) -> None:
        rows = flagged[chosen]
        missing = min_samples - weights[rows]
        cores[rows] = np.maximum(_among_all(space, weights, rows, missing, kth[rows]), floor)

    team.chunks(batch, len(flagged), largest=_BATCH_ROWS)
    return Cores(cores, len(flagged))


def _among_all(
    space: Space, weights: IntArray, rows: IntArray, missing: IntArray, kth: Float32Array
) -> FloatArray:
    """Measure core distances of some rows with all other rows as their neighbours."""
    xp, n = space.xp, len(weights)
    asking = xp.asarray(rows)
    batch = space.take(asking)
    middle = xp.asarray(kth.astype(np.float64))[:, None]
    high, low = middle + 2 * space.margin, middle - 2 * space.margin
    nearer = xp.zeros(len(rows), dtype=xp.int64)
    between: list[tuple[IntArray, IntArray]] = []
    for begin, end in pairwise(tile_starts(n, _TILE_ROWS).tolist()):
        products = batch @ part(xp, space.vectors, slice(begin, end)).T
        others = xp.arange(begin, end) != asking[:, None]
        nearer += xp.sum(
            xp.where((products > high) & others, xp.asarray(weights[begin:end])[None, :], 0), axis=1
        )
        i, j = xp.nonzero((products <= high) & (products >= low) & others)
        between.append((to_host(i), to_host(j) + begin))
    i, j = (np.concatenate(ends) for ends in zip(*between, strict=True))
    measured = space.work.distances(space, rows[i], j)
    found: FloatArray = weighted_kth(np, i, measured, weights[j], missing - to_host(nearer))
    return found


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
