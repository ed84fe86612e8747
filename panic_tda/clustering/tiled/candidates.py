"""List the pairs of two packed tiles whose product reaches the smaller threshold of the two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic

from panic_tda.clustering.compiled import compiled
from panic_tda.clustering.tiled.microkernels import COLUMNS, PANEL, ROWS, compare_block, may_reach

if TYPE_CHECKING:
    from panic_tda.clustering.tiled.coarse import CoarseLevel
    from panic_tda.types import Array, BoolArray, Int32Array


def _declare_lowest_bit(typing_context, word):  # type: ignore[no-untyped-def]
    """Return the number of the lowest bit that is set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        zeros = builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))
        return builder.zext(zeros, ir.IntType(64))

    return types.int64(types.uint32), generate


_lowest_bit: Any = intrinsic(_declare_lowest_bit)


@compiled
def find_candidates_compiled(
    panels: Array,
    words: int,
    tile_panels: int,
    pair: tuple[int, int],
    strip: tuple[int, int],
    lower: tuple[Array, Array],
    live: tuple[BoolArray, BoolArray],
    coarse: CoarseLevel,
    hits: Array,
    limit: int,
    out: tuple[Int32Array, Int32Array],
) -> int:
    """List the pairs of two packed tiles whose product reaches the smaller threshold of the two.

    Parameters
    ----------
    panels : (values,) int32 or float32
        See `panels.Panels`.
    words : int
        Values of a packed row.
    tile_panels : int
        Panels of a tile.
    pair : (int, int)
        Two tiles.
    strip : (int, int)
        First panel of the first tile that is looked at, and the one after the last.
    lower : two arrays of (tile_panels * PANEL,) int32 or float32
        Thresholds of both tiles' rows.
    live : two arrays of bool
        Whether a group of `ROWS` rows, or of `COLUMNS` columns, is looked at.
    coarse : CoarseLevel
        Rules out most blocks at half the cost, where it is in use.
    hits : (ROWS,) uint32
        Scratch.
    limit : int
        Pairs above which the search ends early.
    out : two arrays of int32
        Local indices of the pairs.

    Returns
    -------
    int
        Pairs written. Those above `limit` mean that some were not looked for.
    """
    n_pairs = n_blocks = n_left = 0
    for right_panel in range(tile_panels):
        column = right_panel * PANEL
        if not live[1][right_panel]:
            continue
        right = (pair[1] * tile_panels + right_panel) * words * PANEL
        coarse_right = (pair[1] * tile_panels + right_panel) * coarse.segments * (coarse.words + 1) * PANEL
        for left_panel in range(strip[0], strip[1]):
            left = (pair[0] * tile_panels + left_panel) * words * PANEL
            coarse_left = (pair[0] * tile_panels + left_panel) * coarse.segments * coarse.words * PANEL
            for i in range(0, PANEL, ROWS):
                row = left_panel * PANEL + i
                if not live[0][row // ROWS]:
                    continue
                if coarse.in_use:
                    n_blocks += 1
                    if not may_reach(
                        coarse.left, coarse_left + i, coarse.right, coarse_right, coarse.segments,
                        coarse.words, coarse.lower_groups, row // ROWS, coarse.lower_columns, column,
                    ):  # fmt: skip
                        continue
                    n_left += 1
                if compare_block(panels, left + i, right, words, lower[0], row, lower[1], column, hits):
                    for k in range(ROWS):
                        word = hits[k]
                        while word:
                            out[0][n_pairs] = row + k
                            out[1][n_pairs] = column + _lowest_bit(word)
                            n_pairs += 1
                            word &= word - np.uint32(1)
        if n_pairs > limit:
            break
    if coarse.in_use:
        coarse.counts[0], coarse.counts[1] = n_blocks, n_left
    return n_pairs


def find_candidates_in_numpy(
    panels: Array,
    words: int,
    tile_panels: int,
    pair: tuple[int, int],
    strip: tuple[int, int],
    lower: tuple[Array, Array],
    live: tuple[BoolArray, BoolArray],
    coarse: CoarseLevel,
    hits: Array,
    limit: int,
    out: tuple[Int32Array, Int32Array],
) -> int:
    """Do what `find_candidates_compiled` does, without compiled code and without the coarse level.

    Float32 is multiplied in float64.
    """

    def unpack(tile: int) -> Array:
        size = tile_panels * words * PANEL
        packed = panels[tile * size : (tile + 1) * size].reshape(tile_panels, words, PANEL)
        rows = packed.transpose(0, 2, 1).reshape(tile_panels * PANEL, words)
        if panels.dtype == np.int32:
            return np.ascontiguousarray(rows).view(np.int16).astype(np.int64)
        return rows.astype(np.float64)

    reach = unpack(pair[0]) @ unpack(pair[1]).T >= np.minimum(lower[0][:, None], lower[1][None, :])
    reach &= np.repeat(live[0], ROWS)[:, None] & np.repeat(live[1], COLUMNS)[None, :]
    i, j = np.nonzero(reach[strip[0] * PANEL : strip[1] * PANEL])
    i += strip[0] * PANEL
    out[0][: len(i)], out[1][: len(i)] = i, j
    return len(i)


find_candidates: Any = find_candidates_in_numpy if vars(config)["DISABLE_JIT"] else find_candidates_compiled
