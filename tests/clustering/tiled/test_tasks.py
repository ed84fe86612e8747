"""Passes by an executor give the tree of the passes in this process, however late and often results come."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.checkpoint import Checkpoint
from panic_tda.clustering.duplicates import find_distinct, keep_distinct
from panic_tda.clustering.executor import TASKS_PER_SLOT, ThreadExecutor
from panic_tda.clustering.tiled import block_cores, block_joining, cores, tasks
from panic_tda.clustering.tiled.engine import Settings, TiledBackend
from panic_tda.errors import NoRoom
from panic_tda.types import SpanningTree
from tests.conftest import MakeDisk
from tests.executors import ShuffledExecutor, Watched

TILE_ROWS = 48
MIB = 1 << 20


def make_rows(kind: str, n: int, d: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, d))
    if kind == "piles":
        rows = rng.standard_normal((5, d))[rng.integers(0, 5, n)] + 1e-3 * rows
    elif kind == "ties":
        rows = np.round(rows)
    elif kind == "spectrum":
        rows = rows * np.arange(1, d + 1) ** -1.0
    rows += 1e-9
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def fit(rows: np.ndarray, weights: np.ndarray | None = None, **options: Any) -> SpanningTree:
    settings = {"tile_rows": TILE_ROWS} | options.pop("settings", {})
    fit_options = FitOptions(min_samples=options.pop("min_samples", 5), distance_floor=1e-9, **options)
    counts = np.ones(len(rows), dtype=np.int64) if weights is None else weights
    return TiledBackend(Settings(**settings)).fit(rows, counts, fit_options)


def star_tree(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(n - 1, dtype=np.int64), np.arange(1, n)


def assert_same(first: SpanningTree, second: SpanningTree) -> None:
    np.testing.assert_array_equal(first.core_distances, second.core_distances)
    np.testing.assert_array_equal(np.sort(first.height), np.sort(second.height))


@given(
    kind=st.sampled_from(["noise", "piles", "ties", "spectrum"]),
    d=st.sampled_from([3, 12, 200]),
    n=st.integers(200, 900),
    seed=st.integers(0, 1000),
    slots=st.integers(1, 8),
    window=st.integers(1, 40),
    twice=st.sampled_from([0.0, 0.4]),
)
@settings(max_examples=8, deadline=None)
def test_order_and_repetition_change_nothing(
    kind: str, d: int, n: int, seed: int, slots: int, window: int, twice: float
) -> None:
    drawn = make_rows(kind, n, d, seed)
    distinct = find_distinct(drawn)
    rows = keep_distinct(drawn.copy(), distinct)
    executor = ShuffledExecutor(slots, window, twice, np.random.default_rng(seed))
    assert_same(fit(rows, distinct.counts, executor=executor), fit(rows, distinct.counts))


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return make_rows("spectrum", 700, 200, 1)


@pytest.fixture(scope="module")
def tree(rows: np.ndarray) -> SpanningTree:
    return fit(rows)


def test_threads_give_the_same_tree(rows: np.ndarray, tree: SpanningTree) -> None:
    assert_same(fit(rows, executor=ThreadExecutor(2)), tree)


@pytest.mark.parametrize(
    "settings",
    [{"bound_neighbours": False, "bound_verify": False}, {"prune_rows": False}, {"initial_tree": star_tree}],
    ids=["without axes", "without pruning", "from a poor tree"],
)
def test_settings_change_nothing(rows: np.ndarray, tree: SpanningTree, settings: dict[str, Any]) -> None:
    assert_same(fit(rows, executor=ThreadExecutor(1), settings=settings), tree)


@pytest.mark.parametrize("n", [2, 3, TILE_ROWS, TILE_ROWS + 1])
def test_few_rows_give_the_same_tree(rows: np.ndarray, n: int) -> None:
    options = {"min_samples": 2}
    assert_same(fit(rows[:n], executor=ThreadExecutor(3), **options), fit(rows[:n], **options))


class Counting(ShuffledExecutor):
    """Counts the tasks of each kind."""

    def map(self, work: Any, tasks: Any) -> Any:
        for task_and_result in super().map(work, tasks):
            self.counts[work.__name__] = self.counts.get(work.__name__, 0) + 1
            yield task_and_result

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.counts: dict[str, int] = {}


@pytest.fixture
def everything_in_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even few rows, in small tasks: with the constants as they are, this takes hundreds of thousands."""
    monkeypatch.setattr(cores, "MOST_ROWS_HERE", 0)
    monkeypatch.setattr(block_cores, "GROUP_ROWS", 150)
    monkeypatch.setattr(block_joining, "MOST_ROWS_HERE", 0)
    monkeypatch.setattr(block_joining, "BLOCK_ROWS", 5)


