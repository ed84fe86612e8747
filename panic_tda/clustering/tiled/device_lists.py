"""Neighbour lists in device memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from panic_tda.arrays.rows import slices

if TYPE_CHECKING:
    from panic_tda.clustering.tiled.contract import CandidatePairs
    from panic_tda.clustering.tiled.layout import Layout
    from panic_tda.types import Array, ArrayModule

OFFERED = 1 << 21
"""Pairs entered at once: sorting takes some 60 bytes for each, and a pair of tiles may have 67 million."""


class Lists:
    """See `contract.Lists`: each list has the nearest row first.

    Offers wait, tile by tile, until there is enough for half the lists of the tile, and then go in by one
    sort. Among equal products the one that was offered first stays.
    """

    def __init__(self, xp: ArrayModule, layout: Layout, length: int) -> None:
        n = len(layout.order)
        self._xp, self._length = xp, length
        # Rows of each tile as they come with its offers: a run that goes on has the order of the one before,
        # whatever layout it began with.
        self._tiles: dict[int, Array] = {}
        self._waiting: list[list[tuple[Array, Array, Array]]] = [[] for _ in range(layout.n_tiles)]
        self.rows = xp.full((n, length), -1, dtype=xp.int32)
        self.sims = xp.full((n, length), -xp.inf, dtype=xp.float32)

    def thresholds(self, rows: Array) -> Array:
        """Return thresholds; those that waiting offers would raise let a few more pairs pass."""
        return self.sims[rows, self._length - 1]

    def push_within(self, candidates: CandidatePairs, tile: int, rows: Array) -> None:
        """Let the pairs of one tile wait."""
        self.push(candidates, (tile, tile), rows, rows)

    def push(self, candidates: CandidatePairs, pair: tuple[int, int], rows: Array, columns: Array) -> None:
        """Let the pairs wait for the lists of both sides."""
        width = len(columns)
        self._tiles |= {pair[0]: rows, pair[1]: columns}
        for part in slices(len(candidates.pair_indices), OFFERED):
            pair_indices, sims = candidates.pair_indices[part], candidates.sims[part]
            i, j = pair_indices // width, pair_indices % width
            self._wait(pair[0], i, columns[j], sims)
            if pair[0] != pair[1]:
                self._wait(pair[1], j, rows[i], sims)

    def flush(self) -> None:
        """Enter the pairs that are still waiting."""
        for tile in range(len(self._waiting)):
            self._enter(tile)

    def _wait(self, tile: int, owners: Array, others: Array, sims: Array) -> None:
        if not len(owners):
            return
        waiting = self._waiting[tile]
        waiting.append((owners.astype(self._xp.int32), others, sims))
        if 2 * sum(len(batch[0]) for batch in waiting) >= len(self._tiles[tile]) * self._length:
            self._enter(tile)

    def _enter(self, tile: int) -> None:
        if not self._waiting[tile]:
            return
        xp, length = self._xp, self._length
        owners, others, sims = (xp.concatenate(parts) for parts in zip(*self._waiting[tile], strict=True))
        self._waiting[tile] = []
        touched = xp.flatnonzero(xp.bincount(owners))
        rows = self._tiles[tile][touched]
        # What is on the lists comes first, so that it stays where an offer is no better.
        number = xp.arange(len(touched))
        owners = xp.concatenate(
            [
                (number[:, None] + xp.zeros(length, dtype=xp.int64)[None, :]).reshape(-1),
                xp.searchsorted(touched, owners.astype(xp.int64)),
            ]
        )
        others = xp.concatenate([self.rows[rows].reshape(-1), others.astype(xp.int32)])
        sims = xp.concatenate([self.sims[rows].reshape(-1), sims])
        order = xp.argsort(sort_keys(xp, owners, sims), kind="stable")
        owners = owners[order]
        rank = xp.arange(len(order)) - xp.searchsorted(owners, number)[owners]
        # Every list is full, if need be with entries for no row: as many as before stay.
        nearest = order[xp.flatnonzero(rank < length)]
        self.rows[rows] = others[nearest].reshape(-1, length)
        self.sims[rows] = sims[nearest].reshape(-1, length)


def sort_keys(xp: ArrayModule, owners: Array, sims: Array) -> Array:
    """Return integers in the order of the owners and, for each, of falling products.

    The bits of a float32, read as an integer, are in its order where it is positive, in the reverse where it
    is negative.
    """
    bits = sims.view(xp.int32)
    rising = xp.where(bits < 0, xp.bitwise_xor(bits, xp.int32(0x7FFFFFFF)), bits)
    return xp.left_shift(owners.astype(xp.int64), xp.int64(32)) - rising.astype(xp.int64)
