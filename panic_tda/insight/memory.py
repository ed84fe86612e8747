"""Estimate the memory that each backend needs, and check whether it is available."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from panic_tda.clustering import backends
from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.placement import missing_memory
from panic_tda.devices import cuda
from panic_tda.errors import UnsupportedOnBackend
from panic_tda.parameters import KEEP_NEIGHBOURS, ClusteringParameters
from panic_tda.records import COSINE


@dataclass(frozen=True)
class BackendMemory:
    """Memory that a backend needs.

    Attributes
    ----------
    bytes : int
        Upper bound or estimate, including the rows if they are in the same memory.
    on_device : bool
        Whether it is device memory.
    fits : bool
        Whether the memory is available now, and the backend supports the parameters.
    reason : str or None
        Reason why not, with a remedy.
    """

    bytes: int
    on_device: bool
    fits: bool
    reason: str | None


def memory_by_backend(
    parameters: ClusteringParameters, n_rows: int, n_features: int, *, folder: Path
) -> dict[str, BackendMemory]:
    """Estimate the memory that each backend needs for rows of this shape, by name.

    Parameters
    ----------
    parameters : ClusteringParameters
        Parameters of the clustering.
    n_rows, n_features : int
        Shape of the matrix, including copies of rows.
    folder : Path
        Folder for temporary files if the data exceeds memory.
    """
    names = [name for name in backends.NAMES if name != backends.AUTO]
    return {name: _estimate_memory(name, parameters, (n_rows, n_features), folder) for name in names}


def _estimate_memory(
    name: str, parameters: ClusteringParameters, shape: tuple[int, int], folder: Path
) -> BackendMemory:
    effective = parameters.resolve(shape[0])
    options = FitOptions(
        min_samples=effective.min_samples,
        distance_floor=effective.distance_floor,
        on_device=name not in backends.ON_HOST
        and parameters.metric == COSINE
        and cuda.unavailable_reason() is None,
        keep_neighbours=min(KEEP_NEIGHBOURS, shape[0]),
        metric=parameters.metric,
    )
    backend, reason = backends.get_backend(name), backends.unavailable_reason(name)
    if reason is None:
        try:
            backend.check(*shape, options)
        except UnsupportedOnBackend as refusal:
            if parameters.backend == backends.AUTO and options.on_device and backend.exact:
                # The backend auto falls back to the host then.
                options = replace(options, on_device=False)
            else:
                reason = str(refusal)
    needed = backend.bytes_needed(*shape, options)
    if reason is None and not options.on_device:
        reason = missing_memory(name, needed, folder)
    # An inexact backend (cuML) needs device memory, even if it cannot run here.
    on_device = options.on_device or not backend.exact
    return BackendMemory(needed, on_device, fits=reason is None, reason=reason)
