"""Compute a cheap upper bound of every product from a few principal axes and the residual.

For orthonormal axes V and z = Vᵀx, Cauchy-Schwarz on the rest gives x·y ≤ z_x·z_y + ρ_x ρ_y with
ρ = √(‖x‖² - ‖z‖²): one product of length m + 1 instead of d. Embeddings of sentences have most of their
energy on a few dozen axes, so the bound rejects most pairs of rows at a tenth of the price.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from panic_tda.arrays.namespace import squared_lengths, take_rows, take_slice, to_host
from panic_tda.arrays.rows import slices

if TYPE_CHECKING:
    from panic_tda.types import Array, ArrayModule, FloatArray

N_AXES = 64
CHOICES = (48, 64, 96)
"""Numbers of axes from which the cheapest is chosen."""
_SINGLE_PRODUCT = 8
"""Cost of one dimension of an exact product, in multiply-adds of the micro-kernel."""
_ASKING, _ASKED, _ASKED_SHARE = 128, 4_096, 4
"""Rows that query, rows that are queried, and the latter's largest share of all rows (one in so many)."""
MIN_FEATURES = 160
"""Fewer dimensions than this cost hardly more than the bound itself."""
_SAMPLE_ROWS = 16_384
_CHUNK_ROWS = 2_048
_MAX_SKIPPED = 16
"""Largest number of consecutive tiles for which the bound is skipped, after as many useless evaluations."""


def pay(n_axes: int, n_features: int) -> bool:
    """Return whether a bound with `n_axes` axes saves time for rows of `n_features` dimensions."""
    return MIN_FEATURES <= n_features > n_axes > 0


def principal_axes(xp: ArrayModule, vectors: Array, rng: np.random.Generator) -> FloatArray:
    """Return the principal axes of the second moment about the origin, from a sample of the rows.

    Any orthonormal axes give a valid bound; the leading ones give the tightest. The moment is not centred:
    a direction that all rows share is the first thing a product is made of.

    Returns
    -------
    (d, d) float64
        Orthonormal columns, the leading one first.
    """
    n = len(vectors)
    rows = np.arange(n) if n <= _SAMPLE_ROWS else np.sort(rng.choice(n, _SAMPLE_ROWS, replace=False))
    moment = xp.zeros((vectors.shape[1], vectors.shape[1]), dtype=xp.float64)
    for part in slices(len(rows), _CHUNK_ROWS):
        sample = take_rows(xp, vectors, xp.asarray(rows[part]))
        # Two buffers: some BLAS builds take X.T @ X on one buffer as a symmetric update, which has crashed.
        moment += sample.T @ sample.copy()
    moment = to_host(moment)
    axes: FloatArray = np.linalg.eigh((moment + moment.T) / 2)[1][:, ::-1]
    return np.ascontiguousarray(axes)


def choose_number(vectors: Array, axes: FloatArray, rng: np.random.Generator) -> int:
    """Choose how many axes make the cheapest bound.

    Parameters
    ----------
    vectors : (n, d) float32
        Rows in host memory.
    axes : (d, d) float64
        Principal axes.
    rng : numpy.random.Generator
        Chooses a sample.

    Returns
    -------
    int
        One of `CHOICES`.

    Notes
    -----
    Some rows are compared with a sample of the others. A pair of the sample costs m + 1 multiplications, and
    one that the bound does not reject costs a product of its rows, `_SINGLE_PRODUCT` times as much for each
    of their d dimensions, but no more than if whole rows were packed. The nearest row of the sample is
    farther than the nearest of all rows, so that the share of rejected pairs is estimated too low, for every
    number of axes.
    """
    n, d = vectors.shape
    size = min(n, _ASKING + min(_ASKED, n // _ASKED_SHARE))
    sample = vectors[rng.permutation(np.sort(rng.choice(n, size, replace=False)))]
    queries, references = np.split(sample, [min(_ASKING, len(sample) // 2)])
    nearest = (queries @ references.T).max(axis=1, keepdims=True)
    leading = axes[:, : max(CHOICES)].astype(np.float32)
    left, right = queries @ leading, references @ leading
    cost = {}
    for m in CHOICES:
        # Rows have unit length.
        rests = (np.sqrt(np.maximum(1 - (z[:, :m] ** 2).sum(axis=1), 0)) for z in (left, right))
        bound = left[:, :m] @ right[:, :m].T + np.multiply.outer(*rests)
        cost[m] = m + 1 + min(1.0, float((bound >= nearest).mean()) * _SINGLE_PRODUCT) * d
    return min(cost, key=lambda m: cost[m])


def coordinates(xp: ArrayModule, vectors: Array, axes: FloatArray) -> Array:
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
    for rows in slices(n, _CHUNK_ROWS):
        chunk = take_slice(xp, vectors, rows).astype(xp.float64)
        z = chunk @ columns
        rest = squared_lengths(chunk) - squared_lengths(z)
        # The difference of two sums near 1 is good to about 1e-13; what is left over must not be too short.
        residual = xp.sqrt(xp.maximum(rest, 0.0) + 1e-12).astype(xp.float32)
        projected[rows, :m] = z
        projected[rows, m] = xp.nextafter(residual, xp.asarray(xp.inf, dtype=xp.float32))
    return projected


class BoundBackoff:
    """Counter that skips the bound for more and more tiles while the bound does not pay."""

    def __init__(self) -> None:
        self._wait = self._in_vain = 0

    def is_due(self) -> bool:
        """Return whether to evaluate the bound for this tile."""
        due = not self._wait
        self._wait = max(0, self._wait - 1)
        return due

    def record(self, *, in_vain: bool) -> None:
        """Record whether the bound was useless: `in_vain` if it left too many pairs."""
        if in_vain:
            self._wait = min(self._in_vain, _MAX_SKIPPED)
        self._in_vain = self._in_vain + 1 if in_vain else 0
