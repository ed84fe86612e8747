"""Disks: what outlasts a machine that stops, and what room there is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from panic_tda.errors import MissingPath
from panic_tda.parameters import format_bytes


def resolve_path(path: Path) -> Path:
    """Return the absolute path without symbolic links.

    Raises
    ------
    MissingPath
        Its symbolic links lead in a circle.
    """
    try:
        return path.resolve()
    except (RuntimeError, OSError) as error:  # RuntimeError up to Python 3.12
        raise MissingPath(f"{path} cannot be followed: its symbolic links lead in a circle") from error


def require_regular_file(path: Path, advice: str = "name a regular file") -> None:
    """Check that what has this name, if anything, is a file: opening a pipe waits for ever.

    Raises
    ------
    MissingPath
        It is a folder, a pipe, a socket or a device.
    """
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a pipe, a socket or a device"
        raise MissingPath(f"{path} is {kind}; {advice}")


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk: a file that was renamed there keeps its new name.

    Raises
    ------
    OSError
        The folder is gone, or the disk fails.
    """
    if os.name != "posix":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def free_text(folder: Path) -> str:
    """Say what is free where a folder lies, as a clause that goes on; nothing where it cannot be told."""
    try:
        return f", {format_bytes(shutil.disk_usage(folder).free)} are free"
    except OSError:
        return ""
