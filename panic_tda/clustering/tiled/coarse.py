"""Pack points a second time, as int8: a coarse level that rules out most blocks of pairs at half the cost.

A point p is turned by a fixed rotation, which changes no product and spreads what it has on a few axes over
all m coordinates. It is packed in two forms, l = S·p + e for rows and r = S'·p + e' for columns. For a row
whose roundings ‖e‖ and ‖e'‖ are at most E, `proof` shows that

    |l·r' - S·S'·(p·p')| ≤ N·(S + S')·E + E²,

where N bounds ‖p‖. Rows with a larger rounding error are *rough*: their blocks are never ruled out.

The instruction multiplies bytes without a sign by bytes with one, and adds two products in 16 bits. So 128 is
added to the values of the row form, and 128 times the sum of the column form is subtracted at the beginning.
No sum of two products saturates. Long points are cut into *segments*, whose sums fit into 16 bits, and are
added in 32 bits. Rows with a segment that is too long for that are rough as well.
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
_NEVER = 2.0**31 - 1
"""A threshold above every sum; its negative is below every sum."""
_DEVIATIONS = 5.2
"""Standard deviations of a turned coordinate that are packed without clipping: larger ones are rare."""
_SEGMENT_DEVIATIONS = 4.5
"""Standard deviations of the length of a turned segment up to which a row is not rough."""
_SPARE_ROUNDING = 0.52
"""Excess over the usual rounding error up to which a row is not rough: four standard deviations of it."""
_UNDIVIDED_WORDS, _SEGMENT_WORDS = 40, 16
"""Words of a point up to which it is one segment, and most words of each of several segments."""
ROWS_PER_COORDINATE = 16
"""Rows per coordinate below which packing points of several segments takes longer than what they save."""
_SEED, _SPARE_TURNS = 0, 2
_CHUNK_PANELS = 64
_WASTED_STRIPS = 16
"""Strips that are compared without the coarse level after one of which it left more than half."""


class CoarsePanels(NamedTuple):
    """Points packed as int8, by panel, word and row of the panel.

    Attributes
    ----------
    segments : int
        Of a packed point.
    words : int
        Of a segment, four values each; 0 if there is no coarse level.
    left : (slots * segments * words,) int32
        Row form.
    right : (slots * segments * (words + 1),) int32
        Column form; a word with the initial sums precedes each segment.
    is_rough : (slots,) bool
        Rows with a large rounding error, or a long segment.
    square : float
        S·S'.
    error : float
        N·(S + S')·E + E², rounded up.
    slack : float
        What a product of points may lack to that of the rows.
    """

    segments: int
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
    segments, words, left, right
        See `CoarsePanels`.
    lower_groups, lower_columns : (slots of a tile,) int32
        Smallest threshold of each group of rows of the first tile, and thresholds of the second one.
    counts : (2,) int64
        Filled: blocks looked at, and those that were not ruled out.
    """

    in_use: bool
    segments: int
    words: int
    left: Int32Array
    right: Int32Array
    lower_groups: Int32Array
    lower_columns: Int32Array
    counts: IntArray


class _Scales(NamedTuple):
    """Conversion of turned coordinates into both forms.

    Attributes
    ----------
    row, column : float
        S and S'.
    rounding : float
        E.
    row_square, column_square : float
        Largest sum of the squares of the values that one sum of 16 bits takes, in the two forms.
    """

    row: float
    column: float
    rounding: float
    row_square: float
    column_square: float


def saves_time(n_rows: int, n_coordinates: int) -> bool:
    """Return whether the level saves more time than packing takes."""
    is_short = divide(n_coordinates)[0] == 1
    return microkernels.COARSE and (is_short or n_rows >= ROWS_PER_COORDINATE * n_coordinates)


def divide(n_coordinates: int) -> tuple[int, int]:
    """Return the segments of a point, and the words of a segment."""
    words = -(-n_coordinates // 4)
    segments = 1 if words <= _UNDIVIDED_WORDS else -(-words // _SEGMENT_WORDS)
    return segments, -(-words // segments)


def choose_scales(n_coordinates: int, largest_norm: float) -> _Scales:
    """Choose the scales of both forms, so that few rows are rough.

    Parameters
    ----------
    n_coordinates : int
        Of a point, m.
    largest_norm : float
        Bound of the norms of the points, N.
    """
    m, n_summed = n_coordinates, 2 * divide(n_coordinates)[1]
    deviation = largest_norm * min(1.0, _DEVIATIONS / m**0.5)
    row, column = _LARGEST_ROW_VALUE / deviation, _LARGEST_COLUMN_PAIR / (2**0.5 * deviation)
    # Of the values that one sum takes, every other pair of a segment, and of their rounding errors.
    length = largest_norm * min(1.0, (n_summed / m) ** 0.5 + _SEGMENT_DEVIATIONS / (2 * m) ** 0.5)
    rest = n_summed**0.5 / 2
    while (row * length + rest) * (column * length + rest) > _LARGEST_SUM:
        row, column = 0.99 * row, 0.99 * column
    # The product of both limits is the square of the largest sum.
    squares = _LARGEST_SUM * row / column, _LARGEST_SUM * column / row
    return _Scales(row, column, (m / 12) ** 0.5 + _SPARE_ROUNDING, *squares)


def choose_rotation(n_coordinates: int) -> tuple[IntArray, FloatArray]:
    """Return a rotation as turns of two coordinates each.

    After log₂(m) steps of random pairs, every coordinate depends on all others: no data make it large but by
    chance. A random matrix would do the same in m²/2 turns.

    Returns
    -------
    pairs : (steps, m // 2, 2) int64
        Coordinates that are turned together.
    signs : (steps, m // 2, 2) float64
        Cosine and sine, ±√½.
    """
    rng = np.random.default_rng(_SEED)
    steps = n_coordinates.bit_length() + _SPARE_TURNS
    pairs = np.stack([rng.permutation(n_coordinates)[: n_coordinates // 2 * 2] for _ in range(steps)])
    pairs = pairs.reshape(steps, -1, 2)
    return pairs, rng.choice([-1.0, 1.0], size=pairs.shape) * 0.5**0.5


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
    (segments, words), scales, rotation = divide(m), choose_scales(m, largest_norm), choose_rotation(m)
    rounding = scales.rounding
    error = 1.001 * (largest_norm * (scales.row + scales.column) * rounding + rounding**2) + 1
    left = np.empty(len(rows) * segments * words, dtype=np.int32)
    right = np.empty(len(rows) * segments * (words + 1), dtype=np.int32)
    is_rough = np.zeros(len(rows), dtype=np.bool_)
    packed = CoarsePanels(segments, words, left, right, is_rough, scales.row * scales.column, error, slack)

    def pack_panels(panels: slice) -> None:
        _pack(points, rows, panels.start, panels.stop, rotation, scales, packed)

    team.chunks(pack_panels, len(rows) // PANEL, largest=_CHUNK_PANELS)
    return packed


def no_coarse_panels() -> CoarsePanels:
    """Return what stands for the packed points where there is no coarse level."""
    empty = np.empty(0, dtype=np.int32)
    return CoarsePanels(0, 0, empty, empty, np.empty(0, dtype=np.bool_), 0.0, 0.0, 0.0)


def coarse_bytes(n_coordinates: int) -> int:
    """Return the bytes of a point in both forms, and of its mark."""
    segments, words = divide(n_coordinates)
    return 4 * segments * (2 * words + 1) + 1


@compiled
def turn(values: FloatArray, rotation: tuple[IntArray, FloatArray]) -> None:
    """Rotate the columns of an (m, PANEL) matrix in place."""
    pairs, signs = rotation
    for step in range(len(pairs)):
        for pair in range(pairs.shape[1]):
            first, second = values[pairs[step, pair, 0]], values[pairs[step, pair, 1]]
            cosine, sine = signs[step, pair]
            for i in range(PANEL):
                x, y = first[i], second[i]
                first[i], second[i] = cosine * x - sine * y, sine * x + cosine * y


@compiled
def _pack(
    points: Float32Array,
    rows: Int32Array,
    begin: int,
    end: int,
    rotation: tuple[IntArray, FloatArray],
    scales: _Scales,
    packed: CoarsePanels,
) -> None:
    """Pack the points of panels `begin` to `end` in both forms; each inner loop is over the rows of one."""
    segments, words = packed.segments, packed.words
    turned = np.zeros((segments * words * 4, PANEL))
    values = np.empty(PANEL, dtype=np.int32)
    largest = np.full(PANEL, _LARGEST_ROW_VALUE, dtype=np.int32)
    # A column's value and the one before it are multiplied at once.
    largest_column = np.full(PANEL, _LARGEST_COLUMN_PAIR - 1, dtype=np.int32)
    row_squares, column_squares = np.empty((3, PANEL)), np.empty((3, PANEL))
    sums = np.empty((2, PANEL), dtype=np.int32)
    for panel in range(begin, end):
        for i in range(PANEL):
            row = rows[panel * PANEL + i]
            for k in range(points.shape[1]):
                turned[k, i] = points[row, k] if row >= 0 else 0.0
        turn(turned[: points.shape[1]], rotation)
        is_rough = packed.is_rough[panel * PANEL : (panel + 1) * PANEL]
        row_squares[2], column_squares[2] = 0.0, 0.0
        for segment in range(segments):
            row_squares[:2], column_squares[:2], sums[:] = 0.0, 0.0, 0
            left = (panel * segments + segment) * words * PANEL
            right = (panel * segments + segment) * (words + 1) * PANEL
            packed.left[left : left + words * PANEL] = 0
            packed.right[right : right + (words + 1) * PANEL] = 0
            for k in range(4 * words):
                line, half, shift = turned[segment * 4 * words + k], k // 2 % 2, 8 * (k % 4)
                _round(line, scales.row, largest, values, row_squares[half], row_squares[2])
                for i in range(PANEL):
                    packed.left[left + k // 4 * PANEL + i] |= (values[i] + _OFFSET) << shift
                _round(line, scales.column, largest_column, values, column_squares[half], column_squares[2])
                for i in range(PANEL):
                    used = max(1, (1 - k % 2) * abs(values[i]))
                    largest_column[i] = _LARGEST_COLUMN_PAIR - used
                    sums[half, i] += values[i]
                    packed.right[right + (1 + k // 4) * PANEL + i] |= (values[i] & 0xFF) << shift
            for i in range(PANEL):
                # The lowest 16 bits of each, as sums of 16 bits wrap around.
                packed.right[right + i] = (
                    -_OFFSET * sums[0, i] & 0xFFFF | (-_OFFSET * sums[1, i] & 0xFFFF) << 16
                )
                is_rough[i] |= max(row_squares[0, i], row_squares[1, i]) > scales.row_square
                is_rough[i] |= max(column_squares[0, i], column_squares[1, i]) > scales.column_square
        for i in range(PANEL):
            is_rough[i] |= max(row_squares[2, i], column_squares[2, i]) > scales.rounding**2


@compiled
def _round(
    line: FloatArray,
    scale: float,
    largest: Int32Array,
    values: Int32Array,
    squares: FloatArray,
    error_squares: FloatArray,
) -> None:
    """Round scaled coordinates to at most `largest`, and add the squares of the values and of the errors."""
    for i in range(PANEL):
        exact = line[i] * scale
        value = min(max(np.rint(exact), np.float64(-largest[i])), np.float64(largest[i]))
        values[i] = np.int32(value)
        squares[i] += value * value
        error_squares[i] += (exact - value) ** 2


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
        value = -_NEVER if coarse.is_rough[first + i] else max(min(value, _NEVER), -_NEVER)
        packed = np.int64(value)
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
    return CoarseLevel(
        in_use, coarse.segments, coarse.words, coarse.left, coarse.right, lower[0], lower[1], counts
    )


@compiled
def without_use(level: CoarseLevel) -> CoarseLevel:
    """Return a level that rules nothing out."""
    return CoarseLevel(
        False, level.segments, level.words, level.left, level.right, level.lower_groups, level.lower_columns,
        level.counts,
    )  # fmt: skip
