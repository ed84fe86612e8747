"""Rows on their way into the memory of a CUDA device, and what to say when it does not hold them.

Batches are gathered in two page-locked buffers; while one is copied to the device by a stream of its own, the
other one is filled. CuPy is imported where somebody asks for device memory.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from panic_tda.arrays import rows
from panic_tda.devices import cuda
from panic_tda.devices.kernel_cache import translate_cache_errors
from panic_tda.errors import DeviceOutOfMemory
from panic_tda.parameters import format_bytes

if TYPE_CHECKING:
    from panic_tda.types import Array, BoolArray, Float32Array

STAGE_BYTES = 32 << 20
"""Size of a page-locked buffer: a copy takes a millisecond or two, beside which starting it is nothing."""

_log = logging.getLogger(__name__)


class Lane(Protocol):
    """A buffer in host memory, and the way from it into device memory."""

    buffer: Float32Array
    """(s, d); may be written once `wait` has returned."""

    def send(self, target: Array) -> None:
        """Begin to copy the first rows of the buffer into `target`, (m, d) float32 with m up to s."""

    def wait(self) -> None:
        """Return when what was sent has arrived."""


class DeviceRows:
    """A destination in device memory; see `destinations.Destination`.

    Parameters
    ----------
    n_rows, n_features : int
        Shape of the matrix, which is allocated at once.

    Raises
    ------
    MemoryError
        The device has no room for it.

    Notes
    -----
    Takes 4·n·d bytes of device memory, and in host memory two buffers of `STAGE_BYTES`. Putting the rows into
    order takes `rows.PERMUTE_BYTES` of device memory in addition, and what is done with them afterwards two
    or three times `rows.DEVICE_CHUNK_BYTES`.
    """

    def __init__(self, n_rows: int, n_features: int) -> None:
        self._matrix = _empty(n_rows, n_features)
        stage_rows = STAGE_BYTES // (4 * max(1, n_features))
        self._lanes = _open_lanes(max(1, min(stage_rows, n_rows)), n_features)
        self._turn = self._held = self._sent = 0

    def put(self, batch: Float32Array) -> None:
        """Add rows at the end; the array is free for other use afterwards."""
        while len(batch):
            lane = self._lanes[self._turn]
            # Its last copy may still read the buffer.
            lane.wait()
            buffer = lane.buffer
            some = batch[: len(buffer) - self._held]
            buffer[self._held : self._held + len(some)] = some
            self._held += len(some)
            batch = batch[len(some) :]
            if self._held == len(buffer):
                self._send()

    def finish(self) -> tuple[Array, BoolArray]:
        """Return the rows that were put, and which of them have a direction."""
        if self._held:
            self._send()
        self.close()
        matrix = self._matrix[: self._sent]
        return matrix, rows.usable(matrix)

    def close(self) -> None:
        """Return when no copy is under way: memory that is given back must not be written any more."""
        for lane in self._lanes:
            lane.wait()

    def _send(self) -> None:
        stop = self._sent + self._held
        self._lanes[self._turn].send(self._matrix[self._sent : stop])
        self._sent, self._held, self._turn = stop, 0, 1 - self._turn


def upload(vectors: Float32Array) -> Array:
    """Copy a matrix to the device."""
    with contextlib.closing(DeviceRows(*vectors.shape)) as destination:
        destination.put(vectors)
        return destination.finish()[0]


@contextlib.contextmanager
def explained(n_rows: int, n_features: int, backend: str) -> Iterator[None]:
    """Say of device memory that runs out in this context what was needed and free, and what would fit.

    Raises
    ------
    DeviceOutOfMemory
        In place of CuPy's own error; that of host memory passes.
    CannotWrite
        CuPy could not keep a compiled kernel.
    """
    free = cuda.free_bytes()
    try:
        with translate_cache_errors():
            yield
    except MemoryError as error:
        if not isinstance(error, _out_of_memory_error()):
            raise
        matrix = 4 * n_rows * n_features
        needed = matrix + rows.PERMUTE_BYTES + 2 * rows.DEVICE_CHUNK_BYTES
        factor = max(2, math.ceil(needed / max(1, free)))
        raise DeviceOutOfMemory(
            f"out of device memory ({error}): the {n_rows:,} × {n_features:,} rows alone are "
            f"{format_bytes(matrix)}, and {format_bytes(free)} were free before the work of backend "
            f"{backend} began; use --backend tiled (with --devices none --memory-limit SIZE it takes no "
            f"device memory at all), a smaller --min-samples, or --downsample {factor}"
        ) from error


def release() -> None:
    """Free what finished work has left in device memory, for the next model and for cuML's own pool."""
    if "cupy" not in sys.modules or cuda.unusable_because() is not None:
        return
    # CuPy's objects may hold arrays in a cycle. A collection takes 0.1 s and more, whatever was left.
    gc.collect()
    try:
        _free_pools()
    except Exception as error:
        # A broken device says so to whoever asks it next; here it must not cost a finished result.
        _log.warning("device memory could not be given back: %s", error)


class PinnedLane:
    """The lane of a CUDA device.

    Parameters
    ----------
    n_rows, n_features : int
        Shape of the buffer.
    stream : cupy.cuda.Stream
        Where copies are queued.
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
        """Wait for the copy, and not at all where none was queued; see `Lane`."""
        self._arrived.synchronize()


def _empty(n_rows: int, n_features: int) -> Array:
    import cupy

    matrix = cupy.empty((n_rows, n_features), dtype=cupy.float32)
    # The pool may give out memory that kernels of this stream are still at; the stream of the copies would
    # not wait for them.
    cupy.cuda.get_current_stream().synchronize()
    return matrix


def _open_lanes(n_rows: int, n_features: int) -> Sequence[Lane]:
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True)
    return [PinnedLane(n_rows, n_features, stream) for _ in range(2)]


def _free_pools() -> None:
    import cupy

    cupy.get_default_memory_pool().free_all_blocks()
    cupy.get_default_pinned_memory_pool().free_all_blocks()


def _out_of_memory_error() -> type[Exception]:
    import cupy

    error: type[Exception] = cupy.cuda.memory.OutOfMemoryError
    return error
