"""The shell scripts, run as a user runs them."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from panic_tda.importing import sample_files
from panic_tda.main import main

ROOT = Path(__file__).parent.parent
WAIT_SECONDS = 120


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    if not (ROOT / ".venv" / "panic_tda.lock").exists():
        pytest.skip("the scripts' own environment .venv is not there yet; scripts/test.sh makes it")
    path = tmp_path / "a sample.sqlite"
    result = CliRunner().invoke(main, ["import-embeddings", str(sample_files()[0]), "--db", str(path)])
    assert result.exit_code == 0, result.stderr
    return path


def _last_line(log: Path, pid: int) -> str:
    deadline = time.monotonic() + WAIT_SECONDS
    while Path(f"/proc/{pid}/stat").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.1)
    return log.read_text().splitlines()[-1]


def _start(*arguments: str, folder: Path) -> tuple[int, Path]:
    script = str(ROOT / "scripts" / "perform-clustering.sh")
    done = subprocess.run([script, *arguments], check=False, capture_output=True, text=True, cwd=folder)
    pid, log = re.fullmatch(r"PID (\d+)\nlog (.+)\n", done.stdout).groups()
    return int(pid), Path(log)


def _parameters(path: Path) -> list[tuple[object, ...]]:
    with sqlite3.connect(path) as connection:
        rows = connection.execute(
            "SELECT json_extract(parameters, '$.downsample'), "
            "json_extract(parameters, '$.cluster_selection_epsilon') FROM clusteringresult"
        ).fetchall()
    connection.close()
    return rows


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="waits for a process through /proc")
def test_perform_clustering_takes_leading_numbers_and_logs_the_exit_status(sample: Path) -> None:
    pid, log = _start("3", "0.5", "--db", sample.name, folder=sample.parent)
    assert _last_line(log, pid) == "exit status 0"
    assert _parameters(sample) == [(3, 0.5)]
    log.unlink()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="waits for a process through /proc")
def test_perform_clustering_logs_the_status_of_a_failure(sample: Path) -> None:
    pid, log = _start("--db", str(sample), "NoSuchModel", folder=sample.parent)
    assert _last_line(log, pid) == "exit status 2"
    assert "the database has: LSA" in log.read_text()
    log.unlink()


def test_perform_clustering_shows_a_wrong_option_at_once(sample: Path) -> None:
    command = [str(ROOT / "scripts" / "perform-clustering.sh"), "0.5", "--db", sample.name]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=sample.parent)
    assert done.returncode == 2
    assert "'0.5' is not a valid integer" in done.stderr
    assert done.stderr.splitlines()[-1] == "exit status 2"
    Path(done.stdout.splitlines()[1].removeprefix("log ")).unlink()


def test_downsample_ladder_goes_down_to_one_on_a_small_database(sample: Path) -> None:
    script = str(ROOT / "scripts" / "downsample-ladder.sh")
    # The path is meant from where the user stands, and the table is what stdout has.
    command = [script, "1", "--db", sample.name]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=sample.parent)
    header, *rows = (line.split() for line in done.stdout.splitlines())
    assert header == ["factor", "rows", "seconds", "clusters"]
    factors = [int(row[0]) for row in rows]
    assert factors == [10000, 1000, 100, 10, 1]
    assert [factor for factor, _ in sorted(_parameters(sample), reverse=True)] == factors


def test_downsample_ladder_stops_before_a_step_that_would_not_finish(sample: Path) -> None:
    script = str(ROOT / "scripts" / "downsample-ladder.sh")
    environment = os.environ | {"PANIC_TDA_DB": str(sample)}
    done = subprocess.run([script, "0"], check=True, capture_output=True, text=True, env=environment)
    assert len(_parameters(sample)) == 1
    assert "would take" in done.stderr


def test_an_environment_of_the_user_is_not_removed(tmp_path: Path) -> None:
    for name in ("scripts", "env"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "pyvenv.cfg").write_text("mine")
    command = [str(tmp_path / "scripts" / "test.sh")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "was not made by these scripts" in done.stderr
    assert (tmp_path / ".venv" / "pyvenv.cfg").read_text() == "mine"


def test_io_benchmark_prints_its_figures() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "bench_io.py"), "--rows", "2000", "--repeats", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    for figure in (
        r"loading: [\d.]+ s",
        r"saving the second: [\d,]+ assignments/s, [\d.]+ bytes",
        r"deleting 100 .* ms",
    ):
        assert re.search(figure, done.stdout), figure
