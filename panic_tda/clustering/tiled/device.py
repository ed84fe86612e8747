"""Inner loops in device memory, as array operations of CuPy and one compiled kernel.

Tiles are larger than in host memory: a call takes some microseconds to launch, whatever it does. Nothing here
depends on the order in which the device's threads finish. The same functions run on every library with
NumPy's interface, which is how they are tested without a device.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from panic_tda.arrays.namespace import namespace, part, take, to_host
from panic_tda.clustering.tiled import margins
from panic_tda.clustering.tiled.device_lists import Lists
from panic_tda.clustering.tiled.survivors import Filter, LightPairs, Patience, Survivors, loosened
from panic_tda.clustering.trees import RangeMaxima

if TYPE_CHECKING:
    from panic_tda.clustering.tiled.layout import Layout
    from panic_tda.clustering.tiled.space import Lists as AnyLists
    from panic_tda.clustering.tiled.space import Space
    from panic_tda.types import BoolArray, Float32Array, FloatArray, IntArray

TILE_ROWS = 8_192
THREADS = 1
DENSE_SHARE = 1 / 256
"""Above this share of pairs a matrix product of the tile is cheaper than gathering both rows of each pair:
at 768 dimensions 1,536 operations against 12 kB of memory traffic."""
_CHUNK_BYTES = 64 << 20
"""Size of the intermediate arrays."""
_SAMPLED = 8
"""A diagonal tile's thresholds come from this part of its columns."""


