"""Bound the dot product of two rows from above by their coordinates on a few principal axes.

The passes over pairs of tiles look for pairs of rows with a large dot product, that is, a small distance. The
bound rejects most of the other pairs at about a tenth of the cost of their dot products.

Let V be m orthonormal axes, z = Vᵀx the coordinates of a row x of d dimensions, and ρ = √(‖x‖² - ‖z‖²) the
length of its residual, which is the part of x that the axes do not span. For rows x and y,

    x·y ≤ z_x·z_y + ρ_x·ρ_y,

since the dot product of two residuals is at most the product of their lengths (Cauchy-Schwarz). The right
side is one dot product of the m + 1 numbers (z, ρ) of each row. Embeddings of sentences have most of their
squared length on a few dozen axes: residuals are short, so the bound is close to x·y.

The bound is exact in this sense: no pair is rejected whose dot product reaches the threshold. Residuals are
rounded up, and thresholds are lowered by `margins.bound_margin`, which covers the rounding of the float32
product (step 3 of `proof`). Which axes are chosen, how many, and which tiles skip the bound changes only the
time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from panic_tda.arrays.namespace import squared_lengths, take_rows, take_slice, to_host
from panic_tda.arrays.rows import slices
from panic_tda.clustering.tiled.workers import map_parts

if TYPE_CHECKING:
    from panic_tda.clustering.tiled.workers import Workers
    from panic_tda.types import Array, ArrayModule, FloatArray

DEFAULT_N_AXES = 64
"""Number of axes where the rows do not choose it."""
N_AXES_CHOICES = (48, 64, 96)
"""Numbers of axes from which `choose_n_axes` chooses the cheapest."""
MIN_FEATURES = 160
"""Number of dimensions below which a dot product of the rows costs hardly more than the bound."""
_AXES_SAMPLE_ROWS = 16_384
"""Most rows from which the axes are computed."""
_QUERY_ROWS, _REFERENCE_ROWS = 128, 4_096
"""Rows of the sample of `choose_n_axes`: queries, and the references that they are compared with."""
_ROWS_PER_REFERENCE = 4
"""Rows of the matrix per reference row, at least."""
_RELATIVE_PRODUCT_COST = 8
"""Cost per dimension of one pair's dot product outside the micro-kernel, in multiply-adds of the latter."""
_CHUNK_ROWS = 2_048
_MAX_SKIPPED_TILES = 16
"""Most consecutive tiles for which `BoundBackoff` skips the bound."""


def bound_saves_time(n_axes: int, n_features: int) -> bool:
    """Return whether a bound with `n_axes` axes saves time for rows of `n_features` dimensions."""
    return MIN_FEATURES <= n_features > n_axes > 0


def find_principal_axes(xp: ArrayModule, vectors: Array, rng: np.random.Generator) -> FloatArray:
    """Return the eigenvectors of XᵀX by falling eigenvalue, X being a sample of the rows.

    Any orthonormal axes give a valid bound; these leave the shortest residuals on average. The rows are not
    centred as they are for a PCA: the dot products that are to be bounded are not centred either.

    Parameters
    ----------
    xp : module
        The library that computes, numpy or cupy.
    vectors : (n, d) float32
        Unit rows, an array of `xp` or in host memory.
    rng : numpy.random.Generator
        Draws the sample where there are more than 16,384 rows.

    Returns
    -------
    (d, d) float64
        One axis per column, in host memory.
    """
    n = len(vectors)
    rows = (
        np.arange(n) if n <= _AXES_SAMPLE_ROWS else np.sort(rng.choice(n, _AXES_SAMPLE_ROWS, replace=False))
    )
    moment = xp.zeros((vectors.shape[1], vectors.shape[1]), dtype=xp.float64)
    for part in slices(len(rows), _CHUNK_ROWS):
        sample = take_rows(xp, vectors, xp.asarray(rows[part]))
        # Two buffers: some BLAS builds take X.T @ X on one buffer as a symmetric update, which has crashed.
        moment += sample.T @ sample.copy()
    moment = to_host(moment)
    axes: FloatArray = np.linalg.eigh((moment + moment.T) / 2)[1][:, ::-1]
    return np.ascontiguousarray(axes)


