"""Disks: what outlasts a machine that stops, and what room there is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from panic_tda.parameters import format_bytes


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
