"""Rows of tasks in device memory, where the blocks that a process used last are kept.

A task never relies on them: what is not there is read from its file. Names of files contain a digest of the
rows and their order, so that a kept block is never out of date.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import cache
from typing import TYPE_CHECKING

from panic_tda.arrays.namespace import device_library
from panic_tda.clustering.tiled.contract import Space
from panic_tda.clustering.tiled.space import require_float32_precision, select_kernels
from panic_tda.devices import cuda
from panic_tda.errors import UnsupportedOnBackend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from panic_tda.clustering.tiled.row_files import MatrixFile, RowFiles
    from panic_tda.types import Array, ArrayModule

KEPT_SHARE = 0.5
"""Share of the free device memory for kept blocks; the rest is for the task that runs."""


class BlockCache:
    """Blocks of rows in device memory; the one that was used longest ago goes first.

    Parameters
    ----------
    xp : module
        CuPy.
    capacity : int
        Bytes that the blocks may take. A larger block is not kept.
    """

    def __init__(self, xp: ArrayModule, capacity: int) -> None:
        self._xp, self._capacity, self._n_bytes = xp, capacity, 0
        self._blocks: OrderedDict[tuple[MatrixFile, tuple[int, int]], Array] = OrderedDict()

    def read(self, file: MatrixFile, ranges: Sequence[tuple[int, int]]) -> Array:
        """Return ranges of rows of a file, one below the other; see `row_files.MatrixFile.read`."""
        blocks = [self._read_block(file, block) for block in ranges]
        return blocks[0] if len(blocks) == 1 else self._xp.concatenate(blocks)

    def _read_block(self, file: MatrixFile, block: tuple[int, int]) -> Array:
        key = file, block
        if key in self._blocks:
            self._blocks.move_to_end(key)
            return self._blocks[key]
        rows = file.read([block])
        # Before the upload, so that both never take memory at the same time.
        while self._blocks and self._n_bytes + rows.nbytes > self._capacity:
            self._n_bytes -= self._blocks.popitem(last=False)[1].nbytes
        matrix = self._xp.asarray(rows)
        if rows.nbytes <= self._capacity:
            self._blocks[key] = matrix
            self._n_bytes += rows.nbytes
        return matrix

    @property
    def free_bytes(self) -> int:
        """Bytes that further blocks may take."""
        return self._capacity - self._n_bytes


def require_device() -> None:
    """Check that this process can use a CUDA device, and choose the folder of its compiled kernels.

    Raises
    ------
    UnsupportedOnBackend
        It cannot, as a worker may that joined the others after the fit began.
    """
    if (reason := cuda.unavailable_reason()) is not None:
        raise UnsupportedOnBackend(f"a worker has no CUDA device, unlike the others: {reason}")


@cache
def open_cache() -> BlockCache:
    """Return the cache of this process, which one thread uses at a time."""
    return BlockCache(device_library(), int(KEPT_SHARE * cuda.allocatable_bytes()))


def count_free_bytes() -> int:
    """Return the bytes of device memory that a task of this process may take."""
    return cuda.allocatable_bytes() - open_cache().free_bytes


def read_space(files: RowFiles, ranges: Sequence[tuple[int, int]]) -> Space:
    """Read the rows of ranges of positions into device memory.

    Raises
    ------
    PanicTdaError
        The device multiplies with less than float32 precision.
    """
    xp, blocks = device_library(), open_cache()
    vectors = blocks.read(files.vectors, ranges)
    require_float32_precision(xp, vectors, files.margin)
    coordinates = blocks.read(files.coordinates, ranges) if files.bounded else vectors
    return Space(vectors, coordinates, files.bounded, files.margin, files.slack, xp, select_kernels(xp))


def read_search_space(
    files: RowFiles, positions: tuple[int, int], query_rows: MatrixFile, rows: tuple[int, int]
) -> Space:
    """Read a range of positions and, below it, other rows into device memory; see `read_space`."""
    xp = device_library()
    block = open_cache().read(files.vectors, [positions])
    vectors = xp.concatenate([block, xp.asarray(query_rows.read([rows]))])
    require_float32_precision(xp, vectors, files.margin)
    return Space(vectors, vectors, False, files.margin, 0.0, xp, select_kernels(xp))
