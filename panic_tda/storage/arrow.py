"""Convert numbers between NumPy and Arrow without pandas.

`pyarrow.array` and `to_numpy` import pandas wherever it is installed, which takes a sixth of the time of a
small clustering.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from panic_tda.types import BoolArray


def to_arrow(values: Any, kind: pa.DataType, *, missing: BoolArray | None = None) -> pa.Array:
    """Convert numbers, (n,), to an Arrow array; those where `missing`, (n,) bool, is true are null.

    Raises
    ------
    ValueError
        An integer is out of the range of `kind`.
    """
    plain = np.ascontiguousarray(values, dtype=kind.to_pandas_dtype())
    if plain.dtype.kind == "i" and not np.array_equal(plain, values):
        raise ValueError(f"a number is out of the range of {kind}")
    validity = None if missing is None else pa.py_buffer(np.packbits(~missing, bitorder="little"))
    return pa.Array.from_buffers(kind, len(plain), [validity, pa.py_buffer(plain)])


def to_numpy(column: pa.Array | pa.ChunkedArray) -> Any:
    """Convert a column of numbers without nulls to a NumPy array, which may share its memory."""
    return np.from_dlpack(column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column)
