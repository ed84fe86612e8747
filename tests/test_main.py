"""Test the commands: exit codes, output, and the database afterwards."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from uuid import UUID

import click
import pytest
from click.testing import CliRunner

from panic_tda.clustering_manager import list_clusterings
from panic_tda.main import main
from panic_tda.parameters import ClusteringParameters, choose_epsilon
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.storage.write import pending
from panic_tda.wording import shorten_ids
from tests import processes
from tests.command_line import fail, invoke, read_json, succeed
from tests.conftest import MakeFile, UpgradedFile, make_finished
from tests.field_files import ODD_TEXTS, FieldSpec, write_field_file
from tests.snapshots import REPOSITORY, opened, snapshot

OUTCOME_KEYS = {
    "id",
    "embedding_model",
    "status",
    "reason",
    "n_total",
    "n_sampled",
    "n_excluded",
    "n_embeddings",
    "n_clusters",
    "n_outliers",
    "backend",
    "exact",
    "root_selected",
    "doubts",
    "seconds",
}
CLUSTER_KEYS = {
    "label",
    "size",
    "persistence",
    "medoid_embedding_id",
    "medoid_invocation_id",
    "medoid_run_id",
    "medoid_image_invocation_id",
    "medoid_copies",
    "medoid_text",
    "runs",
    "prompts",
    "largest_run_share",
}
READING = (
    ["info"],
    ["list-clusterings"],
    ["show-clustering"],
    ["show-trajectories"],
    ["compare-clusterings", "latest", "latest"],
    ["delete-clusterings", "--all", "--yes"],
    ["save-pending"],
    ["doctor"],
    ["plan-clustering"],
)
EVERY = (["cluster-embeddings"], *READING)


@pytest.fixture(autouse=True)
def clean_surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.delenv("PANIC_TDA_DB", raising=False)
    monkeypatch.chdir(tmp_path)


def fail_as_json(code: int, *arguments: object, **more: Any) -> dict[str, str]:
    result = invoke(*arguments, "--json", **more)
    assert result.exit_code == code, result.output
    (only,) = json.loads(result.stdout).items()
    assert only[0] == "error"
    assert set(only[1]) == {"type", "message"}
    assert only[1]["message"] in result.stderr
    return dict(only[1])


def stored(file: UpgradedFile) -> list[ClusteringSummary]:
    with file.database.session() as session:
        return list_clusterings(session)


@pytest.fixture
def clustered(upgraded: MakeFile) -> UpgradedFile:
    file = upgraded(FieldSpec(dummy_rows=1))
    succeed("cluster-embeddings", db=file.path)
    return file


# ---------------------------------------------------------------------------- the group


def commands() -> list[str]:
    return sorted(main.commands)


def test_the_commands_of_the_main_task_exist() -> None:
    assert set(commands()) >= {
        "upgrade",
        "import-embeddings",
        "cluster-embeddings",
        "list-clusterings",
        "show-clustering",
        "delete-clusterings",
        "save-pending",
    }


@pytest.mark.parametrize("command", commands())
def test_every_command_and_option_is_documented(command: str) -> None:
    click_command = main.commands[command]
    assert click_command.help
    names = {parameter.name for parameter in click_command.params}
    assert {"database", "verbose", "quiet", "log_file"} <= names
    undocumented = [
        parameter.opts[0]
        for parameter in click_command.params
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert undocumented == []
    for flag in ("-h", "--help"):
        assert " ".join(click_command.help.split()[:6]) in " ".join(succeed(command, flag).output.split())


def test_defaults_of_commands_and_library_are_equal() -> None:
    options = {option.name: option.default for option in main.commands["cluster-embeddings"].params}
    parameters = ClusteringParameters()
    for name in ("metric", "allow_single_cluster", "selection_method", "backend"):
        assert options[name] == getattr(parameters, name)
    # That of epsilon depends on the metric.
    assert choose_epsilon(parameters.metric) == parameters.epsilon


def test_unknown_commands_and_options_are_wrong_usage() -> None:
    assert "No such command" in fail(2, "cluster-everything")
    assert "No such option" in fail(2, "list-clusterings", "--everything")
    assert invoke("--version").exit_code in (0, 1)  # the version is known where the package is installed


# ---------------------------------------------------------------------------- cluster-embeddings


def test_cluster_embeddings_clusters_every_model(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(dummy_rows=1, vision_models=("NomicVision",)))
    result = succeed("cluster-embeddings", db=file.path)
    summary_by_model = {summary.embedding_model: summary for summary in stored(file)}
    assert set(summary_by_model) == {"Nomic", "NomicVision", "STSBMpnet"}
    listed, reason, suggested = result.stdout.strip().split("\n\n")
    assert reason.startswith("Dummy: ")
    assert suggested.splitlines()[1].endswith(" latest --model Nomic")
    header, *lines = listed.splitlines()
    assert header.split()[:3] == ["model", "status", "embeddings"]
    assert [line.split()[:2] for line in lines] == [
        ["Dummy", "skipped"],
        *([model, "clustered"] for model in ("Nomic", "NomicVision", "STSBMpnet")),
    ]
    names = shorten_ids(str(summary.id) for summary in summary_by_model.values())
    assert {line.split()[-1] for line in lines} == {"-", *names.values()}
    # Logs and progress go elsewhere.
    assert "20" in result.stderr
    assert "done in" in result.stderr
    assert "done in" not in result.stdout


def test_cluster_embeddings_prints_json(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(dummy_rows=1))
    data = read_json("cluster-embeddings", db=file.path)
    assert set(data) == {"results"}
    by_model = {outcome["embedding_model"]: outcome for outcome in data["results"]}
    assert {model: outcome["status"] for model, outcome in by_model.items()} == {
        "Dummy": "skipped",
        "Nomic": "clustered",
        "STSBMpnet": "clustered",
    }
    for outcome in by_model.values():
        assert set(outcome) == OUTCOME_KEYS
    summary = next(summary for summary in stored(file) if summary.embedding_model == "Nomic")
    nomic = by_model["Nomic"]
    assert nomic["id"] == str(summary.id)
    assert {name: nomic[name] for name in nomic if name.startswith("n_")} == {
        name: getattr(summary.record, name) for name in nomic if name.startswith("n_")
    }
    assert set(nomic["seconds"]) - {"compile"} == {"load", "fit", "medoids", "save"}
    assert nomic["reason"] is None
    assert by_model["Dummy"]["id"] is None
    assert "at least 2" in by_model["Dummy"]["reason"]


def test_every_option_reaches_the_stored_parameters(upgraded: MakeFile) -> None:
    file = upgraded()
    succeed(
        *("cluster-embeddings", "Nomic", "--downsample", 2, "--epsilon", 0.25, "--min-cluster-size", "20%"),
        *("--min-samples", 3, "--allow-single-cluster", "--selection-method", "leaf"),
        *("--backend", "sklearn"),
        db=file.path,
    )
    (summary,) = stored(file)
    assert (
        summary.record.to_json()
        | {
            "downsample": 2,
            "cluster_selection_epsilon": 0.25,
            "min_cluster_size": 4,
            "min_samples": 3,
            "allow_single_cluster": True,
            "cluster_selection_method": "leaf",
            "max_cluster_size": None,
            "backend": "sklearn",
            "n_embeddings": 20,
        }
        == summary.record.to_json()
    )
    succeed("cluster-embeddings", "Nomic", "--max-cluster-size", 15, db=file.path)
    assert stored(file)[0].record.max_cluster_size == 15
    succeed("cluster-embeddings", "Nomic", "--max-cluster-size", 0, db=file.path)
    assert stored(file)[0].record.max_cluster_size is None


def test_a_failed_model_is_exit_1_and_the_others_are_saved(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(nan_vectors=1, null_vectors=1))
    result = invoke("cluster-embeddings", db=file.path)
    assert result.exit_code == 1
    assert "invalid" in result.stdout
    assert [summary.embedding_model for summary in stored(file)] == ["STSBMpnet"]
    result = invoke("cluster-embeddings", "--json", db=file.path)
    assert result.exit_code == 1
    assert [outcome["status"] for outcome in json.loads(result.stdout)["results"]] == ["failed", "clustered"]
    succeed("cluster-embeddings", "--skip-invalid", db=file.path)
    assert stored(file)[1].record.n_excluded == 2


def test_options_out_of_range_are_wrong_usage(upgraded: MakeFile) -> None:
    file = upgraded()
    before = snapshot(file.path)
    for option, values in {
        "--downsample": (0, -1, 1.5, 10**30),
        "--epsilon": (-0.1, 2.5, "nan", "wide"),
        "--min-cluster-size": ("0%", "100%", "-5%", "nan%", 1, 0, "many"),
        "--min-samples": (0,),
        "--max-cluster-size": (-1,),
        "--selection-method": ("best",),
        "--backend": ("fastest",),
    }.items():
        for value in values:
            message = fail(2, "cluster-embeddings", option, value, db=file.path)
            name = option.removeprefix("--")
            assert name in message or name.replace("-", "_") in message, (option, value)
    assert snapshot(file.path) == before


def test_a_setting_is_suggested_where_all_clusters_are_too_large(upgraded: MakeFile) -> None:
    words = ("cluster-embeddings", "Nomic", "--min-cluster-size", "10%", "--max-cluster-size")
    file = upgraded()
    output = " ".join(succeed(*words, 4, db=file.path).stderr.split())
    assert "Nomic: There are no clusters: all 40 rows are outliers." in output
    option = "--selection-method leaf --max-cluster-size 0"
    assert f"{option} gives 3 clusters and 0 outliers (0.0 %)" in output
    (stored_clustering,) = stored(file)
    assert f"recut-clustering --db {file.path} {stored_clustering.id}" in output
    succeed("recut-clustering", stored_clustering.id, *option.split(), db=file.path)
    record = stored(file)[0].record
    assert (record.n_clusters, record.n_outliers, record.recut_of) == (3, 0, str(stored_clustering.id))
    # Where no tree is stored, nothing can be cut from it; what is named can be given to another fit.
    output = succeed(*words, 4, "--no-tree", db=file.path).stderr
    assert option in output
    assert "recut-clustering" not in output
    succeed("cluster-embeddings", "Nomic", "--min-cluster-size", "10%", *option.split(), db=file.path)
    assert stored(file)[0].record.n_clusters == 3


def test_a_share_that_is_above_the_largest_size_fails_its_model_before_it_is_loaded(
    upgraded: MakeFile,
) -> None:
    words = ("cluster-embeddings", "Nomic", "--min-cluster-size", "10%", "--max-cluster-size", 3)
    message = fail(1, *words, db=upgraded().path)
    assert "max_cluster_size must be at least min_cluster_size, 4; got 3" in message
    assert "load" not in message


def test_an_unknown_model_is_wrong_usage(upgraded: MakeFile) -> None:
    file = upgraded()
    before = snapshot(file.path)
    message = fail(2, "cluster-embeddings", "Nomic", "Nonesuch", db=file.path)
    assert "no embeddings of model Nonesuch; the database has: Nomic, STSBMpnet" in message
    error = fail_as_json(2, "cluster-embeddings", "Nonesuch", db=file.path)
    assert error["type"] == "UnknownModel"
    assert snapshot(file.path) == before


def test_a_backend_that_refuses_fails_its_models(upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch) -> None:
    from panic_tda.clustering.backends import sklearn as sklearn_backend

    monkeypatch.setattr(sklearn_backend, "MAX_ROWS", 30)
    file = upgraded()
    result = invoke("cluster-embeddings", "--backend", "sklearn", db=file.path)
    assert result.exit_code == 1
    assert "backend sklearn accepts up to 30 rows" in result.stdout
    assert stored(file) == []


# ---------------------------------------------------------------------------- databases that are not one


@pytest.mark.parametrize("command", EVERY, ids=" ".join)
def test_a_missing_file_is_wrong_usage_and_creates_nothing(tmp_path: Path, command: list[str]) -> None:
    before = sorted(tmp_path.rglob("*"))
    for target in (tmp_path / "nowhere" / "x.sqlite", f"sqlite:///{tmp_path}/x.sqlite", ":memory:", tmp_path):
        message = fail(2, *command, db=target)
        assert "--db" in message
    assert "db/trajectory_data.sqlite" in fail(2, *command)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", EVERY, ids=" ".join)
def test_an_invalid_database_name_is_wrong_usage(tmp_path: Path, command: list[str]) -> None:
    before = sorted(tmp_path.rglob("*"))
    for target in ("", "sqlite://", "nonsense://host/db", "mysql://host/db", "://"):
        assert "unexpected" not in fail(2, *command, db=target)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", EVERY, ids=" ".join)
def test_a_file_that_is_not_a_database_is_not_changed(tmp_path: Path, command: list[str]) -> None:
    path = tmp_path / "text.sqlite"
    path.write_text("no database at all\n" * 500)
    assert "file is not a database" in fail(1, *command, db=path)
    assert path.read_text() == "no database at all\n" * 500
    path.write_bytes(b"")
    assert "no table embedding" in fail(1, *command, db=path)
    assert path.read_bytes() == b""


@pytest.mark.parametrize("command", [words for words in EVERY if words != ["doctor"]], ids=" ".join)
def test_a_file_that_needs_an_upgrade_is_refused_with_the_command(tmp_path: Path, command: list[str]) -> None:
    facts = write_field_file(tmp_path / "field.sqlite")
    before = facts.path.read_bytes()
    assert f"panic-tda upgrade --db {facts.path}" in fail(1, *command, db=facts.path)
    assert facts.path.read_bytes() == before
    if command != ["delete-clusterings", "--all", "--yes"]:
        assert fail_as_json(1, *command, db=facts.path)["type"] == "NeedsUpgrade"


def test_a_database_without_embeddings_is_an_error(tmp_path: Path) -> None:
    from panic_tda.storage.database import open_database

    path = tmp_path / "new.sqlite"
    open_database(path, create=True)
    assert "panic-tda import-embeddings" in fail(1, "cluster-embeddings", db=path)
    assert fail_as_json(1, "cluster-embeddings", db=path)["type"] == "NoEmbeddings"


def test_nothing_is_deleted_or_saved_in_a_read_only_file(clustered: UpgradedFile) -> None:
    # Root could write it all the same.
    path = pending.write_pending(
        clustered.database, make_finished([e.id for e in clustered.facts.sample("Nomic")])
    )
    clustered.path.chmod(0o444)
    before = snapshot(clustered.path)
    for words in (["cluster-embeddings"], ["delete-clusterings", "--all", "--yes"], ["save-pending"]):
        assert "read-only; make it writable" in fail(1, *words, db=clustered.path)
    assert snapshot(clustered.path) == before
    succeed("list-clusterings", db=clustered.path)
    assert path.exists()


def test_the_database_may_come_from_the_environment_or_a_url(clustered: UpgradedFile) -> None:
    listed = succeed("list-clusterings", db=clustered.path).stdout
    assert succeed("list-clusterings", PANIC_TDA_DB=str(clustered.path)).stdout == listed
    assert succeed("list-clusterings", db=f"sqlite:///{clustered.path}").stdout == listed


@pytest.mark.parametrize("name", ["a?b.sqlite", "a#b.sqlite", "a%20b.sqlite", "a b.sqlite", "風船 🎈.sqlite"])
def test_paths_may_contain_any_character(upgraded: MakeFile, tmp_path: Path, name: str) -> None:
    file = upgraded(FieldSpec(), name)
    succeed("cluster-embeddings", db=file.path)
    assert len(stored(file)) == 2
    files = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert files <= {name, f"{name}-wal", f"{name}-shm"}


# ---------------------------------------------------------------------------- upgrade


def test_an_upgrade_asks_for_confirmation(tmp_path: Path) -> None:
    facts = write_field_file(tmp_path / "field.sqlite")
    before = facts.path.read_bytes()
    for answer in ("n\n", ""):
        result = invoke("upgrade", db=facts.path, answer=answer)
        assert result.exit_code == 1
        assert "embeddingcluster: 80 rows" in result.stdout
        assert facts.path.read_bytes() == before
    assert "is up to date" in succeed("upgrade", db=facts.path, answer="y\n").stdout
    again = succeed("upgrade", db=facts.path)
    assert "nothing to do" in again.stdout


def test_upgrade_yes_needs_no_answer(tmp_path: Path) -> None:
    facts = write_field_file(tmp_path / "field.sqlite")
    assert "is up to date" in succeed("upgrade", "--yes", db=facts.path).stdout
    succeed("cluster-embeddings", db=facts.path)
    assert "no database at" in fail(2, "upgrade", "--yes", db=tmp_path / "nowhere.sqlite")


# ---------------------------------------------------------------------------- list and show


def test_list_clusterings_prints_a_table(clustered: UpgradedFile) -> None:
    lines = succeed("list-clusterings", db=clustered.path).stdout.splitlines()
    assert len(lines) == 4
    for line, summary in zip(lines[1:3], stored(clustered), strict=True):
        cells = line.split()
        assert str(summary.id).startswith(cells[0])
        assert 8 <= len(cells[0]) < 36
        assert cells[1:4] == [summary.embedding_model, *f"{summary.created_at:%Y-%m-%d %H:%M}".split()]
        assert cells[4] == str(summary.record.n_clusters)
    assert lines[3].startswith("the same in all: epsilon 0.4, min_cluster_size ")
    only = succeed("list-clusterings", "--model", "Nomic", db=clustered.path).stdout.splitlines()
    assert [line.split()[1] for line in only[1:2]] == ["Nomic"]
    assert only[2].startswith("settings: epsilon 0.4, ")


def test_list_clusterings_prints_json(clustered: UpgradedFile) -> None:
    data = read_json("list-clusterings", db=clustered.path)
    first = stored(clustered)[0]
    assert [clustering["id"] for clustering in data] == [str(summary.id) for summary in stored(clustered)]
    parameters = first.record.to_json()
    assert data[0] == {
        "id": str(first.id),
        "embedding_model": first.embedding_model,
        "algorithm": "hdbscan",
        "epsilon": 0.4,
        "min_cluster_size": parameters["min_cluster_size"],
        "min_samples": parameters["min_samples"],
        "selection_method": "eom",
        "max_cluster_size": None,
        "allow_single_cluster": False,
        "downsample": 1,
        "recut_of": None,
        "backend": parameters["backend"],
        "exact": True,
        "n_clusters": parameters["n_clusters"],
        "root_selected": False,
        "doubts": [],
        "n_assignments": parameters["n_embeddings"],
        "outlier_percent": 100 * parameters["n_outliers"] / parameters["n_embeddings"],
        "created_at": f"{first.created_at.isoformat(sep=' ')}+00:00",
        "duration_seconds": first.seconds,
        "metric": "cosine",
        "n_predicted": 0,
        "unreadable": None,
    }


def test_without_clusterings_the_message_names_the_command_that_makes_one(upgraded: MakeFile) -> None:
    file = upgraded()
    for command in ("list-clusterings", "show-clustering"):
        assert "panic-tda cluster-embeddings" in succeed(command, db=file.path).stdout
        assert read_json(command, db=file.path) == []


def test_lists_are_bounded_by_default(upgraded: MakeFile) -> None:
    file = upgraded()
    ids = [embedding.id for embedding in file.facts.sample("Nomic")]
    from panic_tda.storage.write.saving import save_clustering

    with file.database.writing() as connection:
        for seed in range(55):
            save_clustering(connection, make_finished(ids, seed=seed))
    lines = succeed("list-clusterings", db=file.path).stdout.splitlines()
    assert len(lines) == 53
    assert "5 older" in lines[-1]
    assert "--limit 0" in lines[-1]
    assert len(succeed("list-clusterings", "--limit", 0, db=file.path).stdout.splitlines()) == 57
    assert len(read_json("list-clusterings", "--limit", 3, db=file.path)) == 3
    fail(2, "list-clusterings", "--limit", -1, db=file.path)


def test_show_clustering_prints_the_medoids(clustered: UpgradedFile) -> None:
    shown = succeed("show-clustering", db=clustered.path).stdout
    summaries = {summary.embedding_model: summary for summary in stored(clustered)}
    for model, summary in summaries.items():
        assert f"Clustering {summary.id} of {model}" in shown
    assert "epsilon 0.4 chord (cosine distance 0.08)" in shown
    nomic = summaries["Nomic"]
    for reference in (nomic.id, nomic.id.hex[:30], str(nomic.id).upper()):
        only = succeed("show-clustering", reference, db=clustered.path).stdout
        assert f"Clustering {nomic.id} of Nomic" in only
        assert str(summaries["STSBMpnet"].id) not in only
    assert succeed("show-clustering", "latest", "--model", "Nomic", db=clustered.path).stdout == only


def test_show_clustering_prints_json_with_the_medoids(clustered: UpgradedFile) -> None:
    data = read_json("show-clustering", db=clustered.path)
    assert [row["embedding_model"] for row in data] == ["Nomic", "STSBMpnet"]
    texts = {step.id: step.text for step in clustered.facts.invocations}
    for row in data:
        assert row["parameters"]["n_clusters"] == len(row["clusters"]) > 0
        assert [cluster["label"] for cluster in row["clusters"]] == list(range(len(row["clusters"])))
        for cluster in row["clusters"]:
            assert set(cluster) == CLUSTER_KEYS
            invocation = cluster["medoid_invocation_id"].replace("-", "")
            assert cluster["medoid_text"] == texts[invocation]
            assert cluster["medoid_run_id"].replace("-", "") in clustered.facts.runs
            assert cluster["medoid_image_invocation_id"].replace("-", "") in texts
            assert 1 <= cluster["medoid_copies"] <= cluster["size"]


def test_origins_are_counted_where_quick_or_requested(
    clustered: UpgradedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("runs", "prompts", "largest_run_share")

    def origins(*words: object) -> list[tuple[Any, ...]]:
        data = read_json("show-clustering", *words, db=clustered.path)
        return [
            tuple(cluster[name] for name in names)
            for clustering_data in data
            for cluster in clustering_data["clusters"]
        ]

    counted = origins()
    assert all(runs >= prompts >= 1 and 0 < share <= 1 for runs, prompts, share in counted)
    assert set(origins("--no-origins")) == {(None, None, None)}
    assert "--origins" not in succeed("show-clustering", "--no-origins", db=clustered.path).stdout
    # Of a model with more embeddings it takes too long.
    monkeypatch.setattr("panic_tda.insight.origins.MOST_COUNTED", 5)
    assert set(origins()) == {(None, None, None)}
    assert origins("--origins") == origins("--words") == counted
    shown = succeed("show-clustering", db=clustered.path).stdout
    assert " runs, " not in shown
    assert "--origins counts the runs and prompts of each cluster; it reads the indexes of " in shown


def test_showing_is_bounded_by_default(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(runs=30, dimensions=64))
    options = ("--epsilon", 0, "--min-cluster-size", 2, "--min-samples", 1)
    succeed("cluster-embeddings", "Nomic", *options, db=file.path)
    n_clusters = stored(file)[0].record.n_clusters
    assert n_clusters > 21
    shown = succeed("show-clustering", db=file.path).stdout
    assert shown.count("persistence") == 20
    assert f"and {n_clusters - 20} smaller clusters; --limit 0 shows all" in shown
    everything = succeed("show-clustering", "--limit", 0, db=file.path).stdout
    assert everything.count("persistence") == n_clusters
    data = read_json("show-clustering", "--limit", 2, db=file.path)
    assert len(data[0]["clusters"]) == 2


def test_unknown_and_ambiguous_references_are_wrong_usage(clustered: UpgradedFile) -> None:
    first, second = stored(clustered)
    shared = 0
    while first.id.hex[shared] == second.id.hex[shared]:
        shared += 1
    assert "2 of 2 stored clusterings begin with" in fail(
        2, "show-clustering", first.id.hex[:shared], db=clustered.path
    )
    succeed("show-clustering", first.id.hex[: shared + 1], db=clustered.path)
    assert "none of 2" in fail(2, "show-clustering", "nonsense", db=clustered.path)
    assert fail_as_json(2, "show-clustering", "zz", db=clustered.path)["type"] == "UnknownClustering"
    model = first.embedding_model
    assert f"not of {model}" in fail(2, "show-clustering", second.id, "--model", model, db=clustered.path)
    for command in (["show-clustering"], ["list-clusterings"], ["delete-clusterings", "--yes"]):
        assert "Nonesuch" in fail(2, *command, "--model", "Nonesuch", db=clustered.path)


def test_odd_texts_stay_on_one_line_and_control_no_terminal(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(runs=1, text_models=("Nomic",)))
    for text in (
        *ODD_TEXTS,
        "\x1b[31mred\x1b]0;title\x07",
        "a\u202eb",
        "tab\tand\rreturn\x85\u2028",
        "風" * 300,
    ):
        with opened(file.path) as connection:
            connection.execute("UPDATE invocation SET output_text = ? WHERE type = 'TEXT'", (text,))
        if not stored(file):
            succeed("cluster-embeddings", "--epsilon", 2, "--allow-single-cluster", db=file.path)
        result = succeed("show-clustering", db=file.path)
        assert stored(file)[0].record.n_clusters == 1
        (line,) = (line for line in result.stdout.split("\n") if "persistence" in line)
        # No vector changed with the text: the medoid has no copies.
        assert "×1 " in line
        assert all(character.isprintable() for character in line)
        # In a pipe nothing is cut.
        assert "…" not in line
        assert not text.isprintable() or " ".join(text.split()) in line
        data = read_json("show-clustering", db=file.path)
        assert data[0]["clusters"][0]["medoid_text"] == text


def test_what_older_versions_stored_is_still_listed_and_shown(clustered: UpgradedFile) -> None:
    graph = {"graph_degree": 64, "intermediate_graph_degree": 128, "max_iterations": 20}
    with opened(clustered.path) as connection:
        connection.execute(
            "UPDATE clusteringresult SET parameters = json_set(parameters, '$.exact', json('false'), "
            "'$.nn_descent', json(?), '$.lighter_edge_share', 0.25, '$.lighter_edge_sample', 40)",
            (json.dumps(graph),),
        )
    for command in ("list-clusterings", "show-clustering"):
        assert succeed(command, db=clustered.path).stdout.count("Nomic") == 1
    assert "25.00 % of 40 sampled rows" in succeed("show-clustering", db=clustered.path).stdout
    for clustering in read_json("show-clustering", db=clustered.path):
        assert clustering["parameters"]["nn_descent"] == graph


# ---------------------------------------------------------------------------- delete-clusterings


def test_delete_clusterings_asks_and_lists_what_is_deleted(clustered: UpgradedFile) -> None:
    before = snapshot(clustered.path)
    for answer in ("n\n", ""):
        result = invoke("delete-clusterings", "--all", db=clustered.path, answer=answer)
        assert result.exit_code == 1
        assert "This deletes 2 clusterings" in result.stdout
        assert "80 assignments" in result.stdout
        assert snapshot(clustered.path) == before
    assert "Deleted 2" in succeed("delete-clusterings", "--all", db=clustered.path, answer="y\n").stdout
    assert stored(clustered) == []
    assert "Nothing to delete" in succeed("delete-clusterings", "--all", db=clustered.path).stdout


def test_clusterings_are_deleted_by_model_and_by_id(clustered: UpgradedFile) -> None:
    succeed("cluster-embeddings", db=clustered.path)
    succeed("delete-clusterings", "--model", "Nomic", "--yes", db=clustered.path)
    left = stored(clustered)
    assert [summary.embedding_model for summary in left] == ["STSBMpnet"] * 2
    succeed("delete-clusterings", left[1].id, "--yes", db=clustered.path)
    assert [summary.id for summary in stored(clustered)] == [left[0].id]
    fail(2, "delete-clusterings", left[0].id, left[1].id, "--yes", db=clustered.path)
    assert [summary.id for summary in stored(clustered)] == [left[0].id]
    for table in ("cluster", "embeddingcluster"):
        assert len({row[0] for row in snapshot(clustered.path)[table][1]}) == 1


@pytest.mark.parametrize(
    "words", [[], ["--all", "--model", "Nomic"], ["ab", "--all"], ["ab", "--model", "Nomic"]]
)
def test_delete_clusterings_takes_exactly_one_selection(clustered: UpgradedFile, words: list[str]) -> None:
    assert "exactly one of the three" in fail(2, "delete-clusterings", *words, "--yes", db=clustered.path)
    assert len(stored(clustered)) == 2


# ---------------------------------------------------------------------------- save-pending


def test_save_pending_saves_pending_results(upgraded: MakeFile) -> None:
    file = upgraded()
    ids = [embedding.id for embedding in file.facts.sample("Nomic")]
    assert "no pending clusterings" in succeed("save-pending", db=file.path).stdout
    finished = make_finished(ids)
    pending.write_pending(file.database, finished)
    outlier = next(row for row in range(40) if row not in finished.medoids.values())
    with opened(file.path) as connection:
        connection.execute("DELETE FROM embedding WHERE id = ?", (finished.ids[outlier].decode(),))
    output = succeed("save-pending", db=file.path).stdout
    assert f"Saved clustering {finished.id} of Nomic; 1 embedding has been deleted since" in output
    path = pending.write_pending(file.database, make_finished(ids[:20], seed=4))
    as_json = read_json("save-pending", path, db=file.path)
    assert [row["embedding_model"] for row in as_json["saved"]] == ["Nomic"]
    assert len(stored(file)) == 2


def test_save_pending_names_files_that_cannot_be_saved(upgraded: MakeFile, tmp_path: Path) -> None:
    file = upgraded()
    assert "no file at" in fail(2, "save-pending", tmp_path / "nowhere.arrow", db=file.path)
    (tmp_path / "text.arrow").write_text("hello")
    assert "is not a complete result file" in fail(1, "save-pending", tmp_path / "text.arrow", db=file.path)
    assert fail_as_json(1, "save-pending", tmp_path / "text.arrow", db=file.path)["type"] == "BadInput"


# ---------------------------------------------------------------------------- doctor


def change(file: UpgradedFile, statement: str) -> None:
    """Change a file as the sqlite3 shell does, without foreign keys."""
    connection = sqlite3.connect(file.path)
    with connection:
        connection.execute(statement)
    connection.close()


def test_doctor_finds_nothing_in_a_sound_database(clustered: UpgradedFile) -> None:
    assert f"{clustered.path}: no findings" in succeed("doctor", db=clustered.path).stdout
    data = read_json("doctor", db=clustered.path)
    assert data == {"database": str(clustered.path), "findings": [], "unchecked": []}


def test_doctor_reports_each_finding_by_kind_and_exits_1(clustered: UpgradedFile) -> None:
    change(clustered, "DELETE FROM clusteringresult WHERE embedding_model = 'Nomic'")
    before = snapshot(clustered.path)
    shown = invoke("doctor", db=clustered.path)
    as_json = invoke("doctor", "--json", db=clustered.path)
    assert (shown.exit_code, as_json.exit_code) == (1, 1)
    (finding,) = json.loads(as_json.stdout)["findings"]
    assert set(finding) == {"kind", "count", "ids", "what", "remedy", "details"}
    assert (finding["kind"], finding["count"], len(finding["ids"])) == ("orphan_assignment", 40, 10)
    assert "orphan_assignment: 40\n" in shown.stdout
    for line in (finding["ids"][0], finding["what"], finding["remedy"], finding["details"][0], "30 more"):
        assert line in " ".join(shown.stdout.split())
    assert snapshot(clustered.path) == before
    (finding,) = json.loads(invoke("doctor", "--json", "--limit", 0, db=clustered.path).stdout)["findings"]
    assert finding["ids"] == sorted(str(UUID(embedding.id)) for embedding in clustered.facts.of("Nomic"))
    assert succeed("doctor", "missing_vector", "bad_id", db=clustered.path).stdout.endswith("no findings\n")
    assert invoke("doctor", "bad_id", "orphan_assignment", db=clustered.path).exit_code == 1


def test_doctor_checks_a_file_before_its_upgrade(tmp_path: Path) -> None:
    facts = write_field_file(tmp_path / "field.sqlite", FieldSpec(layout=2, migrated=True, null_vectors=2))
    facts.path.chmod(0o444)
    before = facts.path.read_bytes()
    result = invoke("doctor", "--json", db=facts.path)
    data = json.loads(result.stdout)
    assert result.exit_code == 1, result.output
    ids_by_kind = {finding["kind"]: finding["ids"] for finding in data["findings"]}
    assert ids_by_kind == {
        "missing_vector": [str(UUID(embedding_id)) for embedding_id in facts.bad("Nomic", "null")],
        "old_clustering_tables": ["cluster", "clusteringresult", "embeddingcluster"],
    }
    kinds = [finding["kind"] for finding in data["unchecked"]]
    assert kinds == ["wrong_type", "missing_output", "unreadable_value"]
    shown = invoke("doctor", db=facts.path).stdout
    assert "not checked: wrong_type (no index has type" in shown
    assert "panic-tda upgrade" in shown
    assert facts.path.read_bytes() == before
    assert "panic-tda upgrade --db" in fail(1, "doctor", "--fix", db=facts.path)


def test_findings_are_printed_without_control_characters(upgraded: MakeFile) -> None:
    file = upgraded()
    change(
        file,
        "UPDATE embedding SET id = char(27) || '[31m' || char(10) || 'x' WHERE rowid = 1",
    )
    shown = invoke("doctor", db=file.path).stdout
    assert "\x1b" not in shown
    assert "[31m x: in embedding" in shown
    (finding,) = json.loads(invoke("doctor", "--json", db=file.path).stdout)["findings"]
    assert finding["ids"] == ["\x1b[31m\nx"]


def test_doctor_fix_lists_confirms_and_repairs(clustered: UpgradedFile) -> None:
    path = clustered.path
    assert "orphan_assignment: none\n" in succeed("doctor", "--fix", db=path).stdout
    change(clustered, "DELETE FROM clusteringresult WHERE embedding_model = 'Nomic'")
    change(clustered, "UPDATE clusteringresult SET parameters = '{}'")
    before = snapshot(path)
    refused = invoke("doctor", "--fix", db=path, answer="n\n")
    assert refused.exit_code == 1
    assert "orphan_assignment: 40 assignments whose clustering" in refused.stdout
    assert "broken_clustering: 1 incomplete clusterings" in refused.stdout
    assert "Delete?" in refused.stderr
    assert snapshot(path) == before
    for words in (["bad_id"], ["nonsense"], ["orphan_assignment", "wrong_type"]):
        message = fail(2, "doctor", "--fix", "--yes", *words, db=path)
        kinds = "duplicate_embedding, orphan_assignment, broken_clustering, damaged_tree, damaged_neighbours"
        assert f"{kinds}, damaged_prediction can be repaired" in message
    path.chmod(0o444)
    assert "read-only; make it writable" in fail(1, "doctor", "--fix", "--yes", db=path)
    path.chmod(0o644)
    assert snapshot(path) == before
    assert succeed("doctor", "--fix", "broken_clustering", "--yes", db=path).stdout.endswith("Deleted 1.\n")
    assert stored(clustered) == []
    fixed = read_json("doctor", "--fix", "--yes", db=path)["fixed"]
    assert [(finding["kind"], finding["count"], finding["left"]) for finding in fixed] == [
        ("duplicate_embedding", 0, 0),
        ("orphan_assignment", 40, 0),
        ("broken_clustering", 0, 0),
        ("damaged_tree", 0, 0),
        ("damaged_neighbours", 0, 0),
        ("damaged_prediction", 0, 0),
    ]
    assert succeed("doctor", db=path).stdout.endswith("no findings\n")


@pytest.mark.parametrize(
    "words", [["--limit", "-1"], ["--limit", "many"], ["nonsense"], ["--fix", "bad_id"], ["--fix", "--json"]]
)
def test_doctor_refuses_wrong_arguments(clustered: UpgradedFile, words: list[str]) -> None:
    fail(2, "doctor", *words, db=clustered.path)


def test_no_share_exceeds_100_percent_in_a_damaged_clustering(clustered: UpgradedFile) -> None:
    # 14 embeddings with the assignments of another model's clustering: 2107.1 %.
    change(clustered, "UPDATE cluster SET size = 295 WHERE label = 0")
    output = succeed("show-clustering", "--model", "Nomic", db=clustered.path).stdout
    assert "The stored counts and the rows differ; panic-tda doctor says more." in output
    assert "%" not in next(line for line in output.splitlines() if " 295 " in line)


# ---------------------------------------------------------------------------- logs


def test_verbose_and_quiet_change_what_is_logged(upgraded: MakeFile, tmp_path: Path) -> None:
    file = upgraded(FieldSpec(dummy_rows=1))
    usual = succeed("cluster-embeddings", db=file.path).stderr
    quiet = succeed("cluster-embeddings", "-q", db=file.path).stderr
    verbose = succeed("cluster-embeddings", "-v", db=file.path).stderr
    assert "INFO" in usual
    assert "DEBUG" not in usual
    assert "INFO" not in quiet
    assert "WARNING" in quiet
    assert "DEBUG" in verbose
    log = tmp_path / "logs" / "run.log"
    succeed("cluster-embeddings", "-q", "--log-file", log, db=file.path)
    assert "DEBUG" in log.read_text()
    assert "Nomic: 40 embeddings" in log.read_text()


def test_tracebacks_go_to_the_log_file_only(upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch) -> None:
    from panic_tda import model_fits
    from panic_tda.storage.read import results

    def broken(*_arguments: object, **_options: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(model_fits, "cluster_rows", broken)
    file = upgraded()
    message = fail(1, "cluster-embeddings", "Nomic", "--log-file", "run.log", db=file.path)
    assert "unexpected ZeroDivisionError: a fault of ours" in message
    assert "Traceback" in Path("run.log").read_text()
    monkeypatch.setattr(results, "list_all_clusterings", broken)
    message = fail(1, "list-clusterings", "--log-file", "list.log", db=file.path)
    assert "unexpected ZeroDivisionError" in message
    assert "--log-file" in message
    assert "Traceback" in Path("list.log").read_text()


def test_a_log_file_that_cannot_be_written_is_an_error(upgraded: MakeFile, tmp_path: Path) -> None:
    file = upgraded()
    (tmp_path / "text").write_text("")
    for target in (tmp_path, tmp_path / "text" / "run.log"):
        assert "cannot write the log file" in fail(2, "list-clusterings", "--log-file", target, db=file.path)


def test_errors_are_json_with_the_option_json(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["show-clustering", "--json", "--limit", "many"])
    assert result.exit_code == 2
    error = json.loads(result.stdout)["error"]
    assert "many" in error["message"]
    assert "many" in result.stderr
    plain = CliRunner().invoke(main, ["show-clustering", "--limit", "many"])
    assert (plain.exit_code, plain.stdout) == (2, "")


@pytest.mark.slow
def test_models_of_thousands_are_clustered_exactly_by_default(
    upgraded: MakeFile,
) -> None:
    # From 2,001 rows on one backend is faster than the other.
    models = ("JinaClip", "Nomic", "STSBMpnet")
    file = upgraded(FieldSpec(runs=0, text_only_runs=6, length=1_000, dimensions=16, text_models=models))
    result = succeed("cluster-embeddings", "--json", db=file.path)
    outcomes = json.loads(result.stdout)["results"]
    shown = [
        (outcome["embedding_model"], outcome["n_embeddings"], outcome["backend"]) for outcome in outcomes
    ]
    assert shown == [(model, 3_000, "tiled") for model in models]
    assert all(outcome["exact"] for outcome in outcomes)
    with opened(file.path) as connection:
        stored = connection.execute(
            "SELECT json_extract(r.parameters, '$.backend'), count(*) "
            "FROM clusteringresult r JOIN embeddingcluster a ON a.result_key = r.key GROUP BY r.key"
        ).fetchall()
    assert stored == [("tiled", 3_000)] * 3


def test_ctrl_c_at_a_question_exits_130(clustered: UpgradedFile) -> None:
    before = snapshot(clustered.path)
    command = [sys.executable, "-m", "panic_tda", "delete-clusterings", "--all", "--db", str(clustered.path)]
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with processes.started(command, cwd=clustered.path.parent, env=env, stdin=subprocess.PIPE) as process:
        assert process.stderr is not None
        question = ""
        while not question.endswith("Delete? [y/N]: "):
            character = process.stderr.read(1)
            assert character, f"ended without a question: {question}"
            question += character
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=180)
    assert process.returncode == 130
    assert "interrupted; nothing was changed" in stderr
    assert snapshot(clustered.path) == before
