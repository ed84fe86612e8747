"""Checks of workers before a fit: versions, processors, memory and CUDA devices.

Workers run the functions that describe them; this process compares the answers.
"""

from __future__ import annotations

import hashlib
import logging
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from panic_tda.clustering.tiled import device_blocks
from panic_tda.devices import cuda
from panic_tda.devices.machine import host_memory
from panic_tda.errors import WorkersFailed
from panic_tda.wording import format_bytes, pluralize

_PACKAGES = ("panic_tda", "distributed", "numpy", "numba", "llvmlite")
"""Packages of which all workers need the client's version; results or messages could differ otherwise."""
_MEMORY_SHARE = 0.95
"""Share of its limit above which Dask ends a worker (`distributed.worker.memory.terminate`)."""

_log = logging.getLogger(__name__)


def require_same_versions(answers: Mapping[str, Any]) -> None:
    """Check that all workers have the versions of this process, and warn if the processors differ.

    Parameters
    ----------
    answers : mapping of str to dict
        Answer of each worker to `describe_process`, or the exception that it raised.

    Raises
    ------
    WorkersFailed
        A worker has another version, or cannot answer; the message names it.
    """
    own = describe_process()
    processors = {own["processor"]: "this process"}
    for worker, answer in answers.items():
        if not isinstance(answer, dict):
            raise WorkersFailed(
                f"worker {worker} cannot load panic_tda ({describe_error(answer)}): install the same version "
                "of panic_tda[dask] there as here"
            )
        for name, version in own["versions"].items():
            workers_version = answer["versions"].get(name, "nothing")
            if workers_version != version:
                raise WorkersFailed(
                    f"worker {worker} has {name} {workers_version}, and this process has {version}: "
                    "install the same versions on all hosts"
                )
        processors.setdefault(answer["processor"], f"worker {worker}")
    if len(processors) > 1:
        _log.warning(
            "the processors differ (%s): distances may differ in the last of 16 digits, and two runs "
            "need not give the same digits; use hosts of one kind for that",
            ", ".join(f"{name} on {owner}" for name, owner in sorted(processors.items())),
        )


def require_memory(answers: Mapping[str, Any], task_bytes: int) -> None:
    """Check that the tasks of each worker, and of all workers of a host, fit into memory.

    Parameters
    ----------
    answers : mapping of str to WorkerMemory
        Answer of each worker to `describe_memory`, or the exception that it raised.
    task_bytes : int
        Memory that a task takes.

    Raises
    ------
    WorkersFailed
        They do not; the message names the worker or the host.
    """
    wanted, available = dict[str, int](), dict[str, int]()
    for worker, answer in answers.items():
        if not isinstance(answer, WorkerMemory):
            raise WorkersFailed(f"worker {worker} cannot say its memory limit ({describe_error(answer)})")
        needed = answer.n_threads * task_bytes
        if answer.limit and answer.used + needed > _MEMORY_SHARE * answer.limit:
            raise WorkersFailed(
                f"worker {worker} needs {format_bytes(answer.used + needed)} for "
                f"{answer.n_threads} {pluralize(answer.n_threads, 'task')} at once, more than "
                f"{100 * _MEMORY_SHARE:.0f} % of its limit of {format_bytes(answer.limit)}: start it "
                "with fewer --nthreads or a larger --memory-limit"
            )
        # Without the port.
        host = worker.rpartition(":")[0]
        wanted[host] = wanted.get(host, 0) + needed
        if answer.available is not None:
            available[host] = min(answer.available, available.get(host, answer.available))
    for host, free in available.items():
        if wanted[host] > free:
            raise WorkersFailed(
                f"the workers on {host} need {format_bytes(wanted[host])} for their tasks, but "
                f"{format_bytes(free)} are available there: start fewer workers, or with fewer --nthreads"
            )
    _log.info("a task takes up to %s of a worker's memory", format_bytes(task_bytes))


class WorkerMemory(NamedTuple):
    """Memory of a worker's process and of its host.

    Attributes
    ----------
    n_threads : int
        Tasks that the worker runs at once.
    limit : int
        Bytes above which Dask ends the worker; 0 is none.
    used : int
        Bytes that it has now.
    available : int or None
        Bytes that the host can give; None if unknown.
    """

    n_threads: int
    limit: int
    used: int
    available: int | None


def describe_memory(dask_worker: Any) -> WorkerMemory:
    """Describe the memory of the worker that runs this."""
    limit = dask_worker.memory_manager.memory_limit or 0
    used = dask_worker.monitor.get_process_memory()
    return WorkerMemory(dask_worker.state.nthreads, int(limit), int(used), host_memory()[1])


