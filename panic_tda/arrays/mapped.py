"""Arrays in memory-mapped files, which may be larger than memory."""

from __future__ import annotations

import errno
import math
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from panic_tda.disk import free_text, make_own_folder
from panic_tda.errors import NoRoom
from panic_tda.paths import expand_home
from panic_tda.wording import format_bytes

_NOT_RESERVABLE = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
"""Errors of file systems that cannot reserve space."""


def new_array(shape: tuple[int, ...], dtype: DTypeLike, folder: Path | None) -> NDArray[Any]:
    """Return an array whose values are not set yet, in memory or in a file.

    Parameters
    ----------
    shape : tuple of int
    dtype : data type
    folder : Path or None
        None allocates memory. With a folder, the array is a memory map of a file without a name in that
        folder, which the system removes when the process ends. The folder is created if it does not exist. It
        must belong to the current user and must not be a link, unless it is the temporary folder.

    Raises
    ------
    NoRoom
        The file cannot be created; the message has its size and the options that help.
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
            # As an ordinary array, because compiled kernels do not accept np.memmap.
            return np.asarray(np.memmap(file, dtype=dtype, mode="w+", shape=shape))
    except OSError as error:
        raise NoRoom(
            f"a temporary file of {format_bytes(size)} could not be made in {folder} "
            f"({error.strerror}{free_text(folder)}): name another folder with --work-dir, raise or leave out "
            "--memory-limit, or cluster a sample with --downsample"
        ) from error


def _reserve(file: int, size: int) -> None:
    """Reserve the space on the disk: writing to a mapped file on a full disk kills the process (SIGBUS)."""
    if not size or not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno not in _NOT_RESERVABLE:
            raise
