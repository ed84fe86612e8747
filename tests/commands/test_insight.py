"""Test the JSON and the text of commands that show stored clusterings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from panic_tda.storage.write.saving import save_clustering
from panic_tda.types import FinishedClustering
from tests.command_line import invoke, succeed
from tests.conftest import MakeFile, UpgradedFile, ids_of, make_finished
from tests.snapshots import snapshot

IDS = ("01a1fbfd-1fbd-75e0-b267-8ccba18d90c1", "01a1fbfd-2068-7bb5-bf27-f9438c0dd32e")
KEYS = ["a", "b", "by", "n_shared", "ari", "ami", "ari_with_outliers", "ami_with_outliers", "outliers"]


def compare(*words: object, file: UpgradedFile) -> dict[str, Any]:
    result = succeed("compare-clusterings", *words, "--json", db=file.path)
    return dict(json.loads(result.stdout))


def relabelled(finished: FinishedClustering, labels: np.ndarray, identity: str) -> FinishedClustering:
    cluster_labels = sorted(set(labels.tolist()) - {-1})
    return replace(
        finished,
        id=UUID(identity),
        labels=labels,
        medoids={label: int(np.flatnonzero(labels == label)[0]) for label in cluster_labels},
        persistence=dict.fromkeys(cluster_labels, 0.5),
        record=replace(finished.record, n_clusters=len(cluster_labels), n_outliers=int((labels == -1).sum())),
    )


@pytest.fixture
def file(upgraded: MakeFile) -> UpgradedFile:
    """Two clusterings of Nomic: one cluster kept, one split, one dissolved, one new; and one of STSBMpnet."""
    file = upgraded()
    finished = make_finished(ids_of(file))
    a, b = np.full((2, len(finished.ids)), -1)
    a[:10], a[10:20], a[20:25] = 0, 1, 2
    b[:10], b[10:15], b[15:20], b[30:34] = 0, 1, 2, 3
    other_finished = make_finished(ids_of(file, "STSBMpnet"), model="STSBMpnet")
    with file.database.writing() as connection:
        for clustering in (relabelled(finished, a, IDS[0]), relabelled(finished, b, IDS[1]), other_finished):
            save_clustering(connection, clustering)
    return file


def test_json_has_the_fate_of_every_cluster(file: UpgradedFile) -> None:
    comparison = compare(IDS[0][:10], IDS[1], file=file)
    assert list(comparison) == [*KEYS, "clusters", "new"]
    assert (comparison["a"], comparison["b"], comparison["by"], comparison["n_shared"]) == (
        *IDS,
        "embedding",
        40,
    )
    assert comparison["outliers"] == {"both": 11, "only_a": 4, "only_b": 5}
    assert comparison["clusters"] == [
        {"a": 0, "b": 0, "jaccard": 1.0, "fate": "kept", "into": [{"b": 0, "share": 1.0}]},
        {"a": 1, "b": None, "jaccard": 0.5, "fate": "split", "into": [
            {"b": 1, "share": 0.5}, {"b": 2, "share": 0.5}]},
        {"a": 2, "b": None, "jaccard": 0.0, "fate": "dissolved", "into": []},
    ]  # fmt: skip
    assert comparison["new"] == [3]
    assert 0 < comparison["ari_with_outliers"] < comparison["ari"] < 1


def test_text_has_a_verdict_and_the_clusters_that_changed(file: UpgradedFile) -> None:
    shown = succeed("compare-clusterings", *IDS, db=file.path)
    first, _, *named = shown.stdout.splitlines()
    assert first.startswith("Alike in part: ARI 0.")
    assert first.endswith("1 of 3 clusters kept (1 split, 1 dissolved), 1 of 4 new.")
    assert [line.split(" of ")[0] for line in named[:2]] == [f"A: {IDS[0]}", f"B: {IDS[1]}"]
    assert "On 40 shared embeddings. Outliers: 11 in both, 4 only in A, 5 only in B." in named[2]
    texts = {
        embedding.id: embedding.invocation.text
        for embedding in file.facts.sample("Nomic")
        if embedding.invocation
    }
    order = sorted(texts)
    (dissolved,) = (line for line in named if "dissolved" in line)
    assert dissolved.split()[:3] == ["2", "5", "dissolved"]
    assert dissolved.endswith(" ".join(str(texts[order[20]]).split()))
    (new,) = (line for line in named if " new " in line)
    assert new.split()[:2] == ["new", "3"]
    assert new.endswith(" ".join(str(texts[order[30]]).split()))
    assert not [line for line in named if "kept" in line]


def test_a_clustering_compared_with_itself_is_identical(file: UpgradedFile) -> None:
    comparison = compare("latest", "latest", "--model", "STSBMpnet", file=file)
    assert (
        comparison["ari"],
        comparison["ami"],
        comparison["ari_with_outliers"],
        comparison["ami_with_outliers"],
    ) == (1,) * 4
    assert comparison["new"] == []
    assert {cluster["fate"] for cluster in comparison["clusters"]} == {"kept"}
    shown = invoke("compare-clusterings", "latest", "latest", "--model", "STSBMpnet", db=file.path)
    assert shown.stdout.startswith("The same: ARI 1.000, AMI 1.000, ")
    assert "dissolved" not in shown.stdout


def test_latest_is_the_latest_of_a_model(file: UpgradedFile) -> None:
    comparison = compare("latest", IDS[0], "--model", "STSBMpnet", file=file)
    assert (comparison["b"], comparison["by"], comparison["n_shared"]) == (IDS[0], "invocation", 40)
    refused = invoke("compare-clusterings", "latest", IDS[0], db=file.path)
    assert refused.exit_code == 2
    assert "choose one with --model" in refused.stderr
    useless = invoke("compare-clusterings", *IDS, "--model", "Nomic", db=file.path)
    assert useless.exit_code == 2
    assert "--model applies only to latest" in useless.stderr
    missing = invoke("compare-clusterings", IDS[0], "ffff", db=file.path)
    assert missing.exit_code == 2
    assert "none of 3 stored clusterings begin with 'ffff'" in missing.stderr


def test_limit_bounds_the_changes_shown(file: UpgradedFile) -> None:
    other_result = invoke(
        "compare-clusterings", "latest", IDS[0], "--model", "STSBMpnet", "--limit", 1, db=file.path
    )
    everything = compare("latest", IDS[0], "--model", "STSBMpnet", file=file)
    changed = [cluster for cluster in everything["clusters"] if cluster["fate"] != "kept"]
    hidden = max(0, len(changed) - 1) + max(0, len(everything["new"]) - 1)
    assert hidden
    assert other_result.stdout.rstrip().endswith(f"… and {hidden} more; --limit 0 shows all")
    assert "more; --limit" not in invoke(
        "compare-clusterings", "latest", IDS[0], "--model", "STSBMpnet", "--limit", 0, db=file.path
    ).stdout  # fmt: skip


def test_a_read_only_file_is_compared(file: UpgradedFile) -> None:
    file.path.chmod(0o444)
    before = snapshot(file.path)
    assert compare("latest", IDS[1], "--model", "STSBMpnet", file=file)["by"] == "invocation"
    assert snapshot(file.path) == before


def test_clusterings_that_cannot_be_compared_are_refused_with_the_reason(file: UpgradedFile) -> None:
    ids = ids_of(file)
    halves = [
        replace(make_finished(half), id=UUID(int=number)) for number, half in enumerate((ids[:9], ids[9:]))
    ]
    with file.database.writing() as connection:
        for clustering in halves:
            save_clustering(connection, clustering)
    result = invoke("compare-clusterings", *(half.id for half in halves), "--json", db=file.path)
    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert error["type"] == "NothingShared"
    assert "no embedding and no invocation in common" in error["message"]


def test_a_missing_database_is_not_created(tmp_path: Path) -> None:
    target = tmp_path / "none.sqlite"
    result = invoke("compare-clusterings", "a", "b", db=target)
    assert result.exit_code == 2
    assert not target.exists()
