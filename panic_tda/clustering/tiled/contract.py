"""The interface between the passes and the memory in which they work; `host` and `device` implement it.

Everything of order n² or n·d runs on arrays of one library, `Space.xp`: NumPy with compiled loops (`host`),
or CuPy (`device`). What is of order n, such as joining trees, runs in host memory always.

Both passes over pairs of tiles ask one question: which pairs (i, j) of rows have a product of at least
min(lower_i, lower_j)? Products on the principal axes bound those of the rows and answer it for most pairs;
the rest is decided from the rows themselves. Within a tile, a pair of rows has the packed pair index
`i * width + j`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from panic_tda.arrays.namespace import take_rows

if TYPE_CHECKING:
    from pathlib import Path

    from panic_tda.clustering.tiled.layout import Layout
    from panic_tda.clustering.tiled.workers import Workers
    from panic_tda.clustering.trees import Edges
    from panic_tda.types import (
        Array,
        ArrayModule,
        BoolArray,
        Float32Array,
        FloatArray,
        Int32Array,
        IntArray,
    )


ASKED_PANELS = 8
"""Panels in which a row searches for a row of another component; see `host.OutsideSearch`."""
LIFTED_NORM = 1.4143
"""Bound of the norm of a lifted row, √2 rounded up by more than float32's rounding."""


class CandidatePairs(NamedTuple):
    """Candidate pairs of a tile with their products; valid until the next call of the scanner.

    Attributes
    ----------
    pair_indices : (pairs,) int32 or int64
        Ascending.
    sims : (pairs,) float32
        Products.
    """

    pair_indices: Array
    sims: Array


class ImprovingEdges(NamedTuple):
    """Improving edges (i, j) of a tile in host memory, with their mutual reachability distances.

    Attributes
    ----------
    i, j : (pairs,) int64
        Local indices of the rows and the columns of the tile.
    height : (pairs,) float64
        Chord lengths.
    """

    i: IntArray
    j: IntArray
    height: FloatArray


class ByPosition(NamedTuple):
    """Values of the rows by position, as the scans of tile pairs use them, in the memory of the scan.

    Attributes
    ----------
    layout : Layout
        n positions in tiles.
    cores : (n,) float64
        Core distances.
    merge_heights : (n,) float64
        See `trees.DendrogramOrder`.
    to_end : (n,) float64
        Largest merge height after a position, up to the end of its tile; 0 at the end.
    from_start : (n,) float64
        Largest merge height from the start of its tile up to a position, both included.
    """

    layout: Layout
    cores: Array
    merge_heights: Array
    to_end: Array
    from_start: Array


class Scanner(Protocol):
    """Finds the pairs of tiles that may matter; holds the buffers of one thread.

    `rows` and `columns` are row numbers, (height,) and (width,) int32; all other arguments have one value for
    each of them. All arrays are `Space.xp`'s.
    """

    def nearest(self, rows: Array, best: int) -> Iterator[CandidatePairs]:
        """Find at least the `best` largest products of every row with the others of its tile, in parts."""

    def find_improving_within(
        self, rows: Array, merge_heights: Array, cores: Array
    ) -> Iterator[ImprovingEdges]:
        """Find the pairs i < j of one tile that are below the largest merge height from i + 1 to j.

        They come in parts, in ascending order; all of a tile's pairs would take much more than its products.
        """


class NeighbourScan(Protocol):
    """Fills the neighbour lists from pairs of different tiles; one for the pass, shared by its threads."""

    def scan(self, pairs: Int32Array) -> None:
        """Offer all pairs of rows that may enter a list; `pairs` is a batch of the schedule, (k, 2)."""


class EdgeScan(Protocol):
    """Finds improving edges between different tiles; one for the pass, shared by its threads."""

    def use(self, tiles: ByPosition, *, prune_rows: bool) -> None:
        """Compare with the merge heights of another tree over the same positions from now on."""

    def find(self, pairs: Int32Array, between: FloatArray) -> Edges:
        """Find the edges that are below the tree's path maximum between their ends.

        `pairs` is a batch of the schedule, (k, 2), and `between` the largest merge height between the two
        tiles of each. A minimum spanning forest of these edges may be returned instead of all of them.
        """


