"""Operations on spanning trees: union-find, minimum forests, dendrogram order, path maxima.

A tree is a list of edges with heights. *Dendrogram order* is an order of the rows in which every merge joins
two neighbouring ranges. The *merge height* (`gaps`) of a position is the height at which its row joined the
row before it. The largest edge on the path between two rows is the largest merge height between their
positions, so that a maximum over a path is a maximum over a range of one array. `RangeMaxima` and `PathsFrom`
compute such maxima with the arrays of any library.

References
----------
.. [1] Kruskal (1956). On the shortest spanning subtree of a graph. Proceedings of the AMS 7(1).
   https://doi.org/10.1090/S0002-9939-1956-0078686-7
.. [2] Bender, Farach-Colton (2000). The LCA problem revisited. LATIN 2000. (Range maxima by powers of two.)
   https://doi.org/10.1007/10719839_9
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from panic_tda.arrays.namespace import namespace
from panic_tda.clustering.compiled import compiled
from panic_tda.types import Array, ArrayModule, FloatArray, Int32Array, IntArray


class Edges(NamedTuple):
    """Edges with their mutual reachability distances.

    Attributes
    ----------
    u, v : (edges,) int64
        The rows that each edge joins.
    height : (edges,) float64
        Chord lengths.
    """

    u: IntArray
    v: IntArray
    height: FloatArray


def concatenate(parts: list[Edges]) -> Edges:
    """Concatenate lists of edges."""
    return Edges(*(np.concatenate([part[field] for part in parts]) for field in range(3)))


@compiled
def find(representative: IntArray, row: int) -> int:
    """Return the representative of a row's component, and shorten the path to it (path halving)."""
    while representative[row] != row:
        representative[row] = representative[representative[row]]
        row = representative[row]
    return row


def minimum_forest(n: int, edges: Edges) -> Edges:
    """Return the minimum spanning forest of a graph (Kruskal's algorithm), by ascending height."""
    order = np.argsort(edges.height, kind="stable")
    forest = order[: _select_forest(n, edges.u, edges.v, order)]
    return Edges(edges.u[forest], edges.v[forest], edges.height[forest])


@compiled
def _select_forest(n: int, u: IntArray, v: IntArray, order: IntArray) -> int:
    """Move the edges of the forest to the front of `order`, and count them."""
    representative = np.arange(n)
    n_edges = 0
    for edge in order:
        a, b = find(representative, u[edge]), find(representative, v[edge])
        if a != b:
            representative[max(a, b)] = min(a, b)
            order[n_edges] = edge
            n_edges += 1
    return n_edges


class DendrogramOrder(NamedTuple):
    """An order of the rows in which every merge of the dendrogram joins two neighbouring ranges.

    Attributes
    ----------
    order : (n,) int32
        Row at each position.
    gaps : (n,) float64
        Merge height of each position: the height at which its row joined the row before it; the first is
        infinite. The largest merge height after position p up to position q is the largest edge on the path
        between their rows.
    """

    order: Int32Array
    gaps: FloatArray


def dendrogram_order(n: int, tree: Edges) -> DendrogramOrder:
    """Order the rows by joining lists along the edges, which must ascend in height.

    The larger list comes first, so that rows that were joined late are at the end.
    """
    order, gaps = np.empty(n, dtype=np.int32), np.empty(n)
    _join_lists(tree.u, tree.v, tree.height, order, gaps)
    return DendrogramOrder(order, gaps)


@compiled
def _join_lists(u: IntArray, v: IntArray, height: FloatArray, order: Int32Array, gaps: FloatArray) -> None:
    n = len(order)
    representative, size, tail, following = np.arange(n), np.ones(n, np.int64), np.arange(n), np.full(n, -1)
    head = np.arange(n)
    joined = np.full(n, np.inf)
    for t in range(len(u)):
        a, b = find(representative, u[t]), find(representative, v[t])
        if size[a] < size[b]:
            a, b = b, a
        following[tail[a]] = head[b]
        joined[head[b]] = height[t]
        tail[a] = tail[b]
        representative[b] = a
        size[a] += size[b]
    row = head[find(representative, 0)]
    for position in range(n):
        order[position], gaps[position] = row, joined[row]
        row = following[row]


def path_maxima(tree: Edges, order: Int32Array) -> FloatArray:
    """Return the largest edge on the tree's path between the row at each position and the one before it.

    Parameters
    ----------
    tree : Edges
        A spanning tree, by ascending height.
    order : (n,) int32
        Row at each position.

    Returns
    -------
    (n,) float64
        The first is infinite.
    """
    gaps = np.empty(len(order))
    _fill_path_maxima(tree.u, tree.v, tree.height, order, gaps)
    return gaps


@compiled
def _fill_path_maxima(
    u: IntArray, v: IntArray, height: FloatArray, order: Int32Array, gaps: FloatArray
) -> None:
    n = len(order)
    # Joined by size and never shortened, this forest is at most log2(n) deep, and heights rise along it. The
    # path maximum is the last height on the way from both rows to their common ancestor.
    above, size, joined = np.arange(n), np.ones(n, np.int64), np.full(n, np.inf)
    for t in range(len(u)):
        a, b = u[t], v[t]
        while above[a] != a:
            a = above[a]
        while above[b] != b:
            b = above[b]
        if size[a] < size[b]:
            a, b = b, a
        above[b], joined[b] = a, height[t]
        size[a] += size[b]
    gaps[0] = np.inf
    for position in range(1, n):
        a, b, highest = order[position - 1], order[position], 0.0
        while a != b:
            if joined[a] > joined[b]:
                a, b = b, a
            highest = joined[a]
            a = above[a]
        gaps[position] = highest


class RangeMaxima:
    """Maxima over any range of an array, from maxima over ranges whose lengths are powers of two.

    Parameters
    ----------
    values : (n,) float64
        At least one value, none negative. A NumPy or CuPy array; ranges and results are arrays of the same
        library.

    Notes
    -----
    Takes log2(n) + 1 arrays of n values.
    """

    def __init__(self, values: Array) -> None:
        xp = self._xp = namespace(values)
        n, levels = len(values), [values]
        while 2 ** len(levels) <= n:
            half, last = 2 ** (len(levels) - 1), levels[-1]
            # The end of a level, where its ranges would exceed the array, is never used.
            levels.append(xp.concatenate([xp.maximum(last[:-half], last[half:]), last[-half:]]))
        self._table = xp.stack(levels)
        # For every length of a range (0 counts as 1): the level of the two ranges that cover it, and their
        # length.
        level = np.maximum(np.frexp(np.arange(n + 1))[1] - 1, 0)
        self._level, self._span = xp.asarray(level), xp.asarray(2 ** level.astype(np.int64))

    def of(self, begin: Array, end: Array) -> Array:
        """Return the largest of values[begin:end] for arrays of integers; 0 where a range is empty."""
        xp, n = self._xp, self._table.shape[1]
        length = xp.maximum(end - begin, 0)
        level, span = self._level[length], self._span[length]
        first, last = xp.minimum(begin, n - 1), xp.maximum(end - span, 0)
        return xp.where(length > 0, xp.maximum(self._table[level, first], self._table[level, last]), 0.0)


class PathsFrom(NamedTuple):
    """Path maxima between chosen rows and all others, in parts that `maxima` combines with any array library.

    Attributes
    ----------
    stretch : (n,) int64
        Number of the stretch of each position; a stretch ends with a chosen row, or with the last row.
    from_start, to_end : (n,) float64
        Largest merge height from the chosen row before the stretch up to a position, and from the position
        to the end of its stretch.
    reach : (chosen, stretches) float64
        Largest merge height from a chosen row to the near end of a stretch.
    """

    stretch: IntArray
    from_start: FloatArray
    to_end: FloatArray
    reach: FloatArray

    def maxima(self, part: slice) -> FloatArray:
        """Return the largest edge between each chosen row and the rows at `part`, (chosen, positions)."""
        xp: ArrayModule = namespace(self.reach)
        stretch, numbers = self.stretch[part], xp.arange(len(self.reach))
        beyond = xp.where(stretch[None, :] > numbers[:, None], self.from_start[part], self.to_end[part])
        highest: FloatArray = xp.maximum(self.reach[:, stretch], beyond)
        return highest


def paths_from(gaps: FloatArray, positions: IntArray) -> PathsFrom:
    """Prepare path maxima from the rows at ascending `positions`, from the merge heights of a dendrogram."""
    starts = np.concatenate([[0], positions + 1, [len(gaps)]])
    from_start, to_end = np.empty(len(gaps)), np.zeros(len(gaps))
    for begin, end in pairwise(starts.tolist()):
        from_start[begin:end] = np.maximum.accumulate(gaps[begin:end])
        to_end[begin : max(begin, end - 1)] = np.maximum.accumulate(gaps[begin + 1 : end][::-1])[::-1]
    stretch = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    # Largest merge height between neighbouring chosen rows; what lies before the first concerns no pair.
    between = from_start[positions]
    reach = np.zeros((len(positions), len(starts) - 1))
    for row in range(len(positions)):
        reach[row, row + 2 :] = np.maximum.accumulate(between[row + 1 :])
        reach[row, :row] = np.maximum.accumulate(between[row:0:-1])[::-1]
    return PathsFrom(stretch, from_start, to_end, reach)
