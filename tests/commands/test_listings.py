"""Test listings: shortest unique ids, times with their zone, singular and plural, nothing cut."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from panic_tda.main import main
from tests.cli.processes import on_a_terminal
from tests.conftest import MakeFile
from tests.insight.planted import PlantedRun, plant
from tests.report.walks import Walk, make_walks, run_command
from tests.snapshots import opened

IDS = [f"01a1fbfd{rest}" for rest in ("1fbd75e0b2678ccba18d90c1", "1fbe7bb5bf27f9438c0dd32e")]
TEXT = "a text that goes on " * 30


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a database with two clusterings whose ids have a common beginning."""
    path = make_walks(tmp_path_factory.mktemp("listings"), Walk(runs=3, steps=20, places=2))
    run_command("recut-clustering", "--db", path, "--epsilon", "0.2", "-q")
    with opened(path) as connection:
        keys = connection.execute("SELECT key FROM clusteringresult ORDER BY key").fetchall()
        for identity, (key,) in zip(IDS, keys, strict=True):
            connection.execute("UPDATE clusteringresult SET id = ? WHERE key = ?", (identity, key))
    return path


@pytest.fixture
def run(demo: Path, tmp_path: Path) -> Callable[..., str]:
    """Run commands on a copy."""
    path = Path(shutil.copyfile(demo, tmp_path / "copy.sqlite"))
    return lambda *words: run_command(*words, "--db", path, "-q")


def shown(text: str) -> list[str]:
    return re.findall(r"^01a1\S*", text, re.MULTILINE)


def test_ids_are_as_short_as_unique_and_accepted(run: Callable[..., str]) -> None:
    names = shown(run("list-clusterings"))
    assert names == ["01a1fbfd-1fbe", "01a1fbfd-1fbd"]
    all_ids = [clustering["id"] for clustering in json.loads(run("list-clusterings", "--json"))]
    assert [clustering_id.replace("-", "") for clustering_id in all_ids] == IDS[::-1]
    for name, clustering in zip(names, all_ids, strict=True):
        assert json.loads(run("show-clustering", name, "--json"))[0]["id"] == clustering
        assert json.loads(run("recut-clustering", name, "--epsilon", "0.3", "--json"))["results"][0]["id"]
        assert clustering in run("show-density", name)
        assert clustering in run("compare-clusterings", name, names[0])
    deleted = run("delete-clusterings", names[1], "--yes")
    assert shown(deleted) == [names[1]]
    assert "This deletes 1 clustering with 6 clusters and 60 assignments." in deleted
    assert all_ids[1] not in [
        clustering["id"] for clustering in json.loads(run("list-clusterings", "--json"))
    ]


def test_short_ids_are_unique_among_hidden_clusterings_too(run: Callable[..., str]) -> None:
    assert shown(run("list-clusterings", "--limit", "1")) == ["01a1fbfd-1fbe"]
    assert shown(run("list-clusterings")) == ["01a1fbfd-1fbe", "01a1fbfd-1fbd"]


