"""Where the rows of a matrix go while they are read: what every destination does, and that in host memory.

The one in device memory is `device_memory.DeviceRows`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from panic_tda.arrays import rows

if TYPE_CHECKING:
    from panic_tda.types import BoolArray, Float32Array


class Destination(Protocol):
    """Where the rows of a matrix go, batch by batch."""

    def put(self, batch: Float32Array) -> None:
        """Add rows at the end; the array is free for other use afterwards."""

    def finish(self) -> tuple[Any, BoolArray]:
        """Return the rows that were put, (n, d) float32, and which of them are a direction, (n,) bool."""

    def close(self) -> None:
        """End whatever still reads or writes memory of the destination."""


class HostRows:
    """A destination in host memory, or in a file that is mapped into it.

    Parameters
    ----------
    n_rows, n_features : int
        Shape of the matrix, which is allocated at once.
    memory_limit : int, optional
        A matrix of more bytes is a memory map of a temporary file, so that it may be larger than memory.
    work_dir : Path, optional
        Folder for that file; None takes the temporary folder.
    """

    def __init__(
        self,
        n_rows: int,
        n_features: int,
        *,
        memory_limit: int | None = None,
        work_dir: Path | None = None,
    ) -> None:
        self._vectors = _new_matrix((n_rows, n_features), memory_limit, work_dir)
        self._valid = np.empty(n_rows, dtype=bool)
        self._filled = 0

    def put(self, batch: Float32Array) -> None:
        """Add rows, and look at them while they are in the processor's cache; see `Destination`."""
        some = slice(self._filled, self._filled + len(batch))
        self._vectors[some] = batch
        self._valid[some] = rows.usable(self._vectors[some])
        self._filled = some.stop

    def finish(self) -> tuple[Any, BoolArray]:
        """Return the rows, and which are a direction; see `Destination`."""
        return self._vectors[: self._filled], self._valid[: self._filled]

    def close(self) -> None:
        """Do nothing: nothing is under way between two calls."""


def _new_matrix(shape: tuple[int, int], memory_limit: int | None, work_dir: Path | None) -> Float32Array:
    if memory_limit is None or 4 * shape[0] * shape[1] <= memory_limit:
        return np.empty(shape, dtype=np.float32)
    if work_dir is not None:
        work_dir.mkdir(parents=True, exist_ok=True)
    # The file has no name: however the process ends, nothing is left of it.
    with tempfile.TemporaryFile(dir=work_dir) as file:
        return np.asarray(np.memmap(file, dtype=np.float32, shape=shape))