class Scanner:
    """See `space.Scanner`."""

    def __init__(self, space: Space, tile_rows: int) -> None:
        self._space = space
        self._patience = Patience()

    def nearest(self, rows: Any, best: int) -> Survivors:
        """Find the largest products of every row: those that reach its `best`-th largest in a sample."""
        xp, width = self._space.xp, len(rows)
        products = self._multiply(self._space.vectors, rows, rows)
        here = xp.arange(width)
        products[here, here] = -xp.inf
        # A full sort of the sample; CuPy's partition is one too.
        sample = products[:, :: max(1, min(_SAMPLED, width // (2 * best)))]
        lower = xp.full(width, -xp.inf, dtype=xp.float32)
        if best < sample.shape[1]:
            lower = xp.sort(sample, axis=1)[:, sample.shape[1] - best]
        never = xp.full(width, xp.inf, dtype=xp.float32)
        codes = collect(xp, products, (lower, never), products.size)
        # Where a list takes all rows, everything is collected, the diagonal too.
        codes = codes[codes // width != codes % width]
        return Survivors(codes, xp.take(products.reshape(-1), codes), len(codes))

    def pairs(self, rows: Any, columns: Any, lower: tuple[Any, Any], drop: Filter | None = None) -> Survivors:
        """Find survivors; `drop` takes codes and returns those it left."""
        xp = self._space.xp
        codes = self._bounded(rows, columns, lower)
        if codes is None:
            products = self._multiply(self._space.vectors, rows, columns)
            codes = collect(xp, products, lower, products.size)
            codes = drop(codes) if drop else codes
            return Survivors(codes, xp.take(products.reshape(-1), codes), len(codes))
        codes = drop(codes) if drop else codes
        sims = self._dots(rows, columns, codes)
        i, j = codes // len(columns), codes % len(columns)
        kept = xp.flatnonzero(sims >= xp.minimum(lower[0][i], lower[1][j]))
        return Survivors(codes[kept], sims[kept], len(kept))

    def light_within(self, rows: Any, gaps: Any, cores: Any) -> LightPairs:
        """Find light pairs of one tile, some rows at a time."""
        xp, space, width = self._space.xp, self._space, len(rows)
        products = self._multiply(space.vectors, rows, rows)
        largest = RangeMaxima(gaps)
        found = []
        step = max(1, _CHUNK_BYTES // (8 * width))
        for begin in range(0, width, step):
            first = xp.arange(begin, min(begin + step, width))
            heights = largest.of(first[:, None] + 1, xp.arange(1, width + 1)[None, :])
            some = (
                (products[begin : begin + step] >= margins.lower_products(heights, space.margin))
                & (cores[first][:, None] < heights)
                & (cores[None, :] < heights)
            )
            i, j = xp.nonzero(some)
            found.append(self._lighter((rows, rows), (i + begin, j), (cores, cores), heights[i, j]))
        return LightPairs(*(np.concatenate(parts) for parts in zip(*found, strict=True)))

    def light_across(
        self, sides: tuple[Any, Any], cores: tuple[Any, Any], heights: tuple[Any, Any]
    ) -> LightPairs:
        """Find light pairs of two tiles."""
        xp, width = self._space.xp, len(sides[1])

        def drop(codes: Any) -> Any:
            i, j = codes // width, codes % width
            room = xp.maximum(cores[0][i], cores[1][j]) < xp.maximum(heights[0][i], heights[1][j])
            return codes[xp.flatnonzero(room)]

        lower = margins.thresholds(heights, cores, self._space.margin)
        codes = self.pairs(*sides, lower, drop).codes
        i, j = codes // width, codes % width
        return self._lighter(sides, (i, j), cores, xp.maximum(heights[0][i], heights[1][j]))

    def _lighter(
        self, sides: tuple[Any, Any], pairs: tuple[Any, Any], cores: tuple[Any, Any], heights: Any
    ) -> LightPairs:
        """Keep the pairs that are lighter than `heights`, strictly, in float64."""
        xp, (i, j) = self._space.xp, pairs
        if not len(i):  # the rule, and each of the dozen calls below takes its time for nothing too
            return LightPairs(_places(i), _places(j), np.empty(0))
        measured = _distances(self._space, sides[0][i], sides[1][j])
        w = xp.maximum(measured, xp.maximum(cores[0][i], cores[1][j]))
        kept = xp.flatnonzero(w < heights)
        return LightPairs(_places(i[kept]), _places(j[kept]), to_host(w[kept]))

    def _bounded(self, rows: Any, columns: Any, lower: tuple[Any, Any]) -> Any:
        if not self._space.bounded or not self._patience.asks():
            return None
        products = self._multiply(self._space.points, rows, columns)
        loose = loosened(lower, self._space.slack)
        codes = collect(self._space.xp, products, loose, int(DENSE_SHARE * products.size))
        self._patience.learn(in_vain=codes is None)
        return codes

    def _dots(self, rows: Any, columns: Any, codes: Any) -> Any:
        xp, width = self._space.xp, len(columns)
        sims = xp.empty(len(codes), dtype=xp.float32)
        if not len(codes):
            return sims
        left, i = _located(self._space, rows[codes // width])
        right, j = _located(self._space, columns[codes % width])
        for some in _chunks(len(codes), 4 * left.shape[1]):
            sims[some] = xp.sum(xp.take(left, i[some], axis=0) * xp.take(right, j[some], axis=0), axis=1)
        return sims

    def _multiply(self, matrix: Any, rows: Any, columns: Any) -> Any:
        xp = self._space.xp
        left = self._space.take(rows) if matrix is self._space.vectors else xp.take(matrix, rows, axis=0)
        right = (
            self._space.take(columns) if matrix is self._space.vectors else xp.take(matrix, columns, axis=0)
        )
        return left @ right.T


scanner = Scanner


def _places(chosen: Any) -> IntArray:
    places: IntArray = to_host(chosen).astype(np.int64)
    return places


def collect(xp: Any, products: Any, lower: tuple[Any, Any], limit: int) -> Any:
    """List the pairs of a tile whose product reaches the lower of its row's and its column's threshold.

    Returns
    -------
    (pairs,) integers or None
        Codes in ascending order; None when there are more than `limit`.
    """
    if xp.__name__ == "cupy":
        from panic_tda.clustering.tiled import cuda_kernels

        return cuda_kernels.collect(products, *lower, limit)
    reach = products >= xp.minimum(lower[0][:, None], lower[1][None, :])
    return None if int(xp.count_nonzero(reach)) > limit else xp.flatnonzero(reach)


def empty_lists(xp: Any, layout: Layout, length: int, folder: Path | None) -> Lists:
    """Return lists without entries; they lie on the device whatever `folder` says."""
    return Lists(xp, layout, length)


def buffer_bytes(tile_rows: int, longest_row: int) -> int:
    """Two sets of products and what collecting from them takes; rows of both sides; intermediate arrays."""
    return 4 * tile_rows * (4 * tile_rows + 4 * longest_row) + 4 * _CHUNK_BYTES


def list_bytes(length: int) -> int:
    """Neighbours and their products; as many may wait, with their owners."""
    return 20 * length


def distances(space: Space, u: IntArray, v: IntArray) -> FloatArray:
    """Measure pairs of rows."""
    measured: FloatArray = to_host(_distances(space, space.xp.asarray(u), space.xp.asarray(v)))
    return measured


def _distances(space: Space, u: Any, v: Any) -> Any:
    xp = space.xp
    out = xp.empty(len(u), dtype=xp.float64)
    (left, i), (right, j) = _located(space, u), _located(space, v)
    for some in _chunks(len(u), 8 * left.shape[1]):
        apart = xp.take(left, i[some], axis=0).astype(xp.float64)
        apart -= xp.take(right, j[some], axis=0)
        out[some] = xp.sqrt(xp.sum(apart * apart, axis=1))
    return out


def _located(space: Space, rows: Any) -> tuple[Any, Any]:
    """Return a matrix on the device and where in it each of the rows stands; none is uploaded twice."""
    if namespace(space.vectors) is space.xp:
        return space.vectors, rows
    used, places = space.xp.unique(rows, return_inverse=True)
    return space.take(used), places


def _chunks(n: int, row_bytes: int) -> list[slice]:
    step = max(1, _CHUNK_BYTES // row_bytes)
    return [slice(begin, min(n, begin + step)) for begin in range(0, n, step)]


def cores_from_lists(
    space: Space,
    weights: IntArray,
    lists: AnyLists,
    chosen: slice,
    min_samples: int,
    floor: float,
    out: tuple[FloatArray, Float32Array, BoolArray],
) -> None:
    """Measure some rows' core distances; the lists come with the nearest rows first."""
    xp = space.xp
    near, sims = lists.rows[chosen], lists.sims[chosen]
    n_rows, length = near.shape
    everyone = xp.asarray(weights)
    missing = min_samples - everyone[chosen]
    reached = xp.cumsum(everyone[near], axis=1)
    at = xp.minimum(xp.sum(reached < missing[:, None], axis=1), length - 1)
    here = xp.arange(n_rows)
    kth = sims[here, at]
    middle = kth.astype(xp.float64)[:, None]
    # Sorted by product, so what is certainly nearer comes first, then what has to be measured.
    first = xp.sum(sims > middle + 2 * space.margin, axis=1)
    last = xp.sum(sims >= middle - 2 * space.margin, axis=1)
    missing -= xp.where(first > 0, reached[here, xp.maximum(first - 1, 0)], 0)
    place = xp.arange(length)[None, :]
    i, t = xp.nonzero((place >= first[:, None]) & (place < last[:, None]))
    measured = _distances(space, i + chosen.start, near[i, t])
    core = _weighted_kth(xp, i, measured, everyone[near[i, t]], missing)
    # A row with so many copies that no other row is needed.
    alone = everyone[chosen] >= min_samples
    core = xp.where(alone, floor, xp.maximum(core, floor))
    cores, all_kth, again = out
    cores[chosen], all_kth[chosen] = to_host(core), to_host(kth)
    again[chosen] = to_host((last == length) & (core > floor)) & (length < len(weights) - 1)


def _weighted_kth(xp: Any, groups: Any, values: Any, weights: Any, wanted: Any) -> Any:
    """Smallest value of every group at which the weights of the values up to it reach what is wanted.

    Groups are numbers in ascending order, none without values; the largest value where it is never reached.
    """
    order = xp.argsort(values, kind="stable")
    order = order[xp.argsort(groups[order], kind="stable")]
    ends = xp.searchsorted(groups, xp.arange(len(wanted)), side="right")
    begins = xp.concatenate([xp.zeros(1, dtype=ends.dtype), ends[:-1]])
    total = xp.concatenate([xp.zeros(1, dtype=xp.int64), xp.cumsum(weights[order])])
    short = (total[1:] - total[begins[groups]]) < wanted[groups]
    counts = xp.concatenate([xp.zeros(1, dtype=xp.int64), xp.cumsum(short.astype(xp.int64))])
    return values[order[xp.minimum(begins + counts[ends] - counts[begins], ends - 1)]]


def nearest_outside(
    xp: Any, matrix: Any, cores: FloatArray, leader: IntArray, asking: IntArray
) -> tuple[IntArray, FloatArray]:
    """Ask all rows, tile by tile, in float32.

    Weights are compared as the products that belong to them: each pass over a tile that is spared makes the
    whole faster by as much as the product itself takes.
    """
    rows, leaders = xp.asarray(asking), xp.asarray(leader)
    most = xp.asarray((1 - cores * cores / 2).astype(np.float32))
    left, here = take(xp, matrix, rows), xp.arange(len(asking))
    best = xp.zeros(len(asking), dtype=xp.int64)
    product = xp.full(len(asking), -xp.inf, dtype=xp.float32)
    step = max(1, _CHUNK_BYTES // (4 * len(asking)))
    for begin in range(0, len(leader), step):
        columns = slice(begin, begin + step)
        products = xp.minimum(left @ part(xp, matrix, columns).T, most[columns][None, :])
        inside = leaders[rows][:, None] == leaders[columns][None, :]
        products = xp.where(inside, xp.float32(-xp.inf), products)
        nearest = xp.argmax(products, axis=1)
        largest = products[here, nearest]
        best = xp.where(largest > product, nearest + begin, best)
        product = xp.maximum(product, largest)
    # A row's own core distance is the same for all others.
    weight = xp.sqrt(xp.maximum(2 - 2 * xp.minimum(product, most[rows]), 0))
    return to_host(best), to_host(weight).astype(np.float64)


def nearest_members(
    space: Space, cores: FloatArray, outside: IntArray, groups: tuple[IntArray, IntArray, IntArray]
) -> IntArray:
    """Ask all members, in float32, for all outside rows of one group at a time."""
    xp, (members, begins, ends) = space.xp, groups
    inside = np.empty(len(outside), dtype=np.int64)
    for begin in np.unique(begins):
        asked = np.flatnonzero(begins == begin)
        group = members[begin : ends[asked[0]]]
        inside[asked] = group[_nearest_member(xp, space, cores[group], outside[asked], group)]
    return inside


def _nearest_member(xp: Any, space: Space, cores: FloatArray, outside: IntArray, group: IntArray) -> IntArray:
    left, here = space.take(xp.asarray(outside)), xp.arange(len(outside))
    best = xp.zeros(len(outside), dtype=xp.int64)
    weight = xp.full(len(outside), xp.inf, dtype=xp.float32)
    for some in _chunks(len(group), 4 * space.vectors.shape[1]):
        w = xp.sqrt(xp.maximum(2 - 2 * (left @ space.take(xp.asarray(group[some])).T), 0))
        w = xp.maximum(w, xp.asarray(cores[some].astype(np.float32))[None, :])
        nearest = xp.argmin(w, axis=1)
        lighter = w[here, nearest] < weight
        best = xp.where(lighter, nearest + some.start, best)
        weight = xp.where(lighter, w[here, nearest], weight)
    chosen: IntArray = to_host(best)
    return chosen
