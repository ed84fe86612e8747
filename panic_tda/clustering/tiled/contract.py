"""What the passes know of the memory in which they work: the contract that `host` and `device` fulfil.

Everything of order n² or n·d runs on arrays of one library, `Space.xp`: NumPy with compiled loops (`host`),
or CuPy (`device`). What is of order n, such as joining trees, runs in host memory always.

Both passes over tiles ask one question: which pairs (i, j) of two tiles have a product of at least
min(lower_i, lower_j)? The bound by principal axes answers it for most pairs; the products of the rest are
computed one by one while they are few, and by a matrix product of the whole tile when they are many. A pair
of a tile with `width` columns has the code `i * width + j`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from panic_tda.arrays.namespace import take_rows

if TYPE_CHECKING:
    from pathlib import Path

    from panic_tda.clustering.tiled.layout import Layout
    from panic_tda.types import Array, ArrayModule, BoolArray, FloatArray, IntArray

Filter: TypeAlias = "Callable[[Array], Array]"
"""Takes codes, before their products are computed, and returns those that are left; it may overwrite the
rest."""


class Survivors(NamedTuple):
    """Pairs of a tile with their products; valid until the scanner is asked again.

    Attributes
    ----------
    codes : (pairs,) int32 or int64
        Ascending.
    sims : (pairs,) float32
        Products.
    """

    codes: Array
    sims: Array


class LightPairs(NamedTuple):
    """Pairs (i, j) of a tile in host memory, with their mutual reachability distances.

    Attributes
    ----------
    i, j : (pairs,) int64
        Places within the rows and the columns of the tile.
    height : (pairs,) float64
        Chord lengths.
    """

    i: IntArray
    j: IntArray
    height: FloatArray


class Scanner(Protocol):
    """Finds the pairs of tiles that may matter; holds the buffers of one thread.

    `rows` and `columns` are row numbers, (height,) and (width,) int32; all other arguments have one value for
    each of them. All arrays are `Space.xp`'s.
    """

    def nearest(self, rows: Array, best: int) -> Survivors:
        """Find at least the `best` largest products of every row of a tile with the others of the tile."""

    def pairs(
        self, rows: Array, columns: Array, lower: tuple[Array, Array], drop: Filter | None = None
    ) -> Survivors:
        """Find the pairs of two tiles whose product reaches the lower threshold of the two, float32."""

    def light_within(self, rows: Array, gaps: Array, cores: Array) -> Iterator[LightPairs]:
        """Find the pairs i < j of one tile that are lighter than the largest gap from i + 1 to j.

        They come in parts, in ascending order; all of a tile's pairs would take much more than its products.
        """

    def light_across(
        self, sides: tuple[Array, Array], cores: tuple[Array, Array], heights: tuple[Array, Array]
    ) -> Iterator[LightPairs]:
        """Find the pairs of two tiles that are lighter than the larger of their rows' heights, in parts.

        A pair without room between the cores and the heights may be left out of the products.
        """


class Lists(Protocol):
    """The rows with the largest float32 products, for every row, itself left out.

    Attributes
    ----------
    rows : (n, length) int32
        Neighbours in no particular order, -1 where there is none yet.
    sims : (n, length) float32
        Products, minus infinity where there is none yet.
    """

    rows: Array
    sims: Array

    def worst(self, rows: Array) -> Array:
        """Return the smallest product on the lists of some rows, which no new entry may fall below."""

    def offer(self, found: Survivors, pair: tuple[int, int], rows: Array, columns: Array) -> None:
        """Offer every pair that was found in a pair of tiles to the lists of both its rows.

        Pairs within one tile come twice, and each time count for their row alone.
        """

    def settle(self) -> None:
        """Enter what still waits."""


class Work(Protocol):
    """All that the passes ask of the memory they work in; `host` and `device` are its two forms."""

    TILE_ROWS: int
    """Rows of a tile at which matrix products are fast and the rest stays in a cache, or in memory."""
    THREADS: int | None
    """Threads that work off tiles; None leaves it to the settings."""

    def scanner(self, space: Space, tile_rows: int) -> Scanner:
        """Make the scanner of one thread."""

    def empty_lists(self, xp: ArrayModule, layout: Layout, length: int, folder: Path | None) -> Lists:
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
        *,
        min_samples: int,
        floor: float,
        out: tuple[FloatArray, BoolArray],
    ) -> None:
        """Do what the docstring of `cores` says for some rows.

        Fills core distances, of which those with too short a list are upper bounds, and whether it was one.
        """

    def nearest_outside(
        self, xp: ArrayModule, matrix: Array, cores: FloatArray, leader: IntArray, asking: IntArray
    ) -> tuple[IntArray, FloatArray]:
        """Find the row nearest to every asking row in another component, and how far it is, about."""

    def nearest_members(
        self, space: Space, cores: FloatArray, outside: IntArray, groups: tuple[IntArray, IntArray, IntArray]
    ) -> IntArray:
        """Find the row of a group nearest to each outside row.

        `groups` are three arrays: row numbers, group after group, then for every outside row the places
        among them at which its group begins and ends.
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

    vectors: Array
    points: Array
    bounded: bool
    margin: float
    slack: float
    xp: ArrayModule
    work: Work

    def take(self, rows: Array) -> Array:
        """Return some rows, chosen by an array of `xp`, as an array of `xp`."""
        return take_rows(self.xp, self.vectors, rows)
