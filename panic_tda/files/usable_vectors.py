"""Reading of vectors, either all of them or only the usable ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from panic_tda.errors import BadInput
from panic_tda.files.columns import Rows, to_float32
from panic_tda.types import BoolArray, Float32Array, IntArray
from panic_tda.wording import pluralize

_MISSING, _EMPTY, _OTHER_LENGTH, _MISSING_VALUE, _NOT_FINITE, _ZERO = range(1, 7)
_PROBLEMS = {
    _MISSING: "the vector is missing (null)",
    _EMPTY: "the vector is empty",
    _OTHER_LENGTH: "the vector has another number of dimensions than the others",
    _MISSING_VALUE: "the vector has a missing value (null)",
    _NOT_FINITE: "the vector is not finite in float32 (NaN or infinite)",
    _ZERO: "the vector is zero and has no direction",
}


@dataclass(frozen=True)
class UsableVectors:
    """The usable vectors among some rows of one model.

    Attributes
    ----------
    places : (u,) int64
        Indices of the rows with a usable vector, ascending.
    vectors : (u, d) float32
        Vectors that are finite and not zero; d is 0 if there are none.
    invalid : list of (int, str)
        For each of the other rows, its number in the file and the problem of its vector.
    """

    places: IntArray
    vectors: Float32Array
    invalid: list[tuple[int, str]]


def read_all_vectors(rows: Rows) -> Float32Array:
    """Read the column `vector` of some rows of one model, as (b, d) float32; every vector must be usable.

    Raises
    ------
    BadInput
        A row has no usable vector; the message names the first one, and the option that skips it.
    """
    lengths = _measure_lengths(rows)
    width = int(lengths[0])
    problems, vectors = _read_vectors(rows, lengths, width)
    if not problems.any():
        return vectors
    row = int(np.argmax(problems > 0))
    problem = _PROBLEMS[problems[row]]
    if problems[row] == _OTHER_LENGTH:
        dimensions = pluralize(lengths[row], "dimension")
        problem = f"the vector has {lengths[row]} {dimensions}, those before it have {width}"
    try:
        rows.refuse(row, problem)
    except BadInput as error:
        raise BadInput(f"{error}; leave such embeddings out with --skip-invalid") from None


def read_usable_vectors(rows: Rows, width: int = 0) -> UsableVectors:
    """Read the usable vectors of some rows from the column `vector`.

    Parameters
    ----------
    rows : Rows
        Rows of one model.
    width : int
        Dimensions of the model's earlier vectors; 0 uses the most frequent number among these rows.

    Raises
    ------
    BadInput
        Most of these rows have another number of dimensions than `width`, or two numbers are equally
        frequent.
    """
    lengths = _measure_lengths(rows)
    problems, vectors = _read_vectors(rows, lengths, _agree_on_width(rows, lengths, width))
    invalid = np.flatnonzero(problems)
    pairs = zip(rows.numbers[invalid].tolist(), problems[invalid].tolist(), strict=True)
    return UsableVectors(
        np.flatnonzero(problems == 0), vectors, [(number, _PROBLEMS[code]) for number, code in pairs]
    )


def _measure_lengths(rows: Rows) -> IntArray:
    """Return the number of dimensions of each vector, 0 for a missing one."""
    column = rows.batch.column("vector")
    if pa.types.is_null(column.type):
        return np.zeros(len(column), dtype=np.int64)
    lengths: IntArray = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    return lengths.astype(np.int64)


def _agree_on_width(rows: Rows, lengths: IntArray, width: int) -> int:
    """Return the number of dimensions of most of these rows, which must be `width` unless that is 0."""
    counts = np.bincount(lengths[lengths > 0], minlength=width + 1)
    # Lengths ascending by their number of rows; of equally frequent ones, the shorter first.
    second, commonest = (0, *np.argsort(counts, kind="stable").tolist())[-2:]
    if width and counts[commonest] > counts[width]:
        problem = f"the vector has {commonest} dimensions, those before it have {width}"
        rows.refuse_first(lengths == commonest, problem)
    if not width and counts[commonest] == counts[second] > 0:
        problem = f"the vector has {commonest} dimensions, and as many others have {second}"
        rows.refuse_first(lengths == commonest, problem)
    return width or commonest


def _read_vectors(rows: Rows, lengths: IntArray, width: int) -> tuple[IntArray, Float32Array]:
    """Return the problem of each vector, 0 if it has none, and the vectors without a problem."""
    problems = np.where(lengths == 0, _EMPTY, np.where(lengths == width, 0, _OTHER_LENGTH))
    problems[rows.batch.column("vector").is_null().to_numpy(zero_copy_only=False)] = _MISSING
    of_width = np.flatnonzero(problems == 0)
    if not len(of_width):
        return problems, np.zeros((0, width), np.float32)
    values = rows.take(of_width).batch.column("vector").flatten()
    is_null: BoolArray = values.is_null().to_numpy(zero_copy_only=False).reshape(-1, width)
    vectors = to_float32(values).reshape(-1, width)
    conditions = [is_null.any(axis=1), ~np.isfinite(vectors).all(axis=1), ~vectors.any(axis=1)]
    problems[of_width] = np.select(conditions, [_MISSING_VALUE, _NOT_FINITE, _ZERO], 0)
    are_usable = problems[of_width] == 0
    return problems, vectors if are_usable.all() else vectors[are_usable]
