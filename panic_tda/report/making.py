"""The file: gathered, rendered, and there only when it is whole."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from panic_tda.errors import MissingPath, PanicTdaError, WrongUsage
from panic_tda.progress import Progress, Silent
from panic_tda.report.gathering import gather
from panic_tda.report.layout import N_ROWS
from panic_tda.report.page import render
from panic_tda.storage.database import Database
from panic_tda.storage.results import ClusteringSummary


class CannotWrite(PanicTdaError):
    """The page could not be written to its place."""


def require_target(path: Path, *, force: bool = False) -> None:
    """Check that the page can be made, before anything is read for it.

    Raises
    ------
    WrongUsage
        It exists, and may not be replaced, or is no file.
    MissingPath
        Its folder does not exist.
    """
    if not path.resolve().parent.is_dir():
        raise MissingPath(f"no folder {path.parent} for the file {path.name}")
    if path.exists() and not path.is_file():
        raise WrongUsage(f"{path} is there, and no file")
    if path.exists() and not force:
        raise WrongUsage(f"{path} exists; replace it with --force, or give another name")


def write_report(
    database: Database,
    source: ClusteringSummary,
    path: Path,
    *,
    map_rows: int = N_ROWS,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> int:
    """Make the page of a clustering, and return its size in bytes.

    Parameters
    ----------
    database, source, map_rows, seed, progress
        As for `gathering.gather`.
    path : Path
        Of the page.
    force : bool
        Replace a file that exists; it is what it was until the new one is complete.

    Raises
    ------
    WrongUsage, MissingPath
        As `require_target`.
    CannotWrite
        The disk is full, or the folder takes no file.
    """
    require_target(path, force=force)
    progress = progress or Silent()
    page = gather(database, source, map_rows=map_rows, seed=seed, progress=progress)
    command = f"panic-tda report-clustering {source.id} --db {database} -o {path.name}"
    if (map_rows, seed) != (N_ROWS, 0):
        command += f" --map-rows {map_rows} --seed {seed}"
    progress.phase("write the page")
    text = render(page, command=command).encode("utf-8", "replace")
    try:
        _replace(path, text)
    except OSError as error:
        raise CannotWrite(f"{path} could not be written: {error.strerror}") from error
    return len(text)


def _replace(path: Path, text: bytes) -> None:
    """Write beside the place, then move there, so that whatever happens no half page is left."""
    handle, name = tempfile.mkstemp(dir=path.resolve().parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text)
        # As open() would have made it; mkstemp lets nobody else read.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
