"""Executors run the tasks of a fit, in any order, and return their results.

A task is data that can be pickled, and the work is a function of a module that depends on its task alone: an
executor may run a task in another process or on another host, and may run it again if that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from pathlib import Path

Task = TypeVar("Task")
Result = TypeVar("Result")

TASKS_PER_SLOT = 2
"""Tasks that an executor holds for each slot: one that runs, and one that waits for the next free slot.

A task carries thresholds that results of earlier tasks improve, so that it is made as late as possible.
"""


class Executor(Protocol):
    """Runs tasks side by side."""

    @property
    def slots(self) -> int:
        """Return how many tasks run at the same time."""

    @property
    def pace(self) -> str:
        """Return the number of workers and their tasks per second, for a display; empty for this process."""

    @property
    def on_device(self) -> bool:
        """Return whether each slot computes on a CUDA device of its own."""

    def prepare(self, folder: Path, task_bytes: int, device_bytes: int = 0) -> None:
        """Check before a fit that its tasks can run on every worker.

        Parameters
        ----------
        folder : Path
            Folder with the files that tasks read.
        task_bytes, device_bytes : int
            Memory and device memory that a task takes.

        Raises
        ------
        WorkersFailed
            A worker does not see the folder, or has too little memory; the message names it.
        """

    def map(self, work: Callable[[Task], Result], tasks: Iterable[Task]) -> Generator[tuple[Task, Result]]:
        """Yield every task with its result, in the order in which the results arrive.

        Tasks are drawn when a slot is nearly free, at most `TASKS_PER_SLOT` for each, after the caller has
        processed the results before. The first failure is raised and stops the rest.

        Raises
        ------
        WorkersFailed
            The workers, or the connection to them, failed for good.
        """


class ThreadExecutor:
    """Runs tasks in threads of this process.

    Parameters
    ----------
    slots : int
        Number of threads.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots

    pace, on_device = "", False

    def prepare(self, folder: Path, task_bytes: int, device_bytes: int = 0) -> None:
        """Do nothing: threads see the same files, and this process has checked its memory."""

    def map(self, work: Callable[[Task], Result], tasks: Iterable[Task]) -> Generator[tuple[Task, Result]]:
        """Yield every task with its result; see `Executor.map`."""
        remaining, running = iter(tasks), dict[Future[Any], Task]()
        with ThreadPoolExecutor(self.slots, thread_name_prefix="tasks") as pool:
            try:
                while True:
                    for task in islice(remaining, TASKS_PER_SLOT * self.slots - len(running)):
                        running[pool.submit(work, task)] = task
                    if not running:
                        return
                    future = wait(running, return_when=FIRST_COMPLETED).done.pop()
                    yield running.pop(future), future.result()
            finally:
                for future in running:
                    future.cancel()
