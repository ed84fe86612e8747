"""What a database's own errors mean to a person, and what to do about them."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.exc import DBAPIError

from panic_tda.disk import free_text


def reason(error: Exception, path: Path | None, busy_seconds: float) -> str:
    """Say why a database refused, and what would help.

    Parameters
    ----------
    error : Exception
        Of SQLAlchemy, or what was made of the driver's own.
    path : Path or None
        Of an SQLite file.
    busy_seconds : float
        For how long a lock was waited for.
    """
    said = str(error.orig if isinstance(error, DBAPIError) else error)
    if "locked" in said:
        return f"{said} for {busy_seconds:g} s by another process; try again when it is done"
    if "readonly" in said or "unable to open" in said:
        # A file in WAL mode is not opened without its log and the index of it.
        return (
            f"{said}; the file must be readable, and the folder and the -wal and -shm in it writable "
            "(SQLite keeps its log there, also while reading); or work on a copy"
        )
    if "is full" in said and path is not None:
        return (
            f"{said}: in {path.parent}{free_text(path.parent)}, and what is sorted goes into "
            "SQLITE_TMPDIR or TMPDIR, or /var/tmp; nothing was changed: make room and run it again"
        )
    if "malformed" in said or "disk I/O error" in said:
        return (
            f"{said}; the file is damaged, or its disk is: work on a copy from before, or save what can be "
            "read of it with the .recover of SQLite's own shell"
        )
    return said
