"""Test that a stored value that cannot be read fails only what needs it, is named, and is found by doctor."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from panic_tda.storage.database import open_database
from panic_tda.storage.read.completions import read_clustering_entries
from panic_tda.storage.read.results import find_clustering
from tests.faults import damaged_cells
from tests.faults.damaged_cells import MODEL, NOT_UTF8, SmallDatabase
from tests.snapshots import opened

CLUSTER = ("--min-cluster-size", "3", "--backend", "sklearn", "--no-checkpoint")

LABELS = [2**31, 2**31 - 1, 100_000, -2, 1.5, "0x", NOT_UTF8]
"""None of them is of a cluster."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallDatabase:
    """A database of a few runs, which no test changes."""
    return damaged_cells.make(tmp_path_factory.mktemp("cells"))


@pytest.fixture
def damaged(small: SmallDatabase, tmp_path: Path) -> Callable[[str, str, Any], Path]:
    """Replace a value in a copy of the database, and return the copy."""

    def damage(table: str, column: str, value: Any) -> Path:
        path = tmp_path / "damaged.sqlite"
        shutil.copyfile(small.path, path)
        assert damaged_cells.damage(path, table, column, value), (table, column, value)
        return path

    return damage


def run(path: Path, *words: str, in_place: bool = False) -> Result:
    result = damaged_cells.run(path, path.with_name("run"), words)
    if in_place:
        shutil.copyfile(path.with_name("run") / "field.sqlite", path)
    assert not list(damaged_cells.faults(result)), result.output
    return result


def test_every_column_is_damaged(small: SmallDatabase) -> None:
    assert damaged_cells.columns_of(small.path) == {
        table: set(columns) for table, columns in damaged_cells.COLUMNS.items()
    }


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("created_at", "yesterday"),
        ("started_at", 5),
        ("embedding_model", b"\xff"),
        ("algorithm", NOT_UTF8),
        ("parameters", '{"cluster_selection_epsilon": null}'),
        ("parameters", "no JSON"),
        ("parameters", "[]"),
        ("id", ""),
        ("id", 7),
        ("key", 2**62),
    ],
)
def test_a_clustering_that_cannot_be_read_is_listed_with_its_reason_and_deleted(
    small: SmallDatabase, damaged: Callable[..., Path], column: str, value: Any
) -> None:
    path = damaged("clusteringresult", column, value)
    listed = json.loads(run(path, "list-clusterings", "--json").stdout)
    (unreadable,) = [row for row in listed if row["unreadable"]]
    assert len(listed) == 3
    assert column in unreadable["unreadable"]
    assert f"{unreadable['id']}" in run(path, "list-clusterings").stdout
    # Latest is the latest that can be read.
    with open_database(path).session() as session:
        latest = find_clustering(session, model=MODEL)
    assert latest.id.hex == small.earlier
    assert run(path, "show-clustering", unreadable["id"]).exit_code in (1, 2)
    assert run(path, "delete-clusterings", unreadable["id"], "--yes", in_place=True).exit_code == 0
    left = json.loads(run(path, "list-clusterings", "--json").stdout)
    assert left == [row for row in listed if not row["unreadable"]]


def test_a_shell_completes_the_clusterings_that_can_be_read(damaged: Callable[..., Path]) -> None:
    for value in ("none", NOT_UTF8, 7):
        assert len(read_clustering_entries(str(damaged("clusteringresult", "id", value)))) == 2


@pytest.mark.parametrize("value", ["yesterday", "9999-12-31 23:59:59.999999", 5, b"\xff", NOT_UTF8])
def test_a_new_fit_is_saved_whatever_an_older_one_says_of_its_time(
    damaged: Callable[..., Path], value: Any
) -> None:
    path = damaged("clusteringresult", "created_at", value)
    result = run(path, "cluster-embeddings", MODEL, *CLUSTER, in_place=True)
    assert result.exit_code == 0, result.output
    assert len(json.loads(run(path, "list-clusterings", "--json").stdout)) == 4


@pytest.mark.parametrize(
    "value", ["text", 2**31 - 1, 2**62, 2**63 - 1, -5, 1.5, float("inf"), b"\xff", NOT_UTF8]
)
@pytest.mark.parametrize("table", ["clusteringresult", "cluster", "embeddingcluster", "clusteringtree"])
def test_a_new_fit_is_saved_whatever_keys_there_are(
    damaged: Callable[..., Path], table: str, value: Any
) -> None:
    path = damaged(table, "key" if table == "clusteringresult" else "result_key", value)
    result = run(path, "cluster-embeddings", MODEL, *CLUSTER)
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("command", ["sweep", "compare", "density", "trajectories", "steps"])
def test_a_label_of_no_cluster_is_named(
    small: SmallDatabase, damaged: Callable[..., Path], label: Any, command: str
) -> None:
    path = damaged("embeddingcluster", "label", label)
    result = run(path, *damaged_cells.commands(small)[command].words)
    assert result.exit_code == 1
    assert re.search(r"table embeddingcluster, column label, row \S*", result.output), result.output


