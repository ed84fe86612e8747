"""Conversion of a caller's vectors into a matrix: arrays, tables, and columns whose cells are vectors.

Data frames and Arrow arrays are read through NumPy's array protocol, without importing their libraries.
"""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any, NoReturn

import numpy as np

from panic_tda.errors import BadVectors
from panic_tda.types import Array
from panic_tda.wording import first_line

_NUMBERS = "iuf"
"""Kinds of NumPy's types that are accepted: signed and unsigned integers, floats."""
_NO_NUMBERS = {
    "b": "booleans; convert them if they are meant as numbers: X.astype('float32')",
    "c": "complex numbers; pass their real parts, or real and imaginary parts side by side",
    "S": "bytes; decode each row, for example with numpy.frombuffer(row, dtype='float32')",
    "U": "texts; parse each row, for example with json.loads",
    "M": "dates; pass numbers",
    "m": "time spans; pass numbers",
}
_SHAPE = "vectors must be a matrix of shape (rows, dimensions)"


def as_matrix(vectors: Any, dtype: type[np.floating[Any]] = np.float32) -> Array:
    """Copy vectors into a new matrix of floats.

    Parameters
    ----------
    vectors : array_like
        A matrix, a table of numbers, or a column or sequence whose items are vectors of one length: NumPy,
        pandas, polars, Arrow, lists, or anything else that NumPy can convert.
    dtype : type
        `numpy.float32` or `numpy.float64`.

    Returns
    -------
    (n, d) float32 or float64
        C-ordered; d is at least 1 where n is. Values too large for the type are infinite.

    Raises
    ------
    BadVectors
        Rows have different lengths, the matrix is sparse, values are masked or missing, or values are not
        real numbers. The message names the first such row.
    """
    _require_dense(vectors, "vectors are")
    require_unmasked(vectors)
    array = _read(vectors)
    if array.dtype.kind == "O" and array.ndim:
        array = _stack(array)
    if array.dtype.kind not in _NUMBERS and array.size:
        actual = _describe(array) if array.ndim else f"a {type(vectors).__name__}"
        raise BadVectors(f"vectors must be a matrix of real numbers; got {actual}")
    if array.ndim != 2 or (len(array) and not array.shape[1]):
        raise BadVectors(f"{_SHAPE}; got shape {array.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        return np.array(array, dtype=dtype, order="C")


def _read(vectors: Any) -> Array:
    """Convert vectors to an array; sequences that NumPy cannot join become an array of objects."""
    try:
        return np.asarray(vectors)
    except (TypeError, ValueError, RuntimeError) as error:
        if not isinstance(vectors, list | tuple):
            raise BadVectors(f"{_SHAPE}: {first_line(error)}") from error
    rows = np.empty(len(vectors), dtype=object)
    for number, row in enumerate(vectors):
        rows[number] = row
    return rows


def _require_dense(vectors: Any, subject: str) -> None:
    kind = type(vectors)
    # Looked up in the class, because a data frame has an attribute for each of its columns.
    if hasattr(kind, "toarray") and hasattr(kind, "nnz"):
        raise BadVectors(
            f"{subject} a sparse matrix ({kind.__module__}.{kind.__name__}); densify: X.toarray()"
        )


def require_unmasked(vectors: Any) -> None:
    """Check that no value of an array, or of a list of arrays, is masked.

    Raises
    ------
    BadVectors
        A value is masked; the message names the first such row.
    """
    # np.asarray returns the values below a mask.
    if isinstance(vectors, np.ma.MaskedArray | list | tuple):
        for number, row in enumerate(np.ma.atleast_1d(vectors) if np.ma.isMA(vectors) else vectors):
            if np.ma.is_masked(row):
                _refuse_row(number, "has masked values; fill or drop them")


def _stack(cells: Array) -> Array:
    """Join an array of objects, (n,), (n, 1) with a vector in each cell, or (n, d), into numbers, (n, d)."""
    if cells.ndim == 2 and cells.shape[1] == 1 and np.ndim(cells[0, 0] if len(cells) else 0):
        cells = cells[:, 0]
    rows: list[Array] = []
    for number, cell in enumerate(cells):
        row = _as_row(cell, number)
        if rows and row.shape != rows[0].shape:
            _refuse_row(
                number, f"has {len(row)} values and row 0 has {len(rows[0])}; all need the same number"
            )
        rows.append(row)
    return np.stack(rows) if rows else np.empty(cells.shape)


def _as_row(cell: Any, number: int) -> Array:
    _require_dense(cell, f"row {number} of the vectors is")
    if np.ma.is_masked(cell):
        _refuse_row(number, "has masked values; fill or drop them")
    try:
        row = np.asarray(cell)
        if row.dtype.kind == "O" and row.ndim == 1:
            row = np.array([_as_number(value) for value in row], dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        _refuse_row(number, f"is not a vector of numbers: {first_line(error)}")
    if row.dtype.kind == "O" and not row.ndim:
        _refuse_row(number, f"is missing or not a vector: {_shorten(cell)}")
    if row.dtype.kind not in _NUMBERS:
        _refuse_row(number, f"must have real numbers; got {_describe(row)}")
    if row.ndim != 1:
        _refuse_row(number, f"is not a vector; its shape is {row.shape}")
    return row


def _as_number(value: Any) -> float:
    """Convert an item of a row of objects, which may be a decimal, to a float."""
    number = np.asarray(value)
    if number.ndim:
        raise TypeError("it has a vector and other values; pass the column of vectors alone")
    is_number = number.dtype.kind in _NUMBERS or isinstance(value, Fraction | Decimal)
    if not is_number:
        raise TypeError(
            f"{_shorten(value)} is not a number; pass numbers only, or one column of vectors alone"
        )
    return float(value)


def _describe(array: Array) -> str:
    return _NO_NUMBERS.get(array.dtype.kind, f"values of type {array.dtype}")


def _refuse_row(number: int, fault: str) -> NoReturn:
    raise BadVectors(f"{_SHAPE}, but row {number} {fault}")


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"a {type(value).__name__}"