@pytest.mark.usefixtures("everything_in_tasks")
@pytest.mark.parametrize("kind", ["piles", "copies", "spectrum"])
def test_no_part_that_grows_with_the_square_of_the_rows_stays_in_this_process(kind: str) -> None:
    rows = make_rows("piles" if kind == "copies" else kind, 600, 60, 3)
    if kind == "copies":
        # Near-copies that no float32 product tells apart, some of them several times.
        rows = make_rows("piles", 600, 60, 3)[np.arange(600) // 200 * 200]
        rows += 1e-6 * np.random.default_rng(4).standard_normal(rows.shape).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    weights = np.random.default_rng(5).integers(1, 4, 600)
    executor = Counting(3, 7, 0.5, np.random.default_rng(0))
    options = {"min_samples": 40, "keep_neighbours": True}
    here, spread = fit(rows, weights, **options), fit(rows, weights, executor=executor, **options)
    assert_same(spread, here)
    for name in ("rows", "distances"):
        values = (np.sort(getattr(tree.neighbours, name), axis=1) for tree in (spread, here))
        np.testing.assert_array_equal(*values)
    assert executor.counts[tasks.choose_panels.__name__] > 4
    if kind != "spectrum":
        assert executor.counts[tasks.find_near_rows.__name__] > 8


class Measured:
    """Runs tasks in this process; measures the memory of the tasks, and of this process between them."""

    slots, pace, on_device, task_bytes = 2, "", False, 0
    largest_task = largest_between = 0

    def prepare(self, folder: Path, task_bytes: int, device_bytes: int = 0) -> None:
        self.task_bytes = task_bytes

    def look(self) -> None:
        self.largest_between = max(self.largest_between, tracemalloc.get_traced_memory()[1])

    def map(self, work: Any, tasks: Any) -> Any:
        for task in tasks:
            self.look()
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            result = pickle.loads(pickle.dumps(work(task)))
            self.largest_task = max(self.largest_task, tracemalloc.get_traced_memory()[1] - before)
            tracemalloc.reset_peak()
            yield task, result


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["spectrum", "piles"])
def test_a_task_and_the_client_take_no_more_memory_than_is_said(kind: str) -> None:
    rows = make_rows(kind, 4_000, 170, 2)
    backend = TiledBackend(Settings(tile_rows=128, threads=1))
    options = FitOptions(min_samples=10, distance_floor=1e-9)
    executor = Measured()
    fit(rows[:300], executor=ThreadExecutor(1))  # loads compiled code
    tracemalloc.start()
    try:
        backend.fit(rows, np.ones(len(rows), dtype=np.int64), replace(options, executor=executor))
        executor.look()
    finally:
        tracemalloc.stop()
    assert executor.task_bytes / 4 < executor.largest_task < executor.task_bytes
    assert executor.largest_between < backend.bytes_needed(*rows.shape, options) - rows.nbytes


class _Stopped(Exception):
    """The run ends here."""


def stop_after(count: int) -> Any:
    def after(n_results: int) -> None:
        if n_results == count:
            raise _Stopped

    return after


