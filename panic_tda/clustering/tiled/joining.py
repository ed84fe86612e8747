"""Join the components of the neighbour graph into one tree, by rounds.

Any spanning tree is a valid start. But every inter-component edge that is heavier than necessary makes the
verify pass look at all pairs of rows across it. At 50,000 rows, 81 edges of 42,611 that were not the lightest
(0.03 % of the tree's weight) made that pass take eight times as long.

A round joins every component to another one:

1. *Ask.* Some rows of every component, its representatives, search for a near row in another component
   (`contract.OutsideSearch`). The two are the ends of an inter-component edge.
2. *Choose.* The lightest edges of every component but the largest are kept. The largest has the most rows to
   ask and the least need, since all others can reach it.
3. *Walk.* From the outside row of an edge back to the row inside that is nearest to it, and from there to a
   near row outside.
4. *Unite.* Each component takes its lightest edge.

All weights are measured in float64.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from panic_tda.arrays.namespace import to_host
from panic_tda.clustering import phases
from panic_tda.clustering.compiled import compiled
from panic_tda.clustering.tiled.forest import measure
from panic_tda.clustering.trees import find

if TYPE_CHECKING:
    from panic_tda.clustering.tiled.contract import Space
    from panic_tda.clustering.tiled.layout import Layout
    from panic_tda.clustering.tiled.workers import Workers
    from panic_tda.progress import Progress
    from panic_tda.types import BoolArray, FloatArray, IntArray

MAX_QUERY_ROWS = 2_048
MAX_WALKS = 8
"""Most walks that start from one component."""
_WALK_SHARE = 1 / 64
"""Walks of all components, as a share of the rows; each step of a walk multiplies one row with all."""
_STEPS = 1
ASKED_AT_ONCE = 512
_WALKS_AT_ONCE = 64


class InterComponentEdges(NamedTuple):
    """Edges that leave a component.

    Attributes
    ----------
    inside, outside : (edges,) int64
        Rows.
    weight : (edges,) float64
        Mutual reachability distances.
    """

    inside: IntArray
    outside: IntArray
    weight: FloatArray


def join_components(
    search: Search, representative: IntArray, rng: np.random.Generator, progress: Progress
) -> tuple[IntArray, IntArray]:
    """Find edges that make one component of those in `representative`, which is updated.

    Parameters
    ----------
    search : Search
        Finds the rows outside of a component.
    representative : (n,) int64
        A row that stands for each row's component.
    rng : numpy.random.Generator
        Chooses among the rows.
    progress : Progress
        Receives the number of components joined.

    Returns
    -------
    u, v : (components - 1,) int64
        Edges.

    Notes
    -----
    A round asks for at most max(components, 2,048, n / `Kernels.QUERY_SHARE`) rows, and joins every
    component to another: their number halves.
    """
    n_components = len(np.unique(representative))
    if n_components > 1:
        progress.phase(phases.JOINING, float(n_components - 1))
    u: list[IntArray] = []
    v: list[IntArray] = []
    while (representative != representative[0]).any():
        search.begin(representative)
        at_most = max(MAX_QUERY_ROWS, len(representative) // search.space.kernels.QUERY_SHARE)
        direct = search.find(choose_query_rows(search.cores, representative, at_most, rng), full_rows=False)
        walked = _walk(search, representative, _choose_starts(representative, direct))
        inside, outside, weight = (np.concatenate(both) for both in zip(walked, direct, strict=True))
        order, chosen = np.argsort(weight, kind="stable"), np.empty(len(inside), dtype=np.int64)
        chosen = chosen[: _unite(representative, inside, outside, order, chosen)]
        progress.advance(float(len(chosen)))
        u.append(inside[chosen])
        v.append(outside[chosen])
    empty = np.empty(0, dtype=np.int64)
    return np.concatenate([empty, *u]), np.concatenate([empty, *v])


class Search:
    """Search of the nearest rows in other components, in all threads, with measured distances.

    Parameters
    ----------
    space : Space
        n rows.
    layout : Layout
        Order in which neighbours stand side by side.
    cores : (n,) float64
        Core distances.
    team : Workers
        Threads.
    """

    def __init__(self, space: Space, layout: Layout, cores: FloatArray, team: Workers) -> None:
        self.space, self.cores, self.team = space, cores, team
        self._search = space.kernels.outside_search(space, layout, cores)
        order = to_host(layout.order)
        self._position = np.empty(len(order), dtype=np.int64)
        self._position[order] = np.arange(len(order))

    def begin(self, representative: IntArray) -> None:
        """Start a round; see `contract.OutsideSearch.begin`."""
        self._search.begin(representative)

    def find(self, query_rows: IntArray, *, full_rows: bool) -> InterComponentEdges:
        """Find an edge from every query row; see `contract.OutsideSearch.find`."""
        # Rows at neighbouring positions are compared with the same rows.
        query_rows = query_rows[np.argsort(self._position[query_rows], kind="stable")]
        outside = self._find_outside(query_rows, full_rows=full_rows)
        return InterComponentEdges(*measure(self.space, self.cores, (query_rows, outside), self.team))

    def _find_outside(self, query_rows: IntArray, *, full_rows: bool) -> IntArray:
        outside = np.empty(len(query_rows), dtype=np.int64)

        def chunk(part: slice) -> None:
            outside[part] = self._search.find(query_rows[part], full_rows=full_rows)

        self.team.chunks(chunk, len(query_rows), largest=ASKED_AT_ONCE)
        return outside


def choose_query_rows(
    cores: FloatArray, representative: IntArray, at_most: int, rng: np.random.Generator
) -> IntArray:
    """Choose rows of every component: half with the lowest core distances, half at random.

    Each component gets the same number, at least one, and no more than it has.
    """
    _, component, sizes = np.unique(representative, return_inverse=True, return_counts=True)
    share = max(1, at_most // len(sizes))
    dense = max(1, (share + 1) // 2)
    chosen = _first_of_each(component, sizes, cores, dense)
    rest = np.flatnonzero(~chosen)
    left = np.bincount(component[rest], minlength=len(sizes))
    chosen[rest[_first_of_each(component[rest], left, rng.random(len(rest)), share - dense)]] = True
    return np.flatnonzero(chosen)


def _first_of_each(component: IntArray, sizes: IntArray, key: FloatArray, count: int) -> BoolArray:
    """Mark the `count` elements of every component with the smallest keys."""
    order = np.lexsort((key, component))
    rank = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen = np.zeros(len(order), dtype=np.bool_)
    chosen[order[rank < count]] = True
    return chosen


def _choose_starts(representative: IntArray, edges: InterComponentEdges) -> InterComponentEdges:
    """Keep the lightest edges of every component but the largest, which all others can reach."""
    largest = np.bincount(representative).argmax()
    small = np.flatnonzero(representative[edges.inside] != largest)
    _, component, sizes = np.unique(
        representative[edges.inside[small]], return_inverse=True, return_counts=True
    )
    walks = min(MAX_WALKS, int(_WALK_SHARE * len(representative)) // max(1, len(sizes)))
    # On small data a few walks cost nothing; on many components the representatives have to do.
    walks = walks or int(len(sizes) <= MAX_QUERY_ROWS // 8)
    chosen = small[_first_of_each(component, sizes, edges.weight[small], walks)]
    return InterComponentEdges(edges.inside[chosen], edges.outside[chosen], edges.weight[chosen])


def _walk(search: Search, representative: IntArray, edges: InterComponentEdges) -> InterComponentEdges:
    """Improve every edge by turns at its inner and its outer end."""
    space, cores = search.space, search.cores
    # A component is a range of `members`, which a walk does not leave at its inner end.
    members = np.argsort(representative, kind="stable")
    for _ in range(_STEPS):
        bounds = np.searchsorted(
            representative[members], [representative[edges.inside], representative[edges.inside] + 1]
        )
        inside = np.empty_like(edges.inside)

        def chunk(
            part: slice,
            inside: IntArray = inside,
            outside: IntArray = edges.outside,
            bounds: IntArray = bounds,
        ) -> None:
            groups = members, bounds[0, part], bounds[1, part]
            inside[part] = space.kernels.nearest_members(space, cores, outside[part], groups)

        search.team.chunks(chunk, len(inside), largest=_WALKS_AT_ONCE)
        edges = search.find(inside, full_rows=True)
    return edges


@compiled
def _unite(
    representative: IntArray, inside: IntArray, outside: IntArray, order: IntArray, chosen: IntArray
) -> int:
    """Choose each component's first edge in `order` that joins it to another one (Borůvka's step).

    Updates `representative`, writes the chosen edges to the front of `chosen`, and returns their number. A
    component chooses at most one edge; edges that other components choose to it do not count.
    """
    n = len(representative)
    old = representative.copy()
    served = np.zeros(n, dtype=np.bool_)
    n_chosen = 0
    for t in order:
        row, outer = inside[t], outside[t]
        if served[old[row]] or old[outer] == old[row]:
            continue
        served[old[row]] = True
        a, b = find(representative, row), find(representative, outer)
        if a != b:
            representative[max(a, b)] = min(a, b)
            chosen[n_chosen] = t
            n_chosen += 1
    for row in range(n):
        representative[row] = find(representative, row)
    return n_chosen
