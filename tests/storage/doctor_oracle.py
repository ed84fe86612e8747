"""Reference for the doctor that reads row by row in plain Python, and ways to damage a field file.

The oracle shares no code with the package, reads whole tables into memory, and looks at one row after the
other: slow and obvious.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.snapshots import opened

Rows = list[dict[str, Any]]
Tables = dict[str, Rows]
Found = dict[str, list[str]]
TABLES = ("experimentconfig", "run", "invocation", "embedding")
OURS = ("clusteringresult", "cluster", "embeddingcluster")
PARAMETERS = (
    *("cluster_selection_epsilon", "min_cluster_size", "min_samples", "allow_single_cluster"),
    *("cluster_selection_method", "max_cluster_size", "distance_floor", "backend", "exact"),
    *("n_embeddings", "n_unique", "n_clusters", "n_outliers", "versions"),
)


def read_tables(path: Path) -> Tables:
    """Return all rows of an SQLite file by table, without the images' bytes."""
    with opened(path) as connection:
        connection.row_factory = sqlite3.Row
        names = {row["name"] for row in connection.execute("SELECT name FROM sqlite_master")}
        return {
            table: [dict(row) for row in connection.execute(f"SELECT * FROM {table}")]
            for table in (*TABLES, *OURS)
            if table in names
        }


def expected(tables: Tables, *, upgraded: bool = True, sees_types: bool = True) -> Found:
    """Return the ids of everything that is wrong, by kind and ascending; kinds without any are left out.

    `sees_types` is off for a file before its upgrade whose images stand before the types of outputs.
    """
    findings: defaultdict[str, list[Any]] = defaultdict(list)
    invocations = {row["id"]: row for row in tables["invocation"]}
    runs = {row["id"] for row in tables["run"]}
    experiments = {row["id"] for row in tables["experimentconfig"]}
    _vectors(tables["embedding"], findings)
    _duplicates(tables, findings, upgraded)
    for row in tables["embedding"]:
        if row["invocation_id"] not in invocations:
            findings["orphan_embedding"].append(row["id"])
    has_images = any(row["output_image_data"] for row in tables["invocation"])
    for row in tables["invocation"]:
        if row["run_id"] not in runs:
            findings["orphan_invocation"].append(row["id"])
        has_text, has_image = row["output_text"] is not None, bool(row["output_image_data"])
        if (row["type"] == "TEXT" and not has_text and (sees_types or not has_image)) or (
            row["type"] == "IMAGE" and not has_image and has_images
        ):
            findings["missing_output"].append(row["id"])
    for row in tables["run"]:
        if row["experiment_id"] is not None and row["experiment_id"] not in experiments:
            findings["orphan_run"].append(row["id"])
    if sees_types:
        _types(tables["embedding"], invocations, findings)
    _sequences(tables, findings)
    for table in (*TABLES, *(["clusteringresult"] if upgraded else [])):
        for row in tables.get(table, []):
            if not isinstance(row["id"], str) or not re.fullmatch("[0-9a-f]{32}", row["id"]):
                findings["bad_id"].append(row["id"])
    if upgraded:
        _clusterings(tables, findings)
    else:
        findings["old_clustering_tables"] = [table for table in OURS if table in tables]
    return {kind: sorted(map(shown, ids)) for kind, ids in findings.items() if ids}


def shown(identity: Any) -> str:
    if isinstance(identity, str) and re.fullmatch("[0-9a-f]{32}", identity):
        return "-".join(identity[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))
    return identity if isinstance(identity, str) else repr(identity)


def _vectors(embeddings: Rows, findings: defaultdict[str, list[Any]]) -> None:
    of_model: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for row in embeddings:
        vector = row["vector"]
        if vector and len(vector) % 4 == 0:
            of_model[row["embedding_model"]][len(vector)] += 1
    for row in embeddings:
        vector = row["vector"]
        lengths = of_model[row["embedding_model"]]
        if not vector:
            findings["missing_vector"].append(row["id"])
        elif (lengths[len(vector)], len(vector)) != max(
            ((n, size) for size, n in lengths.items()), default=0
        ):
            findings["vector_length"].append(row["id"])
        else:
            values = struct.unpack(f"<{len(vector) // 4}f", vector)
            if not all(map(math.isfinite, values)):
                findings["vector_not_finite"].append(row["id"])
            elif not any(values):
                findings["vector_zero"].append(row["id"])


