"""Everything that the page says of one clustering, as one object; the library finds the numbers."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from panic_tda.cli.rendering.density import density_json
from panic_tda.cli.rendering.sweep import sweep_json
from panic_tda.doubts import find_doubts
from panic_tda.errors import NoTree
from panic_tda.insight import branches, density, sweep
from panic_tda.insight.layout import N_ROWS, Map, lay_out
from panic_tda.insight.milestones import Trajectories, find_visits
from panic_tda.progress import Progress, Silent
from panic_tda.report import head, motion, places
from panic_tda.report.reading import Material, read_material
from panic_tda.report.thumbnails import NoPillow, read_thumbnails
from panic_tda.storage.database import Database
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.types import SpanningTree

if TYPE_CHECKING:
    from panic_tda.types import IntArray

FORMAT = 1

_log = logging.getLogger(__name__)


def gather(
    database: Database,
    source: ClusteringSummary,
    *,
    map_rows: int = N_ROWS,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Read what the page shows.

    Parameters
    ----------
    database : Database
        The one that the clustering is in; it may be read-only.
    source : ClusteringSummary
        From `results.find_clustering`.
    map_rows : int
        Embeddings on the map, at most; medoids come on top.
    seed : int
        Of the layout.
    progress : Progress, optional
        Told what is being read.

    Returns
    -------
    dict
        Plain values and arrays; see `container.pack`. What cannot be had is None, and `notes` say why.
    """
    progress = progress or Silent()
    material = read_material(database, source, map_rows=map_rows, seed=seed, progress=progress)
    progress.phase("lay out")
    points, n_rows = material.points, len(material.assigned.ids)
    layout = Map(points.rows, *lay_out(points.vectors, seed=seed), n_total=n_rows)
    progress.phase("sum up")
    page = _places_and_motion(material, layout)
    page["thumbnails"] = _thumbnails(database, source, len(material.details), progress)
    study, outputs = material.study, _outputs(material.trajectories)
    total = study.total if study.runs else None
    # Clusters are numbered by size. Those whose medoid has gone are not among the details.
    largest = max((one.size for one in material.details), default=None)
    doubts = find_doubts(source.record, largest_cluster_size=largest)
    page["head"] = head.describe_clustering(source, database) | {
        "n_runs": len(study.runs),
        "outputs": outputs,
        "sentence": head.sentence(source, total, outputs=outputs, doubts=doubts),
        "page_made": datetime.now(UTC).isoformat(sep=" ", timespec="seconds"),
    }
    notes = [doubt.sentence for doubt in doubts[1:]]
    if page["thumbnails"]["missing"]:
        notes.append(f"There are no images: {page['thumbnails']['missing']}")
    page["tree"] = page["density"] = page["sweep"] = None
    if isinstance(material.tree, NoTree):
        notes.append(f"There is no tree, no density and no sweep: {material.tree}")
    else:
        page |= _of_tree(source, material, material.tree, progress)
    return page | {"format": FORMAT, "notes": notes}


def _places_and_motion(material: Material, layout: Map) -> dict[str, Any]:
    points, assigned, trajectories = material.points, material.assigned, material.trajectories
    visits = find_visits(trajectories)
    clusters = places.describe_clusters(
        material.details, visits, points, assigned, trajectories=trajectories, texts=material.texts
    )
    drifts = places.drifts(points, material.firsts, trajectories)
    known = points.at >= 0
    return {
        "map": places.describe_map(layout, points, assigned, trajectories),
        "clusters": clusters,
        "texts": material.texts.all,
        "runs": motion.describe_runs(trajectories, material.study),
        "groups": motion.describe_groups(material.study),
        "dynamics": motion.describe_dynamics(
            trajectories, visits, material.study, points=points.at[known], drifts=drifts[known]
        ),
    }


def _of_tree(
    source: ClusteringSummary, material: Material, tree: SpanningTree, progress: Progress
) -> dict[str, Any]:
    """Return what the tree gives: the tree itself, density, and what other settings give."""
    labels = material.assigned.labels
    found = density.describe(
        source, tree, labels, steps=material.trajectories, texts=material.notes, progress=progress
    )
    return {
        "tree": _tree(branches.find_branches(tree, labels, source.record)),
        "density": density_json(source, found),
        "sweep": _sweeps(source, tree, labels, progress),
    }


def _thumbnails(
    database: Database, source: ClusteringSummary, n_clusters: int, progress: Progress
) -> dict[str, Any]:
    """Return the images of the largest clusters, one behind the other."""
    found: dict[int, bytes] = {}
    missing = None
    try:
        found = read_thumbnails(database, source, range(n_clusters), progress=progress)
    except NoPillow as error:
        missing = str(error)
        _log.warning("the page has no images: %s", error)
    ends = np.cumsum([len(image) for image in found.values()], dtype=np.int64)
    return {
        "labels": np.array(list(found), dtype=np.int64),
        "ends": ends,
        "data": np.frombuffer(b"".join(found.values()), dtype=np.uint8),
        "missing": missing,
    }


def _tree(found: branches.Branches | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "parents": found.parents,
        "births": found.births,
        "deaths": found.deaths,
        "sizes": found.sizes,
        "labels": found.labels,
        "n_all": found.n_all,
    }


def _sweeps(
    source: ClusteringSummary, tree: SpanningTree, labels: IntArray, progress: Progress
) -> dict[str, Any]:
    """Return what other settings give, along each of two axes through the chosen one."""
    limit = source.record.max_cluster_size
    sizes = [
        size for size in density.cluster_sizes(source.record.n_embeddings) if limit is None or size <= limit
    ]
    grids = {
        "epsilon": sweep.Grid(epsilons=density.EPSILONS),
        "min_cluster_size": sweep.Grid(min_cluster_sizes=sizes),
    }
    found = {}
    for name, grid in grids.items():
        settings = sweep.sweep(tree, labels, sweep.resolve(grid, source), progress=progress)
        found[name] = sweep_json(source, settings)["settings"]
    return found


def _outputs(trajectories: Trajectories) -> str:
    texts = trajectories.are_texts
    return "outputs" if not len(texts) or texts.any() != texts.all() else "texts" if texts.all() else "images"
