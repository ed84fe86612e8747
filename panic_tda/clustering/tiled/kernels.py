"""Compiled inner loops of the tile passes, on NumPy arrays.

All of them release the interpreter lock, so that worker threads run tiles side by side. A pair inside a
tile of `width` columns has the code `i * width + j`. What lists pairs writes their codes to the front of a
buffer and returns their number; what reads them takes that front alone.

A number's type is written down where NumPy's scalars and the compiler would choose different ones: sums
of bytes, and floats that are more than a row's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from panic_tda.clustering.compiled import IN_ANY_ORDER, compiled

if TYPE_CHECKING:
    from panic_tda.types import Float32Array, FloatArray, Int32Array, IntArray

DENSE = -1
"""Answer of `collect` when there are more pairs than it was allowed to list."""


@compiled
def take(vectors: Float32Array, rows: Int32Array, out: Float32Array) -> None:
    """Copy `rows` of a matrix into a buffer."""
    for i in range(len(rows)):
        out[i] = vectors[rows[i]]


@compiled
def collect(
    products: Float32Array,
    lower_rows: Float32Array,
    lower_columns: Float32Array,
    codes: Int32Array,
    limit: int,
) -> int:
    """List the pairs of a tile whose product reaches the lower of its row's and its column's threshold.

    Returns the number of codes written, or `DENSE` when it would exceed `limit`. Comparing into a mask and
    skipping eight zeros at a time took 0.1-0.4 ns an element where a branch per element took 0.3-1.
    """
    height, width = products.shape
    words = (width + 7) // 8
    mask = np.zeros(words * 8, dtype=np.uint8)
    packed = mask.view(np.uint64)
    found = 0
    for i in range(height):
        lower, row = lower_rows[i], products[i]
        for j in range(width):
            mask[j] = row[j] >= min(lower, lower_columns[j])
        if found + width > limit and found + mask.sum() > limit:
            return DENSE
        for word in range(words):
            if packed[word]:
                for j in range(word * 8, word * 8 + 8):
                    codes[found] = i * width + j
                    found += int(mask[j])
    return found


@compiled
def collect_best(products: Float32Array, best: int, codes: Int32Array) -> int:
    """List the `best` pairs of every row of a tile multiplied with itself, and those equal to the last.

    Offering all pairs of the diagonal to heaps took as long as a third of the whole pass.
    """
    height, width = products.shape
    found = 0
    work = np.empty(width, dtype=np.float32)
    for i in range(height):
        row = products[i]
        lower = np.float32(-np.inf)
        if best < width - 1:
            work[:] = row
            work[i] = -np.inf
            lower = np.float32(_nth_largest(work, best))
        for j in range(width):
            codes[found] = i * width + j
            found += (row[j] >= lower) & (i != j)
    return found


@compiled
def _nth_largest(values: Float32Array, n: int) -> float:
    """Return the n-th largest value (n from 1); reorders `values`."""
    low, high = 0, len(values) - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if n - 1 <= j:
            high = j
        elif n - 1 >= i:
            low = i
        else:
            break
    return float(values[n - 1])


@compiled
def gather(products: Float32Array, codes: Int32Array, out: Float32Array) -> None:
    """Copy the products of the listed pairs."""
    flat = products.reshape(-1)
    for t in range(len(codes)):
        out[t] = flat[codes[t]]


@compiled(fastmath=IN_ANY_ORDER)
def dots(
    left: Float32Array,
    right: Float32Array,
    sides: tuple[Int32Array, Int32Array],
    codes: Int32Array,
    out: Float32Array,
) -> None:
    """Multiply the listed pairs of rows; `sides` tells where they stand in the two matrices.

    Four columns of one row at a time: its coordinates are loaded once (50 ns a product of 768 coordinates
    instead of 85).
    """
    rows, columns = sides
    width, d = len(columns), left.shape[1]
    t = 0
    while t < len(codes):
        i = codes[t] // width
        x = left[rows[i]]
        y0 = right[columns[codes[t] % width]]
        a = np.float32(0)
        if t + 3 < len(codes) and codes[t + 3] // width == i:
            y1 = right[columns[codes[t + 1] % width]]
            y2 = right[columns[codes[t + 2] % width]]
            y3 = right[columns[codes[t + 3] % width]]
            b, c, e = np.float32(0), np.float32(0), np.float32(0)
            for j in range(d):
                a += x[j] * y0[j]
                b += x[j] * y1[j]
                c += x[j] * y2[j]
                e += x[j] * y3[j]
            out[t], out[t + 1], out[t + 2], out[t + 3] = a, b, c, e
            t += 4
        else:
            for j in range(d):
                a += x[j] * y0[j]
            out[t] = a
            t += 1


@compiled
def keep_above(
    codes: Int32Array,
    sims: Float32Array,
    lower_rows: Float32Array,
    lower_columns: Float32Array,
) -> int:
    """Keep, in place, the listed pairs whose product reaches the lower of both thresholds."""
    width = len(lower_columns)
    kept = 0
    for t in range(len(codes)):
        code, s = codes[t], sims[t]
        codes[kept], sims[kept] = code, s
        kept += s >= min(lower_rows[code // width], lower_columns[code % width])
    return kept


@compiled
def merge_into_lists(
    codes: Int32Array,
    sims: Float32Array,
    rows: Int32Array,
    columns: Int32Array,
    list_rows: Int32Array,
    list_sims: Float32Array,
) -> None:
    """Offer every listed pair to the neighbour list of its row.

    A list is a heap with its worst entry first: the smallest product, among equals the largest row number.
    """
    width = len(columns)
    for t in range(len(codes)):
        i = rows[codes[t] // width]
        _offer(list_rows[i], list_sims[i], columns[codes[t] % width], sims[t])


@compiled
def merge_transposed(
    codes: Int32Array,
    sims: Float32Array,
    rows: Int32Array,
    columns: Int32Array,
    list_rows: Int32Array,
    list_sims: Float32Array,
) -> None:
    """Offer every listed pair to the neighbour list of its column."""
    width = len(columns)
    for t in range(len(codes)):
        j = columns[codes[t] % width]
        _offer(list_rows[j], list_sims[j], rows[codes[t] // width], sims[t])


@compiled
def _offer(heap_rows: Int32Array, heap_sims: Float32Array, row: int, s: float) -> None:
    if s < heap_sims[0] or (s == heap_sims[0] and row > heap_rows[0]):
        return
    size = len(heap_rows)
    hole = 0
    while True:
        child = 2 * hole + 1
        if child >= size:
            break
        other = child + 1
        if other < size and (
            heap_sims[other] < heap_sims[child]
            or (heap_sims[other] == heap_sims[child] and heap_rows[other] > heap_rows[child])
        ):
            child = other
        if heap_sims[child] > s or (heap_sims[child] == s and heap_rows[child] < row):
            break
        heap_sims[hole], heap_rows[hole] = heap_sims[child], heap_rows[child]
        hole = child
    heap_sims[hole], heap_rows[hole] = s, row


@compiled(fastmath=IN_ANY_ORDER)
def distance(x: Float32Array, y: Float32Array) -> float:
    """Chord length of two float32 rows, evaluated in float64."""
    total = 0.0
    for j in range(len(x)):
        difference = np.float64(x[j]) - np.float64(y[j])
        total += difference * difference
    return float(np.sqrt(total))


@compiled
def distances(vectors: Float32Array, u: IntArray, v: IntArray, out: FloatArray) -> None:
    """Chord lengths of pairs of rows."""
    for t in range(len(u)):
        out[t] = distance(vectors[u[t]], vectors[v[t]])


@compiled
def drop_dead_pairs(
    codes: Int32Array,
    cores: tuple[FloatArray, FloatArray],
    heights: tuple[FloatArray, FloatArray],
) -> int:
    """Keep, in place, the pairs of two tiles whose core distances leave room below their path maximum.

    The path maximum of a pair is the larger of its row's and its column's entry in `heights`.
    """
    width = len(cores[1])
    kept = 0
    for t in range(len(codes)):
        code = codes[t]
        i, j = code // width, code % width
        codes[kept] = code
        kept += max(cores[0][i], cores[1][j]) < max(heights[0][i], heights[1][j])
    return kept


@compiled
def collect_within(
    products: Float32Array,
    lower_gaps: Float32Array,
    gaps: FloatArray,
    cores: FloatArray,
    codes: Int32Array,
) -> int:
    """List the pairs i < j of one tile that may be lighter than the largest gap from i + 1 to j."""
    width = len(gaps)
    found = 0
    for i in range(width):
        lower, highest = np.float32(np.inf), 0.0
        for j in range(i + 1, width):
            lower, highest = min(lower, lower_gaps[j]), max(highest, gaps[j])
            codes[found] = i * width + j
            found += (products[i, j] >= lower) & (cores[i] < highest) & (cores[j] < highest)
    return found


@compiled
def light_pairs(
    vectors: Float32Array,
    sides: tuple[Int32Array, Int32Array],
    codes: Int32Array,
    cores: tuple[FloatArray, FloatArray],
    heights: tuple[FloatArray, FloatArray],
    out: FloatArray,
) -> int:
    """Keep, in place, the pairs of two tiles that are lighter than their path maximum, strictly, in float64.

    Their mutual reachability distances go to `out`.
    """
    width = len(sides[1])
    kept = 0
    for t in range(len(codes)):
        code = codes[t]
        i, j = code // width, code % width
        w = max(cores[0][i], cores[1][j], distance(vectors[sides[0][i]], vectors[sides[1][j]]))
        codes[kept], out[kept] = code, w
        kept += w < max(heights[0][i], heights[1][j])
    return kept


@compiled
def light_pairs_within(
    vectors: Float32Array,
    rows: Int32Array,
    codes: Int32Array,
    cores: FloatArray,
    gaps: FloatArray,
    out: FloatArray,
) -> int:
    """Do the same for pairs of one tile, which come in ascending order."""
    width = len(rows)
    kept = 0
    at, last, highest = -1, 0, 0.0
    for t in range(len(codes)):
        code = codes[t]
        i, j = code // width, code % width
        if i != at:
            at, last, highest = i, i, 0.0
        while last < j:
            last += 1
            highest = max(highest, gaps[last])
        w = max(cores[i], cores[j], distance(vectors[rows[i]], vectors[rows[j]]))
        codes[kept], out[kept] = code, w
        kept += w < highest
    return kept
