"""Files that are there whole or not at all, in the place of others only when that was asked for."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from panic_tda.disk import free_text, resolve_path, sync_folder
from panic_tda.errors import CannotWrite, MissingPath, WrongUsage
from panic_tda.outputs import create_file, require_harmless
from panic_tda.parameters import format_bytes


def require_place(path: Path, *, force: bool = False, source: Path | None = None) -> None:
    """Check that a file can be made, before anything is read for it.

    Parameters
    ----------
    path : Path
        Of the file.
    force : bool
        Whether it may exist.
    source : Path, optional
        The database file that its content comes from.

    Raises
    ------
    WrongUsage
        It exists, or something that is no file, or it is a database or lies beside one (`require_harmless`).
    MissingPath
        Its folder does not.
    """
    if not resolve_path(path).parent.is_dir():
        raise MissingPath(f"no folder {path.parent} for the file {path.name}")
    if path.exists() and not path.is_file():
        raise WrongUsage(f"{path} is there, and no file")
    require_harmless(path, source)
    if path.exists() and not force:
        raise WrongUsage(f"{path} exists; replace it with --force, or give another name")


@contextmanager
def replacing(path: Path, *, force: bool = False, source: Path | None = None) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of another when the block ends, and goes when it raises.

    Nobody may read it who may not read the database file `source`, or the file that it replaces.

    Raises
    ------
    CannotWrite
        The disk is full, or the folder takes no file.
    WrongUsage, MissingPath
        As `require_place`, when the block ends.
    """
    # What a link points to is replaced, as writing into it would do.
    target = resolve_path(path)
    partial = target.with_name(f".panic-tda-{secrets.token_hex(8)}.part")
    try:
        # Not by tempfile: its files are for their owner alone, whatever the umask.
        with os.fdopen(create_file(partial, source, replaced=target), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        require_place(path, force=force, source=source)
        partial.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise CannotWrite(f"{path} cannot be written: {error.strerror or error}{_room(partial)}") from error
    finally:
        with suppress(OSError):
            partial.unlink()


def _room(partial: Path) -> str:
    """Say how much of a file was written, and what is left for it."""
    try:
        written = format_bytes(partial.stat().st_size)
    except OSError:
        return ""
    return f" ({written} of it were written{free_text(partial.parent)})"
