"""The single linkage tree of a minimum spanning tree, and its condensed tree of large enough clusters.

Merges at one height are one multiway merge. The result therefore depends on the distances alone, not on
the choice among several minimum spanning trees, nor on the order of the edges. The single linkage tree
depends only on the spanning tree, and the condensed tree only on that and on `min_cluster_size`. Both can be
reused when one tree is cut many times.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from panic_tda.clustering.compiled import compiled
from panic_tda.clustering.trees import find
from panic_tda.errors import PanicTdaError
from panic_tda.types import FloatArray, IntArray, SpanningTree

ROOT = 0
"""Number of the condensed tree's root, which contains all rows."""

TIE_SPAN = 10
"""Largest height difference within one multiway merge, in tie tolerances.

A tie is one distance computed twice. With many rows, different distances are as close: among 3 million
heights within 8 % of each other, most differ from the next by less than 1e-6. Without a limit, a tree with
that tolerance lost 1 % of its range to one multiway merge of 115,000 merges.
"""


# Named tuples, not dataclasses: compiled functions accept them.
class SingleLinkageTree(NamedTuple):
    """Single linkage tree. Nodes 0 to n - 1 are rows, n to 2n - 2 are merges in ascending height.

    Attributes
    ----------
    parent : (2n - 1,) int64
        Merge that contains the node; always a larger number. The last node has no parent (-1).
    size : (2n - 1,) int64
        Rows below the node.
    height : (n - 1,) float64
        Height of merge n + i at i, ascending.
    """

    parent: IntArray
    size: IntArray
    height: FloatArray


class CondensedTree(NamedTuple):
    """Condensed tree: the clusters, and the height at which every row leaves them; parents come first.

    Attributes
    ----------
    parent : (m,) int64
        Cluster from which each cluster split off; the root is its own parent.
    birth : (m,) float64
        Height of that split; infinite for the root.
    size : (m,) int64
        Number of rows at birth.
    row_cluster : (n,) int64
        Deepest cluster that contains each row.
    row_height : (n,) float64
        Height at which the row leaves that cluster.
    """

    parent: IntArray
    birth: FloatArray
    size: IntArray
    row_cluster: IntArray
    row_height: FloatArray


def build_single_linkage(tree: SpanningTree, distance_floor: float) -> SingleLinkageTree:
    """Merge rows along the edges of a spanning tree, the shortest first.

    Parameters
    ----------
    tree : SpanningTree
        n - 1 edges over all n rows, copies of rows included.
    distance_floor : float
        Smaller heights count as this one; positive.

    Raises
    ------
    PanicTdaError
        The edges do not form a spanning tree, or have heights that are not finite.
    """
    heights = np.maximum(np.asarray(tree.height, dtype=np.float64), distance_floor)
    u, v = (np.asarray(ends, dtype=np.int64) for ends in (tree.u, tree.v))
    n = len(heights) + 1
    # Compiled loops do not check bounds: a wrong row number would read or write foreign memory.
    broken = (np.minimum(u, v) < 0) | (np.maximum(u, v) >= n) | ~np.isfinite(heights)
    if broken.any():
        edge = int(np.argmax(broken))
        raise _build_tree_error(tree, edge, f"lies outside the {n} rows or has no finite height")
    order = np.argsort(heights, kind="stable")
    parent, size, n_merged = _merge_rows(u[order], v[order])
    if n_merged < len(order):
        raise _build_tree_error(tree, int(order[n_merged]), "closes a cycle")
    return SingleLinkageTree(parent, size, heights[order])


def _build_tree_error(tree: SpanningTree, edge: int, fault: str) -> PanicTdaError:
    return PanicTdaError(
        f"the backend did not return a spanning tree: edge {edge}, ({tree.u[edge]}, {tree.v[edge]}) "
        f"at height {tree.height[edge]:g}, {fault}; this is a fault of the backend, use another one"
    )


@compiled
def _merge_rows(u: IntArray, v: IntArray) -> tuple[IntArray, IntArray, int]:
    """Join rows along edges of ascending height and count the merges; stop at an edge that closes a cycle."""
    n = len(u) + 1
    parent = np.full(2 * n - 1, -1, dtype=np.int64)
    size = np.ones(2 * n - 1, dtype=np.int64)
    # Disjoint sets over the nodes. They are not `parent`, because `find` shortens their paths.
    representative = np.arange(2 * n - 1)
    for edge in range(n - 1):
        merge = n + edge
        left, right = find(representative, u[edge]), find(representative, v[edge])
        if left == right:
            return parent, size, edge
        parent[left] = parent[right] = representative[left] = representative[right] = merge
        size[merge] = size[left] + size[right]
    return parent, size, n - 1


