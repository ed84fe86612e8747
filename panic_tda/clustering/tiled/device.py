"""Inner loops in device memory, as array operations of CuPy and one compiled kernel.

Tiles are larger than in host memory: a call takes some microseconds to launch, whatever it does. Nothing here
depends on the order in which the device's threads finish. The same functions run on every library with
NumPy's interface, which is how they are tested without a device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from panic_tda.arrays.namespace import namespace, take_rows, take_slice, to_host
from panic_tda.arrays.rows import slices
from panic_tda.clustering.tiled import contract, margins
from panic_tda.clustering.tiled.axes import BoundBackoff
from panic_tda.clustering.tiled.contract import CandidatePairs, ImprovingEdges
from panic_tda.clustering.tiled.cores import find_weighted_kth
from panic_tda.clustering.tiled.device_lists import Lists
from panic_tda.clustering.tiled.improving_edges import NO_EDGES, find_unpruned_rows, forest_of
from panic_tda.clustering.trees import Edges, RangeMaxima, concatenate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from panic_tda.clustering.tiled.contract import ByPosition, Space
    from panic_tda.clustering.tiled.layout import Layout
    from panic_tda.clustering.tiled.workers import Workers
    from panic_tda.types import (
        Array,
        ArrayModule,
        BoolArray,
        Float32Array,
        FloatArray,
        Int32Array,
        IntArray,
    )

TILE_ROWS = 8_192
THREADS = 1
QUERY_SHARE = 16
DENSE_SHARE = 1 / 256
"""Above this share of pairs a matrix product of the tile is cheaper than gathering both rows of each pair:
at 768 dimensions 1,536 operations against 12 kB of memory traffic."""
CHUNK_BYTES = 64 << 20
"""Size of the intermediate arrays."""
_PART_PAIRS = 1 << 22
"""Pairs of a tile that are worked on at once; where most rows of two are alike, there are 67 million."""
_SAMPLED = 8
"""A diagonal tile's thresholds come from this part of its columns."""


