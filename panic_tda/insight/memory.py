"""What backends would take of which memory, and whether that can be had here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from panic_tda.clustering import backends
from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.placement import missing_memory
from panic_tda.devices import cuda
from panic_tda.errors import UnsupportedOnBackend

if TYPE_CHECKING:
    from pathlib import Path

    from panic_tda.parameters import ClusteringParameters


@dataclass(frozen=True)
class BackendMemory:
    """What a backend would take.

    Attributes
    ----------
    bytes : int
        At most, or an estimate; with the rows where they lie in the same memory.
    on_device : bool
        Whether it is device memory.
    fits : bool
        Whether it can be had now, and the backend can do this at all.
    reason : str or None
        Why not, with what to do.
    """

    bytes: int
    on_device: bool
    fits: bool
    reason: str | None


def memory_by_backend(
    asked: ClusteringParameters, n_rows: int, n_features: int, *, folder: Path
) -> dict[str, BackendMemory]:
    """Say of every backend, by name, what it would take for rows of this shape.

    Parameters
    ----------
    asked : ClusteringParameters
        What will be asked for.
    n_rows, n_features : int
        Shape of the matrix, copies of rows counted.
    folder : Path
        Where files would go that take what exceeds memory.
    """
    names = [name for name in backends.NAMES if name != backends.AUTO]
    return {name: _memory_of(name, asked, (n_rows, n_features), folder) for name in names}


def _memory_of(name: str, asked: ClusteringParameters, shape: tuple[int, int], folder: Path) -> BackendMemory:
    effective = asked.resolve(shape[0])
    options = FitOptions(
        min_samples=effective.min_samples,
        distance_floor=effective.distance_floor,
        on_device=name not in backends.ON_HOST and cuda.unusable_because() is None,
    )
    backend, reason = backends.get(name), backends.unusable_because(name)
    if reason is None:
        try:
            backend.check(*shape, options)
        except UnsupportedOnBackend as refusal:
            if asked.backend == backends.AUTO and options.on_device and backend.exact:
                # As auto does then.
                options = replace(options, on_device=False)
            else:
                reason = str(refusal)
    needed = backend.bytes_needed(*shape, options)
    if reason is None and not options.on_device:
        reason = missing_memory(name, needed, folder)
    # Where cuML cannot run it would take device memory all the same.
    on_device = options.on_device or not backend.exact
    return BackendMemory(needed, on_device, fits=reason is None, reason=reason)
