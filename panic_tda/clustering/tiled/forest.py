"""Build a forest from the neighbour lists and measure its edges."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from panic_tda.arrays.namespace import to_host
from panic_tda.clustering.compiled import compiled
from panic_tda.clustering.trees import Edges, find

if TYPE_CHECKING:
    from panic_tda.clustering.tiled.contract import Lists, Space
    from panic_tda.clustering.tiled.workers import Workers
    from panic_tda.types import Float32Array, FloatArray, Int32Array, IntArray


def measure(space: Space, cores: FloatArray, ends: tuple[IntArray, IntArray], team: Workers) -> Edges:
    """Measure the mutual reachability distance of pairs of rows in float64."""
    u, v = ends
    height = np.empty(len(u))

    def chunk(part: slice) -> None:
        height[part] = space.kernels.distances(space, u[part], v[part])

    team.chunks(chunk, len(u))
    return Edges(u, v, np.maximum(height, np.maximum(cores[u], cores[v])))


def split_into_groups(n: int, tree: Edges, size: int) -> IntArray:
    """Split a forest at every edge that joins two groups of at least `size` rows, by ascending height.

    Parameters
    ----------
    n : int
        Rows.
    tree : Edges
        A forest, by ascending height.
    size : int
        Fewest rows of a group.

    Returns
    -------
    (n,) int64
        Representative row of each row's group.
    """
    representative = np.arange(n)
    _join_small(tree.u, tree.v, size, representative)
    return representative


@compiled
def _join_small(u: IntArray, v: IntArray, size: int, representative: IntArray) -> None:
    n = len(representative)
    parent, rows = np.arange(n), np.ones(n, np.int64)
    for t in range(len(u)):
        a, b = find(parent, u[t]), find(parent, v[t])
        if min(rows[a], rows[b]) < size:
            representative[find(representative, u[t])] = find(representative, v[t])
        parent[a] = b
        rows[b] += rows[a]
    for row in range(n):
        representative[row] = find(representative, row)


def neighbour_forest(lists: Lists, cores: FloatArray) -> tuple[IntArray, IntArray]:
    """Join rows along their neighbour lists by Borůvka's rounds.

    Parameters
    ----------
    lists : Lists
        Consumed where they lie in host memory: entries that have become useless are overwritten.
    cores : (n,) float64
        Core distances.

    Returns
    -------
    u, v : (edges,) int64
        A forest of the neighbour graph, the lightest as far as float32 can tell.

    Notes
    -----
    Reads the lists where they are; sorting their n · length edges would take three times their memory.
    """
    n = len(cores)
    representative = np.arange(n)
    u, v = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    length = np.full(n, lists.rows.shape[1], dtype=np.int64)
    n_edges = _boruvka(
        to_host(lists.rows), to_host(lists.sims), length, cores.astype(np.float32), representative, u, v
    )
    return u[:n_edges].copy(), v[:n_edges].copy()


@compiled
def _boruvka(
    list_rows: Int32Array,
    list_sims: Float32Array,
    length: IntArray,
    cores: Float32Array,
    representative: IntArray,
    u: IntArray,
    v: IntArray,
) -> int:
    n = len(representative)
    lightest = np.empty(n, dtype=np.float32)
    best_u, best_v = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64)
    n_edges = 0
    while True:
        lightest[:] = np.inf
        _lightest_edges(list_rows, list_sims, length, cores, representative, lightest, best_u, best_v)
        before = n_edges
        for component in range(n):
            if lightest[component] < np.inf:
                a, b = find(representative, best_u[component]), find(representative, best_v[component])
                if a != b:
                    representative[max(a, b)] = min(a, b)
                    u[n_edges], v[n_edges] = best_u[component], best_v[component]
                    n_edges += 1
        for row in range(n):
            representative[row] = find(representative, row)
        if n_edges == before:
            return n_edges


@compiled
def _lightest_edges(
    list_rows: Int32Array,
    list_sims: Float32Array,
    length: IntArray,
    cores: Float32Array,
    representative: IntArray,
    lightest: Float32Array,
    best_u: IntArray,
    best_v: IntArray,
) -> None:
    for row in range(len(representative)):
        mine = representative[row]
        n_left = 0
        for t in range(length[row]):
            neighbour, s = list_rows[row, t], list_sims[row, t]
            if representative[neighbour] == mine:
                continue
            list_rows[row, n_left], list_sims[row, n_left] = neighbour, s
            n_left += 1
            weight = max(cores[row], cores[neighbour], np.sqrt(max(np.float32(0), 2 - 2 * s)))
            # An edge counts for both its ends: the other row's list need not hold this row.
            for component in (mine, representative[neighbour]):
                if weight < lightest[component]:
                    lightest[component] = weight
                    best_u[component], best_v[component] = row, neighbour
        length[row] = n_left
