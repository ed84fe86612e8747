"""Test the counts of `panic-tda info`, on one screen, also with damaged values."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import pytest
from click.testing import CliRunner, Result

from panic_tda.clustering_manager import cluster_all_data
from panic_tda.main import main
from panic_tda.types import CLUSTERED
from tests.conftest import MakeFile, UpgradedFile
from tests.field_files import EVERYTHING, FieldSpec, write_field_file
from tests.snapshots import opened

pytestmark = pytest.mark.both_engines


def ask(target: str, *words: str) -> Result:
    return CliRunner().invoke(main, ["info", "--db", target, *words], prog_name="panic-tda")


def read_info(file: UpgradedFile) -> dict[str, Any]:
    result = ask(file.target, "--json")
    assert result.exit_code == 0, result.output
    info: dict[str, Any] = json.loads(result.stdout)
    return info


def test_info_counts_everything(upgraded: MakeFile) -> None:
    file = upgraded(EVERYTHING)
    outcomes = cluster_all_data(file.database, skip_invalid=True)
    latest = {outcome.embedding_model: str(outcome.id) for outcome in outcomes if outcome.status == CLUSTERED}
    info, facts = read_info(file), file.facts
    by_type = Counter(invocation.type for invocation in facts.invocations)
    assert (info["n_texts"], info["n_images"]) == (by_type["TEXT"], by_type["IMAGE"])
    assert info["n_runs"] == len(facts.runs)
    assert sum(network["n_runs"] for network in info["networks"]) == len(facts.runs)
    assert info["n_embeddings"] == len(facts.embeddings)
    assert info["n_clusterings"] == len(latest) > 1
    assert (info["n_unreadable_clusterings"], info["n_unreadable_runs"]) == (0, 0)
    assert info["bytes"] > 0
    assert [model["embedding_model"] for model in info["models"]] == facts.models
    for model in info["models"]:
        name = model["embedding_model"]
        assert model["n_embeddings"] == facts.count(name)
        assert model["n_invalid"] == len(facts.bad(name, "null")) + len(facts.bad(name, "short"))
        assert model["dimensions"] == facts.spec.dimensions
        stored = sum(embedding.vector.nbytes for embedding in facts.of(name) if embedding.vector is not None)
        assert model["vector_bytes"] == stored
        assert model["latest_clustering"] == latest.get(name)
        counts = {str(outcome.id): (outcome.n_clusters, outcome.n_outliers) for outcome in outcomes}
        assert (model["n_clusters"], model["n_outliers"]) == counts.get(latest.get(name, ""), (None, None))


def test_the_text_fits_a_screen_and_has_the_same_counts(upgraded: MakeFile) -> None:
    file = upgraded(EVERYTHING)
    before = ask(file.target).stdout
    assert "No clusterings are stored" in before
    cluster_all_data(file.database, ["Nomic"], skip_invalid=True)
    info, text = read_info(file), ask(file.target).stdout
    assert len(text.splitlines()) <= 24
    assert f"{info['n_runs']} runs of {len(info['networks'])} network" in text
    assert f"{info['n_texts']:,} texts and {info['n_images']:,} images" in text
    (line,) = re.findall(r"^Nomic  .*$", text, re.MULTILINE)
    nomic = next(model for model in info["models"] if model["embedding_model"] == "Nomic")
    assert line.split()[1] == str(nomic["n_embeddings"])
    assert nomic["latest_clustering"].startswith(line.split()[7])
    assert "→" in text
    assert " invalid " in text
    sound = upgraded(name="sound.sqlite")
    assert "invalid" not in ask(sound.target).stdout


@pytest.mark.sqlite_only
@pytest.mark.parametrize(
    ("statement", "key"),
    [
        ("UPDATE run SET network = '{}' WHERE rowid = 1", "n_unreadable_runs"),
        ("UPDATE run SET network = x'ff' WHERE rowid = 1", "n_unreadable_runs"),
        ("UPDATE clusteringresult SET parameters = 'none' WHERE rowid = 1", "n_unreadable_clusterings"),
    ],
)
def test_a_damaged_value_does_not_hide_other_values(upgraded: MakeFile, statement: str, key: str) -> None:
    file = upgraded()
    cluster_all_data(file.database)
    database_info = read_info(file)
    with opened(file.path) as connection:
        connection.execute(statement)
    info = read_info(file)
    assert info[key] == 1
    assert (info["n_runs"], info["n_embeddings"]) == (database_info["n_runs"], database_info["n_embeddings"])
    assert "cannot be read; panic-tda doctor shows why" in " ".join(ask(file.target).stdout.split())


@pytest.mark.sqlite_only
def test_a_long_list_of_networks_is_cut_with_a_note(upgraded: MakeFile) -> None:
    file = upgraded(FieldSpec(runs=20, length=4, text_models=("Nomic",)))
    with opened(file.path) as connection:
        connection.execute("UPDATE run SET network = '[\"Model' || rowid || '\"]'")
    text = ask(file.target).stdout
    assert len(text.splitlines()) <= 30
    assert "… and 8 more; --json has all" in text
    assert len(read_info(file)["networks"]) == 20


@pytest.mark.sqlite_only
def test_before_the_upgrade_info_names_the_command(tmp_path: Any) -> None:
    facts = write_field_file(tmp_path / "field.sqlite")
    result = ask(str(facts.path))
    assert result.exit_code == 1
    assert f"panic-tda upgrade --db {facts.path}" in result.stderr
