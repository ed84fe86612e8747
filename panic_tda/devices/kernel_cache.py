"""The folder in which CuPy saves compiled kernels, chosen before CuPy is imported.

CuPy creates the folder when it is imported, even if kernels are kept in memory, and the import fails if the
folder cannot be created. Kernels are written to it when they are first used, in the middle of a fit.
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
REMEDY = f"set {FOLDER_VARIABLE} to a folder that can be written and has space, or {MEMORY_VARIABLE}=1"
_PRIVATE = 0o700

_log = logging.getLogger(__name__)


def choose_cache_folder() -> None:
    """Make CuPy save its kernels in a folder that can be written, or keep them in memory.

    The first of these folders that can be written is used: that of `CUPY_CACHE_DIR`, by default CuPy's folder
    in the home folder; a folder in `XDG_CACHE_HOME`; a folder of this user in the folder for temporary files.
    The environment is changed only if the first one cannot be written, and never after CuPy is imported.
    """
    if "cupy" in sys.modules:
        return
    usual = Path(os.environ.get(FOLDER_VARIABLE) or os.path.expanduser("~/.cupy/kernel_cache"))
    if _can_write(usual):
        return
    for folder in _list_other_folders():
        if _can_write(folder):
            os.environ[FOLDER_VARIABLE] = str(folder)
            _log.info("%s cannot be written: CuPy saves compiled kernels in %s", usual, folder)
            return
    # The folder only has to exist, because nothing is written to it.
    os.environ |= {MEMORY_VARIABLE: "1", FOLDER_VARIABLE: os.sep}
    _log.warning("%s cannot be written: every run compiles its CUDA kernels again; %s", usual, REMEDY)


@contextmanager
def translate_cache_errors() -> Iterator[None]:
    """Turn an OSError of CuPy's kernel cache in this context into an error with a remedy.

    Raises
    ------
    CannotWrite
        Instead of an OSError that CuPy raised; other errors are not changed.
    """
    try:
        yield
    except OSError as error:
        if not _comes_from_cupy(error.__traceback__):
            raise
        raise CannotWrite(f"CuPy's cache of compiled kernels failed ({error}); {REMEDY}") from error


def is_cache_error(error: Exception) -> bool:
    """Return whether importing CuPy failed because of a file or folder, not because of a missing library."""
    return isinstance(error, OSError) and error.errno is not None


def _list_other_folders() -> Iterator[Path]:
    if cache_home := os.environ.get("XDG_CACHE_HOME"):
        yield Path(cache_home) / "cupy" / "kernel_cache"
    private = (
        Path(tempfile.gettempdir()) / f"panic_tda-cupy-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    )
    if _is_private(private):
        yield private


def _is_private(folder: Path) -> bool:
    """Create a folder where all users can write, and return whether it is private to this user."""
    try:
        folder.mkdir(mode=_PRIVATE, exist_ok=True)
        state = folder.lstat()
    except OSError:
        return False
    is_own = not hasattr(os, "getuid") or state.st_uid == os.getuid()
    return is_own and stat.S_ISDIR(state.st_mode) and not stat.S_IMODE(state.st_mode) & ~_PRIVATE


def _can_write(folder: Path) -> bool:
    # By writing: permissions do not cover the superuser, nor file systems that are mounted read-only.
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
