"""Compilation of the kernels before the first fit on a machine, as a phase of its own."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from panic_tda.clustering import backends, compiled, hierarchy
from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.neighbour_graph import empty_lists, lower_min_samples
from panic_tda.parameters import ClusteringParameters
from panic_tda.progress import Silent
from panic_tda.records import COSINE
from panic_tda.types import SpanningTree

if TYPE_CHECKING:
    from panic_tda.clustering.backends.base import Backend
    from panic_tda.progress import Progress

PHASE = "compile kernels (once)"
_TILED = "tiled"
_ROWS, _FEATURES, _TILE_ROWS, _MIN_SAMPLES = 512, 192, 64, 8

_compiled: set[str] = set()
"""Backends (with the metric, if it is not cosine) whose kernels this process has compiled itself."""

_log = logging.getLogger(__name__)


def compile_kernels(backend: Backend, progress: Progress, metric: str = COSINE) -> float:
    """Compile the functions that a fit on a backend calls, unless this machine has compiled them before.

    Parameters
    ----------
    backend : Backend
        The backend of the fit.
    progress : Progress
        Receives the phase, if there is something to compile.
    metric : {"cosine", "euclidean"}
        Metric of the fit; `tiled` compiles some functions for each.

    Returns
    -------
    float
        Seconds that it took; 0 if everything was compiled before, or NUMBA_DISABLE_JIT is set.

    Notes
    -----
    Kernels are compiled once for each machine, installation and version of numba; a marker file beside
    numba's cache records that. Two processes that start at the same time both compile everything; numba
    replaces its files atomically.
    """
    name = backend.name if metric == COSINE else f"{backend.name}-{metric}"
    if not compiled.KERNELS or name in _compiled or _is_cached(name):
        return 0.0
    began = time.monotonic()
    progress.phase(PHASE)
    _compile_hierarchy()
    if backend.name == _TILED:
        _compile_tiled(metric)
    _compiled.add(name)
    _write_marker(name)
    return time.monotonic() - began


def compile_everything() -> None:
    """Compile the kernels of every backend that works in host memory."""
    for name in backends.NAMES:
        if name not in (backends.AUTO, "cuml"):
            compile_kernels(backends.get_backend(name), Silent())


@cache
def _is_cached(name: str) -> bool:
    """Return whether an earlier process has written the marker."""
    folder = compiled.find_cache_folder()
    if folder is None:
        _log.info("no folder for compiled code can be written: every run compiles again; set NUMBA_CACHE_DIR")
        return False
    return (folder / _marker_name(name)).exists()


def _write_marker(name: str) -> None:
    folder = compiled.find_cache_folder()
    if folder is not None and compiled.UNWRITABLE not in compiled.cache_failures:
        with contextlib.suppress(OSError):
            (folder / _marker_name(name)).touch()


def _marker_name(name: str) -> str:
    return f"panic_tda-{name}-{compiled.code_stamp()}.compiled"


def _compile_hierarchy() -> None:
    """Extract clusters from a small tree by both methods, so that the functions are compiled."""
    n = 40
    rows = np.arange(n - 1)
    height = np.random.default_rng(0).uniform(0.1, 1.0, n - 1)
    tree = SpanningTree(u=rows, v=rows + 1, height=height)
    for method in ("eom", "leaf"):
        parameters = ClusteringParameters(
            selection_method=method, min_cluster_size=2, allow_single_cluster=False
        )
        hierarchy.extract_clusters(tree, parameters.resolve(n))
    graph = replace(tree, core_distances=np.full(n, 0.1), neighbours=empty_lists(n, 3))
    lower_min_samples(graph, 2, 1e-3)


def _compile_tiled(metric: str = COSINE) -> None:
    """Fit some rows in small tiles, so that the functions are compiled.

    Like real rows they have clusters, and most of their variance on few axes.
    """
    # Imported here, because other backends do not need it.
    from panic_tda.clustering.executor import ThreadExecutor
    from panic_tda.clustering.tiled.engine import Settings, TiledBackend

    rng = np.random.default_rng(0)
    spectrum = np.arange(1, _FEATURES + 1) ** -0.5
    rows = rng.standard_normal((8, _FEATURES))[rng.integers(8, size=_ROWS)]
    rows = (rows + rng.standard_normal((_ROWS, _FEATURES))) * spectrum
    if metric == COSINE:
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    else:
        rows /= np.linalg.norm(rows, axis=1).max()
    options = FitOptions(min_samples=_MIN_SAMPLES, distance_floor=1e-3, metric=metric)
    backend = TiledBackend(Settings(tile_rows=_TILE_ROWS, threads=1, library=np))
    for executor in (None, ThreadExecutor(1)):
        chosen = replace(options, executor=executor)
        backend.fit(rows, np.ones(_ROWS, dtype=np.int64), chosen)