class Scanner:
    """See `contract.Scanner`."""

    def __init__(self, space: Space, tile_rows: int) -> None:
        self._space = space
        self._backoff = BoundBackoff()

    def nearest(self, rows: Array, best: int) -> Iterator[CandidatePairs]:
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
        pair_indices = collect(xp, products, (lower, never), products.size)
        # Where a list takes all rows, everything is collected, the diagonal too.
        pair_indices = pair_indices[pair_indices // width != pair_indices % width]
        yield CandidatePairs(pair_indices, xp.take(products.reshape(-1), pair_indices))

    def pairs(
        self,
        rows: Array,
        columns: Array,
        lower: tuple[Array, Array],
        drop: Callable[[Array], Array] | None = None,
    ) -> CandidatePairs:
        """Find the pairs of two tiles whose product reaches the lower threshold of the two, float32.

        `drop` takes packed pair indices, before their products are computed, and returns those that are left.
        """
        xp = self._space.xp
        pair_indices = self._bounded(rows, columns, lower)
        if pair_indices is None:
            products = self._multiply(self._space.vectors, rows, columns)
            pair_indices = collect(xp, products, lower, products.size)
            pair_indices = drop(pair_indices) if drop else pair_indices
            return CandidatePairs(pair_indices, xp.take(products.reshape(-1), pair_indices))
        pair_indices = drop(pair_indices) if drop else pair_indices
        sims = self._dots(rows, columns, pair_indices)
        i, j = pair_indices // len(columns), pair_indices % len(columns)
        reaching = xp.flatnonzero(sims >= xp.minimum(lower[0][i], lower[1][j]))
        return CandidatePairs(pair_indices[reaching], sims[reaching])

    def find_improving_within(
        self, rows: Array, merge_heights: Array, cores: Array
    ) -> Iterator[ImprovingEdges]:
        """Find the improving edges of one tile, some rows at a time."""
        xp, space, width = self._space.xp, self._space, len(rows)
        products = self._multiply(space.vectors, rows, rows)
        largest = RangeMaxima(merge_heights)
        for part in slices(width, CHUNK_BYTES // (8 * width)):
            first = xp.arange(part.start, part.stop)
            heights = largest.of(first[:, None] + 1, xp.arange(1, width + 1)[None, :])
            light = (
                (products[part] >= margins.lower_products(heights, space.margin))
                & (cores[part][:, None] < heights)
                & (cores[None, :] < heights)
            )
            i, j = xp.nonzero(light)
            yield self._keep_improving((rows, rows), (i + part.start, j), (cores, cores), heights[i, j])

    def find_improving_across(
        self, sides: tuple[Array, Array], cores: tuple[Array, Array], heights: tuple[Array, Array]
    ) -> Iterator[ImprovingEdges]:
        """Find the pairs of two tiles that are lighter than the larger of their rows' heights, in parts."""
        xp, width = self._space.xp, len(sides[1])

        def with_room(pair_indices: Array) -> Array:
            i, j = pair_indices // width, pair_indices % width
            room = xp.maximum(cores[0][i], cores[1][j]) < xp.maximum(heights[0][i], heights[1][j])
            return pair_indices[xp.flatnonzero(room)]

        def drop(pair_indices: Array) -> Array:
            parts = [with_room(pair_indices[part]) for part in slices(len(pair_indices), _PART_PAIRS)]
            return xp.concatenate(parts) if len(parts) > 1 else with_room(pair_indices)

        lower = margins.thresholds(heights, cores, self._space.margin)
        pair_indices = self.pairs(*sides, lower, drop).pair_indices
        for part in slices(len(pair_indices), _PART_PAIRS):
            i, j = pair_indices[part] // width, pair_indices[part] % width
            yield self._keep_improving(sides, (i, j), cores, xp.maximum(heights[0][i], heights[1][j]))

    def _keep_improving(
        self,
        sides: tuple[Array, Array],
        pairs: tuple[Array, Array],
        cores: tuple[Array, Array],
        heights: Array,
    ) -> ImprovingEdges:
        """Return the pairs that are strictly lighter than `heights` in float64."""
        xp, (i, j) = self._space.xp, pairs
        if not len(i):  # the rule, and each of the dozen calls below takes its time for nothing too
            return ImprovingEdges(_local_indices(i), _local_indices(j), np.empty(0))
        measured = measure_distances(self._space, sides[0][i], sides[1][j])
        w = xp.maximum(measured, xp.maximum(cores[0][i], cores[1][j]))
        improving = xp.flatnonzero(w < heights)
        return ImprovingEdges(
            _local_indices(i[improving]), _local_indices(j[improving]), to_host(w[improving])
        )

    def _bounded(self, rows: Array, columns: Array, lower: tuple[Array, Array]) -> Array | None:
        if not self._space.bounded or not self._backoff.should_evaluate():
            return None
        products = self._multiply(self._space.coordinates, rows, columns)
        loose = margins.loosened(lower, self._space.slack)
        pair_indices = collect(self._space.xp, products, loose, int(DENSE_SHARE * products.size))
        self._backoff.record(useless=pair_indices is None)
        return pair_indices

    def _dots(self, rows: Array, columns: Array, pair_indices: Array) -> Array:
        xp, width = self._space.xp, len(columns)
        sims = xp.empty(len(pair_indices), dtype=xp.float32)
        if not len(pair_indices):
            return sims
        left, i = _located(self._space, rows[pair_indices // width])
        right, j = _located(self._space, columns[pair_indices % width])
        for part in slices(len(pair_indices), CHUNK_BYTES // (4 * left.shape[1])):
            sims[part] = xp.sum(xp.take(left, i[part], axis=0) * xp.take(right, j[part], axis=0), axis=1)
        return sims

    def _multiply(self, matrix: Array, rows: Array, columns: Array) -> Array:
        xp = self._space.xp
        return take_rows(xp, matrix, rows) @ take_rows(xp, matrix, columns).T


scanner = Scanner


class NeighbourScan:
    """See `contract.NeighbourScan`: one pair of tiles after the other."""

    def __init__(self, space: Space, layout: Layout, lists: Lists, team: Workers) -> None:
        self._scanner, self._layout, self._lists = Scanner(space, 0), layout, lists

    def scan(self, pairs: Int32Array) -> None:
        """Enter what survives of each pair of tiles."""
        for first, second in pairs.tolist():
            rows, columns = self._layout.rows(first), self._layout.rows(second)
            lower = self._lists.thresholds(rows), self._lists.thresholds(columns)
            self._lists.push(self._scanner.pairs(rows, columns, lower), (first, second), rows, columns)


class EdgeScan:
    """See `contract.EdgeScan`: one pair of tiles after the other."""

    def __init__(self, space: Space, layout: Layout, team: Workers) -> None:
        self._scanner = Scanner(space, 0)

    def use(self, tiles: ByPosition, *, prune_rows: bool) -> None:
        """Keep the tree's numbers for `find`."""
        self._tiles, self._prune_rows = tiles, prune_rows

    def find(self, pairs: Int32Array, between: FloatArray) -> Edges:
        """Find a forest of each pair of tiles."""
        parts = [NO_EDGES]
        for (first, second), largest in zip(pairs.tolist(), between.tolist(), strict=True):
            parts.append(self._edges(first, second, largest))
        return concatenate(parts)

    def _edges(self, first: int, second: int, between: float) -> Edges:
        tiles, xp = self._tiles, namespace(self._tiles.cores)
        left, right = tiles.layout.positions(first), tiles.layout.positions(second)
        rows, columns = tiles.layout.rows(first), tiles.layout.rows(second)
        cores = tiles.cores[left], tiles.cores[right]
        heights = tiles.to_end[left], xp.maximum(tiles.from_start[right], between)
        if self._prune_rows:
            i, j = find_unpruned_rows(cores, heights)
            if not len(i) or not len(j):
                return NO_EDGES
            rows, columns = rows[i], columns[j]
            cores, heights = (cores[0][i], cores[1][j]), (heights[0][i], heights[1][j])
        return forest_of(rows, columns, self._scanner.find_improving_across((rows, columns), cores, heights))


neighbour_scan, edge_scan = NeighbourScan, EdgeScan


def _local_indices(chosen: Array) -> IntArray:
    local_indices: IntArray = to_host(chosen).astype(np.int64)
    return local_indices


def collect(xp: ArrayModule, products: Array, lower: tuple[Array, Array], limit: int) -> Array:
    """List the pairs of a tile whose product reaches the lower of its row's and its column's threshold.

    Returns
    -------
    (pairs,) integers or None
        Packed pair indices in ascending order; None when there are more than `limit`.
    """
    if xp.__name__ == "cupy":
        from panic_tda.clustering.tiled import cuda_kernels

        return cuda_kernels.collect(products, *lower, limit)
    reach = products >= xp.minimum(lower[0][:, None], lower[1][None, :])
    return None if int(xp.count_nonzero(reach)) > limit else xp.flatnonzero(reach)


def empty_lists(xp: ArrayModule, layout: Layout, length: int, folder: Path | None) -> Lists:
    """Return lists without entries; they lie on the device whatever `folder` says."""
    return Lists(xp, layout, length)


def buffer_bytes(tile_rows: int, longest_row: int) -> int:
    """Return the bytes of products, collected pairs, rows of both sides and intermediate arrays."""
    return 4 * tile_rows * (4 * tile_rows + 4 * longest_row) + 4 * CHUNK_BYTES


def packed_bytes(n_coordinates: int) -> int:
    """Return 0: tiles are gathered when they are multiplied."""
    return 0


def list_bytes(length: int) -> int:
    """Return the bytes of a list, and of as many waiting pairs with their owners."""
    return 20 * length


def distances(space: Space, u: IntArray, v: IntArray) -> FloatArray:
    """Measure pairs of rows."""
    measured: FloatArray = to_host(measure_distances(space, space.xp.asarray(u), space.xp.asarray(v)))
    return measured


def measure_distances(space: Space, u: Array, v: Array) -> Array:
    xp = space.xp
    out = xp.empty(len(u), dtype=xp.float64)
    (left, i), (right, j) = _located(space, u), _located(space, v)
    for part in slices(len(u), CHUNK_BYTES // (8 * left.shape[1])):
        apart = xp.take(left, i[part], axis=0).astype(xp.float64)
        apart -= xp.take(right, j[part], axis=0)
        out[part] = xp.sqrt(xp.sum(apart * apart, axis=1))
    return out


def _located(space: Space, rows: Array) -> tuple[Array, Array]:
    """Return a matrix on the device and where in it each of the rows stands; none is uploaded twice."""
    if namespace(space.vectors) is space.xp:
        return space.vectors, rows
    used, places = space.xp.unique(rows, return_inverse=True)
    return space.take(used), places


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
    """Measure some rows' core distances; the docstring of `cores` has the proof and the names.

    The lists come with the nearest rows first.
    """
    xp = space.xp
    near, sims = lists.rows[chosen], lists.sims[chosen]
    n_rows, length = near.shape
    everyone = xp.asarray(weights)
    missing = min_samples - everyone[chosen]
    reached = xp.cumsum(everyone[near], axis=1)
    at = xp.minimum(xp.sum(reached < missing[:, None], axis=1), length - 1)
    here = xp.arange(n_rows)
    kth = sims[here, at].astype(xp.float64)[:, None]
    high, low = kth + 2 * space.margin, kth - 2 * space.margin
    first, last = xp.sum(sims > high, axis=1), xp.sum(sims >= low, axis=1)
    missing -= xp.where(first > 0, reached[here, xp.maximum(first - 1, 0)], 0)
    place = xp.arange(length)[None, :]
    i, t = xp.nonzero((place >= first[:, None]) & (place < last[:, None]))
    measured = measure_distances(space, i + chosen.start, near[i, t])
    core = find_weighted_kth(xp, i, measured, everyone[near[i, t]], missing)
    # A row with so many copies that no other row is needed.
    alone = everyone[chosen] >= min_samples
    core = xp.where(alone, floor, xp.maximum(core, floor))
    cores, again = out
    cores[chosen] = to_host(core)
    again[chosen] = to_host((last == length) & (core > floor)) & (length < len(weights) - 1)


class OutsideSearch:
    """See `contract.OutsideSearch`: asks all rows, tile by tile, in float32.

    Weights are compared as the products that belong to them, which spares a pass over each tile.
    """

    def __init__(self, space: Space, layout: Layout, cores: FloatArray) -> None:
        self._space, xp = space, space.xp
        self._most = xp.asarray((1 - cores * cores / 2).astype(np.float32))

    def begin(self, representative: IntArray) -> None:
        """Upload the components."""
        self._representative = self._space.xp.asarray(representative)

    def find(self, query_rows: IntArray, *, full_rows: bool) -> IntArray:
        """Compare all rows by products of full rows, or on the axes, with errors of about 0.01."""
        space, xp, representative = self._space, self._space.xp, self._representative
        matrix = space.coordinates[:, :-1] if space.bounded and not full_rows else space.vectors
        rows = xp.asarray(query_rows)
        left, here = take_rows(xp, matrix, rows), xp.arange(len(query_rows))
        best = xp.zeros(len(query_rows), dtype=xp.int64)
        product = xp.full(len(query_rows), -xp.inf, dtype=xp.float32)
        for columns in slices(len(representative), CHUNK_BYTES // (4 * len(query_rows))):
            products = xp.minimum(left @ take_slice(xp, matrix, columns).T, self._most[columns][None, :])
            inside = representative[rows][:, None] == representative[columns][None, :]
            products = xp.where(inside, xp.float32(-xp.inf), products)
            nearest = xp.argmax(products, axis=1)
            largest = products[here, nearest]
            best = xp.where(largest > product, nearest + columns.start, best)
            product = xp.maximum(product, largest)
        chosen: IntArray = to_host(best)
        return chosen


outside_search = OutsideSearch


def choose_panels(
    points: Array, owners: IntArray, centres: Array, only: IntArray
) -> tuple[IntArray, Float32Array]:
    """Choose panels; see `contract.Kernels.choose_panels`."""
    xp = namespace(points)
    here = xp.arange(len(points))
    products = points @ centres.T
    is_inside = xp.asarray(owners)[:, None] == xp.asarray(only)[None, :]
    products = xp.where(is_inside, xp.float32(-xp.inf), products)
    chosen = np.full((len(points), contract.ASKED_PANELS), -1)
    largest = np.full(chosen.shape, -np.inf, dtype=np.float32)
    for rank in range(min(contract.ASKED_PANELS, len(centres))):
        panels = xp.argmax(products, axis=1)
        largest[:, rank] = to_host(products[here, panels])
        chosen[:, rank] = np.where(largest[:, rank] > -np.inf, to_host(panels), -1)
        products[here, panels] = -xp.inf
    return chosen, largest


def nearest_members(
    space: Space, cores: FloatArray, outside: IntArray, groups: tuple[IntArray, IntArray, IntArray]
) -> IntArray:
    """Compare all members in float32, for all outside rows of one group at a time."""
    xp, (members, begins, ends) = space.xp, groups
    inside = np.empty(len(outside), dtype=np.int64)
    for begin in np.unique(begins):
        in_group = np.flatnonzero(begins == begin)
        group = members[begin : ends[in_group[0]]]
        inside[in_group] = group[_nearest_member(xp, space, cores[group], outside[in_group], group)]
    return inside


def _nearest_member(
    xp: ArrayModule, space: Space, cores: FloatArray, outside: IntArray, group: IntArray
) -> IntArray:
    left, here = space.take(xp.asarray(outside)), xp.arange(len(outside))
    best = xp.zeros(len(outside), dtype=xp.int64)
    weight = xp.full(len(outside), xp.inf, dtype=xp.float32)
    for part in slices(len(group), CHUNK_BYTES // (4 * space.vectors.shape[1])):
        w = xp.sqrt(xp.maximum(2 - 2 * (left @ space.take(xp.asarray(group[part])).T), 0))
        w = xp.maximum(w, xp.asarray(cores[part].astype(np.float32))[None, :])
        nearest = xp.argmin(w, axis=1)
        lighter = w[here, nearest] < weight
        best = xp.where(lighter, nearest + part.start, best)
        weight = xp.where(lighter, w[here, nearest], weight)
    chosen: IntArray = to_host(best)
    return chosen
