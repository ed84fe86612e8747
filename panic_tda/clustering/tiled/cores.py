"""Measure exact core distances, starting from neighbour lists that float32 products found.

The core distance of a row is the distance to its `min_samples`-th nearest row. The row itself is the first,
and a row with copies counts as often as it has copies: that number is its *weight*. The neighbour pass has
left a list for every row: the rows with which it has the largest float32 products. Only the entries near the
`min_samples`-th need to be measured in float64. The rule below says which, and why no other row can be the
one (step 5 of `proof`).

The rule for one row
--------------------
Let d be the distance to an entry of the list, s = 1 - d²/2 its exact product and s̃ its float32 product:
|s̃ - s| ≤ η (`margins.product_margin`). The nearest entries have the largest s. The entries are taken by
falling s̃.

`missing`       `min_samples` minus the row's own weight: the weight that its neighbours must add up to. Call
                the neighbour at which they do, by exact distance, the *k-th neighbour*: its distance is the
                core distance.
`kth`           s̃ of the entry at which the weights add up to `missing` by falling s̃. The k-th neighbour has
                kth - η ≤ s ≤ kth + η:
                - The entries down to `kth` have s ≥ kth - η, and their weights suffice.
                - A row with s > kth + η has s̃ > kth. Such rows weigh less than `missing`: too little.
`high`          kth + 2η. An entry with s̃ > `high` has s > kth + η, so it is nearer than the k-th neighbour.
                It is not measured; its weight is subtracted from `missing`.
`low`           kth - 2η. An entry with s̃ < `low` has s < kth - η, so it is farther, and is not measured.
`first`, `last` the range of the remaining entries, `low` ≤ s̃ ≤ `high`. They are measured in float64. The one
                at which their weights add up to the rest of `missing`, by distance, is the k-th neighbour.

`row_kernels.cores_from_lists` (host) and `device.cores_from_lists` implement the rule with these names.

Lists that are too short
------------------------
If even the last entry of a list has s̃ ≥ `low`, rows that are not on the list may belong to the range, unless
the list holds all other rows. The core distance from such a list is only an upper bound. Its row is compared
with all rows (`compare_with_rows`), tile by tile. Only rows nearer than the bound can change it, and the
bound falls with every tile. `NearestRows` keeps only the nearest rows whose weights add up to `missing`,
however many rows lie within η of the k-th.

Float32 products select the pairs to measure. Where they leave more than a third of a tile, as in a dense
group of near-copies, the tile is multiplied in float64 instead. These products err by about 1e-12
(`margins.square_margin`) and cost half as much per pair as measuring. The next tile then begins with float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from panic_tda.arrays.namespace import squared_lengths, take_rows, take_slice, to_host
from panic_tda.arrays.rows import slices
from panic_tda.clustering.neighbour_graph import fill_lists
from panic_tda.clustering.phases import CORE_DISTANCES
from panic_tda.clustering.tiled import margins
from panic_tda.clustering.tiled.nearer_rows import fill_from_lists

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from panic_tda.clustering.tiled.contract import Kernels, Lists, Space
    from panic_tda.clustering.tiled.workers import Workers
    from panic_tda.progress import Progress
    from panic_tda.types import Array, ArrayModule, FloatArray, IntArray, NeighbourLists

_BATCH_ROWS, _BATCH_NEIGHBOURS = 256, 1 << 16
"""Most rows of a batch that is compared with all rows, and most neighbours that it keeps in all."""
MOST_ROWS_HERE = 256
"""Rows that are compared with all rows in this process even if an executor could do it."""
_DENSE_SHARE = 1 / 3
"""Share of a tile's pairs above which they are selected by float64 products instead of float32 products.

