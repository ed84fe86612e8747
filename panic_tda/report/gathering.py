"""Gather all data of the page about one clustering as one object; `insight` computes the numbers."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from panic_tda.doubts import find_doubts
from panic_tda.errors import DatabaseError, NoTree
from panic_tda.insight import branches, density, sweep
from panic_tda.insight.layout import Map, choose_rows, lay_out
from panic_tda.insight.milestones import Trajectories, find_states, find_visits
from panic_tda.insight.origins import ClusterOrigins, StepWords, count_members
from panic_tda.insight.text_notes import TextNotes
from panic_tda.insight.trajectories import Recurrences, TrajectoryStudy, sum_up
from panic_tda.parameters import MAP_ROWS
from panic_tda.progress import Progress, Silent
from panic_tda.records import require_cosine
from panic_tda.report import head, motion, places
from panic_tda.report.thumbnails import NoPillow, read_thumbnails
from panic_tda.storage.database import Database
from panic_tda.storage.read.clusterings import StoredClustering, open_clustering
from panic_tda.storage.read.results import ClusterDetails, ClusteringSummary
from panic_tda.types import OUTLIER, Float32Array, IntArray, SpanningTree

FORMAT = 1

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReportInputs:
    """Inputs of the page, as read from the database.

    Attributes
    ----------
    stored : StoredClustering
        The clustering; its assignments, steps, clusters and medoids are loaded.
    clusters : list of ClusterDetails
        Clusters by label.
    trajectories : Trajectories
        Steps of the r runs.
    study : TrajectoryStudy
        Statistics of the runs, by network.
    notes : TextNotes
        Lengths and writers of the texts.
    texts : Texts
        Texts of the points.
    points : Points
        Rows on the map.
    first_vectors : (r, d) float32
        Vectors of the first steps of the runs.
    origins : ClusterOrigins
        Runs, prompts and words of the clusters.
    tree : SpanningTree or NoTree
        Spanning tree of the rows, or the reason why it is missing.
    graph : SpanningTree or None
        The tree with the neighbour lists, if they are stored.
    n_predicted : int
        Number of predicted embeddings, which are not on the page.
    """

    stored: StoredClustering
    clusters: list[ClusterDetails]
    trajectories: Trajectories
    study: TrajectoryStudy
    notes: TextNotes
    texts: places.Texts
    points: places.Points
    first_vectors: Float32Array
    origins: ClusterOrigins
    tree: SpanningTree | NoTree
    graph: SpanningTree | None
    n_predicted: int


def gather(
    database: Database,
    source: ClusteringSummary,
    *,
    map_rows: int = MAP_ROWS,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Read a clustering and compute all data of its page.

    Parameters
    ----------
    database : Database
        Database of the clustering; it may be read-only.
    source : ClusteringSummary
        From `results.find_clustering`.
    map_rows : int
        Maximum number of embeddings on the map, besides the medoids.
    seed : int
        Seed of the layout.
    progress : Progress, optional
        Receives the phases.

    Returns
    -------
    dict
        Plain values and arrays for `container.pack`. Missing parts are None, and `notes` say why.
    """
    require_cosine(source.record, "the report")
    progress = progress or Silent()
    inputs = read_inputs(database, source, map_rows=map_rows, seed=seed, progress=progress)
    progress.phase("compute the map")
    points, n_rows = inputs.points, len(inputs.stored.assignments.ids)
    layout = Map(points.rows, *lay_out(points.vectors, seed=seed), n_total=n_rows)
    progress.phase("compute statistics")
    page = _describe_places_and_motion(inputs, layout)
    page["thumbnails"] = _read_images(database, source, len(inputs.clusters), progress)
    study, outputs = inputs.study, _name_outputs(inputs.trajectories)
    total = study.total if study.runs else None
    # Clusters whose medoid was deleted are not among the details.
    largest = max((cluster.size for cluster in inputs.clusters), default=None)
    doubts = find_doubts(source.record, largest_cluster_size=largest)
    page["head"] = head.describe_clustering(source, database) | {
        "n_runs": len(study.runs),
        "outputs": outputs,
        "sentence": head.compose_summary(source, total, outputs=outputs, doubts=doubts),
        "page_made": datetime.now(UTC).isoformat(sep=" ", timespec="seconds"),
    }
    notes = [doubt.sentence for doubt in doubts[1:]]
    if page["thumbnails"]["missing"]:
        notes.append(f"There are no images: {page['thumbnails']['missing']}")
    if inputs.n_predicted:
        notes.append(head.describe_predicted(inputs.n_predicted))
    page["tree"] = page["density"] = page["sweep"] = None
    if isinstance(inputs.tree, NoTree):
        notes.append(f"There is no tree, no density and no sweep: {inputs.tree}")
    else:
        page |= _describe_tree(source, inputs, inputs.tree, progress)
    return page | {"format": FORMAT, "notes": notes}


