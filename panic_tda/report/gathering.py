"""Everything that the page says of one clustering, as one object; the library finds the numbers."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import numpy as np

from panic_tda.cli.rendering.density import density_json
from panic_tda.cli.rendering.sweep import sweep_json
from panic_tda.errors import NoTree
from panic_tda.insight import branches, density, sweep
from panic_tda.insight.milestones import Trajectories, find_visits
from panic_tda.insight.trajectories import TrajectoryStudy, read_trajectories, study_trajectories
from panic_tda.progress import Progress, Silent
from panic_tda.report import head, motion, places
from panic_tda.report.layout import N_ROWS, read_map
from panic_tda.report.thumbnails import NoPillow, read_thumbnails
from panic_tda.storage.assignments import read_assignments
from panic_tda.storage.database import Database
from panic_tda.storage.results import ClusterDetails, ClusteringSummary, get_cluster_details

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
    notes: list[str] = []
    with database.session() as session:
        details = get_cluster_details(source.id, session)
    trajectories = read_trajectories(database, source, progress=progress)
    study = study_trajectories(database, source, progress=progress)
    page = _places_and_motion(
        database, source, details, trajectories, study, map_rows=map_rows, seed=seed, progress=progress
    )
    outputs = _outputs(trajectories)
    total = study.total if study.runs else None
    page["head"] = head.describe_clustering(source) | {
        "n_runs": len(study.runs),
        "outputs": outputs,
        "sentence": head.sentence(source, total, outputs=outputs),
        "page_made": datetime.now(UTC).isoformat(sep=" ", timespec="seconds"),
    }
    if page["thumbnails"]["missing"]:
        notes.append(f"There are no images: {page['thumbnails']['missing']}")
    page["tree"] = page["density"] = page["sweep"] = None
    try:
        page["tree"] = _tree(branches.read_branches(database, source, progress=progress))
        page["density"] = density_json(source, density.examine(database, source, progress=progress))
        page["sweep"] = _sweeps(database, source, progress)
    except NoTree as error:
        notes.append(f"There is no tree, no density and no sweep: {error}")
    return page | {"format": FORMAT, "notes": notes}


def _places_and_motion(
    database: Database,
    source: ClusteringSummary,
    details: list[ClusterDetails],
    trajectories: Trajectories,
    study: TrajectoryStudy,
    *,
    map_rows: int,
    seed: int,
    progress: Progress,
) -> dict[str, Any]:
    texts, visits = places.Texts(), find_visits(trajectories)
    layout = read_map(database, source, n_rows=map_rows, seed=seed, progress=progress)
    with database.reading() as connection:
        assigned = read_assignments(connection, source.id)
    points = places.read_points(database, layout, assigned, trajectories, texts=texts, progress=progress)
    progress.phase("sum up")
    clusters = places.describe_clusters(
        details, visits, points, assigned, trajectories=trajectories, texts=texts
    )
    drifts = places.drifts(database, points, assigned, trajectories)
    known = points.at >= 0
    return {
        "map": places.describe_map(layout, points, assigned, trajectories),
        "clusters": clusters,
        "texts": texts.all,
        "thumbnails": _thumbnails(database, source, len(details), progress),
        "runs": motion.describe_runs(trajectories, study),
        "groups": motion.describe_groups(study),
        "dynamics": motion.describe_dynamics(
            trajectories, visits, study, points=points.at[known], drifts=drifts[known]
        ),
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


def _sweeps(database: Database, source: ClusteringSummary, progress: Progress) -> dict[str, Any]:
    """Return what other settings give, along each of two axes through the chosen one."""
    sizes = density.cluster_sizes(source.record.n_embeddings)
    grids = {
        "epsilon": sweep.Grid(epsilons=density.EPSILONS),
        "min_cluster_size": sweep.Grid(min_cluster_sizes=sizes),
    }
    return {
        name: sweep_json(source, sweep.sweep_clustering(database, source, grid, progress=progress))[
            "settings"
        ]
        for name, grid in grids.items()
    }


def _outputs(trajectories: Trajectories) -> str:
    texts = trajectories.are_texts
    return "outputs" if not len(texts) or texts.any() != texts.all() else "texts" if texts.all() else "images"
