"""Paths as users write them: a leading `~` means a home folder, also where no shell has expanded it."""

from __future__ import annotations

import os
from pathlib import Path

from panic_tda.errors import WrongUsage


def expand_home(path: str | os.PathLike[str]) -> Path:
    """Return a path with a leading `~` or `~user` replaced by the home folder, as a shell does.

    A name that begins with `~` and belongs to no user stays as it is.

    Raises
    ------
    WrongUsage
        The path begins with `~/`, and the home folder is unknown. A folder called `~` is never made:
        removing it by that name would remove the home folder.

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
            f"{plain} is in the home folder, which is unknown; set HOME, or give the whole path"
        ) from error
