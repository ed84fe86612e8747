"""Atomic writing of files, which replace existing files only with `force`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from panic_tda.disk import commit_file, free_text, name_partial, resolve_path
from panic_tda.errors import CannotWrite, MissingPath, WrongUsage
from panic_tda.outputs import create_file, require_safe_output
from panic_tda.wording import format_bytes


def require_place(path: Path, *, force: bool = False, source: Path | None = None) -> None:
    """Check that a file can be created, before anything is read for it.

    Parameters
    ----------
    path : Path
        Path of the file.
    force : bool
        Whether it may exist.
    source : Path, optional
        The database file that its content comes from.

    Raises
    ------
    WrongUsage
        It exists, is not a regular file, or is a database or a file of one (`require_safe_output`).
    MissingPath
        Its folder does not exist.
    """
    if not resolve_path(path).parent.is_dir():
        raise MissingPath(f"no folder {path.parent} for the file {path.name}")
    if path.exists() and not path.is_file():
        raise WrongUsage(f"{path} exists and is not a regular file; give another name")
    require_safe_output(path, source)
    if path.exists() and not force:
        raise WrongUsage(f"{path} exists; replace it with --force, or give another name")


@contextmanager
def replacing(path: Path, *, force: bool = False, source: Path | None = None) -> Iterator[IO[bytes]]:
    """Open a new file that replaces `path` when the block ends, and is removed if the block raises an error.

    Only users who may read the database file `source` and the replaced file may read the new one.

    Raises
    ------
    CannotWrite
        The disk is full, or the folder cannot be written.
    WrongUsage, MissingPath
        As for `require_place`, when the block ends.
    """
    # The target of a link is replaced, not the link.
    target = resolve_path(path)
    partial = name_partial(target)
    try:
        # Not by tempfile, which ignores the umask and creates files for their owner only.
        with os.fdopen(create_file(partial, source, replaced=target), "wb") as file:
            yield file
            commit_file(file, partial, target, check=lambda: require_place(path, force=force, source=source))
    except OSError as error:
        raise CannotWrite(
            f"{path} cannot be written: {error.strerror or error}{_describe_room(partial)}"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def _describe_room(partial: Path) -> str:
    """Return a clause with the written size of a file and the free space of its folder."""
    try:
        written = format_bytes(partial.stat().st_size)
    except OSError:
        return ""
    return f" ({written} of it were written{free_text(partial.parent)})"