class OutsideSearch(Protocol):
    """Finds rows of other components for the joining pass."""

    def begin(self, representative: IntArray) -> None:
        """Start a round, in which each row belongs to the component that its `representative` stands for."""

    def find(self, query_rows: IntArray, *, full_rows: bool) -> IntArray:
        """Return a near row in another component for every query row.

        `full_rows` selects products of full rows where the search can also use projected coordinates.
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

    def push_within(self, candidates: CandidatePairs, tile: int, rows: Array) -> None:
        """Offer every pair that was found within a tile to the list of its first row.

        Each pair comes twice, with either row as the first.
        """

    def flush(self) -> None:
        """Enter the pairs that are still waiting."""


class Kernels(Protocol):
    """Inner loops that the passes call; `host` and `device` implement them for their memory."""

    TILE_ROWS: int
    """Rows of a tile at which matrix products are fast and the rest stays in a cache, or in memory."""
    THREADS: int | None
    """Threads that work off tiles; None leaves it to the settings."""
    QUERY_SHARE: int
    """One of so many rows is asked when components are joined."""

    def scanner(self, space: Space, tile_rows: int) -> Scanner:
        """Make the scanner of one thread."""

    def neighbour_scan(self, space: Space, layout: Layout, lists: Any, team: Workers) -> NeighbourScan:
        """Make the scan of pairs of different tiles, when all lists have entries from their own tile."""

    def edge_scan(self, space: Space, layout: Layout, team: Workers) -> EdgeScan:
        """Make the scan of pairs of different tiles of rows in dendrogram order."""

    def empty_lists(self, xp: ArrayModule, layout: Layout, length: int, folder: Path | None) -> Lists:
        """Return lists without entries, in files of `folder` when one is given and it can be."""

    def buffer_bytes(self, tile_rows: int, longest_row: int) -> int:
        """Return the most bytes that a thread takes for tiles."""

    def packed_bytes(self, n_coordinates: int) -> int:
        """Return the bytes of a packed row, without its coordinates."""

    def list_bytes(self, length: int) -> int:
        """Return the bytes of a row's list and of the pairs that wait for it."""

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
        """Measure the core distances of some rows by the rule in `cores`.

        Fills core distances, of which those with too short a list are upper bounds, and whether it was one.
        """

    def outside_search(self, space: Space, layout: Layout, cores: FloatArray) -> OutsideSearch:
        """Make the search of the joining pass."""

    def choose_panels(
        self, points: Array, owners: IntArray, centres: Array, only: IntArray
    ) -> tuple[IntArray, Float32Array]:
        """Choose the panels with the most similar centres, of those that hold rows of other components.

        Parameters
        ----------
        points : (rows, m) float32
            Coordinates.
        owners : (rows,) int64
            Component of each row.
        centres : (panels, m) float32
            Mean coordinates of each panel.
        only : (panels,) int64
            Component of each panel that holds no other, else -1.

        Returns
        -------
        (rows, ASKED_PANELS) int64, (rows, ASKED_PANELS) float32
            Panels, the most similar first, and their products; -1 and minus infinity where there are fewer.
        """

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
    vectors : (n, d) float32 or float64
        Unit rows, in host or device memory; or rows of any length up to 1 in float64 (see `lifted`).
    coordinates : (n, m + 1) float32
        See `axes.project_rows`, an array of `xp`; the rows themselves when there is no bound, and points on a
        sphere for lifted rows. Without a bound they only choose tiles and where to search for edges that join
        components.
    bounded : bool
        Whether products of the coordinates bound those of the rows.
    margin : float
        η: products of rows lie within it.
    slack : float
        The most by which the computed product of two rows' coordinates is below that of the rows.
    xp : module
        The library that works. Rows in host memory are uploaded tile by tile where it is CuPy.
    kernels : Kernels
        The inner loops for its arrays.
    lifted : two arrays of (n, d + 2) float32, or None
        For rows of any length, their two lifted forms (see `space.lift_rows`): the product of a left form and
        a right form is 1 - d²/2 for the rows' distance d, as is that of two unit rows. None for unit rows.
    """

    vectors: Array
    coordinates: Array
    bounded: bool
    margin: float
    slack: float
    xp: ArrayModule
    kernels: Kernels
    lifted: tuple[Array, Array] | None = None

    @property
    def factors(self) -> tuple[Array, Array]:
        """Left and right rows in float32, whose products are 1 - d²/2 within `margin`."""
        return self.lifted or (self.vectors, self.vectors)

    @property
    def compared(self) -> Array:
        """Matrix whose products select candidate pairs: the coordinates if `bounded`, else the left rows."""
        return self.coordinates if self.bounded else self.factors[0]

    @property
    def largest_norm(self) -> float:
        """Bound of the norms of `compared`."""
        return 1 + self.margin if self.lifted is None else LIFTED_NORM

    def take(self, rows: Array) -> Array:
        """Return some rows, chosen by an array of `xp`, as an array of `xp`."""
        return take_rows(self.xp, self.vectors, rows)
