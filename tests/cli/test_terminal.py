"""What a command does with its terminal, tried on real processes."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from panic_tda.cli import terminal
from panic_tda.clustering_manager import cluster_all_data
from panic_tda.parameters import ClusteringParameters
from panic_tda.storage import pending
from panic_tda.storage.recovery import save_pending
from panic_tda.types import CLUSTERED
from tests import processes
from tests.conftest import MakeFile, UpgradedFile
from tests.field_files import FieldSpec, write_field_file
from tests.snapshots import REPOSITORY, snapshot

SECONDS = 60
"""After this long a process that should have done something is considered stuck."""

# Commands run as users run them, but a fit says that it began and then takes its time.
SLOW = """
import sys, time
import panic_tda.cli.terminal as terminal
if "--beat" in sys.argv:
    sys.argv.remove("--beat")
    make = terminal.LoggedProgress.__init__
    terminal.LoggedProgress.__init__ = lambda self, **options: make(self, 0.05, **options)
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
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)} | more


def run(*words: object, cwd: Path, code: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *(["-c", code] if code else ["-m", "panic_tda"]), *map(str, words)],
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
    said = ""
    while len(re.findall(pattern, said)) < times:
        line = process.stderr.readline()
        assert line, f"ended without {pattern!r}: {said}"
        said += line
    return said


@pytest.mark.parametrize(
    ("number", "code", "word", "as_json"),
    [(signal.SIGINT, 130, "interrupted", False), (signal.SIGTERM, 143, "terminated", True)],
)
def test_a_signal_during_the_fit_leaves_the_database_as_it_was(
    upgraded: MakeFile, number: signal.Signals, code: int, word: str, as_json: bool
) -> None:
    file = upgraded()
    before = snapshot(file.path)
    with started(file, SLOW, *(["--json"] if as_json else [])) as process:
        read_until(process, STARTED)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=SECONDS)
    assert process.returncode == code, stderr
    assert f"{word}; nothing unfinished was saved" in stderr
    assert "Traceback" not in stderr
    assert stdout == ""
    assert snapshot(file.path) == before
    assert {path.name for path in file.path.parent.iterdir()} <= {
        "field.sqlite",
        "field.sqlite-wal",
        "field.sqlite-shm",
    }
    assert {outcome.status for outcome in cluster_all_data(file.database)} == {CLUSTERED}


