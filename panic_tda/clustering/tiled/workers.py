"""Run tiles on a pool of threads: one thread per tile, by default one per available core."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeVar

from threadpoolctl import threadpool_limits

from panic_tda.arrays.rows import slices
from panic_tda.devices.machine import available_cores

if TYPE_CHECKING:
    from panic_tda.progress import Progress

Task = TypeVar("Task")
Result = TypeVar("Result")
Value = TypeVar("Value")

_AHEAD = 4
"""Tasks per thread that wait in the queue: enough to keep it busy, few enough to stop soon."""


class PerThread(Generic[Value]):
    """A value that each thread makes once for itself, such as buffers."""

    def __init__(self, make: Callable[[], Value]) -> None:
        self._make = make
        self._local = threading.local()

    def get(self) -> Value:
        """Return the value of this thread."""
        if not hasattr(self._local, "value"):
            self._local.value = self._make()
        value: Value = self._local.value
        return value


class Workers:
    """A pool of threads, in each of which the BLAS library is held to one thread.

    Tiles are independent, so running one on each core needs no synchronisation inside a product, and the
    element-wise work after it runs beside the next tile's product.
    """

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads
        self._pool = ThreadPoolExecutor(n_threads, thread_name_prefix="tiles")

    def map(self, work: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield the results in the order of the tasks; the first failure stops the rest.

        A single worker is the thread that asks: what it has chosen, such as a CUDA device or stream, holds.
        """
        if self.n_threads == 1:
            yield from map(work, tasks)
            return
        todo = iter(tasks)
        running: deque[Future[Result]] = deque()
        try:
            running.extend(self._pool.submit(work, task) for task in islice(todo, _AHEAD * self.n_threads))
            while running:
                result = running.popleft().result()
                running.extend(self._pool.submit(work, task) for task in islice(todo, 1))
                yield result
        finally:
            for future in running:
                future.cancel()

    def chunks(
        self,
        work: Callable[[slice], None],
        n: int,
        *,
        largest: int = 8_192,
        progress: Progress | None = None,
    ) -> None:
        """Call `work` on slices of `n` elements; `progress` advances in the calling thread."""

        def work_on_part(part: slice) -> int:
            work(part)
            length: int = part.stop - part.start
            return length

        at_once = min(largest, -(-n // (2 * self.n_threads)))
        for amount in self.map(work_on_part, slices(n, at_once)):
            if progress is not None:
                progress.advance(float(amount))


def map_parts(team: Workers | None, work: Callable[[slice], Result], n: int, part_rows: int) -> list[Result]:
    """Call `work` on slices of `n` rows, in the threads of a team or, without one, in this thread.

    The slices do not depend on the number of threads, so that no number depends on it either.
    """
    parts = slices(n, part_rows)
    return list(map(work, parts) if team is None else team.map(work, parts))


class _Shared:
    """A context that all threads of the process share: the first one in enters it, the last one out leaves.

    The number of threads of a BLAS library is one for the process. Of two threads that each set it and put
    back what they found, the one that came second would put back the setting of the first.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[object]]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._inside = 0
        self._entered = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._entered.enter_context(self._make())
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._entered.close()


_one_blas_thread = _Shared(lambda: threadpool_limits(limits=1, user_api="blas"))


@contextmanager
def workers(n_threads: int | None = None) -> Iterator[Workers]:
    """Open a pool, by default of one thread per available core."""
    team = Workers(n_threads or available_cores())
    with _one_blas_thread:
        try:
            yield team
        finally:
            team._pool.shutdown(wait=True, cancel_futures=True)
