"""Pack the rows of tiles for the micro-kernels, and turn thresholds of products into theirs.

Points p (rows, or their coordinates on the axes) are packed as float32, or as int16: q = S·p + e, where e is
the rounding error of each coordinate. `proof` shows that

    |q·q' - S²·(p·p')| ≤ 2NE + E²,

where N bounds S·‖p‖ and E = √m/2 bounds ‖e‖ for m coordinates. S is chosen so that no value exceeds 16 bits
and no sum 32.

A pair of rows may matter when the product of its points is at least `lower` - slack (`contract.Space`). In
integers: when q·q' ≥ S²·(lower - slack) - 2NE - E², rounded down.

Points on the axes are packed once for a layout. Whole rows are packed one tile at a time, for the pairs of
tiles of which the axes leave too many pairs of rows (`pair_kernels`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from panic_tda.clustering.compiled import compiled
from panic_tda.clustering.tiled import microkernels
from panic_tda.clustering.tiled.coarse import (
    CoarsePanels,
    coarse_bytes,
    no_coarse_panels,
    pack_coarse,
    saves_time,
)
from panic_tda.clustering.tiled.microkernels import PANEL

if TYPE_CHECKING:
    from panic_tda.clustering.tiled.contract import Space
    from panic_tda.clustering.tiled.layout import Layout
    from panic_tda.clustering.tiled.workers import Workers
    from panic_tda.types import Array, Float32Array, Int32Array, IntArray

NO_ROW = -1
"""Stands in `Panels.rows` where a tile has fewer rows than its panels."""
_LARGEST_NORM = 32_600
"""Of packed points, but for rounding: coordinates are below 2¹⁵ then, and sums below 2³¹."""
_ROUNDING = 1.01
"""More than what float32 adds to the rounding of a coordinate to a half, or to a norm."""
_NEVER = 2.0**31 - 1
"""A threshold above every sum."""
_CHUNK_PANELS = 512


class Packing(NamedTuple):
    """Conversion of projected coordinates into packed values.

    Attributes
    ----------
    is_integer : bool
        Whether values are int16, else float32.
    words : int
        Of a packed point, 32 bits each; a word holds two int16 values.
    scale : float
        S; 1 for float32.
    error : float
        2NE + E², rounded up; 0 for float32, whose rounding is part of `slack`.
    slack : float
        What a product of points may lack to that of the rows.
    """

    is_integer: bool
    words: int
    scale: float
    error: float
    slack: float


class Panels(NamedTuple):
    """Rows of a layout, packed.

    A *slot* is a place among the packed rows: tile after tile, each with `tile_panels * PANEL` slots.

    Attributes
    ----------
    values : (slots * words,) int32 or float32
        By panel, word and row of the panel.
    packing : Packing
        Of `values`.
    row_packing : Packing
        Of whole rows.
    bounded : bool
        Whether `values` are points on the axes, else whole rows.
    tile_panels : int
        Panels of a tile.
    rows : (slots,) int32
        Row in each slot, or `NO_ROW`.
    slots : (n,) int64
        Slot of each position of the layout.
    mirror : int
        Tiles by which the right form of a tile lies behind its left form in `values`; 0 if both are the same
        (`Space.lifted`).
    factors : two arrays of (n, d) float32
        Whole rows, left and right (`Space.factors`).
    coarse : CoarsePanels
        Points packed once more, as int8.
    """

    values: Array
    packing: Packing
    row_packing: Packing
    bounded: bool
    tile_panels: int
    rows: Int32Array
    slots: IntArray
    mirror: int
    factors: tuple[Float32Array, Float32Array]
    coarse: CoarsePanels

    @property
    def tile_slots(self) -> int:
        """Return the number of slots of a tile."""
        return self.tile_panels * PANEL


def choose_packing(
    n_coordinates: int, largest_norm: float, slack: float, use_integers: bool | None = None
) -> Packing:
    """Choose the scale, and bound what it makes of products.

    Parameters
    ----------
    n_coordinates : int
        Of a point.
    largest_norm : float
        Bound of the norms of the points.
    slack : float
        What a product of points may lack to that of the rows.
    use_integers : bool or None
        None takes int16 where the processor has the instruction for it.
    """
    if use_integers is None:
        use_integers = microkernels.INTEGERS
    words = packed_words(n_coordinates, use_integers)
    if not use_integers:
        return Packing(False, words, 1.0, 0.0, slack)
    norm, rounding = _ROUNDING * _LARGEST_NORM, _ROUNDING * n_coordinates**0.5 / 2
    return Packing(True, words, _LARGEST_NORM / largest_norm, 2 * norm * rounding + rounding**2 + 1, slack)


def packed_words(n_coordinates: int, is_integer: bool) -> int:
    """Return the words of a packed point."""
    return -(-n_coordinates // 2) if is_integer else n_coordinates


def packed_bytes(n_coordinates: int, n_rows: int = 0) -> int:
    """Return the bytes of a packed point on this machine, of `n_rows` points that are packed."""
    n_bytes = 4 * packed_words(n_coordinates, microkernels.INTEGERS)
    return n_bytes + (coarse_bytes(n_coordinates) if saves_time(n_rows, n_coordinates) else 0)


def empty_values(n_panels: int, packing: Packing) -> Array:
    """Allocate packed values."""
    return np.empty(n_panels * packing.words * PANEL, dtype=np.int32 if packing.is_integer else np.float32)


def empty_line(packing: Packing) -> Array:
    """Return the scratch of `pack_rows`, with zeros where a word has no second value."""
    if packing.is_integer:
        return np.zeros(2 * packing.words, dtype=np.int16)
    return np.zeros(packing.words, dtype=np.float32)


def pack(space: Space, layout: Layout, team: Workers, use_integers: bool | None = None) -> Panels:
    """Pack the rows in the order of a layout."""
    sizes = np.diff(layout.starts)
    tile_panels = -(-int(sizes.max()) // PANEL)
    slots = np.repeat(np.arange(len(sizes)) * (tile_panels * PANEL) - layout.starts[:-1], sizes)
    slots += np.arange(len(slots))
    rows = np.full(len(sizes) * tile_panels * PANEL, NO_ROW, dtype=np.int32)
    rows[slots] = layout.order
    # Both the product of whole rows as packed and that with which it is compared are rounded.
    norm, n_features = space.largest_norm, space.factors[0].shape[1]
    row_packing = choose_packing(n_features, norm, 2 * space.margin, use_integers)
    packing = row_packing
    if space.bounded:
        packing = choose_packing(space.coordinates.shape[1], norm, space.slack, use_integers)
    sides = (space.compared,) if space.lifted is None else space.lifted
    n_panels, panel_values = len(rows) // PANEL, packing.words * PANEL
    values = empty_values(len(sides) * n_panels, packing)
    for number, points in enumerate(sides):
        side_values = values[number * n_panels * panel_values : (number + 1) * n_panels * panel_values]

        def pack_panels(panels: slice, points: Array = points, side_values: Array = side_values) -> None:
            chosen = rows[panels.start * PANEL : panels.stop * PANEL]
            out = side_values[panels.start * panel_values : panels.stop * panel_values]
            pack_rows(points, chosen, packing, empty_line(packing), out)

        team.chunks(pack_panels, n_panels, largest=_CHUNK_PANELS)
    mirror, coarse = 0 if space.lifted is None else len(sizes), no_coarse_panels()
    if packing.is_integer and not mirror and saves_time(len(layout.order), space.compared.shape[1]):
        coarse = pack_coarse(space.compared, rows, norm, packing.slack, team)
    return Panels(
        values, packing, row_packing, space.bounded, tile_panels, rows, slots, mirror, space.factors, coarse
    )


@compiled
def pack_rows(points: Float32Array, rows: Int32Array, packing: Packing, line: Array, out: Array) -> None:
    """Pack some rows of a matrix into panels.

    Parameters
    ----------
    points : (n, m) float32
        Rows or their coordinates.
    rows : (panels * PANEL,) int32
        Rows to pack, or `NO_ROW`.
    packing : Packing
        Decides about scale and type.
    line : int16 or float32
        Scratch for one packed point.
    out : (panels * words * PANEL,) int32 or float32
        Filled.
    """
    scale, line_words = np.float32(packing.scale), line.view(out.dtype)
    for i in range(len(rows)):
        if rows[i] < 0:
            line[:] = 0
        else:
            point = points[rows[i]]
            if packing.is_integer:
                for k in range(len(point)):
                    line[k] = np.rint(point[k] * scale)
            else:
                line[: len(point)] = point
        at = (i // PANEL) * len(line_words) * PANEL + i % PANEL
        for word in range(len(line_words)):
            out[at + word * PANEL] = line_words[word]


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
