"""Tasks shared out among devices: one process for each, and the next task to whichever is free.

A process sees one device alone, because CUDA looks at its environment once, when it starts; and what kills
one process costs its own task only. Processes are started from scratch rather than forked: nothing of CUDA
survives a fork. They are plain children with a pipe each way, not `multiprocessing`'s, whose start runs the
caller's main module again.
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
from panic_tda.progress import Progress, Silent, beside, failed

Task = TypeVar("Task")
Result = TypeVar("Result")

GRACE_SECONDS = 30.0
"""What a process that was told to stop gets for keeping a result which it is just saving."""
# -P: nothing in the working folder takes the place of a module.
_COMMAND = (sys.executable, "-P", "-c", "from panic_tda.devices.worker import serve; serve()")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lost:
    """Stands in the place of a result that did not come.

    Attributes
    ----------
    reason : str
        What became of the task or of the process that had it.
    """

    reason: str


class _Ended:
    """What is heard last of every process."""


_Inbox: TypeAlias = "SimpleQueue[tuple[_Worker[Any, Any], Message | _Ended]]"


def run_on_devices(
    work: Callable[[Task, Progress], Result],
    tasks: Sequence[Task],
    devices: Mapping[str, Mapping[str, str]],
    progress: Progress | None = None,
) -> list[Result | Lost]:
    """Do tasks in several processes at once.

    Parameters
    ----------
    work : callable
        Does one task and tells a listener where it is. A function of a module: processes import it by name.
    tasks : sequence
        Handed out in this order; they travel pickled.
    devices : mapping of str to mapping
        Name of each device, as it stands before its log lines, and the environment variables by which a
        process sees no other one.
    progress : Progress, optional
        Hears each process beside the others where it can (see `progress.beside`).

    Returns
    -------
    list
        Of each task what `work` returned, or `Lost` where it raised or its process ended; the tasks after it
        get a new process.

    Notes
    -----
    An exception in the caller, such as KeyboardInterrupt, ends all processes before it goes on.
    """
    inbox: _Inbox = SimpleQueue()
    waiting = deque(enumerate(tasks))
    results: dict[int, Result | Lost] = {}
    team = [
        _Worker(work, name, environment, beside(progress or Silent()), inbox)
        for name, environment in devices.items()
    ]
    try:
        for worker in team:
            worker.next_of(waiting)
        while len(results) < len(tasks):
            worker, message = inbox.get()
            done = worker.hear(message)
            if done is not None:
                results[done[0]] = done[1]
                worker.next_of(waiting)
    except BaseException:
        with rescue():
            _terminate(team, inbox)
        raise
    finally:
        for worker in team:
            worker.end()
    return [results[number] for number in range(len(tasks))]


class _Worker(Generic[Task, Result]):
    """The caller's side of one device: its process, and the task that this has."""

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
        self._patient = True

    def next_of(self, waiting: deque[tuple[int, Task]]) -> None:
        """Take the next task, in a new process where there is none; without one the process may go."""
        if not waiting:
            self._close()
            return
        self._task, task = waiting.popleft()
        if self._process is None:
            self._process = self._start()
            self._send((self._work, self._name))
        self._send(task)

    def hear(self, message: Message | _Ended) -> tuple[int, Result | Lost] | None:
        """Pass on what the process says; return the number and result of its task when that is over."""
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
                failed(self._progress)
            case Done(result):
                return self._over(result)
            case Failed(reason):
                failed(self._progress)
                return self._over(Lost(reason))
            case _Ended() if self._process is not None:
                failed(self._progress)
                reason = f"its process on {self._name} {_ending(self._process)}"
                self._close()
                self._process = None
                return None if self._task is None else self._over(Lost(reason))
        return None

    @property
    def is_running(self) -> bool:
        """Whether a process is there that has not said its last word."""
        return self._process is not None

    def terminate(self) -> None:
        """Tell the process to stop: it keeps what it is just saving."""
        self._task, self._patient = None, False
        if self._process is not None:
            self._process.terminate()

    def end(self) -> None:
        """See to it that the process has gone."""
        self._close()
        if self._process is not None:
            try:
                self._process.wait(GRACE_SECONDS if self._patient else 0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        # What can be imported here can be imported there; a group of its own hears no Ctrl-C of the terminal.
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
            # The end of the pipe, which cuts a killed process's last message short; or one from nowhere.
            if not isinstance(error, (EOFError, pickle.UnpicklingError)):
                _log.debug("%s: not understood", self._name, exc_info=True)
                process.kill()
        self._inbox.put((self, _Ended()))

    def _send(self, content: Any) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        data = pickle.dumps(content)
        with contextlib.suppress(OSError):  # it has just died, and the other pipe says so
            self._process.stdin.write(data)
            self._process.stdin.flush()

    def _over(self, result: Result | Lost) -> tuple[int, Result | Lost]:
        assert self._task is not None
        number, self._task = self._task, None
        self._progress.phase("")
        return number, result

    def _close(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError):  # what a dead process will never read
                self._process.stdin.close()


def _terminate(team: Sequence[_Worker[Any, Any]], inbox: _Inbox) -> None:
    for worker in team:
        worker.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    if any(worker.is_running for worker in team):
        _log.info("up to %.0f s for the processes to stop; interrupt again to kill them", GRACE_SECONDS)
    # Their last words say where a result was kept that could not be saved any more.
    while any(worker.is_running for worker in team) and time.monotonic() < deadline:
        try:
            worker, message = inbox.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            return
        if isinstance(message, (Logged, _Ended)):
            worker.hear(message)


def _ending(process: subprocess.Popen[bytes]) -> str:
    status = process.wait()
    if status >= 0:
        return f"ended with exit status {status}"
    number = -status
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    hint = ", as the system does where memory runs out" if number == signal.SIGKILL else ""
    return f"was ended by {name}{hint}"
