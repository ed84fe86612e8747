"""Arrays that may be larger than memory."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import DTypeLike, NDArray


def new_array(shape: tuple[int, ...], dtype: DTypeLike, folder: Path | None) -> NDArray[Any]:
    """Return an array whose values are not set yet, in memory or in a file.

    Parameters
    ----------
    shape : tuple of int
    dtype : data type
    folder : Path or None
        None takes memory. A folder, made where there is none, takes a file without a name, which is mapped
        into memory: however the process ends, nothing is left of it.
    """
    if folder is None:
        return np.empty(shape, dtype=dtype)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        # A plain view: compiled kernels take memory maps only as ordinary arrays.
        return np.asarray(np.memmap(file, dtype=dtype, mode="w+", shape=shape))
