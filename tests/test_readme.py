"""Run the sessions, SQL and Python of README and handbook, and compare the output with what is shown."""

from __future__ import annotations

import glob
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from panic_tda.main import main
from tests.documents import BLOCKS, PAGES, README, Block, find_blocks, split_session
from tests.field_files import write_field_file
from tests.snapshots import REPOSITORY

END = "-- that was one command --"
CLUSTERING = r"\b01[0-9a-f]{6}-[0-9a-f-]{27}\b"
"""An id of a clustering, whole."""
SHORT_CLUSTERING = r"\b01[0-9a-f]{6}(-[0-9a-f-]*)?(?![\w-])"
"""An id of a clustering, whole or as short as is unique."""
KINDS = {"console", "sh", "sql", "python", "text"}
(SESSION,) = find_blocks("console", README)
FRESH = "quickstart"
"""The page whose session begins in an empty folder; those of the others begin where the README's ends."""
SESSIONS = sorted({block.page for block in find_blocks("console")} - {README})
QUERIES = find_blocks("sql")
UPGRADE = next(
    block for block in find_blocks("sh", "pipeline-databases") if "panic-tda upgrade" in block.text
)
LINES_NOT_RUN = {
    "scripts/perform-clustering.sh ": "installs what env/ locks, and goes on in the background",
    "scripts/downsample-ladder.sh ": "takes hours",
}


def test_every_block_is_run_or_there_is_a_reason() -> None:
    assert {block.kind for block in BLOCKS} <= KINDS
    for block in BLOCKS:
        is_run = block.kind in {"console", "sql", "python"}
        assert not block.reason or is_run, block
        # What is shown as a command is in a block that is run, or whose options are checked.
        assert block.kind != "text" or not re.search(r"^(\$ |panic-tda )", block.text, re.MULTILINE), block
    assert len([block for block in BLOCKS if block.reason]) <= 2
    assert len(SESSIONS) > 5


class Shell:
    """A folder in which the commands of this package work as in a checkout in which it is installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        self._env.pop("PANIC_TDA_DB", None)
        (folder / "panic_tda").symlink_to(REPOSITORY / "panic_tda")
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
        process = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self._env,
            input=answer,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        return process.stdout.split(f"{END}\n")[:-1]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shell, list[str]]:
    """Run the README's session; return its folder and the output of each command."""
    shell = Shell(tmp_path_factory.mktemp("readme"))
    return shell, shell.run(*(command for command, _ in split_session(SESSION.text)))


def normalize(output: str) -> str:
    """Replace what differs between runs (times, ids, sizes) and the widths that depend on it."""
    for pattern, name in (
        (r"\b\d{4}-\d\d-\d\d \d\d:\d\d( UTC)?", "TIME"),
        # A busy machine may take minutes.
        (r"\b\d+(\.\d+)? (s|min|h)\b", "SECONDS"),
        (SHORT_CLUSTERING, "CLUSTERING"),
        (r"\b\d+ MiB\b", "MEMORY"),
        (r"\b[\d,]+ bytes\b", "BYTES"),
        (r" {2,}", "  "),
    ):
        output = re.sub(pattern, name, output)
    return output.strip()


def test_session_of_the_readme_prints_what_it_shows(session: tuple[Shell, list[str]]) -> None:
    shown = [normalize(output) for _, output in split_session(SESSION.text)]
    assert [normalize(output) for output in session[1]] == shown
    assert sum(map(bool, shown)) == 3