At 768 dimensions a float64 product takes 40 ns per pair, and measuring a pair 100 ns.
"""
_PAIR_BYTES = 128
"""Memory for one pair of rows: products, distance, and sorting."""


SearchAllRows: TypeAlias = (
    "Callable[[IntArray, IntArray, FloatArray], Iterator[tuple[IntArray, NearestRows]]]"
)
"""Compares rows with all rows: from their numbers, the weight that their neighbours must add up to, and upper
bounds of the core distances of all rows, it yields some of the rows at a time with their neighbours."""


class CoreDistances(NamedTuple):
    """Core distances of all rows.

    Attributes
    ----------
    distances : (n,) float64
        Chord lengths.
    n_searched : int
        Rows whose list was too short, so that they were compared with all rows.
    """

    distances: FloatArray
    n_searched: int


def measure_core_distances(
    space: Space,
    weights: IntArray,
    lists: Lists,
    *,
    min_samples: int,
    floor: float,
    team: Workers,
    progress: Progress,
    nearer: NeighbourLists | None = None,
    search: SearchAllRows | None = None,
) -> CoreDistances:
    """Measure the distance of every row to its `min_samples`-th nearest row, itself and copies counted.

    Parameters
    ----------
    space : Space
        n rows.
    weights : (n,) int64
        Copies of each row, 1 or more; they sum to at least `min_samples`.
    lists : Lists
        At least `min_samples` neighbours of each row, or all other rows.
    min_samples : int
        Number of rows to count, the row itself included.
    floor : float
        Smallest core distance; smaller ones are replaced by it.
    team : Workers
        Threads.
    progress : Progress
        Receives the phase and the number of rows.
    nearer : NeighbourLists, optional
        Lists without entries, of this `min_samples`, to fill with the rows nearer than the core distance.
    search : callable, optional
        Compares rows with all rows elsewhere, if they are too many for a search that takes linear time.
    """
    n = len(weights)
    progress.phase(CORE_DISTANCES, float(n))
    cores = np.empty(n)
    list_too_short = np.zeros(n, dtype=np.bool_)

    def measure_from_lists(rows: slice) -> None:
        space.kernels.cores_from_lists(
            space, weights, lists, rows, min_samples=min_samples, floor=floor, out=(cores, list_too_short)
        )
        if nearer is not None:
            fill_from_lists(space, lists, rows, cores[rows], ~list_too_short[rows], floor=floor, out=nearer)

    team.chunks(measure_from_lists, n, progress=progress)
    rows_to_search = np.flatnonzero(list_too_short)

    def set_cores(rows: IntArray, nearest: NearestRows) -> None:
        cores[rows] = np.maximum(nearest.bounds, floor)
        if nearer is not None:
            distances = np.maximum(nearest.distances, floor)
            near = distances < cores[rows][nearest.queries]
            fill_lists(nearer, rows[nearest.queries[near]], nearest.rows[near], distances[near])

    def search_batch(batch: slice) -> None:
        rows = rows_to_search[batch]
        set_cores(rows, compare_with_rows(space, weights, rows, min_samples - weights[rows], cores[rows]))

    if search is not None and len(rows_to_search) > MOST_ROWS_HERE:
        for rows, nearest in search(rows_to_search, min_samples - weights[rows_to_search], cores):
            set_cores(rows, nearest)
    else:
        team.chunks(search_batch, len(rows_to_search), largest=batch_rows(min_samples))
    return CoreDistances(cores, len(rows_to_search))


def compare_with_rows(
    space: Space,
    weights: IntArray,
    rows: IntArray,
    missing: IntArray,
    upper_bounds: FloatArray,
    itself: IntArray | None = None,
) -> NearestRows:
    """Find the core distances of `rows` by comparing them with the first n rows, one tile after the other.

    Parameters
    ----------
    space : Space
        n rows or more.
    weights : (n,) int64
        Copies of each row.
    rows : (m,) int64
        Row numbers.
    missing : (m,) int64
        Weight that the neighbours of each of `rows` must add up to.
    upper_bounds : (m,) float64
        Upper bounds of their core distances; overwritten.
    itself : (m,) int64, optional
        Number of each of `rows` among the first n, which is no neighbour; -1 if it is not among them. None if
        it has no other number there.
    """
    itself = rows if itself is None else itself
    xp, use_float64 = space.xp, False
    batch, nearest = take_rows(xp, space.factors[0], xp.asarray(rows)), NearestRows(upper_bounds, missing)
    for tile in slices(len(weights), _tile_rows(space.kernels)):
        columns, bounds = take_slice(xp, space.factors[1], tile), xp.asarray(nearest.bounds)
        if not use_float64:
            selected = batch @ columns.T >= margins.lower_products(bounds, space.margin)[:, None]
            use_float64 = _is_dense(xp, selected)
        if use_float64:
            if space.lifted is None:
                squares = _square_distances(batch, columns)
            else:
                squares = _square_distances(space.vectors[rows], space.vectors[tile])
            margin = margins.square_margin(space.vectors.shape[1], space.margin)
            selected = squares <= (bounds * bounds + margin)[:, None]
            # About as many as float32 products would select.
            use_float64 = _is_dense(xp, squares <= (bounds * bounds + 2 * space.margin)[:, None])
        i, j = (to_host(indices) for indices in xp.nonzero(selected))
        j = j + tile.start
        not_itself = np.flatnonzero(itself[i] != j)
        i, j = i[not_itself], j[not_itself]
        nearest.add(i, j, space.kernels.distances(space, rows[i], j), weights[j])
    return nearest


def _is_dense(xp: ArrayModule, selected: Array) -> bool:
    """Return whether so many pairs of a tile are selected that float64 products are cheaper."""
    return bool(int(xp.count_nonzero(selected)) > _DENSE_SHARE * selected.size)


def _square_distances(batch: Array, columns: Array) -> Array:
    """Return ‖x‖² + ‖y‖² - 2·x·y of all pairs of rows in float64."""
    left, right = batch.astype(np.float64), columns.astype(np.float64)
    squares = left @ right.T
    squares *= -2
    squares += squared_lengths(left)[:, None]
    squares += squared_lengths(right)[None, :]
    return squares


class NearestRows:
    """The nearest neighbours of m query rows among the rows added so far.

    Of each query, only the neighbours up to the one at which their weights add up to `missing` are kept.

    Parameters
    ----------
    bounds : (m,) float64
        Upper bounds of the queries' core distances; updated in place.
    missing : (m,) int64
        Weight that the neighbours of each query must add up to.

    Attributes
    ----------
    bounds : (m,) float64
        The bounds as known so far; the core distances when all rows have been added.
    queries, rows : (pairs,) int64
        The query, 0 to m - 1, and the neighbour of every pair that is kept.
    distances : (pairs,) float64
        Their distances.
    """

    def __init__(self, bounds: FloatArray, missing: IntArray) -> None:
        self.bounds, self._missing = bounds, missing
        self.queries, self.rows, self._weights = np.empty((3, 0), dtype=np.int64)
        self.distances = np.empty(0)

    def add(self, queries: IntArray, rows: IntArray, distances: FloatArray, weights: IntArray) -> None:
        """Add neighbours.

        Parameters
        ----------
        queries : (pairs,) int64
            The query, 0 to m - 1, of which each is a neighbour.
        rows : (pairs,) int64
            The neighbour.
        distances : (pairs,) float64
            Distance to the query.
        weights : (pairs,) int64
            The neighbour's weight.
        """
        nearer = np.flatnonzero(distances < self.bounds[queries])
        if not len(nearer):
            return
        queries, rows, distances, weights = (
            np.concatenate([present, new[nearer]])
            for present, new in (
                (self.queries, queries),
                (self.rows, rows),
                (self.distances, distances),
                (self._weights, weights),
            )
        )
        order = np.lexsort((distances, queries))
        queries, rows, distances, weights = queries[order], rows[order], distances[order], weights[order]
        # Weight of the same query's nearer neighbours.
        weight_before = np.cumsum(weights) - weights
        weight_before -= weight_before[np.searchsorted(queries, queries)]
        missing = self._missing[queries]
        is_kth = (weight_before < missing) & (weight_before + weights >= missing)
        self.bounds[queries[is_kth]] = distances[is_kth]
        contributing = np.flatnonzero(weight_before < missing)
        self.queries, self.rows = queries[contributing], rows[contributing]
        self.distances, self._weights = distances[contributing], weights[contributing]


def batch_bytes(kernels: Kernels, n_features: int, min_samples: int) -> int:
    """Return the most bytes that a thread takes to compare a batch of rows with all rows."""
    n_rows, tile_rows = batch_rows(min_samples), _tile_rows(kernels)
    n_bytes: int = n_rows * (tile_rows + min_samples) * _PAIR_BYTES + 12 * (n_rows + tile_rows) * n_features
    return n_bytes


def batch_rows(min_samples: int) -> int:
    """Return the most rows of a batch that is compared with all rows, at least 1."""
    return max(1, min(_BATCH_ROWS, _BATCH_NEIGHBOURS // min_samples))


def _tile_rows(kernels: Kernels) -> int:
    """Return the most rows with which a batch is compared at once."""
    tile_rows: int = kernels.TILE_ROWS // 2
    return tile_rows


def find_weighted_kth(xp: ArrayModule, groups: Array, values: Array, weights: Array, missing: Array) -> Array:
    """Return each group's smallest value at which the weights of its values so far reach `missing`.

    `device.cores_from_lists` calls this for many rows at once; a group is the range of one row's list.

    Parameters
    ----------
    xp : module
        The library of all these arrays.
    groups : (m,) integers
        Group of each value; each of 0 to g - 1 occurs.
    values : (m,) float64
    weights : (m,) int64
    missing : (g,) int64
        Where the weights of a group never reach it, the group's largest value is returned.

    Returns
    -------
    (g,) float64
    """
    order = xp.argsort(values, kind="stable")
    order = order[xp.argsort(groups[order], kind="stable")]
    groups = groups[order]
    last = xp.searchsorted(groups, xp.arange(len(missing)), side="right")
    first = xp.concatenate([xp.zeros(1, dtype=last.dtype), last[:-1]])
    total = xp.concatenate([xp.zeros(1, dtype=xp.int64), xp.cumsum(weights[order])])
    short = (total[1:] - total[first[groups]]) < missing[groups]
    counts = xp.concatenate([xp.zeros(1, dtype=xp.int64), xp.cumsum(short.astype(xp.int64))])
    return values[order[xp.minimum(first + counts[last] - counts[first], last - 1)]]
