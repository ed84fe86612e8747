"""Explain errors of SQLite and PostgreSQL to users: the cause, and what to do."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from panic_tda.disk import free_text
from panic_tda.wording import format_bytes

_LOCK_NOT_AVAILABLE = "55P03"
_PROBE_BYTES = 1 << 16
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def explain_error(error: Exception, path: Path | None, busy_seconds: float) -> str:
    """Return the cause of a database's error and what to do.

    Parameters
    ----------
    error : Exception
        An error of SQLAlchemy, or a `DatabaseError` raised from an error of the driver.
    path : Path or None
        Path of the SQLite file; None for PostgreSQL.
    busy_seconds : float
        Time of the wait for a lock, in seconds.
    """
    message = str(error.orig if isinstance(error, DBAPIError) else error)
    if path is None:
        return _explain_server_error(error, message.strip(), busy_seconds)
    name = error_name(error)
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"{message} for {busy_seconds:g} s by another process; try again when it is done"
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")):
        # SQLite opens a file in WAL mode only with its -wal and -shm files.
        return (
            f"{message}; the file must be readable, and the folder and the -wal and -shm in it writable "
            "(SQLite keeps its log there, also while reading); or work on a copy"
        )
    if name == "SQLITE_FULL":
        return (
            f"{message}: in {path.parent}{free_text(path.parent)}, and what is sorted goes into "
            "SQLITE_TMPDIR or TMPDIR, or /var/tmp; nothing was changed: make room and run it again"
        )
    if name.startswith("SQLITE_IOERR_SHM"):
        return (
            f"{message} ({name}): the file system of {path.parent} does not share memory maps between "
            "processes, which SQLite's write-ahead log needs; move the database to a local disk"
        )
    if name.startswith("SQLITE_IOERR") and name.endswith("LOCK"):
        return f"{message} ({name}): {explain_missing_locks(path)}"
    if name.startswith("SQLITE_IOERR") and ("WRITE" in name or "FSYNC" in name or "TRUNCATE" in name):
        return f"{message} ({name}): {_explain_refused_write(path)}"
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR")):
        shown = f" ({name})" if name.startswith("SQLITE_IOERR") else ""
        return (
            f"{message}{shown}; the file is damaged, or its disk is: use an earlier copy, or save what can "
            "be read with the command .recover of the sqlite3 shell"
        )
    return message


def is_driver_error(error: Exception) -> bool:
    """Return whether an error comes from the driver, so that `explain_error` can explain it."""
    cause = error.__cause__
    is_lock = getattr(cause, "sqlstate", None) == _LOCK_NOT_AVAILABLE
    return isinstance(error, DBAPIError) or hasattr(cause, "sqlite_errorname") or is_lock


def _explain_server_error(error: Exception, message: str, busy_seconds: float) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error.__cause__
    if getattr(cause, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
        first = message.partition("\n")[0]
        return f"another process held a lock for {busy_seconds:g} s ({first}); try again when it is done"
    if type(cause).__name__ == "ConnectionTimeout":
        return f"the server did not answer in time ({message}); check that it runs, and its host and port"
    if "row-level security" in message:
        return f"{message}; use a role that sees all rows: one with BYPASSRLS, or the owner of the tables"
    return message


def error_name(error: BaseException) -> str:
    """Return SQLite's extended name of an error; "" if it is not an error of SQLite."""
    own = error.orig if isinstance(error, DBAPIError) else error
    cause = own if hasattr(own, "sqlite_errorname") else error.__cause__
    return str(getattr(cause, "sqlite_errorname", ""))


def supports_locks(folder: Path) -> bool:
    """Return whether files in a folder can be locked; True if it cannot be tested.

    It is tested on a temporary file: closing the database's file would drop the locks of this process.
    """
    import fcntl

    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _NO_LOCKS
    return True


def explain_missing_locks(path: Path) -> str:
    """Return the message that the file system of a database has no file locks, and what to do."""
    return (
        f"the file system of {path.parent} has no file locks, without which a database can be damaged; move "
        "the database to a local disk"
    )


def _explain_refused_write(path: Path) -> str:
    """Find why writing failed although the disk is not full; SQLite has one code for all such causes."""
    import resource

    code = try_to_write(path.parent)
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if code == errno.EDQUOT:
        return f"the disk quota of {path.parent} is used up; nothing was changed: make room and run it again"
    if limit != resource.RLIM_INFINITY and code in (0, errno.EFBIG):
        return (
            f"the files of this process are limited to {format_bytes(limit)} (ulimit -f), the disk is not "
            "full; nothing was changed: raise the limit and run it again"
        )
    cause = f" ({os.strerror(code)})" if code else ""
    return (
        f"the disk of {path.parent} refused to write{cause}; nothing was changed: check the disk, its quota "
        "and limits, and run it again"
    )


def try_to_write(folder: Path) -> int:
    """Write a small file, and return the number of the error, or 0 if there is no error."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.errno or 0
    return 0