def choose_n_axes(vectors: Array, axes: FloatArray, rng: np.random.Generator) -> int:
    """Choose the number of axes with which a sample of rows is searched at the lowest cost.

    Parameters
    ----------
    vectors : (n, d) float32
        Unit rows in host memory.
    axes : (d, d) float64
        Principal axes, one per column, the leading one first.
    rng : numpy.random.Generator
        Draws the sample.

    Returns
    -------
    int
        One of `N_AXES_CHOICES`.

    Notes
    -----
    The sample is split into queries and references. Each query looks for its nearest reference, so the bound
    rejects a pair when it is below the query's largest dot product. With m axes, a pair costs m + 1
    multiply-adds for the bound. A pair that is not rejected costs `_RELATIVE_PRODUCT_COST` · d more, limited
    to d for all pairs, because the engine multiplies whole tiles where many pairs are left.

    The nearest reference is farther than the nearest of all rows would be. So the share of rejected pairs is
    underestimated, but for every m alike.
    """
    n, d = vectors.shape
    size = min(n, _QUERY_ROWS + min(_REFERENCE_ROWS, n // _ROWS_PER_REFERENCE))
    sample = vectors[rng.permutation(np.sort(rng.choice(n, size, replace=False)))]
    queries, references = np.split(sample, [min(_QUERY_ROWS, len(sample) // 2)])
    largest_products = (queries @ references.T).max(axis=1, keepdims=True)
    leading_axes = axes[:, : max(N_AXES_CHOICES)].astype(np.float32)
    left, right = queries @ leading_axes, references @ leading_axes
    cost = {}
    for m in N_AXES_CHOICES:
        # ‖x‖² is 1.
        residuals = (np.sqrt(np.maximum(1 - (z[:, :m] ** 2).sum(axis=1), 0)) for z in (left, right))
        bounds = left[:, :m] @ right[:, :m].T + np.multiply.outer(*residuals)
        remaining_share = float((bounds >= largest_products).mean())
        cost[m] = m + 1 + min(1.0, remaining_share * _RELATIVE_PRODUCT_COST) * d
    return min(cost, key=lambda m: cost[m])


def project_rows(xp: ArrayModule, vectors: Array, axes: FloatArray, team: Workers | None = None) -> Array:
    """Return each row's coordinates on the axes, followed by the length of its residual.

    Parameters
    ----------
    xp : module
        The library that computes, numpy or cupy.
    vectors : (n, d) float32
        Unit rows, an array of `xp` or in host memory.
    axes : (d, n_axes) float64
        Orthonormal columns.
    team : Workers, optional
        Threads that share the work.

    Returns
    -------
    (n, n_axes + 1) float32 array of xp
        The dot product of two of these rows, plus `margins.bound_margin`, is at least that of the rows
        themselves.
    """
    n, m = len(vectors), axes.shape[1]
    columns = xp.asarray(axes)
    projected = xp.empty((n, m + 1), dtype=xp.float32)

    def project(rows: slice) -> None:
        chunk = take_slice(xp, vectors, rows).astype(xp.float64)
        z = chunk @ columns
        square_residual = squared_lengths(chunk) - squared_lengths(z)
        # This difference of two sums near 1 has an error of about 1e-13; a residual must not be too short.
        residual = xp.sqrt(xp.maximum(square_residual, 0.0) + 1e-12).astype(xp.float32)
        projected[rows, :m] = z
        projected[rows, m] = xp.nextafter(residual, xp.asarray(xp.inf, dtype=xp.float32))

    map_parts(team, project, n, _CHUNK_ROWS)
    return projected


class BoundBackoff:
    """Counter that skips the bound for more and more tiles for as long as it rejects too few pairs.

    After the k-th useless evaluation in a row, the next k - 1 tiles (at most 16) are processed without the
    bound. One useful evaluation starts the count again.
    """

    def __init__(self) -> None:
        self._n_to_skip = self._n_useless = 0

    def should_evaluate(self) -> bool:
        """Return whether to evaluate the bound for the next tile, and count that tile as processed."""
        due = not self._n_to_skip
        self._n_to_skip = max(0, self._n_to_skip - 1)
        return due

    def record(self, *, useless: bool) -> None:
        """Record an evaluation; `useless` means that the bound left too many pairs."""
        if useless:
            self._n_to_skip = min(self._n_useless, _MAX_SKIPPED_TILES)
        self._n_useless = self._n_useless + 1 if useless else 0
