"""Run commands as users do: in processes of their own, with real pipes, signals and terminals."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import sqlite3
import struct
import subprocess
import sys
import termios
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import pytest

from tests import processes
from tests.conftest import UpgradedFile
from tests.snapshots import REPOSITORY

SECONDS = 180
"""After this long a process that should have done something is considered stuck."""

# A fit says that it began and then takes its time.
SLOW = """
import sys, time
from panic_tda.cli import display
if "--beat" in sys.argv:
    sys.argv.remove("--beat")
    display.HEARTBEAT_SECONDS = 0.05
from panic_tda.clustering.backends.sklearn import SklearnBackend

def slow(self, vectors, weights, options):
    options.progress.phase("distances", total=100)
    print("HERE NOW", file=sys.stderr, flush=True)
    for step in range(3000):
        time.sleep(0.02)
        options.progress.advance(0.01)

SklearnBackend.fit = slow
from panic_tda.main import main
main(prog_name="panic-tda")
"""
COMMAND = ("cluster-embeddings", "Nomic", "--backend", "sklearn")
STARTED = "HERE NOW"


def environment(**more: str) -> dict[str, str]:
    names = ("PATH", "HOME", "TMPDIR", "COVERAGE_PROCESS_CONFIG")
    saved_variables = {name: os.environ[name] for name in names if name in os.environ}
    return saved_variables | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)} | more


def run(*words: object, cwd: Path, code: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return _done(
        [sys.executable, *(["-c", code] if code else ["-m", "panic_tda"]), *map(str, words)], cwd, env
    )


def in_a_shell(line: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which `panic-tda` is the command; a pipe fails with its first failure."""
    command = f'panic-tda() {{ "{sys.executable}" -m panic_tda "$@"; }}\nset -o pipefail\n{line}'
    return _done(["bash", "-c", command], cwd, env)


def _done(command: list[str], cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    with processes.accept_interrupts():
        return subprocess.run(
            command,
            cwd=cwd,
            env=environment(**env),
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )


def started(file: UpgradedFile, code: str, *words: object) -> AbstractContextManager[subprocess.Popen[str]]:
    command = [sys.executable, "-c", code, *COMMAND, "--db", str(file.path), *map(str, words)]
    return processes.started(command, cwd=file.path.parent, env=environment())


def read_until(process: subprocess.Popen[str], pattern: str, times: int = 1) -> str:
    assert process.stderr is not None
    text = ""
    while len(re.findall(pattern, text)) < times:
        line = process.stderr.readline()
        assert line, f"ended without {pattern!r}: {text}"
        text += line
    return text


def count_results(path: Path) -> int:
    connection = sqlite3.connect(path)
    (count,) = connection.execute("SELECT count(*) FROM clusteringresult").fetchone()
    connection.close()
    return int(count)


class Seen(NamedTuple):
    """The output of a process on a terminal, and the screens that it showed, the last one at the end."""

    text: str
    screens: list[list[str]]

    @property
    def last(self) -> list[str]:
        return self.screens[-1]


def on_a_terminal(
    *words: object, cwd: Path, code: str | None = None, columns: int = 100, stdout: bool = False
) -> Seen:
    """Run a command or code with stderr, and on request stdout, on a terminal."""
    pyte = pytest.importorskip(
        "pyte", reason="pyte shows what a terminal shows; a device's machine may lack it"
    )
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 60, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, *(["-c", code] if code else ["-m", "panic_tda"]), *map(str, words)],
        cwd=cwd,
        env=environment(TERM="xterm"),
        stdout=slave if stdout else subprocess.PIPE,
        stderr=slave,
        stdin=slave,
    )
    os.close(slave)
    screen = pyte.Screen(columns, 60)
    stream = pyte.ByteStream(screen)
    captured, screens = b"", []
    try:
        while chunk := os.read(master, 65536):
            captured += chunk
            stream.feed(chunk)
            screens.append([line.rstrip() for line in screen.display if line.strip()])
    except OSError:
        pass  # Linux's way to say that the other end is closed.
    os.close(master)
    process.communicate(timeout=SECONDS)
    assert process.returncode == 0, captured.decode()
    return Seen(captured.decode(), screens)
