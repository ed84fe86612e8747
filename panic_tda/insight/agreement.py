"""How far two labelings of the same rows agree.

References
----------
.. [1] Hubert, Arabie (1985). Comparing partitions. Journal of Classification 2, 193-218.
   https://doi.org/10.1007/BF01908075
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from panic_tda.types import Int32Array, IntArray


def contingency(left: IntArray | Int32Array, right: IntArray | Int32Array) -> Any:
    """Count the rows that have each pair of labels.

    Parameters
    ----------
    left, right : (n,) int
        Labels from -1 (`OUTLIER`) on, of the same rows.

    Returns
    -------
    scipy.sparse.csr_array of int64
        Row and column i hold label i - 1, so that outliers come first.
    """
    from scipy.sparse import coo_array

    shape = (1 + int(left.max(initial=-1)) + 1, 1 + int(right.max(initial=-1)) + 1)
    ones = np.ones(len(left), dtype=np.int64)
    table = coo_array((ones, (left + 1, right + 1)), shape=shape)
    # Turning it round adds up what falls together.
    return table.tocsr()


def adjusted_rand(table: Any) -> float:
    """Return the adjusted Rand index [1]_ of a contingency table, 1 for equal partitions.

    scikit-learn's takes labels, and sorts them four times; the counts of pairs are floats here, exact up to
    2**53 pairs, about 134 million rows.
    """
    n = int(table.sum())
    together = _pairs(table.data)
    left, right = (_pairs(np.asarray(table.sum(axis=axis))) for axis in (1, 0))
    if left == right == together:
        return 1.0
    expected = left * right / _pairs(np.array([n]))
    return float((together - expected) / ((left + right) / 2 - expected))


def _pairs(counts: Any) -> float:
    counts = np.asarray(counts, dtype=np.float64)
    return float((counts * (counts - 1) / 2).sum())
