"""What is done to a whole matrix of rows, chunk by chunk and in place, in whichever memory it lies.

Every function gives the same answer, bit by bit, for rows in host memory and on a CUDA device: elements are
worked on one by one, and sums are either of integers or taken in an order that is written down here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from panic_tda.arrays.namespace import namespace, on_device, squared_lengths, to_host
from panic_tda.errors import BadVectors

if TYPE_CHECKING:
    from panic_tda.types import Array, ArrayModule, BoolArray, IntArray

HOST_CHUNK_BYTES = 1 << 20
"""Work on this much at a time, counted in 64-bit values: what is made of a chunk stays in the cache, and
below the size at which the BLAS takes threads: by 16 MiB, medoids of 200,000 × 768 rows take 1 s, not 0.2."""
DEVICE_CHUNK_BYTES = 1 << 26
"""The same on a device, where each of the dozen calls for a chunk costs some microseconds to launch."""
PERMUTE_BYTES = 256 << 20
"""Permuting some columns at a time needs this much beside the matrix, and no second matrix."""
_REPORTED_ROWS = 5
_MAGNITUDE, _SMALLEST_NORMAL, _INFINITY = 0x7FFFFFFF, 0x00800000, 0x7F800000
"""Bits of a float32: all but the sign, and those of two magnitudes."""


def slices(n: int, at_once: int) -> Iterator[slice]:
    """Cut `n` elements into slices of `at_once`, or of one if that is less; the last may be shorter."""
    step = max(1, at_once)
    return (slice(begin, min(begin + step, n)) for begin in range(0, n, step))


def chunks(vectors: Array, n_rows: int | None = None) -> Iterator[slice]:
    """Cut the rows of a matrix, or `n_rows` as long as those, into slices of a size for where it lies."""
    chunk_bytes = DEVICE_CHUNK_BYTES if on_device(vectors) else HOST_CHUNK_BYTES
    return slices(len(vectors) if n_rows is None else n_rows, chunk_bytes // (8 * max(1, vectors.shape[1])))


def has_direction(vectors: Array) -> BoolArray:
    """Say which rows have a direction.

    Parameters
    ----------
    vectors : (n, d) float32
        NumPy or CuPy.

    Returns
    -------
    (n,) bool
        In host memory: whether all values of the row are finite and not all of them zero.
    """
    found = np.empty(len(vectors), dtype=bool)
    for rows in chunks(vectors):
        found[rows] = to_host(_usable(vectors[rows]))
    return found


def normalise(vectors: Array) -> None:
    """Scale rows to unit length, in place.

    Parameters
    ----------
    vectors : (n, d) float32
        NumPy or CuPy. Norms and quotients are taken in float64 and rounded to float32; -0.0 becomes 0.0.

    Raises
    ------
    BadVectors
        Rows that are zero, NaN or infinite: they have no direction.

    Notes
    -----
    Squares of float32 values are exact in float64, their sum is folded in one order everywhere, and square
    root and quotient are rounded as IEEE 754 says: so the rows are the same, bit by bit, on every machine and
    device. CuPy compiles its kernels to flush float32 values below 1.2e-38 to zero (`-ftz=true`); rows that
    have such values, before or after, are done in host memory.
    """
    xp = namespace(vectors)
    work: Array = None
    for rows in chunks(vectors):
        chunk = vectors[rows]
        if work is None:
            # Fresh memory for every chunk would cost as much in page faults as the arithmetic.
            work = xp.empty((2, *chunk.shape), dtype=xp.float64)
        units, norms = _units(xp, chunk, work[:, : len(chunk)])
        by_host = _by_host(xp, chunk, units) if on_device(chunk) else None
        if by_host is not None:
            norms[by_host.rows] = by_host.norms
        _require_direction(norms, rows.start)
        vectors[rows] = units
        chunk += 0.0
        if by_host is not None:
            chunk[by_host.rows] = by_host.units


def move_to_front(vectors: Array, kept: IntArray) -> Array:
    """Move some rows to the front, in place, and return the view of them.

    Parameters
    ----------
    vectors : (n, d) float32
        NumPy or CuPy.
    kept : (m,) int64
        Rows, ascending; in host memory.
    """
    xp = namespace(vectors)
    for front in chunks(vectors, len(kept) if len(kept) < len(vectors) else 0):
        # No row is overwritten before it was read, because kept[i] >= i.
        vectors[front] = xp.take(vectors, xp.asarray(kept[front]), axis=0)
    return vectors[: len(kept)]


def permute_rows(vectors: Array, order: IntArray) -> None:
    """Put row `order[i]` into place i for all rows, in place, by blocks of columns.

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


def _usable(chunk: Array) -> Array:
    xp = namespace(chunk)
    squares = squared_lengths(chunk)
    found = xp.isfinite(squares) & (squares > 0)
    suspects = xp.flatnonzero(~found)
    if len(suspects):
        # A finite row may overflow or vanish when it is squared in single precision. Its bits tell.
        largest = (chunk[suspects].view(xp.uint32) & _MAGNITUDE).max(axis=1)
        found[suspects] = (largest > 0) & (largest < _INFINITY)
    return found


def _units(xp: ArrayModule, chunk: Array, work: Array) -> tuple[Array, Array]:
    """Divide rows by their norms, in float64; `work` is room for twice the chunk."""
    units, squares = work[0], work[1]
    with np.errstate(invalid="ignore", divide="ignore"):  # such rows are reported by the caller
        units[...] = chunk
        xp.multiply(units, units, out=squares)
        norms = xp.sqrt(_folded_sum(squares))
        units /= norms[:, None]
    return units, norms


def _folded_sum(terms: Array) -> Array:
    """Sum along rows by adding the last half of the columns to the first one, until one column is left."""
    width = terms.shape[1]
    while width > 1:
        half = width // 2
        first = terms[:, :half]
        first += terms[:, width - half : width]
        width -= half
    return terms[:, 0]


class _ByHost(NamedTuple):
    """Rows of a chunk on a device that were normalised in host memory; all parts lie on the device."""

    rows: Array
    units: Array
    norms: Array


def _by_host(xp: ArrayModule, chunk: Array, units: Array) -> _ByHost | None:
    """Normalise in host memory what a device's kernels would not: values that are zero to them."""
    before = chunk.view(xp.uint32) & _MAGNITUDE
    after = xp.absolute(units)
    smallest = float(np.finfo(np.float32).smallest_normal)
    lost = ((before > 0) & (before < _SMALLEST_NORMAL)) | ((after > 0) & (after < smallest))
    there = xp.flatnonzero(lost.any(axis=1))
    if not len(there):
        return None
    here = to_host(chunk[there])
    exact, norms = _units(np, here, np.empty((2, *here.shape)))
    return _ByHost(there, xp.asarray(exact.astype(np.float32) + np.float32(0)), xp.asarray(norms))


def _require_direction(norms: Array, begin: int) -> None:
    norms = to_host(norms)
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if len(bad):
        first = ", ".join(str(begin + row) for row in bad[:_REPORTED_ROWS])
        raise BadVectors(f"rows must be finite and not zero; the first that are not: {first}")
