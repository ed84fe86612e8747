"""Checks of the files that commands write: they must not replace a database, its files or an input."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from panic_tda.errors import WrongUsage

WORK_SUFFIX, WORK_FOLDER = ".panic-tda", "panic-tda-work"
"""Suffix of the folder for unfinished states beside an SQLite file, and its name without such a file."""
_BESIDE = ("-wal", "-shm", "-journal")
"""Suffixes of SQLite's own files beside a database (https://sqlite.org/tempfiles.html)."""
_PENDING = re.compile(r"(?P<database>.+)\.pending-[0-9a-f]{32}\.(arrow|part)", re.DOTALL)
_FIRST_BYTES = b"SQLite format 3\0"


def require_safe_output(output: Path, *inputs: Path | None) -> None:
    """Check that writing a file changes no database, no file that belongs to a database, and no input.

    No option of a command disables this check.

    Parameters
    ----------
    output : Path
        Path of the file, which may exist and may be a link.
    inputs : Path or None
        Files that the command reads, such as a database.

    Raises
    ------
    WrongUsage
        Writing the file would change one; links, hard links and other spellings of the name are resolved.
    """
    require_distinct(output, *inputs)
    if is_database(output):
        raise WrongUsage(f"{output} is a database and is never replaced; give the output another name")


def require_distinct(output: Path, *inputs: Path | None) -> None:
    """Check the same as `require_safe_output` for an output that may be a database, such as a copy."""
    target = Path(os.path.realpath(output))
    read = [file for file in inputs if file is not None]
    if any(_is_same(target, file) for file in read):
        raise WrongUsage(f"{output} is read by this command; give the output another name")
    _require_apart_from_logs(output, read, "give the output another name")
    for database in _list_possible_databases(target):
        if is_database(database) or any(_is_same(database, file) for file in read):
            raise WrongUsage(f"{output} belongs to the database {database}; give the output another name")
    if _PENDING.fullmatch(target.name) or Path(os.path.realpath(WORK_FOLDER)) in target.parents:
        raise WrongUsage(f"{output} is a pending result or a checkpoint; give the output another name")


def require_work_folder(folder: Path, database: Path | None) -> None:
    """Check that a folder for unfinished states, which may not exist yet, has no name that SQLite needs.

    Parameters
    ----------
    folder : Path
        The folder.
    database : Path or None
        The database file that the command reads.

    Raises
    ------
    WrongUsage
        With a folder of this name, SQLite could not open a database.
    """
    read = [] if database is None else [database]
    _require_apart_from_logs(folder, read, "name another folder with --work-dir")


def require_different(log_file: Path, outputs: Iterable[Path]) -> None:
    """Check that a log file is not an output of the command.

    Raises
    ------
    WrongUsage
        It is; links and other spellings of the name are resolved.
    """
    for output in outputs:
        if _is_same(log_file, output):
            raise WrongUsage(f"{log_file} is the output of this command; give the log another name")


def create_file(path: Path, source: Path | None = None, *, replaced: Path | None = None) -> int:
    """Create a file, and return its descriptor, open for writing.

    Parameters
    ----------
    path : Path
        The path, which must not exist.
    source : Path, optional
        The database file that the content comes from: other users get no more permissions than on it.
    replaced : Path, optional
        A file that the new one replaces later: other users get no more permissions than on it.

    Raises
    ------
    OSError
        The file cannot be created, or the path exists.
    """
    mode = 0o666
    for file in (source, replaced):
        if file is not None and os.path.exists(file):
            mode &= 0o600 | stat.S_IMODE(os.stat(file).st_mode)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.open(path, flags, mode)


def is_database(path: Path) -> bool:
    """Return whether a path is a regular file that begins like an SQLite database."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return file.read(len(_FIRST_BYTES)) == _FIRST_BYTES
    except (OSError, ValueError):
        return False


def _require_apart_from_logs(path: Path, read: Sequence[Path], remedy: str) -> None:
    """Check that no part of a path has the name of a file that SQLite keeps beside a database."""
    target = Path(os.path.realpath(path))
    for part in (target, *target.parents):
        for suffix in _BESIDE:
            if not part.name.endswith(suffix) or part.name == suffix:
                continue
            database = part.with_name(part.name.removesuffix(suffix))
            if is_database(database) or any(_is_same(database, file) for file in read):
                raise WrongUsage(f"{path} belongs to the database {database}; {remedy}")


def _list_possible_databases(target: Path) -> Iterator[Path]:
    """Yield the paths of the databases to which a file of this name would belong."""
    if pending := _PENDING.fullmatch(target.name):
        yield target.with_name(pending["database"])
    for folder in (target, *target.parents):
        if folder.name.endswith(WORK_SUFFIX) and folder.name != WORK_SUFFIX:
            yield folder.with_name(folder.name.removesuffix(WORK_SUFFIX))


def _is_same(left: Path, right: Path) -> bool:
    try:
        return os.path.realpath(left) == os.path.realpath(right) or os.path.samefile(left, right)
    except (OSError, ValueError):
        return False
