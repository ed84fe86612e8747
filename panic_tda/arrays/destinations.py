"""Destinations, which collect rows that are read in batches into one matrix.

`HostRows` collects them in host memory or in a file, `device.DeviceRows` in device memory.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Protocol

import numpy as np

from panic_tda.arrays import rows
from panic_tda.arrays.mapped import new_array
from panic_tda.types import Array, BoolArray, Float32Array


class Destination(Protocol):
    """A matrix that is filled batch by batch."""

    def put(self, batch: Float32Array) -> None:
        """Append rows; the caller may reuse the array afterwards."""

    def finish(self) -> tuple[Array, BoolArray]:
        """Return all rows, (n, d) float32, and whether each of them has a direction, (n,) bool."""

    def close(self) -> None:
        """End all transfers that still read or write memory of the destination."""


class HostRows:
    """A destination in host memory, or in a memory-mapped file.

    Parameters
    ----------
    n_rows, n_features : int
        Shape of the matrix, which is allocated at once.
    memory_limit : int, optional
        A matrix of more bytes is a memory map of a temporary file, so that it may be larger than memory.
    work_dir : Path, optional
        Folder for that file; None is the temporary folder.
    zeros_allowed : bool
        Whether rows of zeros are valid.
    """

    def __init__(
        self,
        n_rows: int,
        n_features: int,
        *,
        memory_limit: int | None = None,
        work_dir: Path | None = None,
        zeros_allowed: bool = False,
    ) -> None:
        self._zeros_allowed = zeros_allowed
        fits = memory_limit is None or 4 * n_rows * n_features <= memory_limit
        folder = None if fits else work_dir or Path(tempfile.gettempdir())
        self._vectors = new_array((n_rows, n_features), np.float32, folder)
        self._valid = np.empty(n_rows, dtype=bool)
        self._filled = 0

    def put(self, batch: Float32Array) -> None:
        """Append rows, and check their direction while they are in the processor's cache."""
        added = slice(self._filled, self._filled + len(batch))
        self._vectors[added] = batch
        self._valid[added] = rows.has_direction(self._vectors[added])
        if self._zeros_allowed:
            self._valid[added] |= ~self._vectors[added].any(axis=1)
        self._filled = added.stop

    def finish(self) -> tuple[Array, BoolArray]:
        """Return all rows, and whether each of them has a direction."""
        return self._vectors[: self._filled], self._valid[: self._filled]

    def close(self) -> None:
        """Do nothing, because no transfer is running between two calls."""