def times_of(value: Any) -> list[str]:
    """Return all times in a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [time for part in value for time in times_of(part)]
    return [value] if isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\d[ T]", value) else []


@pytest.mark.parametrize("command", ["list-clusterings", "show-clustering"])
def test_times_in_json_have_their_time_zone(run: Callable[..., str], command: str) -> None:
    times = times_of(json.loads(run(command, "--json")))
    assert len(times) >= 2
    for time in times:
        assert datetime.fromisoformat(time).utcoffset() == timedelta(0)


def test_times_in_exports_have_their_time_zone(run: Callable[..., str], tmp_path: Path) -> None:
    run("export-clustering", "latest", tmp_path / "rows.parquet")
    metadata = json.loads((pq.read_schema(tmp_path / "rows.parquet").metadata or {})[b"panic_tda"])
    assert datetime.fromisoformat(metadata["created_at"]).utcoffset() == timedelta(0)


def test_counts_of_one_are_singular(tmp_path: Path) -> None:
    """One run, one cluster, one step in transit, one more clustering than is listed."""
    database, clustering = plant(tmp_path / "one.sqlite", [PlantedRun([0] * 5)])
    text = "\n".join(
        run_command(*words, "--db", database.path, "-q")
        for words in (
            ["list-clusterings"],
            ["show-clustering"],
            ["show-trajectories", "--runs", "--run", "00000001"],
            ["export-trajectories", "latest", tmp_path / "steps.csv"],
            ["compare-clusterings", "latest", "latest"],
            ["delete-clusterings", str(clustering.id), "--yes"],
        )
    )
    verbs = ("was", "is", "ends", "goes")
    assert set(re.findall(r"(?<![\d.,])1 ((?:\w+ )?\w+s)\b", text)) <= set(verbs)
    assert "The only run: 0.0 % of 5 steps are in transit" in text
    assert "1 of 1 cluster kept" in text
    assert "This deletes 1 clustering with 4 clusters and 5 assignments." in text


def test_texts_are_not_cut_outside_a_terminal(tmp_path: Path) -> None:
    labels = [0, 1, 2, 3] * 5
    runs = [PlantedRun(labels, [f"{TEXT}{label}" for label in labels], prompt=TEXT + "prompt")]
    database, _ = plant(tmp_path / "long.sqlite", runs)
    words = ["show-trajectories", "--run", "00000001", "--by", "prompt", "--db", str(database.path), "-q"]
    piped = CliRunner().invoke(main, words).stdout
    assert "…" not in piped
    for part in (*(f"{TEXT}{label}" for label in range(4)), f"{TEXT}prompt"):
        # In the transitions and the path's legend, or in the groups and the head of the run.
        assert piped.count(part) >= 2
    text = on_a_terminal(*words, cwd=tmp_path, columns=70, stdout=True).text
    assert "…" in text


@pytest.mark.parametrize(("backend", "width"), [("auto", 80), ("tiled", 60)])
def test_a_plan_shows_what_the_chosen_backend_takes(demo: Path, backend: str, width: int) -> None:
    words = ("plan-clustering", "--downsample", "1", "--backend", backend, "--db", str(demo), "-q")
    plan = json.loads(CliRunner().invoke(main, [*words, "--json"]).stdout)
    chosen = plan["models"][0]["plans"][0]["backend"]
    text = on_a_terminal(*words, cwd=demo.parent, columns=width, stdout=True).text
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "")
    header, row = plain.lstrip("\n").split("\n")[:2]
    assert header.split()[:4] == ["model", "factor", "rows", "backend"]
    assert row.split()[3] == chosen
    assert chosen in header.split()[4:]
    assert len(header) <= width


def next_steps(stdout: str) -> list[str]:
    """Return the commands that are suggested."""
    return re.findall(r"^  (panic-tda .*)$", stdout.partition("\nNext:\n")[2], re.MULTILINE)


@pytest.mark.usefixtures("no_umap")
def test_next_steps_are_suggested_once(
    tmp_path: Path, upgraded: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = upgraded()
    words = ["cluster-embeddings", "-q"]
    monkeypatch.setenv("PANIC_TDA_DB", file.target)
    monkeypatch.chdir(tmp_path)
    suggested = next_steps(run_command(*words))
    assert suggested[0] == "panic-tda show-clustering latest --model Nomic"
    for line in suggested:
        name, *rest = shlex.split(line)[1:]
        # Nobody looks at a page that a test makes.
        assert run_command(name, *(word for word in rest if word != "--open"), "-q")
    assert next_steps(run_command(*words)) == []
    other_file = upgraded(name="other file.sqlite")
    suggested = next_steps(run_command(*words, "Nomic", "--metric", "euclidean", "--db", other_file.target))
    assert shlex.split(suggested[0])[1:] == ["show-clustering", "--db", other_file.target, "latest"]
    for line in suggested:
        assert run_command(*shlex.split(line)[1:], "-q")


def test_json_has_no_next_steps(upgraded: MakeFile) -> None:
    assert list(json.loads(run_command("cluster-embeddings", "--json", "-q", "--db", upgraded().path))) == [
        "results"
    ]


def test_a_clustering_is_listed_in_the_table_of_results_by_its_short_id(upgraded: MakeFile) -> None:
    file = upgraded()
    shown = run_command("cluster-embeddings", "-q", "--db", file.path)
    listed = run_command("list-clusterings", "-q", "--db", file.path)
    ids = [line.split()[0] for line in listed.splitlines()[1:3]]
    assert [line.split()[-1] for line in shown.splitlines()[1:3]] == ids[::-1]
