"""Inner loops in host memory: NumPy's matrix products, compiled kernels for the rest."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from panic_tda.arrays.mapped import new_array
from panic_tda.arrays.rows import slices
from panic_tda.clustering.tiled import contract, kernels, margins, row_kernels
from panic_tda.clustering.tiled.axes import Patience
from panic_tda.clustering.tiled.contract import LightPairs, Survivors
from panic_tda.clustering.tiled.layout import tile_starts

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from panic_tda.clustering.tiled.contract import Filter, Space
    from panic_tda.clustering.tiled.layout import Layout
    from panic_tda.types import ArrayModule, BoolArray, Float32Array, FloatArray, Int32Array, IntArray

TILE_ROWS = 1_024
THREADS = None
DENSE_SHARE = 0.25
"""Above this share of pairs a matrix product of the tile is cheaper than single products.

Measured at 768 dimensions: 15 ns a pair in a matrix product, 50 ns a single product.
"""
_REUSE = 4
"""Single products per row of the tiles from which on copying the rows side by side pays."""
_ASKED_ROWS = 1_024
_PART_PAIRS = 1 << 17
"""Light pairs that are handed on at once."""
_PAIR_BYTES = 64
"""A light pair, and what making a forest of many takes."""


class Scanner:
    """See `contract.Scanner`."""

    def __init__(self, space: Space, tile_rows: int) -> None:
        self._space = space
        area = tile_rows * tile_rows
        self._products = np.empty(area, dtype=np.float32)
        # A kernel writes its next code before it knows whether to keep it.
        self._codes = np.empty(area + 8, dtype=np.int32)
        self._sims = np.empty(area + 8, dtype=np.float32)
        longest = max(space.vectors.shape[1], space.points.shape[1])
        self._left = np.empty(tile_rows * longest, dtype=np.float32)
        self._right = np.empty(tile_rows * longest, dtype=np.float32)
        self._places = np.arange(tile_rows, dtype=np.int32)
        self._patience = Patience()

    def nearest(self, rows: Int32Array, best: int) -> Survivors:
        """Find the `best` largest products of every row, and those equal to the last."""
        products = self.multiply(self._space.vectors, rows, rows)
        found = kernels.collect_best(products, best, self._codes)
        return self._gathered(products, self._codes[:found])

    def pairs(
        self,
        rows: Int32Array,
        columns: Int32Array,
        lower: tuple[Float32Array, Float32Array],
        drop: Filter | None = None,
    ) -> Survivors:
        """Find survivors, by single products where the bound left few pairs."""
        found = self._bounded(rows, columns, lower)
        if found == kernels.DENSE:
            products = self.multiply(self._space.vectors, rows, columns)
            codes = self._codes[: kernels.collect(products, *lower, self._codes, products.size)]
            return self._gathered(products, drop(codes) if drop else codes)
        codes = self._codes[:found]
        codes = drop(codes) if drop else codes
        sims = self._dots(rows, columns, codes)
        kept = kernels.keep_above(codes, sims, *lower)
        return Survivors(codes[:kept], sims[:kept])

    def light_within(self, rows: Int32Array, gaps: FloatArray, cores: FloatArray) -> Iterator[LightPairs]:
        """Find light pairs of one tile."""
        vectors = self._space.vectors
        products = self.multiply(vectors, rows, rows)
        # The gap before the first row belongs to the pairs with the tiles before.
        finite = np.where(np.isfinite(gaps), gaps, 0.0)
        lower = margins.lower_products(finite, self._space.margin)
        codes = self._codes[: kernels.collect_within(products, lower, gaps, cores, self._codes)]
        for part in _parts(codes):
            height = np.empty(len(part))
            found = kernels.light_pairs_within(vectors, rows, part, cores, gaps, height)
            yield _light_pairs(part[:found], len(rows), height)

    def light_across(
        self,
        sides: tuple[Int32Array, Int32Array],
        cores: tuple[FloatArray, FloatArray],
        heights: tuple[FloatArray, FloatArray],
    ) -> Iterator[LightPairs]:
        """Find light pairs of two tiles."""
        lower = margins.thresholds(heights, cores, self._space.margin)
        codes = self.pairs(
            *sides, lower, lambda codes: codes[: kernels.drop_dead_pairs(codes, cores, heights)]
        ).codes
        for part in _parts(codes):
            height = np.empty(len(part))
            found = kernels.light_pairs(self._space.vectors, sides, part, cores, heights, height)
            yield _light_pairs(part[:found], len(sides[1]), height)

    def _gathered(self, products: Float32Array, codes: Int32Array) -> Survivors:
        sims = self._sims[: len(codes)]
        kernels.gather(products, codes, sims)
        return Survivors(codes, sims)

    def _dots(self, rows: Int32Array, columns: Int32Array, codes: Int32Array) -> Float32Array:
        vectors, sims = self._space.vectors, self._sims[: len(codes)]
        if len(codes) <= _REUSE * (len(rows) + len(columns)):
            kernels.dots(vectors, vectors, (rows, columns), codes, sims)
            return sims
        left, right = self._gather(vectors, rows, columns)
        sides = self._places[: len(rows)], self._places[: len(columns)]
        kernels.dots(left, right, sides, codes, sims)
        return sims

    def _bounded(
        self, rows: Int32Array, columns: Int32Array, lower: tuple[Float32Array, Float32Array]
    ) -> int:
        if not self._space.bounded or not self._patience.asks():
            return kernels.DENSE
        products = self.multiply(self._space.points, rows, columns)
        loose = margins.loosened(lower, self._space.slack)
        found: int = kernels.collect(products, *loose, self._codes, int(DENSE_SHARE * products.size))
        self._patience.learn(in_vain=found == kernels.DENSE)
        return found

    def multiply(self, matrix: Float32Array, rows: Int32Array, columns: Int32Array) -> Float32Array:
        """Multiply rows of a matrix, chosen by number, into the buffer of this thread."""
        left, right = self._gather(matrix, rows, columns)
        products = self._products[: len(rows) * len(columns)].reshape(len(rows), len(columns))
        return np.matmul(left, right.T, out=products)

    def _gather(
        self, matrix: Float32Array, rows: Int32Array, columns: Int32Array
    ) -> tuple[Float32Array, Float32Array]:
        # Two buffers even for one tile: some BLAS builds treat X @ X.T specially, and have crashed on it.
        d = matrix.shape[1]
        left = self._left[: len(rows) * d].reshape(len(rows), d)
        right = self._right[: len(columns) * d].reshape(len(columns), d)
        kernels.take(matrix, rows, left)
        kernels.take(matrix, columns, right)
        return left, right


scanner = Scanner


def _parts(codes: Int32Array) -> Iterator[Int32Array]:
    return (codes[some] for some in slices(len(codes), _PART_PAIRS))


def _light_pairs(codes: Int32Array, width: int, height: FloatArray) -> LightPairs:
    return LightPairs(*np.divmod(codes.astype(np.int64), width), height[: len(codes)])


class Lists:
    """See `contract.Lists`: each list is a heap with the worst neighbour first."""

    def __init__(self, rows: Int32Array, sims: Float32Array, n_tiles: int) -> None:
        self.rows, self.sims = rows, sims
        self._locks = [threading.Lock() for _ in range(n_tiles)]

    def worst(self, rows: Int32Array) -> Float32Array:
        """Thresholds only rise; one read too early lets a few more pairs pass."""
        worst: Float32Array = self.sims[rows, 0]
        return worst

    def offer(self, found: Survivors, pair: tuple[int, int], rows: Int32Array, columns: Int32Array) -> None:
        """Which pairs stay does not depend on the order in which threads offer them."""
        with self._locks[pair[0]]:
            kernels.merge_into_lists(*found, rows, columns, self.rows, self.sims)
        if pair[0] != pair[1]:
            with self._locks[pair[1]]:
                kernels.merge_transposed(*found, rows, columns, self.rows, self.sims)

    def settle(self) -> None:
        """Nothing waits: every offer was entered at once."""


def empty_lists(xp: ArrayModule, layout: Layout, length: int, folder: Path | None) -> Lists:
    """Return lists without entries."""
    shape = len(layout.order), length
    rows, sims = (new_array(shape, kind, folder) for kind in (np.int32, np.float32))
    rows[:], sims[:] = -1, -np.inf
    return Lists(rows, sims, layout.n_tiles)


def buffer_bytes(tile_rows: int, longest_row: int) -> int:
    """Products, codes and their products; rows of both sides; light pairs."""
    light = _PAIR_BYTES * min(_PART_PAIRS, tile_rows * tile_rows)
    return 4 * tile_rows * (3 * tile_rows + 2 * longest_row) + light


def list_bytes(length: int) -> int:
    """Neighbours and their products."""
    return 8 * length


def distances(space: Space, u: IntArray, v: IntArray) -> FloatArray:
    """Measure pairs of rows."""
    out = np.empty(len(u))
    kernels.distances(space.vectors, u, v, out)
    return out


def cores_from_lists(
    space: Space,
    weights: IntArray,
    lists: contract.Lists,
    chosen: slice,
    *,
    min_samples: int,
    floor: float,
    out: tuple[FloatArray, BoolArray],
) -> None:
    """Measure some rows' core distances."""
    row_kernels.cores_from_lists(
        space.vectors, weights, lists.rows, lists.sims, min_samples, floor, space.margin,
        chosen.start, chosen.stop, *out,
    )  # fmt: skip


def nearest_outside(
    xp: ArrayModule, matrix: Float32Array, cores: FloatArray, leader: IntArray, asking: IntArray
) -> tuple[IntArray, FloatArray]:
    """Ask all rows, tile by tile."""
    best, weight = np.zeros(len(asking), dtype=np.int64), np.full(len(asking), np.inf)
    left = matrix[asking]
    starts = tile_starts(len(leader), _ASKED_ROWS)
    for begin, end in pairwise(starts):
        products = multiply(left, matrix[begin:end])
        row_kernels.update_best(products, asking, begin, cores, leader, best, weight)
    return best, weight


def multiply(left: Float32Array, right: Float32Array) -> Float32Array:
    """Multiply two sets of rows."""
    products: Float32Array = left @ right.T
    return products


def nearest_members(
    space: Space, cores: FloatArray, outside: IntArray, groups: tuple[IntArray, IntArray, IntArray]
) -> IntArray:
    """Ask all members, in float64."""
    inside = np.empty(len(outside), dtype=np.int64)
    row_kernels.nearest_members(space.vectors, cores, outside, *groups, inside)
    return inside
