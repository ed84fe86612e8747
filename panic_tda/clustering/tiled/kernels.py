"""Compiled inner loops of the tile passes, on NumPy arrays.

All of them release the interpreter lock, so that worker threads process tiles in parallel. `pair_indices` are
packed pair indices, `i * width + j` in a tile of `width` rows. A kernel that lists pairs writes them to the
front of a buffer and returns their number; a kernel that reads them takes only that front.

A number's type is written down where NumPy's scalars and the compiler would choose different ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from panic_tda.clustering.compiled import IN_ANY_ORDER, compiled

if TYPE_CHECKING:
    from panic_tda.types import Float32Array, FloatArray, Int32Array, IntArray

_GROUPS_PER_BEST = 2
"""Groups of the values of a row of a tile, per value that is looked for: about a third too many are left."""


@compiled
def take(vectors: Float32Array, rows: Int32Array, out: Float32Array) -> None:
    """Copy `rows` of a matrix into a buffer."""
    for i in range(len(rows)):
        out[i] = vectors[rows[i]]


@compiled
def collect_best(products: Float32Array, first: int, best: int, pair_indices: Int32Array) -> int:
    """List the `best` pairs of some rows of a tile with the others of it, and those equal to the last.

    `products` are those of row `first` and on with all rows of the tile.
    Offering all pairs of the diagonal to heaps took as long as a third of the whole pass.
    """
    height, width = products.shape
    n_groups = min(_GROUPS_PER_BEST * best, width)
    row, values = np.empty(width, dtype=np.float32), np.empty(width, dtype=np.float32)
    columns, largest = np.empty(width, dtype=np.int32), np.empty(n_groups, dtype=np.float32)
    n_pairs = 0
    for i in range(height):
        row[:] = products[i]
        row[first + i] = -np.inf
        # The n-th largest of the groups' largest values is not above the n-th largest of all.
        largest[:] = row[:n_groups]
        for begin in range(n_groups, width, n_groups):
            for j in range(min(n_groups, width - begin)):
                largest[j] = row[begin + j] if row[begin + j] > largest[j] else largest[j]
        lower = np.float32(_nth_largest(largest, min(best, n_groups)))
        n_values = 0
        for j in range(width):
            values[n_values], columns[n_values] = row[j], j
            n_values += row[j] >= lower
        if best < width - 1:
            row[:n_values] = values[:n_values]
            lower = np.float32(_nth_largest(row[:n_values], best))
        for t in range(n_values):
            pair_indices[n_pairs] = (first + i) * width + columns[t]
            n_pairs += (values[t] >= lower) & (columns[t] != first + i)
    return n_pairs


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
def gather(products: Float32Array, first: int, pair_indices: Int32Array, out: Float32Array) -> None:
    """Copy the products of the listed pairs."""
    width = products.shape[1]
    for t in range(len(pair_indices)):
        out[t] = products[pair_indices[t] // width - first, pair_indices[t] % width]


@compiled
def merge_into_lists(
    pair_indices: Int32Array,
    sims: Float32Array,
    rows: Int32Array,
    columns: Int32Array,
    list_rows: Int32Array,
    list_sims: Float32Array,
) -> None:
    """Offer every listed pair to the neighbour list of its row.

    A list is a heap with its worst entry first: the smallest product, among equals the largest row number.
    The pairs of a row follow each other. Where they fill an empty list, they are made a heap at once.
    """
    width, length = len(columns), list_rows.shape[1]
    t = 0
    while t < len(pair_indices):
        local = pair_indices[t] // width
        i, last = rows[local], t + length - 1
        is_filled = last < len(pair_indices) and pair_indices[last] // width == local
        if is_filled and np.all(list_sims[i] == -np.inf):
            for entry in range(length):
                list_rows[i, entry], list_sims[i, entry] = columns[pair_indices[t] % width], sims[t]
                t += 1
            for entry in range(length // 2 - 1, -1, -1):
                _sift_down(list_rows[i], list_sims[i], entry, list_rows[i, entry], list_sims[i, entry])
        else:
            push_to_list(list_rows[i], list_sims[i], columns[pair_indices[t] % width], sims[t])
            t += 1


@compiled
def push_to_list(heap_rows: Int32Array, heap_sims: Float32Array, row: int, s: float) -> None:
    """Offer a neighbour to a list, a heap with its worst entry first."""
    if s < heap_sims[0] or (s == heap_sims[0] and row > heap_rows[0]):
        return
    _sift_down(heap_rows, heap_sims, 0, row, s)


@compiled
def _sift_down(heap_rows: Int32Array, heap_sims: Float32Array, hole: int, row: int, s: float) -> None:
    """Enter a neighbour at `hole` of a heap, or below it; entries that are worse rise."""
    size = len(heap_rows)
    while True:
        child = 2 * hole + 1
        if child >= size:
            break
        sibling = child + 1
        if sibling < size and (
            heap_sims[sibling] < heap_sims[child]
            or (heap_sims[sibling] == heap_sims[child] and heap_rows[sibling] > heap_rows[child])
        ):
            child = sibling
        if heap_sims[child] > s or (heap_sims[child] == s and heap_rows[child] < row):
            break
        heap_sims[hole], heap_rows[hole] = heap_sims[child], heap_rows[child]
        hole = child
    heap_sims[hole], heap_rows[hole] = s, row


@compiled
def merge_entries(
    owners: Int32Array,
    others: Int32Array,
    sims: Float32Array,
    rows: Int32Array,
    list_rows: Int32Array,
    list_sims: Float32Array,
) -> None:
    """Enter the results of a task into the lists; entries that a list has already are skipped.

    `owners` and `others` are indices into `rows`. A neighbour that stood twice in a list would make the core
    distance too small.
    """
    for t in range(len(owners)):
        i, neighbour = rows[owners[t]], rows[others[t]]
        if sims[t] < list_sims[i, 0]:
            continue
        is_new = True
        for entry in range(list_rows.shape[1]):
            is_new &= list_rows[i, entry] != neighbour
        if is_new:
            push_to_list(list_rows[i], list_sims[i], neighbour, sims[t])


@compiled(fastmath=IN_ANY_ORDER)
def product(x: Float32Array, y: Float32Array) -> np.float32:
    """Multiply two rows in single precision."""
    total = np.float32(0)
    for j in range(len(x)):
        total += x[j] * y[j]
    return total


@compiled(fastmath=IN_ANY_ORDER)
def distance(x: Float32Array, y: Float32Array) -> float:
    """Return the chord length of two float32 rows, evaluated in float64."""
    total = 0.0
    for j in range(len(x)):
        difference = np.float64(x[j]) - np.float64(y[j])
        total += difference * difference
    return float(np.sqrt(total))


@compiled
def distances(vectors: Float32Array, u: IntArray, v: IntArray, out: FloatArray) -> None:
    """Measure the chord lengths of pairs of rows."""
    for t in range(len(u)):
        out[t] = distance(vectors[u[t]], vectors[v[t]])


@compiled
def collect_within(
    products: Float32Array,
    first: int,
    lower_products: Float32Array,
    merge_heights: FloatArray,
    cores: FloatArray,
    pair_indices: Int32Array,
) -> int:
    """List the pairs i < j of a tile, i from `first` on, that may be below the merge heights between them.

    `products` are those of row `first` and on with themselves and the rows after them.
    """
    width = len(merge_heights)
    n_pairs = 0
    for i in range(first, first + len(products)):
        lower, highest = np.float32(np.inf), 0.0
        for j in range(i + 1, width):
            lower, highest = min(lower, lower_products[j]), max(highest, merge_heights[j])
            pair_indices[n_pairs] = i * width + j
            n_pairs += (products[i - first, j - first] >= lower) & (cores[i] < highest) & (cores[j] < highest)
    return n_pairs


@compiled
def filter_improving_within(
    vectors: Float32Array,
    rows: Int32Array,
    pair_indices: Int32Array,
    cores: FloatArray,
    merge_heights: FloatArray,
    out: FloatArray,
) -> int:
    """Keep the pairs whose distance in float64 is below the path maximum; `pair_indices` ascend.

    Writes them to the front of `pair_indices`, their heights to `out`, and returns their number.
    """
    width = len(rows)
    n_improving = 0
    at, last, highest = -1, 0, 0.0
    for t in range(len(pair_indices)):
        pair_index = pair_indices[t]
        i, j = pair_index // width, pair_index % width
        if i != at:
            at, last, highest = i, i, 0.0
        while last < j:
            last += 1
            highest = max(highest, merge_heights[last])
        w = max(cores[i], cores[j], distance(vectors[rows[i]], vectors[rows[j]]))
        pair_indices[n_improving], out[n_improving] = pair_index, w
        n_improving += w < highest
    return n_improving
