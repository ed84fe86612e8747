"""Arrange rows in tiles, and decide in which order pairs of tiles are processed.

Both passes over all pairs of rows (`neighbours`, `verify`) multiply one tile of rows with another. `Layout`
says which rows form a tile, and `schedule_tile_pairs` lists every pair of tiles once.

Nothing here changes the result: each pair of tiles is processed once in whatever order, and each pair of rows
is decided by itself (steps 4 and 7 of `proof`). The order decides the speed. A pair of rows is rejected by a
threshold that rises as the pass finds near neighbours. So similar rows share a tile, and similar tiles meet
first.

1. `build_local_layout` puts similar rows into the same tile, for the neighbour pass. The verify pass has an
   order of its own, dendrogram order, and only cuts it into tiles (`tile_starts`).
2. `schedule_tile_pairs` lists the diagonal (each tile with itself), then the most similar pairs of tiles,
   then the rest in square blocks whose tiles fit into the processor's cache.
3. `find_batch_bounds` cuts this list into batches, one task of a thread each.
4. `estimate_work` weights the pairs for the progress display.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from panic_tda.arrays.namespace import namespace, to_host
from panic_tda.clustering.tiled.workers import map_parts

if TYPE_CHECKING:
    from panic_tda.clustering.tiled.workers import Workers
    from panic_tda.types import Array, Float32Array, FloatArray, Int32Array, IntArray

MAX_TILE_ROWS = 46_340
"""Most rows of a tile: packed pair indices, `i * width + j`, are int32, and 46,340² is below 2³¹."""
BLOCK_TILES = 16
"""Most tiles on a side of a block of tile pairs, a power of two: both sides of a block fit into a cache."""
_MIN_BLOCKS_PER_SIDE = 32
"""Fewest blocks on a side of the matrix of tile pairs, so that all threads have work until the end."""
_NEAR_PAIRS_PER_TILE = 4
"""Tile pairs off the diagonal that are scheduled by similarity, per tile."""
_MAX_PIVOTS = 2_048
_ROWS_PER_PIVOT = 64
_CHUNK_ROWS = 8_192
_SEED = 0


@dataclass(frozen=True)
class Layout:
    """An order of the rows, cut into tiles.

    Attributes
    ----------
    order : (n,) int32
        Row number at each position, in the memory in which tiles are processed.
    starts : (n_tiles + 1,) int64
        First position of each tile, and n; in host memory.
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
        """Return the row numbers of a tile."""
        return self.order[self.positions(tile)]


