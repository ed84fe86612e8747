"""Pack the rows of tiles for the micro-kernels, and turn thresholds of products into theirs.

Points p (rows, or their coordinates on the axes) are packed as float32, or as int16: q = S·p + e, with e the
rounding error of every coordinate. Products of q are exact integers, and

    S²·(p·p') = (q - e)·(q' - e') = q·q' - q·e' - e·q' + e·e',

so that |q·q' - S²·(p·p')| ≤ 2QE + E² with Q = max ‖q‖ and E = max ‖e‖ (Cauchy-Schwarz). Both maxima are
measured on the rows. S is chosen so that no coordinate exceeds 16 bits and no sum 31: any partial sum of a
product is at most Q² in absolute value, again by Cauchy-Schwarz.

A pair of rows may matter when the product of its points is at least `lower` - slack (`contract.Space`). In
integers: when q·q' ≥ S²·(lower - slack) - 2QE - E², rounded down.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from panic_tda.arrays.rows import slices
from panic_tda.clustering.compiled import compiled
from panic_tda.clustering.tiled import microkernels
from panic_tda.clustering.tiled.microkernels import PANEL

if TYPE_CHECKING:
    from panic_tda.clustering.tiled.contract import Space
    from panic_tda.clustering.tiled.layout import Layout
    from panic_tda.clustering.tiled.workers import Workers
    from panic_tda.types import Array, Float32Array, Int32Array, IntArray

NO_ROW = -1
"""Stands in `Panels.rows` where a tile has fewer rows than its panels."""
_LARGEST_VALUE, _LARGEST_NORM = 32_767, 46_000
"""Of packed values, and of packed rows: their squares, and sums of two products, are below 2³¹."""
_NEVER = 2.0**31 - 1
"""A threshold above every sum."""
_CHUNK_ROWS = 8_192


class Packing(NamedTuple):
    """How points become packed values; one for all layouts of a fit.

    Attributes
    ----------
    is_integer : bool
        Whether values are int16, else float32.
    scale : float
        S; 1 for float32.
    error : float
        2QE + E², rounded up; 0 for float32, whose rounding is part of `slack`.
    slack : float
        What a product of points may lack to that of the rows.
    """

    is_integer: bool
    scale: float
    error: float
    slack: float


class Panels(NamedTuple):
    """Rows of a layout, packed.

    A *slot* is a place among the packed rows: tile after tile, each with `tile_panels * PANEL` slots.

    Attributes
    ----------
    values : (slots * words,) int32 or float32
        By panel, word and row of the panel; a word of int32 holds two int16 values.
    words : int
        Of a row.
    tile_panels : int
        Panels of a tile.
    rows : (slots,) int32
        Row in each slot, or `NO_ROW`.
    slots : (n,) int64
        Slot of each position of the layout.
    """

    values: Array
    words: int
    tile_panels: int
    rows: Int32Array
    slots: IntArray

    @property
    def tile_slots(self) -> int:
        """Slots of a tile."""
        return self.tile_panels * PANEL


def choose_packing(space: Space, use_integers: bool | None = None) -> Packing:
    """Choose the scale, and measure the rounding errors.

    Parameters
    ----------
    space : Space
        Rows in host memory.
    use_integers : bool or None
        None takes int16 where the processor has the instruction for it.
    """
    # Both the product of points and that of rows with which it is compared are rounded.
    slack = space.slack if space.bounded else 2 * space.margin
    if use_integers is None:
        use_integers = microkernels.INTEGERS
    if not use_integers:
        return Packing(False, 1.0, 0.0, slack)
    largest, norm = 0.0, 0.0
    for rows in slices(len(space.compared), _CHUNK_ROWS):
        points = space.compared[rows]
        largest = max(largest, float(np.abs(points).max(initial=0.0)))
        norm = max(norm, float(np.einsum("ij,ij->i", points, points, dtype=np.float64).max(initial=0.0)))
    # Rounding adds at most 1/2 to a coordinate.
    scale = min((_LARGEST_VALUE - 1) / max(largest, 1e-3), (_LARGEST_NORM - 200) / max(norm, 1e-6) ** 0.5)
    squares = np.zeros(2)
    for rows in slices(len(space.compared), _CHUNK_ROWS):
        squares = np.maximum(squares, _largest_squares(space.compared[rows], scale))
    packed, rounding = (float(value) ** 0.5 for value in squares * (1 + 1e-9))
    return Packing(True, scale, 2 * packed * rounding + rounding**2 + 1, slack)


@compiled
def _largest_squares(points: Float32Array, scale: float) -> tuple[float, float]:
    """Return the largest ‖q‖² and ‖e‖² of some points."""
    packed, rounding = 0.0, 0.0
    for i in range(len(points)):
        own_packed, own_rounding = 0.0, 0.0
        for k in range(points.shape[1]):
            exact = np.float64(points[i, k]) * scale
            value = np.rint(exact)
            own_packed += value * value
            own_rounding += (value - exact) * (value - exact)
        packed, rounding = max(packed, own_packed), max(rounding, own_rounding)
    return packed, rounding


def packed_words(n_coordinates: int, is_integer: bool) -> int:
    """Return the words of a packed row."""
    return -(-n_coordinates // 2) if is_integer else n_coordinates


def packed_bytes(n_coordinates: int) -> int:
    """Return the bytes of a packed row on this machine."""
    return 4 * packed_words(n_coordinates, microkernels.INTEGERS)


def pack(space: Space, packing: Packing, layout: Layout, team: Workers) -> Panels:
    """Pack the rows in the order of a layout."""
    sizes = np.diff(layout.starts)
    tile_panels = -(-int(sizes.max()) // PANEL)
    slots = np.repeat(np.arange(len(sizes)) * (tile_panels * PANEL) - layout.starts[:-1], sizes)
    slots += np.arange(len(slots))
    rows = np.full(len(sizes) * tile_panels * PANEL, NO_ROW, dtype=np.int32)
    rows[slots] = layout.order
    words = packed_words(space.compared.shape[1], packing.is_integer)
    step, kind = (2, np.int16) if packing.is_integer else (1, np.float32)
    values = np.empty((len(rows) // PANEL, words, PANEL, step), dtype=kind)

    def pack_some(panels: slice) -> None:
        some = slice(panels.start * PANEL, panels.stop * PANEL)
        _pack(space.compared, rows[some], packing.scale, packing.is_integer, values[panels])

    team.chunks(pack_some, len(values), largest=_CHUNK_ROWS // PANEL)
    flat = values.reshape(-1)
    return Panels(flat.view(np.int32) if packing.is_integer else flat, words, tile_panels, rows, slots)


@compiled
def _pack(points: Float32Array, rows: Int32Array, scale: float, is_integer: bool, out: Array) -> None:
    n_panels, words, width, step = out.shape
    for panel in range(n_panels):
        for i in range(width):
            row = rows[panel * width + i]
            for word in range(words):
                for half in range(step):
                    k = word * step + half
                    value = 0.0
                    if row >= 0 and k < points.shape[1]:
                        value = np.float64(points[row, k]) * scale
                        if is_integer:
                            value = np.rint(value)
                    out[panel, word, i, half] = value


def by_slot(panels: Panels, values: Array, fill: float) -> Array:
    """Bring values by position into the order of slots; `fill` stands where there is no row."""
    out = np.full(len(panels.rows), fill, dtype=values.dtype)
    out[panels.slots] = values
    return out


@compiled
def pack_thresholds(lower: Array, packing: Packing, out: Array) -> None:
    """Lower thresholds of products by the slack, and round them down to the type of the packed sums.

    Parameters
    ----------
    lower : (n,) float32 or float64
        Products; infinite where nothing reaches them.
    packing : Packing
        Decides how sums relate to products.
    out : (n,) int32 or float32
        Filled.
    """
    square = packing.scale * packing.scale
    for i in range(len(lower)):
        value = np.float64(lower[i]) - packing.slack
        if packing.is_integer:
            value = np.floor(square * value - packing.error)
            out[i] = max(min(value, _NEVER), -_NEVER)
        else:
            rounded = np.float32(value)
            # More than a unit in the last place of any product.
            out[i] = rounded - np.float32(2.4e-7) if rounded > value else rounded
