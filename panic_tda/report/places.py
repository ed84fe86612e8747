"""Describe the clusters for the page: the map with its texts, clusters with examples, and drifts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from panic_tda.insight import dynamics
from panic_tda.insight.layout import Map
from panic_tda.insight.milestones import Trajectories, Visits
from panic_tda.insight.origins import ClusterOrigins
from panic_tda.storage.read.assignments import Assignments
from panic_tda.storage.read.clusterings import StoredClustering
from panic_tda.storage.read.trajectories import RunTexts
from panic_tda.types import OUTLIER, Float32Array, FloatArray, IntArray

MEDOID_CHARACTERS, TEXT_CHARACTERS = 1_000, 240
EXAMPLES = 3
_SAME = 1e-6
_GRID = 65_535
_FINE = 10_000


class Texts:
    """Numbered texts without repeats, shortened to what a person reads."""

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
    """Embeddings on the map, as (m,) arrays.

    Attributes
    ----------
    rows : int64
        Positions among the assignments, ascending.
    at : int64
        Positions among the steps of all runs; -1 if the row belongs to no step.
    texts : int64
        Numbers of their texts, -1 if there is none.
    vectors : (m, d) float32
        Stored vectors.
    """

    rows: IntArray
    at: IntArray
    texts: IntArray
    vectors: Float32Array


class PointTexts:
    """Collector of the texts of the steps on the map, run by run.

    Parameters
    ----------
    at : (m,) int64
        Steps of the points, as in `Points`.
    trajectories : Trajectories
        The steps of all runs.
    texts : Texts
        Receives the texts.

    Attributes
    ----------
    numbers : (m,) int64
        Numbers of the texts, -1 if there is none.
    """

    def __init__(self, at: IntArray, trajectories: Trajectories, texts: Texts) -> None:
        self.numbers = np.full(len(at), -1, dtype=np.int64)
        self._at, self._steps, self._texts = at, trajectories.steps, texts
        self._of_run: dict[str, list[int]] = {}
        on_map = np.flatnonzero(at >= 0)
        on_map = on_map[trajectories.are_texts[at[on_map]]]
        runs = trajectories.run_numbers[at[on_map]]
        for point, run in zip(on_map.tolist(), runs.tolist(), strict=True):
            self._of_run.setdefault(trajectories.run_ids[run], []).append(point)

    def add(self, run: RunTexts) -> None:
        """Add the texts of a run."""
        mine = self._of_run.get(run.run_id, [])
        texts = dict(zip(run.steps.tolist(), run.texts, strict=True)) if mine else {}
        for point, step in zip(mine, self._steps[self._at[mine]].tolist(), strict=True):
            self.numbers[point] = self._texts.add(texts.get(step))


def find_steps(rows: IntArray, n_assigned: int, trajectories: Trajectories) -> IntArray:
    """Return the positions of assignments among all steps; -1 if an assignment belongs to no step."""
    at = np.full(n_assigned, -1, dtype=np.int64)
    at[trajectories.rows] = np.arange(len(trajectories.rows))
    return at[rows]


def describe_map(
    layout: Map, points: Points, assigned: Assignments, trajectories: Trajectories
) -> dict[str, Any]:
    """Return the data of the map: coordinates, labels, runs, steps and texts."""
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
    stored: StoredClustering,
    visits: Visits,
    points: Points,
    *,
    trajectories: Trajectories,
    texts: Texts,
) -> dict[str, Any]:
    """Return the table of the clusters, by label, with examples from the map."""
    details = stored.clusters
    visited = dynamics.visits_of_clusters(visits, len(details))
    on_map = np.searchsorted(points.rows, np.array(list(stored.medoids.values()), dtype=np.int64))
    near, far = _choose_examples(points, stored.assignments.labels, on_map)
    at = points.at[on_map]
    run_numbers = trajectories.run_numbers
    return {
        "sizes": np.array([cluster.size for cluster in details], dtype=np.int64),
        "persistence": [cluster.persistence for cluster in details],
        "runs": visited.runs,
        "entered": visited.entered,
        "median_dwells": visited.median_dwells,
        "copies": [cluster.medoid_copies for cluster in details],
        "texts": np.array(
            [texts.add(cluster.medoid_text, MEDOID_CHARACTERS) for cluster in details], dtype=np.int64
        ),
        "points": on_map,
        "medoid_runs": np.where(at >= 0, run_numbers[at], -1) if len(run_numbers) else at,
        "near": near,
        "far": far,
    }


def describe_origins(origins: ClusterOrigins, n_clusters: int) -> dict[str, Any]:
    """Return the origins and the words of the clusters, by label."""
    members, words = origins.members[:n_clusters], origins.words or {}
    return {
        "prompts": np.array([cluster.prompts for cluster in members], dtype=np.int64),
        "largest_run_shares": [cluster.largest_run_share for cluster in members],
        "words": [", ".join(words.get(cluster.label, ())) for cluster in members],
    }


def compute_drifts(points: Points, firsts: Float32Array, trajectories: Trajectories) -> FloatArray:
    """Return the chord from each point on the map to the first step of its run, (m,) float64, or NaN.

    `firsts`, (r, d) float32, has the vectors of the first steps.
    """
    chords = np.full(len(points.rows), np.nan)
    there = np.flatnonzero(points.at >= 0)
    of_runs = trajectories.run_numbers[points.at[there]]
    chords[there] = dynamics.chords(points.vectors[there], firsts[of_runs])
    return chords


def _choose_examples(points: Points, labels: IntArray, medoids: IntArray) -> tuple[list[Any], list[Any]]:
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
        close = _choose_distinct(points.texts[mine], ranked, ())
        near.append([[text, distances[at]] for text, at in close])
        wide = _choose_distinct(points.texts[mine], ranked[::-1], [text for text, _ in close])
        far.append([[text, distances[at]] for text, at in wide])
    return near, far


def _choose_distinct(texts: IntArray, ranked: IntArray, taken: Sequence[int]) -> list[tuple[int, int]]:
    """Return the first `EXAMPLES` distinct texts that are not `taken`, as (text, position)."""
    positions: dict[int, int] = {}
    for position in ranked.tolist():
        text = int(texts[position])
        if text not in taken:
            positions.setdefault(text, position)
        if len(positions) == EXAMPLES:
            break
    return list(positions.items())
