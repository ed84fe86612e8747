"""Inner loops in host memory: compiled kernels for pairs of tiles, NumPy's products within a tile."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from panic_tda.arrays.mapped import new_array
from panic_tda.arrays.rows import slices
from panic_tda.clustering.tiled import contract, kernels, margins, pair_kernels, panels, row_kernels
from panic_tda.clustering.tiled.contract import CandidatePairs, ImprovingEdges
from panic_tda.clustering.tiled.improving_edges import NO_EDGES, local_forest
from panic_tda.clustering.tiled.layout import BLOCK_TILES
from panic_tda.clustering.tiled.microkernels import PANEL
from panic_tda.clustering.tiled.workers import PerThread
from panic_tda.clustering.trees import Edges, concatenate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from panic_tda.clustering.tiled.contract import ByPosition, Space
    from panic_tda.clustering.tiled.layout import Layout
    from panic_tda.clustering.tiled.workers import Workers
    from panic_tda.types import ArrayModule, BoolArray, Float32Array, FloatArray, Int32Array, IntArray

TILE_ROWS = 1_024
THREADS = None
QUERY_SHARE = 128
_STRIP_ROWS = 128
"""Rows of a tile that are multiplied with all of it at once."""
_EDGE_BYTES = 64
"""An improving edge, and what making a forest of many takes."""
_GROUP_ROWS = 64
"""Neighbouring rows of a group, of which a row asks some when components are joined."""
_CENTRES_AT_ONCE = 8_192
"""Centres that are compared at once: with all of them, the products of 30 million rows would take a GB."""
_THIN_OUT = 1 << 16
"""Edges of one call of `EdgeScan.find` above which only a minimum spanning forest of them is returned."""


class Scanner:
    """See `contract.Scanner`: a tile is multiplied by strips of its rows."""

    def __init__(self, space: Space, tile_rows: int) -> None:
        self._space = space
        strip, d = min(_STRIP_ROWS, tile_rows), space.factors[0].shape[1]
        self._products = np.empty(strip * tile_rows, dtype=np.float32)
        # Products of the rows of a tile, which only the neighbour pass holds at once.
        self._tile = np.empty(0, dtype=np.float32)
        # A kernel writes its next pair before it knows whether to keep it.
        self._pair_indices = np.empty(strip * tile_rows + 8, dtype=np.int32)
        self._sims = np.empty(strip * tile_rows + 8, dtype=np.float32)
        # Two buffers even for one tile: some BLAS builds treat X @ X.T specially, and have crashed on it.
        self._left = np.empty((strip, d), dtype=np.float32)
        self._right = np.empty((tile_rows, d), dtype=np.float32)

    def nearest(self, rows: Int32Array, best: int) -> Iterator[CandidatePairs]:
        """Find the `best` largest products of every row, and those equal to the last."""
        n = len(rows)
        if len(self._tile) < n * n:
            self._tile = np.empty(n * n, dtype=np.float32)
        tile = self._tile[: n * n].reshape(n, n)
        for first, upper in self._strips(rows):
            # Each product once: those with the rows before the strip are in the tile already.
            stop = first + len(upper)
            tile[first:stop, first:] = upper
            tile[stop:, first:stop] = upper[:, stop - first :].T
            products = tile[first:stop]
            pair_indices = self._pair_indices[
                : kernels.collect_best(products, first, best, self._pair_indices)
            ]
            sims = self._sims[: len(pair_indices)]
            kernels.gather(products, first, pair_indices, sims)
            yield CandidatePairs(pair_indices, sims)

    def find_improving_within(
        self, rows: Int32Array, merge_heights: FloatArray, cores: FloatArray
    ) -> Iterator[ImprovingEdges]:
        """Find the improving edges of one tile."""
        # The merge height before the first row belongs to the pairs with the tiles before.
        finite = np.where(np.isfinite(merge_heights), merge_heights, 0.0)
        lower = margins.lower_products(finite, self._space.margin)
        for first, products in self._strips(rows):
            n_pairs = kernels.collect_within(products, first, lower, merge_heights, cores, self._pair_indices)
            pair_indices, height = self._pair_indices[:n_pairs], np.empty(n_pairs)
            n_pairs = kernels.filter_improving_within(
                self._space.vectors, rows, pair_indices, cores, merge_heights, height
            )
            i, j = np.divmod(pair_indices[:n_pairs].astype(np.int64), len(rows))
            yield ImprovingEdges(i, j, height[:n_pairs])

    def _strips(self, rows: Int32Array) -> Iterator[tuple[int, Float32Array]]:
        """Multiply some rows at a time with themselves and those after them.

        Yields the local index of the first, and the products.
        """
        n, (left_rows, right_rows) = len(rows), self._space.factors
        right = self._right[:n]
        kernels.take(right_rows, rows, right)
        for part in slices(n, _STRIP_ROWS):
            height, others = part.stop - part.start, right[part.start :]
            left = self._left[:height]
            products = self._products[: height * len(others)].reshape(height, len(others))
            kernels.take(left_rows, rows[part], left)
            yield part.start, np.matmul(left, others.T, out=products)


scanner = Scanner


class NeighbourScan:
    """See `contract.NeighbourScan`: compiled loops over packed tiles."""

    def __init__(self, space: Space, layout: Layout, lists: Lists, team: Workers) -> None:
        self._space, self._lists = space, lists
        self._panels = panels.pack(space, layout, team)
        self._worst = panels.by_slot(self._panels, lists.sims[layout.order, 0], np.inf)
        # No cycle through this object: it holds the lists, which would wait for a search for garbage.
        self._buffers = PerThread(partial(pair_kernels.make_buffers, self._panels, with_sims=True))

    def scan(self, pairs: Int32Array) -> None:
        """Enter the pairs into the lists; the result does not depend on the order of the threads."""
        buffers, packed, begin = self._buffers.get(), self._panels, 0
        end = len(pairs) * pair_kernels.count_strips(packed)
        while begin < end:
            begin, n_pairs = pair_kernels.find_near_pairs(packed, pairs, begin, self._worst, buffers)
            left, right, sims = buffers.left[:n_pairs], buffers.right[:n_pairs], buffers.sims[:n_pairs]
            for owners, others, tile in ((left, right, pairs[0, 0]), (right, left, pairs[0, 1])):
                with self._lists.lock(int(tile)):
                    pair_kernels.push_to_lists(
                        owners, others, sims, packed.rows, (self._lists.rows, self._lists.sims), self._worst
                    )


class EdgeScan:
    """See `contract.EdgeScan`: compiled loops over packed tiles."""

    def __init__(self, space: Space, layout: Layout, team: Workers) -> None:
        self._space = space
        self._panels = panels.pack(space, layout, team)
        self._buffers = PerThread(partial(pair_kernels.make_buffers, self._panels, with_sims=False))

    def use(self, tiles: ByPosition, *, prune_rows: bool) -> None:
        """Bring what belongs to positions into the order of the packed rows."""
        values = (tiles.cores, np.inf), (tiles.to_end, 0.0), (tiles.from_start, 0.0)
        self._by_slot = tuple(panels.by_slot(self._panels, by_position, fill) for by_position, fill in values)
        self._prune_rows = prune_rows

    def find(self, pairs: Int32Array, between: FloatArray) -> Edges:
        """Find the improving edges of some pairs of tiles."""
        buffers, packed, begin, parts = self._buffers.get(), self._panels, 0, [NO_EDGES]
        end = len(pairs) * pair_kernels.count_strips(packed)
        while begin < end:
            begin, n_edges = pair_kernels.find_improving_edges(
                packed, pairs, begin, between, self._by_slot,
                self._space.margin, self._prune_rows, self._space.vectors, buffers,
            )  # fmt: skip
            u, v = (packed.rows[side[:n_edges]].astype(np.int64) for side in (buffers.left, buffers.right))
            parts.append(Edges(u, v, buffers.heights[:n_edges].copy()))
            if sum(len(part.u) for part in parts) > _THIN_OUT:
                parts = [local_forest(concatenate(parts))]
        return concatenate(parts)


neighbour_scan, edge_scan = NeighbourScan, EdgeScan


class Lists:
    """See `contract.Lists`: each list is a heap with the worst neighbour first."""

    def __init__(self, rows: Int32Array, sims: Float32Array, n_tiles: int) -> None:
        self.rows, self.sims = rows, sims
        self._locks = [threading.Lock() for _ in range(-(-n_tiles // BLOCK_TILES))]

    def lock(self, tile: int) -> threading.Lock:
        """Return the lock that whoever writes the lists of a tile's rows has to hold."""
        return self._locks[tile // BLOCK_TILES]

    def push_within(self, candidates: CandidatePairs, tile: int, rows: Int32Array) -> None:
        """Enter the pairs of one tile; threads write the lists of different rows."""
        with self.lock(tile):
            kernels.merge_into_lists(*candidates, rows, rows, self.rows, self.sims)

    def flush(self) -> None:
        """Do nothing: every pair was entered at once."""


def empty_lists(xp: ArrayModule, layout: Layout, length: int, folder: Path | None) -> Lists:
    """Return lists without entries."""
    shape = len(layout.order), length
    rows, sims = (new_array(shape, kind, folder) for kind in (np.int32, np.float32))
    rows[:], sims[:] = -1, -np.inf
    return Lists(rows, sims, layout.n_tiles)


def buffer_bytes(tile_rows: int, longest_row: int) -> int:
    """Return the bytes of rows, products, pairs and edges, within a tile and between two."""
    strip, slots = min(_STRIP_ROWS, tile_rows), -(-tile_rows // PANEL) * PANEL
    within = 4 * (3 * strip * tile_rows + tile_rows**2 + (strip + tile_rows) * longest_row)
    pairs = pair_kernels.capacity(slots)
    edges = _EDGE_BYTES * (max(strip * tile_rows, pairs) + _THIN_OUT)
    return within + pair_kernels.buffer_bytes(slots, longest_row) + edges


def packed_bytes(n_coordinates: int, n_rows: int = 0) -> int:
    """Return the bytes of the packed values and, by slot, of the row, core distance and merge heights."""
    return panels.packed_bytes(n_coordinates, n_rows) + 44


def list_bytes(length: int) -> int:
    """Return the bytes of the neighbours and their products."""
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


class OutsideSearch:
    """See `contract.OutsideSearch`: a row asks the panels whose centres are most similar to it.

    A panel is `PANEL` neighbouring positions of the layout. Products on the axes choose a few rows of the
    panels, and the nearest of these is found in float64.
    """

    def __init__(self, space: Space, layout: Layout, cores: FloatArray) -> None:
        self._vectors, self._cores, self._order = space.vectors, cores, layout.order
        self._points = space.coordinates
        # The product on the axes alone is a better estimate than the bound.
        self._n_coordinates = self._points.shape[1] - space.bounded
        starts = np.arange(0, len(cores), _GROUP_ROWS)
        self.centres = np.empty((len(starts), self._n_coordinates), dtype=np.float32)
        for number, start in enumerate(starts):
            rows = layout.order[start : start + _GROUP_ROWS]
            self.centres[number] = self._points[rows, : self._n_coordinates].mean(axis=0)

    def begin(self, representative: IntArray) -> None:
        """Find the panels that hold one component alone."""
        self.representative = representative
        self.only = row_kernels.find_pure_panels(representative, self._order, _GROUP_ROWS)

    def find(self, query_rows: IntArray, *, full_rows: bool) -> IntArray:
        """Search the nearest panels that hold rows of other components."""
        points, owners = self._points[query_rows, : self._n_coordinates], self.representative[query_rows]
        return self.probe(query_rows, choose_panels(points, owners, self.centres, self.only)[0])

    def probe(self, query_rows: IntArray, chosen: IntArray) -> IntArray:
        """Search the panels that were chosen for each query row."""
        return row_kernels.probe_panels(
            self._points,
            self._vectors,
            self._order,
            self._cores,
            self.representative,
            query_rows,
            chosen,
            _GROUP_ROWS,
            self._n_coordinates,
        )


outside_search = OutsideSearch


def choose_panels(
    points: Float32Array, owners: IntArray, centres: Float32Array, only: IntArray
) -> tuple[IntArray, Float32Array]:
    """Choose panels; see `contract.Kernels.choose_panels`."""
    chosen = np.full((len(points), contract.ASKED_PANELS), -1)
    largest = np.full(chosen.shape, -np.inf, dtype=np.float32)
    for part in slices(len(centres), _CENTRES_AT_ONCE):
        products = points @ centres[part].T
        row_kernels.choose_panels(products, part.start, only[part], owners, chosen, largest)
    return chosen, largest


def nearest_members(
    space: Space, cores: FloatArray, outside: IntArray, groups: tuple[IntArray, IntArray, IntArray]
) -> IntArray:
    """Compare all members in float64."""
    inside = np.empty(len(outside), dtype=np.int64)
    row_kernels.nearest_members(space.vectors, cores, outside, *groups, inside)
    return inside
