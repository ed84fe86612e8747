"""Where CuPy keeps compiled kernels: a folder that can be written, chosen before CuPy is imported.

CuPy makes the folder when it is imported, even where kernels are to be kept in memory, and cannot be imported
where that fails. Kernels are written to it whenever one is first used, in the middle of a fit.
"""

from __future__ import annotations

import logging
import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from panic_tda.errors import CannotWrite

FOLDER_VARIABLE, MEMORY_VARIABLE = "CUPY_CACHE_DIR", "CUPY_CACHE_IN_MEMORY"
REMEDY = f"set {FOLDER_VARIABLE} to a folder that can be written, with room, or {MEMORY_VARIABLE}=1"
_PRIVATE = 0o700

_log = logging.getLogger(__name__)


def choose_cache_folder() -> None:
    """Point CuPy to a folder for its kernels that can be written, or have it keep them in memory.

    Taken is the first of: the folder that `CUPY_CACHE_DIR` names, or else CuPy's in the home folder; one in
    `XDG_CACHE_HOME`; and one of this user's in the folder for temporary files. The environment is changed
    only where the first cannot be written, and not at all once CuPy is imported.
    """
    if "cupy" in sys.modules:
        return
    named = os.environ.get(FOLDER_VARIABLE)
    usual = Path(named or os.path.expanduser("~/.cupy/kernel_cache"))
    if _can_write(usual):
        return
    for folder in _other_folders():
        if _can_write(folder):
            os.environ[FOLDER_VARIABLE] = str(folder)
            _log.info("%s cannot be written: CuPy keeps compiled kernels in %s", usual, folder)
            return
    # It only has to be there, since nothing is written to it.
    os.environ |= {MEMORY_VARIABLE: "1", FOLDER_VARIABLE: os.sep}
    _log.warning("%s cannot be written: every run compiles its CUDA kernels anew; %s", usual, REMEDY)


@contextmanager
def translate_cache_errors() -> Iterator[None]:
    """Say of a kernel that CuPy could not write or read in this context what to do.

    Raises
    ------
    CannotWrite
        In place of an OSError that comes from CuPy; others pass.
    """
    try:
        yield
    except OSError as error:
        if not _comes_from_cupy(error.__traceback__):
            raise
        raise CannotWrite(f"CuPy's cache of compiled kernels failed ({error}); {REMEDY}") from error


def is_cache_error(error: Exception) -> bool:
    """Tell whether importing CuPy failed because of a file or folder, and not for want of a library."""
    return isinstance(error, OSError) and error.errno is not None


def _other_folders() -> Iterator[Path]:
    if cache_home := os.environ.get("XDG_CACHE_HOME"):
        yield Path(cache_home) / "cupy" / "kernel_cache"
    private = (
        Path(tempfile.gettempdir()) / f"panic_tda-cupy-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    )
    if _is_private(private):
        yield private


def _is_private(folder: Path) -> bool:
    """Make a folder in a place where anybody may write, and tell whether nobody else can write to it."""
    try:
        folder.mkdir(mode=_PRIVATE, exist_ok=True)
        state = folder.lstat()
    except OSError:
        return False
    is_own = not hasattr(os, "getuid") or state.st_uid == os.getuid()
    return is_own and stat.S_ISDIR(state.st_mode) and not stat.S_IMODE(state.st_mode) & ~_PRIVATE


def _can_write(folder: Path) -> bool:
    # Tried, since permissions do not say it all: of the superuser, of file systems mounted read-only.
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
            file.flush()
    except OSError:
        return False
    return True


def _comes_from_cupy(traceback: TracebackType | None) -> bool:
    while traceback is not None:
        if str(traceback.tb_frame.f_globals.get("__name__")).partition(".")[0] == "cupy":
            return True
        traceback = traceback.tb_next
    return False
