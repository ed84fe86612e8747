"""Pack points a second time, as int8: a coarse level that rules out most blocks of pairs at half the cost.

A point p is turned by a fixed rotation, which changes no product and spreads what it has on a few axes over
all m coordinates. It is packed in two forms, l = S·p + e for rows and r = S'·p + e' for columns. For a row
whose roundings ‖e‖ and ‖e'‖ are at most E, `proof` shows that

    |l·r' - S·S'·(p·p')| ≤ N·(S + S')·E + E²,

where N bounds ‖p‖. Rows with a larger rounding error are *rough*: their blocks are never ruled out.

The instruction multiplies bytes without a sign by bytes with one, and adds two products in 16 bits. So 128 is
added to every value of the row form, and every sum begins with what this adds to it, negative: a word of two
sums stands before the others in the column form. The scales are such that no sum of two products saturates,
and none of all exceeds 16 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from panic_tda.clustering.compiled import compiled
from panic_tda.clustering.tiled import microkernels
from panic_tda.clustering.tiled.microkernels import PANEL

if TYPE_CHECKING:
    from panic_tda.clustering.tiled.workers import Workers
    from panic_tda.types import Array, BoolArray, Float32Array, FloatArray, Int32Array, IntArray

_OFFSET = 128
_LARGEST_ROW_VALUE = 127
"""Of the row form, without its offset."""
_LARGEST_COLUMN_PAIR = 128
"""Sum of the absolute values of the two values of the column form that are multiplied at once: the sum of
their products with at most 255 is below 2¹⁵."""
_LARGEST_SUM = 32_767
_DEVIATIONS = 5.2
"""Standard deviations of a turned coordinate that are packed without clipping: larger ones are rare."""
_SPARE_ROUNDING = 0.52
"""Excess over the usual rounding error up to which a row is not rough: four standard deviations of it."""
_SEED = 0
_CHUNK_PANELS = 512
_WASTED_STRIPS = 16
"""Strips that are compared without the coarse level after one of which it left more than half."""


class CoarsePanels(NamedTuple):
    """Points packed as int8, by panel, word and row of the panel.

    Attributes
    ----------
    words : int
        Of a packed point, four values each; 0 if there is no coarse level.
    left : (slots * words,) int32
        Row form.
    right : (slots * (words + 1),) int32
        Column form, after a word with the initial sums.
    is_rough : (slots,) bool
        Rows with a large rounding error.
    square : float
        S·S'.
    error : float
        N·(S + S')·E + E², rounded up.
    slack : float
        What a product of points may lack to that of the rows.
    """

    words: int
    left: Int32Array
    right: Int32Array
    is_rough: BoolArray
    square: float
    error: float
    slack: float


class CoarseLevel(NamedTuple):
    """The coarse level as the search for candidates takes it.

    Attributes
    ----------
    in_use : bool
        Whether blocks are looked at by it.
    words, left, right
        See `CoarsePanels`.
    lower_groups, lower_columns : (slots of a tile,) int32
        Smallest threshold of each group of rows of the first tile, and thresholds of the second one.
    counts : (2,) int64
        Filled: blocks looked at, and those that were not ruled out.
    """

    in_use: bool
    words: int
    left: Int32Array
    right: Int32Array
    lower_groups: Int32Array
    lower_columns: Int32Array
    counts: IntArray


def choose_scales(n_coordinates: int, largest_norm: float) -> tuple[float, float]:
    """Choose the scales of the row form and of the column form.

    Parameters
    ----------
    n_coordinates : int
        Of a point, m.
    largest_norm : float
        Bound of the norms of the points, N.
    """
    deviation = largest_norm * min(1.0, _DEVIATIONS / n_coordinates**0.5)
    row, column = _LARGEST_ROW_VALUE / deviation, _LARGEST_COLUMN_PAIR / (2**0.5 * deviation)
    # (S·N + √m/2)·(S'·N + √m/2) is at most 2¹⁵ - 1.
    rest = n_coordinates**0.5 / 2
    while (row * largest_norm + rest) * (column * largest_norm + rest) > _LARGEST_SUM:
        row, column = 0.99 * row, 0.99 * column
    return row, column


def pack_coarse(
    points: Float32Array, rows: Int32Array, largest_norm: float, slack: float, team: Workers
) -> CoarsePanels:
    """Pack points by slot.

    Parameters
    ----------
    points : (n, m) float32
        Rows or their coordinates.
    rows : (slots,) int32
        Row in each slot, or a negative number.
    largest_norm : float
        Bound of the norms of the points.
    slack : float
        What a product of points may lack to that of the rows.
    team : Workers
        Threads.
    """
    m = points.shape[1]
    words, scales = -(-m // 4), choose_scales(m, largest_norm)
    # Random directions: no data make coordinates on them large but by chance.
    rotation = np.linalg.qr(np.random.default_rng(_SEED).standard_normal((m, m)))[0]
    rounding = (m / 12) ** 0.5 + _SPARE_ROUNDING
    error = 1.001 * (largest_norm * sum(scales) * rounding + rounding**2) + 1
    left = np.empty(len(rows) * words, dtype=np.int32)
    right = np.empty(len(rows) * (words + 1), dtype=np.int32)
    is_rough = np.zeros(len(rows), dtype=np.bool_)

    def pack_panels(panels: slice) -> None:
        slots = slice(panels.start * PANEL, panels.stop * PANEL)
        chosen = rows[slots]
        turned = points[chosen].astype(np.float64) @ rotation
        turned[chosen < 0] = 0
        by_panel = slice(slots.start * words, slots.stop * words)
        with_sums = slice(slots.start * (words + 1), slots.stop * (words + 1))
        _pack(turned, scales, rounding, left[by_panel], right[with_sums], is_rough[slots])

    team.chunks(pack_panels, len(rows) // PANEL, largest=_CHUNK_PANELS)
    return CoarsePanels(words, left, right, is_rough, scales[0] * scales[1], error, slack)


def no_coarse_panels() -> CoarsePanels:
    """Return what stands for the packed points where there is no coarse level."""
    empty = np.empty(0, dtype=np.int32)
    return CoarsePanels(0, empty, empty, np.empty(0, dtype=np.bool_), 0.0, 0.0, 0.0)


def coarse_bytes(n_coordinates: int) -> int:
    """Return the bytes of a point in both forms on this machine, and of its mark."""
    return 4 * (2 * -(-n_coordinates // 4) + 1) + 1 if microkernels.COARSE else 0


@compiled
def _pack(
    turned: FloatArray,
    scales: tuple[float, float],
    rounding: float,
    left: Int32Array,
    right: Int32Array,
    is_rough: BoolArray,
) -> None:
    """Pack turned points in both forms."""
    n, m = turned.shape
    words = -(-m // 4)
    row_line, column_line = np.zeros(4 * words, dtype=np.uint8), np.zeros(4 * words, dtype=np.int8)
    row_words, column_words = row_line.view(np.int32), column_line.view(np.int32)
    initial = np.zeros(2, dtype=np.int16)
    for i in range(n):
        row_line[:] = _OFFSET
        row_square = column_square = 0.0
        sums = np.zeros(2, dtype=np.int64)
        for k in range(m):
            exact = turned[i, k] * scales[0]
            value = min(max(np.rint(exact), -_LARGEST_ROW_VALUE), _LARGEST_ROW_VALUE)
            row_line[k] = np.int64(value) + _OFFSET
            row_square += (exact - value) ** 2
            exact = turned[i, k] * scales[1]
            largest = _LARGEST_COLUMN_PAIR - 1.0
            if k % 2 == 1:
                largest = min(largest, _LARGEST_COLUMN_PAIR - abs(np.float64(column_line[k - 1])))
            value = min(max(np.rint(exact), -largest), largest)
            column_line[k] = np.int64(value)
            column_square += (exact - value) ** 2
            sums[k // 2 % 2] += np.int64(value)
        is_rough[i] = max(row_square, column_square) > rounding**2
        for half in range(2):
            # The lowest 16 bits, as sums of 16 bits wrap around.
            wrapped = -_OFFSET * sums[half] & 0xFFFF
            initial[half] = wrapped - 0x10000 if wrapped > 0x7FFF else wrapped
        at = i // PANEL * words * PANEL + i % PANEL
        with_sums = i // PANEL * (words + 1) * PANEL + i % PANEL
        right[with_sums] = initial.view(np.int32)[0]
        for word in range(words):
            left[at + word * PANEL] = row_words[word]
            right[with_sums + (word + 1) * PANEL] = column_words[word]


@compiled
def pack_coarse_thresholds(
    lower: Array, first: int, coarse: CoarsePanels, out: Int32Array, group_rows: int
) -> None:
    """Lower thresholds of products by the slack and the error, and round them down.

    Parameters
    ----------
    lower : (n,) float32 or float64
        Products; infinite where nothing reaches them.
    first : int
        Slot of the first.
    coarse : CoarsePanels
        Decides how sums relate to products.
    out : (n,) int32
        Filled.
    group_rows : int
        Rows that share the smallest of their thresholds, at the front of `out`.
    """
    for i in range(len(lower)):
        value = np.floor(coarse.square * (np.float64(lower[i]) - coarse.slack) - coarse.error)
        # No sum is outside of these limits.
        value = max(min(value, _LARGEST_SUM + 1.0), -_LARGEST_SUM - 1.0)
        packed = -_LARGEST_SUM - 1 if coarse.is_rough[first + i] else np.int64(value)
        group = i // group_rows
        out[group] = packed if i % group_rows == 0 else min(out[group], packed)


@compiled
def begin_level(coarse: CoarsePanels, lower: Array, counts: IntArray) -> CoarseLevel:
    """Return the coarse level of a strip, which is not in use while it has proved useless.

    Parameters
    ----------
    lower : (2, slots of a tile) int32
        Thresholds of the groups of rows, and of the columns.
    counts : (3,) int64
        Blocks looked at in the last strip, those that were left, and strips to go without.
    """
    if coarse.words:
        if 2 * counts[1] > counts[0]:
            counts[2] = _WASTED_STRIPS
        elif counts[2]:
            counts[2] -= 1
        counts[:2] = 0
    in_use = coarse.words > 0 and counts[2] == 0
    return CoarseLevel(in_use, coarse.words, coarse.left, coarse.right, lower[0], lower[1], counts)


@compiled
def without_use(level: CoarseLevel) -> CoarseLevel:
    """Return a level that rules nothing out."""
    return CoarseLevel(
        False, level.words, level.left, level.right, level.lower_groups, level.lower_columns, level.counts
    )
