"""The pairs of a tile that may matter, with their products: the engine's innermost stage.

Both passes ask the same question: which pairs (i, j) of two tiles have a product of at least
min(lower_i, lower_j)? The bound by principal axes answers for most pairs; the products of the rest are
computed one by one while they are few, and by a matrix product of the whole tile when they are many.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from panic_tda.backends.tiled import axes, kernels, margins

if TYPE_CHECKING:
    from panic_tda.types import Float32Array, Int32Array

DENSE_SHARE = 0.25
"""Above this share of pairs a matrix product of the tile is cheaper than single products.

Measured at 768 dimensions: 15 ns a pair in a matrix product, 50 ns a single product.
"""
_REUSE = 4
"""Single products per row of the tiles from which on copying the rows side by side pays."""
_PATIENCE = 16
"""Most tiles done densely without asking the bound, after it was asked in vain as many times in a row."""


@dataclass(frozen=True)
class Space:
    """Rows, their coordinates on the principal axes, and the margins of both products.

    Attributes
    ----------
    vectors : (n, d) float32
        Unit rows.
    points : (n, m + 1) float32
        See `axes.coordinates`; the rows themselves when there is no bound.
    bounded : bool
        Whether products of points bound those of rows.
    margin : float
        η: products of rows lie within it.
    slack : float
        What a product of points may lack to the product of the rows, both as computed.
    """

    vectors: Float32Array
    points: Float32Array
    bounded: bool
    margin: float
    slack: float


def describe(vectors: Float32Array, n_axes: int, rng: np.random.Generator) -> Space:
    """Project the rows, unless they are so short that this would not pay."""
    d = vectors.shape[1]
    error = margins.norm_error(vectors)
    margin = margins.product_margin(d, error)
    if not n_axes or d < axes.MIN_FEATURES or n_axes >= d:
        return Space(vectors, vectors, False, margin, 0.0)
    points = axes.coordinates(vectors, axes.principal_axes(vectors, n_axes, rng))
    return Space(vectors, points, True, margin, margin + margins.bound_margin(n_axes, error))


class Survivors(NamedTuple):
    """Pairs by their code i * width + j in ascending order, and their float32 products."""

    codes: Int32Array
    sims: Float32Array
    found: int


Filter = Callable[["Int32Array", int], int]
"""Drops codes in place before their products are computed, and says how many are left."""


class Scanner:
    """Finds survivors; holds the buffers of one thread."""

    def __init__(self, space: Space, tile_rows: int) -> None:
        self._space = space
        area = tile_rows * tile_rows
        self._products = np.empty(area, dtype=np.float32)
        # A kernel writes its next code before it knows whether to keep it.
        self.codes = np.empty(area + 8, dtype=np.int32)
        self._sims = np.empty(area + 8, dtype=np.float32)
        longest = max(space.vectors.shape[1], space.points.shape[1])
        self._left = np.empty(tile_rows * longest, dtype=np.float32)
        self._right = np.empty(tile_rows * longest, dtype=np.float32)
        self._positions = np.arange(tile_rows, dtype=np.int32)
        self._wait = self._in_vain = 0

    def nearest(self, rows: Int32Array, best: int) -> Survivors:
        """Find the `best` largest products of every row of a tile with the other rows of the tile."""
        products = self.multiply(self._space.vectors, rows, rows)
        found = kernels.collect_best(products, best, self.codes)
        kernels.gather(products, self.codes, found, self._sims)
        return Survivors(self.codes, self._sims, found)

    def pairs(
        self,
        rows: Int32Array,
        columns: Int32Array,
        lower: tuple[Float32Array, Float32Array],
        drop: Filter | None = None,
    ) -> Survivors:
        """Find the pairs of two tiles whose product reaches the lower threshold of the two."""
        found = self._bounded(rows, columns, lower)
        if found == kernels.DENSE:
            products = self.multiply(self._space.vectors, rows, columns)
            found = kernels.collect(products, *lower, self.codes, products.size)
            found = drop(self.codes, found) if drop else found
            kernels.gather(products, self.codes, found, self._sims)
            return Survivors(self.codes, self._sims, found)
        found = drop(self.codes, found) if drop else found
        self._dots(rows, columns, found)
        return Survivors(self.codes, self._sims, kernels.keep_above(self.codes, self._sims, found, *lower))

    def _dots(self, rows: Int32Array, columns: Int32Array, found: int) -> None:
        vectors = self._space.vectors
        if found <= _REUSE * (len(rows) + len(columns)):
            kernels.dots(vectors, vectors, (rows, columns), self.codes, found, self._sims)
            return
        left, right = self._gather(vectors, rows, columns)
        sides = self._positions[: len(rows)], self._positions[: len(columns)]
        kernels.dots(left, right, sides, self.codes, found, self._sims)

    def _bounded(
        self, rows: Int32Array, columns: Int32Array, lower: tuple[Float32Array, Float32Array]
    ) -> int:
        if not self._space.bounded or self._wait:
            self._wait = max(0, self._wait - 1)
            return kernels.DENSE
        products = self.multiply(self._space.points, rows, columns)
        slack = np.float32(self._space.slack)
        loose = [np.nextafter(side - slack, np.float32(-np.inf)) for side in lower]
        found: int = kernels.collect(
            products, loose[0], loose[1], self.codes, int(DENSE_SHARE * products.size)
        )
        if found == kernels.DENSE:
            self._wait = min(self._in_vain, _PATIENCE)
            self._in_vain += 1
        else:
            self._in_vain = 0
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
