"""Kernels in CUDA C++, for arrays of CuPy; compiled when first used."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from panic_tda.errors import InvalidParameter

if TYPE_CHECKING:
    from panic_tda.types import Array

COLLECT = r"""
extern "C" __global__ void collect(const float* products, const float* lower_rows, const float* lower_columns,
                                   const int width, const long long limit, int* codes,
                                   unsigned long long* found)
{
    // blockIdx.y is the row of the tile; several blocks of threads may share a row.
    const int i = blockIdx.y;
    const float lower = lower_rows[i];
    const float* row = products + (long long)i * width;
    for (int j = blockIdx.x * blockDim.x + threadIdx.x; j < width; j += gridDim.x * blockDim.x) {
        if (row[j] >= fminf(lower, lower_columns[j])) {
            const unsigned long long place = atomicAdd(found, 1ULL);
            if (place < (unsigned long long)limit) codes[place] = i * width + j;
        }
    }
}
"""
MAX_PAIRS, MAX_ROWS = 2**31 - 1, 65_535
"""Pairs of a tile that an int32 can number, and rows that the second dimension of a grid can have."""
THREADS = 256
"""Threads of a block."""
_FIRST_LIMIT = 1 << 20


def grid(height: int, width: int) -> tuple[int, int]:
    """Return the grid of a tile: up to four blocks of `THREADS` threads per row, and its rows."""
    return min(4, -(-width // THREADS)), height


def require_indexable_pairs(height: int, width: int) -> None:
    """Check that the kernel can index the rows and the pairs of a tile.

    Raises
    ------
    InvalidParameter
        The tile has too many rows or pairs.
    """
    if height * width > MAX_PAIRS or height > MAX_ROWS:
        raise InvalidParameter(
            f"a tile may have up to {MAX_ROWS:,} rows and {MAX_PAIRS:,} pairs; got {height:,} × {width:,}; "
            "use smaller tiles"
        )


@cache
def _compile_kernel() -> Any:
    import cupy

    return cupy.RawKernel(COLLECT, "collect")


def collect(products: Array, lower_rows: Array, lower_columns: Array, limit: int) -> Array:
    """List the pairs as `device.collect` does, in one pass over the products if there are few, else in two.

    The first buffer holds few pair indices. If there are more pairs, a second pass writes them all. Threads
    write in any order, so the pair indices are sorted.
    """
    import cupy

    height, width = products.shape
    require_indexable_pairs(height, width)
    # The kernel takes plain pointers: contiguous arrays of float32 only.
    products, lower_rows, lower_columns = (
        cupy.ascontiguousarray(array, dtype=cupy.float32) for array in (products, lower_rows, lower_columns)
    )
    room = min(limit, _FIRST_LIMIT)
    while True:
        pair_indices, counter = cupy.empty(room, dtype=cupy.int32), cupy.zeros(1, dtype=cupy.uint64)
        _compile_kernel()(
            grid(height, width),
            (THREADS,),
            (products, lower_rows, lower_columns, cupy.int32(width), cupy.int64(room), pair_indices, counter),
        )
        count = int(counter[0])
        if count > limit:
            return None
        if not count:
            return pair_indices[:0]
        if count <= room:
            return cupy.sort(pair_indices[:count])
        room = count
