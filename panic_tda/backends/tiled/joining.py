"""Joins the components of the neighbour graph into one tree, by rounds through representatives.

Any spanning tree will do as a start, but the lighter its joints are, the fewer pairs the verify pass has to
look at. Representatives are the rows of a component with the lowest core distances, which carry the light
edges where densities differ, and random ones, which know where the component ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from panic_tda.backends.tiled import kernels
from panic_tda.backends.tiled.forest import find
from panic_tda.backends.tiled.layout import tile_starts

if TYPE_CHECKING:
    from panic_tda.backends.tiled.survivors import Space
    from panic_tda.backends.tiled.workers import Workers
    from panic_tda.types import Float32Array, FloatArray, IntArray

MAX_REPRESENTATIVES = 8_192
_TILE_ROWS = 1_024


def join_components(
    space: Space, cores: FloatArray, leader: IntArray, team: Workers, rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Find edges that make one component of those in `leader`, which is updated.

    Parameters
    ----------
    space : Space
        n rows.
    cores : (n,) float64
        Core distances.
    leader : (n,) int64
        A row that stands for each row's component.
    team : Workers
        Threads.
    rng : numpy.random.Generator
        Chooses among the rows.

    Returns
    -------
    u, v : (components - 1,) int64
        Edges.

    Notes
    -----
    A round takes products of at most max(components, 8,192) by 8,192 rows, and every component that meets
    another one among the latter is joined to it: their number at least halves.
    """
    u: list[IntArray] = []
    v: list[IntArray] = []
    while (leader != leader[0]).any():
        asking = representatives(cores, leader, MAX_REPRESENTATIVES, rng)
        answering = asking
        if len(asking) > MAX_REPRESENTATIVES:
            answering = np.sort(rng.choice(asking, MAX_REPRESENTATIVES, replace=False))
        best, weight = _best_answers(space.vectors, cores, leader, (asking, answering), team)
        edges = np.empty(len(asking), dtype=np.int64)
        found = _unite(leader, asking, best, np.argsort(weight, kind="stable"), edges)
        u.append(asking[edges[:found]])
        v.append(best[edges[:found]])
    empty = np.empty(0, dtype=np.int64)
    return np.concatenate([empty, *u]), np.concatenate([empty, *v])


def representatives(cores: FloatArray, leader: IntArray, at_most: int, rng: np.random.Generator) -> IntArray:
    """Choose rows of every component: half with the lowest core distances, half at random.

    Each component gets the same number, at least one, and no more than it has.
    """
    _, component, sizes = np.unique(leader, return_inverse=True, return_counts=True)
    share = max(1, at_most // len(sizes))
    dense = max(1, (share + 1) // 2)
    start = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    by_core = np.lexsort((cores, component))
    rank = np.empty(len(cores), dtype=np.int64)
    rank[by_core] = np.arange(len(cores)) - np.repeat(start, sizes)
    chosen = rank < dense
    # Among the others, order by a random number and take as many as are still due.
    rest = np.flatnonzero(~chosen)
    shuffled = rest[np.lexsort((rng.random(len(rest)), component[rest]))]
    left = np.maximum(sizes - dense, 0)
    place = np.arange(len(rest)) - np.repeat(np.concatenate([[0], np.cumsum(left)[:-1]]), left)
    chosen[shuffled[place < share - dense]] = True
    return np.flatnonzero(chosen)


def _best_answers(
    vectors: Float32Array,
    cores: FloatArray,
    leader: IntArray,
    sides: tuple[IntArray, IntArray],
    team: Workers,
) -> tuple[IntArray, FloatArray]:
    asking, answering = sides
    best = np.zeros(len(asking), dtype=np.int64)
    weight = np.full(len(asking), np.inf)
    targets = tile_starts(len(answering), _TILE_ROWS)

    def chunk(part: slice) -> None:
        left = vectors[asking[part]]
        for begin, end in zip(targets[:-1], targets[1:], strict=True):
            columns = answering[begin:end]
            products = left @ vectors[columns].T
            _update_best(products, asking[part], columns, cores, leader, best[part], weight[part])

    team.chunks(chunk, len(asking), largest=_TILE_ROWS)
    return best, weight


@njit(cache=True, nogil=True)
def _update_best(
    products: Float32Array,
    rows: IntArray,
    columns: IntArray,
    cores: FloatArray,
    leader: IntArray,
    best: IntArray,
    weight: FloatArray,
) -> None:
    for i in range(len(rows)):
        mine, core = leader[rows[i]], cores[rows[i]]
        for j in range(len(columns)):
            other = columns[j]
            if leader[other] == mine:
                continue
            w = max(core, cores[other], np.sqrt(max(np.float64(0), 2 - 2 * np.float64(products[i, j]))))
            if w < weight[i]:
                weight[i], best[i] = w, other


@njit(cache=True, nogil=True)
def _unite(leader: IntArray, asking: IntArray, best: IntArray, order: IntArray, edges: IntArray) -> int:
    """Borůvka's step: of the edges by ascending weight, take each component's first."""
    n = len(leader)
    old = leader.copy()
    served = np.zeros(n, dtype=np.bool_)
    found = 0
    for t in order:
        row = asking[t]
        other = best[t]
        if served[old[row]] or old[other] == old[row]:
            continue
        served[old[row]] = True
        a, b = find(leader, row), find(leader, other)
        if a != b:
            leader[max(a, b)] = min(a, b)
            edges[found] = t
            found += 1
    for row in range(n):
        leader[row] = find(leader, row)
    return found