def condense_tree(linkage: SingleLinkageTree, min_cluster_size: int, tie_tolerance: float) -> CondensedTree:
    """Find the clusters of at least `min_cluster_size` rows, and the height at which every row leaves them.

    Both loops go through the nodes in descending order. A parent has a larger number than its children, so
    its uppermost merge and its cluster are known before theirs are computed. Six rows, `min_cluster_size` 2::

        4          10       cluster 0 splits
               ┌───┴───┐
        2      │       9    cluster 1 continues with merge 8, and row 5 leaves it
               │     ┌─┴─┐
        1     6,7    8   │  merge 6 is a part of 7, cluster 2; rows 0 to 4 leave
             ┌─┼─┐  ┌┴┐  │
        0    0 1 2  3 4  5

    >>> u, v, height = np.array([[0, 1, 3, 4, 2], [1, 2, 4, 5, 3], [1, 1, 1, 2, 4]])
    >>> linkage = build_single_linkage(SpanningTree(u, v, height), distance_floor=0.1)
    >>> linkage.parent.tolist()
    [6, 6, 7, 8, 8, 9, 7, 10, 9, 10, -1]
    >>> top, n_large = _contract(linkage, 2, 1e-9)
    >>> top[6:].tolist(), n_large[6:].tolist()
    ([7, 7, 8, 9, 10], [0, 0, 0, 1, 2])
    >>> clusters = condense_tree(linkage, 2, 1e-9)
    >>> clusters.birth.tolist(), clusters.row_cluster.tolist(), clusters.row_height.tolist()
    ([inf, 4.0, 4.0], [2, 2, 2, 1, 1, 1], [1.0, 1.0, 1.0, 1.0, 1.0, 2.0])
    """
    top, n_large = _contract(linkage, min_cluster_size, tie_tolerance)
    n_clusters = 1 + int(n_large[n_large >= 2].sum())
    return _follow_clusters(linkage, min_cluster_size, top, n_large, n_clusters)


@compiled
def _contract(
    linkage: SingleLinkageTree, min_cluster_size: int, tolerance: float
) -> tuple[IntArray, IntArray]:
    """Combine merges that follow each other at one height into one multiway merge.

    Returns
    -------
    top : (2n - 1,) int64
        Uppermost merge of the node's multiway merge, whose height is that of all its merges; rows are their
        own top.
    n_large : (2n - 1,) int64
        For every `top`, the number of its children with at least `min_cluster_size` rows.
    """
    parent, size, height = linkage.parent, linkage.size, linkage.height
    n_nodes, n = len(parent), len(height) + 1
    top = np.arange(n_nodes)
    n_large = np.zeros(n_nodes, dtype=np.int64)
    for node in range(n_nodes - 2, -1, -1):
        above = parent[node]
        uppermost = height[top[above] - n]
        if (
            node >= n
            and height[above - n] - height[node - n] <= tolerance * height[above - n]
            and uppermost - height[node - n] <= TIE_SPAN * tolerance * uppermost
        ):
            top[node] = top[above]
        elif size[node] >= min_cluster_size:
            n_large[top[above]] += 1
    return top, n_large


@compiled
def _follow_clusters(
    linkage: SingleLinkageTree, min_cluster_size: int, top: IntArray, n_large: IntArray, n_clusters: int
) -> CondensedTree:
    """Follow the clusters down from the root: large children split a cluster, small children leave it."""
    height = linkage.height
    n_nodes, n = len(linkage.parent), len(height) + 1
    parent = np.zeros(n_clusters, dtype=np.int64)
    birth = np.full(n_clusters, np.inf)
    size = np.full(n_clusters, n)
    cluster = np.zeros(n_nodes, dtype=np.int64)
    left_at = np.zeros(n_nodes)  # 0: still inside its cluster
    n_numbered = 1
    for node in range(n_nodes - 2, -1, -1):
        if top[node] != node:
            continue
        above = top[linkage.parent[node]]
        cluster[node] = cluster[above]
        if left_at[above] > 0.0:
            left_at[node] = left_at[above]
        elif linkage.size[node] < min_cluster_size:
            left_at[node] = height[above - n]
        elif n_large[above] >= 2:
            parent[n_numbered], birth[n_numbered] = cluster[above], height[above - n]
            size[n_numbered] = linkage.size[node]
            cluster[node] = n_numbered
            n_numbered += 1
    return CondensedTree(parent, birth, size, cluster[:n].copy(), left_at[:n].copy())
