"""Identical rows: reduced to one row with a weight before the fit, and added to the tree after it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from panic_tda.arrays import rows
from panic_tda.arrays.namespace import namespace, to_host
from panic_tda.types import Array, BoolArray, FloatArray, IntArray, NeighbourLists, SpanningTree


@dataclass(frozen=True)
class DistinctRows:
    """The distinct rows of a matrix.

    Attributes
    ----------
    first : (m,) int64
        First occurrence of each distinct row, ascending.
    inverse : (n,) int64
        Index of each row's distinct row.
    counts : (m,) int64
        How often each distinct row occurs.
    """

    first: IntArray
    inverse: IntArray
    counts: IntArray


def find_distinct(vectors: Array) -> DistinctRows:
    """Group identical rows.

    Parameters
    ----------
    vectors : (n, d) float32 or float64
        NumPy or CuPy rows, compared bit by bit (so -0.0 must have been turned into 0.0).

    Returns
    -------
    DistinctRows
        Distinct rows in the order of their first occurrence; in host memory.

    Notes
    -----
    Rows are sorted by a 64-bit hash, and all values of rows with the same hash are then compared. A collision
    costs time, never correctness. Hashing and comparing take place in the memory that holds the rows, sorting
    in host memory. Takes O(n·d) time and 32 bytes per row.
    """
    n = len(vectors)
    hashes = hash_rows(vectors)
    order = np.argsort(hashes, kind="stable")
    opens_group = np.ones(n, dtype=bool)
    opens_group[1:] = hashes[order[1:]] != hashes[order[:-1]]
    if not _groups_are_equal(vectors, order, opens_group):
        # Hashes collided. With three million rows this happens once in three million runs.
        order, opens_group = _sort_by_content(to_host(vectors))
    # The sort is stable, so the first row of a group is its earliest one.
    representative = np.empty(n, dtype=np.int64)
    representative[order] = order[np.flatnonzero(opens_group)][np.cumsum(opens_group) - 1]
    first, inverse, counts = np.unique(representative, return_inverse=True, return_counts=True)
    return DistinctRows(first=first, inverse=inverse.astype(np.int64), counts=counts.astype(np.int64))


def keep_distinct(vectors: Array, distinct: DistinctRows) -> Array:
    """Move the distinct rows to the front of `vectors`, in place, and return a view of them."""
    return rows.move_to_front(vectors, distinct.first)


def attach_copies(tree: SpanningTree, distinct: DistinctRows) -> SpanningTree:
    """Turn a tree over distinct rows into a tree over all rows.

    An edge joins each copy to the first occurrence of its row. Its height is the row's core distance, which
    is the mutual reachability distance of the two. Neighbour lists are changed in place.

    Raises
    ------
    ValueError
        There are copies, and the tree has no core distances.
    """
    n, m = len(distinct.inverse), len(distinct.first)
    if n == m:
        return tree
    if tree.core_distances is None:
        raise ValueError("a tree over weighted rows needs core distances")
    is_copy = np.ones(n, dtype=bool)
    is_copy[distinct.first] = False
    copies = np.flatnonzero(is_copy)
    original = distinct.inverse[copies]
    core: FloatArray = tree.core_distances[distinct.inverse]
    return SpanningTree(
        u=np.concatenate([distinct.first[tree.u], distinct.first[original]]),
        v=np.concatenate([distinct.first[tree.v], copies]),
        height=np.concatenate([tree.height, core[copies]]),
        core_distances=core,
        tie_tolerance=tree.tie_tolerance,
        neighbours=None if tree.neighbours is None else _renumber_lists(tree.neighbours, distinct),
    )


def _renumber_lists(lists: NeighbourLists, distinct: DistinctRows) -> NeighbourLists:
    for part in rows.chunks(lists.rows):
        listed = lists.rows[part]
        listed[listed >= 0] = distinct.first[listed[listed >= 0]]
    return replace(lists, originals=distinct.first[distinct.inverse])


def hash_rows(vectors: Array) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    # Multilinear hashing: random odd 64-bit coefficients, arithmetic modulo 2**64.
    xp = namespace(vectors)
    generator = np.random.default_rng(0)
    n_words = vectors.shape[1] * vectors.dtype.itemsize // 4
    coefficients = generator.integers(0, 1 << 64, n_words, dtype=np.uint64) | np.uint64(1)
    coefficients = xp.asarray(coefficients)
    hashes = np.empty(len(vectors), dtype=np.uint64)
    for chunk in rows.chunks(vectors):
        words = vectors[chunk].view(xp.uint32).astype(xp.uint64)
        words += np.uint64(1)
        words *= coefficients
        # Only the high bits of a product depend on all bits of its factors; the low bits of floats are often
        # 0.
        words >>= np.uint64(7)
        hashes[chunk] = to_host(words.sum(axis=1))
    return hashes


def _groups_are_equal(vectors: Array, order: IntArray, opens_group: BoolArray) -> bool:
    follows = np.flatnonzero(~opens_group)
    for chunk in rows.chunks(vectors, len(follows)):
        pair = (_take_bits(vectors, order[at]) for at in (follows[chunk], follows[chunk] - 1))
        if not namespace(vectors).array_equal(*pair):
            return False
    return True


def _take_bits(vectors: Array, indices: IntArray) -> Array:
    # As integers: a device compares the smallest (subnormal) floats as if they were zero.
    xp = namespace(vectors)
    return xp.take(vectors, xp.asarray(indices), axis=0).view(xp.uint32)


def _sort_by_content(vectors: Array) -> tuple[IntArray, BoolArray]:
    row_bytes = np.dtype((np.void, vectors.dtype.itemsize * vectors.shape[1]))
    content = np.ascontiguousarray(vectors).view(row_bytes).reshape(-1)
    order = np.argsort(content, kind="stable")
    opens_group = np.ones(len(order), dtype=bool)
    opens_group[1:] = content[order[1:]] != content[order[:-1]]
    return order, opens_group
