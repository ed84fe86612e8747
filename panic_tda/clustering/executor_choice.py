"""Choice of the processes and CUDA devices that do the work of a call."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from panic_tda.clustering import backends
from panic_tda.devices import cuda
from panic_tda.errors import InvalidParameter, UnsupportedOnBackend
from panic_tda.parameters import ClusteringParameters, Resources
from panic_tda.records import COSINE

if TYPE_CHECKING:
    from panic_tda.clustering.executor import Executor

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Workers:
    """The Dask workers of a call, if there are any; otherwise this process does the work.

    Attributes
    ----------
    count : int
        Number of worker processes to start on this machine; 0 starts none.
    scheduler : str or None
        Scheduler whose workers are used.
    devices : tuple of int
        CUDA devices of this machine: one for each worker; empty if workers use none.
    share_models : bool
        Whether all workers work on each model. Otherwise each works on a model of its own.
    """

    count: int = 0
    scheduler: str | None = None
    devices: tuple[int, ...] = ()
    share_models: bool = False


def choose_workers(resources: Resources, parameters: ClusteringParameters) -> Workers:
    """Choose the workers of a call, and the CUDA devices of this machine that it uses.

    With several devices, each has a worker: all of them share each model, or with backend `cuml`, which
    takes one device, each has a model of its own.

    Raises
    ------
    InvalidParameter
        There is no such device, or there are more workers than devices.
    UnsupportedOnBackend
        The backend cannot share its work, or Dask is not installed and the call cannot do without.
    """
    if resources.uses_dask:
        _require_tiled(parameters)
        _require_dask()
    if resources.scheduler is not None:
        return Workers(scheduler=resources.scheduler, share_models=True)
    if resources.workers is not None:
        devices = _choose_worker_devices(resources.workers, resources.devices)
        return Workers(count=resources.workers, devices=devices, share_models=True)
    # `cuda.choose` imports CuPy, which takes seconds and which fits on the processor do not need.
    on_host = parameters.backend in backends.ON_HOST or parameters.metric != COSINE
    if on_host and not resources.devices:
        return Workers()
    devices = cuda.choose(resources.devices)
    if on_host or not devices:
        return Workers()
    if devices == (0,) or (resources.devices is None and not _has_dask(len(devices))):
        # This process uses the first device anyway.
        return Workers()
    _require_dask()
    # One worker computes a whole model, because to divide it takes time.
    share = len(devices) > 1 and parameters.backend in (backends.AUTO, backends.TILED)
    return Workers(count=len(devices), devices=devices, share_models=share)


def choose_exact(parameters: ClusteringParameters) -> ClusteringParameters:
    """Return the parameters with the backend whose work workers can share."""
    return replace(parameters, backend=backends.TILED, exact=True)


@contextlib.contextmanager
def open_executor(workers: Workers, *, use_devices: bool) -> Iterator[Executor | None]:
    """Open the workers that share each model; None is this process.

    Parameters
    ----------
    workers : Workers
        What `choose_workers` returned.
    use_devices : bool
        Whether workers of a scheduler compute on their CUDA devices.
    """
    if not workers.share_models:
        yield None
        return
    from panic_tda.clustering import dask_workers

    if workers.scheduler is not None:
        opened = dask_workers.connect(workers.scheduler, use_devices=use_devices)
    else:
        environments = [cuda.environment(number) for number in workers.devices] or None
        opened = dask_workers.start_workers(workers.count, environments)
    with opened as executor:
        yield executor


def _require_tiled(parameters: ClusteringParameters) -> None:
    if parameters.backend not in (backends.AUTO, backends.TILED):
        raise UnsupportedOnBackend(
            f"backend {parameters.backend} works in one process: use --backend tiled with --workers or "
            "--scheduler"
        )


def _require_dask() -> None:
    from panic_tda.clustering import dask_workers

    if (reason := dask_workers.unavailable_reason()) is not None:
        raise UnsupportedOnBackend(reason)


def _has_dask(n_devices: int) -> bool:
    """Return whether workers can be started; warn if devices are left unused because they cannot."""
    from panic_tda.clustering import dask_workers

    reason = dask_workers.unavailable_reason()
    if reason is not None:
        _log.warning("1 of %d CUDA devices is used: %s", n_devices, reason)
    return reason is None


def _choose_worker_devices(n_workers: int, numbers: tuple[int, ...] | None) -> tuple[int, ...]:
    """Choose a device for each worker process of this machine; none if there is no device."""
    devices = cuda.choose(numbers)
    if devices and n_workers > len(devices):
        raise InvalidParameter(
            f"workers must be at most {len(devices)}, the number of CUDA devices, as each worker has one; "
            f"got {n_workers}. To compute on processors, use --devices none"
        )
    return devices[:n_workers]
