"""Arrays that may be larger than memory."""

from __future__ import annotations

import errno
import math
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from panic_tda.disk import free_text, make_own_folder
from panic_tda.errors import NoRoom
from panic_tda.parameters import format_bytes
from panic_tda.paths import expand_home

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

_NOT_RESERVABLE = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
"""What file systems say that know no reserving."""


def new_array(shape: tuple[int, ...], dtype: DTypeLike, folder: Path | None) -> NDArray[Any]:
    """Return an array whose values are not set yet, in memory or in a file.

    Parameters
    ----------
    shape : tuple of int
    dtype : data type
    folder : Path or None
        None takes memory. A folder, made where there is none, takes a file without a name, which is mapped
        into memory: however the process ends, nothing is left of it. It must be our own user's and no link,
        unless it is the temporary folder.

    Raises
    ------
    NoRoom
        The folder cannot take the file; the message says how much it was, and which options help.
    """
    if folder is None:
        return np.empty(shape, dtype=dtype)
    size = math.prod(shape) * np.dtype(dtype).itemsize
    folder = expand_home(folder)
    try:
        if folder != Path(tempfile.gettempdir()):
            make_own_folder(folder)
        with tempfile.TemporaryFile(dir=folder) as file:
            _reserve(file.fileno(), size)
            # A plain view: compiled kernels take memory maps only as ordinary arrays.
            return np.asarray(np.memmap(file, dtype=dtype, mode="w+", shape=shape))
    except OSError as error:
        raise NoRoom(
            f"a temporary file of {format_bytes(size)} could not be made in {folder} "
            f"({error.strerror}{free_text(folder)}): name another folder with --work-dir, raise or leave out "
            "--memory-limit, or cluster a sample with --downsample"
        ) from error


def _reserve(file: int, size: int) -> None:
    """Take the space on the disk: where none is left, writing to a mapped file kills the process (SIGBUS)."""
    if not size or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno not in _NOT_RESERVABLE:
            raise
