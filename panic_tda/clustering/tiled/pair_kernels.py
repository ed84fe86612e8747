"""Compiled loops over pairs of packed tiles: one call looks at many of them.

Both passes ask the micro-kernel for candidates, pairs whose bound reaches a threshold, and decide about each
candidate from the rows themselves: by a float32 product in the neighbour pass, by the distance in float64 in
the verify pass. They do so for a *strip* of a pair of tiles at a time: `_STRIP_PANELS` panels of the first
tile and all of the second. A call ends early when the buffers may not hold the candidates of another strip,
and returns how many strips are done.

Where the bound by axes leaves more than one pair of rows in sixteen, whole rows take the place of the axes:
both tiles are packed, and the micro-kernel looks at the strip once more. A single product or distance costs
as much as a dozen of the micro-kernel's. Where most pairs of tiles are such, the verify pass packs
whole rows instead of the axes (`improving_edges.estimate_candidates`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from panic_tda.clustering.compiled import compiled
from panic_tda.clustering.tiled import kernels
from panic_tda.clustering.tiled.candidates import find_candidates
from panic_tda.clustering.tiled.coarse import begin_level, pack_coarse_thresholds, without_use
from panic_tda.clustering.tiled.microkernels import COLUMNS, PANEL, ROWS
from panic_tda.clustering.tiled.panels import (
    empty_line,
    empty_values,
    pack_rows,
    pack_thresholds,
    packed_bytes,
)

if TYPE_CHECKING:
    from panic_tda.clustering.tiled.panels import Panels
    from panic_tda.types import Array, BoolArray, Float32Array, FloatArray, Int32Array, IntArray

_STRIP_PANELS = 128 // PANEL
_SPARE = 1 << 15
"""Pairs that a buffer holds beyond those of a strip."""
_PAIR_BYTES, _SLOT_BYTES = 16, 72
"""Of a pair in the buffers; thresholds and merge heights of a slot of both tiles."""
DENSE_SHARE = 1 / 16
"""Share of candidates among the pairs of rows above which whole rows are looked at."""
_NO_TILE = -1


class Buffers(NamedTuple):
    """Scratch of one thread.

    Attributes
    ----------
    left, right : (capacity,) int32
        Slots of the pairs found.
    sims : (capacity,) float32
        Products of their rows; used by the neighbour pass alone.
    heights : (capacity,) float64
        Mutual reachability distances; used by the verify pass alone.
    hits : (ROWS,) uint32
        Of the micro-kernel.
    lower, row_lower : (2, slots of a tile) int32 or float32
        Thresholds of both tiles, as the micro-kernel takes them for the packed values and for whole rows.
    coarse_lower : (2, slots of a tile) int32
        Thresholds of the coarse level: of groups of rows, and of columns.
    coarse_counts : (3,) int64
        See `coarse.begin_level`.
    unpruned_row_groups, unpruned_column_groups : bool
        Groups of rows and of columns that hold an unpruned row; the micro-kernel skips the others.
    tiles : int32 or float32
        Whole rows of two tiles, packed.
    line : int16 or float32
        Of `panels.pack_rows`.
    packed_tiles : (2,) int64
        Numbers of these tiles.
    """

    left: Int32Array
    right: Int32Array
    sims: Float32Array
    heights: FloatArray
    hits: Array
    lower: Array
    row_lower: Array
    coarse_lower: Int32Array
    coarse_counts: IntArray
    unpruned_row_groups: BoolArray
    unpruned_column_groups: BoolArray
    tiles: Array
    line: Array
    packed_tiles: IntArray


def capacity(tile_slots: int) -> int:
    """Return how many pairs a buffer holds."""
    return min(_STRIP_PANELS * PANEL, tile_slots) * tile_slots + _SPARE


def buffer_bytes(tile_slots: int, n_features: int) -> int:
    """Return the bytes of the buffers of one thread."""
    return _PAIR_BYTES * capacity(tile_slots) + tile_slots * (_SLOT_BYTES + 2 * packed_bytes(n_features))


def make_buffers(panels: Panels, *, with_sims: bool) -> Buffers:
    """Allocate the scratch of one thread for the neighbour pass (`with_sims`) or the verify pass."""
    slots, size = panels.tile_slots, capacity(panels.tile_slots)
    tiles = empty_values(2 * panels.tile_panels if panels.bounded else 0, panels.row_packing)
    return Buffers(
        np.empty(size, dtype=np.int32),
        np.empty(size, dtype=np.int32),
        np.empty(size if with_sims else 0, dtype=np.float32),
        np.empty(0 if with_sims else size),
        np.zeros(ROWS, dtype=np.uint32),
        np.empty((2, slots), dtype=panels.values.dtype),
        np.empty((2, slots), dtype=panels.values.dtype),
        np.empty((2, slots if panels.coarse.words else 0), dtype=np.int32),
        np.zeros(3, dtype=np.int64),
        np.ones(slots // ROWS, dtype=np.bool_),
        np.ones(slots // COLUMNS, dtype=np.bool_),
        tiles,
        empty_line(panels.row_packing),
        np.full(2, _NO_TILE),
    )


@compiled
def find_near_pairs(
    panels: Panels,
    pairs: Int32Array,
    begin: int,
    worst: Float32Array,
    buffers: Buffers,
) -> tuple[int, int]:
    """Find the pairs of rows that may enter the neighbour list of either row.

    Parameters
    ----------
    pairs : (pairs, 2) int32
        Pairs of different tiles.
    begin : int
        Strips of them that are done.
    worst : (slots,) float32
        Smallest product on each row's list; infinite where there is no row.

    Returns
    -------
    end, found : int
        Strips that are done, and the pairs of rows in `left`, `right` and `sims`.
    """
    slots = len(buffers.unpruned_row_groups) * ROWS
    n_strips = count_strips(panels)
    n_pairs, is_ready = 0, False
    for index in range(begin, len(pairs) * n_strips):
        if len(buffers.left) - n_pairs < min(_STRIP_PANELS * PANEL, slots) * slots:
            return index, n_pairs
        pair, strip = pairs[index // n_strips], index % n_strips
        first, second = pair[0] * slots, pair[1] * slots
        if strip == 0 or not is_ready:
            for side, start in enumerate((first, second)):
                _set_thresholds(panels, worst[start : start + slots], side, start, buffers)
            is_ready = True
        n_candidates = _find_candidates(panels, (pair[0], pair[1]), strip, buffers, n_pairs)
        n_near = n_pairs
        for t in range(n_pairs, n_pairs + n_candidates):
            i, j = first + buffers.left[t], second + buffers.right[t]
            row, column = panels.rows[i], panels.rows[j]
            if row < 0 or column < 0:
                continue
            sim = kernels.product(panels.factors[0][row], panels.factors[1][column])
            buffers.left[n_near], buffers.right[n_near], buffers.sims[n_near] = i, j, sim
            n_near += sim >= min(worst[i], worst[j])
        n_pairs = n_near
    return len(pairs) * n_strips, n_pairs


@compiled
def find_improving_edges(
    panels: Panels,
    pairs: Int32Array,
    begin: int,
    between: FloatArray,
    by_slot: tuple[FloatArray, FloatArray, FloatArray],
    margin: float,
    prune_rows: bool,
    vectors: Array,
    buffers: Buffers,
) -> tuple[int, int]:
    """Find the pairs of rows whose distance is below the tree's path maximum between them.

    Parameters
    ----------
    pairs, begin
        See `find_near_pairs`.
    between : (pairs,) float64
        Largest merge height of the tiles between the two of each pair.
    by_slot : three arrays of (slots,) float64
        Core distances (infinite where there is no row), and each slot's largest merge height to the end and
        from the start of its tile (0 where there is no row).
    margin : float
        η of a product of rows.
    prune_rows : bool
        Whether groups in which no row can have an improving edge are skipped.
    vectors : (n, d) float32 or float64
        Rows, from which distances are measured.

    Returns
    -------
    end, found : int
        Strips that are done, and the edges in `left`, `right` and `heights`.
    """
    slots = len(buffers.unpruned_row_groups) * ROWS
    n_strips = count_strips(panels)
    cores, to_end, from_start = by_slot
    heights = np.empty((2, slots))
    products = np.empty(slots)
    n_edges, is_ready, has_unpruned = 0, False, True
    for index in range(begin, len(pairs) * n_strips):
        if len(buffers.left) - n_edges < min(_STRIP_PANELS * PANEL, slots) * slots:
            return index, n_edges
        pair, strip = pairs[index // n_strips], index % n_strips
        first, second = pair[0] * slots, pair[1] * slots
        own = cores[first : first + slots], cores[second : second + slots]
        if strip == 0 or not is_ready:
            heights[0] = to_end[first : first + slots]
            heights[1] = np.maximum(from_start[second : second + slots], between[index // n_strips])
            is_ready, has_unpruned = True, not prune_rows or _mark_unpruned_groups(heights, own, buffers)
            for side in range(2 * has_unpruned):
                for i in range(slots):
                    # A row whose core distance reaches its own height can matter by the other row's only.
                    height = heights[side, i]
                    products[i] = np.inf if own[side][i] >= height else 1 - height * height / 2 - margin
                _set_thresholds(panels, products, side, first if side == 0 else second, buffers)
        if not has_unpruned:
            continue
        n_candidates = _find_candidates(panels, (pair[0], pair[1]), strip, buffers, n_edges)
        n_improving = n_edges
        for t in range(n_edges, n_edges + n_candidates):
            i, j = buffers.left[t], buffers.right[t]
            height, core = max(heights[0, i], heights[1, j]), max(own[0][i], own[1][j])
            if core >= height:
                continue
            row, column = panels.rows[first + i], panels.rows[second + j]
            distance = max(core, kernels.distance(vectors[row], vectors[column]))
            buffers.left[n_improving], buffers.right[n_improving] = first + i, second + j
            buffers.heights[n_improving] = distance
            n_improving += distance < height
        n_edges = n_improving
    return len(pairs) * n_strips, n_edges


@compiled
def count_strips(panels: Panels) -> int:
    """Return the strips of a pair of tiles."""
    return -(-panels.tile_panels // _STRIP_PANELS)


@compiled
def _set_thresholds(panels: Panels, lower: Array, side: int, first: int, buffers: Buffers) -> None:
    pack_thresholds(lower, panels.packing, buffers.lower[side])
    if panels.bounded:
        pack_thresholds(lower, panels.row_packing, buffers.row_lower[side])
    if panels.coarse.words:
        pack_coarse_thresholds(lower, first, panels.coarse, buffers.coarse_lower[side], 1 if side else ROWS)


@compiled
def _find_candidates(
    panels: Panels, pair: tuple[int, int], strip: int, buffers: Buffers, n_pairs: int
) -> int:
    """List the candidates of a strip behind the pairs that are found: by the axes, or by whole rows."""
    first = strip * _STRIP_PANELS
    part = first, min(first + _STRIP_PANELS, panels.tile_panels)
    live = buffers.unpruned_row_groups, buffers.unpruned_column_groups
    out = buffers.left[n_pairs:], buffers.right[n_pairs:]
    limit = len(out[0])
    if panels.bounded:
        groups = np.sum(buffers.unpruned_row_groups[part[0] * PANEL // ROWS : part[1] * PANEL // ROWS])
        limit = int(groups * np.sum(buffers.unpruned_column_groups) * ROWS * COLUMNS * DENSE_SHARE)
    lower = buffers.lower[0], buffers.lower[1]
    level = begin_level(panels.coarse, buffers.coarse_lower, buffers.coarse_counts)
    n_candidates = find_candidates(
        panels.values,
        panels.packing.words,
        panels.tile_panels,
        (np.int64(pair[0]), np.int64(pair[1]) + panels.mirror),
        part,
        lower,
        live,
        level,
        buffers.hits,
        limit,
        out,
    )
    if n_candidates <= limit:
        return int(n_candidates)
    slots, size = panels.tile_panels * PANEL, len(buffers.tiles) // 2
    for side in range(2):
        if buffers.packed_tiles[side] != pair[side]:
            rows = panels.rows[pair[side] * slots : (pair[side] + 1) * slots]
            out_tile = buffers.tiles[side * size : (side + 1) * size]
            pack_rows(panels.factors[0], rows, panels.row_packing, buffers.line, out_tile)
            buffers.packed_tiles[side] = pair[side]
    lower = buffers.row_lower[0], buffers.row_lower[1]
    return int(
        find_candidates(
            buffers.tiles,
            panels.row_packing.words,
            panels.tile_panels,
            # Not literals, for which Numba would compile a second version.
            (np.int64(0), np.int64(1)),
            part,
            lower,
            live,
            without_use(level),
            buffers.hits,
            len(out[0]),
            out,
        )
    )


@compiled
def _mark_unpruned_groups(
    heights: FloatArray, cores: tuple[FloatArray, FloatArray], buffers: Buffers
) -> bool:
    """Mark the groups that hold an unpruned row; return whether there are any on both sides.

    A row is pruned when its core distance reaches its own height and the largest height on the other side.
    """
    buffers.unpruned_row_groups[:] = False
    buffers.unpruned_column_groups[:] = False
    largest, any_row, any_column = 0.0, False, False
    for j in range(heights.shape[1]):
        if cores[1][j] < np.inf:
            largest = max(largest, heights[1, j])
    highest = 0.0
    for i in range(heights.shape[1]):
        if cores[0][i] < max(heights[0, i], largest):
            buffers.unpruned_row_groups[i // ROWS] = any_row = True
            highest = max(highest, heights[0, i])
    for j in range(heights.shape[1]):
        if cores[1][j] < max(heights[1, j], highest):
            buffers.unpruned_column_groups[j // COLUMNS] = any_column = True
    return any_row and any_column


@compiled
def push_to_lists(
    owners: Int32Array,
    others: Int32Array,
    sims: Float32Array,
    rows: Int32Array,
    lists: tuple[Int32Array, Float32Array],
    worst: Float32Array,
) -> None:
    """Offer pairs of slots to the neighbour lists of `owners`, and bring their `worst` up to date."""
    list_rows, list_sims = lists
    for t in range(len(owners)):
        row = rows[owners[t]]
        kernels.push_to_list(list_rows[row], list_sims[row], rows[others[t]], sims[t])
        worst[owners[t]] = list_sims[row, 0]
