"""Plot the map of a clustering into a file, with the medoids' texts of its largest clusters as labels."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from panic_tda.errors import PanicTdaError, WrongUsage
from panic_tda.files.replacing import replacing, require_place
from panic_tda.insight.layout import Map, choose_rows, lay_out
from panic_tda.insight.origins import read_words
from panic_tda.parameters import MAP_ROWS
from panic_tda.paths import expand_home
from panic_tda.progress import Progress, Silent
from panic_tda.records import require_cosine
from panic_tda.report.drawing import (
    DPI,
    Place,
    Scene,
    Style,
    default_settings,
    draw,
    list_texts,
    make_label,
    require_plotting,
)
from panic_tda.report.fonts import find_fonts
from panic_tda.storage.database import Database
from panic_tda.storage.read.clusterings import open_clustering
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.wording import on_one_line, pluralize

_log = logging.getLogger(__name__)

FORMATS = ("png", "svg", "pdf")
_METADATA: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}


@dataclass(frozen=True)
class Plotted:
    """A figure that was written: its file, rows on the map, clusters, and the layout method."""

    file: Path
    rows: int
    clusters: int
    method: str

    def to_dict(self) -> dict[str, Any]:
        """Return the object that `plot-clustering --json` prints, of plain values."""
        return {**vars(self), "file": str(self.file)}


def plot_clustering(
    database: Database,
    source: ClusteringSummary,
    path: Path,
    *,
    style: Style | None = None,
    n_rows: int = MAP_ROWS,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> Plotted:
    """Draw the map of a clustering into a file.

    Parameters
    ----------
    database : Database
        Database of the clustering; it may be read-only.
    source : ClusteringSummary
        A stored clustering.
    path : Path
        Path of the figure; its ending, one of `FORMATS`, is the format. The file is written completely or
        not at all.
    style : Style
        Appearance.
    n_rows, seed, progress
        As for `layout.read_map`. The same seed gives the same bytes on one machine.
    force : bool
        Replace a file that exists.

    Raises
    ------
    WrongUsage, MissingPath
        The path has another ending, exists without `force`, or its folder does not exist.
    CannotWrite
        The disk is full, or the folder cannot be written.
    PanicTdaError
        DataMapPlot is not installed, or all embeddings of the clustering were deleted.
    """
    style = style or Style()
    path = expand_home(path)
    kind = require_target(path, force=force, source=database.path)
    require_plotting()
    progress = progress or Silent()
    scene = read_scene(database, source, style=style, n_rows=n_rows, seed=seed, progress=progress)
    progress.phase("draw")
    _warn_of_missing_characters(scene, style)
    with default_settings(), replacing(path, force=force, source=database.path) as file:
        figure = draw(scene, style)
        figure.savefig(file, format=kind, dpi=DPI, metadata=_METADATA[kind])
    return Plotted(path, len(scene.map.rows), len(scene.places), scene.map.method)


def require_target(path: Path, *, force: bool, source: Path | None = None) -> str:
    """Check that a figure can be written to a path, and return its format, one of `FORMATS`.

    Raises
    ------
    WrongUsage
        The path has another ending, is a folder, exists without `force`, or is a file of the database.
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
    """Lay out a clustering and read the labels; raises the errors of `plot_clustering`."""
    require_cosine(source.record, "the figure")
    with open_clustering(database, source, progress) as stored:
        rows = choose_rows(stored, n_rows=n_rows, seed=seed)
        if not len(rows):
            raise PanicTdaError(f"all embeddings of clustering {source.id} were deleted from the database")
        vectors, assigned, medoids = stored.read_vectors(rows), stored.assignments, stored.medoids
        texts = stored.read_medoid_texts(list(medoids)[: style.n_labels])
        words = read_words(stored) if style.with_words and texts else {}
        n_predicted = stored.n_predicted
    progress.phase("compute the map")
    layout = Map(rows, *lay_out(vectors, seed=seed), n_total=len(assigned.ids))
    at = np.searchsorted(rows, np.array(list(medoids.values()), dtype=np.int64))
    # A damaged label has no rows.
    sizes = dict(zip(*np.unique(assigned.labels, return_counts=True), strict=True))
    # A cluster of images has no words.
    labels = {label: make_label(", ".join(words.get(label, ())) or text) for label, text in texts.items()}
    places = tuple(
        Place(label, labels.get(label, ""), int(sizes.get(label, 0)), (float(x), float(y)))
        for label, (x, y) in zip(medoids, layout.xy[at], strict=True)
    )
    title = on_one_line(_compose_title(source) if style.title is None else style.title)
    n_labels = min(style.n_labels, len(places))
    since = f" Without {n_predicted:,} {pluralize(n_predicted, 'embedding')} assigned since."
    return Scene(
        layout,
        assigned.labels[layout.rows],
        places,
        title,
        _compose_caption(source, layout, n_labels, "words" if style.with_words else "medoids")
        + (since if n_predicted else ""),
    )


def _warn_of_missing_characters(scene: Scene, style: Style) -> None:
    """Log the characters that no installed font has."""
    _, missing = find_fonts(list_texts(scene, style))
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


def _compose_title(source: ClusteringSummary) -> str:
    n_clusters, n = source.record.n_clusters, source.record.n_embeddings
    return (
        f"{n_clusters:,} {pluralize(n_clusters, 'cluster')} of {n:,} {source.embedding_model} "
        f"{pluralize(n, 'embedding')}"
    )


def _compose_caption(source: ClusteringSummary, layout: Map, n_labels: int, named_by: str) -> str:
    record = source.record
    share = 100 * record.n_outliers / max(1, record.n_embeddings)
    n_rows = f"all {len(layout.rows):,}" if len(layout.rows) == layout.n_total else f"{len(layout.rows):,}"
    sampled = "" if len(layout.rows) == layout.n_total else ", sampled evenly over runs and steps"
    return (
        f"HDBSCAN: min_cluster_size {record.min_cluster_size}, min_samples {record.min_samples}, "
        f"epsilon {record.cluster_selection_epsilon:g}, {record.cluster_selection_method}, "
        f"allow_single_cluster {'on' if record.allow_single_cluster else 'off'}, "
        f"max_cluster_size {record.max_cluster_size or 'none'}, distance_floor {record.distance_floor:g}, "
        f"downsample {record.downsample or 1}, backend {record.backend} "
        f"({'exact' if record.exact else 'approximate'}); "
        f"{record.n_outliers:,} {pluralize(record.n_outliers, 'outlier')} ({share:.1f}%) in grey. "
        f"Map: {layout.method}; {n_rows} {pluralize(len(layout.rows), 'embedding')}{sampled}. "
        + (f"Labels: {named_by} of the largest clusters ({n_labels:,}). " if n_labels else "")
        + f"Clustering {source.id}."
    )
