"""Which library holds an array: NumPy in host memory, CuPy on a CUDA device."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from panic_tda.types import Array, ArrayModule


def namespace(array: Array) -> ArrayModule:
    """Return the module whose functions work on `array`: numpy or cupy.

    An array that follows the Python array API standard says it itself; CuPy 14's arrays do not.
    """
    says = getattr(array, "__array_namespace__", None)
    return says() if says else importlib.import_module(type(array).__module__.partition(".")[0])


def device_library() -> ArrayModule:
    """Return the library of arrays in device memory, CuPy."""
    import cupy

    return cupy


def on_device(array: Array) -> bool:
    """Say whether an array lies in device memory."""
    return not isinstance(array, np.ndarray)


def to_host(array: Array) -> Array:
    """Return an array as NumPy's: a copy when it lies in device memory, itself otherwise."""
    return array.get() if on_device(array) else array


def squared_lengths(rows: Array) -> Array:
    """Return the dot product of every row with itself, in the rows' own precision.

    Parameters
    ----------
    rows : (n, d) float array
        NumPy or CuPy.

    Returns
    -------
    (n,) array
        Of the same library and type.
    """
    if on_device(rows):
        # einsum would be a batch of n matrix products there, and batches of more than 65,535 are not sure
        # to be launched.
        return (rows * rows).sum(axis=1)
    return np.einsum("ij,ij->i", rows, rows)


def take_rows(xp: ArrayModule, matrix: Array, rows: Array) -> Array:
    """Return rows of a matrix, by number, as an array of `xp`; uploads them where the matrix is not one.

    Parameters
    ----------
    xp : module
        numpy or cupy.
    matrix : (n, d) array
        Of `xp`, or in host memory.
    rows : (m,) array of xp
        Row numbers.
    """
    if namespace(matrix) is xp:
        return xp.take(matrix, rows, axis=0)
    return xp.asarray(matrix[to_host(rows)])


def take_slice(xp: ArrayModule, matrix: Array, rows: slice) -> Array:
    """Return consecutive rows of a matrix as an array of `xp`; see `take_rows`."""
    return matrix[rows] if namespace(matrix) is xp else xp.asarray(matrix[rows])