def tile_starts(n: int, tile_rows: int) -> IntArray:
    """Return the first position of each tile, and `n`, for tiles of equal size, at most `tile_rows`."""
    return np.linspace(0, n, -(-n // tile_rows) + 1).astype(np.int64)


def build_local_layout(
    coordinates: Array, tile_rows: int, rng: np.random.Generator, team: Workers | None = None
) -> Layout:
    """Put similar rows into the same tile, and similar tiles side by side.

    Some random rows are pivots. Each row joins the pivot with which it has the largest dot product. The
    pivots are ordered by a tour that goes on to the most similar pivot that is left, and the rows follow
    their pivots.

    Parameters
    ----------
    coordinates : (n, m) float32
        Projected coordinates of the rows, or the rows; in host or device memory.
    tile_rows : int
        Most rows of a tile.
    rng : numpy.random.Generator
        Draws the pivots.
    team : Workers, optional
        Threads that share the work.

    Returns
    -------
    Layout
        In host memory. Rows keep their order where they are too few for two tiles or two pivots.
    """
    xp, n = namespace(coordinates), len(coordinates)
    starts = tile_starts(n, tile_rows)
    n_pivots = min(_MAX_PIVOTS, n // _ROWS_PER_PIVOT)
    if len(starts) == 2 or n_pivots < 2:
        return Layout(np.arange(n, dtype=np.int32), starts)
    pivots = coordinates[xp.asarray(np.sort(rng.choice(n, n_pivots, replace=False)))]
    nearest_pivot = np.empty(n, dtype=np.int64)

    def choose_pivots(part: slice) -> None:
        nearest_pivot[part] = to_host(xp.argmax(coordinates[part] @ pivots.T, axis=1))

    map_parts(team, choose_pivots, n, _CHUNK_ROWS)
    rank = np.empty(n_pivots, dtype=np.int64)
    rank[_find_tour(to_host(pivots @ pivots.copy().T))] = np.arange(n_pivots)
    return Layout(np.argsort(rank[nearest_pivot], kind="stable").astype(np.int32), starts)


def _find_tour(similarity: Float32Array) -> IntArray:
    """Return a tour through all pivots from pivot 0, each followed by the most similar one that is left."""
    n = len(similarity)
    remaining = similarity.copy()
    np.fill_diagonal(remaining, -np.inf)
    tour = np.zeros(n, dtype=np.int64)
    for step in range(1, n):
        current = tour[step - 1]
        remaining[:, current] = -np.inf
        tour[step] = np.argmax(remaining[current])
    return tour


def schedule_tile_pairs(coordinates: Array, layout: Layout) -> Int32Array:
    """List all pairs of tiles: the diagonal, then the most similar ones, then the rest in blocks.

    The similarity of two tiles is the dot product of their mean rows. The blocks come in random order, so
    that the speed so far predicts the time that is left.

    Parameters
    ----------
    coordinates : (n, m) float32
        Projected coordinates of the rows, or the rows; in host or device memory.
    layout : Layout
        Tiles of these rows.

    Returns
    -------
    (pairs, 2) int32
        Tiles I <= J, every pair once, in host memory.
    """
    xp, n_tiles = namespace(coordinates), layout.n_tiles
    moved_layout = Layout(xp.asarray(layout.order), layout.starts)
    means = xp.stack([xp.mean(coordinates[moved_layout.rows(tile)], axis=0) for tile in range(n_tiles)])
    similarity = to_host(means @ means.copy().T)
    first, second = np.triu_indices(n_tiles, 1)
    near, rest = _split_by_similarity(similarity[first, second], _NEAR_PAIRS_PER_TILE * n_tiles)
    side = block_side(n_tiles)
    n_blocks = n_tiles // side + 1
    block_rank = np.random.default_rng(_SEED).permutation(n_blocks**2)
    block = block_rank[first[rest] // side * n_blocks + second[rest] // side]
    # Stable: within a block, pairs keep the order of their tiles.
    off_diagonal = np.concatenate([near, rest[np.argsort(block, kind="stable")]])
    diagonal = np.arange(n_tiles)
    pairs = [
        np.concatenate([diagonal, first[off_diagonal]]),
        np.concatenate([diagonal, second[off_diagonal]]),
    ]
    return np.stack(pairs, axis=1).astype(np.int32)


def _split_by_similarity(similarity: Float32Array, n_near: int) -> tuple[IntArray, IntArray]:
    """Return the pairs with the largest similarities, in falling order, and the others in their order.

    Sorting all pairs would take most of the time of a schedule.
    """
    if n_near >= len(similarity):
        return np.argsort(-similarity, kind="stable"), np.empty(0, dtype=np.int64)
    near = np.sort(np.argpartition(-similarity, n_near)[:n_near])
    is_near = np.zeros(len(similarity), dtype=np.bool_)
    is_near[near] = True
    return near[np.argsort(-similarity[near], kind="stable")], np.flatnonzero(~is_near)


def block_side(n_tiles: int) -> int:
    """Return the number of tiles on a side of a block: a power of two, at most `BLOCK_TILES`."""
    side = 1
    while side < BLOCK_TILES and 2 * side * _MIN_BLOCKS_PER_SIDE <= n_tiles:
        side *= 2
    return side


def find_batch_bounds(pairs: Int32Array, n_tiles: int) -> IntArray:
    """Return the index in a schedule at which each batch begins, and the number of pairs.

    A pair of the diagonal, and one scheduled by similarity, is a batch of its own: these pairs set most
    thresholds, which the next pair is to have already. Each block is one batch.

    Parameters
    ----------
    pairs : (pairs, 2) int32
        The result of `schedule_tile_pairs`.
    n_tiles : int
        Number of tiles.
    """
    blocks = pairs // block_side(n_tiles)
    block_changes = np.flatnonzero((blocks[1:] != blocks[:-1]).any(axis=1)) + 1
    single_pairs = np.arange(min(len(pairs), (1 + _NEAR_PAIRS_PER_TILE) * n_tiles))
    return np.unique(np.concatenate([single_pairs, block_changes, [0, len(pairs)]]))


def estimate_work(
    layout: Layout, pairs: Int32Array, near_costs: tuple[float, ...], decline: float = 0.0
) -> FloatArray:
    """Estimate the time of each scheduled pair of tiles, in pairs of rows that are rejected by their bound.

    The diagonal and the most similar pairs of tiles take longer than the rest: fewer of their pairs of rows
    can be rejected.

    Parameters
    ----------
    layout : Layout
        Tiles.
    pairs : (pairs, 2) int32
        The result of `schedule_tile_pairs`.
    near_costs : tuple of float
        Cost factors of the first pairs: `near_costs[0]` of the diagonal, `near_costs[1]` of the next
        `n_tiles` pairs, and so on.
    decline : float
        The factor of the other pairs falls linearly from 1 to 1 - `decline`.

    Returns
    -------
    (pairs,) float64
    """
    sizes = np.diff(layout.starts).astype(np.float64)
    work: FloatArray = sizes[pairs[:, 0]] * sizes[pairs[:, 1]]
    factors = np.repeat(near_costs, layout.n_tiles)[: len(work)]
    work[: len(factors)] *= factors
    work[len(factors) :] *= np.linspace(1, 1 - decline, len(work) - len(factors))
    return work
