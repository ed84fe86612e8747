"""Where the rows of a matrix go while they are read: what every destination does, and that in host memory.

The one in device memory is `device.DeviceRows`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from panic_tda.arrays import rows
from panic_tda.arrays.mapped import new_array

if TYPE_CHECKING:
    from panic_tda.types import Array, BoolArray, Float32Array


class Destination(Protocol):
    """Where the rows of a matrix go, batch by batch."""

    def put(self, batch: Float32Array) -> None:
        """Add rows at the end; the array is free for other use afterwards."""

    def finish(self) -> tuple[Array, BoolArray]:
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
        fits = memory_limit is None or 4 * n_rows * n_features <= memory_limit
        folder = None if fits else work_dir or Path(tempfile.gettempdir())
        self._vectors = new_array((n_rows, n_features), np.float32, folder)
        self._valid = np.empty(n_rows, dtype=bool)
        self._filled = 0

    def put(self, batch: Float32Array) -> None:
        """Add rows, and look at them while they are in the processor's cache; see `Destination`."""
        some = slice(self._filled, self._filled + len(batch))
        self._vectors[some] = batch
        self._valid[some] = rows.has_direction(self._vectors[some])
        self._filled = some.stop

    def finish(self) -> tuple[Array, BoolArray]:
        """Return the rows, and which are a direction; see `Destination`."""
        return self._vectors[: self._filled], self._valid[: self._filled]

    def close(self) -> None:
        """Do nothing: nothing is under way between two calls."""
