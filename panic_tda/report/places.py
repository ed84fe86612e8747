"""The places: the map with its texts, the clusters with examples, and how far runs drift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from panic_tda.errors import OUTLIER
from panic_tda.insight import dynamics
from panic_tda.insight.milestones import Trajectories, Visits
from panic_tda.progress import Progress
from panic_tda.report.layout import Map
from panic_tda.storage.assignments import Assignments
from panic_tda.storage.database import Database
from panic_tda.storage.picking import pick_vectors
from panic_tda.storage.results import ClusterDetails
from panic_tda.storage.trajectories import stream_texts

if TYPE_CHECKING:
    from panic_tda.types import Float32Array, FloatArray, IntArray

MEDOID_CHARACTERS, TEXT_CHARACTERS = 1_000, 240
EXAMPLES = 3
_SAME = 1e-6
_GRID = 65_535
_FINE = 10_000


class Texts:
    """Texts by number, each kept once and not longer than a person reads."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def add(self, text: str | None, characters: int = TEXT_CHARACTERS) -> int:
        """Return the number of a text, -1 for None."""
        if text is None:
            return -1
        short = text if len(text) <= characters else text[: characters - 1] + "…"
        return self._numbers.setdefault(short, len(self._numbers))

    @property
    def all(self) -> list[str]:
        """The texts in the order of their numbers."""
        return list(self._numbers)


@dataclass(frozen=True)
class Points:
    """The embeddings on the map: (m,) arrays.

    Attributes
    ----------
    rows : int64
        Positions among the assignments, ascending.
    at : int64
        Positions among the steps of all runs; -1 where a row is of no step.
    texts : int64
        Numbers of their texts, -1 where there is none.
    vectors : (m, d) float32
        As stored.
    """

    rows: IntArray
    at: IntArray
    texts: IntArray
    vectors: Float32Array


def read_points(
    database: Database,
    layout: Map,
    assigned: Assignments,
    trajectories: Trajectories,
    *,
    texts: Texts,
    progress: Progress,
) -> Points:
    """Look up the texts and vectors of the embeddings on the map."""
    at = np.full(len(assigned.ids), -1, dtype=np.int64)
    at[trajectories.rows] = np.arange(len(trajectories.rows))
    at = at[layout.rows]
    numbers = np.full(len(at), -1, dtype=np.int64)
    on_map = np.flatnonzero(at >= 0)
    runs = trajectories.run_numbers[at[on_map]]
    wanted = np.unique(runs)
    run_ids = [trajectories.run_ids[run] for run in wanted.tolist()]
    order = np.argsort(runs, kind="stable")
    bounds = np.searchsorted(runs[order], np.append(wanted, len(trajectories.run_ids)))
    places = {run: number for number, run in enumerate(run_ids)}
    progress.phase("read texts", total=len(run_ids))
    with database.reading() as connection:
        for run in stream_texts(connection, run_ids):
            number = places[run.run_id]
            mine = on_map[order[bounds[number] : bounds[number + 1]]]
            mine = mine[trajectories.are_texts[at[mine]]]
            found = dict(zip(run.steps.tolist(), run.texts, strict=True))
            for point, step in zip(mine.tolist(), trajectories.steps[at[mine]].tolist(), strict=True):
                numbers[point] = texts.add(found.get(step))
            progress.advance(1)
        progress.phase("read vectors", total=len(layout.rows))
        vectors = pick_vectors(connection, assigned.ids[layout.rows], progress=progress)
    return Points(layout.rows, at, numbers, vectors)


