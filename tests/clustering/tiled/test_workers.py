"""Test tasks on threads: order, failures, and which thread runs them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from panic_tda.clustering.recipe import hdbscan
from panic_tda.clustering.tiled.workers import Workers, workers


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_tasks(n_threads: int) -> None:
    with workers(n_threads) as team:
        assert list(team.map(lambda task: task * task, range(50))) == [task * task for task in range(50)]


def test_one_worker_runs_in_the_calling_thread() -> None:
    """A CUDA device that a caller has chosen is chosen in that thread alone."""
    with workers(1) as team:
        assert set(team.map(lambda _: threading.get_ident(), range(5))) == {threading.get_ident()}
    with workers(2) as team:
        assert threading.get_ident() not in set(team.map(lambda _: threading.get_ident(), range(5)))


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_failure_stops_the_rest(n_threads: int) -> None:
    finished_tasks = []

    def work(task: int) -> None:
        if task == 3:
            raise ValueError("task 3")
        finished_tasks.append(task)

    with workers(n_threads) as team, pytest.raises(ValueError, match="task 3"):
        list(team.map(work, range(10_000)))
    assert len(finished_tasks) < 100


@pytest.mark.parametrize(("n", "n_threads"), [(0, 2), (1, 2), (1_000, 1), (20_000, 3)])
def test_chunks_cover_everything_once(n: int, n_threads: int) -> None:
    n_calls = [0] * n

    def work(part: slice) -> None:
        for place in range(part.start, part.stop):
            n_calls[place] += 1

    with workers(n_threads) as team:
        team.chunks(work, n, largest=700)
    assert n_calls == [1] * n


class Listener:
    """Takes down which threads told it what."""

    def __init__(self) -> None:
        self.threads: set[int] = set()
        self.amounts: dict[str, float] = {}

    def phase(self, name: str, total: float | None = None) -> None:
        self.threads.add(threading.get_ident())
        self.name = name

    def advance(self, amount: float) -> None:
        self.threads.add(threading.get_ident())
        self.amounts[self.name] = self.amounts.get(self.name, 0.0) + amount


def test_progress_is_reported_by_the_calling_thread_only() -> None:
    """A listener that adds up need not lock: two threads that add at once lose a step now and then."""
    heard = Listener()
    rows = np.random.default_rng(0).standard_normal((3000, 20))
    hdbscan(rows, backend="tiled", progress=heard)
    assert heard.threads == {threading.get_ident()}
    assert heard.amounts["core distances"] == 3000


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.mark.parametrize("last", ["first", "second"])
def test_fits_that_overlap_leave_the_blas_library_as_it_was(last: str) -> None:
    """The second one in met one thread, and put that back when it was the last one out."""
    with threadpool_limits(2, user_api="blas"):
        first, second = ExitStack(), ExitStack()
        for fit in (first, second):
            team: Workers = fit.enter_context(workers(2))
            assert set(team.map(lambda _: blas_threads() == {1}, range(4))) == {True}
        (second if last == "first" else first).close()
        assert blas_threads() == {1}
        (first if last == "first" else second).close()
        assert blas_threads() == {2}


@pytest.mark.slow
def test_fits_in_several_threads_leave_the_blas_library_as_it_was() -> None:
    rows = np.random.default_rng(0).standard_normal((800, 20))
    with threadpool_limits(2, user_api="blas"), ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: hdbscan(rows, backend="tiled").labels.tolist(), range(12)))
        assert blas_threads() == {2}
    assert results.count(results[0]) == 12