SLOW_SAVE = """
import sys, time
from panic_tda.storage import saving
whole = saving._assignments

def slow(key, finished):
    for number, row in enumerate(whole(key, finished)):
        if number == 20:
            print("HERE NOW", file=sys.stderr, flush=True)
        time.sleep(0.5 if number >= 20 else 0)
        yield row

saving._assignments = slow
from panic_tda.main import main
main(prog_name="panic-tda")
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_saving_leaves_the_database_as_it_was_and_keeps_the_result(
    upgraded: MakeFile, number: signal.Signals, code: int
) -> None:
    file = upgraded()
    before = snapshot(file.path)
    with started(file, SLOW_SAVE) as process:
        read_until(process, STARTED)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=SECONDS)
    assert process.returncode == code, stderr
    assert snapshot(file.path) == before
    (path,) = pending.find(file.database)
    assert str(path) in stderr
    assert "save-pending" in stderr
    assert "Traceback" not in stderr
    assert [saved.n_vanished for saved in save_pending(file.database)] == [0]
    assert count_results(file.path) == 1


def test_a_signal_leaves_what_was_saved_before(upgraded: MakeFile) -> None:
    file = upgraded()
    cluster_all_data(file.database)
    before = snapshot(file.path)
    with started(file, SLOW) as process:
        read_until(process, STARTED)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=SECONDS)
    assert process.returncode == 143
    assert snapshot(file.path) == before


def test_under_nohup_there_is_a_line_from_time_to_time(upgraded: MakeFile) -> None:
    with started(upgraded(), SLOW, "--beat") as process:
        said = read_until(process, r"Nomic: distances: \d+ %", times=3)
    lines = [line for line in said.splitlines() if "%" in line and "distances" in line]
    for line in lines:
        when, rest = line.split(" INFO    Nomic: distances: ")
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", when)
        assert re.fullmatch(r"\d+ %, (about .+ left|running for .+)", rest)
    assert re.search(r"Nomic: load: done in \d+\.\d s", said)


def test_heartbeats_say_how_long_a_phase_without_total_runs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "panic_tda"), terminal.LoggedProgress(0.01) as progress:
        progress.phase("linkage")
        deadline = time.monotonic() + SECONDS
        while "linkage: running for" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        progress.phase("distances", total=1e4)
        # What is there at once was done by a run before this one, and says nothing of this one's speed.
        progress.advance(5e3)
        while "distances: 50 %" not in caplog.text and time.monotonic() < deadline:
            time.sleep(0.01)
        while "left" not in caplog.text and time.monotonic() < deadline:
            progress.advance(1)
            time.sleep(0.01)
    assert "linkage: running for 0 s" in caplog.text
    assert "distances: 50 %, running for 0 s" in caplog.text
    assert re.search(r"distances: 5\d %, about [\d.]+ (s|min|h) left", caplog.text)
    messages = [record.getMessage() for record in caplog.records]
    assert [message.split(":")[0] for message in messages if "done in" in message] == ["linkage", "distances"]


@pytest.fixture(autouse=True)
def logs_reach_the_test() -> Iterator[None]:
    # `configure_logging` of an earlier command keeps them to itself.
    logger = logging.getLogger("panic_tda")
    before = logger.propagate
    logger.propagate = True
    yield
    logger.propagate = before


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (89, "89 s"),
        (90, "1.5 min"),
        (600, "10 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (90_000, "25.0 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert terminal._duration(seconds) == text


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["cluster-embeddings", "--db", "nowhere.sqlite"], 2),
        (["cluster-embeddings", "--db", "text.sqlite"], 1),
        (["cluster-embeddings", "--db", "field.sqlite", "Nonesuch"], 2),
        (["cluster-embeddings", "--db", "field.sqlite", "--epsilon", "-1"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_no_traceback_for_a_mistake_of_the_user(upgraded: MakeFile, words: list[str], code: int) -> None:
    folder = upgraded().path.parent
    (folder / "text.sqlite").write_text("no database " * 200)
    done = run(*words, cwd=folder)
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "nowhere.sqlite").exists()


def test_the_traceback_is_in_the_log_file_and_with_v_on_stderr(upgraded: MakeFile) -> None:
    file = upgraded()
    words = ("cluster-embeddings", "Nonesuch", "--db", file.path)
    done = run(*words, "--log-file", "run.log", cwd=file.path.parent)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    log = (file.path.parent / "run.log").read_text()
    assert "Traceback (most recent call last)" in log
    assert "UnknownModel" in log
    assert "Traceback" in run(*words, "-v", cwd=file.path.parent).stderr


def test_json_goes_alone_to_stdout(upgraded: MakeFile) -> None:
    file = upgraded()
    done = run("cluster-embeddings", "--json", "-v", "--db", file.path, cwd=file.path.parent)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["results"]) == 2
    assert "warn" not in done.stderr.lower()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_failure(upgraded: MakeFile, unbuffered: str) -> None:
    file = upgraded(FieldSpec(runs=20, dimensions=64))
    small = ClusteringParameters(epsilon=0.0, min_cluster_size=2, min_samples=1)
    cluster_all_data(file.database, parameters=small)
    words = ["show-clustering", "--limit", "0", "--json"] if unbuffered else ["list-clusterings"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "panic_tda", *words, "--db", str(file.path)],
        cwd=file.path.parent,
        env=environment(PYTHONUNBUFFERED=unbuffered),
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_a_stderr_that_is_gone_costs_no_result(upgraded: MakeFile) -> None:
    file = upgraded()
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "panic_tda", "cluster-embeddings", "--db", str(file.path)],
        cwd=file.path.parent,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=writing,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 0
    assert done.stdout.count("clustered") == 2
    assert count_results(file.path) == 2


def count_results(path: Path) -> int:
    connection = sqlite3.connect(path)
    (count,) = connection.execute("SELECT count(*) FROM clusteringresult").fetchone()
    connection.close()
    return int(count)


def on_a_terminal(file: UpgradedFile, *words: str) -> str:
    """Run a command whose stderr is a terminal; return what the terminal got."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "panic_tda", *words, "--db", str(file.path)],
        cwd=file.path.parent,
        env=environment(TERM="xterm", COLUMNS="100"),
        stdout=subprocess.PIPE,
        stderr=slave,
        stdin=subprocess.DEVNULL,
    )
    os.close(slave)
    said = b""
    try:
        while chunk := os.read(master, 65536):
            said += chunk
    except OSError:
        pass  # Linux's way to say that the other end is closed.
    os.close(master)
    process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said.decode()
    return said.decode()


def test_a_person_sees_a_bar_unless_it_is_to_be_quiet(upgraded: MakeFile) -> None:
    file = upgraded()
    escape = "\x1b["
    seen = on_a_terminal(file, "cluster-embeddings")
    assert escape in seen
    assert "Nomic: load: done in" in seen
    quiet = on_a_terminal(file, "cluster-embeddings", "--quiet")
    assert escape not in quiet
    assert "done in" not in quiet
    assert count_results(file.path) == 4


def test_a_terminal_of_one_script_still_shows_everything_else(upgraded: MakeFile) -> None:
    """Texts with emoji, and our own ellipsis, ended a listing with a UnicodeEncodeError."""
    file = upgraded(FieldSpec(runs=1, text_models=("Nomic",)))
    with sqlite3.connect(file.path) as connection:
        connection.execute("UPDATE invocation SET output_text = '風船 🎈' WHERE type = 'TEXT'")
    cluster_all_data(file.database, parameters=ClusteringParameters(epsilon=2))
    words = ("show-clustering", "--limit", "0", "--db", file.path)
    shown, plain, everywhere = (
        run(*words, *more, cwd=file.path.parent, PYTHONIOENCODING=used)
        for more, used in (((), "iso8859-5"), (("--json",), "iso8859-5"), (("--json",), "utf-8"))
    )
    assert (shown.returncode, plain.returncode) == (0, 0), shown.stderr + plain.stderr
    assert "?? ?" in shown.stdout
    assert "風船 🎈" in everywhere.stdout
    assert plain.stdout.isascii()
    assert json.loads(plain.stdout) == json.loads(everywhere.stdout)


def test_an_upgrade_says_that_it_is_at_work(tmp_path: Path) -> None:
    facts = write_field_file(tmp_path / "field.sqlite")
    done = run("upgrade", "--yes", "--db", facts.path, cwd=tmp_path)
    assert done.returncode == 0
    assert "upgrade: done in" in done.stderr
