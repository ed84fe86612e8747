"""Clusterings to export, and the rows that an export must contain.

What is expected is looked up one value at a time: slow, obvious, and by no code of the package.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

from panic_tda.clustering_manager import cluster_all_data
from panic_tda.parameters import ClusteringParameters
from panic_tda.storage.database import Database
from panic_tda.storage.read.results import ClusteringSummary, find_clustering
from tests.snapshots import opened

COLUMNS = (
    "embedding_id",
    "invocation_id",
    "run_id",
    "experiment_id",
    "initial_prompt",
    "network",
    "seed",
    "sequence_number",
    "step",
    "output_type",
    "model",
    "embedding_model",
    "text",
    "label",
    "probability",
    "core_distance",
    "is_medoid",
    "medoid_text",
    "predicted",
)


def clustered(database: Database, model: str = "Nomic", downsample: int = 1) -> ClusteringSummary:
    """Cluster a model of a field file into some clusters, with outliers between them."""
    parameters = ClusteringParameters(
        min_cluster_size=3, min_samples=3, epsilon=0.0, allow_single_cluster=False
    )
    (outcome,) = cluster_all_data(
        database, [model], downsample=downsample, parameters=parameters, skip_invalid=True
    )
    with database.session() as session:
        return find_clustering(session, str(outcome.id))


def latest(database: Database) -> ClusteringSummary:
    """Return the latest clustering of a database with clusterings of one model."""
    with database.session() as session:
        return find_clustering(session)


def expected_rows(target: Path | str, clustering: object) -> list[dict[str, Any]]:
    """Return the rows of an export of a clustering, but for the core distances."""
    with opened(target) as connection:

        def select_rows(query: str, *values: Any) -> list[dict[str, Any]]:
            cursor = connection.execute(query, values)
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor]

        def all_of(table: str, columns: str) -> dict[str, dict[str, Any]]:
            return {row["id"]: row for row in select_rows(f"SELECT {columns} FROM {table}")}

        runs = all_of("run", "id, network, seed, initial_prompt, experiment_id")
        invocations = all_of("invocation", "id, run_id, type, model, sequence_number, output_text")
        embeddings = all_of("embedding", "id, invocation_id")
        parities: dict[tuple[str, str], set[int]] = {}
        for row in invocations.values():
            parities.setdefault((row["run_id"], row["type"]), set()).add(row["sequence_number"] % 2)
        (result,) = select_rows(
            "SELECT key, embedding_model FROM clusteringresult WHERE id = ?", UUID(str(clustering)).hex
        )
        medoids = {
            row["label"]: row["medoid_embedding_id"]
            for row in select_rows("SELECT * FROM cluster WHERE result_key = ?", result["key"])
        }
        assignments = select_rows("SELECT * FROM embeddingcluster WHERE result_key = ?", result["key"])

    def output(embedding: str | None) -> dict[str, Any]:
        return invocations.get(embeddings.get(embedding or "", {}).get("invocation_id"), {})

    rows = []
    for assignment in sorted(assignments, key=lambda row: row["embedding_id"]):
        invocation = output(assignment["embedding_id"])
        run = runs.get(invocation.get("run_id", ""), {})
        stride = (
            2 if len(parities.get((invocation.get("run_id", ""), invocation.get("type", "")), ())) == 1 else 1
        )
        number = invocation.get("sequence_number")
        medoid = medoids.get(assignment["label"])
        row = {
            "embedding_id": dashed(assignment["embedding_id"]),
            "invocation_id": dashed(embeddings.get(assignment["embedding_id"], {}).get("invocation_id")),
            "run_id": dashed(invocation.get("run_id")),
            "experiment_id": dashed(run.get("experiment_id")),
            "initial_prompt": run.get("initial_prompt"),
            "network": None if not run else json.dumps(json.loads(run["network"]), ensure_ascii=False),
            "seed": run.get("seed"),
            "sequence_number": number,
            "step": None if number is None else number // stride,
            "output_type": invocation["type"].lower() if invocation else None,
            "model": invocation.get("model"),
            "embedding_model": result["embedding_model"],
            "text": invocation.get("output_text"),
            "label": assignment["label"],
            "probability": assignment["probability"],
            "is_medoid": medoid == assignment["embedding_id"],
            "medoid_text": output(medoid).get("output_text"),
            "predicted": False,
        }
        rows.append(row)
    return rows


def expected_core_distances(
    target: Path | str, rows: list[dict[str, Any]], min_samples: int, floor: float
) -> Any:
    """Return the distance of each row to its `min_samples`-th nearest, itself counted, from all distances."""
    vectors = stored_vectors(target, rows).astype(np.float64)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    chords = np.linalg.norm(units[:, None] - units[None, :], axis=2)
    return np.maximum(np.sort(chords, axis=1)[:, min_samples - 1], floor)


def stored_vectors(target: Path | str, rows: list[dict[str, Any]]) -> Any:
    """Return the vectors of these rows as the database has them."""
    with opened(target) as connection:
        vectors = dict(connection.execute("SELECT id, vector FROM embedding"))
    return np.stack([np.frombuffer(vectors[row["embedding_id"].replace("-", "")], "<f4") for row in rows])


def dashed(identity: str | None) -> str | None:
    """Write an id with its dashes."""
    return None if identity is None else str(UUID(identity))