class WorkerDevice(NamedTuple):
    """The CUDA device of a worker.

    Attributes
    ----------
    n_threads : int
        Tasks that the worker runs at once.
    reason : str or None
        Reason why the worker has no device; None if it has one.
    free_bytes : int
        Device memory that a task may take.
    uuid : str
        Identifies the device.
    """

    n_threads: int
    reason: str | None
    free_bytes: int = 0
    uuid: str = ""


def describe_device(dask_worker: Any) -> WorkerDevice:
    """Describe the CUDA device on which the worker that runs this would compute."""
    n_threads, reason = dask_worker.state.nthreads, cuda.unavailable_reason()
    if reason is not None:
        return WorkerDevice(n_threads, reason)
    return WorkerDevice(n_threads, None, device_blocks.count_free_bytes(), cuda.identify())


def have_devices(answers: Mapping[str, Any]) -> bool:
    """Return whether every worker can compute on a CUDA device.

    Warn if only some of them can, or if two have the same one.

    Parameters
    ----------
    answers : mapping of str to WorkerDevice
        Answer of each worker to `describe_device`, or the exception that it raised.
    """
    unusable = {worker: reason for worker, answer in answers.items() if (reason := _explain_device(answer))}
    if unusable and any(
        isinstance(answer, WorkerDevice) and not answer.reason for answer in answers.values()
    ):
        worker, reason = next(iter(unusable.items()))
        _log.warning(
            "no CUDA device is used: %d of %d workers cannot compute on one (worker %s: %s)",
            len(unusable), len(answers), worker, reason,
        )  # fmt: skip
    if not unusable:
        _warn_of_shared_devices(answers)
    return bool(answers) and not unusable


def _warn_of_shared_devices(answers: Mapping[str, WorkerDevice]) -> None:
    """Warn if workers see the same device, each of which would count the memory of all as its own."""
    workers: dict[str, list[str]] = {}
    for worker, answer in answers.items():
        workers.setdefault(answer.uuid, []).append(worker)
    for uuid, sharing in workers.items():
        if len(sharing) > 1:
            _log.warning(
                "workers %s use the same CUDA device (UUID %s), and may run out of its memory: start one "
                "worker for each device, with CUDA_VISIBLE_DEVICES or `dask cuda worker`",
                ", ".join(sharing), uuid,
            )  # fmt: skip


def require_devices(answers: Mapping[str, Any], device_bytes: int) -> None:
    """Check that every worker has a CUDA device with the memory of a task.

    Parameters
    ----------
    answers : mapping of str to WorkerDevice
        Answer of each worker to `describe_device`, or the exception that it raised.
    device_bytes : int
        Device memory that a task takes.

    Raises
    ------
    WorkersFailed
        A worker has not; the message names it.
    """
    for worker, answer in answers.items():
        if reason := _explain_device(answer):
            raise WorkersFailed(
                f"worker {worker} cannot compute on a CUDA device ({reason}). To compute on processors, use "
                "--devices none"
            )
        if answer.free_bytes < device_bytes:
            raise WorkersFailed(
                f"worker {worker} has {format_bytes(answer.free_bytes)} of device memory for a task, but "
                f"{format_bytes(device_bytes)} are needed: use devices with more memory, or --devices none"
            )
    _log.info("a task takes up to %s of a worker's device memory", format_bytes(device_bytes))


def _explain_device(answer: Any) -> str | None:
    """Explain why a worker cannot compute on a CUDA device; return None if it can."""
    if not isinstance(answer, WorkerDevice):
        return describe_error(answer)
    if answer.reason is None and answer.n_threads > 1:
        return f"it has {answer.n_threads} threads, and a device serves one: start it with --nthreads 1"
    return answer.reason


def describe_process() -> dict[str, Any]:
    """Return the versions and the processor of this process, for a comparison with others."""
    from importlib.metadata import version

    import llvmlite.binding

    versions = {"Python": ".".join(platform.python_version_tuple()[:2])}
    versions |= {name: version(name) for name in _PACKAGES}
    versions["the source of panic_tda.clustering"] = _hash_source()
    return {"versions": versions, "processor": llvmlite.binding.get_host_cpu_name()}


@cache
def _hash_source() -> str:
    """Return a digest of the code that computes, which may differ where the version is the same."""
    digest, folder = hashlib.sha256(), Path(__file__).parent
    for source in sorted(folder.rglob("*.py")):
        digest.update(f"{source.relative_to(folder)}\n".encode() + source.read_bytes())
    return digest.hexdigest()[:12]


def read_text(path: str) -> str:
    """Return the text of a file, as the worker that runs this sees it."""
    return Path(path).read_text()


def describe_error(error: object) -> str:
    """Return the type of an error with its message, if it has one."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
