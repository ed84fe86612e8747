"""Identical rows: found once, kept as one row with a multiplicity, and put back into the tree at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from panic_tda.types import SpanningTree

if TYPE_CHECKING:
    from panic_tda.types import BoolArray, Float32Array, FloatArray, IntArray

_CHUNK_BYTES = 1 << 20
"""Work on this much of a matrix at a time: its 64-bit words and their products stay in the cache."""


@dataclass(frozen=True)
class DistinctRows:
    """The distinct rows of a matrix.

    Attributes
    ----------
    first : (m,) int64
        Earliest row of each distinct one, ascending.
    inverse : (n,) int64
        Which distinct row each row is.
    counts : (m,) int64
        How often each distinct row occurs.
    """

    first: IntArray
    inverse: IntArray
    counts: IntArray


def find_distinct(vectors: Float32Array) -> DistinctRows:
    """Group identical rows.

    Parameters
    ----------
    vectors : (n, d) float32
        Rows, compared bit by bit (so -0.0 must have been turned into 0.0).

    Returns
    -------
    DistinctRows
        Distinct rows in the order of their first occurrence.

    Notes
    -----
    Rows are sorted by a 64-bit hash, and rows of one hash are then compared in full, so that a collision
    costs time and never correctness. Takes O(n·d) time and 32 bytes a row.
    """
    n = len(vectors)
    hashes = _hash_rows(vectors)
    order = np.argsort(hashes, kind="stable")
    opens_group = np.ones(n, dtype=bool)
    opens_group[1:] = hashes[order[1:]] != hashes[order[:-1]]
    if not _groups_are_equal(vectors, order, opens_group):
        order, opens_group = _sort_by_content(vectors)
    # The sort is stable, so the first of a group is its earliest row.
    representative = np.empty(n, dtype=np.int64)
    representative[order] = order[np.flatnonzero(opens_group)][np.cumsum(opens_group) - 1]
    first, inverse, counts = np.unique(representative, return_inverse=True, return_counts=True)
    return DistinctRows(first=first, inverse=inverse.astype(np.int64), counts=counts.astype(np.int64))


def keep_distinct(vectors: Float32Array, distinct: DistinctRows) -> Float32Array:
    """Move the distinct rows to the front of `vectors`, in place, and return the view of them."""
    m = len(distinct.first)
    if m < len(vectors):
        step = _chunk_rows(vectors)
        for begin in range(0, m, step):
            # No row is overwritten before it was read, because first[i] >= i.
            some = distinct.first[begin : begin + step]
            vectors[begin : begin + len(some)] = vectors[some]
    return vectors[:m]


def attach_copies(tree: SpanningTree, distinct: DistinctRows) -> SpanningTree:
    """Turn a tree over distinct rows into one over all rows.

    The copies of a row hang on its first occurrence, at the height of its core distance: within that radius
    everything is one point to mutual reachability.

    Raises
    ------
    ValueError
        The tree comes without core distances, and there are copies.
    """
    n, m = len(distinct.inverse), len(distinct.first)
    if n == m:
        return tree
    if tree.core_distances is None:
        raise ValueError("a tree over weighted rows must come with core distances")
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
    )


def _hash_rows(vectors: Float32Array) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    # Multilinear hashing: random odd 64-bit coefficients, arithmetic modulo 2**64.
    generator = np.random.default_rng(0)
    coefficients = generator.integers(0, 1 << 64, vectors.shape[1], dtype=np.uint64) | np.uint64(1)
    hashes = np.empty(len(vectors), dtype=np.uint64)
    step = _chunk_rows(vectors)
    for begin in range(0, len(vectors), step):
        words = vectors[begin : begin + step].view(np.uint32).astype(np.uint64)
        words += np.uint64(1)
        words *= coefficients
        # The high half of every product is what mixes; the low bits of floats are often zero.
        words >>= np.uint64(7)
        hashes[begin : begin + step] = words.sum(axis=1)
    return hashes


def _chunk_rows(vectors: Float32Array) -> int:
    row_bytes = vectors.dtype.itemsize * max(1, vectors.shape[1])
    return max(1, int(_CHUNK_BYTES // row_bytes))


def _groups_are_equal(vectors: Float32Array, order: IntArray, opens_group: BoolArray) -> bool:
    follows = np.flatnonzero(~opens_group)
    step = _chunk_rows(vectors)
    for begin in range(0, len(follows), step):
        some = follows[begin : begin + step]
        if not np.array_equal(vectors[order[some]], vectors[order[some - 1]]):
            return False
    return True


def _sort_by_content(vectors: Float32Array) -> tuple[IntArray, BoolArray]:
    rows = np.ascontiguousarray(vectors).view(np.dtype((np.void, vectors.dtype.itemsize * vectors.shape[1])))
    content = rows.reshape(-1)
    order = np.argsort(content, kind="stable")
    opens_group = np.ones(len(order), dtype=bool)
    opens_group[1:] = content[order[1:]] != content[order[:-1]]
    return order, opens_group
