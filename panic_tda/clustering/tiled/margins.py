"""Error bounds of float32 products, and thresholds that stay on the safe side of them.

Products of float32 rows only find candidates. Everything here is a proven bound, so that no candidate is
missed whatever library, tile size or device multiplied; the decision is made in float64 elsewhere.

References
----------
.. [1] Higham (2002). Accuracy and Stability of Numerical Algorithms, section 3.1. SIAM.
   https://doi.org/10.1137/1.9780898718027
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from panic_tda.arrays.namespace import namespace, squared_lengths, take_slice
from panic_tda.clustering.tiled.workers import map_parts

if TYPE_CHECKING:
    from panic_tda.clustering.tiled.workers import Workers
    from panic_tda.types import Array, ArrayModule

UNIT_ROUNDOFF = 2.0**-24
"""Of float32, the arithmetic of the products."""
_CHUNK_ROWS = 2_048


def norm_error(xp: ArrayModule, vectors: Array, team: Workers | None = None) -> float:
    """Return the largest | ‖x‖² - 1 | over the rows, rounded up; the threads of a team share the work."""

    def measure(rows: slice) -> float:
        chunk = take_slice(xp, vectors, rows).astype(xp.float64)
        return float(xp.max(xp.absolute(squared_lengths(chunk) - 1)))

    return max(map_parts(team, measure, len(vectors), _CHUNK_ROWS), default=0.0) + 1e-12


def product_margin(n_features: int, norm_error: float) -> float:
    """Bound the distance of a float32 dot product from 1 - ‖x - y‖²/2.

    Parameters
    ----------
    n_features : int
        Length of the rows, d.
    norm_error : float
        ν = max | ‖x‖² - 1 |.

    Returns
    -------
    float
        η = γ(1 + ν) + ν with γ = 1.01·d·2⁻²⁴: rounding in any order of summation, and norms that are not
        exactly 1.
    """
    gamma = 1.01 * n_features * UNIT_ROUNDOFF
    return gamma * (1 + norm_error) + norm_error


def lifted_margin(n_features: int) -> float:
    """Bound the distance of a float32 product of two lifted rows from 1 - ‖x - y‖²/2.

    Parameters
    ----------
    n_features : int
        Length of the rows before they were lifted, d; their norms are at most 1.

    Returns
    -------
    float
        η = 2γ with γ = 1.01·(d + 5)·2⁻²⁴: d + 2 terms, each coordinate rounded to float32 on both sides, and
        one more for what float64 rounds. By Cauchy-Schwarz the absolute values of the terms add up to at most
        the product of the norms, 2 (`space.lift_rows`).
    """
    return 2 * 1.01 * (n_features + 5) * UNIT_ROUNDOFF


def bound_margin(n_axes: int, norm_error: float) -> float:
    """Bound how far a float32 product of `n_axes` coordinates and a residual may fall below its exact value.

    Four more roundings than there are terms: each coordinate was rounded to float32 on both sides. The last
    term covers axes that are orthonormal only to float64.
    """
    return 1.01 * (n_axes + 5) * UNIT_ROUNDOFF * (1 + norm_error) + 1e-12


def square_margin(n_features: int, norm_error: float) -> float:
    """Bound how far ‖x‖² + ‖y‖² - 2·x·y in float64 may lie above a distance that was measured, squared.

    Each of the three sums is off by at most γ(1 + ν), twice that for the last, with γ for 2⁻⁵³; the squared
    distance, at most 4(1 + ν), by a relative γ, and so is the one that it is compared with. The four more
    terms are for differences, roots and squares.
    """
    return 12.2 * (n_features + 4) * 2.0**-53 * (1 + norm_error)


def lower_products(heights: Array, margin: float) -> Array:
    """Return the product below which a pair is certainly at least `heights` apart, as float32 rounded down.

    Parameters
    ----------
    heights : float64 array
        Chord lengths, in host or device memory.
    margin : float
        η of `product_margin`.
    """
    return round_down(1.0 - heights * heights / 2 - margin)


def thresholds(
    heights: tuple[Array, Array], cores: tuple[Array, Array], margin: float
) -> tuple[Array, Array]:
    """Return for each row of both sides the product below which its height rules a pair out, as float32.

    A pair may matter when its product reaches the lower of its rows' thresholds. A row whose core distance
    is not below its own height can matter by the other row's height only: its threshold is infinite.
    """
    xp = namespace(heights[0])
    left, right = (
        xp.where(core >= height, xp.float32(xp.inf), lower_products(height, margin))
        for height, core in zip(heights, cores, strict=True)
    )
    return left, right


def loosened(lower: tuple[Array, Array], slack: float) -> tuple[Array, Array]:
    """Lower the thresholds of both sides by what a product of points may lack, rounded down to float32."""
    xp = namespace(lower[0])
    down = xp.asarray(-xp.inf, dtype=xp.float32)
    left, right = (xp.nextafter(side - xp.float32(slack), down) for side in lower)
    return left, right


def round_down(values: Array) -> Array:
    """Convert to float32, towards minus infinity."""
    xp = namespace(values)
    return xp.nextafter(values.astype(xp.float32), xp.asarray(-xp.inf, dtype=xp.float32))