def describe_map(
    layout: Map, points: Points, assigned: Assignments, trajectories: Trajectories
) -> dict[str, Any]:
    """Return what the page draws as a map."""
    low = layout.xy.min(axis=0) if len(layout.xy) else np.zeros(2)
    span = float((layout.xy.max(axis=0) - low).max()) if len(layout.xy) else 0.0
    grid = np.rint((layout.xy - low) / (span or 1.0) * _GRID).astype(np.int64)
    there = points.at >= 0
    runs, steps = np.full(len(there), -1), np.full(len(there), -1)
    runs[there] = trajectories.run_numbers[points.at[there]]
    steps[there] = trajectories.steps[points.at[there]]
    return {
        "method": layout.method,
        "n": len(layout.rows),
        "n_all": layout.n_total,
        "x": grid[:, 0],
        "y": grid[:, 1],
        "labels": assigned.labels[layout.rows],
        "probabilities": np.rint(assigned.probabilities[layout.rows] * _FINE).astype(np.int64),
        "runs": runs,
        "steps": steps,
        "texts": points.texts,
    }


def describe_clusters(
    details: Sequence[ClusterDetails],
    visits: Visits,
    points: Points,
    assigned: Assignments,
    *,
    trajectories: Trajectories,
    texts: Texts,
) -> dict[str, Any]:
    """Return the table of the clusters, by label, with examples from the map."""
    visited = dynamics.visits_of_clusters(visits, len(details))
    medoids = np.array([one.medoid_embedding_id.hex for one in details], dtype="S32")
    on_map = np.searchsorted(assigned.ids[points.rows], medoids)
    near, far = _examples(points, assigned.labels, on_map)
    at = points.at[on_map]
    run_numbers = trajectories.run_numbers
    return {
        "sizes": np.array([one.size for one in details], dtype=np.int64),
        "persistence": [one.persistence for one in details],
        "runs": visited.runs,
        "entered": visited.entered,
        "median_dwells": visited.median_dwells,
        "copies": [one.medoid_copies for one in details],
        "texts": np.array([texts.add(one.medoid_text, MEDOID_CHARACTERS) for one in details], dtype=np.int64),
        "points": on_map,
        "medoid_runs": np.where(at >= 0, run_numbers[at], -1) if len(run_numbers) else at,
        "near": near,
        "far": far,
    }


def drifts(
    database: Database, points: Points, assigned: Assignments, trajectories: Trajectories
) -> FloatArray:
    """Return the chord from each point on the map to the first step of its run, (m,) float64, or NaN."""
    found = np.full(len(points.rows), np.nan)
    there = np.flatnonzero(points.at >= 0)
    if not len(there):
        return found
    firsts = trajectories.rows[trajectories.offsets[:-1]]
    order = np.argsort(firsts)
    with database.reading() as connection:
        vectors = pick_vectors(connection, assigned.ids[firsts[order]])
    places = np.argsort(order)[trajectories.run_numbers[points.at[there]]]
    found[there] = dynamics.chords(points.vectors[there], vectors[places])
    return found


def _examples(points: Points, labels: IntArray, medoids: IntArray) -> tuple[list[Any], list[Any]]:
    """Choose the members on the map nearest to and farthest from each medoid, as [text, chord]."""
    of_points = labels[points.rows]
    order = np.argsort(of_points, kind="stable")
    bounds = np.searchsorted(of_points[order], np.arange(len(medoids) + 1))
    near, far = [], []
    for label, medoid in enumerate(medoids.tolist()):
        mine = order[bounds[label] : bounds[label + 1]]
        mine = mine[points.texts[mine] != OUTLIER]
        distances = dynamics.chords(
            points.vectors[mine], np.broadcast_to(points.vectors[medoid], points.vectors[mine].shape)
        )
        ranked = np.argsort(distances, kind="stable")
        ranked = ranked[distances[ranked] > _SAME]
        close = _different(points.texts[mine], ranked, ())
        near.append([[text, distances[at]] for text, at in close])
        wide = _different(points.texts[mine], ranked[::-1], [text for text, _ in close])
        far.append([[text, distances[at]] for text, at in wide])
    return near, far


def _different(texts: IntArray, ranked: IntArray, taken: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first places whose texts are all different, with the texts."""
    found: dict[int, int] = {}
    for place in ranked.tolist():
        text = int(texts[place])
        if text not in taken:
            found.setdefault(text, place)
        if len(found) == EXAMPLES:
            break
    return list(found.items())
