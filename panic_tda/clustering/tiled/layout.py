"""The order of rows in which neighbours share tiles, and the order in which tile pairs are processed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from panic_tda.arrays.namespace import namespace, to_host
from panic_tda.arrays.rows import slices

if TYPE_CHECKING:
    from panic_tda.types import Array, Float32Array, FloatArray, Int32Array, IntArray

_MAX_PIVOTS = 2_048
_ROWS_PER_PIVOT = 64
_CHUNK_ROWS = 8_192
_NEAR_PAIRS = 4
"""Near tile pairs that come first, per tile."""
BLOCK_TILES = 16
"""Most tiles on a side of a block of tile pairs, a power of two: both sides of a block fit into a cache."""
_FEWEST_BLOCKS = 32
"""Blocks on a side, so that all threads have work until the end."""
_SEED = 0


@dataclass(frozen=True)
class Layout:
    """Rows in tiles.

    Attributes
    ----------
    order : (n,) int32
        Row at each position, in the memory where the rows are worked on.
    starts : (tiles + 1,) int64
        Position at which each tile begins, and the end.
    """

    order: Array
    starts: IntArray

    @property
    def n_tiles(self) -> int:
        """Number of tiles."""
        return len(self.starts) - 1

    def positions(self, tile: int) -> slice:
        """Return the positions of a tile."""
        return slice(int(self.starts[tile]), int(self.starts[tile + 1]))

    def rows(self, tile: int) -> Array:
        """Return the rows of a tile."""
        return self.order[self.positions(tile)]


MAX_TILE_ROWS = 46_340
"""Most rows of a tile: an int32 numbers its pairs, i * width + j, which are then fewer than 2**31."""


def tile_starts(n: int, tile_rows: int) -> IntArray:
    """Divide `n` positions into tiles of equal size, give or take one row, of at most `tile_rows`."""
    return np.linspace(0, n, -(-n // tile_rows) + 1).astype(np.int64)


def local_layout(points: Array, tile_rows: int, rng: np.random.Generator) -> Layout:
    """Bring rows that resemble each other into the same tile.

    Rows gather at the most similar of some random pivots, and the pivots follow a tour that always goes on
    to the most similar one left. Nothing depends on the quality but the speed: the sooner a row meets its
    neighbours, the fewer of the later products matter to it.

    Parameters
    ----------
    points : (n, m) float32
        Rows, or their coordinates on the principal axes; products of them are similarities. They may lie in
        host or in device memory.
    tile_rows : int
        Most rows of a tile.
    rng : numpy.random.Generator
        Chooses the pivots.

    Returns
    -------
    Layout
        In host memory.
    """
    xp, n = namespace(points), len(points)
    starts = tile_starts(n, tile_rows)
    n_pivots = min(_MAX_PIVOTS, n // _ROWS_PER_PIVOT)
    if len(starts) == 2 or n_pivots < 2:
        return Layout(np.arange(n, dtype=np.int32), starts)
    pivots = points[xp.asarray(np.sort(rng.choice(n, n_pivots, replace=False)))]
    nearest = np.empty(n, dtype=np.int64)
    for part in slices(n, _CHUNK_ROWS):
        nearest[part] = to_host(xp.argmax(points[part] @ pivots.T, axis=1))
    place = np.empty(n_pivots, dtype=np.int64)
    place[_tour(to_host(pivots @ pivots.copy().T))] = np.arange(n_pivots)
    return Layout(np.argsort(place[nearest], kind="stable").astype(np.int32), starts)


def schedule(points: Array, layout: Layout) -> Int32Array:
    """List all tile pairs: the diagonal, then the most similar ones, then the rest in blocks.

    Near pairs decide most. After them, a random order of the blocks makes the time spent so far tell the time
    left.

    Returns
    -------
    (pairs, 2) int32
        Tiles I <= J, every pair once.
    """
    xp, n_tiles = namespace(points), layout.n_tiles
    there = Layout(xp.asarray(layout.order), layout.starts)
    means = xp.stack([xp.mean(points[there.rows(tile)], axis=0) for tile in range(n_tiles)])
    similarity = to_host(means @ means.copy().T)
    first, second = np.triu_indices(n_tiles, 1)
    apart = np.argsort(-similarity[first, second], kind="stable")
    near, rest = np.split(apart, [_NEAR_PAIRS * n_tiles])
    side = block_side(n_tiles)
    rank = np.random.default_rng(_SEED).permutation((n_tiles // side + 1) ** 2)
    block = rank[first[rest] // side * (n_tiles // side + 1) + second[rest] // side]
    apart = np.concatenate([near, rest[np.lexsort((second[rest], first[rest], block))]])
    diagonal = np.arange(n_tiles)
    ends = [np.concatenate([diagonal, first[apart]]), np.concatenate([diagonal, second[apart]])]
    return np.stack(ends, axis=1).astype(np.int32)


def block_side(n_tiles: int) -> int:
    """Return the tiles on a side of a block, a power of two up to `BLOCK_TILES`."""
    side = 1
    while side < BLOCK_TILES and 2 * side * _FEWEST_BLOCKS <= n_tiles:
        side *= 2
    return side


def batch_bounds(pairs: Int32Array, n_tiles: int) -> IntArray:
    """Return where the batches of a schedule begin, and its end.

    A batch is one pair while rows learn their thresholds, and then what is left of a block.
    """
    blocks = pairs // block_side(n_tiles)
    changes = np.flatnonzero((blocks[1:] != blocks[:-1]).any(axis=1)) + 1
    alone = np.arange(min(len(pairs), (1 + _NEAR_PAIRS) * n_tiles))
    return np.unique(np.concatenate([alone, changes, [0, len(pairs)]]))


def expected_work(
    layout: Layout, pairs: Int32Array, near: tuple[float, ...], decline: float = 0.0
) -> FloatArray:
    """Return the pairs of rows in each scheduled tile pair, the first ones counted several times.

    Few near pairs can be rejected by their bound, so they take longer than the rest.

    Parameters
    ----------
    near : tuple of float
        Cost factors: `near[0]` of the `n_tiles` pairs on the diagonal, `near[1]` of the next `n_tiles` pairs,
        and so on.
    decline : float
        The factor of the other pairs falls linearly from 1 to 1 - `decline`.
    """
    sizes = np.diff(layout.starts).astype(np.float64)
    work: FloatArray = sizes[pairs[:, 0]] * sizes[pairs[:, 1]]
    first = np.repeat(near, layout.n_tiles)[: len(work)]
    work[: len(first)] *= first
    work[len(first) :] *= np.linspace(1, 1 - decline, len(work) - len(first))
    return work


def _tour(similarity: Float32Array) -> IntArray:
    n = len(similarity)
    remaining = similarity.copy()
    np.fill_diagonal(remaining, -np.inf)
    tour = np.zeros(n, dtype=np.int64)
    for step in range(1, n):
        here = tour[step - 1]
        remaining[:, here] = -np.inf
        tour[step] = np.argmax(remaining[here])
    return tour
