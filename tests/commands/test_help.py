"""Test `panic-tda help`: topics, pages, terms and commands, on a terminal and in a pipe."""

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


def test_topics_are_listed_with_their_summaries() -> None:
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
        ("delete", ["delete-clusterings"]),
        ("tmux", []),
        ("reachability", ["pages with it: ", "algorithm"]),
        ("ßxyz", []),
    ],
)
def test_an_unknown_topic_is_refused_with_what_is_close(topic: str, hints: list[str]) -> None:
    result = ask(*topic.split())
    assert result.exit_code == 2
    assert result.stdout == ""
    for hint in [f"has no topic {topic!r}", "panic-tda help lists all topics", *hints]:
        assert hint in result.stderr


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("resume", "give the same command again"),
        ("kill", "give the same command again"),
        ("keep going", "give the same command again"),
        ("nohup", "scripts/perform-clustering.sh"),
        ("backend", "development"),
        ("backends", "| `--backend` | exact |"),
        ("add a backend", "1. Write a module in `panic_tda/clustering/backends/`"),
        ("GPU", "--devices none"),
        ("CUDA", "panic-tda doctor --environment"),
        ("Postgres", "postgresql://"),
        ("seed", "chance plays no part"),
        ("min-samples", "including the point itself"),
        ("noise", "label −1"),
        ("leaf", "condensed tree"),
        ("core step", "--core-probability"),
        ("memory", "--memory-limit"),
        ("exit code", "| 130 |"),
        ("how do I keep going after a kill", "give the same command again"),
        ("what does persistence mean", "How much of its life"),
        ("how is min_samples counted", "the point\nitself is the first"),
        ("how do I add a backend?", "1. Write a module in `panic_tda/clustering/backends/`"),
        ("which tables hold the medoid", "`medoid_embedding_id`"),
    ],
)
def test_common_words_show_their_section(words: str, answer: str) -> None:
    result = ask(*words.split())
    assert result.exit_code == 0, result.stderr
    assert answer in result.stdout
    assert len(result.stdout.splitlines()) < 120


@pytest.mark.slow
def test_every_word_of_the_index_leads_to_a_section() -> None:
    table = handbook.read_page("index")
    rows = re.findall(r"^\| (.+) \| (\[.+) \|$", table, re.MULTILINE)
    words = [word for cells, _ in rows for word in cells.split(", ")]
    assert len(words) == len(set(words)) > 50
    for word in words:
        assert "panic-tda help " in handbook.find_text(word, main.commands), word


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
    terminal = on_a_terminal("help", "comparing", cwd=tmp_path, code=code, stdout=True)
    shown = "\n".join(line for screen in terminal.screens for line in screen)
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
    process = run_python(code)
    assert process.returncode == 0, process.stderr
    loaded = {name.partition(".")[0] for name in json.loads(process.stdout.partition("LOADED")[2])}
    assert loaded & {"rich", "numpy", "sqlalchemy", "sqlite3", "pyarrow"} == set()
