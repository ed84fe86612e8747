"""Transfer of rows into the memory of a CUDA device, and the error if they do not fit.

Batches are collected in two page-locked buffers. While one is copied to the device by a stream of its own,
the other one is filled. CuPy is imported only when device memory is used.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from panic_tda.arrays import rows
from panic_tda.devices import cuda
from panic_tda.devices.kernel_cache import translate_cache_errors
from panic_tda.errors import DeviceOutOfMemory
from panic_tda.types import Array, BoolArray, Float32Array
from panic_tda.wording import format_bytes

STAGE_BYTES = 32 << 20
"""Size of a page-locked buffer; its copy takes 1 to 2 ms, much longer than the start of a copy."""

_log = logging.getLogger(__name__)


class Lane(Protocol):
    """A buffer in host memory that is copied into device memory."""

    buffer: Float32Array
    """(s, d); may be written after `wait` has returned."""

    def send(self, target: Array) -> None:
        """Start to copy the first rows of the buffer into `target`, (m, d) float32 with m up to s."""

    def wait(self) -> None:
        """Wait until the last copy has finished."""


class DeviceRows:
    """A destination in device memory; see `destinations.Destination`.

    Parameters
    ----------
    n_rows, n_features : int
        Shape of the matrix, which is allocated at once.

    Raises
    ------
    MemoryError
        The device has too little free memory.

    Notes
    -----
    Takes 4·n·d bytes of device memory, and in host memory two buffers of `STAGE_BYTES`. Reordering the rows
    takes `rows.PERMUTE_BYTES` of device memory in addition, and later operations on them two or three times
    `rows.DEVICE_CHUNK_BYTES`.
    """

    def __init__(self, n_rows: int, n_features: int) -> None:
        self._matrix = allocate(n_rows, n_features)
        stage_rows = STAGE_BYTES // (4 * max(1, n_features))
        self._lanes = open_lanes(max(1, min(stage_rows, n_rows)), n_features)
        self._turn = self._n_buffered = self._n_sent = 0

    def put(self, batch: Float32Array) -> None:
        """Append rows; the caller may reuse the array afterwards."""
        while len(batch):
            lane = self._lanes[self._turn]
            # The last copy may still read the buffer.
            lane.wait()
            buffer = lane.buffer
            part = batch[: len(buffer) - self._n_buffered]
            buffer[self._n_buffered : self._n_buffered + len(part)] = part
            self._n_buffered += len(part)
            batch = batch[len(part) :]
            if self._n_buffered == len(buffer):
                self._send()

    def finish(self) -> tuple[Array, BoolArray]:
        """Return all rows, and whether each of them has a direction."""
        if self._n_buffered:
            self._send()
        self.close()
        matrix = self._matrix[: self._n_sent]
        return matrix, rows.has_direction(matrix)

    def close(self) -> None:
        """Wait for all copies, because freed memory must not be written."""
        for lane in self._lanes:
            lane.wait()

    def _send(self) -> None:
        stop = self._n_sent + self._n_buffered
        self._lanes[self._turn].send(self._matrix[self._n_sent : stop])
        self._n_sent, self._n_buffered, self._turn = stop, 0, 1 - self._turn


def upload(vectors: Float32Array) -> Array:
    """Copy a matrix to the device."""
    with contextlib.closing(DeviceRows(*vectors.shape)) as destination:
        destination.put(vectors)
        return destination.finish()[0]


@contextlib.contextmanager
def translate_out_of_memory(n_rows: int, n_features: int, backend: str) -> Iterator[None]:
    """Turn an out-of-memory error of CuPy in this context into an error with the sizes and a remedy.

    Raises
    ------
    DeviceOutOfMemory
        Instead of CuPy's own error; a MemoryError of the host is not changed.
    CannotWrite
        CuPy could not save a compiled kernel.
    """
    free = cuda.allocatable_bytes()
    try:
        with translate_cache_errors():
            yield
    except MemoryError as error:
        if not isinstance(error, import_memory_error()):
            raise
        matrix = 4 * n_rows * n_features
        needed = matrix + rows.PERMUTE_BYTES + 2 * rows.DEVICE_CHUNK_BYTES
        factor = max(2, math.ceil(needed / max(1, free)))
        without_device = "--devices none"
        if backend != "tiled":
            without_device = f"--backend tiled, or --backend tiled {without_device}"
        raise DeviceOutOfMemory(
            f"backend {backend} ran out of device memory ({error}): the {n_rows:,} × {n_features:,} rows "
            f"alone are {format_bytes(matrix)}, and {format_bytes(free)} were free before it began; use "
            f"{without_device} (no device memory; --memory-limit SIZE limits host memory), a smaller "
            f"--min-samples, or --downsample {factor}"
        ) from error


def free_device_memory() -> None:
    """Free the device memory of finished work, for the next model and for cuML, which has its own pool."""
    if "cupy" not in sys.modules or cuda.unavailable_reason() is not None:
        return
    # CuPy's objects may hold arrays in reference cycles. A collection takes at least 0.1 s.
    gc.collect()
    try:
        free_pools()
    except Exception as error:
        # The next use of a broken device raises an error; here it must not discard a finished result.
        _log.warning("device memory could not be freed: %s", error)


class PinnedLane:
    """The lane of a CUDA device.

    Parameters
    ----------
    n_rows, n_features : int
        Shape of the buffer.
    stream : cupy.cuda.Stream
        The stream of the copies.
    """

    def __init__(self, n_rows: int, n_features: int, stream: Any) -> None:
        import cupy
        import cupyx

        self.buffer: Float32Array = cupyx.empty_pinned((n_rows, n_features), dtype=np.float32)
        self._stream = stream
        self._arrived = cupy.cuda.Event(disable_timing=True)

    def send(self, target: Array) -> None:
        """Queue the copy; see `Lane`."""
        target.data.copy_from_host_async(self.buffer.ctypes.data, target.nbytes, self._stream)
        self._arrived.record(self._stream)

    def wait(self) -> None:
        """Wait for the last copy, if there is one; see `Lane`."""
        self._arrived.synchronize()


def allocate(n_rows: int, n_features: int) -> Array:
    import cupy

    matrix = cupy.empty((n_rows, n_features), dtype=cupy.float32)
    # The pool may return memory that kernels of this stream still use. The stream of the copies would not
    # wait for these kernels.
    cupy.cuda.get_current_stream().synchronize()
    return matrix


def open_lanes(n_rows: int, n_features: int) -> Sequence[Lane]:
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True)
    return [PinnedLane(n_rows, n_features, stream) for _ in range(2)]


def free_pools() -> None:
    import cupy

    cupy.get_default_memory_pool().free_all_blocks()
    cupy.get_default_pinned_memory_pool().free_all_blocks()


def import_memory_error() -> type[Exception]:
    import cupy

    error: type[Exception] = cupy.cuda.memory.OutOfMemoryError
    return error
