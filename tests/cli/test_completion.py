"""Test completion of commands, options, ids and models in real shells, without error output."""

from __future__ import annotations

import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from click.testing import CliRunner

from panic_tda.cli import completion
from panic_tda.main import main
from panic_tda.storage.write.saving import save_clustering
from tests.cli.processes import SECONDS, environment
from tests.conftest import MakeFile, UpgradedFile, ids_of, make_finished
from tests.field_files import FieldSpec
from tests.snapshots import opened

# A completion may take longer than the user would wait: the machine that tests is busy.
PATIENT = f"""
from panic_tda.cli import completion
completion.SECONDS = {SECONDS}
"""
COMMAND = f"{PATIENT}\nfrom panic_tda.__main__ import run\nrun()"
HEAVY = ("sqlalchemy", "alembic", "numpy", "scipy", "sklearn", "numba", "pyarrow", "rich")


class Clustered(NamedTuple):
    """A file with a clustering of each of two models, the second being the latest."""

    file: UpgradedFile
    ids: tuple[str, str]

    @property
    def name(self) -> str:
        return self.file.path.name


@pytest.fixture
def clustered(upgraded: MakeFile) -> Clustered:
    file = upgraded(FieldSpec(text_models=("Nomic", "Odd name's"), dummy_rows=1))
    finished = [make_finished(ids_of(file, model), model=model) for model in ("Nomic", "Odd name's")]
    for clustering in finished:
        with file.database.writing() as connection:
            save_clustering(connection, clustering)
    with opened(file.path) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return Clustered(file, (str(finished[0].id), str(finished[1].id)))


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with the program `panic-tda`, to be put on the path."""
    folder = tmp_path / "programs"
    folder.mkdir()
    program = folder / "panic-tda"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c {shlex.quote(COMMAND)} "$@"\n')
    program.chmod(0o755)
    return folder


Ask = Callable[..., list[str]]


def shell_environment(programs: Path, **more: str) -> dict[str, str]:
    return environment(TERM="dumb", **more) | {"PATH": f"{programs}:{os.environ['PATH']}"}


def ask_bash(folder: Path, line: str, env: dict[str, str]) -> list[str]:
    # As readline divides a line: the equals sign is a word.
    words = line.replace("=", " = ").split(" ")
    code = f"""
        source <(panic-tda completion bash)
        COMP_WORDS=({" ".join(word or "''" for word in words)}) COMP_CWORD={len(words) - 1}
        _panic_tda_completion panic-tda
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return output(["bash", "--norc", "-c", code], folder, env)


def ask_fish(folder: Path, line: str, env: dict[str, str]) -> list[str]:
    env |= {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    code = f"panic-tda completion fish | source\ncomplete -C {shlex.quote(line)}"
    return output(["fish", "--no-config", "-c", code], folder, env)


def output(command: list[str], folder: Path, env: dict[str, str]) -> list[str]:
    process = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=SECONDS, check=True
    )
    assert process.stderr == ""
    return [line for line in process.stdout.splitlines() if line]


def ask_zsh(folder: Path, line: str, env: dict[str, str]) -> list[str]:
    """Press Tab on a terminal, because zsh completes only there."""
    terminal, inside = pty.openpty()
    process = subprocess.Popen(
        ["zsh", "-f", "-i"],
        cwd=folder,
        env=env,
        stdin=inside,
        stdout=inside,
        stderr=inside,
        start_new_session=True,
    )
    os.close(inside)
    try:
        text = (
            "stty columns 200; unsetopt list_ambiguous; autoload -U compinit; compinit -u -D; "
            "source <(panic-tda completion zsh); print REA''DY\n"
        )
        os.write(terminal, text.encode())
        until(terminal, "READY\r\n")
        # A key that shows the line, as a mark behind what Tab has shown.
        os.write(
            terminal, b"show() { print -r -- \"=$BUFFER=\" }; zle -N show; bindkey '^O' show; print BO''UND\n"
        )
        until(terminal, "BOUND\r\n")
        os.write(terminal, f"{line}\t".encode())
        os.write(terminal, b"\x0f")
        shown = until(terminal, "=\r\n")
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    return shown.replace("\r", "\n").split("\n")


def until(terminal: int, end: str) -> str:
    """Read what a terminal shows, up to an end."""
    captured, deadline = b"", time.monotonic() + SECONDS
    while end not in captured.decode(errors="replace"):
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, captured
        captured += os.read(terminal, 65536)
    return captured.decode()


SHELLS = {"bash": ask_bash, "zsh": ask_zsh, "fish": ask_fish}


