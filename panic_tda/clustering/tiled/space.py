"""Build the space of a fit: the array library, the error margins of its products, and the axes of the bound.

The two numbers that it measures carry the proof. η, the margin, says how far a float32 product of two rows
may lie from the truth; it follows from the number of dimensions and from how far norms are from 1
(`margins`). The slack adds to it the error of the bound (`margins.bound_margin`). Both assume full
float32 products, which `_require_precise` checks.
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
    from panic_tda.types import Array, ArrayModule, Float32Array, FloatArray

_SAMPLE_ROWS = 512
_LIFTED_AT_ONCE = 8_192
_ALL_BITS = 1 - 2.0**-24
"""A number that needs all 24 bits of a float32; TF32, bfloat16 and float16 round or cut it."""


def select_kernels(xp: ArrayModule) -> Kernels:
    """Return the inner loops for the arrays of a library."""
    chosen: Kernels = host if xp is np else device
    return chosen


def build_space(xp: ArrayModule, vectors: Array, n_axes: int | None, rng: np.random.Generator) -> Space:
    """Measure the margins, and project the rows unless they have too few dimensions for that to save time.

    Parameters
    ----------
    xp : module
        The library that works, numpy or cupy.
    vectors : (n, d) float32
        Unit rows, of `xp` or in host memory.
    n_axes : int or None
        Axes of the bound; 0 does without, None chooses by a sample of rows in host memory.
    rng : numpy.random.Generator
        Chooses the rows from which the axes are found.

    Returns
    -------
    Space
        With points on the axes where the bound pays.

    Raises
    ------
    PanicTdaError
        The library's products are less precise than float32's.
    """
    d = vectors.shape[1]
    error = margins.norm_error(xp, vectors)
    margin = margins.product_margin(d, error)
    _require_precise(xp, vectors, margin)
    if not axes.pay(axes.N_AXES if n_axes is None else n_axes, d):
        return Space(vectors, vectors, False, margin, 0.0, xp, select_kernels(xp))
    principal = axes.principal_axes(xp, vectors, rng)
    if n_axes is None:
        n_axes = axes.choose_number(vectors, principal, rng)
    points = axes.coordinates(xp, vectors, np.ascontiguousarray(principal[:, :n_axes]))
    return Space(
        vectors, points, True, margin, margin + margins.bound_margin(n_axes, error), xp, select_kernels(xp)
    )


def build_lifted_space(vectors: FloatArray) -> Space:
    """Lift rows of any length up to 1, so that their products tell distances.

    Parameters
    ----------
    vectors : (n, d) float64
        Rows in host memory, with norms of at most 1; distances are measured from them.
    """
    left, right, points = lift_rows(vectors)
    margin = margins.lifted_margin(vectors.shape[1])
    _require_precise(np, left, margin)
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
        where to search for joints.
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


def _require_precise(xp: ArrayModule, vectors: Array, margin: float) -> None:
    """Refuse a library that multiplies less than float32: every bound rests on that.

    Sampled rows cannot reveal TF32: its errors are below the proven margin, and a tighter limit would reject
    correct float32. So numbers that need all bits of a float32 are multiplied by 1 and 0 only; the sums of
    such products are exact in any order. A sample of rows is checked too, against faults of other kinds.
    """
    sample = take_slice(xp, vectors, slice(0, _SAMPLE_ROWS))
    ones = xp.zeros_like(sample) + xp.float32(1)
    fine, here = xp.zeros_like(sample), xp.arange(len(sample))
    fine[here, here % sample.shape[1]] = _ALL_BITS
    for product in (fine @ ones.copy().T, ones @ fine.copy().T):
        if bool((product != xp.float32(_ALL_BITS)).any()):
            raise PanicTdaError(
                "float32 rows are multiplied in fewer bits than they have, as TF32 and bfloat16 do: unset "
                "CUPY_TF32 and NVIDIA_TF32_OVERRIDE"
            )
    exact = sample.astype(xp.float64) @ sample.astype(xp.float64).T.copy()
    worst = float(xp.max(xp.absolute(sample @ sample.copy().T - exact)))
    if worst > margin:
        raise PanicTdaError(
            f"products of float32 rows must be within {margin:.1e} of exact ones; here they are off by "
            f"{worst:.1e}: this machine's matrix library is not to be trusted"
        )
