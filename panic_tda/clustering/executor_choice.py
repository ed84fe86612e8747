"""Choice of the worker processes and CUDA devices that share the work of a clustering."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from panic_tda.clustering import backends
from panic_tda.devices import cuda
from panic_tda.errors import InvalidParameter, UnsupportedOnBackend
from panic_tda.parameters import ClusteringParameters, Resources

if TYPE_CHECKING:
    from panic_tda.clustering.executor import Executor


def choose_exact(parameters: ClusteringParameters) -> ClusteringParameters:
    """Return the parameters with the backend whose work Dask workers can share."""
    from panic_tda.clustering import dask_executor

    if parameters.backend not in (backends.AUTO, backends.TILED):
        raise UnsupportedOnBackend(
            f"backend {parameters.backend} works in one process: use --backend tiled with --workers or "
            "--scheduler"
        )
    if (reason := dask_executor.unavailable_reason()) is not None:
        raise UnsupportedOnBackend(reason)
    return replace(parameters, backend=backends.TILED, exact=True)


@contextlib.contextmanager
def open_executor(resources: Resources, devices: Sequence[int]) -> Iterator[Executor | None]:
    """Open the workers that share the work of each fit; None is this process."""
    if not resources.uses_dask:
        yield None
        return
    from panic_tda.clustering import dask_executor

    if resources.scheduler is not None:
        opened = dask_executor.connect(resources.scheduler, use_devices=resources.devices != ())
    else:
        environments = [cuda.environment(number) for number in devices] or None
        opened = dask_executor.start_workers(resources.workers or 1, environments)
    with opened as executor:
        yield executor


def choose_devices(resources: Resources, parameters: ClusteringParameters) -> tuple[int, ...]:
    """Choose the CUDA devices of this machine that the call uses; none for a scheduler, which has its own."""
    if resources.scheduler is not None:
        return ()
    if resources.workers is not None:
        return _choose_worker_devices(resources.workers, resources.devices)
    # `cuda.choose` imports CuPy, which takes seconds and which these backends do not need.
    if parameters.backend in backends.ON_HOST and not resources.devices:
        return ()
    chosen = cuda.choose(resources.devices)
    return () if parameters.backend in backends.ON_HOST else chosen


def _choose_worker_devices(n_workers: int, numbers: tuple[int, ...] | None) -> tuple[int, ...]:
    """Choose a device for each worker process of this machine; none if there is no device."""
    devices = cuda.choose(numbers)
    if devices and n_workers > len(devices):
        raise InvalidParameter(
            f"workers must be at most {len(devices)}, the number of CUDA devices, as each worker has one; "
            f"got {n_workers}. To compute on processors, use --devices none"
        )
    return devices[:n_workers]
