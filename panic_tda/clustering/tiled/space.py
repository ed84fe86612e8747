"""The rows of a fit, where they lie and where they are worked on.

Everything of order n² or n·d runs on arrays of one library, `Space.xp`: NumPy and compiled loops (`host`) or
CuPy (`device`). Both modules have the same functions and classes, and the passes know only those. What is of
order n, such as joining trees, runs in host memory always.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from panic_tda.arrays.namespace import part, take
from panic_tda.clustering.tiled import axes, device, host, margins
from panic_tda.errors import PanicTdaError

if TYPE_CHECKING:
    from pathlib import Path

    from panic_tda.clustering.tiled.layout import Layout
    from panic_tda.clustering.tiled.survivors import Filter, LightPairs, Survivors
    from panic_tda.types import BoolArray, Float32Array, FloatArray, IntArray

_SAMPLE_ROWS = 512
_COARSEST = 1e-5
"""Float32 products of a sample are closer to exact ones than this. Those of TF32 are off by 1e-4 at 768
dimensions, and by 4e-5 at 4,096, which is within the margin there: the margin grows with the dimensions, the
errors do not."""


class Scanner(Protocol):
    """Finds the pairs of tiles that may matter; holds the buffers of one thread."""

    def nearest(self, rows: Any, best: int) -> Survivors:
        """Find at least the `best` largest products of every row of a tile with the others of the tile."""

    def pairs(self, rows: Any, columns: Any, lower: tuple[Any, Any], drop: Filter | None = None) -> Survivors:
        """Find the pairs of two tiles whose product reaches the lower threshold of the two."""

    def light_within(self, rows: Any, gaps: Any, cores: Any) -> LightPairs:
        """Find the pairs i < j of one tile that are lighter than the largest gap from i + 1 to j."""

    def light_across(
        self, sides: tuple[Any, Any], cores: tuple[Any, Any], heights: tuple[Any, Any]
    ) -> LightPairs:
        """Find the pairs of two tiles that are lighter than the larger of their rows' heights."""


class Lists(Protocol):
    """The rows with the largest float32 products, for every row, itself left out.

    Attributes
    ----------
    rows : (n, length) int32
        Neighbours in no particular order, -1 where there is none yet.
    sims : (n, length) float32
        Products, minus infinity where there is none yet.
    """

    rows: Any
    sims: Any

    def worst(self, rows: Any) -> Any:
        """Return the smallest product on the lists of some rows, which no new entry may fall below."""

    def offer(self, found: Survivors, pair: tuple[int, int], rows: Any, columns: Any) -> None:
        """Offer every pair that was found in a pair of tiles to the lists of both its rows.

        Pairs within one tile come twice, and each time count for their row alone.
        """

    def settle(self) -> None:
        """Enter what still waits."""


class Work(Protocol):
    """What `host` and `device` have in common."""

    TILE_ROWS: int
    """Rows of a tile at which matrix products are fast and the rest stays in a cache, or in memory."""
    THREADS: int | None
    """Threads that work off tiles; None leaves it to the settings."""

    def scanner(self, space: Space, tile_rows: int) -> Scanner:
        """Make the scanner of one thread."""

    def empty_lists(self, xp: Any, layout: Layout, length: int, folder: Path | None) -> Lists:
        """Return lists without entries, in files of `folder` when one is given and it can be."""

    def buffer_bytes(self, tile_rows: int, longest_row: int) -> int:
        """Bytes that a thread takes for tiles, at most."""

    def list_bytes(self, length: int) -> int:
        """Bytes of a row's list and of what waits for it."""

    def distances(self, space: Space, u: IntArray, v: IntArray) -> FloatArray:
        """Measure the chord lengths of pairs of rows in float64."""

    def cores_from_lists(
        self,
        space: Space,
        weights: IntArray,
        lists: Lists,
        chosen: slice,
        min_samples: int,
        floor: float,
        out: tuple[FloatArray, Float32Array, BoolArray],
    ) -> None:
        """Do what `cores.core_distances` says for some rows.

        Fills core distances, products of the k-th neighbours, and whether a list was too short.
        """

    def nearest_outside(
        self, xp: Any, matrix: Any, cores: FloatArray, leader: IntArray, asking: IntArray
    ) -> tuple[IntArray, FloatArray]:
        """Find the row nearest to every asking row in another component, and how far it is, about."""

    def nearest_members(
        self, space: Space, cores: FloatArray, outside: IntArray, groups: tuple[IntArray, IntArray, IntArray]
    ) -> IntArray:
        """Find the row of a group nearest to each outside row.

        `groups` are row numbers, and for every outside row where its group begins and ends there.
        """


@dataclass(frozen=True)
class Space:
    """Rows, their coordinates on the principal axes, and the margins of both products.

    Attributes
    ----------
    vectors : (n, d) float32
        Unit rows, in host or device memory.
    points : (n, m + 1) float32
        See `axes.coordinates`, an array of `xp`; the rows themselves when there is no bound.
    bounded : bool
        Whether products of points bound those of rows.
    margin : float
        η: products of rows lie within it.
    slack : float
        What a product of points may lack to the product of the rows, both as computed.
    xp : module
        The library that works. Rows in host memory are uploaded tile by tile where it is CuPy.
    work : Work
        The inner loops for its arrays.
    """

    vectors: Any
    points: Any
    bounded: bool
    margin: float
    slack: float
    xp: Any
    work: Work

    def take(self, rows: Any) -> Any:
        """Return some rows, chosen by an array of `xp`, as an array of `xp`."""
        return take(self.xp, self.vectors, rows)


def work_on(xp: Any) -> Work:
    """Return the inner loops for the arrays of a library."""
    chosen: Work = host if xp is np else device
    return chosen


def describe(xp: Any, vectors: Any, n_axes: int, rng: np.random.Generator) -> Space:
    """Measure the margins, and project the rows unless they are so short that this would not pay.

    Raises
    ------
    PanicTdaError
        The library's products are less precise than float32's.
    """
    d = vectors.shape[1]
    error = margins.norm_error(xp, vectors)
    margin = margins.product_margin(d, error)
    _require_precise(xp, vectors, margin)
    if not n_axes or d < axes.MIN_FEATURES or n_axes >= d:
        return Space(vectors, vectors, False, margin, 0.0, xp, work_on(xp))
    points = axes.coordinates(xp, vectors, axes.principal_axes(xp, vectors, n_axes, rng))
    return Space(vectors, points, True, margin, margin + margins.bound_margin(n_axes, error), xp, work_on(xp))


def _require_precise(xp: Any, vectors: Any, margin: float) -> None:
    """Compare a sample of products with float64: TF32 and its like, once switched on, break every bound.

    A sample within the margin is no proof for all pairs, so it must be as close as float32's always are.
    """
    sample = part(xp, vectors, slice(0, _SAMPLE_ROWS))
    exact = sample.astype(xp.float64) @ sample.astype(xp.float64).T.copy()
    worst = float(xp.max(xp.absolute(sample @ sample.copy().T - exact)))
    allowed = min(margin, _COARSEST)
    if worst > allowed:
        raise PanicTdaError(
            f"products of float32 rows must be within {allowed:.1e} of exact ones; here they are off by "
            f"{worst:.1e}, as TF32 would be: unset CUPY_TF32 and NVIDIA_TF32_OVERRIDE"
        )