def read_inputs(
    database: Database, source: ClusteringSummary, *, map_rows: int, seed: int, progress: Progress
) -> ReportInputs:
    """Read a clustering in one transaction; the arguments are those of `gather`.

    Notes
    -----
    Texts are read once, one run at a time. Memory: about 300 bytes per assignment, and twice the vectors of
    the rows on the map and of the first steps.
    """
    with open_clustering(database, source, progress) as stored:
        _require_clusters(stored)
        trajectories = find_states(stored.steps)
        rows = choose_rows(stored, n_rows=map_rows, seed=seed)
        at = places.find_steps(rows, len(stored.assignments.ids), trajectories)
        texts, notes, recurrences = places.Texts(), TextNotes(trajectories), Recurrences()
        of_points = places.PointTexts(at, trajectories, texts)
        words = StepWords(trajectories)
        stored.read_texts(recurrences.add, notes.add, of_points.add, words.add)
        first_rows = trajectories.rows[trajectories.offsets[:-1]]
        vector_rows = np.union1d(rows, first_rows)
        vectors = stored.read_vectors(vector_rows)
        tree: SpanningTree | NoTree
        try:
            tree = stored.tree
        except NoTree as error:
            tree = error
        graph = stored.find_graph()
        clusters, runs, n_predicted = stored.clusters, stored.runs, stored.n_predicted
        members = count_members(trajectories, runs, n_clusters=len(clusters))
    progress.phase("compute statistics")
    return ReportInputs(
        stored=stored,
        clusters=clusters,
        trajectories=trajectories,
        study=sum_up(source, trajectories, runs, recurrences),
        notes=notes,
        texts=texts,
        points=places.Points(rows, at, of_points.numbers, vectors[np.searchsorted(vector_rows, rows)]),
        first_vectors=vectors[np.searchsorted(vector_rows, first_rows)],
        origins=ClusterOrigins(members, words.counts.name_clusters()),
        tree=tree,
        graph=graph,
        n_predicted=n_predicted,
    )


def _require_clusters(stored: StoredClustering) -> None:
    """Check that every label of the assignments has a cluster: the arrays of the page are by label."""
    n_labels = int(stored.assignments.labels.max(initial=OUTLIER)) + 1
    if n_labels > len(stored.clusters):
        raise DatabaseError(
            f"cluster {n_labels - 1} of clustering {stored.summary.id}, or one before it, is missing; "
            "panic-tda doctor names what is damaged; for a report, cluster again (cluster-embeddings)"
        )


def _describe_places_and_motion(inputs: ReportInputs, layout: Map) -> dict[str, Any]:
    points, stored, trajectories = inputs.points, inputs.stored, inputs.trajectories
    visits = find_visits(trajectories)
    clusters = places.describe_clusters(stored, visits, points, trajectories=trajectories, texts=inputs.texts)
    clusters |= places.describe_origins(inputs.origins, len(inputs.clusters))
    drifts = places.compute_drifts(points, inputs.first_vectors, trajectories)
    known = points.at >= 0
    return {
        "map": places.describe_map(layout, points, stored.assignments, trajectories),
        "clusters": clusters,
        "texts": inputs.texts.all,
        "runs": motion.describe_runs(trajectories, inputs.study),
        "groups": motion.describe_groups(inputs.study),
        "dynamics": motion.describe_dynamics(
            trajectories, visits, inputs.study, points=points.at[known], drifts=drifts[known]
        ),
    }


def _describe_tree(
    source: ClusteringSummary, inputs: ReportInputs, tree: SpanningTree, progress: Progress
) -> dict[str, Any]:
    """Return the cluster tree, the density and the sweeps, which are computed from the spanning tree."""
    labels = inputs.stored.assignments.labels
    study = density.describe(
        source, (tree, inputs.graph), labels, steps=inputs.trajectories, texts=inputs.notes, progress=progress
    )
    return {
        "tree": _convert_branches(branches.find_branches(tree, labels, source.record)),
        "density": study.to_dict(),
        "sweep": _sweep_settings(source, tree, labels, progress),
    }


def _read_images(
    database: Database, source: ClusteringSummary, n_clusters: int, progress: Progress
) -> dict[str, Any]:
    """Return the concatenated thumbnails of the largest clusters."""
    images: dict[int, bytes] = {}
    missing = None
    try:
        images = read_thumbnails(database, source, range(n_clusters), progress=progress)
    except NoPillow as error:
        missing = str(error)
        _log.warning("the page has no images: %s", error)
    ends = np.cumsum([len(image) for image in images.values()], dtype=np.int64)
    return {
        "labels": np.array(list(images), dtype=np.int64),
        "ends": ends,
        "data": np.frombuffer(b"".join(images.values()), dtype=np.uint8),
        "missing": missing,
    }


def _convert_branches(tree: branches.Branches | None) -> dict[str, Any] | None:
    if tree is None:
        return None
    return {
        "parents": tree.parents,
        "births": tree.births,
        "deaths": tree.deaths,
        "sizes": tree.sizes,
        "labels": tree.labels,
        "n_all": tree.n_all,
    }


def _sweep_settings(
    source: ClusteringSummary, tree: SpanningTree, labels: IntArray, progress: Progress
) -> dict[str, Any]:
    """Return the sweeps over epsilon and over min_cluster_size through the settings of the clustering."""
    limit = source.record.max_cluster_size
    sizes = [
        size for size in density.cluster_sizes(source.record.n_embeddings) if limit is None or size <= limit
    ]
    grids = {
        "epsilon": sweep.Grid(epsilons=density.EPSILONS),
        "min_cluster_size": sweep.Grid(min_cluster_sizes=sizes),
    }
    sweeps = {}
    for name, grid in grids.items():
        trees = {source.record.min_samples: tree}
        settings = sweep.sweep(trees, labels, sweep.resolve(grid, source), progress=progress)
        sweeps[name] = [setting.to_dict() for setting in settings]
    return sweeps


def _name_outputs(trajectories: Trajectories) -> str:
    """Return what was embedded: texts, images or, for both, outputs."""
    texts = trajectories.are_texts
    return "outputs" if not len(texts) or texts.any() != texts.all() else "texts" if texts.all() else "images"
