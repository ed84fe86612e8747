"""Test that the file of a report is complete or missing, and replaces no file by accident."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from panic_tda.errors import DatabaseError
from panic_tda.main import main
from panic_tda.report import making
from panic_tda.report.gathering import gather
from panic_tda.storage.database import open_current
from panic_tda.storage.read.results import find_clustering
from tests.report.conftest import MakePage
from tests.report.walks import Walk
from tests.snapshots import opened
from tests.storage.test_query_plans import queries, statements


def make_report(database: Path, path: Path, *words: str) -> Any:
    return CliRunner().invoke(
        main, ["report-clustering", "--db", str(database), "-o", str(path), "--json", *words]
    )


@pytest.fixture
def database(plain_page: Path) -> Path:
    return plain_page.parent / "walks.sqlite"


def test_a_file_is_replaced_only_when_asked(database: Path, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("mine")
    refused = make_report(database, path)
    assert refused.exit_code == 2
    assert "--force" in refused.stderr
    assert path.read_text() == "mine"
    result = make_report(database, path, "--force")
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed["bytes"] == path.stat().st_size
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask()
    assert os.listdir(tmp_path) == ["page.html"]


def test_a_folder_that_is_not_there_is_named(database: Path, tmp_path: Path) -> None:
    result = make_report(database, tmp_path / "nowhere" / "page.html")
    assert result.exit_code == 2
    assert "nowhere" in result.stderr


@pytest.mark.parametrize("name", ["r.pdf", "r.png", "r", "r.html.gz", ".html", "r.md"])
def test_a_page_is_not_written_under_another_ending(database: Path, tmp_path: Path, name: str) -> None:
    result = make_report(database, tmp_path / name, "--force")
    assert result.exit_code == 2
    assert f"a page ends in .html or .htm; got {name}" in result.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["r.htm", "R.HTML"])
def test_usual_endings_of_pages_are_accepted(database: Path, tmp_path: Path, name: str) -> None:
    assert make_report(database, tmp_path / name).exit_code == 0
    assert (tmp_path / name).read_bytes().startswith(b"<!doctype html>")


def test_without_jinja_nothing_is_read(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with statements() as executed:
        result = make_report(database, tmp_path / "page.html")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"]["type"] == "NoTemplates"
    assert "pip install '.[report]'" in result.stdout
    assert not [sql for sql in queries(executed) if "embeddingcluster" in sql]
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("when", ["fsync", "replace"])
def test_an_interruption_leaves_no_partial_page(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "page.html"
    path.write_text("mine")
    opened = open_current(database)
    with opened.session() as session:
        source = find_clustering(session)
    owner: Any = Path if when == "replace" else os
    monkeypatch.setattr(owner, when, interrupt)
    with pytest.raises(KeyboardInterrupt):
        making.write_report(opened, source, path, force=True)
    assert path.read_text() == "mine"
    assert os.listdir(tmp_path) == ["page.html"]


def test_the_page_is_made_from_a_read_only_file(database: Path, tmp_path: Path) -> None:
    before = database.stat().st_mtime_ns
    assert make_report(database, tmp_path / "page.html").exit_code == 0
    assert database.stat().st_mtime_ns == before


def test_a_small_map_says_so_and_has_all_medoids(make_page: MakePage) -> None:
    page = make_page(Walk(), "--map-rows", "40")
    opened = open_current(page.parent / "walks.sqlite")
    with opened.session() as session:
        source = find_clustering(session)
    result = gather(opened, source, map_rows=40)
    assert result["map"]["n"] == 40
    assert result["map"]["n_all"] == 320
    labels = result["map"]["labels"][result["clusters"]["points"]]
    assert labels.tolist() == list(range(source.record.n_clusters))


def test_every_table_is_read_once(database: Path) -> None:
    with statements() as executed:
        opened = open_current(database)
        with opened.session() as session:
            source = find_clustering(session)
        executed.clear()
        # Fewer points than runs have first steps and clusters have medoids, some of which are both.
        gather(opened, source, map_rows=20)
    selects = [sql for sql in executed if sql.startswith("SELECT") and "sqlite_master" not in sql]
    assert len(selects) == len(set(selects)) > 10
    (reading,) = [sql for sql in selects if "embedding.rowid IN" in sql]
    places = re.findall(r"\d+", reading.partition(" IN ")[2])
    assert 20 <= len(places) == len(set(places)) <= 20 + 8
    # The tree, and the neighbour lists beside it.
    for table, count in (("clusteringtree.data", 2), ("invocation.output_text, invocation.model", 1)):
        assert sum(table in sql for sql in selects) == count


def test_a_cluster_that_is_missing_is_named(database: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy.sqlite"
    shutil.copy(database, path)
    with opened(path) as connection:
        connection.execute("DELETE FROM cluster WHERE label = (SELECT max(label) FROM cluster)")
    current = open_current(path)
    with current.session() as session:
        source = find_clustering(session)
    with pytest.raises(DatabaseError, match=r"cluster \d+ of clustering .*, or one before it, is missing"):
        gather(current, source)


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
