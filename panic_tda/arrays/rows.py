"""Operations on all rows of a matrix, chunk by chunk and in place, in host or device memory.

Every function returns the same bits for rows in host memory and on a CUDA device: operations are elementwise,
and sums are sums of integers or are computed in a fixed order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from panic_tda.arrays.namespace import namespace, on_device, squared_lengths, to_host
from panic_tda.errors import BadVectors
from panic_tda.types import Array, ArrayModule, BoolArray, IntArray

HOST_CHUNK_BYTES = 1 << 20
"""Bytes of a chunk, counted as 64-bit values.

Temporary arrays of a chunk stay in the processor's cache, and are below the size at which BLAS starts
threads. With chunks of 16 MiB, medoids of 200,000 × 768 rows take 1 s instead of 0.2 s.
"""
DEVICE_CHUNK_BYTES = 1 << 26
"""The same on a device, where each of the dozen calls for a chunk takes some microseconds to start."""
PERMUTE_BYTES = 256 << 20
"""Memory for reordering rows, block of columns by block of columns, instead of a second matrix."""
_REPORTED_ROWS = 5
_MAGNITUDE, _SMALLEST_NORMAL, _INFINITY = 0x7FFFFFFF, 0x00800000, 0x7F800000
"""Bits of a float32: the mask of all but the sign, the smallest normal number, and infinity."""


def slices(n: int, at_once: int) -> Iterator[slice]:
    """Cut `n` elements into slices of `at_once` (at least 1); the last may be shorter."""
    step = max(1, at_once)
    return (slice(begin, min(begin + step, n)) for begin in range(0, n, step))


def chunks(vectors: Array, n_rows: int | None = None) -> Iterator[slice]:
    """Cut the rows of a matrix, or `n_rows` rows of the same length, into slices suited to its memory."""
    chunk_bytes = DEVICE_CHUNK_BYTES if on_device(vectors) else HOST_CHUNK_BYTES
    return slices(len(vectors) if n_rows is None else n_rows, chunk_bytes // (8 * max(1, vectors.shape[1])))


def has_direction(vectors: Array) -> BoolArray:
    """Return which rows have a direction.

    Parameters
    ----------
    vectors : (n, d) float32
        NumPy or CuPy.

    Returns
    -------
    (n,) bool
        In host memory: whether all values of the row are finite and not all of them zero.
    """
    usable = np.empty(len(vectors), dtype=bool)
    for rows in chunks(vectors):
        usable[rows] = to_host(_mark_usable(vectors[rows]))
    return usable


def normalise(vectors: Array) -> None:
    """Scale rows to unit length, in place.

    Parameters
    ----------
    vectors : (n, d) float32
        NumPy or CuPy. Norms and quotients are computed in float64 and rounded to float32; -0.0 becomes 0.0.

    Raises
    ------
    BadVectors
        Rows are zero, NaN or infinite, so that they have no direction.

    Notes
    -----
    Squares of float32 values are exact in float64, their sum is computed in a fixed order, and square root
    and quotient are rounded by IEEE 754. The result is therefore the same, bit by bit, on every machine and
    device. CuPy compiles its kernels to flush float32 values below 1.2e-38 to zero (`-ftz=true`); rows that
    have such values, before or after, are normalised in host memory.
    """
    xp = namespace(vectors)
    work: Array = None
    for rows in chunks(vectors):
        chunk = vectors[rows]
        if work is None:
            # New memory for every chunk would take as much time for page faults as for the arithmetic.
            work = xp.empty((2, *chunk.shape), dtype=xp.float64)
        units, norms = divide_by_norms(xp, chunk, work[:, : len(chunk)])
        by_host = _normalise_by_host(xp, chunk, units) if on_device(chunk) else None
        if by_host is not None:
            norms[by_host.rows] = by_host.norms
        _require_direction(norms, rows.start)
        vectors[rows] = units
        chunk += 0.0
        if by_host is not None:
            chunk[by_host.rows] = by_host.units


def move_to_front(vectors: Array, rows: IntArray) -> Array:
    """Move rows to the front of a matrix, in place, and return a view of them.

    Parameters
    ----------
    vectors : (n, d) float32
        NumPy or CuPy.
    rows : (m,) int64
        Row numbers, ascending; in host memory.
    """
    xp = namespace(vectors)
    for front in chunks(vectors, len(rows) if len(rows) < len(vectors) else 0):
        # No row is overwritten before it is read, because rows[i] >= i.
        vectors[front] = xp.take(vectors, xp.asarray(rows[front]), axis=0)
    return vectors[: len(rows)]


def permute_rows(vectors: Array, order: IntArray) -> None:
    """Move row `order[i]` to position i for all rows, in place, by blocks of columns.

    Parameters
    ----------
    vectors : (n, d) float32
        NumPy or CuPy.
    order : (n,) int64
        A permutation, in host memory.
    """
    there = namespace(vectors).asarray(order)
    at_once = PERMUTE_BYTES // (vectors.dtype.itemsize * max(1, len(order)))
    for block in slices(vectors.shape[1], at_once):
        vectors[:, block] = vectors[there, block]


def _mark_usable(chunk: Array) -> Array:
    xp = namespace(chunk)
    squares = squared_lengths(chunk)
    usable = xp.isfinite(squares) & (squares > 0)
    suspects = xp.flatnonzero(~usable)
    if len(suspects) and chunk.shape[1]:
        # Squares in single precision may overflow or become zero, so that the bits of the values are checked.
        largest = (chunk[suspects].view(xp.uint32) & _MAGNITUDE).max(axis=1)
        usable[suspects] = (largest > 0) & (largest < _INFINITY)
    return usable


def divide_by_norms(xp: ArrayModule, chunk: Array, work: Array) -> tuple[Array, Array]:
    """Divide rows by their norms, in float64; `work` has twice the size of the chunk."""
    units, squares = work[0], work[1]
    with np.errstate(invalid="ignore", divide="ignore"):  # such rows are reported by the caller
        units[...] = chunk
        xp.multiply(units, units, out=squares)
        norms = xp.sqrt(_sum_by_halves(squares))
        units /= norms[:, None]
    return units, norms


def _sum_by_halves(terms: Array) -> Array:
    """Sum along rows by adding the last half of the columns to the first half, until one column is left."""
    width = terms.shape[1]
    while width > 1:
        half = width // 2
        first = terms[:, :half]
        first += terms[:, width - half : width]
        width -= half
    return terms[:, 0]


class _HostRows(NamedTuple):
    """Rows of a chunk on a device that were normalised in host memory; all arrays are on the device."""

    rows: Array
    units: Array
    norms: Array


def _normalise_by_host(xp: ArrayModule, chunk: Array, units: Array) -> _HostRows | None:
    """Normalise in host memory the rows with values that the device's kernels flush to zero."""
    before = chunk.view(xp.uint32) & _MAGNITUDE
    after = xp.absolute(units)
    smallest = float(np.finfo(np.float32).smallest_normal)
    is_flushed = ((before > 0) & (before < _SMALLEST_NORMAL)) | ((after > 0) & (after < smallest))
    rows = xp.flatnonzero(is_flushed.any(axis=1))
    if not len(rows):
        return None
    vectors = to_host(chunk[rows])
    exact, norms = divide_by_norms(np, vectors, np.empty((2, *vectors.shape)))
    return _HostRows(rows, xp.asarray(exact.astype(np.float32) + np.float32(0)), xp.asarray(norms))


def _require_direction(norms: Array, begin: int) -> None:
    norms = to_host(norms)
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if len(bad):
        first = ", ".join(str(begin + row) for row in bad[:_REPORTED_ROWS])
        raise BadVectors(f"rows must be finite and not zero; the first that are not: {first}")
