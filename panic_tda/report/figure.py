"""The figure for a paper: the map of a clustering, with what its largest places say."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from panic_tda.cli.text import on_one_line
from panic_tda.errors import OUTLIER, PanicTdaError, WrongUsage
from panic_tda.files.replacing import replacing, require_place
from panic_tda.insight.layout import N_ROWS, Map, find_rows, read_map
from panic_tda.paths import expand_home
from panic_tda.progress import Progress, Silent
from panic_tda.report.drawing import (
    DPI,
    Place,
    Scene,
    Style,
    draw,
    drawing_alone,
    label_of,
    require_plotting,
    texts_of,
)
from panic_tda.report.fonts import find_fonts
from panic_tda.storage.database import Database
from panic_tda.storage.read.assignments import read_assignments
from panic_tda.storage.read.medoids import read_medoid_ids
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.storage.read.trajectories import read_medoid_texts
from panic_tda.wording import pluralize

_log = logging.getLogger(__name__)

FORMATS = ("png", "svg", "pdf")
_METADATA: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}


@dataclass(frozen=True)
class Plotted:
    """What a figure shows: where it is, rows on the map, clusters, and what laid the map out."""

    file: Path
    rows: int
    clusters: int
    method: str


def plot_clustering(
    database: Database,
    source: ClusteringSummary,
    path: Path,
    *,
    style: Style | None = None,
    n_rows: int = N_ROWS,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> Plotted:
    """Draw the map of a clustering into a file.

    Parameters
    ----------
    database : Database
        Only read.
    source : ClusteringSummary
        One that is stored.
    path : Path
        Its ending, one of `FORMATS`, says what is written. A file is there whole or not at all.
    style : Style
        How it looks.
    n_rows, seed, progress
        As for `read_map`. The same seed gives the same bytes on one machine.
    force : bool
        Replace a file that exists.

    Raises
    ------
    WrongUsage, MissingPath
        The path ends in something else, exists without `force`, or lies in no folder.
    CannotWrite
        The disk is full, or the folder takes no file.
    PanicTdaError
        DataMapPlot is not installed, or the clustering has no embeddings any more.
    """
    style = style or Style()
    path = expand_home(path)
    kind = require_target(path, force=force, source=database.path)
    require_plotting()
    progress = progress or Silent()
    scene = read_scene(database, source, style=style, n_rows=n_rows, seed=seed, progress=progress)
    progress.phase("draw")
    _warn_of_missing(scene, style)
    with drawing_alone(), replacing(path, force=force, source=database.path) as file:
        figure = draw(scene, style)
        figure.savefig(file, format=kind, dpi=DPI, metadata=_METADATA[kind])
    return Plotted(path, len(scene.map.rows), len(scene.places), scene.map.method)


def require_target(path: Path, *, force: bool, source: Path | None = None) -> str:
    """Return what a file is to be, one of `FORMATS`.

    Raises
    ------
    WrongUsage
        Its ending says none of them, it is a folder, it exists without `force`, or it is a database or lies
        beside one.
    MissingPath
        Its folder does not exist.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise WrongUsage(f"a figure ends in .png, .svg or .pdf; got {path.name}")
    require_place(path, force=force, source=source)
    return kind


def read_scene(
    database: Database,
    source: ClusteringSummary,
    *,
    style: Style,
    n_rows: int,
    seed: int,
    progress: Progress,
) -> Scene:
    """Lay out a clustering, and read what its places say; raises as `plot_clustering` does."""
    found = read_map(database, source, n_rows=n_rows, seed=seed, progress=progress)
    if not len(found.rows):
        raise PanicTdaError(f"no embedding of clustering {source.id} is in the database any more")
    progress.phase("read clusters")
    with database.reading() as connection:
        assigned = read_assignments(connection, source.id)
        medoids = read_medoid_ids(connection, source.id)
        texts = read_medoid_texts(connection, source.id, list(medoids)[: style.n_labels])
    at = np.searchsorted(found.rows, find_rows(assigned.ids, list(medoids.values())))
    sizes = np.bincount(assigned.labels[assigned.labels != OUTLIER], minlength=len(medoids))
    labels = {label: label_of(text) for label, text in texts.items()}
    places = tuple(
        Place(label, labels.get(label, ""), int(sizes[label]), (float(x), float(y)))
        for label, (x, y) in zip(medoids, found.xy[at], strict=True)
    )
    title = on_one_line(_title(source) if style.title is None else style.title)
    n_labels = min(style.n_labels, len(places))
    return Scene(found, assigned.labels[found.rows], places, title, _caption(source, found, n_labels))


def _warn_of_missing(scene: Scene, style: Style) -> None:
    """Say in the log which characters no installed font has."""
    _, missing = find_fonts(texts_of(scene, style))
    if missing:
        more = len(missing) - 1
        others = f" and {more:,} other {pluralize(more, 'character')}" if more else ""
        _log.warning(
            "no installed font has the character %s (U+%04X)%s: the figure shows boxes; install a font that "
            "has what is missing, such as Noto Sans CJK, and plot again",
            missing[0],
            ord(missing[0]),
            others,
        )


def _title(source: ClusteringSummary) -> str:
    n_clusters, n = source.record.n_clusters, source.record.n_embeddings
    return (
        f"{n_clusters:,} {pluralize(n_clusters, 'cluster')} of {n:,} {source.embedding_model} "
        f"{pluralize(n, 'embedding')}"
    )


def _caption(source: ClusteringSummary, found: Map, n_labels: int) -> str:
    record = source.record
    share = 100 * record.n_outliers / max(1, record.n_embeddings)
    n_rows = f"all {len(found.rows):,}" if len(found.rows) == found.n_total else f"{len(found.rows):,}"
    sampled = "" if len(found.rows) == found.n_total else ", sampled evenly over runs and steps"
    return (
        f"HDBSCAN: min_cluster_size {record.min_cluster_size}, min_samples {record.min_samples}, "
        f"epsilon {record.cluster_selection_epsilon:g}, {record.cluster_selection_method}, "
        f"allow_single_cluster {'on' if record.allow_single_cluster else 'off'}, "
        f"max_cluster_size {record.max_cluster_size or 'none'}, distance_floor {record.distance_floor:g}, "
        f"downsample {record.downsample or 1}, backend {record.backend} "
        f"({'exact' if record.exact else 'approximate'}); "
        f"{record.n_outliers:,} {pluralize(record.n_outliers, 'outlier')} ({share:.1f}%) in grey. "
        f"Map: {found.method}; {n_rows} {pluralize(len(found.rows), 'embedding')}{sampled}. "
        + (f"Labels: medoids of the largest clusters ({n_labels:,}). " if n_labels else "")
        + f"Clustering {source.id}."
    )
