"""Test the check of a CUDA device as far as possible without one: on the processor, at small sizes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
# What an environment made for a device alone does not have.
HIDDEN = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"sqlalchemy", "alembic", "psycopg", "hdbscan"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
"""


def _write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _bench_gpu(*words: str, folder: Path) -> dict[str, object]:
    command = [
        sys.executable,
        str(ROOT / "scripts" / "bench" / "bench_gpu.py"),
        "--host",
        "--dimensions",
        "32",
        *words,
    ]
    # Not installed, and called from elsewhere: it finds the package by itself.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(
        [*command, "--out", str(folder)], check=True, capture_output=True, cwd=folder.parent, env=environment
    )
    return dict(json.loads((folder / "bench_gpu.json").read_text()))


def test_gpu_benchmark_measures_what_runs_and_names_what_does_not(tmp_path: Path) -> None:
    report = _bench_gpu("--rows", "900", "600", folder=tmp_path / "out")
    rows = report["results"]
    assert [(row["rows"], row["peer"]) for row in rows] == [
        (n, peer) for n in (600, 900) for peer in ("tiled", "cuml")
    ]
    for row in rows:
        if row["peer"] == "tiled":
            assert row["status"] == "done"
            assert (row["tree_excess"], row["ari"]) == (0.0, 1.0)
            assert row["seconds"] > 0
            # 15 % of the rows are copies, and copies are not given to this backend.
            n_given = (row["flops"] * row["seconds"] / 32) ** 0.5
            assert 0.75 * row["rows"] < n_given < 0.95 * row["rows"]
        else:
            assert row["status"].startswith("skipped: ")
            assert "cu" in row["status"].lower()
    assert report["rates"]["float32"]["flops"] > 0
    assert report["rates"]["tf32"] == {"status": "skipped: processors have no TF32"}
    assert report["machine"]["commit"] == _commit()
    text = (tmp_path / "out" / "bench_gpu.md").read_text()
    assert len(re.findall(r"^\| (600|900) × 32 \| tiled \| [\d.]+ \|", text, flags=re.MULTILINE)) == 2
    assert len(re.findall(r"^\| (600|900) × 32 \| cuml \| skipped: ", text, flags=re.MULTILINE)) == 2
    assert str(report["formula"]) in text


def test_gpu_benchmark_skips_what_does_not_fit_into_its_time(tmp_path: Path) -> None:
    report = _bench_gpu("--rows", "600", "--budget", "0", folder=tmp_path / "out")
    assert {row["status"] for row in report["results"]} == {
        "no rows (skipped: 0 s predicted, 0 s left for it)"
    }


def test_gpu_benchmark_predicts_from_the_rows_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "bench"))
    from bench_gpu import Clock

    clock = Clock(1e6, 100.0)
    assert clock.refusal("tiled", 1_000) is None
    clock.learn("tiled", 100_000, 2.0, 12.0)
    # The fit takes 9 times as long, all else 3 times.
    assert clock.refusal("tiled", 300_000) is None
    assert clock.refusal("tiled", 700_000) == "skipped: 168 s predicted, 100 s left for it"
    assert clock.refusal("cuml", 700_000) is None


def test_gpu_benchmark_refuses_without_a_device() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "bench" / "bench_gpu.py"), "--rows", "600"]
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.run(command, check=False, capture_output=True, text=True, env=hidden)
    assert process.returncode == 1
    assert "needs a CUDA device" in process.stderr


def _commit() -> str:
    command = ["git", "rev-parse", "HEAD"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()


def test_rows_drawn_at_once_have_the_distribution_of_rows_drawn_run_by_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "bench"))
    import bench_data

    monkeypatch.setattr(bench_data, "RUNS_AT_ONCE", 7)
    at_once, one_by_one = bench_data.trajectories_at_once, bench_data.trajectories
    rows = at_once(1_050, 48, seed=3)
    assert (rows.shape, rows.dtype) == ((1_050, 48), np.float32)
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-6
    assert rows.tobytes() == at_once(1_050, 48, seed=3).tobytes()
    # Few attractors make one draw unlike the next; the means of many must agree.
    seeds = range(40)
    means = [
        np.mean([_described(draw(1_000, 48, seed=seed)) for seed in seeds], axis=0)
        for draw in (at_once, one_by_one)
    ]
    assert means[0] == pytest.approx(means[1], rel=0.05)


