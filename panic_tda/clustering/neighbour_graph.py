"""Minimum spanning trees at every `min_samples` up to K, from one tree and lists of nearest rows.

Let core_k(p) be the core distance of row p at min_samples k, w_k(p, q) = max(core_k(p), core_k(q), d(p, q)),
T a minimum spanning tree at K, and N all pairs (p, q) with d(p, q) < core_K(p). For every k up to K, T and N
together contain a minimum spanning tree of the complete graph with weights w_k [1]_, [2]_.

Proof. A pair e = (p, q) that is not in N has d(e) ≥ core_K(p) and d(e) ≥ core_K(q), so that w_K(e) = d(e).
Core distances do not fall as k rises, so w_k(e) = d(e), too. T is minimal, so no edge f on its path from p to
q has w_K(f) > w_K(e), and w_k(f) ≤ w_K(f) ≤ w_K(e) = w_k(e). Hence e may be left out at any height t: what
it joins at t is joined by T's edges at t. The edges of T and N of up to t have the same components as all
pairs of up to t, and the hierarchy is made of these components (`hierarchy`), ties included.

*Lengths.* The tree has w_K(f), not d(f). If f is in N, its list has d(f), and that edge is never the longer
one. If f is not in N, both are equal, as above.

*Core distances.* A row's list has all rows that are nearer than core_K, with their distances, and copies are
counted. If they are too few for k, the k-th is as far as the K-th, at core_K.

*Copies.* Copies have the same distances and core distances. Contracting them in T leaves a tree's edges and
more, which span the originals, and the argument above holds for paths after contraction. An edge at the core
distance joins a copy to its original (`duplicates`).

All numbers are those of the fit, compared and never computed again, so that heights equal those of a fit at k
to the last bit.

References
----------
.. [1] Neto, Sander, Campello, Nascimento (2017). Efficient computation and visualization of multiple
   density-based clustering hierarchies. https://arxiv.org/abs/1709.04545
.. [2] Neto, Naldi, Campello, Sander (2022). CORE-SG: Efficient computation of multiple MSTs for density-based
   methods. ICDE 2022. https://doi.org/10.1109/ICDE53745.2022.00076
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from panic_tda.arrays.mapped import new_array
from panic_tda.arrays.rows import slices
from panic_tda.clustering.compiled import compiled
from panic_tda.clustering.trees import Edges, concatenate, minimum_forest
from panic_tda.types import FloatArray, Int32Array, IntArray, NeighbourLists, SpanningTree

_LEAST_EDGES = 1 << 16
"""Smallest number of edges of the lists that are added to the forest at once."""


def lower_min_samples(graph: SpanningTree, min_samples: int, distance_floor: float) -> SpanningTree:
    """Build the minimum spanning tree at a smaller `min_samples`, without the vectors.

    Parameters
    ----------
    graph : SpanningTree
        Over n rows, with neighbour lists.
    min_samples : int
        1 to that of the lists; the row itself and its copies count.
    distance_floor : float
        That of the fit.

    Returns
    -------
    SpanningTree
        Without neighbour lists; the edges of `graph` if `min_samples` is that of the lists.

    Notes
    -----
    The forest of the tree's edges is extended by one part of the lists after the other (Kruskal's algorithm),
    so that the memory is about 150 bytes per row, whatever the length of the lists.
    """
    lists, at_most = graph.neighbours, graph.core_distances
    if lists is None or at_most is None:
        raise ValueError("the tree has no neighbour lists or no core distances")
    if not 1 <= min_samples <= lists.min_samples:
        raise ValueError(f"min_samples must be 1 to {lists.min_samples}; got {min_samples}")
    if min_samples == lists.min_samples:
        return replace(graph, neighbours=None)
    n, originals, owners = len(at_most), lists.originals, find_owners(lists)
    cores = at_most.copy()
    weights = np.bincount(originals, minlength=n)
    _lower_cores(owners, lists.rows, lists.distances, weights, min_samples, distance_floor, cores)
    cores = cores[originals]

    def raise_to_cores(u: IntArray, v: IntArray, distances: FloatArray) -> Edges:
        return Edges(u, v, np.maximum(distances, np.maximum(cores[u], cores[v])))

    forest = minimum_forest(n, raise_to_cores(originals[graph.u], originals[graph.v], graph.height))
    width = lists.rows.shape[1]
    for part in slices(len(owners) if width else 0, max(n, _LEAST_EDGES) // max(1, width)):
        row, at = np.nonzero(lists.rows[part] >= 0)
        listed = lists.rows[part][row, at].astype(np.int64)
        near = raise_to_cores(owners[part][row], listed, lists.distances[part][row, at])
        forest = minimum_forest(n, concatenate([forest, near]))
    copies = np.flatnonzero(originals != np.arange(n))
    tree = concatenate([forest, Edges(originals[copies], copies, cores[copies])])
    return SpanningTree(*tree, core_distances=cores, tie_tolerance=graph.tie_tolerance)


def find_owners(lists: NeighbourLists) -> IntArray:
    """Return the rows that the lists belong to, (m,) int64, ascending."""
    owners: IntArray = np.flatnonzero(lists.originals == np.arange(len(lists.originals)))
    return owners


def empty_lists(n_rows: int, min_samples: int, folder: Path | None = None) -> NeighbourLists:
    """Return lists of `n_rows` originals without entries, in memory or in files of a folder."""
    shape = n_rows, max(0, min_samples - 2)
    # There is no file of 0 bytes to map.
    folder = folder if shape[1] else None
    rows, distances = new_array(shape, np.int32, folder), new_array(shape, np.float64, folder)
    rows[:], distances[:] = -1, np.inf
    return NeighbourLists(min_samples, rows, distances, np.arange(n_rows))


def list_bytes(min_samples: int) -> int:
    """Return the bytes of a row's list."""
    return 12 * max(0, min_samples - 2)


def fill_lists(lists: NeighbourLists, owners: IntArray, rows: IntArray, distances: FloatArray) -> None:
    """Enter all pairs of some owners: the nearest first, at equal distances the smaller row first.

    Parameters
    ----------
    lists : NeighbourLists
        Without entries for these owners.
    owners, rows, distances : (pairs,) int64, (pairs,) integers, (pairs,) float64
        Number of the list, row and distance of each pair; the distances are below the core distance.
    """
    order = np.lexsort((rows, distances, owners))
    owners = owners[order]
    at = np.arange(len(owners)) - np.searchsorted(owners, owners)
    lists.rows[owners, at], lists.distances[owners, at] = rows[order], distances[order]


@compiled
def _lower_cores(
    owners: IntArray,
    rows: Int32Array,
    distances: FloatArray,
    weights: IntArray,
    min_samples: int,
    floor: float,
    cores: FloatArray,
) -> None:
    """Replace core distances by those at `min_samples`."""
    for i in range(len(owners)):
        missing = min_samples - weights[owners[i]]
        if missing <= 0:
            cores[owners[i]] = floor
            continue
        for t in range(rows.shape[1]):
            if rows[i, t] < 0:
                break
            missing -= weights[rows[i, t]]
            if missing <= 0:
                cores[owners[i]] = distances[i, t]
                break
