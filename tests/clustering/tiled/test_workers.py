"""Tasks on threads: order, failures, and the thread that does them."""

from __future__ import annotations

import threading

import pytest

from panic_tda.clustering.tiled.workers import workers


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_tasks(n_threads: int) -> None:
    with workers(n_threads) as team:
        assert list(team.map(lambda task: task * task, range(50))) == [task * task for task in range(50)]


def test_one_worker_is_the_thread_that_asks() -> None:
    """A CUDA device that a caller has chosen is chosen in that thread alone."""
    with workers(1) as team:
        assert set(team.map(lambda _: threading.get_ident(), range(5))) == {threading.get_ident()}
    with workers(2) as team:
        assert threading.get_ident() not in set(team.map(lambda _: threading.get_ident(), range(5)))


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_failure_stops_the_rest(n_threads: int) -> None:
    done = []

    def work(task: int) -> None:
        if task == 3:
            raise ValueError("task 3")
        done.append(task)

    with workers(n_threads) as team, pytest.raises(ValueError, match="task 3"):
        list(team.map(work, range(10_000)))
    assert len(done) < 100


@pytest.mark.parametrize(("n", "n_threads"), [(0, 2), (1, 2), (1_000, 1), (20_000, 3)])
def test_chunks_cover_everything_once(n: int, n_threads: int) -> None:
    seen = [0] * n

    def work(part: slice) -> None:
        for place in range(part.start, part.stop):
            seen[place] += 1

    with workers(n_threads) as team:
        team.chunks(work, n, largest=700)
    assert seen == [1] * n
