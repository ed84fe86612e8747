"""Which backend takes a matrix, on the processor or on a CUDA device: decided before the rows are loaded."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from panic_tda.arrays import device
from panic_tda.arrays.namespace import on_device, to_host
from panic_tda.clustering import backends
from panic_tda.clustering.backends.base import Backend, Checkpoint, FitOptions
from panic_tda.devices import cuda
from panic_tda.devices.machine import host_memory
from panic_tda.disk import free_text
from panic_tda.errors import UnsupportedOnBackend
from panic_tda.parameters import format_bytes
from panic_tda.progress import Silent

if TYPE_CHECKING:
    from panic_tda.parameters import ClusteringParameters, EffectiveParameters
    from panic_tda.progress import Progress
    from panic_tda.types import Array

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Which backend takes a matrix, where its rows belong and where it is worked on.

    Attributes
    ----------
    backend : Backend
        The one that was named, or that "auto" chose.
    on_device : bool
        Whether the work is done on the CUDA device; its rows may lie in host memory all the same.
    rows_on_device : bool
        Whether the rows belong into the memory of the device.
    memory_limit : int or None
        Bytes that the backend may take above the rows, as far as it can.
    work_dir : Path or None
        Folder for the files that take what exceeds it; None is the temporary folder.
    """

    backend: Backend
    on_device: bool
    rows_on_device: bool
    memory_limit: int | None = None
    work_dir: Path | None = None

    def bring(self, vectors: Array) -> Array:
        """Return the rows in the memory where they belong; themselves where they lie there."""
        if self.rows_on_device == on_device(vectors):
            return vectors
        return device.upload(vectors) if self.rows_on_device else to_host(vectors)

    def options(
        self, effective: EffectiveParameters, progress: Progress, checkpoint: Checkpoint | None
    ) -> FitOptions:
        """Return what the backend needs beside the rows."""
        return FitOptions(
            min_samples=effective.min_samples,
            distance_floor=effective.distance_floor,
            progress=progress,
            checkpoint=checkpoint,
            memory_limit=self.memory_limit,
            work_dir=self.work_dir,
            on_device=self.on_device,
        )


def place(
    asked: ClusteringParameters,
    n_rows: int,
    n_features: int,
    *,
    memory_limit: int | None = None,
    work_dir: Path | None = None,
) -> Placement:
    """Choose the backend for a matrix, and with it the memory for its rows.

    Parameters
    ----------
    asked : ClusteringParameters
        What was asked for.
    n_rows, n_features : int
        Shape of the matrix, copies of rows counted.
    memory_limit : int, optional
        Bytes that the backend may take above the rows.
    work_dir : Path, optional
        Folder for the files that take what exceeds it.

    Raises
    ------
    UnsupportedOnBackend
        The chosen backend cannot do this.
    """
    # Asking imports CuPy, which takes seconds: not where the backend that was named has no use for it.
    wants_device = asked.backend not in backends.ON_HOST
    reason = cuda.unusable_because() if wants_device else None
    has_device = wants_device and reason is None
    if reason is not None and asked.backend == backends.AUTO:
        backends.log_once(f"no CUDA device is used: {reason}")
    try:
        placed = _placed(asked, (n_rows, n_features), memory_limit, on_device=has_device)
    except UnsupportedOnBackend as refusal:
        if asked.backend != backends.AUTO or not has_device:
            raise
        # Nobody is there at night to say `--devices none`.
        _log.info("%s; trying in host memory", refusal)
        placed = _placed(asked, (n_rows, n_features), memory_limit, on_device=False)
    return replace(placed, work_dir=work_dir)


def place_instead(
    asked: ClusteringParameters,
    n_rows: int,
    n_features: int,
    *,
    reason: str,
    memory_limit: int | None = None,
    work_dir: Path | None = None,
) -> Placement:
    """Choose `tiled` for a matrix on which the backend that "auto" chose has failed, and log the reason.

    The rows that the failed backend was given must not be used again: they have to be loaded anew.
    """
    _log.warning("%s; falling back to backend tiled", reason)
    exact = replace(asked, exact=True)
    return place(exact, n_rows, n_features, memory_limit=memory_limit, work_dir=work_dir)


def require_host_memory(placement: Placement, asked: ClusteringParameters, shape: tuple[int, int]) -> None:
    """Check, before rows are loaded, that a fit in host memory has the memory that it needs.

    Parameters
    ----------
    placement : Placement
        Where the rows will be fitted.
    asked : ClusteringParameters
        What was asked for.
    shape : tuple of int
        Of the matrix, copies of rows counted.

    Raises
    ------
    UnsupportedOnBackend
        It needs more than this process can get.
    """
    if placement.on_device:
        return
    options = placement.options(asked.resolve(shape[0]), Silent(), None)
    needed, limit = placement.backend.bytes_needed(*shape, options), placement.memory_limit
    if limit is not None and placement.backend.name not in backends.ON_HOST:
        # What exceeds the limit goes into files: the rows, the lists, or both.
        n_row_bytes = 4 * shape[0] * shape[1]
        needed = min(needed, limit + (n_row_bytes if n_row_bytes <= limit else 0))
    reason = missing_memory(placement.backend.name, needed, placement.work_dir)
    if reason is not None:
        raise UnsupportedOnBackend(reason)


def missing_memory(backend: str, needed: int, work_dir: Path | None) -> str | None:
    """Say that this process cannot get so many bytes of host memory; None where it can, or nobody knows."""
    available = host_memory()[1]
    if available is None or needed <= available:
        return None
    problem = (
        f"backend {backend} needs {format_bytes(needed)}, and {format_bytes(available)} of memory can be had"
    )
    if backend in backends.ON_HOST:
        return f"{problem}: sample with --downsample, or use --backend tiled"
    return (
        f"{problem}: sample with --downsample, or cluster with a smaller --memory-limit, which takes longer: "
        f"vectors and lists go into files then{free_text(work_dir or Path(tempfile.gettempdir()))}"
    )


def _placed(
    asked: ClusteringParameters, shape: tuple[int, int], memory_limit: int | None, *, on_device: bool
) -> Placement:
    effective = asked.resolve(shape[0])
    options = FitOptions(
        min_samples=effective.min_samples,
        distance_floor=effective.distance_floor,
        memory_limit=memory_limit,
        on_device=on_device,
        exact=asked.exact,
    )
    backend = backends.select(asked.backend, shape, options)
    return Placement(
        backend=backend,
        on_device=on_device and backend.name not in backends.ON_HOST,
        rows_on_device=backend.rows_on_device(*shape, options),
        memory_limit=memory_limit,
    )