def _duplicates(tables: Tables, findings: defaultdict[str, list[Any]], upgraded: bool) -> None:
    named = set()
    if upgraded:
        keys = {row["key"] for row in tables["clusteringresult"]}
        named = {row["embedding_id"] for row in tables["embeddingcluster"] if row["result_key"] in keys}
        named |= {row["medoid_embedding_id"] for row in tables["cluster"] if row["result_key"] in keys}
    groups = defaultdict(list)
    for row in tables["embedding"]:
        groups[row["invocation_id"], row["embedding_model"]].append(row)
    for rows in groups.values():
        # What a clustering names stays before all others, then the oldest.
        late = "9999"
        rows.sort(key=lambda r: (r["started_at"] or late, r["completed_at"] or late, str(r["id"])))
        rows.sort(key=lambda row: row["id"] not in named)
        findings["duplicate_embedding"] += [row["id"] for row in rows[1:]]


def _types(embeddings: Rows, invocations: dict[Any, Any], findings: defaultdict[str, list[Any]]) -> None:
    for model in {row["embedding_model"] for row in embeddings}:
        of_type = defaultdict(list)
        for row in embeddings:
            if row["embedding_model"] == model and row["invocation_id"] in invocations:
                of_type[invocations[row["invocation_id"]]["type"]].append(row["id"])
        n_all = len(of_type["TEXT"]) + len(of_type["IMAGE"])
        for ids in (of_type["TEXT"], of_type["IMAGE"]):
            if 10 * len(ids) <= n_all:
                findings["wrong_type"] += ids


def _sequences(tables: Tables, findings: defaultdict[str, list[Any]]) -> None:
    for run in tables["run"]:
        numbers = [row["sequence_number"] for row in tables["invocation"] if row["run_id"] == run["id"]]
        if not numbers:
            findings["unfinished_run"].append(run["id"])
            continue
        # Images alone stand at even numbers, texts alone at odd ones.
        step = 2 if len({number % 2 for number in numbers}) == 1 else 1
        first = numbers[0] % 2 if step == 2 else 0
        if set(numbers) != set(range(first, max(numbers) + 1, step)):
            findings["sequence_gap"].append(run["id"])
        if len(set(numbers)) < len(numbers):
            findings["duplicate_sequence_number"].append(run["id"])
        if max(numbers) + step < run["max_length"]:
            findings["unfinished_run"].append(run["id"])


def _clusterings(tables: Tables, findings: defaultdict[str, list[Any]]) -> None:
    embeddings = {row["id"] for row in tables["embedding"]}
    keys = {row["key"] for row in tables["clusteringresult"]}
    assigned = tables["embeddingcluster"]
    for row in assigned:
        if row["result_key"] not in keys or row["embedding_id"] not in embeddings:
            findings["orphan_assignment"].append(row["embedding_id"])
    for key in {row["result_key"] for row in tables["cluster"]} - keys:
        if key not in {row["result_key"] for row in assigned}:
            findings["broken_clustering"].append(f"result_key {key}")
    for result in tables["clusteringresult"]:
        members = defaultdict(set)
        for row in assigned:
            if row["result_key"] == result["key"]:
                members[row["label"]].add(row["embedding_id"])
        clusters = [row for row in tables["cluster"] if row["result_key"] == result["key"]]
        is_named = isinstance(result["id"], str) and re.fullmatch("[0-9a-f]{32}", result["id"])
        if not (is_named and _is_whole(_object(result["parameters"]), members, clusters, embeddings)):
            findings["broken_clustering"].append(result["id"])


def _is_whole(
    parameters: Any, members: dict[int, set[Any]], clusters: Rows, embeddings: Iterable[Any]
) -> bool:
    if not isinstance(parameters, dict) or not set(PARAMETERS) <= set(parameters):
        return False
    everyone = set().union(*members.values())
    counts = len(everyone), len(clusters), len(members.get(-1, ()))
    return (
        counts == (parameters["n_embeddings"], parameters["n_clusters"], parameters["n_outliers"])
        and everyone <= set(embeddings)
        and {label for label in members if label != -1} == {row["label"] for row in clusters}
        and all(row["label"] >= 0 for row in clusters)
        and all(row["size"] == len(members[row["label"]]) for row in clusters)
        and all(row["medoid_embedding_id"] in members[row["label"]] for row in clusters)
    )


def _object(stored: Any) -> Any:
    try:
        return json.loads(stored) if isinstance(stored, str) else stored
    except ValueError:
        return None
