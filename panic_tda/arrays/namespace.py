"""The library of an array: NumPy for host memory, CuPy for a CUDA device."""

from __future__ import annotations

import importlib

import numpy as np

from panic_tda.types import Array, ArrayModule


def namespace(array: Array) -> ArrayModule:
    """Return the module whose functions work on `array`: numpy or cupy.

    Arrays of the Python array API standard have a method for this; those of CuPy 14 do not.
    """
    get_namespace = getattr(array, "__array_namespace__", None)
    if get_namespace:
        return get_namespace()
    return importlib.import_module(type(array).__module__.partition(".")[0])


def device_library() -> ArrayModule:
    """Return the library of arrays in device memory, CuPy."""
    import cupy

    return cupy


def on_device(array: Array) -> bool:
    """Return whether an array is in device memory."""
    return not isinstance(array, np.ndarray)


def to_host(array: Array) -> Array:
    """Return an array as a NumPy array: a copy if it is in device memory, otherwise itself."""
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
        An array of the same library and data type.
    """
    if on_device(rows):
        # einsum would be a batch of n matrix products on the device, and batches of more than 65,535 may
        # fail to start.
        return (rows * rows).sum(axis=1)
    return np.einsum("ij,ij->i", rows, rows)


def take_rows(xp: ArrayModule, matrix: Array, rows: Array) -> Array:
    """Return rows of a matrix, by number, as an array of `xp`; upload them if the matrix is in host memory.

    Parameters
    ----------
    xp : module
        numpy or cupy.
    matrix : (n, d) array
        An array of `xp`, or an array in host memory.
    rows : (m,) array of xp
        Row numbers.
    """
    if namespace(matrix) is xp:
        return xp.take(matrix, rows, axis=0)
    return xp.asarray(matrix[to_host(rows)])


def take_slice(xp: ArrayModule, matrix: Array, rows: slice) -> Array:
    """Return consecutive rows of a matrix as an array of `xp`; see `take_rows`."""
    return matrix[rows] if namespace(matrix) is xp else xp.asarray(matrix[rows])
