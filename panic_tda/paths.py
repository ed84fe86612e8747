"""Conversion of paths: `~` to the home folder, the name of a database to its file, a file to SQLite's URI."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from panic_tda.errors import WrongUsage


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Return a path with a leading `~` or `~user` replaced by the home folder, as a shell does.

    A name that begins with `~` and belongs to no user stays as it is.

    Raises
    ------
    WrongUsage
        The path begins with `~/`, and the home folder is unknown. A folder called `~` is never created,
        because `rm -r ~` would then remove the home folder.

    Examples
    --------
    >>> expand_home("/data/a.sqlite").as_posix()
    '/data/a.sqlite'
    """
    plain = Path(path)
    if not plain.parts or not plain.parts[0].startswith("~"):
        return plain
    try:
        return plain.expanduser()
    except RuntimeError as error:
        if plain.parts[0] != "~":
            return plain
        raise WrongUsage(
            f"{plain} is in the home folder, which is unknown; set HOME, or give the absolute path"
        ) from error


def find_database_file(target: str | os.PathLike[str]) -> Path | None:
    """Return the SQLite file that a path or URL of a database names; None for a server, and without a name.

    >>> find_database_file("sqlite:///a/b.sqlite?mode=ro"), find_database_file("postgresql://host/name")
    (PosixPath('a/b.sqlite'), None)
    """
    scheme, mark, rest = os.fspath(target).partition("://")
    if not mark:
        return expand_home(scheme) if scheme else None
    host, _, name = rest.partition("?")[0].partition("/")
    is_file = scheme.partition("+")[0] == "sqlite" and not host and name
    return expand_home(name) if is_file else None


def sqlite_uri(path: Path, mode: str, *, immutable: bool = False) -> str:
    """Return the URI with which SQLite opens a file; `immutable` promises that no process writes it.

    The path is percent-encoded, because `?`, `#` and `%` have a meaning in URIs.

    >>> sqlite_uri(Path("/data/50%?.sqlite"), "ro")
    'file:/data/50%25%3F.sqlite?mode=ro'
    """
    return f"file:{quote(os.fsencode(path))}?mode={mode}{'&immutable=1' if immutable else ''}"
