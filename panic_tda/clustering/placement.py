"""The choice of the backend, and of processor or CUDA device, before the rows are loaded."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from panic_tda.arrays import device
from panic_tda.arrays.namespace import on_device, to_host
from panic_tda.clustering import backends
from panic_tda.clustering.backends.base import Backend, FitOptions
from panic_tda.devices import cuda
from panic_tda.devices.machine import host_memory
from panic_tda.disk import free_text
from panic_tda.errors import UnsupportedOnBackend
from panic_tda.records import COSINE
from panic_tda.wording import format_bytes

if TYPE_CHECKING:
    from panic_tda.parameters import ClusteringParameters
    from panic_tda.types import Array

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """The backend of a fit, and the memory and the processor or device that it uses.

    Attributes
    ----------
    backend : Backend
        The backend that was named, or that "auto" chose.
    options : FitOptions
        Options of the fit, as far as they are known before the rows are loaded: its `min_samples` may depend
        on their number.
    rows_on_device : bool
        Whether the rows must be in device memory.
    """

    backend: Backend
    options: FitOptions
    rows_on_device: bool

    @property
    def on_device(self) -> bool:
        """Return whether the backend works on the CUDA device; the rows may be in host memory even then."""
        return self.options.on_device

    def bring(self, vectors: Array) -> Array:
        """Return the rows in the memory that the backend needs; copy them only if they are elsewhere."""
        if self.rows_on_device == on_device(vectors):
            return vectors
        return device.upload(vectors) if self.rows_on_device else to_host(vectors)


def choose_placement(
    requested: ClusteringParameters,
    n_rows: int,
    n_features: int,
    *,
    memory_limit: int | None = None,
    work_dir: Path | None = None,
    keep_neighbours: int = 0,
) -> Placement:
    """Choose the backend for a matrix, and the memory for its rows.

    Parameters
    ----------
    requested : ClusteringParameters
        The requested parameters.
    n_rows, n_features : int
        Shape of the matrix, including copies of rows.
    memory_limit : int, optional
        Bytes that the backend should use at most, in addition to the rows.
    work_dir : Path, optional
        Folder for temporary files with the data above that limit.
    keep_neighbours : int, optional
        Largest `min_samples` of later trees; see `FitOptions`.

    Raises
    ------
    UnsupportedOnBackend
        The chosen backend cannot process this input.
    """
    # The check imports CuPy, which takes seconds; skip it if the named backend cannot use a device.
    wants_device = requested.backend not in backends.ON_HOST and requested.metric == COSINE
    reason = cuda.unavailable_reason() if wants_device else None
    has_device, shape = wants_device and reason is None, (n_rows, n_features)
    if reason is not None and requested.backend == backends.AUTO:
        backends.log_once(f"no CUDA device is used: {reason}")
    try:
        return _place(requested, shape, memory_limit, work_dir, keep_neighbours, on_device=has_device)
    except UnsupportedOnBackend as refusal:
        if requested.backend != backends.AUTO or not has_device:
            raise
        # As if the user had set `--devices none`.
        _log.info("%s; trying in host memory", refusal)
        return _place(requested, shape, memory_limit, work_dir, keep_neighbours, on_device=False)


def choose_fallback(
    requested: ClusteringParameters,
    n_rows: int,
    n_features: int,
    *,
    reason: str,
    memory_limit: int | None = None,
    work_dir: Path | None = None,
    keep_neighbours: int = 0,
) -> Placement:
    """Choose `tiled` for a matrix on which the backend that "auto" chose has failed, and log the reason.

    The failed backend may have changed its rows, so that they must be loaded again.
    """
    _log.warning("%s; falling back to backend tiled", reason)
    exact = replace(requested, exact=True)
    return choose_placement(
        exact,
        n_rows,
        n_features,
        memory_limit=memory_limit,
        work_dir=work_dir,
        keep_neighbours=keep_neighbours,
    )


def require_host_memory(placement: Placement, shape: tuple[int, int]) -> None:
    """Check, before rows are loaded, that a fit in host memory has the memory that it needs.

    Parameters
    ----------
    placement : Placement
        The placement of the fit.
    shape : tuple of int
        Shape of the matrix, including copies of rows.

    Raises
    ------
    UnsupportedOnBackend
        The fit needs more memory than this process can get.
    """
    if placement.on_device:
        return
    options = placement.options
    needed, limit = placement.backend.bytes_needed(*shape, options), options.memory_limit
    if limit is not None and placement.backend.name not in backends.ON_HOST:
        # Data above the limit go into files: the rows, the lists, or both.
        n_row_bytes = 4 * shape[0] * shape[1]
        needed = min(needed, limit + (n_row_bytes if n_row_bytes <= limit else 0))
    reason = missing_memory(placement.backend.name, needed, options.work_dir)
    if reason is not None:
        raise UnsupportedOnBackend(reason)


def missing_memory(backend: str, needed: int, work_dir: Path | None) -> str | None:
    """Explain that this process cannot get `needed` bytes of host memory, or return None if it can.

    None is also returned if the available memory is unknown.
    """
    available = host_memory()[1]
    if available is None or needed <= available:
        return None
    available_text = format_bytes(available)
    problem = f"backend {backend} needs {format_bytes(needed)} of memory, but {available_text} are available"
    if backend in backends.ON_HOST:
        return f"{problem}. Sample with --downsample, or use --backend tiled"
    return (
        f"{problem}. Sample with --downsample, or set --memory-limit below what is available: slower, as "
        f"vectors and lists are then in files{free_text(work_dir or Path(tempfile.gettempdir()))}"
    )


def _place(
    requested: ClusteringParameters,
    shape: tuple[int, int],
    memory_limit: int | None,
    work_dir: Path | None,
    keep_neighbours: int,
    *,
    on_device: bool,
) -> Placement:
    effective = requested.resolve(shape[0])
    options = FitOptions(
        min_samples=effective.min_samples,
        distance_floor=effective.distance_floor,
        memory_limit=memory_limit,
        work_dir=work_dir,
        on_device=on_device,
        exact=requested.exact,
        metric=requested.metric,
        keep_neighbours=min(keep_neighbours, shape[0]),
    )
    backend = backends.select_backend(requested.backend, shape, options)
    rows_on_device = backend.rows_on_device(*shape, options)
    options = replace(options, on_device=on_device and backend.name not in backends.ON_HOST)
    return Placement(backend=backend, options=options, rows_on_device=rows_on_device)
