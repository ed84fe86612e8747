"""Run the shell scripts as a user does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from panic_tda.files.importing import sample_files
from panic_tda.main import main
from tests.snapshots import opened

ROOT = Path(__file__).parent.parent
WAIT_SECONDS = 120


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the sample; tests work on copies."""
    path = tmp_path_factory.mktemp("scripts") / "sample.sqlite"
    result = CliRunner().invoke(main, ["import-embeddings", str(sample_files()[0]), "--db", str(path)])
    assert result.exit_code == 0, result.stderr
    return path


@pytest.fixture
def sample(tmp_path: Path, imported: Path) -> Path:
    if not (ROOT / ".venv" / "panic_tda.lock").exists():
        pytest.skip("the scripts' own environment .venv is not there yet; scripts/test.sh makes it")
    return Path(shutil.copyfile(imported, tmp_path / "a sample.sqlite"))


def _last_line(log: Path, pid: int) -> str:
    with suppress(psutil.NoSuchProcess):
        process, deadline = psutil.Process(pid), time.monotonic() + WAIT_SECONDS
        while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.1)
    return log.read_text().splitlines()[-1]


def _start(*arguments: str, folder: Path) -> tuple[int, Path]:
    script = str(ROOT / "scripts" / "perform-clustering.sh")
    process = subprocess.run([script, *arguments], check=False, capture_output=True, text=True, cwd=folder)
    pid, log = re.fullmatch(r"PID (\d+)\nlog (.+)\n", process.stdout).groups()
    return int(pid), Path(log)


def _parameters(path: Path) -> list[tuple[object, ...]]:
    with opened(path) as connection:
        return connection.execute(
            "SELECT json_extract(parameters, '$.downsample'), "
            "json_extract(parameters, '$.cluster_selection_epsilon') FROM clusteringresult"
        ).fetchall()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="waits for a process through /proc")
def test_perform_clustering_takes_leading_numbers_and_logs_the_exit_status(sample: Path) -> None:
    pid, log = _start("3", "0.5", "--db", sample.name, folder=sample.parent)
    assert _last_line(log, pid) == "exit status 0"
    assert _parameters(sample) == [(3, 0.5)]
    # The database may be for its owner alone.
    assert log.stat().st_mode & 0o777 == 0o600
    log.unlink()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="waits for a process through /proc")
def test_perform_clustering_logs_the_status_of_a_failure(sample: Path) -> None:
    pid, log = _start("--db", str(sample), "NoSuchModel", folder=sample.parent)
    assert _last_line(log, pid) == "exit status 2"
    assert "the database has: LSA" in log.read_text()
    log.unlink()


def test_perform_clustering_shows_a_wrong_option_at_once(sample: Path) -> None:
    command = [str(ROOT / "scripts" / "perform-clustering.sh"), "0.5", "--db", sample.name]
    process = subprocess.run(command, check=False, capture_output=True, text=True, cwd=sample.parent)
    assert process.returncode == 2
    assert "'0.5' is not a valid integer" in process.stderr
    assert process.stderr.splitlines()[-1] == "exit status 2"
    Path(process.stdout.splitlines()[1].removeprefix("log ")).unlink()


def test_downsample_ladder_uses_all_rows_if_they_finish_in_time(trapped_sample: Path) -> None:
    sample = trapped_sample
    script = str(ROOT / "scripts" / "downsample-ladder.sh")
    # The path is meant from where the user stands, and the table is what stdout has.
    command = [script, "1", "--db", sample.name, "--epsilon", "0.5", "--min-samples", "5"]
    process = subprocess.run(command, check=True, capture_output=True, text=True, cwd=sample.parent)
    header, row = (line.split() for line in process.stdout.splitlines())
    assert header == ["factor", "rows", "seconds", "clusters"]
    assert row[:2] == ["1", "2400"]
    assert _parameters(sample) == [(1, 0.5)]
    assert "factor 1 would take about" in process.stderr
    assert not list(sample.parent.glob("executed-*"))


def test_downsample_ladder_clusters_nothing_that_would_not_finish(sample: Path) -> None:
    script = str(ROOT / "scripts" / "downsample-ladder.sh")
    environment = os.environ | {"PANIC_TDA_DB": str(sample)}
    process = subprocess.run([script, "0"], check=False, capture_output=True, text=True, env=environment)
    assert (process.returncode, process.stdout) == (1, "")
    assert _parameters(sample) == []
    assert "factor 1000 would take about" in process.stderr
    assert "no factor ends within 0 h" in process.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--epsilon", "x"], "not a valid float"), (["NoSuchModel"], "the database has: LSA")],
)
def test_downsample_ladder_shows_wrong_options(sample: Path, words: list[str], message: str) -> None:
    command = [str(ROOT / "scripts" / "downsample-ladder.sh"), "--db", str(sample), *words]
    process = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (process.returncode, _parameters(sample)) == (2, [])
    assert message in process.stderr


TRAPS = ("click", "numpy", "sqlalchemy", "alembic", "pyarrow", "numba", "rich", "sklearn", "scipy", "json")


@pytest.fixture
def trapped_sample(sample: Path) -> Path:
    """Return the sample with modules named like ours next to it, which report being executed."""
    for name in TRAPS:
        (sample.parent / f"{name}.py").write_text(
            f"open('executed-{name}', 'w')\nraise ImportError('a trap')\n"
        )
    return sample


