"""Whole models on Dask workers of this machine: each worker has a CUDA device and one model at a time.

This is for fits whose work cannot be divided among devices, such as those of cuML, and for a device that is
not the first: a process sees only one device, because CUDA reads its environment only once.

Each worker has a scheduler of its own, so that its end costs no other task. It sends its progress and its log
as Dask events, which arrive in order and before the result.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from panic_tda.clustering.dask_workers import start_workers
from panic_tda.clustering.executor import Result, Task
from panic_tda.errors import unexpected
from panic_tda.progress import Progress, child_progress, report_failure

ADVANCE_SECONDS = 0.2
"""Least time between two events about progress in the same phase, in seconds."""
_TOPIC = "panic_tda"
_CONFIGURATION = {
    # A model that ended its process would do so again.
    "distributed.scheduler.allowed-failures": 0,
    # A library may not let Dask's thread run for as long as a fit takes.
    "distributed.scheduler.worker-ttl": None,
    # A process that cannot be started again must not be waited for without end.
    "distributed.scheduler.no-workers-timeout": "10 minutes",
}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unfinished:
    """The reason why a task has no result.

    Attributes
    ----------
    reason : str
        The error of the task, or the end of its process.
    """

    reason: str


def run_on_devices(
    work: Callable[[Task, Progress], Result],
    tasks: Sequence[Task],
    devices: Mapping[str, Mapping[str, str]],
    progress: Progress,
) -> Generator[tuple[Task, Result | Unfinished]]:
    """Yield every task with its result, in the order in which the results arrive.

    Parameters
    ----------
    work : callable
        Runs one task in a worker and reports its progress; a function of a module, which workers import.
    tasks : sequence
        Tasks, started in this order; they must be picklable.
    devices : mapping of str to mapping
        For the name of each device, which is the prefix of its log lines: the environment variables with
        which a process sees only this device.
    progress : Progress
        Receives the progress of each worker, separately if it can (see `progress.child_progress`).

    Raises
    ------
    UnsupportedOnBackend
        Dask is not installed.
    WorkersFailed
        The workers cannot be started, or cannot use their devices.

    Notes
    -----
    A task that raises an exception or ends its process is `Unfinished`; those after it get a new process. The
    processes end with the generator.
    """
    import dask

    waiting, running = deque(tasks), dict[str, tuple[Any, Task, _Receiver, Any]]()
    arrived: SimpleQueue[Any] = SimpleQueue()

    def start_next(client: Any, receiver: _Receiver) -> None:
        if waiting:
            task = waiting.popleft()
            future = client.submit(_run_task, work, task, pure=False)
            running[future.key] = future, task, receiver, client
            future.add_done_callback(arrived.put)

    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(_CONFIGURATION))
        for name, environment in devices.items():
            client = stack.enter_context(start_workers(1, [environment])).client
            receiver = _Receiver(name, child_progress(progress))
            client.subscribe_topic(_TOPIC, receiver.receive)
            start_next(client, receiver)
        while running:
            future, task, receiver, client = running.pop(arrived.get().key)
            result = _fetch(future, receiver)
            start_next(client, receiver)
            yield task, result


def _fetch(future: Any, receiver: _Receiver) -> Any:
    from distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker:
        receiver.fail()
        return Unfinished(
            f"its process on {receiver.name} was ended, as the system does when memory runs out"
        )
    except Exception as error:  # of any library, also while it sends the result
        receiver.fail()
        return Unfinished(unexpected(error))
    finally:
        future.release()


class _Receiver:
    """The caller's side of one worker, which passes on its progress and its log."""

    def __init__(self, name: str, progress: Progress) -> None:
        self.name, self._progress = name, progress

    def receive(self, event: tuple[float, Sequence[Any]]) -> None:
        """Handle an event of the worker."""
        _time, message = event
        match tuple(message):
            case ("log", str(logger_name), int(level), text):
                logger = logging.getLogger(logger_name)
                if logger.isEnabledFor(level):
                    logger.log(level, "%s: %s", self.name, text)
            case ("phase", str(name), total):
                self._progress.phase(f"{self.name}: {name}" if name else "", total)
            case ("advance", amount):
                self._progress.advance(amount)
            case ("failed",):
                report_failure(self._progress)

    def fail(self) -> None:
        """End the phase, which has failed."""
        report_failure(self._progress)


def _run_task(work: Callable[[Task, Progress], Result], task: Task) -> Result | Unfinished:
    """Run a task in the process of a worker."""
    from distributed import get_worker

    worker = get_worker()
    events = EventProgress(lambda *message: worker.log_event(_TOPIC, message))
    with _forwarded_log(events.send):
        try:
            return work(task, events)
        except Exception as error:
            # An error in one task must not stop the others; the log has the traceback.
            _log.debug("a task failed unexpectedly", exc_info=True)
            events.failed()
            return Unfinished(unexpected(error))
        finally:
            events.phase("")


class EventProgress:
    """Progress that is sent as events.

    Parameters
    ----------
    send : callable
        Sends an event, whose parts are texts and numbers.
    clock : callable
        Returns the time in seconds.
    """

    def __init__(self, send: Callable[..., None], clock: Callable[[], float] = time.monotonic) -> None:
        self.send, self._clock = send, clock
        self._unsent, self._sent_at = 0.0, 0.0

    def phase(self, name: str, total: float | None = None) -> None:
        """Send the beginning of a phase."""
        self._unsent, self._sent_at = 0.0, self._clock()
        self.send("phase", name, None if total is None else float(total))

    def advance(self, amount: float) -> None:
        """Send the amount, together with earlier ones that were not sent, if the last event was long ago."""
        self._unsent += float(amount)
        if self._clock() - self._sent_at >= ADVANCE_SECONDS:
            amount, self._unsent, self._sent_at = self._unsent, 0.0, self._clock()
            self.send("advance", amount)

    def failed(self) -> None:
        """Send that the phase failed."""
        self.send("failed")


class _LogForwarder(logging.Handler):
    """Handler that sends log records as events."""

    def __init__(self, send: Callable[..., None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        # As text with its traceback, because arguments can be of any type.
        self._send("log", record.name, record.levelno, self.format(record))


@contextlib.contextmanager
def _forwarded_log(send: Callable[..., None]) -> Iterator[None]:
    """Send the log of this package as events inside the block; nothing is printed in the worker."""
    logger, handler = logging.getLogger("panic_tda"), _LogForwarder(send)
    level, propagates = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagates
