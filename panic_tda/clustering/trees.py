"""What all of the package knows of spanning trees: union-find, minimum forests, leaf order, path maxima.

A tree is a list of edges with heights. In *leaf order* its rows stand side by side as edges join them by
ascending height, and the heaviest edge on the path between two rows is the largest of the *gaps* between
their positions. That turns questions about paths into questions about ranges of one array, which
`RangeMaxima` and `PathsFrom` answer with the arrays of any library.

References
----------
.. [1] Kruskal (1956). On the shortest spanning subtree of a graph. Proceedings of the AMS 7(1).
   https://doi.org/10.1090/S0002-9939-1956-0078686-7
.. [2] Bender, Farach-Colton (2000). The LCA problem revisited. LATIN 2000. (Range maxima by powers of two.)
   https://doi.org/10.1007/10719839_9
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from panic_tda.arrays.namespace import namespace
from panic_tda.clustering.compiled import compiled

if TYPE_CHECKING:
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
    """Join lists of edges."""
    return Edges(*(np.concatenate([part[field] for part in parts]) for field in range(3)))


@compiled
def find(leader: IntArray, row: int) -> int:
    """Return the leader of a row's component, shortening the way there (path halving)."""
    while leader[row] != row:
        leader[row] = leader[leader[row]]
        row = leader[row]
    return row


def minimum_forest(n: int, edges: Edges) -> Edges:
    """Kruskal's algorithm; edges come back by ascending height."""
    order = np.argsort(edges.height, kind="stable")
    kept = order[: _kruskal(n, edges.u, edges.v, order)]
    return Edges(edges.u[kept], edges.v[kept], edges.height[kept])


@compiled
def _kruskal(n: int, u: IntArray, v: IntArray, order: IntArray) -> int:
    """Move the edges of the forest to the front of `order`, and count them."""
    leader = np.arange(n)
    kept = 0
    for edge in order:
        a, b = find(leader, u[edge]), find(leader, v[edge])
        if a != b:
            leader[max(a, b)] = min(a, b)
            order[kept] = edge
            kept += 1
    return kept


class DendrogramOrder(NamedTuple):
    """The leaves of a spanning tree's hierarchy, side by side as they merge.

    Attributes
    ----------
    order : (n,) int32
        Row at each position.
    gaps : (n,) float64
        Height at which the row at a position joined the one before it; the first is infinite. The largest
        gap after position p up to position q is the heaviest edge on the path between their rows.
    """

    order: Int32Array
    gaps: FloatArray


def dendrogram_order(n: int, tree: Edges) -> DendrogramOrder:
    """Order the rows by joining lists along the edges, which come by ascending height.

    The larger list comes first, which keeps rows that were joined late at the end.
    """
    order, gaps = np.empty(n, dtype=np.int32), np.empty(n)
    _join_lists(tree.u, tree.v, tree.height, order, gaps)
    return DendrogramOrder(order, gaps)


@compiled
def _join_lists(u: IntArray, v: IntArray, height: FloatArray, order: Int32Array, gaps: FloatArray) -> None:
    n = len(order)
    leader, size, tail, following = np.arange(n), np.ones(n, np.int64), np.arange(n), np.full(n, -1)
    head = np.arange(n)
    joined = np.full(n, np.inf)
    for t in range(len(u)):
        a, b = find(leader, u[t]), find(leader, v[t])
        if size[a] < size[b]:
            a, b = b, a
        following[tail[a]] = head[b]
        joined[head[b]] = height[t]
        tail[a] = tail[b]
        leader[b] = a
        size[a] += size[b]
    row = head[find(leader, 0)]
    for position in range(n):
        order[position], gaps[position] = row, joined[row]
        row = following[row]