@pytest.mark.parametrize(
    "command",
    [
        [str(Path(sys.executable).parent / "panic-tda"), "list-clusterings", "--db"],
        [sys.executable, "-m", "panic_tda", "plan-clustering", "--downsample", "40", "--db"],
    ],
    ids=["command", "module"],
)
def test_modules_in_the_working_folder_are_not_executed(trapped_sample: Path, command: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.run(
        [*command, trapped_sample.name],
        check=False,
        capture_output=True,
        text=True,
        cwd=trapped_sample.parent,
        env=environment,
    )
    assert process.returncode == 0, process.stderr
    assert not list(trapped_sample.parent.glob("executed-*"))


def test_every_script_runs_python_without_the_working_folder() -> None:
    calls = [
        line
        for script in sorted((ROOT / "scripts").glob("*.sh"))
        for line in script.read_text().splitlines()
        if re.search(r"(python3?|\$name)\"? (-[a-zA-Z]+ )*-[cm]? ", line)
        and not line.lstrip().startswith(("#", "echo ", "{ echo "))
    ]
    assert len(calls) > 10
    # mutmut runs in a fresh copy of the repository, whose modules it is to find.
    unsafe = [line for line in calls if " -P " not in line and "-m mutmut" not in line]
    assert unsafe == []


def test_an_environment_of_the_user_is_not_removed(tmp_path: Path) -> None:
    for name in ("scripts", "env"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "pyvenv.cfg").write_text("mine")
    command = [str(tmp_path / "scripts" / "test.sh")]
    process = subprocess.run(command, check=False, capture_output=True, text=True)
    assert process.returncode == 1
    assert "was not made by these scripts" in process.stderr
    assert (tmp_path / ".venv" / "pyvenv.cfg").read_text() == "mine"


def _python(script: str, *arguments: str) -> str:
    command = [sys.executable, str(ROOT / "scripts" / "bench" / script), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stderr
    return process.stdout


def _table(text: str) -> list[list[str]]:
    """Return the cells of the rows of all tables, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [
        row
        for at, row in enumerate(rows)
        if set(row[0]) != {"-"} and rows[at + 1 :][:1] != [["---"] * len(row)]
    ]


def test_io_benchmark_prints_its_figures() -> None:
    output = _python("bench_io.py", "--rows", "2000", "--repeats", "1")
    for figure in (
        r"loading, cpu: [\d.]+ s, bare scan [\d.]+ s, \d+%",
        r"saving the second: [\d,]+ rows/s, [\d,]+ rows per CPU second .*, [\d.]+ bytes",
        r"deleting 100 .* ms",
        r"importing parquet: [\d,]+ rows/s",
        r"importing npy: [\d,]+ rows/s",
        r"bare insert of the same: [\d,]+ rows/s",
    ):
        assert re.search(figure, output), figure


def test_benchmark_compares_trees_edge_by_edge() -> None:
    arguments = ["--rows", "900", "--dimensions", "48", "--peers", "tiled", "sklearn_brute"]
    tiled, brute = _table(_python("bench.py", *arguments))
    assert (tiled[1], brute[1]) == ("tiled", "sklearn_brute")
    assert 0 < float(brute[6]) < 1e-9
    assert (brute[8], tiled[7]) == ("1.0000", brute[7])


def test_no_pruning_leaves_out_an_edge() -> None:
    arguments = ["--rows", "3000", "--dimensions", "192", "--min-samples", "10"]
    rows = {row[0]: row for row in _table(_python("bench_tiled.py", "prunings", *arguments))}
    assert {row[-1] for row in rows.values()} == {"same"}
    assert {"nothing", "pruned rows", "axes", "everything"} <= set(rows)


def test_the_full_run_is_measured_stage_by_stage() -> None:
    rows = _table(_python("million.py", "--real", "2600", "--flat", "2600", "--peers", "faiss"))
    assert [row[0] for row in rows].count("faiss") == 2
    half = len(rows) // 2
    for part in (rows[:half], rows[half:]):
        stages = {row[0]: float(row[2]) for row in part if row[0] != "faiss"}
        assert {"load", "neighbours", "verify", "hierarchy", "medoids", "save"} <= set(stages)
        # Each is rounded to a tenth of a second.
        assert stages.pop("sum") == pytest.approx(sum(stages.values()), abs=0.05 * len(part))


def test_memory_of_the_engine_is_within_its_bounds() -> None:
    (row,) = _table(_python("bench_tiled.py", "memory", "--rows", "3000", "--dimensions", "48"))
    engine, stated, tree, peak = (int(cell.removesuffix(" MiB").replace(",", "")) for cell in row[3:])
    assert tree <= peak <= stated
    assert engine <= stated


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="waits for a process as Linux has it")
def test_kills_at_random_moments_change_nothing() -> None:
    arguments = ["--rows", "5000", "--dimensions", "64", "--memory-limit", "1MiB", "--beat", "0.2"]
    output = _python("check_resume.py", *arguments)
    assert len(re.findall(r"^killed at", output, re.MULTILINE)) >= 3
    assert "in files: vectors, neighbour lists" in output
    assert "5,000 assignments: identical" in output
    assert re.search(r"\d clusters with medoids: identical", output)