@pytest.mark.parametrize("value", [float("-inf"), 1.5])
def test_a_sequence_number_that_is_no_integer_costs_the_plan_of_its_models(
    damaged: Callable[..., Path], value: float
) -> None:
    path = damaged("invocation", "sequence_number", value)
    result = run(path, "plan-clustering", "--downsample", "2", "--json")
    assert result.exit_code == 0, result.output
    reasons = {
        model["embedding_model"]: model["plans"][0]["reason"] or ""
        for model in json.loads(result.stdout)["models"]
    }
    assert "table invocation, column sequence_number, row " in reasons[MODEL]
    assert "sequence_number" not in reasons[damaged_cells.OF_DUMP]


@pytest.mark.parametrize("words", [("show-clustering",), ("show-clustering", "--json")])
def test_a_cluster_whose_label_no_row_has_ends_no_command(
    damaged: Callable[..., Path], words: tuple[str, ...]
) -> None:
    """Counts by label were looked up: of -1 those of another cluster, of others there were none."""
    for label in (-1, -5):
        result = run(damaged("cluster", "label", label), *words, "--model", MODEL)
        assert result.exit_code == 1
        assert re.search(rf"table cluster, column label, row \S* {label}: .* are not negative", result.output)
    result = run(damaged("cluster", "label", 77), *words, "--model", MODEL)
    assert result.exit_code == 0, result.output
    assert "0 runs, 0 prompts" in result.output or '"runs": 0,' in result.output


@pytest.mark.parametrize("label", LABELS)
def test_doctor_finds_a_label_of_no_cluster(damaged: Callable[..., Path], label: Any) -> None:
    path = damaged("embeddingcluster", "label", label)
    findings = json.loads(run(path, "doctor", "broken_clustering", "--json").stdout)["findings"]
    assert [row["count"] for row in findings] == [1]


@pytest.mark.parametrize("command", ["export", "trajectories", "steps", "show", "copy", "density"])
def test_a_text_that_is_not_utf8_is_named_or_not_needed(
    small: SmallDatabase, damaged: Callable[..., Path], command: str
) -> None:
    path = damaged("invocation", "output_text", NOT_UTF8)
    with opened(path) as connection:
        query = f"SELECT id FROM invocation WHERE {damaged_cells.ROWS['invocation']}"
        identity = connection.execute(query).fetchone()[0]
    result = run(path, *damaged_cells.commands(small)[command].words)
    place = f"table invocation, column output_text, row {damaged_cells.with_dashes(identity)}"
    if command in ("export", "trajectories", "density", "copy"):
        assert result.exit_code == 1
        assert place in result.output
    examined = run(path, "doctor", "unreadable_value", "--json")
    assert examined.exit_code == 1
    (finding,) = json.loads(examined.stdout)["findings"]
    assert finding["ids"] == [place]


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("run", "network", "{}"),
        ("run", "seed", "many"),
        ("run", "initial_prompt", NOT_UTF8),
        ("run", "max_length", 1.5),
        ("experimentconfig", "networks", "[[null]]"),
        ("experimentconfig", "started_at", "noon"),
        ("invocation", "type", "SOUND"),
        ("invocation", "sequence_number", "first"),
        ("invocation", "model", b"\xff"),
        ("embedding", "embedding_model", b"\xff"),
        ("embedding", "embedding_model", NOT_UTF8),
    ],
)
def test_doctor_finds_a_value_that_cannot_be_read(
    damaged: Callable[..., Path], table: str, column: str, value: Any
) -> None:
    path = damaged(table, column, value)
    examined = run(path, "doctor", "--json")
    assert examined.exit_code == 1
    finding_by_kind = {finding["kind"]: finding for finding in json.loads(examined.stdout)["findings"]}
    assert finding_by_kind["unreadable_value"]["ids"][0].startswith(f"table {table}, column {column}, row ")


def test_doctor_mends_what_cannot_be_read_of_clusterings(small: SmallDatabase, tmp_path: Path) -> None:
    for table, column, value in (
        ("clusteringresult", "parameters", "none"),
        ("clusteringresult", "id", b"\xff"),
        ("clusteringresult", "key", NOT_UTF8),
        ("cluster", "label", "first"),
        ("embeddingcluster", "probability", float("inf")),
        ("clusteringtree", "data", b"\xff"),
    ):
        path = tmp_path / "damaged.sqlite"
        shutil.copyfile(small.path, path)
        damaged_cells.damage(path, table, column, value)
        mended = run(path, "doctor", "--fix", "--yes", in_place=True)
        assert mended.exit_code == 0, mended.output
        kinds = ("broken_clustering", "damaged_tree", "orphan_assignment")
        assert run(path, "doctor", *kinds).exit_code == 0
        listed = json.loads(run(path, "list-clusterings", "--json").stdout)
        assert len(listed) == (3 if table == "clusteringtree" else 2)
        assert not any(row["unreadable"] for row in listed)


def test_a_value_of_a_row_is_named_by_its_place(damaged: Callable[..., Path]) -> None:
    path = damaged("run", "seed", NOT_UTF8)
    result = run(path, "show-trajectories", "--model", MODEL)
    assert re.search(r"table run, column seed, row [0-9a-f-]{36}: .* is not text in UTF-8", result.output)
