"""Build the space of a fit: its rows, the error margins of their products, and their projected coordinates.

All passes of the engine work on this one object, `contract.Space`. Two of its numbers carry the proof that no
pair of rows is missed (steps 2 and 3 of `proof`):

margin   η, the largest possible difference between the float32 dot product of two rows at distance d and
         1 - d²/2. It follows from the number of dimensions and from how much the rows' squared lengths
         differ from 1 (`margins.product_margin`).
slack    the most by which the computed product of two rows' projected coordinates (`axes`) can be below the
         computed product of the rows: η and the rounding of the projection (`margins.bound_margin`).

Both hold for products in full float32 precision. GPUs and some libraries can multiply with fewer bits, so
`build_space` checks the precision and refuses such a library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from panic_tda.arrays.namespace import squared_lengths, take_slice
from panic_tda.arrays.rows import slices
from panic_tda.clustering.tiled import axes, device, host, margins
from panic_tda.clustering.tiled.contract import Kernels, Space
from panic_tda.errors import PanicTdaError

if TYPE_CHECKING:
    from panic_tda.clustering.tiled.workers import Workers
    from panic_tda.types import Array, ArrayModule, Float32Array, FloatArray

_SAMPLE_ROWS = 512
"""Rows whose products are compared with float64."""
_LIFTED_AT_ONCE = 8_192
_ALL_BITS = 1 - 2.0**-24
"""A number that needs all 24 bits of a float32's mantissa; TF32, bfloat16 and float16 round it."""


def select_kernels(xp: ArrayModule) -> Kernels:
    """Return the inner loops for the arrays of a library: `host` for numpy, `device` for cupy."""
    module: Kernels = host if xp is np else device
    return module


def build_space(
    xp: ArrayModule,
    vectors: Array,
    n_axes: int | None,
    rng: np.random.Generator,
    team: Workers | None = None,
) -> Space:
    """Measure the margins of the rows, and project them on principal axes if that saves time.

    Parameters
    ----------
    xp : module
        The library that computes, numpy or cupy.
    vectors : (n, d) float32
        Unit rows, an array of `xp` or in host memory.
    n_axes : int or None
        Number of principal axes. 0 projects nothing. None chooses by a sample of the rows, which must be in
        host memory.
    rng : numpy.random.Generator
        Draws the samples from which the axes and their number are found.
    team : Workers, optional
        Threads that share the work.

    Returns
    -------
    Space
        Without projected coordinates where `axes.bound_saves_time` says no.

    Raises
    ------
    PanicTdaError
        The library multiplies with less than float32 precision.
    """
    d = vectors.shape[1]
    norm_error = margins.norm_error(xp, vectors, team)
    margin = margins.product_margin(d, norm_error)
    require_float32_precision(xp, vectors, margin)
    if not axes.bound_saves_time(axes.DEFAULT_N_AXES if n_axes is None else n_axes, d):
        return Space(vectors, vectors, False, margin, 0.0, xp, select_kernels(xp))
    principal_axes = axes.find_principal_axes(xp, vectors, rng)
    if n_axes is None:
        n_axes = axes.choose_n_axes(vectors, principal_axes, rng)
    coordinates = axes.project_rows(xp, vectors, np.ascontiguousarray(principal_axes[:, :n_axes]), team)
    slack = margin + margins.bound_margin(n_axes, norm_error)
    return Space(vectors, coordinates, True, margin, slack, xp, select_kernels(xp))


def build_lifted_space(vectors: FloatArray) -> Space:
    """Lift rows of any length up to 1, so that their products tell distances.

    Parameters
    ----------
    vectors : (n, d) float64
        Rows in host memory, with norms of at most 1; distances are measured from them.
    """
    left, right, points = lift_rows(vectors)
    margin = margins.lifted_margin(vectors.shape[1])
    require_float32_precision(np, left, margin)
    return Space(vectors, points, False, margin, 0.0, np, select_kernels(np), (left, right))


def lift_rows(vectors: FloatArray) -> tuple[Float32Array, Float32Array, Float32Array]:
    """Return the left and the right form of every row, and points on a sphere.

    Parameters
    ----------
    vectors : (n, d) float64
        Rows x with norms of at most 1.

    Returns
    -------
    left, right : (n, d + 2) float32
        (x, g, 1) and (x, 1, g) with g = (1 - ‖x‖²)/2. The product of x's left and y's right form is
        x·y + g_x + g_y = 1 - ‖x - y‖²/2, as for unit rows. The squared norm of both forms is
        1 + (1 + ‖x‖²)²/4, at most 2.
    points : (n, d + 1) float32
        (x, √(1 - ‖x‖²)), of unit length. Near rows have near points; their products only choose tiles and
        where to search for inter-component edges.
    """
    n, d = vectors.shape
    left, right = np.empty((2, n, d + 2), dtype=np.float32)
    points = np.empty((n, d + 1), dtype=np.float32)
    for rows in slices(n, _LIFTED_AT_ONCE):
        chunk = vectors[rows]
        rest = np.maximum(1 - squared_lengths(chunk), 0.0)
        left[rows, :d] = right[rows, :d] = points[rows, :d] = chunk
        left[rows, d] = right[rows, d + 1] = rest / 2
        left[rows, d + 1] = right[rows, d] = 1
        points[rows, d] = np.sqrt(rest)
    return left, right, points


def require_float32_precision(xp: ArrayModule, vectors: Array, margin: float) -> None:
    """Raise an error if the library multiplies float32 matrices with less than float32 precision.

    Products of the rows cannot reveal TF32: its errors are below the proven margin, and a smaller limit would
    refuse correct float32. So a matrix of zeros and of numbers that need all bits of a float32 is multiplied
    by ones. Correct products are then exact, in any order of summation. Products of a sample of the rows are
    compared with float64 as well, to find other faults.
    """
    sample = take_slice(xp, vectors, slice(0, _SAMPLE_ROWS))
    ones = xp.zeros_like(sample) + xp.float32(1)
    one_per_row, row_numbers = xp.zeros_like(sample), xp.arange(len(sample))
    one_per_row[row_numbers, row_numbers % sample.shape[1]] = _ALL_BITS
    for product in (one_per_row @ ones.copy().T, ones @ one_per_row.copy().T):
        if bool((product != xp.float32(_ALL_BITS)).any()):
            raise PanicTdaError(
                "matrices are multiplied with less than float32 precision, such as TF32 or bfloat16; exact "
                "clustering needs float32. Unset CUPY_TF32 and NVIDIA_TF32_OVERRIDE"
            )
    exact = sample.astype(xp.float64) @ sample.astype(xp.float64).T.copy()
    largest_error = float(xp.max(xp.absolute(sample @ sample.copy().T - exact)))
    if largest_error > margin:
        raise PanicTdaError(
            f"products of float32 rows are off by {largest_error:.1e}; the limit is {margin:.1e}. The matrix "
            "library (BLAS) of this machine computes wrong results"
        )
