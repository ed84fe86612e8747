"""Test the default name of a report, and opening it in a browser."""

from __future__ import annotations

import json
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


def test_the_browser_of_the_environment_opens_the_page(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser, opened_pages = tmp_path / "browser", tmp_path / "seen"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {opened_pages}\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(browser))
    assert report(database, "-o", "a page.html").exit_code == 0
    assert not opened_pages.exists()
    words = ("report-clustering", "--db", database, "-q", "-o", "a page.html", "--force", "--open")
    result = run(*words, cwd=Path.cwd(), code=WITHOUT_UMAP, BROWSER=str(browser))
    assert (result.returncode, result.stderr) == (0, "")
    assert opened_pages.read_text() == (Path.cwd() / "a page.html").as_uri()


WITHOUT_BROWSER = [
    ({}, "there is no display"),
    ({"SSH_CONNECTION": "10.0.0.1 1 10.0.0.2 22"}, "this is an SSH session"),
    ({"BROWSER": "/nowhere/browser"}, ".*browser.*"),
    ({"DISPLAY": ":99"}, ".*browser.*"),
]
"""Environments without a browser, and the reason that the message names."""
# Each run is a fork of one process, which has made a page and looked for no browser yet.
EACH = """
import json, os, sys
sys.modules["umap"] = None
from panic_tda.main import main
words = [word for word in sys.argv[2:] if word != "--open"]
main(words, prog_name="panic-tda", standalone_mode=False)
assert "webbrowser" not in sys.modules
for environment in json.loads(sys.argv[1]):
    os.remove("page.html")
    child = os.fork()
    if not child:
        os.environ.update(environment)
        main(sys.argv[2:], prog_name="panic-tda")
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print("ENDED", code, os.path.getsize("page.html"), file=sys.stderr, flush=True)
"""


def test_without_a_browser_the_message_says_how_to_see_the_page(database: Path) -> None:
    environments = json.dumps([environment for environment, _ in WITHOUT_BROWSER])
    words = ("report-clustering", "--db", database, "-q", "--open", "-o", "page.html")
    # No browser of this machine is found.
    result = run(environments, *words, cwd=Path.cwd(), code=EACH, PATH="/nowhere")
    *messages, rest = re.split(r"ENDED 0 \d{4,}\n", result.stderr)
    assert (len(messages), rest) == (len(WITHOUT_BROWSER), ""), result.stderr
    for message, (_, reason) in zip(messages, WITHOUT_BROWSER, strict=True):
        warning = message.partition("WARNING ")[2]
        assert re.match(rf"page\.html was not opened: {reason}\. Open it in a browser", warning)
        assert f":{Path.cwd() / 'page.html'} ." in warning
