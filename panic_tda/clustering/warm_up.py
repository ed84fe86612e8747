"""Compiling before the first fit on a machine, as a phase of its own, instead of silently inside it."""

from __future__ import annotations

import contextlib
import logging
import time
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from panic_tda.clustering import backends, compiled, hierarchy
from panic_tda.clustering.backends.base import FitOptions
from panic_tda.parameters import ClusteringParameters
from panic_tda.progress import Silent
from panic_tda.types import SpanningTree

if TYPE_CHECKING:
    from panic_tda.clustering.backends.base import Backend
    from panic_tda.progress import Progress

PHASE = "compile kernels (once)"
_TILED = "tiled"
_ROWS, _FEATURES, _TILE_ROWS, _MIN_SAMPLES = 512, 192, 64, 8

_compiled: set[str] = set()
"""Backends whose kernels this process has compiled itself."""

_log = logging.getLogger(__name__)


def compile_kernels(backend: Backend, progress: Progress) -> float:
    """Compile what a fit on a backend calls, where this machine has not done so yet.

    Parameters
    ----------
    backend : Backend
        The one that is going to fit.
    progress : Progress
        Told that it is being done, where it has to be.

    Returns
    -------
    float
        Seconds that it took; 0 where everything was compiled before, or NUMBA_DISABLE_JIT forbids it.

    Notes
    -----
    Once is once for each machine, installation and version of numba: a marker beside numba's cache says so.
    Two processes that compile at once both do all of it; numba replaces its files as a whole.
    """
    if not compiled.KERNELS or backend.name in _compiled or _is_cached(backend.name):
        return 0.0
    began = time.monotonic()
    progress.phase(PHASE)
    _hierarchy()
    if backend.name == _TILED:
        _tiled()
    _compiled.add(backend.name)
    _note(backend.name)
    return time.monotonic() - began


def compile_everything() -> None:
    """Compile for every backend that works in host memory, as an installation does."""
    for name in backends.NAMES:
        if name not in (backends.AUTO, "cuml"):
            compile_kernels(backends.get(name), Silent())


@cache
def _is_cached(name: str) -> bool:
    """Return whether an earlier process has left the marker."""
    folder = compiled.cache_folder()
    if folder is None:
        _log.info("no folder takes compiled code, so every run compiles anew; name one by NUMBA_CACHE_DIR")
        return False
    return (folder / _marker(name)).exists()


def _note(name: str) -> None:
    folder = compiled.cache_folder()
    if folder is not None and compiled.UNWRITABLE not in compiled.cache_failures:
        with contextlib.suppress(OSError):
            (folder / _marker(name)).touch()


def _marker(name: str) -> str:
    return f"panic_tda-{name}-{compiled.stamp()}.compiled"


def _hierarchy() -> None:
    """Extract clusters from a small tree, by both methods and with and without a single cluster."""
    n = 40
    rows = np.arange(n - 1)
    height = np.random.default_rng(0).uniform(0.1, 1.0, n - 1)
    tree = SpanningTree(u=rows, v=rows + 1, height=height)
    for method in ("eom", "leaf"):
        asked = ClusteringParameters(selection_method=method, min_cluster_size=2, allow_single_cluster=False)
        hierarchy.extract(tree, asked.resolve(n))


def _tiled() -> None:
    """Fit some rows in small tiles; like real ones they have clusters, and their length on few axes."""
    # Whoever takes another backend need not load this one.
    from panic_tda.clustering.tiled.engine import Settings, TiledBackend

    rng = np.random.default_rng(0)
    spectrum = np.arange(1, _FEATURES + 1) ** -0.5
    rows = rng.standard_normal((8, _FEATURES))[rng.integers(8, size=_ROWS)]
    rows = (rows + rng.standard_normal((_ROWS, _FEATURES))) * spectrum
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    options = FitOptions(min_samples=_MIN_SAMPLES, distance_floor=1e-3)
    backend = TiledBackend(Settings(tile_rows=_TILE_ROWS, threads=1, library=np))
    backend.fit(rows, np.ones(_ROWS, dtype=np.int64), options)
