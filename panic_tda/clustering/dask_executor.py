"""The executor that runs tasks on Dask workers: processes of this machine, or of any cluster.

Only the modules `dask_*` use Dask. It runs a task of a lost worker again on another one; a task that was
running on several lost workers is given up (`allowed-failures` in Dask's configuration).
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import CancelledError
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from panic_tda.clustering import worker_checks as checks
from panic_tda.clustering.executor import TASKS_PER_SLOT, Result, Task
from panic_tda.devices.machine import keep_freed_memory
from panic_tda.disk import free_text
from panic_tda.errors import WorkersFailed
from panic_tda.wording import pluralize

CONNECT_SECONDS = 30.0
_POLL_SECONDS, _ASK_AGAIN_SECONDS = 5.0, 0.2
_UNLOADABLE = "deserialization of the task graph"
"""Part of the message of Dask's error for a scheduler that cannot import what a task needs."""
_IDLE_POLLS = 12
"""Polls without a worker between two warnings."""

_log = logging.getLogger(__name__)


class DaskExecutor:
    """Runs tasks on the workers of a Dask client.

    Parameters
    ----------
    client : distributed.Client
        Connected, with at least one worker.
    name : str
        Names the workers in the log.
    use_devices : bool
        Whether workers compute on their CUDA devices, if every worker has one.

    Attributes
    ----------
    on_device : bool
        Whether they do.

    Raises
    ------
    WorkersFailed
        A worker has another version of a package than this process.
    """

    def __init__(self, client: Any, name: str, *, use_devices: bool = False) -> None:
        self.client, self._name = client, name
        self._n_workers, self._n_done, self._began = 0, 0, 0.0
        checks.require_same_versions(self._ask_workers(checks.describe_process))
        self.on_device = use_devices and checks.have_devices(self._ask_workers(checks.describe_device))
        place = "on CUDA devices" if self.on_device else "on processors"
        dashboard = client.dashboard_link or "not available"
        slots = f"{self.slots} {pluralize(self.slots, 'slot')}"
        _log.info("%s: %s %s; dashboard %s", name, slots, place, dashboard)

    @property
    def slots(self) -> int:
        """Return the number of threads of all workers."""
        return max(1, sum(self.count_threads().values()))

    @property
    def pace(self) -> str:
        """Return the number of workers and their tasks per second; see `Executor.pace`."""
        return (
            f"{self._n_workers} {pluralize(self._n_workers, 'worker')}, "
            f"{_describe_rate(self._n_done, self._began)}"
        )

    def prepare(self, folder: Path, task_bytes: int, device_bytes: int = 0) -> None:
        """Check versions, folder, memory and device of every worker; see `Executor.prepare`."""
        # Again for every fit: workers may have joined.
        checks.require_same_versions(self._ask_workers(checks.describe_process))
        self._require_shared(folder)
        checks.require_memory(self._ask_workers(checks.describe_memory), task_bytes)
        if self.on_device:
            self.require_devices(device_bytes)

    def require_devices(self, device_bytes: int = 0) -> None:
        """Check the device of every worker, and its memory; see `worker_checks.require_devices`."""
        checks.require_devices(self._ask_workers(checks.describe_device), device_bytes)

    def _require_shared(self, folder: Path) -> None:
        """Check that every worker can read a file that is written now."""
        nonce, path = secrets.token_hex(16), folder / f".panic-tda-{secrets.token_hex(8)}.part"
        try:
            path.write_text(nonce)
            answers = self._ask_workers(checks.read_text, str(path))
        except OSError as error:
            raise WorkersFailed(
                f"the folder for the workers cannot be written: {folder} ({error.strerror}"
                f"{free_text(folder)}): name another one with --work-dir"
            ) from error
        finally:
            path.unlink(missing_ok=True)
        for worker, answer in answers.items():
            if answer != nonce:
                raise WorkersFailed(
                    f"worker {worker} does not see the files of this process in {folder}: name a folder on a "
                    "disk that all workers share, by the same path, with --work-dir"
                )

    def map(self, work: Callable[[Task], Result], tasks: Iterable[Task]) -> Generator[tuple[Task, Result]]:
        """Yield every task with its result; see `Executor.map`."""
        self._n_done, self._began = 0, time.monotonic()
        remaining, running = iter(tasks), dict[str, tuple[Any, Task]]()
        arrived: SimpleQueue[Any] = SimpleQueue()
        try:
            while True:
                for task in islice(remaining, max(0, TASKS_PER_SLOT * self.slots - len(running))):
                    self._require_scheduler()
                    key = f"{work.__name__}-{secrets.token_hex(8)}"
                    future = self.client.submit(_run_task, work, task, key=key, pure=False)
                    running[future.key] = future, task
                    future.add_done_callback(arrived.put)
                if not running:
                    return
                future, task = running.pop(self._wait(arrived).key)
                result = self._fetch(future)
                # The scheduler and the worker forget it.
                future.release()
                self._n_done += 1
                yield task, result
        finally:
            if running and self.client.status == "running":
                with contextlib.suppress(Exception):
                    self.client.cancel([future for future, _ in running.values()], force=True)

    def _wait(self, arrived: SimpleQueue[Any]) -> Any:
        """Return the next future that is done."""
        n_idle = 0
        while True:
            try:
                return arrived.get(timeout=_POLL_SECONDS)
            except Empty:
                n_idle = self._count_idle(n_idle)

    def _fetch(self, future: Any) -> Any:
        """Return the result of a task, which is computed once more if its worker was lost meanwhile."""
        n_idle = 0
        while True:
            try:
                return future.result(timeout=_POLL_SECONDS)
            except TimeoutError:
                n_idle = self._count_idle(n_idle)
            except Exception as error:
                raise self._translate(error) from error

    def _count_idle(self, n_idle: int) -> int:
        """Count the polls without a worker that could run a task, and warn of them now and then."""
        if self.count_threads():
            return 0
        if n_idle % _IDLE_POLLS == 0:
            _log.warning("%s: no worker is connected; waiting for one", self._name)
        return n_idle + 1

    def _translate(self, error: Exception) -> Exception:
        """Return the error of a task in terms of its workers, or as it is."""
        from distributed import KilledWorker

        if isinstance(error, KilledWorker):
            return WorkersFailed(
                f"a task ended {error.allowed_failures + 1} workers one after the other, the last of them "
                f"{error.last_worker.address}; its log may say why. If memory ran out, start fewer workers "
                "on a machine or raise their memory limit. The same command goes on"
            )
        if isinstance(error, OSError) and error.filename:
            return WorkersFailed(
                f"a worker cannot read {error.filename} ({error.strerror}): name a folder on a disk that all "
                "workers share, by the same path, with --work-dir"
            )
        if isinstance(error, RuntimeError) and _UNLOADABLE in str(error):
            return WorkersFailed(
                f"the scheduler of {self._name} cannot load the tasks: install the same version of "
                "panic_tda[dask] there as here, and start it again"
            )
        return self._lost_scheduler() if isinstance(error, CancelledError | OSError) else error

    def count_threads(self) -> dict[str, int]:
        """Return the number of threads of each worker."""
        self._require_scheduler()
        try:
            n_threads: dict[str, int] = self.client.nthreads()
        except (OSError, CancelledError) as error:
            raise self._lost_scheduler() from error
        self._n_workers = len(n_threads)
        return n_threads

    def _require_scheduler(self) -> None:
        if self.client.status in ("closing", "closed", "connecting"):
            raise self._lost_scheduler()

    def _lost_scheduler(self) -> WorkersFailed:
        return WorkersFailed(
            f"the connection to the scheduler of {self._name} was lost. Start it again, and give the same "
            "command again: it goes on from the last saved state"
        )

    def _ask_workers(self, question: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
        """Call a function on every worker, outside of their slots; an exception is the worker's answer.

        A worker that is lost meanwhile has no answer: those that are left are asked again.
        """
        from distributed.comm import CommClosedError

        self._require_scheduler()
        give_up = time.monotonic() + CONNECT_SECONDS
        while True:
            try:
                answers: dict[str, Any] = self.client.run(question, *arguments, on_error="return")
            except (OSError, CancelledError) as error:
                raise self._lost_scheduler() from error
            are_lost = any(isinstance(answer, CommClosedError) for answer in answers.values())
            if (answers and not are_lost) or time.monotonic() > give_up:
                return answers
            time.sleep(_ASK_AGAIN_SECONDS)


def _run_task(work: Callable[[Task], Result], task: Task) -> Result:
    """Run a task in the process of a worker."""
    keep_freed_memory()
    return work(task)


def _describe_rate(n_tasks: int, began: float) -> str:
    rate = n_tasks / max(time.monotonic() - began, 1e-3)
    return f"{rate:.1f} tasks/s" if rate >= 1 else f"{60 * rate:.1f} tasks/min"
