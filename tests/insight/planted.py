"""Databases with runs whose clusters and texts are laid down step by step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from panic_tda.insight.milestones import Trajectories, find_states
from panic_tda.storage.database import Database, open_database
from panic_tda.storage.read.results import ClusteringSummary, find_clustering
from panic_tda.storage.read.trajectories import read_steps
from panic_tda.storage.write.saving import save_clustering
from tests.conftest import make_finished
from tests.snapshots import opened

MODEL = "Planted"


@dataclass(frozen=True)
class PlantedRun:
    """One run.

    Attributes
    ----------
    labels : sequence of int or None
        The cluster of each output step; None where the step failed, and nothing of it is stored.
    texts : sequence of str, optional
        What each step says; by default no two say the same.
    probabilities : sequence of float, optional
        Of membership; by default 1 in clusters.
    stored : str
        Whether "images" stand between the texts, at even sequence numbers; the "texts" stand at odd ones, and
        the images were not stored; or there is a text at "every" number.
    network, prompt
        What it was started with.
    """

    labels: Sequence[int | None]
    texts: Sequence[str] | None = None
    probabilities: Sequence[float] | None = None
    stored: Literal["images", "texts", "every"] = "images"
    network: tuple[str, ...] = ("FluxDev", "BLIP2")
    prompt: str = "a red apple"


def run_id(number: int) -> str:
    """Return the id of a planted run."""
    return f"{number + 1:08x}{'a' * 24}"


def plant(
    path: Path, runs: Sequence[PlantedRun], *, downsample: int = 1
) -> tuple[Database, ClusteringSummary]:
    """Write runs into a new database, and a clustering of every `downsample`-th of their texts."""
    database = open_database(path, create=True)
    assigned: dict[str, tuple[int, float]] = {}
    with opened(path) as connection:
        for number, run in enumerate(runs):
            connection.execute(
                "INSERT INTO run (id, network, seed, max_length, initial_prompt) VALUES (?, ?, ?, 1000, ?)",
                (run_id(number), json.dumps(run.network), number, run.prompt),
            )
            # Neither in the order of runs nor of steps: ids are no order to rely on.
            for step in reversed(range(len(run.labels))):
                label = run.labels[step]
                if label is None:
                    continue
                text = run.texts[step] if run.texts else f"run {number} step {step}"
                at = step if run.stored == "every" else 2 * step + 1
                identity = f"{(7 * step + 3 * number) % 1009:08x}{number:012x}{step:012x}"
                rows = [(identity, run.network[-1], "TEXT", run_id(number), at, text, None)]
                if run.stored == "images":
                    image = f"{'e' * 8}{number:012x}{step:012x}"
                    rows.append((image, run.network[0], "IMAGE", run_id(number), at - 1, None, b"RIFF"))
                connection.executemany(
                    "INSERT INTO invocation (id, model, type, run_id, sequence_number, output_text, "
                    "output_image_data, seed) VALUES (?, ?, ?, ?, ?, ?, ?, 0)",
                    rows,
                )
                connection.execute(
                    "INSERT INTO embedding (id, invocation_id, embedding_model, vector) VALUES (?, ?, ?, ?)",
                    (identity[::-1], identity, MODEL, bytes(32)),
                )
                if step % downsample == 0:
                    sure = run.probabilities[step] if run.probabilities else 1.0
                    assigned[identity[::-1]] = label, sure if label >= 0 else 0.0
    return database, _cluster(database, assigned, downsample)


def read_trajectories(database: Database, clustering: ClusteringSummary) -> Trajectories:
    """Read the steps of all runs, with a state for each."""
    with database.reading() as connection:
        return find_states(read_steps(connection, clustering))


def _cluster(
    database: Database, assigned: dict[str, tuple[int, float]], downsample: int
) -> ClusteringSummary:
    ids = sorted(assigned)
    labels = np.array([assigned[embedding_id][0] for embedding_id in ids], dtype=np.int64)
    finished = make_finished(ids or ["0"], model=MODEL)
    finished = replace(
        finished,
        record=replace(finished.record, downsample=downsample, n_embeddings=len(ids)),
        ids=np.array(ids, dtype="S32"),
        labels=labels,
        probabilities=np.array([assigned[embedding_id][1] for embedding_id in ids], dtype=float),
        medoids={int(label): int(np.argmax(labels == label)) for label in set(labels.tolist()) - {-1}},
        persistence=dict.fromkeys(range(int(labels.max(initial=-1)) + 1), 0.5),
    )
    with database.writing() as connection:
        save_clustering(connection, finished)
    with database.session() as session:
        return find_clustering(session, str(finished.id))
