"""`panic-tda help`: topics, pages, terms and commands, on a terminal and in a pipe."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

from panic_tda.cli import handbook
from panic_tda.main import main
from tests.cli.processes import on_a_terminal
from tests.snapshots import run_python


def ask(*words: str) -> Result:
    return CliRunner().invoke(main, ["help", *words], prog_name="panic-tda")


def test_topics_are_listed_with_what_they_answer() -> None:
    shown = ask().stdout.splitlines()
    for chapter, topics in handbook.CHAPTERS.items():
        assert chapter in shown
        for topic in topics:
            (line,) = [line for line in shown if line.split()[:1] == [topic]]
            assert len(line) > len(topic) + 15
    assert max(map(len, shown)) <= 80


@pytest.mark.parametrize("topic", handbook.TOPICS)
def test_a_page_is_plain_in_a_pipe(topic: str) -> None:
    result = ask(topic)
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == handbook.read_page(topic).splitlines()[0]
    assert "\x1b" not in result.stdout
    assert not re.search(r"\]\([\w-]+\.md", result.stdout), "links name pages that help takes"
    assert "<!--" not in result.stdout


@pytest.mark.parametrize(
    ("term", "definition"),
    [
        ("min_samples", "including the point itself"),
        ("Persistence", "life"),
        ("medoid", "medoid_embedding_id"),
        ("core-distance", "min_samples"),
        ("core distance", "min_samples"),
        ("ARI", "adjusted Rand index"),
    ],
)
def test_a_term_is_defined(term: str, definition: str) -> None:
    result = ask(*term.split())
    assert result.exit_code == 0
    assert result.stdout.startswith("### ")
    assert definition in result.stdout
    assert result.stdout.count("\n### ") == 0


def test_the_help_of_a_command_is_that_of_the_command() -> None:
    for name in ("upgrade", "help"):
        direct = CliRunner().invoke(main, [name, "--help"], prog_name="panic-tda")
        assert ask(name).stdout.rstrip("\n") == direct.stdout.rstrip("\n")


@pytest.mark.parametrize(
    ("topic", "hints"),
    [
        ("trajectorys", ["close: trajectory, trajectories"]),
        ("persistance", ["close: persistence"]),
        ("cluster-embedings", ["close: cluster-embeddings"]),
        ("checkpoints", ["close: checkpoint"]),
        ("nohup", ["pages with it: ", "scripts-and-logs"]),
        ("kill", ["pages with it: clustering (Keep going after a kill)"]),
        ("keep going", ["pages with it: clustering (Keep going after a kill)"]),
        ("ßxyz", []),
    ],
)
def test_an_unknown_topic_is_refused_with_what_is_close(topic: str, hints: list[str]) -> None:
    result = ask(*topic.split())
    assert result.exit_code == 2
    assert result.stdout == ""
    for hint in [f"has no topic {topic!r}", "panic-tda help lists all topics", *hints]:
        assert hint in result.stderr


def test_the_shell_completes_pages_and_commands() -> None:
    completion = ShellComplete(main, {}, "panic-tda", "_PANIC_TDA_COMPLETE")
    for beginning, name in (("choos", "choosing-parameters"), ("sweep", "sweep-clustering")):
        assert [item.value for item in completion.get_completions(["help"], beginning)] == [name]


def test_a_terminal_shows_a_page_formatted_and_through_the_pager(tmp_path: Path) -> None:
    pager = tmp_path / "pager"
    pager.write_text("#!/bin/sh\necho THE PAGER\ncat\n")
    pager.chmod(0o755)
    code = (
        f"import os\nos.environ['PAGER'] = {str(pager)!r}\n"
        "from panic_tda.main import main\nmain(prog_name='panic-tda')"
    )
    seen = on_a_terminal("help", "comparing", cwd=tmp_path, code=code, stdout=True)
    shown = "\n".join(line for screen in seen.screens for line in screen)
    assert "THE PAGER" in shown
    assert "Comparing" in shown
    assert "# Comparing" not in shown
    assert "| `fate`" not in shown


def test_reading_in_a_pipe_loads_no_heavy_library(unmeasured: None) -> None:
    code = (
        "import sys\nfrom panic_tda.main import main\n"
        "for words in ([], ['clustering'], ['medoid']):\n"
        "    try: main(['help', *words])\n"
        "    except SystemExit: pass\n"
        "import json\nprint('LOADED' + json.dumps([*sys.modules]))"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout.partition("LOADED")[2])}
    assert loaded & {"rich", "numpy", "sqlalchemy", "sqlite3", "pyarrow"} == set()
