"""The file: gathered, rendered, and there only when it is whole."""

from __future__ import annotations

from pathlib import Path

from panic_tda.files.replacing import replacing, require_place
from panic_tda.insight.layout import N_ROWS
from panic_tda.progress import Progress, Silent
from panic_tda.report.gathering import gather
from panic_tda.report.page import render, require_templates
from panic_tda.storage.database import Database
from panic_tda.storage.results import ClusteringSummary


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
        As `files.replacing.require_place`.
    CannotWrite
        The disk is full, or the folder takes no file.
    NoTemplates
        Jinja2 is not installed.
    """
    require_place(path, force=force, source=database.path)
    require_templates()
    progress = progress or Silent()
    page = gather(database, source, map_rows=map_rows, seed=seed, progress=progress)
    command = f"panic-tda report-clustering {source.id} --db {database} -o {path.name}"
    if (map_rows, seed) != (N_ROWS, 0):
        command += f" --map-rows {map_rows} --seed {seed}"
    progress.phase("write the page")
    text = render(page, command=command).encode("utf-8", "replace")
    with replacing(path, force=force, source=database.path) as file:
        file.write(text)
    return len(text)
