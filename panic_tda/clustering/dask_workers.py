"""Dask workers: start processes on this machine, or connect to those of a scheduler.

A worker with one thread computes on the CUDA device that it sees: `start_workers` gives each process a
device, and `connect` finds out which workers have one. dask-cuda also starts such workers, with pools and
spilling of device memory that tasks do not need.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from panic_tda.clustering import dask_executor
from panic_tda.clustering.dask_executor import DaskExecutor
from panic_tda.clustering.worker_checks import describe_error
from panic_tda.errors import MissingPath, UnsupportedOnBackend, WorkersFailed
from panic_tda.wording import install_extra, pluralize

_RESTART_SECONDS = 600

_log = logging.getLogger(__name__)


def unavailable_reason() -> str | None:
    """Explain in one line why no Dask workers can be used here, with the remedy; return None if they can."""
    if importlib.util.find_spec("distributed") is None:
        return f"Dask is not installed: {install_extra('dask')}"
    return None


@contextlib.contextmanager
def start_workers(
    n_workers: int, environments: Sequence[Mapping[str, str]] | None = None
) -> Iterator[DaskExecutor]:
    """Start worker processes on this machine, and stop them at the end of the block.

    Parameters
    ----------
    n_workers : int
        Number of processes.
    environments : sequence of mapping, optional
        The environment variables with which each process sees one CUDA device, on which it then computes.

    Raises
    ------
    UnsupportedOnBackend
        Dask is not installed.
    WorkersFailed
        The processes cannot be started, or cannot use their devices.
    """
    distributed = _import_dask()
    import dask

    is_encrypted = importlib.util.find_spec("cryptography") is not None
    if not is_encrypted:
        _log.info(
            "the worker processes listen on 127.0.0.1 without TLS, so that other users of this machine could "
            "reach them; install cryptography if there are any"
        )
    settings: dict[str, Any] = {
        "security": is_encrypted or None,
        "n_workers": n_workers,
        "threads_per_worker": 1,
        "processes": True,
        "host": "127.0.0.1",
        "dashboard_address": "127.0.0.1:0",
        # Dask would end a process at 95 % of its limit. The memory of this machine is checked before a fit.
        "memory_limit": None,
        "silence_logs": logging.ERROR,
    }
    if environments is not None:
        settings["worker_class"] = partial(_start_nanny, environments=environments)
    configuration = {
        # A killed process is started again. On a busy machine that takes longer than the 15 s after which
        # Dask would give it up.
        "distributed.deploy.lost-worker-timeout": _RESTART_SECONDS,
        # Dask looks at what runs 100 times a second, and at itself 50 times. Without, a worker takes 1 % of a
        # core beside its tasks instead of 3 %, and this process 2 % instead of 5 %.
        "distributed.worker.profile.enabled": False,
        "distributed.admin.tick.interval": "500ms",
    }
    with dask.config.set(configuration), contextlib.ExitStack() as stack:
        try:
            with _ignored_interrupts():
                cluster = stack.enter_context(distributed.LocalCluster(**settings))
            client = stack.enter_context(distributed.Client(cluster, set_as_default=False))
            client.wait_for_workers(n_workers, timeout=dask_executor.CONNECT_SECONDS + 2 * n_workers)
        except (OSError, RuntimeError, TimeoutError) as error:
            raise WorkersFailed(
                f"{n_workers} worker processes could not be started here ({describe_error(error)}): set a "
                "smaller --workers. A script that starts workers must do so below "
                '`if __name__ == "__main__":`'
            ) from error
        processes = pluralize(n_workers, "process", "processes")
        executor = DaskExecutor(
            client, f"{n_workers} worker {processes} of this machine", use_devices=bool(environments)
        )
        if environments and not executor.on_device:
            executor.require_devices()
        yield executor


@contextlib.contextmanager
def connect(scheduler: str, *, use_devices: bool = True) -> Iterator[DaskExecutor]:
    """Connect to a scheduler that runs already, and disconnect at the end of the block.

    Parameters
    ----------
    scheduler : str
        Its address, such as tcp://host:8786, or the path of its scheduler file.
    use_devices : bool
        Whether workers compute on their CUDA devices, if every worker has one.

    Raises
    ------
    UnsupportedOnBackend
        Dask is not installed.
    MissingPath
        There is no such file.
    WorkersFailed
        Nobody answers, there is no worker, or the workers have other versions.
    """
    distributed = _import_dask()
    target: dict[str, Any] = {"address": scheduler}
    if "://" not in scheduler and (os.sep in scheduler or scheduler.endswith(".json")):
        if not os.path.isfile(scheduler):
            raise MissingPath(f"there is no scheduler file {scheduler}: start `dask scheduler` with it first")
        target = {"scheduler_file": scheduler}
    try:
        client = distributed.Client(**target, timeout=dask_executor.CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TimeoutError, TypeError, RuntimeError) as error:
        # TypeError and RuntimeError: an address with TLS, and no certificates in Dask's configuration.
        remedy = "start one with `dask scheduler`, and workers with `dask worker`"
        if isinstance(error, TypeError | RuntimeError):
            remedy = "set the certificates of its TLS in Dask's configuration, as on the hosts of the cluster"
        raise WorkersFailed(
            f"no scheduler answers at {scheduler} ({describe_error(error)}): {remedy}"
        ) from error
    with contextlib.closing(client):
        try:
            client.wait_for_workers(1, timeout=dask_executor.CONNECT_SECONDS)
        except TimeoutError as error:
            raise WorkersFailed(
                f"the scheduler at {scheduler} has no workers: start some with `dask worker {scheduler}`"
            ) from error
        yield DaskExecutor(client, f"the workers of {scheduler}", use_devices=use_devices)


def _start_nanny(
    scheduler: str, *, name: int, environments: Sequence[Mapping[str, str]], **settings: Any
) -> Any:
    """Start a worker process, and start it again if it ends, with environment variables of its own."""
    from distributed import Nanny

    return Nanny(scheduler, **settings | {"name": name, "env": dict(environments[name])})


def _import_dask() -> Any:
    if (reason := unavailable_reason()) is not None:
        raise UnsupportedOnBackend(reason)
    import distributed

    return distributed


@contextlib.contextmanager
def _ignored_interrupts() -> Iterator[None]:
    """Start processes that ignore Ctrl-C, which a terminal sends to all: this process stops them itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