def _described(rows: np.ndarray) -> tuple[float, float, float]:
    """Share of rows that are no copies, length of the mean, and how far the nearest other row is."""
    distinct = np.unique(rows, axis=0)
    products = distinct @ distinct.T
    np.fill_diagonal(products, -1)
    nearest = np.sqrt(2 - 2 * products.max(axis=1))
    return len(distinct) / len(rows), float(np.linalg.norm(rows.mean(axis=0))), float(np.median(nearest))


def _check_gpu(tmp_path: Path, *, cupy: bool, pytest_there: bool = True, status: int = 0) -> tuple[int, str]:
    """Run check_gpu.sh with a Python that writes down what it is asked for; return status and output."""
    program = tmp_path / "python"
    has = [name for name, there in (("cupy", cupy), ("pytest", pytest_there)) if there]
    cases = " ".join(f"*'find_spec(\"{name}\")'*) exit 0 ;;" for name in has)
    _write_program(
        program,
        f'#!/bin/sh\ncase "$*" in {cases} *find_spec*) exit 1 ;; esac\n'
        f'echo "asked: $* with $PYTHONPATH"\ncase "$*" in *pytest*) exit {status} ;; esac\n',
    )
    process = subprocess.run(
        [str(ROOT / "scripts" / "check_gpu.sh"), "--peers", "tiled"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHON": str(program), "CHECK_GPU_OUT": "results", "PYTHONPATH": ""},
    )
    return process.returncode, process.stdout


def test_check_gpu_uses_a_python_that_has_cupy(tmp_path: Path) -> None:
    status, output = _check_gpu(tmp_path, cupy=True)
    assert status == 0
    tests, bench = re.findall(r"^asked: (.*)$", output, flags=re.MULTILINE)
    assert tests == f"-P -m pytest -q -m gpu -p no:cacheprovider --continue-on-collection-errors with {ROOT}"
    match = re.fullmatch(
        r"scripts/bench/bench_gpu.py --budget (\d+) --out (\S+) --peers tiled with (\S+)", bench
    )
    assert match is not None
    assert 200 < int(match[1]) <= 455
    assert match[2] == str(tmp_path / "results")
    assert (tmp_path / "results" / "gpu-tests.txt").read_text().startswith("asked: -P -m pytest")


def test_tests_of_a_device_are_collected_where_database_libraries_are_missing(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDDEN)
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--collect-only", "-p", "no:cacheprovider"]
    without = ("COVERAGE_PROCESS_CONFIG", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER")
    usual = {name: value for name, value in os.environ.items() if name not in without}
    process = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=usual | {"PYTHONPATH": os.pathsep.join(map(str, (tmp_path, ROOT)))},
    )
    assert process.returncode == 0, process.stdout
    collected = [line for line in process.stdout.splitlines() if "::" in line]
    assert len(collected) > 200
    marked = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if "@pytest.mark.gpu" in path.read_text() and path != Path(__file__)
    }
    assert marked <= {line.split("::")[0] for line in collected}


def test_check_gpu_measures_although_a_test_failed_or_there_is_no_pytest(tmp_path: Path) -> None:
    status, output = _check_gpu(tmp_path, cupy=True, status=1)
    assert status == 1
    assert "asked: scripts/bench/bench_gpu.py" in output
    status, output = _check_gpu(tmp_path, cupy=True, pytest_there=False)
    assert status == 0
    assert "tests skipped" in output
    assert "asked: scripts/bench/bench_gpu.py" in output
