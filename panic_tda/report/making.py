"""Write the page of a clustering into a file, completely or not at all."""

from __future__ import annotations

import re
from pathlib import Path

from panic_tda.errors import WrongUsage
from panic_tda.files.replacing import replacing, require_place
from panic_tda.parameters import MAP_ROWS
from panic_tda.paths import expand_home
from panic_tda.progress import Progress, Silent
from panic_tda.report.gathering import gather
from panic_tda.report.page import render, require_templates
from panic_tda.storage.database import Database
from panic_tda.storage.read.results import ClusteringSummary, read_clustering_ids
from panic_tda.wording import shorten_ids

SUFFIXES = (".html", ".htm")
_MODEL_CHARACTERS = 60
"""Of the name of a model, in the name of a page."""


def write_report(
    database: Database,
    source: ClusteringSummary,
    path: Path,
    *,
    map_rows: int = MAP_ROWS,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> int:
    """Write the page of a clustering, and return its size in bytes.

    Parameters
    ----------
    database, source, map_rows, seed, progress
        As for `gathering.gather`.
    path : Path
        Path of the page.
    force : bool
        Replace an existing file. It stays unchanged until the new one is complete.

    Raises
    ------
    WrongUsage, MissingPath
        As `require_target`.
    CannotWrite
        The disk is full, or the folder cannot be written.
    NoTemplates
        Jinja2 is not installed.
    """
    path = expand_home(path)
    require_target(path, force=force, source=database.path)
    require_templates()
    progress = progress or Silent()
    page = gather(database, source, map_rows=map_rows, seed=seed, progress=progress)
    options: list[object] = ["-o", path.name]
    if (map_rows, seed) != (MAP_ROWS, 0):
        options += ["--map-rows", map_rows, "--seed", seed]
    command = database.command("report-clustering", *options, source.id)
    progress.phase("write the page")
    text = render(page, command=command).encode("utf-8", "replace")
    with replacing(path, force=force, source=database.path) as file:
        file.write(text)
    return len(text)


def choose_name(database: Database, source: ClusteringSummary) -> Path:
    """Return the default file name of a page: the name of the model and the short id of the clustering."""
    with database.session() as session:
        short_id = shorten_ids([str(source.id), *read_clustering_ids(session)])[str(source.id)]
    model = re.sub(r"[^\w.-]+", "-", source.embedding_model, flags=re.ASCII).strip("-.")[:_MODEL_CHARACTERS]
    return Path("-".join(filter(None, ["report", model, f"{short_id}{SUFFIXES[0]}"])))


def require_target(path: Path, *, force: bool, source: Path | None = None) -> None:
    """Check that a page can be written to a path, before the database is read.

    Raises
    ------
    WrongUsage
        The path does not end in one of `SUFFIXES`, is a folder, or exists without `force`.
    MissingPath
        Its folder does not exist.
    """
    # First: a file of the database must not be replaced, whatever its ending.
    require_place(path, force=force, source=source)
    if path.suffix.lower() not in SUFFIXES:
        raise WrongUsage(f"a page ends in {' or '.join(SUFFIXES)}; got {path.name}")
