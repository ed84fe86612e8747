"""Test every form of vectors: matrices are stacked, others are refused with row and remedy."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse

import panic_tda
from panic_tda.arrays.matrices import as_matrix
from panic_tda.errors import BadVectors
from tests.snapshots import run_python

X = np.arange(6, dtype=np.float32).reshape(3, 2) + 1
ROWS = X.tolist()
MASKED = np.ma.masked_array(X.copy(), mask=[[0, 0], [0, 1], [0, 0]])

TAKEN: dict[str, Any] = {
    "matrix": X,
    "matrix in Fortran's order": np.asfortranarray(X.astype(np.float64)),
    "np.matrix": np.matrix(X),
    "objects": X.astype(object),
    "masked array without a mask": np.ma.masked_array(X),
    "lists": ROWS,
    "tuples": tuple(map(tuple, ROWS)),
    "list of arrays": list(X),
    "list of series": [pd.Series(row) for row in X],
    "decimals": [[Decimal(int(value)) for value in row] for row in ROWS],
    "pandas series of arrays": pd.Series(list(X)),
    "pandas series of lists": pd.Series(ROWS, index=[7, 7, 9]),
    "pandas series of Arrow lists": pd.Series(pd.arrays.ArrowExtensionArray(pa.array(ROWS))),
    "pandas frame": pd.DataFrame(X),
    "pandas frame of nullable numbers": pd.DataFrame(X, dtype="Float64"),
    "pandas frame of mixed numbers": pd.DataFrame({"a": X[:, 0].astype(int), "b": X[:, 1]}),
    "pandas frame of sparse columns": pd.DataFrame(X).astype(pd.SparseDtype("float32")),
    "pandas frame with one column of vectors": pd.DataFrame({"vector": list(X)}),
    "polars list series": pl.Series(ROWS),
    "polars array series": pl.Series(ROWS, dtype=pl.Array(pl.Float32, 2)),
    "polars frame": pl.DataFrame(X),
    "polars frame with one column of vectors": pl.DataFrame({"vector": ROWS}),
    "Arrow lists": pa.array(ROWS),
    "Arrow large lists": pa.array(ROWS, pa.large_list(pa.float64())),
    "Arrow list view": pa.array(ROWS, pa.list_view(pa.float32())),
    "Arrow lists of half floats": pa.array(X.astype(np.float16).tolist(), pa.list_(pa.float16())),
    "Arrow lists of small integers": pa.array(X.astype(int).tolist(), pa.list_(pa.int8())),
    "Arrow fixed-size lists": pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 2),
    "Arrow tensors": pa.FixedShapeTensorArray.from_numpy_ndarray(X),
    "Arrow chunks": pa.chunked_array([ROWS[:1], ROWS[1:]]),
    "Arrow table": pa.table({"a": X[:, 0], "b": X[:, 1]}),
    "Arrow table with one column of vectors": pa.table({"vector": pa.array(ROWS)}),
    "Arrow record batch": pa.record_batch({"a": X[:, 0], "b": X[:, 1]}),
}


@pytest.mark.parametrize("vectors", TAKEN.values(), ids=TAKEN)
def test_every_kind_of_matrix_is_accepted(vectors: Any) -> None:
    matrix = as_matrix(vectors)
    np.testing.assert_array_equal(matrix, X)
    assert (matrix.dtype, matrix.flags.c_contiguous) == (np.float32, True)
    # It is overwritten by what follows.
    assert not np.shares_memory(matrix, X)


REFUSED: dict[str, tuple[Any, str]] = {
    "sparse array": (scipy.sparse.csr_array(X), r"sparse matrix \(.*csr_array\); densify: X\.toarray\(\)"),
    "sparse matrix": (scipy.sparse.coo_matrix(X), r"sparse matrix \(.*coo_matrix\); densify: X\.toarray\(\)"),
    "sparse rows": ([scipy.sparse.csr_array(X[:1])] * 3, r"row 0 .* sparse matrix .* X\.toarray\(\)"),
    "masked array": (MASKED, "row 1 has masked values; fill or drop them"),
    "list of masked arrays": (list(MASKED), "row 1 has masked values"),
    "series of masked arrays": (pd.Series(list(MASKED)), "row 1 has masked values"),
    "ragged lists": ([[1, 2], [3, 4], [1, 2, 3]], "row 2 has 3 values and row 0 has 2"),
    "ragged series": (pd.Series([[1, 2], [1, 2, 3]]), "row 1 has 3 values and row 0 has 2"),
    "ragged Arrow lists": (pa.array([[1.0, 2.0], [1.0]]), "row 1 has 1 values and row 0 has 2"),
    "ragged polars lists": (pl.Series([[1.0, 2.0], [1.0]]), "row 1 has 1 values and row 0 has 2"),
    "missing Arrow list": (pa.array([[1.0, 2.0], None]), "row 1 is missing"),
    "missing polars list": (pl.Series([[1.0, 2.0], None]), "row 1 is missing"),
    "missing cell of pandas": (pd.Series([[1, 2], pd.NA]), "row 1 is missing"),
    "None in a list": ([[1.0, 2.0], None], "row 1 is missing"),
    "missing number": (pd.DataFrame({"a": [1, pd.NA], "b": [1, 2]}), "row 1 .*<NA> is not a number"),
    "texts": ([["a", "b"]], r"matrix of real numbers; got texts; .*json\.loads"),
    "numbers as texts": ([["1", "2"]], r"matrix of real numbers; got texts; .*json\.loads"),
    "series of texts": (pd.Series(["[1, 2]"]), r"row 0 .*got texts; .*json\.loads"),
    "bytes": ([X[0].tobytes()], r"got bytes; .*numpy\.frombuffer"),
    "complex numbers": (X * 1j, "got complex numbers"),
    "complex cells": (pd.Series([[1j, 2j]]), "row 0 .*got complex numbers"),
    "booleans": (X > 2, "got booleans"),
    "a column of booleans": (pd.DataFrame({"a": [1.5], "b": [True]}), "row 0 .*True is not a number"),
    "dates": (pd.DataFrame({"a": pd.to_datetime(["2020-01-01"])}), "got dates"),
    "time spans": (np.zeros((2, 2), dtype="m8[s]"), "got time spans"),
    "a table of ids and vectors": (
        pd.DataFrame({"id": ["a"], "vector": ROWS[:1]}),
        "one column of vectors alone",
    ),
    "an Arrow table of ids and vectors": (
        pa.table({"id": ["a"], "vector": ROWS[:1]}),
        "column of vectors alone",
    ),
    "a polars frame of vectors and numbers": (
        pl.DataFrame({"v": ROWS[:1], "n": [1]}),
        "column of vectors alone",
    ),
    "one vector": ([1.0, 2.0], r"matrix of shape \(rows, dimensions\); got shape \(2,\)"),
    "a series of numbers": (pd.Series([1.0, 2.0]), r"got shape \(2,\)"),
    "matrices in a series": (pd.Series([X, X]), r"row 0 is not a vector; its shape is \(3, 2\)"),
    "a cube": (np.zeros((2, 2, 2)), r"got shape \(2, 2, 2\)"),
    "no dimensions": (np.empty((3, 0)), r"got shape \(3, 0\)"),
    "nothing": ([], r"got shape \(0,\)"),
    "a generator": ((row for row in ROWS), "got a generator"),
    "a dictionary": ({"a": ROWS[0]}, "got a dict"),
    "a list of dictionaries": ([{"a": 1}], "row 0 is missing or not a vector: {'a': 1}"),
}


@pytest.mark.parametrize(("vectors", "reason"), REFUSED.values(), ids=REFUSED)
def test_invalid_matrices_are_refused(vectors: Any, reason: str) -> None:
    with pytest.raises(BadVectors, match=reason) as refused:
        panic_tda.hdbscan(vectors)
    assert len(str(refused.value)) < 250


class Tensor:
    """An array of another library that NumPy may not read, as those on a device and those with gradients."""

    def __array__(self, *_arguments: Any, **_more: Any) -> np.ndarray:
        raise RuntimeError(
            "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead."
        )


def test_advice_of_another_library_is_in_the_message() -> None:
    with pytest.raises(BadVectors, match=r"Use tensor\.detach\(\)\.numpy\(\)"):
        panic_tda.hdbscan(Tensor())  # type: ignore[arg-type]
    with pytest.raises(BadVectors, match=r"row 0 .*Use tensor\.detach\(\)\.numpy\(\)"):
        panic_tda.hdbscan([Tensor(), Tensor()])  # type: ignore[list-item]


@pytest.mark.parametrize("name", ["pandas", "polars", "Arrow", "Arrow table"])
def test_a_column_of_vectors_has_the_labels_of_its_matrix(name: str) -> None:
    rng = np.random.default_rng(0)
    rows = np.repeat(np.eye(3, 6), 15, axis=0) + 0.02 * rng.standard_normal((45, 6))
    column = {
        "pandas": pd.Series(list(rows)),
        "polars": pl.Series(rows.tolist()),
        "Arrow": pa.chunked_array([rows[:20].tolist(), rows[20:].tolist()]),
        "Arrow table": pa.table({"vector": rows.tolist()}),
    }[name]
    expected, clustering = panic_tda.hdbscan(rows), panic_tda.hdbscan(column)
    assert expected.n_clusters == 3
    np.testing.assert_array_equal(clustering.labels, expected.labels)
    np.testing.assert_array_equal(clustering.probabilities, expected.probabilities)


def test_a_missing_number_in_a_vector_is_refused_by_its_row() -> None:
    with pytest.raises(BadVectors, match=r"the first that are not: 1$"):
        panic_tda.hdbscan(pa.array([[1.0, 2.0], [1.0, None], [2.0, 1.0]]))


def test_no_data_frame_library_is_imported() -> None:
    code = (
        "import sys, numpy\nfrom panic_tda.arrays.matrices import as_matrix\nas_matrix(list(numpy.eye(4)))\n"
        "print([name for name in ('pandas', 'polars', 'pyarrow', 'torch') if name in sys.modules])"
    )
    process = run_python(code)
    assert process.stdout.strip() == "[]", process.stderr
