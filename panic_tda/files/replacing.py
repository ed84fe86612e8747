"""Atomic writing of files, which replace existing files only with `force`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from panic_tda.disk import commit_file, explain_write_error, free_text, name_partial, resolve_path
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
        kind = "is a folder" if path.is_dir() else "exists and is not a regular file"
        raise WrongUsage(f"{path} {kind}; give another name")
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
        The file or another file that the block uses raises an OSError; the message has the reason.
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
        raise CannotWrite(_explain_failure(error, path, partial)) from error
    finally:
        with suppress(OSError):
            partial.unlink()


def _explain_failure(error: OSError, path: Path, partial: Path) -> str:
    """Return why a file was not written: the error is about its disk, its folder or another file."""
    if isinstance(error.filename, str) and Path(error.filename) not in (partial, partial.parent):
        return f"{path} was not written, because of {error.filename}: {error.strerror}"
    return f"{path} cannot be written: {explain_write_error(error, _describe_room(partial))}"


def _describe_room(partial: Path) -> str:
    """Return a clause with the written size of a file and the free space of its folder."""
    try:
        written = format_bytes(partial.stat().st_size)
    except OSError:
        return ""
    return f" ({written} of it were written{free_text(partial.parent)})"