def path_maxima(tree: Edges, order: Int32Array) -> FloatArray:
    """Heaviest edge on the tree's path between the rows at each position and the one before it.

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
    _climb(tree.u, tree.v, tree.height, order, gaps)
    return gaps


@compiled
def _climb(u: IntArray, v: IntArray, height: FloatArray, order: Int32Array, gaps: FloatArray) -> None:
    n = len(order)
    # Joined by size and never shortened, the forest of leaders is at most log2(n) deep, and heights rise
    # along it: the path maximum is met where the climbs from both rows meet.
    leader, size, joined = np.arange(n), np.ones(n, np.int64), np.full(n, np.inf)
    for t in range(len(u)):
        a, b = u[t], v[t]
        while leader[a] != a:
            a = leader[a]
        while leader[b] != b:
            b = leader[b]
        if size[a] < size[b]:
            a, b = b, a
        leader[b], joined[b] = a, height[t]
        size[a] += size[b]
    gaps[0] = np.inf
    for position in range(1, n):
        a, b, highest = order[position - 1], order[position], 0.0
        while a != b:
            if joined[a] > joined[b]:
                a, b = b, a
            highest = joined[a]
            a = leader[a]
        gaps[position] = highest


class RangeMaxima:
    """Largest value of any range of an array, from maxima over ranges whose lengths are powers of two.

    Parameters
    ----------
    values : (n,) float64
        At least one, none negative; NumPy's or CuPy's, and so is what is asked and answered.

    Notes
    -----
    Takes log2(n) + 1 arrays of n values.
    """

    def __init__(self, values: Array) -> None:
        xp = self._xp = namespace(values)
        n, levels = len(values), [values]
        while 2 ** len(levels) <= n:
            half, last = 2 ** (len(levels) - 1), levels[-1]
            # The end of a level, where its ranges would not fit, is never asked for.
            levels.append(xp.concatenate([xp.maximum(last[:-half], last[half:]), last[-half:]]))
        self._table = xp.stack(levels)
        # By the length of a range, 0 taken as 1: the level of the two ranges that cover it, and their length.
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
    """Path maxima between chosen rows and all others, in parts that any array library puts together.

    Attributes
    ----------
    stretch : (n,) int64
        Number of the stretch of each position; a stretch ends with a chosen row, or with the last row.
    from_start, to_end : (n,) float64
        Largest gap from the chosen row before the stretch up to a position, and from there to its end.
    reach : (chosen, stretches) float64
        Largest gap from a chosen row to the near end of a stretch.
    """

    stretch: IntArray
    from_start: FloatArray
    to_end: FloatArray
    reach: FloatArray

    def maxima(self, part: slice) -> FloatArray:
        """Heaviest edge between each chosen row and those at the positions `part`, (chosen, positions)."""
        xp: ArrayModule = namespace(self.reach)
        stretch, numbers = self.stretch[part], xp.arange(len(self.reach))
        beyond = xp.where(stretch[None, :] > numbers[:, None], self.from_start[part], self.to_end[part])
        highest: FloatArray = xp.maximum(self.reach[:, stretch], beyond)
        return highest


def paths_from(gaps: FloatArray, positions: IntArray) -> PathsFrom:
    """Prepare path maxima from the rows at `positions`, which ascend, given the gaps of a leaf order."""
    starts = np.concatenate([[0], positions + 1, [len(gaps)]])
    from_start, to_end = np.empty(len(gaps)), np.zeros(len(gaps))
    for begin, end in pairwise(starts.tolist()):
        from_start[begin:end] = np.maximum.accumulate(gaps[begin:end])
        to_end[begin : max(begin, end - 1)] = np.maximum.accumulate(gaps[begin + 1 : end][::-1])[::-1]
    stretch = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    # Gap between neighbouring chosen rows; what lies before the first of them counts for no pair.
    between = from_start[positions]
    reach = np.zeros((len(positions), len(starts) - 1))
    for row in range(len(positions)):
        reach[row, row + 2 :] = np.maximum.accumulate(between[row + 1 :])
        reach[row, :row] = np.maximum.accumulate(between[row:0:-1])[::-1]
    return PathsFrom(stretch, from_start, to_end, reach)