def run_here(folder: Path, commands: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run the commands of a session in this process; return what each of them prints."""
    monkeypatch.chdir(folder)
    outputs = []
    for command in commands:
        program, *words = shlex.split(command.partition(" | ")[0])
        if program == "export":
            monkeypatch.setenv(*words[0].split("=", 1))
        if program != "panic-tda":
            assert program in (".", "export"), "only these are run here"
            outputs.append("")
            continue
        arguments = [name for word in words for name in (sorted(glob.glob(word)) if "*" in word else [word])]
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0, result.output
        head = re.search(r" \| head -n (\d+)$", command)
        lines = result.stdout.splitlines(keepends=True)
        outputs.append("".join(lines[: int(head[1])] if head else lines))
    return outputs


@pytest.mark.parametrize("page", SESSIONS)
def test_sessions_of_the_handbook_print_what_they_show(
    page: str, session: tuple[Shell, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [pair for block in find_blocks("console", page) for pair in split_session(block.text)]
    (tmp_path / "panic_tda").symlink_to(REPOSITORY / "panic_tda")
    if page != FRESH:
        # On a copy: some of it adds clusterings, and the other blocks are about the latest.
        shutil.copytree(session[0].folder / "db", tmp_path / "db")
        run_here(tmp_path, [command for command, _ in split_session(SESSION.text)][:2], monkeypatch)
    # The ids that the README shows are others here.
    shown, stored_ids = (re.findall(CLUSTERING, text) for text in (SESSION.text, "".join(session[1])))
    ids = dict(zip(shown, stored_ids, strict=True))

    def rename(beginning: re.Match[str]) -> str:
        (match,) = {stored_id for shown, stored_id in ids.items() if shown.startswith(beginning[0])}
        return match

    commands = [re.sub(r"\b01[0-9a-f]{6}-[0-9a-f-]*", rename, command) for command, _ in pairs]
    printed = run_here(tmp_path, commands, monkeypatch)
    assert len(printed) == len(pairs) > 0
    for (command, output), real in zip(pairs, printed, strict=True):
        assert normalize(real) == normalize(output), command


@pytest.fixture
def results(session: tuple[Shell, list[str]]) -> Iterator[list[list[tuple[object, ...]]]]:
    """Run all SQL of the handbook, as it stands, on the database of the README's session."""
    connection = sqlite3.connect(session[0].folder / "db" / "session.sqlite")
    yield [connection.execute(block.text).fetchall() for block in QUERIES]
    connection.close()


def test_sql_of_the_handbook_returns_what_it_shows(results: list[list[tuple[object, ...]]]) -> None:
    sizes, medoids, walk = results
    assert [row[:2] for row in sizes] == [row[:2] for row in medoids]
    assert f"{len(sizes) - 3} smaller clusters" in SESSION.text
    for label, size, text, _, run in medoids[:3]:
        assert re.search(rf"^ +{label} +{size} .* {re.escape(str(text))}$", SESSION.text, re.MULTILINE)
        assert str(run) in SESSION.text.replace("-", "")
    assert [row[0] for row in walk] == sorted({row[0] for row in walk})
    # The run is that of a medoid, whose text is on its path and in its cluster.
    assert (medoids[1][0], medoids[1][2]) in {(label, text) for _, label, _, text in walk}


@pytest.mark.parametrize("block", find_blocks("python"), ids=lambda block: block.page)
def test_python_of_the_documents_runs(block: Block, session: tuple[Shell, list[str]], tmp_path: Path) -> None:
    # On a copy: it adds clusterings, and the other blocks are about the latest.
    shutil.copytree(session[0].folder / "db", tmp_path / "db")
    script = tmp_path / "block.py"
    script.write_text(block.text)
    process = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    first, *models = process.stdout.splitlines()
    assert first in ("5 clusters of 500 vectors", "74 clusters of 2400 embeddings")
    assert [line.split()[0] for line in models] in ([], ["LSA", "MiniLM"])


def test_upgrade_of_the_handbook_runs(tmp_path: Path) -> None:
    lines = UPGRADE.text.splitlines()
    left_out = [line for line in lines if line.startswith(tuple(LINES_NOT_RUN))]
    assert len(left_out) == len(LINES_NOT_RUN)
    write_field_file(tmp_path / "trajectory_data.sqlite")
    commands = [line for line in lines if line not in left_out]
    upgraded, clustered = Shell(tmp_path).run(". .venv/bin/activate", *commands, answer="y\n")[1:]
    assert "is up to date." in upgraded
    assert re.search(r"^Nomic +clustered +4 ", clustered, re.MULTILINE)
    # The README has the same commands, with other comments.
    same = {line.partition("#")[0].strip() for line in lines}
    expected = {
        line.partition("#")[0].strip() for line in PAGES[README].splitlines() if "trajectory_data" in line
    }
    assert expected <= same
