"""A cheap upper bound of every product: a few principal axes, and what they leave over.

For orthonormal axes V and z = Vᵀx, Cauchy-Schwarz on the rest gives x·y ≤ z_x·z_y + ρ_x ρ_y with
ρ = √(‖x‖² - ‖z‖²): one product of length m + 1 instead of d. Embeddings of sentences have most of their
energy on a few dozen axes, so the bound rejects most pairs of rows at a tenth of the price.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from panic_tda.arrays.namespace import part, squared_lengths, take, to_host

if TYPE_CHECKING:
    from panic_tda.types import FloatArray

N_AXES = 64
MIN_FEATURES = 160
"""Fewer dimensions than this cost hardly more than the bound itself."""
_SAMPLE_ROWS = 16_384
_CHUNK_ROWS = _MOMENT_ROWS = 2_048


def principal_axes(xp: Any, vectors: Any, n_axes: int, rng: np.random.Generator) -> FloatArray:
    """Return the leading axes of the second moment about the origin, from a sample of the rows.

    Any orthonormal axes give a valid bound; the leading ones give the tightest. The moment is not centred:
    a direction that all rows share is the first thing a product is made of.

    Returns
    -------
    (d, n_axes) float64
        Orthonormal columns.
    """
    n = len(vectors)
    rows = np.arange(n) if n <= _SAMPLE_ROWS else np.sort(rng.choice(n, _SAMPLE_ROWS, replace=False))
    moment = xp.zeros((vectors.shape[1], vectors.shape[1]), dtype=xp.float64)
    for begin in range(0, len(rows), _MOMENT_ROWS):
        sample = take(xp, vectors, xp.asarray(rows[begin : begin + _MOMENT_ROWS]))
        # Two buffers: some BLAS builds take X.T @ X on one buffer as a symmetric update, which has crashed.
        moment += sample.T @ sample.copy()
    moment = to_host(moment)
    axes: FloatArray = np.linalg.eigh((moment + moment.T) / 2)[1][:, ::-1][:, :n_axes]
    return np.ascontiguousarray(axes)


def coordinates(xp: Any, vectors: Any, axes: FloatArray) -> Any:
    """Project the rows on the axes and append the length of what is left over.

    Returns
    -------
    (n, n_axes + 1) float32 array of xp
        Products of two of these rows bound the products of the rows themselves, within
        `margins.bound_margin`.
    """
    n, m = len(vectors), axes.shape[1]
    columns = xp.asarray(axes)
    projected = xp.empty((n, m + 1), dtype=xp.float32)
    for begin in range(0, n, _CHUNK_ROWS):
        rows = slice(begin, begin + _CHUNK_ROWS)
        chunk = part(xp, vectors, rows).astype(xp.float64)
        z = chunk @ columns
        rest = squared_lengths(chunk) - squared_lengths(z)
        # The difference of two sums near 1 is good to about 1e-13; what is left over must not be too short.
        residual = xp.sqrt(xp.maximum(rest, 0.0) + 1e-12).astype(xp.float32)
        projected[rows, :m] = z
        projected[rows, m] = xp.nextafter(residual, xp.asarray(xp.inf, dtype=xp.float32))
    return projected
