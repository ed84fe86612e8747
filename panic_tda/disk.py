"""Files on the disk: durable writes, free space, and files that belong to the current user."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO

from panic_tda.errors import MissingPath
from panic_tda.wording import format_bytes

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
"""Permissions of files and folders that only the current user needs: states and pending results."""
UNFOLLOWED = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
"""Flags of `os.open` that follow no link and do not wait for another process at a FIFO."""
_REMEDIES = {
    errno.ENOSPC: "make room, or name another folder",
    errno.EDQUOT: "delete some of your files, or name another folder",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f), or name a folder on another file system",
    errno.EROFS: "name a folder on another file system",
    errno.EACCES: "name a folder in which you may create files",
    errno.EPERM: "name a folder in which you may create files",
    errno.EISDIR: "name a file",
    errno.ENAMETOOLONG: "give a shorter name",
}
"""Advice for the errors that a user can cause."""


def resolve_path(path: Path) -> Path:
    """Return the absolute path without symbolic links.

    Raises
    ------
    MissingPath
        Its symbolic links form a loop.
    """
    try:
        return path.resolve()
    except (RuntimeError, OSError) as error:  # RuntimeError up to Python 3.12
        raise MissingPath(f"{path} cannot be followed: its symbolic links lead in a circle") from error


def require_regular_file(path: Path, advice: str = "name a regular file") -> None:
    """Check that a path, if it exists, is a regular file; opening a pipe could wait for ever.

    Raises
    ------
    MissingPath
        It is a folder, a pipe, a socket or a device.
    """
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a pipe, a socket or a device"
        raise MissingPath(f"{path} is {kind}; {advice}")


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk, so that a renamed file keeps its name if the machine stops.

    Raises
    ------
    OSError
        The folder does not exist, or the disk fails.
    """
    if os.name != "posix":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def name_partial(path: Path) -> Path:
    """Return a random name in the folder of a file, for the file that replaces it when it is complete."""
    return path.with_name(f".panic-tda-{secrets.token_hex(8)}.part")


def commit_file(
    file: IO[bytes], partial: Path, path: Path, *, check: Callable[[], object] | None = None
) -> None:
    """Write a file to the disk, and then rename it, replacing another file.

    If the machine stops, the new file or the old one remains, never a part of one.

    Parameters
    ----------
    file : binary file
        The complete file, open for writing.
    partial, path : Path
        Its present name and its new name, in the same folder.
    check : callable, optional
        Called before the file is renamed; if it raises an exception, `path` is not changed.

    Raises
    ------
    OSError
        The disk is full or fails, or the folder cannot be written.
    """
    file.flush()
    os.fsync(file.fileno())
    if check is not None:
        check()
    partial.replace(path)
    sync_folder(path.parent)


def explain_write_error(error: OSError, details: str = "") -> str:
    """Return why a file could not be written, the details and, for common reasons, what to do."""
    reason = f"{error.strerror or error}{details}"
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{reason}; {remedy}" if remedy else reason


def free_text(folder: Path) -> str:
    """Return a clause with the free space on the disk of a folder, or an empty text if it is unknown."""
    try:
        return f", {format_bytes(shutil.disk_usage(folder).free)} are free"
    except OSError:
        return ""


def open_own_file(path: Path) -> IO[bytes]:
    """Open a regular file of the current user for reading, without following a link.

    Raises
    ------
    OSError
        It is missing, a link, a folder, a FIFO or a device, or belongs to another user.
    """
    # Before it is opened, because opening a device can have effects.
    require_own_file(path, os.lstat(path))
    number = os.open(path, os.O_RDONLY | UNFOLLOWED)
    try:
        require_own_file(path, os.fstat(number))
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def require_own_file(path: Path, status: os.stat_result) -> None:
    """Check that a status of `lstat` or `fstat` is that of a regular file of the current user.

    Raises
    ------
    OSError
        It is not; the message says what it is.
    """
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, "it is a symbolic link, not a regular file", str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    _require_own_user(path, status)


def require_own_folder(folder: Path) -> None:
    """Check that a path is a folder of the current user, not a link to one.

    Raises
    ------
    OSError
        It is not; the message says what it is.
    """
    status = os.lstat(folder)
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, "it is a symbolic link, not a folder", str(folder))
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "it is not a folder", str(folder))
    _require_own_user(folder, status)


def make_own_folder(folder: Path) -> None:
    """Create a folder that only the current user can enter, with the missing folders above it.

    An existing folder of the current user is not changed.

    Raises
    ------
    OSError
        It cannot be created, is a link, or belongs to another user.
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
