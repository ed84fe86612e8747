"""Centre and scale rows for Euclidean distances, without changing a distance by more than one rounding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from panic_tda.arrays.namespace import squared_lengths
from panic_tda.arrays.rows import chunks
from panic_tda.errors import BadVectors
from panic_tda.types import FloatArray

LARGEST_EXPONENT = 500
"""Largest exponent of 2 by which rows are scaled; squares and sums of λ stay finite up to it."""
_REPORTED_ROWS = 5


@dataclass(frozen=True)
class Frame:
    """Coordinates in which the rows of a matrix have norms of at most 1.

    Attributes
    ----------
    centre : (d,) float64
        Middle of the range of each column.
    scale : float
        A power of two, so that scaling rounds nothing: equal distances stay equal.
    radius : float
        Largest distance of a row from the centre, before scaling.
    """

    centre: FloatArray
    scale: float
    radius: float

    def apply(self, vectors: FloatArray) -> None:
        """Replace rows by (row - centre) · scale, in place; -0.0 becomes 0.0."""
        for rows in chunks(vectors):
            chunk = vectors[rows]
            chunk -= self.centre
            chunk *= self.scale
            chunk += 0.0


def require_finite(vectors: FloatArray) -> None:
    """Check that all values of all rows are finite.

    Raises
    ------
    BadVectors
        Some are NaN or infinite; the message names the first such rows.
    """
    bad = np.concatenate(
        [np.empty(0, dtype=np.int64)]
        + [rows.start + np.flatnonzero(~np.isfinite(vectors[rows]).all(axis=1)) for rows in chunks(vectors)]
    )
    if len(bad):
        first = ", ".join(map(str, bad[:_REPORTED_ROWS]))
        raise BadVectors(f"rows must be finite; the first that are not: {first}")


def centre_rows(vectors: FloatArray) -> Frame:
    """Centre and scale rows in place, so that their norms are at most 1.

    Parameters
    ----------
    vectors : (n, d) float64
        In host memory.

    Returns
    -------
    Frame
        The centre and the scale.

    Raises
    ------
    BadVectors
        Rows are NaN or infinite, or their spread is below 1e-150 or above 1e150.

    Notes
    -----
    The middle of a column's range is a function of the set of its values, so that the order of the rows does
    not matter. A difference is rounded once, by at most 2⁻⁵³ of its size.
    """
    require_finite(vectors)
    if not len(vectors):
        return Frame(np.zeros(vectors.shape[1]), 1.0, 0.0)
    # Halved first: the sum of two large values may overflow.
    centre = vectors.min(axis=0) / 2 + vectors.max(axis=0) / 2
    largest = 0.0
    for rows in chunks(vectors):
        largest = max(largest, float(np.abs(vectors[rows] / 2 - centre / 2).max(initial=0.0)) * 2)
    coarse = _exponent(largest)
    if abs(coarse) > LARGEST_EXPONENT:
        raise BadVectors(
            f"the rows' distances from their centre must be between 1e-150 and 1e150; the largest is "
            f"{largest:.1e}: rescale the rows"
        )
    largest_square = 0.0
    for rows in chunks(vectors):
        squares = squared_lengths((vectors[rows] - centre) * 2.0**-coarse)
        largest_square = max(largest_square, float(squares.max(initial=0.0)))
    norm = float(np.sqrt(largest_square))
    # One unit in the last place more than computed, so that no norm exceeds 1 by rounding alone.
    exponent = coarse + _exponent(norm * (1 + 1e-12))
    frame = Frame(centre, 2.0**-exponent, norm * 2.0**coarse)
    frame.apply(vectors)
    return frame


def _exponent(value: float) -> int:
    """Return the smallest e with value < 2**e, or 0 for 0."""
    return int(np.frexp(value)[1]) if value else 0
