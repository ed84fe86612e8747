"""Files that commands write: none is a database or lies beside one, and none is readable by more than it."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from panic_tda.errors import WrongUsage
from panic_tda.paths import expand_home

WORK_SUFFIX, WORK_FOLDER = ".panic-tda", "panic-tda-work"
"""Of the folder with unfinished states beside an SQLite file, and its name where there is no file."""
_BESIDE = ("-wal", "-shm", "-journal")
"""What SQLite adds to the name of a database (https://sqlite.org/tempfiles.html)."""
_KEPT = re.compile(r"(?P<database>.+)\.pending-[0-9a-f]{32}\.(arrow|part)", re.DOTALL)
_FIRST_BYTES = b"SQLite format 3\0"


def require_harmless(output: Path, *inputs: Path | None) -> None:
    """Check that writing a file changes no database, nothing that lies beside one, and no input.

    No option of a command allows it: what a database holds is worth more than any output.

    Parameters
    ----------
    output : Path
        Of the file; it may exist, and be a link.
    inputs : Path or None
        What the command reads: a database, or files.

    Raises
    ------
    WrongUsage
        It would; links, hard links and other spellings of the name are seen through.
    """
    require_apart(output, *inputs)
    if _is_database(output):
        raise WrongUsage(f"{output} is a database, which no output replaces; give the output another name")


def require_apart(output: Path, *inputs: Path | None) -> None:
    """Check what `require_harmless` does, but for an output that may be a database itself, such as a copy."""
    target = Path(os.path.realpath(output))
    read = [file for file in inputs if file is not None]
    if any(_is_same(target, file) for file in read):
        raise WrongUsage(f"{output} is read by this command; give the output another name")
    for database in _possible_databases(target):
        if _is_database(database) or any(_is_same(database, file) for file in read):
            raise WrongUsage(f"{output} belongs to the database {database}; give the output another name")
    for file in read:
        for suffix in _BESIDE:
            if _is_same(target, Path(f"{os.path.realpath(file)}{suffix}")):
                raise WrongUsage(f"{output} belongs to the database {file}; give the output another name")
    if _KEPT.fullmatch(target.name) or Path(os.path.realpath(WORK_FOLDER)) in target.parents:
        raise WrongUsage(f"{output} is a result or a state that waits; give the output another name")


def create_file(path: Path, source: Path | None = None, *, replaced: Path | None = None) -> int:
    """Make a new file, and return its descriptor, open for writing.

    Parameters
    ----------
    path : Path
        Where no file is.
    source : Path, optional
        A database file that its content comes from: nobody but the owner may do more with the new file.
    replaced : Path, optional
        A file whose place it takes: the same holds for it.

    Raises
    ------
    OSError
        It cannot be made, or something has the name.
    """
    mode = 0o666
    for file in (source, replaced):
        if file is not None and os.path.exists(file):
            mode &= 0o600 | stat.S_IMODE(os.stat(file).st_mode)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    return os.open(path, flags, mode)


def file_of_database(target: str | Path) -> Path | None:
    """Return the file that a path or URL of a database names; None for those on a server.

    >>> file_of_database("sqlite:///a/b.sqlite?mode=ro"), file_of_database("postgresql://host/name")
    (PosixPath('a/b.sqlite'), None)
    """
    text = str(target)
    if "://" not in text:
        return expand_home(text) if text else None
    scheme, rest = text.split("://", 1)
    name = rest[1:].split("?")[0]
    return expand_home(name) if scheme.startswith("sqlite") and name else None


def _possible_databases(target: Path) -> Iterator[Path]:
    """Give the names that a database would have beside which `target` lies."""
    for suffix in _BESIDE:
        if target.name.endswith(suffix) and target.name != suffix:
            yield target.with_name(target.name.removesuffix(suffix))
    if kept := _KEPT.fullmatch(target.name):
        yield target.with_name(kept["database"])
    for folder in (target, *target.parents):
        if folder.name.endswith(WORK_SUFFIX) and folder.name != WORK_SUFFIX:
            yield folder.with_name(folder.name.removesuffix(WORK_SUFFIX))


def _is_database(path: Path) -> bool:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return file.read(len(_FIRST_BYTES)) == _FIRST_BYTES
    except (OSError, ValueError):
        return False


def _is_same(one: Path, other: Path) -> bool:
    try:
        return os.path.realpath(one) == os.path.realpath(other) or os.path.samefile(one, other)
    except (OSError, ValueError):
        return False
