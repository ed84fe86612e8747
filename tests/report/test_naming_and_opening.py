"""Test the default name of a report, and opening it in a browser."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from panic_tda.main import main
from tests.cli.processes import run
from tests.report.walks import run_command
from tests.snapshots import opened


@pytest.fixture
def database(plain_page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of a database with one clustering, next to the current folder."""
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    return Path(shutil.copyfile(plain_page.parent / "walks.sqlite", tmp_path / "walks.sqlite"))


# UMAP takes longer to import than the rest of a command.
WITHOUT_UMAP = """
import sys
sys.modules["umap"] = None
from panic_tda.main import main
main(prog_name="panic-tda")
"""


def report(database: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["report-clustering", "--db", str(database), "-q", *words])


def short_id(database: Path) -> str:
    return run_command("list-clusterings", "-q", "--db", database).splitlines()[1].split()[0]


def test_a_page_without_a_name_gets_one_and_is_not_replaced(database: Path) -> None:
    result = report(database)
    assert result.exit_code == 0, result.output
    (name,) = os.listdir()
    assert re.fullmatch(rf"report-[\w.-]+-{short_id(database)}\.html", name)
    assert result.stdout.startswith(f"{name}: ")
    Path(name).write_text("mine")
    refused = report(database)
    assert refused.exit_code == 2
    assert f"{name} exists; replace it with --force, or give another name" in refused.stderr
    assert Path(name).read_text() == "mine"
    assert report(database, "--force").exit_code == 0
    assert Path(name).read_text() != "mine"


@pytest.mark.parametrize(
    ("model", "part"),
    [
        ("nomic-ai/nomic-embed v1.5", "-nomic-ai-nomic-embed-v1.5"),
        ("../../evil", "-evil"),
        ("風船", ""),
        ("m" * 400, f"-{'m' * 60}"),
    ],
)
def test_a_model_of_any_name_gives_a_file_in_this_folder(database: Path, model: str, part: str) -> None:
    with opened(database) as connection:
        connection.execute("UPDATE clusteringresult SET embedding_model = ?", (model,))
        connection.execute("UPDATE embedding SET embedding_model = ?", (model,))
    result = report(database)
    assert result.exit_code == 0, result.output
    assert os.listdir() == [f"report{part}-{short_id(database)}.html"]


def test_the_browser_of_the_environment_opens_the_page(database: Path, tmp_path: Path) -> None:
    browser, opened_pages = tmp_path / "browser", tmp_path / "seen"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {opened_pages}\n')
    browser.chmod(0o755)
    words = ("report-clustering", "--db", database, "-q", "-o", "a page.html")
    assert run(*words, cwd=Path.cwd(), code=WITHOUT_UMAP, BROWSER=str(browser)).returncode == 0
    assert not opened_pages.exists()
    result = run(*words, "--force", "--open", cwd=Path.cwd(), code=WITHOUT_UMAP, BROWSER=str(browser))
    assert (result.returncode, result.stderr) == (0, "")
    assert opened_pages.read_text() == (Path.cwd() / "a page.html").as_uri()


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({}, "there is no display"),
        ({"SSH_CONNECTION": "10.0.0.1 1 10.0.0.2 22"}, "this is an SSH session"),
        ({"BROWSER": "/nowhere/browser"}, ".*browser.*"),
        ({"DISPLAY": ":99"}, ".*browser.*"),
    ],
)
def test_without_a_browser_the_message_says_how_to_see_the_page(
    database: Path, environment: dict[str, str], reason: str
) -> None:
    words = ("report-clustering", "--db", database, "-q", "--open", "-o", "page.html")
    # No browser of this machine is found.
    result = run(*words, cwd=Path.cwd(), code=WITHOUT_UMAP, **{"PATH": "/nowhere"} | environment)
    assert result.returncode == 0, result.stderr
    assert Path("page.html").stat().st_size > 1000
    message = result.stderr.partition("WARNING ")[2]
    assert re.match(rf"page\.html was not opened: {reason}\. Open it in a browser", message)
    assert f":{Path.cwd() / 'page.html'} ." in message