@pytest.fixture(params=SHELLS)
def ask(request: pytest.FixtureRequest, programs: Path, tmp_path: Path) -> Ask:
    """Ask a shell for completions of a line; return its output, which for zsh includes the screen."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed, so what it makes of the script is not seen")
    return lambda line, **env: SHELLS[request.param](tmp_path, line, shell_environment(programs, **env))


def mentioned(answer: list[str], *expected: str) -> list[str]:
    return [name for name in expected if any(name in line for line in answer)]


def test_a_shell_completes_commands_and_options(ask: Ask) -> None:
    answer = ask("panic-tda s")
    assert mentioned(answer, "save-pending", "show-clustering") == ["save-pending", "show-clustering"]
    assert mentioned(answer, "list-clusterings", "upgrade") == []
    options = ask("panic-tda list-clusterings --m")
    assert mentioned(options, "--model", "--limit") == ["--model"]


def test_a_shell_completes_ids_of_the_database_that_was_named(ask: Ask, clustered: Clustered) -> None:
    answer = ask(f"panic-tda show-clustering --db {clustered.name} ")
    assert mentioned(answer, "latest", *clustered.ids) == ["latest", *clustered.ids]
    if any("Nomic" in line for line in answer):  # a shell that shows help
        (line,) = (line for line in answer if clustered.ids[0] in line)
        assert "Nomic" in line
    named = ask("panic-tda show-clustering ", PANIC_TDA_DB=str(clustered.file.path))
    assert mentioned(named, *clustered.ids) == list(clustered.ids)
    first = ask(f"panic-tda --db {clustered.name} compare-clusterings latest {clustered.ids[0][:-1]}")
    assert mentioned(first, *clustered.ids) == [clustered.ids[0]]
    deleted = ask(f"panic-tda --db={clustered.name} delete-clusterings ")
    assert mentioned(deleted, "latest", *clustered.ids) == list(clustered.ids)


def test_a_shell_completes_models(ask: Ask, clustered: Clustered) -> None:
    assert mentioned(ask(f"panic-tda --db {clustered.name} list-clusterings --model D"), "Dummy") == ["Dummy"]
    answer = ask(f"panic-tda cluster-embeddings --db {clustered.name} Nomic D")
    assert mentioned(answer, "Dummy") == ["Dummy"]
    assert mentioned(ask("panic-tda cluster-embeddings --db nowhere.sqlite D"), "Dummy") == []


def test_names_that_bash_would_split_are_quoted(clustered: Clustered, programs: Path) -> None:
    env, folder = shell_environment(programs), clustered.file.path.parent
    answer = ask_bash(folder, f"panic-tda cluster-embeddings --db {clustered.name} ", env)
    assert [shlex.split(line) for line in answer] == [["Dummy"], ["Nomic"], ["Odd name's"]]
    assert ask_bash(folder, f"panic-tda list-clusterings --db={clustered.name} --model=N", env) == ["Nomic"]


def tab(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Request completions of the last word as bash's script does."""
    typed = " ".join(shlex.quote(word) for word in ("panic-tda", *words))
    variables = {"COMP_WORDS": typed, "COMP_CWORD": str(len(words)), completion.VARIABLE: "bash_complete"}
    return subprocess.run(
        [sys.executable, "-c", COMMAND],
        cwd=cwd,
        env=environment(**(variables | env)),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.mark.parametrize("target", ["nowhere.sqlite", "text.sqlite", "postgresql://me@127.0.0.1:9/x"])
def test_without_a_database_nothing_is_printed(tmp_path: Path, target: str) -> None:
    (tmp_path / "text.sqlite").write_text("no database at all\n" * 500)
    before = sorted(tmp_path.iterdir())
    result = tab("--db", target, "show-clustering", "0", cwd=tmp_path)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "", "")
    assert sorted(tmp_path.iterdir()) == before


def test_names_that_are_more_than_a_line_are_left_out(clustered: Clustered) -> None:
    with opened(clustered.file.path) as raw:
        raw.execute("UPDATE embedding SET embedding_model = 'A\nB\x1b[31m' WHERE embedding_model = 'Dummy'")
    result = tab("cluster-embeddings", "--db", clustered.name, "", cwd=clustered.file.path.parent)
    assert result.stdout.splitlines() == ["plain,Nomic", "plain,'Odd name'\"'\"'s'"]


def test_a_file_is_completed_by_the_shell(tmp_path: Path) -> None:
    for words in (["--db", "x"], ["list-clusterings", "--db", "x"], ["import-embeddings", "x"]):
        assert tab(*words, cwd=tmp_path).stdout.split() == ["file,x"]


def test_a_wrong_request_prints_no_traceback(tmp_path: Path) -> None:
    for broken in ({"COMP_CWORD": "many"}, {completion.VARIABLE: "tcsh_complete"}):
        result = tab("show-clustering", "", cwd=tmp_path, **broken)
        assert (result.returncode, result.stdout, result.stderr) == (1, "", "")


def test_completion_imports_no_heavy_library(clustered: Clustered) -> None:
    code = (
        f"{PATIENT}\nimport sys\nfrom panic_tda.main import main\n"
        "try: main(prog_name='panic-tda')\n"
        "except SystemExit: pass\n"
        "print('LOADED', *{name.split('.')[0] for name in sys.modules})"
    )
    env = {"COMP_WORDS": f"panic-tda show-clustering --db {clustered.name} 0", "COMP_CWORD": "4"}
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=clustered.file.path.parent,
        env=environment(**env, **{completion.VARIABLE: "bash_complete"}),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    answer, _, loaded = process.stdout.partition("LOADED")
    assert clustered.ids[0] in answer
    assert set(loaded.split()) & set(HEAVY) == set()
    assert "panic_tda" in loaded.split()


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_the_script_is_printed(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert f"{completion.VARIABLE}={shell}_complete" in result.stdout
    assert "panic-tda" in result.stdout
    unknown = CliRunner().invoke(main, ["completion", "tcsh"])
    assert (unknown.exit_code, "'bash', 'zsh', 'fish'" in unknown.stderr) == (2, True)
