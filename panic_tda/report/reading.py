"""What a page is made of, read once: steps, texts, vectors and the tree of a clustering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from panic_tda.errors import NoTree
from panic_tda.insight.density import TextNotes
from panic_tda.insight.layout import find_rows, sample_rows
from panic_tda.insight.milestones import Trajectories, find_states
from panic_tda.insight.recurrence import find_recurrence
from panic_tda.insight.trajectories import TrajectoryStudy, sum_up
from panic_tda.progress import Progress
from panic_tda.report.places import Points, PointTexts, Texts, steps_of
from panic_tda.storage.database import Database
from panic_tda.storage.read.assignments import Assignments, read_assignments
from panic_tda.storage.read.picking import require_vectors
from panic_tda.storage.read.results import ClusterDetails, ClusteringSummary, get_cluster_details
from panic_tda.storage.read.trajectories import read_runs, read_steps, stream_texts
from panic_tda.storage.read.trees import require_tree
from panic_tda.types import SpanningTree

if TYPE_CHECKING:
    from panic_tda.types import Float32Array


@dataclass(frozen=True)
class Material:
    """All that is read of a clustering for its page.

    Attributes
    ----------
    details : list of ClusterDetails
        The clusters by label.
    assigned : Assignments
        Its n rows.
    trajectories : Trajectories
        The steps of its r runs.
    study : TrajectoryStudy
        What the runs do, by network.
    notes : TextNotes
        What their texts are like.
    texts : Texts
        Those of the points.
    points : Points
        The rows that are on the map.
    firsts : (r, d) float32
        Vectors of the first steps of the runs.
    tree : SpanningTree or NoTree
        Over the rows; or why there is none.
    """

    details: list[ClusterDetails]
    assigned: Assignments
    trajectories: Trajectories
    study: TrajectoryStudy
    notes: TextNotes
    texts: Texts
    points: Points
    firsts: Float32Array
    tree: SpanningTree | NoTree


def read_material(
    database: Database, source: ClusteringSummary, *, map_rows: int, seed: int, progress: Progress
) -> Material:
    """Read a clustering, in two short transactions; the arguments are those of `gathering.gather`.

    Notes
    -----
    Texts are gone through once, a run at a time. Memory: some 300 bytes an assignment, and the vectors of the
    rows on the map and of the first steps twice.
    """
    with database.session() as session:
        details = get_cluster_details(source.id, session)
    with database.reading() as connection:
        trajectories = find_states(read_steps(connection, source, progress))
        assigned = read_assignments(connection, source.id)
        medoids = find_rows(assigned.ids, [one.medoid_embedding_id.hex.encode() for one in details])
        rows = sample_rows(trajectories.rows, medoids, n_rows=map_rows, seed=seed)
        at = steps_of(rows, len(assigned.ids), trajectories)
        texts, notes, recurrences = Texts(), TextNotes(trajectories), {}
        of_points = PointTexts(at, trajectories, texts)
        progress.phase("read texts", total=len(trajectories.run_ids))
        for run in stream_texts(connection, trajectories.run_ids):
            recurrences[run.run_id] = find_recurrence(run.steps, run.texts)
            notes.add(run)
            of_points.add(run)
            progress.advance(1)
        facts = read_runs(connection)
        firsts = trajectories.rows[trajectories.offsets[:-1]]
        wanted = np.union1d(rows, firsts)
        progress.phase("read vectors", total=len(wanted))
        vectors = require_vectors(
            connection, assigned.ids[wanted], model=source.embedding_model, progress=progress
        )
        progress.phase("read the tree")
        tree: SpanningTree | NoTree
        try:
            tree = require_tree(connection, source.id, source.record)
        except NoTree as error:
            tree = error
    progress.phase("sum up")
    return Material(
        details=details,
        assigned=assigned,
        trajectories=trajectories,
        study=sum_up(source, trajectories, facts, recurrences),
        notes=notes,
        texts=texts,
        points=Points(rows, at, of_points.numbers, vectors[np.searchsorted(wanted, rows)]),
        firsts=vectors[np.searchsorted(wanted, firsts)],
        tree=tree,
    )
