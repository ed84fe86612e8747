"""Blocks of tiles: the unit of work of an executor's tasks.

A block is a range of tiles of a layout. A task processes pairs of tiles between two blocks, or within one. It
knows neither the layout nor the rows: a `Part` says which positions it needs, and `row_files.RowFiles` where
their rows are. All its indices are local, numbers among the positions of its part.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from panic_tda.types import BoolArray, Int32Array, IntArray

MOST_TILES, MOST_DEVICE_TILES = 48, 24
"""Tiles of a block at most, for up to 1,023 slots, in host memory and on CUDA devices.

Each task reads and packs its rows and learns thresholds anew: at 200,000 × 384, tasks of blocks half as large
took a fifth more processor time than threads. Rows of two blocks fit into 300 MiB at 768 dimensions.
"""
_SLOTS, _MOST_GROWTH = 256, 2
"""Blocks grow with the square root of the slots above this number, up to so many times.

The client takes about 10 ms for each task, so that with many slots tasks must take longer.
"""
_TASKS_PER_SLOT = 4
"""Pairs of blocks for each slot, at least: so that no slot is idle for long at the end of a pass."""


class Part(NamedTuple):
    """The positions and the pairs of tiles of one task.

    Attributes
    ----------
    ranges : tuple of (int, int)
        Positions of one block, or of two: the first one of each range, and the end.
    starts : (tiles + 1,) int64
        Local index at which each tile begins, and the end.
    pairs : (pairs, 2) int32
        Pairs I <= J of local tiles.
    numbers : (pairs,) int64
        Numbers of these pairs in the schedule.
    """

    ranges: tuple[tuple[int, int], ...]
    starts: IntArray
    pairs: Int32Array
    numbers: IntArray

    @property
    def positions(self) -> IntArray:
        """Return the position of every local index."""
        return np.concatenate([np.arange(begin, end) for begin, end in self.ranges])


def divide_tiles(n_tiles: int, slots: int, *, on_device: bool = False) -> IntArray:
    """Divide tiles into blocks of equal size, give or take one.

    Returns
    -------
    (blocks + 1,) int64
        Tile at which each block begins, and the end.
    """
    growth = min(_MOST_GROWTH, max(1, math.isqrt(slots // _SLOTS)))
    most_tiles = growth * (MOST_DEVICE_TILES if on_device else MOST_TILES)
    n_blocks = -(-n_tiles // most_tiles)
    while n_blocks < n_tiles and n_blocks * (n_blocks + 1) // 2 < _TASKS_PER_SLOT * slots:
        n_blocks += 1
    return np.linspace(0, n_tiles, n_blocks + 1).astype(np.int64)


class Groups(NamedTuple):
    """Pairs of tiles by the blocks that they lie in.

    Attributes
    ----------
    within, between : list of (members,) int64
        Numbers of the pairs of each group, ascending, within a block and between two blocks. The groups have
        the order of their first pairs.
    """

    within: list[IntArray]
    between: list[IntArray]


def group_pairs(pairs: Int32Array, numbers: IntArray, bounds: IntArray) -> Groups:
    """Group pairs of tiles by the blocks that they lie in.

    Parameters
    ----------
    pairs : (all pairs, 2) int32
        Tiles I <= J in the order of a schedule.
    numbers : (chosen,) int64
        Those to group, ascending.
    bounds : (blocks + 1,) int64
        See `divide_tiles`.
    """
    blocks = np.searchsorted(bounds, pairs[numbers], side="right") - 1
    keys = blocks[:, 0] * len(bounds) + blocks[:, 1]
    order = np.argsort(keys, kind="stable")
    groups = [group for group in np.split(order, np.flatnonzero(np.diff(keys[order])) + 1) if len(group)]
    groups.sort(key=lambda group: int(group[0]))
    is_within = [bool(blocks[group[0], 0] == blocks[group[0], 1]) for group in groups]
    return Groups(
        [numbers[group] for group, within in zip(groups, is_within, strict=True) if within],
        [numbers[group] for group, within in zip(groups, is_within, strict=True) if not within],
    )


def sort_pairs(pairs: Int32Array, is_done: BoolArray) -> tuple[Int32Array, int]:
    """Put the pairs that are done first, otherwise in their order, and count them."""
    return np.concatenate([pairs[is_done], pairs[~is_done]]), int(np.count_nonzero(is_done))


def make_part(pairs: Int32Array, numbers: IntArray, starts: IntArray, bounds: IntArray) -> Part:
    """Build the part of a group of pairs.

    Parameters
    ----------
    pairs : (all pairs, 2) int32
        The schedule.
    numbers : (pairs,) int64
        Those of the group, all in the same two blocks.
    starts : (tiles + 1,) int64
        Position at which each tile of the layout begins, and the end.
    bounds : (blocks + 1,) int64
        See `divide_tiles`.
    """
    pairs = pairs[numbers]
    first, second = (int(block) for block in np.searchsorted(bounds, pairs[0], side="right") - 1)
    left = slice(int(bounds[first]), int(bounds[first + 1]))
    right = slice(int(bounds[second]), int(bounds[second + 1]))
    ranges = [(int(starts[left.start]), int(starts[left.stop]))]
    local_starts, local_pairs = starts[left.start : left.stop + 1] - starts[left.start], pairs - left.start
    if first != second:
        ranges.append((int(starts[right.start]), int(starts[right.stop])))
        end = local_starts[-1]
        more = starts[right.start + 1 : right.stop + 1] - starts[right.start] + end
        local_starts = np.concatenate([local_starts, more])
        local_pairs[:, 1] = pairs[:, 1] - right.start + (left.stop - left.start)
    return Part(tuple(ranges), local_starts, local_pairs, numbers)
