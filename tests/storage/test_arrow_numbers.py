"""Numbers go to Arrow and back without pandas, which takes longer to import than a small clustering."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from panic_tda.storage.arrow import to_arrow, to_numpy
from tests.snapshots import run_python

ROUND_TRIP = """
import sys
import numpy as np
from panic_tda.storage.read.trees import as_tree
from panic_tda.storage.write.trees import as_table
from panic_tda.types import SpanningTree

rows = np.arange(3)
tree = SpanningTree(rows, rows + 1, 0.5 + 0.1 * rows, core_distances=np.full(4, 0.5))
assert np.array_equal(as_tree(as_table(tree)).height, tree.height)
assert "pandas" not in sys.modules
"""


def test_numbers_come_back_as_they_were() -> None:
    for values, kind in (
        (np.arange(6)[::2], pa.int32()),
        (np.array([0.1, np.nan, -0.0]), pa.float64()),
        (np.empty(0, dtype=np.int64), pa.int64()),
    ):
        column = to_arrow(values, kind)
        column.validate(full=True)
        for stored in (column, pa.chunked_array([column[:1], column[1:]], kind)):
            numbers = to_numpy(stored)
            assert numbers.dtype == kind.to_pandas_dtype()
            assert np.array_equal(numbers, values, equal_nan=numbers.dtype.kind == "f")


def test_masked_numbers_are_null() -> None:
    column = to_arrow(np.arange(10), pa.int64(), missing=np.arange(10) >= 9)
    assert column.to_pylist() == [*range(9), None]
    assert to_numpy(column[:9]).tolist() == list(range(9))


def test_a_number_beyond_its_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="out of the range of int32"):
        to_arrow(np.array([1, 2**31]), pa.int32())


def test_a_tree_is_written_and_read_without_pandas() -> None:
    process = run_python(ROUND_TRIP)
    assert process.returncode == 0, process.stderr
