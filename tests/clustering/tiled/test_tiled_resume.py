"""Test that killed runs of the tiled engine continue to the same result, also with arrays in files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.checkpoint import Checkpoint
from panic_tda.clustering.tiled.engine import Settings, TiledBackend
from panic_tda.types import SpanningTree
from tests.snapshots import REPOSITORY

MIN_SAMPLES = 7

KILLED = """
import os, signal, sys
import numpy as np
from pathlib import Path
from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.tiled.engine import Settings, TiledBackend
from panic_tda.clustering.checkpoint import Checkpoint

class Killer:
    def phase(self, name, total=None):
        self.name, self.left = name, int(sys.argv[3])
    def advance(self, amount):
        self.left -= 1
        if self.name == sys.argv[2] and self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

folder = Path(sys.argv[1])
# Not read-only: the kernels would be compiled once more for that.
rows = np.load(folder / "rows.npy", mmap_mode="c")
options = FitOptions(
    min_samples=7, distance_floor=1e-3, progress=Killer(),
    checkpoint=Checkpoint(folder / "work", "rows", save_seconds=0),
)
TiledBackend(Settings(tile_rows=120, threads=2)).fit(rows, np.ones(len(rows), dtype=np.int64), options)
"""


class Recorder:
    """Counts the work of each phase, and what it began with."""

    def __init__(self) -> None:
        self.steps: dict[str, list[float]] = {}

    def phase(self, name: str, total: float | None = None) -> None:
        self.name = name
        self.steps[name] = []

    def advance(self, amount: float) -> None:
        self.steps[self.name].append(amount)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    spectrum = np.arange(1, 201) ** -0.5
    drawn = (
        rng.standard_normal((9, 200))[rng.integers(9, size=1200)] + rng.standard_normal((1200, 200))
    ) * spectrum
    return (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)


def fit(rows: np.ndarray, recorder: Recorder | None = None, **options: object) -> SpanningTree:
    fit_options = FitOptions(
        min_samples=MIN_SAMPLES, distance_floor=1e-3, progress=recorder or Recorder(), **options
    )  # type: ignore[arg-type]
    return TiledBackend(Settings(tile_rows=120)).fit(rows, np.ones(len(rows), dtype=np.int64), fit_options)


def kill(folder: Path, phase: str, after: int) -> None:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", KILLED, str(folder), phase, str(after)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert process.returncode == -signal.SIGKILL, process.stderr


def stored(folder: Path) -> list[str]:
    """Names of the states in a work folder."""
    return sorted(path.name for path in (folder / "work").glob("*/*.state"))


def assert_same(first: SpanningTree, two: SpanningTree) -> None:
    np.testing.assert_array_equal(first.core_distances, two.core_distances)
    np.testing.assert_array_equal(np.sort(first.height), np.sort(two.height))


def test_three_kills_in_different_phases_change_nothing(tmp_path: Path, rows: np.ndarray) -> None:
    np.save(tmp_path / "rows.npy", rows)
    kill(tmp_path, "neighbours", 30)
    assert stored(tmp_path) == ["neighbours.state"]
    kill(tmp_path, "core distances", 0)
    kill(tmp_path, "verify", 25)
    assert "verify.state" in stored(tmp_path)
    recorder = Recorder()
    resumed = fit(rows, recorder, checkpoint=Checkpoint(tmp_path / "work", "rows"))
    assert "neighbours" not in recorder.steps
    assert recorder.steps["verify"][0] > 1
    assert_same(resumed, fit(rows))


def test_a_finished_tree_stays_until_it_is_removed(tmp_path: Path, rows: np.ndarray) -> None:
    checkpoint = Checkpoint(tmp_path / "work", "rows", save_seconds=0)
    finished = fit(rows, checkpoint=checkpoint)
    assert stored(tmp_path) == ["finished-tree.state"]
    recorder = Recorder()
    assert_same(fit(rows, recorder, checkpoint=Checkpoint(tmp_path / "work", "rows")), finished)
    assert recorder.steps == {}
    checkpoint.remove_all()
    assert not (tmp_path / "work").exists()


def test_the_neighbour_pass_continues_where_it_stopped(tmp_path: Path, rows: np.ndarray) -> None:
    np.save(tmp_path / "rows.npy", rows)
    kill(tmp_path, "neighbours", 40)
    recorder, uninterrupted = Recorder(), Recorder()
    resumed = fit(rows, recorder, checkpoint=Checkpoint(tmp_path / "work", "rows"))
    assert_same(resumed, fit(rows, uninterrupted))
    assert len(recorder.steps["neighbours"]) < len(uninterrupted.steps["neighbours"])
    assert sum(recorder.steps["neighbours"]) == sum(uninterrupted.steps["neighbours"])


@pytest.mark.parametrize(("memory_limit", "at_most"), [(1, 0.5), (None, 1.5)])
def test_stored_lists_are_read_into_those_that_are_there(
    tmp_path: Path, memory_limit: int | None, at_most: float
) -> None:
    """Under a limit they were held in memory once, without one twice."""
    rows = np.random.default_rng(0).standard_normal((4000, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    peaks = []

    class Traced(Recorder):
        def phase(self, name: str, total: float | None = None) -> None:
            super().phase(name, total)
            if tracemalloc.is_tracing():
                peaks.append(tracemalloc.get_traced_memory()[1])

    class Once(Checkpoint):
        def save(self, name: str, **arrays: object) -> None:
            super().save(name, **arrays)
            raise KeyboardInterrupt

    def run(checkpoint: Checkpoint) -> None:
        options = FitOptions(
            min_samples=800,
            distance_floor=1e-3,
            progress=Traced(),
            checkpoint=checkpoint,
            memory_limit=memory_limit,
            work_dir=tmp_path,
        )
        TiledBackend(Settings(tile_rows=60, threads=1)).fit(rows, np.ones(len(rows), dtype=np.int64), options)

    with pytest.raises(KeyboardInterrupt):
        run(Once(tmp_path / "work", "rows", save_seconds=0))
    tracemalloc.start()
    try:
        run(Checkpoint(tmp_path / "work", "rows"))
    finally:
        tracemalloc.stop()
    assert peaks[0] < at_most * 8 * 808 * len(rows)


def test_changed_input_starts_from_the_beginning(tmp_path: Path, rows: np.ndarray) -> None:
    np.save(tmp_path / "rows.npy", rows)
    kill(tmp_path, "neighbours", 30)
    assert stored(tmp_path) == ["neighbours.state"]
    other_rows = rows[::-1].copy()
    recorder = Recorder()
    resumed = fit(other_rows, recorder, checkpoint=Checkpoint(tmp_path / "work", "other rows"))
    assert "neighbours" in recorder.steps
    assert_same(resumed, fit(other_rows))


def test_a_memory_map_and_lists_in_files_give_the_same(tmp_path: Path, rows: np.ndarray) -> None:
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="c")
    assert_same(fit(mapped, memory_limit=1), fit(rows))
    checkpoint = Checkpoint(tmp_path / "work", "rows", save_seconds=0)
    assert_same(fit(mapped, memory_limit=1, checkpoint=checkpoint), fit(rows))
    checkpoint.remove_all()
    assert not (tmp_path / "work").exists()


def test_progress_adds_up(rows: np.ndarray) -> None:
    """The time left is extrapolated from these numbers, so they must reach the total that was announced."""

    class Totals(Recorder):
        totals: dict[str, float]

        def phase(self, name: str, total: float | None = None) -> None:
            super().phase(name, total)
            self.totals = getattr(self, "totals", {})
            if total is not None:
                self.totals[name] = total

    recorder = Totals()
    fit(rows, recorder)
    assert set(recorder.totals) == {"neighbours", "core distances", "join components", "verify"}
    for name, total in recorder.totals.items():
        assert sum(recorder.steps[name]) == pytest.approx(total)