@pytest.mark.parametrize("count", [8, 23], ids=["neighbours", "verify"])
@pytest.mark.parametrize("slots", [None, 1, 5], ids=["in process", "1 slot", "5 slots"])
def test_stopped_work_goes_on_with_any_number_of_slots(
    rows: np.ndarray, tree: SpanningTree, tmp_path: Path, caplog: pytest.LogCaptureFixture, count: int,
    slots: int | None,
) -> None:  # fmt: skip
    def checkpoint() -> Checkpoint:
        return Checkpoint(tmp_path / "work", "rows", save_seconds=0)

    in_order = ShuffledExecutor(3, 1, 0.0, np.random.default_rng(0))
    stopped = Watched(in_order, stop_after(count))
    with pytest.raises(_Stopped):
        fit(rows, executor=stopped, checkpoint=checkpoint())
    name = "neighbours" if count == 8 else "verify"
    assert {f"{name}.state"} <= {path.name for path in (tmp_path / "work").rglob("*.state")}
    executor = None if slots is None else ThreadExecutor(slots)
    last = checkpoint()
    with caplog.at_level(logging.INFO):
        assert_same(fit(rows, executor=executor, checkpoint=last), tree)
    assert f"{name}.state" in caplog.text
    last.remove_all()
    assert not os.path.exists(tmp_path / "work")


def test_work_begun_in_this_process_goes_on_with_an_executor(
    rows: np.ndarray, tree: SpanningTree, tmp_path: Path
) -> None:
    class Killer:
        left = 60

        def phase(self, name: str, total: float | None = None) -> None:
            self.name = name

        def advance(self, amount: float) -> None:
            self.left -= self.name == "verify"
            if self.left < 0:
                raise _Stopped

    with pytest.raises(_Stopped):
        fit(rows, progress=Killer(), checkpoint=Checkpoint(tmp_path / "work", "rows", save_seconds=0))
    n_results: list[int] = []
    executor = Watched(ThreadExecutor(2), n_results.append)
    assert_same(fit(rows, executor=executor, checkpoint=Checkpoint(tmp_path / "work", "rows")), tree)
    n_all: list[int] = []
    fit(rows, executor=Watched(ThreadExecutor(2), n_all.append))
    assert 0 < len(n_results) < len(n_all) / 2


def test_progress_adds_up(rows: np.ndarray) -> None:
    totals: dict[str, float] = {}
    sums: dict[str, float] = {}

    class Recorder:
        def phase(self, name: str, total: float | None = None) -> None:
            self.name = name
            if total is not None:
                totals[name] = total

        def advance(self, amount: float) -> None:
            sums[self.name] = sums.get(self.name, 0.0) + amount

    fit(rows, executor=ShuffledExecutor(2, 9, 0.5, np.random.default_rng(0)), progress=Recorder())
    assert {"neighbours", "verify"} <= set(totals)
    assert sums == pytest.approx(totals)


def test_nothing_is_left_in_the_folder_of_a_run_without_states(rows: np.ndarray, tmp_path: Path) -> None:
    fit(rows, executor=ThreadExecutor(2), work_dir=tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == []


def test_a_full_folder_costs_the_run_and_says_so(
    rows: np.ndarray, tree: SpanningTree, disk: MakeDisk
) -> None:
    work = disk(MIB)
    filler = work / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(work).free - (100 << 10)))
    with pytest.raises(NoRoom, match=r"the rows for the workers \(\d+ MiB\) could not .*--work-dir"):
        fit(rows, executor=ThreadExecutor(1), work_dir=work)
    assert list(work.iterdir()) == [filler]
    filler.unlink()
    assert_same(fit(rows, executor=ThreadExecutor(1), work_dir=work), tree)


def test_tasks_are_drawn_late() -> None:
    drawn: list[int] = []

    def tasks() -> Any:
        for number in range(20):
            drawn.append(number)
            yield number

    executor = ThreadExecutor(2)
    for n_results, (task, result) in enumerate(executor.map(abs, tasks())):
        assert task == result
        assert len(drawn) <= n_results + TASKS_PER_SLOT * executor.slots


def _fail(number: int) -> int:
    if number == 3:
        raise ValueError("the third")
    return number


def test_the_first_failure_stops_the_rest() -> None:
    drawn: list[int] = []
    tasks = (drawn.append(number) or number for number in range(100))  # type: ignore[func-returns-value]
    with pytest.raises(ValueError, match="the third"):
        list(ThreadExecutor(1).map(_fail, tasks))
    assert len(drawn) < 10
