"""Measure how far two labelings of the same rows agree.

References
----------
.. [1] Hubert, Arabie (1985). Comparing partitions. Journal of Classification 2, 193-218.
   https://doi.org/10.1007/BF01908075
.. [2] Vinh, Epps, Bailey (2010). Information theoretic measures for clusterings comparison. Journal of
   Machine Learning Research 11, 2837-2854.
.. [3] Hoeffding (1963). Probability inequalities for sums of bounded random variables. Journal of the
   American Statistical Association 58, 13-30. https://doi.org/10.1080/01621459.1963.10500830
"""

from __future__ import annotations

from typing import Any

import numpy as np

from panic_tda.types import FloatArray, Int32Array, IntArray

_TAIL = 45.0
"""Overlaps with a tail probability below exp(-45), about 3e-20, are left out of sums."""


def contingency(left: IntArray | Int32Array, right: IntArray | Int32Array) -> Any:
    """Count the rows that have each pair of labels.

    Parameters
    ----------
    left, right : (n,) int
        Labels from -1 (`OUTLIER`) on, of the same rows.

    Returns
    -------
    scipy.sparse.csr_array of int64
        Row and column i are label i - 1, so that outliers come first.
    """
    from scipy.sparse import coo_array

    shape = (1 + int(left.max(initial=-1)) + 1, 1 + int(right.max(initial=-1)) + 1)
    ones = np.ones(len(left), dtype=np.int64)
    table = coo_array((ones, (left + 1, right + 1)), shape=shape)
    # The conversion sums duplicate entries.
    return table.tocsr()


def adjusted_rand(table: Any) -> float:
    """Return the adjusted Rand index [1]_ of a contingency table, 1 for equal partitions.

    scikit-learn's takes labels, and sorts them four times; the counts of pairs are floats here, exact up to
    2**53 pairs, about 134 million rows.
    """
    n = int(table.sum())
    together = _count_pairs(table.data)
    left, right = (_count_pairs(np.asarray(table.sum(axis=axis))) for axis in (1, 0))
    if left == right == together:
        return 1.0
    expected = left * right / _count_pairs(np.array([n]))
    return float((together - expected) / ((left + right) / 2 - expected))


def adjusted_mutual_information(table: Any) -> float:
    """Return the adjusted mutual information [2]_ of a contingency table, 1 for equal partitions.

    Adjusted by the mean of the two entropies, as in scikit-learn, whose number it is. That one sums the
    expected mutual information over every pair of clusters and every overlap that the pair could have: 15 to
    35 s for 1,000,000 rows in 1,000 clusters, 100 s in 10,000. A pair's part depends on its two sizes alone,
    and overlaps far from the mean have no chance: summed once for every pair of different sizes, over the
    overlaps that matter, it takes a fraction of a second.
    """
    left, right = (np.asarray(table.sum(axis=axis)).ravel() for axis in (1, 0))
    row, column = table.nonzero()
    shared = table.data[table.data > 0]
    sizes = left[left > 0], right[right > 0]
    if len(shared) == len(sizes[0]) == len(sizes[1]):
        return 1.0
    if 1 in (len(sizes[0]), len(sizes[1])):
        return 0.0
    n = int(left.sum())
    mutual = float(shared / n @ np.log(n * shared / (left[row] * right[column])))
    expected = _compute_expected_information(*sizes, n)
    largest = (_compute_entropy(sizes[0]) + _compute_entropy(sizes[1])) / 2
    return (mutual - expected) / (largest - expected)


def _compute_entropy(sizes: IntArray) -> float:
    shares = sizes / sizes.sum()
    return float(-(shares @ np.log(shares)))


def _compute_expected_information(left: IntArray, right: IntArray, n: int) -> float:
    """Return the mutual information that labelings with clusters of these sizes have by chance."""
    from scipy.special import gammaln

    log_factorial = gammaln(np.arange(n + 1) + 1.0)
    others, times_other = np.unique(right, return_counts=True)
    return sum(
        int(times) * float(times_other @ _compute_contributions(int(size), others, log_factorial))
        for size, times in zip(*np.unique(left, return_counts=True), strict=True)
    )


def _compute_contributions(size: int, others: IntArray, log_factorial: FloatArray) -> FloatArray:
    """Return what a cluster of `size` rows contributes beside one of each other size, (len(others),)."""
    n = len(log_factorial) - 1
    mean = size * others / n
    # Bernstein's bound, which holds for draws without replacement too [3]_.
    reach = _TAIL / 3 + np.sqrt(_TAIL**2 / 9 + 2 * _TAIL * mean)
    low = np.maximum(np.maximum(1, size + others - n), np.floor(mean - reach).astype(np.int64))
    high = np.minimum(np.minimum(size, others), np.ceil(mean + reach).astype(np.int64))
    counts = high - low + 1
    first = np.cumsum(counts) - counts
    overlap = np.arange(counts.sum()) + np.repeat(low - first, counts)
    other_sizes = np.repeat(others, counts)
    constant = (
        log_factorial[size] + log_factorial[others] + log_factorial[n - size] + log_factorial[n - others]
    )
    log_chance = np.repeat(constant - log_factorial[n], counts) - (
        log_factorial[overlap]
        + log_factorial[size - overlap]
        + log_factorial[other_sizes - overlap]
        + log_factorial[n - size - other_sizes + overlap]
    )
    part = overlap / n * np.log(n * overlap / (float(size) * other_sizes)) * np.exp(log_chance)
    return np.add.reduceat(part, first)


def _count_pairs(counts: Any) -> float:
    counts = np.asarray(counts, dtype=np.float64)
    return float((counts * (counts - 1) / 2).sum())
