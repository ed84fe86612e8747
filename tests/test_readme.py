"""What the README says of the commands is what they say of themselves, and what it shows is what happens."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from panic_tda.main import main
from tests.field_files import write_field_file

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
END = "-- that was one command --"
CLUSTERING = r"\b01[0-9a-f]{6}-[0-9a-f-]{27}\b"
"""An id of a clustering, as it is shown."""


class Block(NamedTuple):
    """A fenced block of the README: what is said to be in it, and what is."""

    kind: str
    text: str


def blocks(text: str = README) -> list[Block]:
    # The reference is held against --help as a whole.
    told = re.sub(r"<!-- commands: begin -->.*<!-- commands: end -->", "", text, flags=re.DOTALL)
    found = re.findall(r"^```(\w*)\n(.*?)^```$", told, flags=re.DOTALL | re.MULTILINE)
    return [Block(*block) for block in found]


BLOCKS = blocks()
SESSION, *LATER = (block for block in BLOCKS if block.text.startswith("$ "))
QUERIES = [block for block in BLOCKS if block.kind == "sql"]
(PYTHON,) = (block for block in BLOCKS if block.kind == "python")
UPGRADE = next(block for block in BLOCKS if block.text.startswith("panic-tda upgrade"))
NOT_RUN = {
    "scripts/demo.sh ": "installs what env/ locks, and runs these tests",
    "pip install ": "installs",
    "loading: ": "figures of one machine",
}
"""Why blocks are not run, by how they begin."""
LINES_NOT_RUN = {
    "scripts/perform-clustering.sh ": "installs what env/ locks, and goes on in the background",
    "scripts/downsample-ladder.sh ": "takes hours",
}


def test_command_reference_is_what_help_says() -> None:
    replaced = runpy.run_path(str(ROOT / "scripts" / "command_reference.py"))["replaced"]
    assert replaced(README) == README, "run scripts/command_reference.py"


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_and_option_is_documented(name: str) -> None:
    command = main.commands[name]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts}"


def test_every_block_is_run_or_there_is_a_reason() -> None:
    run = [SESSION, *LATER, UPGRADE, PYTHON, *QUERIES]
    not_run = [block for block in BLOCKS if block not in run]
    for block in not_run:
        assert any(block.text.startswith(beginning) for beginning in NOT_RUN), block
    assert len(not_run) == len(NOT_RUN)


class Shell:
    """A folder in which the commands of this package work as in a checkout in which it is installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._env = os.environ | {"PYTHONPATH": str(ROOT)}
        self._env.pop("PANIC_TDA_DB", None)
        (folder / "panic_tda").symlink_to(ROOT / "panic_tda")
        programs = folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        (programs / "activate").write_text(f"PATH={shlex.quote(str(programs))}:$PATH\n")
        for name, arguments in (("panic-tda", "-m panic_tda"), ("python", "")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
            program.chmod(0o755)

    def run(self, *lines: str, answer: str = "") -> list[str]:
        """Run lines one after another; return what each of them printed."""
        script = "\n".join(["set -e", *(f"{line}\necho '{END}'" for line in lines)])
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self._env,
            input=answer,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split(f"{END}\n")[:-1]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shell, list[str]]:
    """A folder after the README's session, and what each of its commands printed."""
    shell = Shell(tmp_path_factory.mktemp("readme"))
    return shell, shell.run(*(command for command, _ in said(SESSION.text)))


