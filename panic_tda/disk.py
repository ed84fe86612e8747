"""Disks: what outlasts a machine that stops, what room there is, and files that belong to our user alone."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path
from typing import IO

from panic_tda.errors import MissingPath
from panic_tda.parameters import format_bytes

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
"""Permissions of what only our own user needs: states, kept results, and their folders."""
UNFOLLOWED = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
"""Flags with which opening follows no link and waits for no other process, as a FIFO would make it."""


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


def open_own_file(path: Path) -> IO[bytes]:
    """Open a regular file of our own user for reading, without following a link.

    Raises
    ------
    OSError
        It is missing, a link, a folder, a FIFO or a device, or belongs to another user.
    """
    # Before it is opened: opening a device can do something.
    require_own_file(path, os.lstat(path))
    number = os.open(path, os.O_RDONLY | UNFOLLOWED)
    try:
        require_own_file(path, os.fstat(number))
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def require_own_file(path: Path, status: os.stat_result) -> None:
    """Check that a status, of `lstat` or `fstat`, is that of a regular file of our own user.

    Raises
    ------
    OSError
        It is something else; the message says what.
    """
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, "it is a symbolic link, and no regular file", str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    _require_own_user(path, status)


def require_own_folder(folder: Path) -> None:
    """Check that a folder is one, not a link to one, and belongs to our own user.

    Raises
    ------
    OSError
        It is missing or something else; the message says what.
    """
    status = os.lstat(folder)
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, "it is a symbolic link, and no folder", str(folder))
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "it is no folder", str(folder))
    _require_own_user(folder, status)


def make_own_folder(folder: Path) -> None:
    """Make a folder that only our own user can enter, with the folders above it that are missing.

    One of our own user that is there already stays as it is.

    Raises
    ------
    OSError
        It cannot be made, is a link, or belongs to another user.
    """
    try:
        os.mkdir(folder, PRIVATE_FOLDER)
    except FileNotFoundError:
        make_own_folder(folder.parent)
        make_own_folder(folder)
    except FileExistsError:
        require_own_folder(folder)


def _require_own_user(path: Path, status: os.stat_result) -> None:
    if hasattr(os, "geteuid") and status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"it belongs to another user (uid {status.st_uid})", str(path))
