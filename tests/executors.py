"""Executors for tests that deliver results late, in any order and twice."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import numpy as np


class ShuffledExecutor:
    """Executor that runs tasks in this process and returns results in random order, some twice.

    Parameters
    ----------
    slots : int
    window : int
        Tasks that are drawn before the first of their results is seen: the more, the older is what a task
        compares with.
    twice : float
        Share of the tasks that are run twice.
    """

    on_device = False

    def __init__(self, slots: int, window: int, twice: float, rng: np.random.Generator) -> None:
        self.slots, self._window, self._twice, self._rng = slots, window, twice, rng

    pace = "3 workers"

    def prepare(self, folder: Path, task_bytes: int, device_bytes: int = 0) -> None:
        assert folder.is_dir()
        assert task_bytes > 0

    def map(self, work: Callable[[Any], Any], tasks: Iterable[Any]) -> Generator[tuple[Any, Any]]:
        remaining, waiting = iter(tasks), []
        while True:
            while len(waiting) < self._window and (task := next(remaining, None)) is not None:
                waiting += [(task, work(task))] * (1 + (self._rng.random() < self._twice))
            if not waiting:
                return
            yield waiting.pop(int(self._rng.integers(len(waiting))))


class Watched:
    """Runs tasks on another executor, and calls a function after each result with the number of results."""

    def __init__(self, executor: Any, after: Callable[[int], None]) -> None:
        self._executor, self._after, self._n_results = executor, after, 0

    @property
    def slots(self) -> int:
        return int(self._executor.slots)

    @property
    def pace(self) -> str:
        return str(self._executor.pace)

    @property
    def on_device(self) -> bool:
        return bool(self._executor.on_device)

    def prepare(self, folder: Path, task_bytes: int, device_bytes: int = 0) -> None:
        self._executor.prepare(folder, task_bytes, device_bytes)

    def map(self, work: Callable[[Any], Any], tasks: Iterable[Any]) -> Generator[tuple[Any, Any]]:
        results = self._executor.map(work, tasks)
        try:
            for task_and_result in results:
                yield task_and_result
                self._n_results += 1
                self._after(self._n_results)
        finally:
            results.close()