def said(text: str) -> Iterator[tuple[str, str]]:
    """Divide a session into its commands and what is shown below each."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def alike(output: str) -> str:
    """Take out what is another in every run, and the widths that follow from it."""
    for pattern, name in (
        (r"\b\d{4}-\d\d-\d\d \d\d:\d\d UTC", "TIME"),
        (r"\b\d+\.\d s\b", "SECONDS"),
        (CLUSTERING, "CLUSTERING"),
        (r"\b\d+ MiB\b", "MEMORY"),
        (r"\b[\d,]+ bytes\b", "BYTES"),
        (r" {2,}", "  "),
    ):
        output = re.sub(pattern, name, output)
    return output.strip()


def test_session_of_the_readme_goes_as_it_says(session: tuple[Shell, list[str]]) -> None:
    shown = [alike(output) for _, output in said(SESSION.text)]
    assert [alike(output) for output in session[1]] == shown
    assert sum(map(bool, shown)) == 3


def test_what_is_shown_later_happens_too(session: tuple[Shell, list[str]], tmp_path: Path) -> None:
    # On a copy: some of it adds clusterings, and the other blocks are about the latest.
    shell = Shell(tmp_path)
    shutil.copytree(session[0].folder / "db", tmp_path / "db")
    commands = [pair for block in LATER for pair in said(block.text)]
    begin = [command for command, _ in said(SESSION.text)][:2]
    # The ids that the README shows are others here.
    shown, made = (re.findall(CLUSTERING, text) for text in (SESSION.text, "".join(session[1])))
    ids = dict(zip(shown, made, strict=True))

    def renamed(beginning: re.Match[str]) -> str:
        (found,) = {ids[one] for one in shown if one.startswith(beginning[0])}
        return found

    asked = [re.sub(r"\b01[0-9a-f]{6}-[0-9a-f-]*", renamed, command) for command, _ in commands]
    printed = shell.run(*begin, *asked)[len(begin) :]
    assert len(printed) == len(commands) > 0
    for (command, shown), output in zip(commands, printed, strict=True):
        assert alike(output) == alike(shown), command


@pytest.fixture
def results(session: tuple[Shell, list[str]]) -> Iterator[list[list[tuple[object, ...]]]]:
    """Run all SQL of the README, as it stands, on the database of its session."""
    connection = sqlite3.connect(session[0].folder / "db" / "session.sqlite")
    yield [connection.execute(block.text).fetchall() for block in QUERIES]
    connection.close()


def test_sql_of_the_readme_finds_what_it_says(results: list[list[tuple[object, ...]]]) -> None:
    sizes, medoids, walk = results
    assert [row[:2] for row in sizes] == [row[:2] for row in medoids]
    assert f"{len(sizes) - 3} smaller clusters" in SESSION.text
    for label, size, text, _, run in medoids[:3]:
        assert re.search(rf"^ +{label} +{size} .* {re.escape(str(text))}$", SESSION.text, re.MULTILINE)
        assert str(run) in SESSION.text.replace("-", "")
    assert [row[0] for row in walk] == sorted({row[0] for row in walk})
    # The run is that of a medoid, whose text is on its path and in its cluster.
    assert (medoids[0][0], medoids[0][2]) in {(label, text) for _, label, _, text in walk}


def test_python_of_the_readme_runs(session: tuple[Shell, list[str]]) -> None:
    # On a copy: it adds clusterings, and the other blocks are about the latest.
    source, copy = session[0].folder / "db", session[0].folder.parent / "python" / "db"
    shutil.copytree(source, copy)
    script = copy.parent / "block.py"
    script.write_text(PYTHON.text)
    done = subprocess.run(
        [sys.executable, script],
        cwd=copy.parent,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, *models = done.stdout.splitlines()
    assert first == "5 clusters of 500 vectors"
    assert [line.split()[0] for line in models] == ["LSA", "MiniLM"]


def test_upgrade_of_the_readme_runs(tmp_path: Path) -> None:
    lines = UPGRADE.text.splitlines()
    left_out = [line for line in lines if line.startswith(tuple(LINES_NOT_RUN))]
    assert len(left_out) == len(LINES_NOT_RUN)
    write_field_file(tmp_path / "trajectory_data.sqlite")
    commands = [line for line in lines if line not in left_out]
    upgraded, clustered = Shell(tmp_path).run(". .venv/bin/activate", *commands, answer="y\n")[1:]
    assert "is up to date." in upgraded
    assert re.search(r"^Nomic +clustered +4 ", clustered, re.MULTILINE)


def test_promises_are_held_by_what_is_there() -> None:
    told = README.partition("## Promises\n")[2].partition("\n## ")[0]
    rows = [line for line in told.splitlines() if line.startswith("| ")][2:]
    named = re.findall(r"`((?:scripts/)?[\w/]+\.(?:py|sh))(?:::(\w+))?`", "".join(rows))
    assert len(named) > len(rows) > 15
    for file, test in named:
        path = ROOT / file if file.startswith("scripts/") else ROOT / "tests" / file
        assert path.is_file(), file
        assert not test or f"def {test}(" in path.read_text(encoding="utf-8"), test
    for row in rows:
        assert ".py" in row or ".sh" in row, row
