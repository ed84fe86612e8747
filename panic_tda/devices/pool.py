"""Tasks shared out among devices: one process for each, and the next task to whichever is free.

A process sees one device alone, because CUDA looks at its environment once, when it starts; and what kills
one process costs its own task only. Processes are started from scratch rather than forked: nothing of CUDA
survives a fork. They are plain children with a pipe each way, not `multiprocessing`'s, whose start runs the
caller's main module again.
"""

from __future__ import annotations

import contextlib
import copy
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
from types import FrameType
from typing import Any, BinaryIO, Generic, TypeVar

from panic_tda.progress import Progress, Silent, beside

Task = TypeVar("Task")
Result = TypeVar("Result")

GRACE_SECONDS = 30.0
"""What a process that was told to stop gets for keeping a result which it is just saving."""
ADVANCE_SECONDS = 0.2
"""Least time between two messages of the same phase."""
_EXIT_TERMINATED = 128 + signal.SIGTERM
# -P: nothing in the working folder takes the place of a module.
_COMMAND = (sys.executable, "-P", "-c", "from panic_tda.devices.pool import serve; serve()")
_LOG, _PHASE, _ADVANCE, _RESULT, _FAILURE = "log", "phase", "advance", "result", "failure"
_END = ("end", None)
"""What is heard last of every process."""

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
    inbox: SimpleQueue[tuple[_Worker[Task, Result], Any]] = SimpleQueue()
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
        inbox: SimpleQueue[tuple[_Worker[Task, Result], Any]],
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

    def hear(self, message: tuple[str, Any]) -> tuple[int, Result | Lost] | None:
        """Pass on what the process says; return the number and result of its task when that is over."""
        kind, content = message
        if kind == _LOG:
            logger = logging.getLogger(content.name)
            if logger.isEnabledFor(content.levelno):
                logger.handle(content)
        elif kind == _PHASE:
            name, total = content
            self._progress.phase(f"{self._name}: {name}", total)
        elif kind == _ADVANCE:
            self._progress.advance(content)
        elif kind == _RESULT:
            return self._over(content)
        elif kind == _FAILURE:
            return self._over(Lost(content))
        elif self._process is not None:
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
        self._inbox.put((self, _END))

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


def _terminate(team: Sequence[_Worker[Any, Any]], inbox: SimpleQueue[tuple[_Worker[Any, Any], Any]]) -> None:
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
        if message[0] in (_LOG, _END[0]):
            worker.hear(message)


def _ending(process: subprocess.Popen[bytes]) -> str:
    status = process.wait()
    if status >= 0:
        return f"ended with exit status {status}"
    number = -status
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    hint = ", as the system does where memory runs out" if number == signal.SIGKILL else ""
    return f"was ended by {name}{hint}"


# ---------------------------------------------------------------------------- the process of a device


def serve() -> None:
    """Be the process of one device: do the tasks that come on stdin, tell of them on stdout."""
    # The two pipes are kept from whatever a library reads or prints.
    source = os.fdopen(os.dup(0), "rb")
    channel = _Channel(os.fdopen(os.dup(1), "wb"))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, channel.terminate)
    work, name = pickle.load(source)
    logger = logging.getLogger("panic_tda")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(_Forwarded(channel, name))
    while True:
        try:
            task = pickle.load(source)
        except EOFError:
            return
        channel.send(*_outcome(work, task, _Told(channel)))


def _outcome(work: Callable[[Any, Progress], Any], task: Any, progress: Progress) -> tuple[str, Any]:
    try:
        result = work(task, progress)
        pickle.dumps(result)
    except Exception as error:
        # Whatever breaks in one task must not cost the others theirs; the log has the whole story.
        _log.debug("a task failed unexpectedly", exc_info=True)
        return _FAILURE, f"unexpected {type(error).__name__}: {error}"
    return _RESULT, result


class _Channel:
    """Sends messages whole, whatever signal comes in between."""

    def __init__(self, sink: BinaryIO) -> None:
        self._sink = sink
        self._lock = threading.Lock()
        self._sending = self._terminated = False

    def send(self, kind: str, content: Any) -> None:
        data = pickle.dumps((kind, content))
        # Signals are handled in the main thread only, so that only its own messages could be cut.
        is_main = threading.current_thread() is threading.main_thread()
        self._sending |= is_main
        try:
            with self._lock:
                self._sink.write(data)
                self._sink.flush()
        except OSError:
            # Nobody listens any more: the caller was killed, and nobody waits for a result.
            sys.exit(_EXIT_TERMINATED)
        finally:
            self._sending &= not is_main
        if is_main and self._terminated:
            self._leave()

    def terminate(self, _number: int, _frame: FrameType | None) -> None:
        """Handle SIGTERM."""
        self._terminated = True
        if not self._sending:
            self._leave()

    def _leave(self) -> None:
        self._terminated = False  # What is said on the way out is to be heard.
        sys.exit(_EXIT_TERMINATED)


class _Told:
    """Progress of a task, as messages."""

    def __init__(self, channel: _Channel) -> None:
        self._channel = channel
        self._unsaid = 0.0
        self._said = 0.0

    def phase(self, name: str, total: float | None = None) -> None:
        self._unsaid, self._said = 0.0, time.monotonic()
        self._channel.send(_PHASE, (name, total))

    def advance(self, amount: float) -> None:
        self._unsaid += amount
        if time.monotonic() - self._said >= ADVANCE_SECONDS:
            said, self._unsaid, self._said = self._unsaid, 0.0, time.monotonic()
            self._channel.send(_ADVANCE, said)


class _Forwarded(logging.Handler):
    """Log records as messages, under the name of the device."""

    def __init__(self, channel: _Channel, name: str) -> None:
        super().__init__()
        self._channel = channel
        self._prefix = f"{name}: "

    def emit(self, record: logging.LogRecord) -> None:
        # Arguments and tracebacks cannot all be pickled: the message goes as text.
        said = copy.copy(record)
        said.msg, said.args = self._prefix + self.format(record), None
        said.exc_info = said.exc_text = said.stack_info = None
        self._channel.send(_LOG, said)
