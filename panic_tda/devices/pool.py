"""A pool of processes, one for each device; each process gets the next task when it is free.

A process sees only one device, because CUDA reads its environment only once, when it starts. A fault that
kills a process fails only the task of that process. Processes are started, not forked, because CUDA does not
work after a fork. They are child processes with a pipe in each direction, not those of `multiprocessing`,
which would run the caller's main module again.

Dask workers share one model (`clustering.dask_executor`), but do not run whole models: they start ten times
more slowly, need a guard in the caller's main module, and run tasks in threads, where no signal gives a task
time to save its result.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeAlias, TypeVar

from panic_tda.devices.worker import Advanced, Done, Failed, Logged, Message, Phase, PhaseFailed
from panic_tda.interrupts import rescue
from panic_tda.progress import Progress, Silent, child_progress, report_failure

Task = TypeVar("Task")
Result = TypeVar("Result")

GRACE_SECONDS = 30.0
"""Time in which a process may finish saving a result after it has been told to stop, in seconds."""
# -P: files in the working folder do not replace modules.
_COMMAND = (sys.executable, "-P", "-c", "from panic_tda.devices.worker import serve; serve()")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerFailure:
    """The reason why a task has no result.

    Attributes
    ----------
    reason : str
        The error of the task, or the end of its process.
    """

    reason: str


class _Ended:
    """Message that a process has ended."""


_Inbox: TypeAlias = "SimpleQueue[tuple[_Worker[Any, Any], Message | _Ended]]"


def run_on_devices(
    work: Callable[[Task, Progress], Result],
    tasks: Sequence[Task],
    devices: Mapping[str, Mapping[str, str]],
    progress: Progress | None = None,
) -> list[Result | WorkerFailure]:
    """Run tasks in several processes at the same time.

    Parameters
    ----------
    work : callable
        Runs one task and reports its progress. It must be a function of a module, because processes import it
        by name.
    tasks : sequence
        Tasks, started in this order; they must be picklable.
    devices : mapping of str to mapping
        For the name of each device, which is the prefix of its log lines: the environment variables with
        which a process sees only this device.
    progress : Progress, optional
        Receives the progress of each process, separately if it can (see `progress.child_progress`).

    Returns
    -------
    list
        The result of each task, or `WorkerFailure` if it raised an exception or its process ended; later
        tasks then get a new process.

    Notes
    -----
    An exception in the caller, such as KeyboardInterrupt, ends all processes before it is raised again.
    """
    inbox: _Inbox = SimpleQueue()
    waiting = deque(enumerate(tasks))
    results: dict[int, Result | WorkerFailure] = {}
    team = [
        _Worker(work, name, environment, child_progress(progress or Silent()), inbox)
        for name, environment in devices.items()
    ]
    try:
        for worker in team:
            worker.start_next(waiting)
        while len(results) < len(tasks):
            worker, message = inbox.get()
            numbered_result = worker.handle(message)
            if numbered_result is not None:
                number, result = numbered_result
                results[number] = result
                worker.start_next(waiting)
    except BaseException:
        with rescue():
            _terminate(team, inbox)
        raise
    finally:
        for worker in team:
            worker.end()
    return [results[number] for number in range(len(tasks))]


class _Worker(Generic[Task, Result]):
    """The caller's side of one device: its process and the task of that process."""

    def __init__(
        self,
        work: Callable[[Task, Progress], Result],
        name: str,
        environment: Mapping[str, str],
        progress: Progress,
        inbox: _Inbox,
    ) -> None:
        self._work = work
        self._name = name
        self._environment = environment
        self._progress = progress
        self._inbox = inbox
        self._task: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._may_finish = True

    def start_next(self, waiting: deque[tuple[int, Task]]) -> None:
        """Start the next task, in a new process if there is none; end the process if no task is left."""
        if not waiting:
            self._close_input()
            return
        self._task, task = waiting.popleft()
        if self._process is None:
            self._process = self._start()
            self._send((self._work, self._name))
        self._send(task)

    def handle(self, message: Message | _Ended) -> tuple[int, Result | WorkerFailure] | None:
        """Handle a message of the process; return the number and result of its task if it has finished."""
        match message:
            case Logged(record):
                logger = logging.getLogger(record.name)
                if logger.isEnabledFor(record.levelno):
                    logger.handle(record)
            case Phase(name, total):
                self._progress.phase(f"{self._name}: {name}", total)
            case Advanced(amount):
                self._progress.advance(amount)
            case PhaseFailed():
                report_failure(self._progress)
            case Done(result):
                return self._finish_task(result)
            case Failed(reason):
                report_failure(self._progress)
                return self._finish_task(WorkerFailure(reason))
            case _Ended() if self._process is not None:
                report_failure(self._progress)
                reason = f"its process on {self._name} {_describe_exit(self._process)}"
                self._close_input()
                self._process = None
                return None if self._task is None else self._finish_task(WorkerFailure(reason))
        return None

    @property
    def is_running(self) -> bool:
        """Return whether there is a process whose last message has not been handled."""
        return self._process is not None

    def terminate(self) -> None:
        """Tell the process to stop; it first finishes saving a result."""
        self._task, self._may_finish = None, False
        if self._process is not None:
            self._process.terminate()

    def end(self) -> None:
        """End the process, and kill it if it does not end in time."""
        self._close_input()
        if self._process is not None:
            try:
                self._process.wait(GRACE_SECONDS if self._may_finish else 0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        # The process can import the same modules. In a process group of its own it gets no Ctrl-C.
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
        process = subprocess.Popen(
            _COMMAND,
            env=os.environ | {"PYTHONPATH": path} | dict(self._environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,
        )
        threading.Thread(target=self._listen, args=(process,), name=self._name, daemon=True).start()
        return process

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        try:
            with process.stdout:
                while True:
                    self._inbox.put((self, pickle.load(process.stdout)))
        except Exception as error:
            # At the end of the pipe, the last message of a killed process may be cut off. Other errors mean
            # an invalid message.
            if not isinstance(error, (EOFError, pickle.UnpicklingError)):
                _log.debug("%s: invalid message", self._name, exc_info=True)
                process.kill()
        self._inbox.put((self, _Ended()))

    def _send(self, content: Any) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        data = pickle.dumps(content)
        with contextlib.suppress(OSError):  # the process has just ended; `_listen` reports that
            self._process.stdin.write(data)
            self._process.stdin.flush()

    def _finish_task(self, result: Result | WorkerFailure) -> tuple[int, Result | WorkerFailure]:
        assert self._task is not None
        number, self._task = self._task, None
        self._progress.phase("")
        return number, result

    def _close_input(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):  # the process has ended, and unsent data are lost
                self._process.stdin.close()


def _terminate(team: Sequence[_Worker[Any, Any]], inbox: _Inbox) -> None:
    for worker in team:
        worker.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    if any(worker.is_running for worker in team):
        _log.info("up to %.0f s for the processes to stop; interrupt again to kill them", GRACE_SECONDS)
    # Their last log lines say where a result was written that could not be saved in the database.
    while any(worker.is_running for worker in team) and time.monotonic() < deadline:
        try:
            worker, message = inbox.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            return
        if isinstance(message, (Logged, _Ended)):
            worker.handle(message)


def _describe_exit(process: subprocess.Popen[bytes]) -> str:
    status = process.wait()
    if status >= 0:
        return f"ended with exit status {status}"
    number = -status
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    hint = ", as the system does when memory runs out" if number == signal.SIGKILL else ""
    return f"was ended by {name}{hint}"
