"""The backend `cuml`: cuML's spanning tree of a neighbour graph on a CUDA device.

cuML builds the tree from each row's nearest neighbours and joins the components of that graph. This is fast,
and close to the minimum spanning tree of all pairs. Labels are made from the tree as for every backend:
cuML's own labels differ in epsilon, in ties and at the root.
"""

from __future__ import annotations

import importlib.util
import math
import re
from typing import Any

import numpy as np

from panic_tda.arrays.namespace import on_device
from panic_tda.clustering.backends.base import FitOptions, build_unavailable_error
from panic_tda.clustering.backends.tree_check import sample_improving_edges
from panic_tda.devices import cuda
from panic_tda.errors import BackendFailure, DeviceOutOfMemory, UnsupportedOnBackend
from panic_tda.types import Array, Float32Array, IntArray, SpanningTree
from panic_tda.wording import first_line, format_bytes

MIN_SAMPLES = (2, 1_024)
"""Smallest and largest value, counting the row itself; cuML does not count it and accepts 1 to 1,023."""
TIE_TOLERANCE = 1e-6
"""Relative difference below which two heights in float32 count as the same distance."""
_ROW_BYTES, _NEIGHBOUR_BYTES = 72, 140
_NOT_CONNECTED = re.compile(r"graph could not be connected|multiple components found", re.IGNORECASE)
_OUT_OF_MEMORY = re.compile(r"out[ _]of[ _]memory|bad_alloc|cudaErrorMemoryAllocation", re.IGNORECASE)


def unavailable_reason() -> str | None:
    """Explain in one line why cuML cannot run here, with the remedy; return None if it can.

    Does not import cuML.
    """
    if (reason := cuda.unavailable_reason()) is not None:
        return reason
    if importlib.util.find_spec("cuml") is None:
        return f"cuML is not installed; {cuda.INSTALL}"
    return None


def estimate_bytes(n_rows: int, n_features: int, min_samples: int) -> int:
    """Estimate the device memory of a fit, including its rows.

    Parameters
    ----------
    n_rows, n_features : int
        Shape of the matrix, including copies of rows.
    min_samples : int
        Counts the row itself.

    Returns
    -------
    int
        72·n + 140·n·k bytes, and 4·n·d for the rows.
    """
    return n_rows * (_ROW_BYTES + _NEIGHBOUR_BYTES * min_samples + 4 * n_features)


def cuml_arguments(n_rows: int, options: FitOptions) -> dict[str, Any]:
    """Translate options into arguments of `cuml.cluster.HDBSCAN`.

    cuML always computes labels too. With `min_cluster_size` equal to the number of rows, this is one pass
    over the tree; other settings can take O(n²) time.
    """
    return {
        "metric": "euclidean",
        "alpha": 1.0,
        "min_samples": options.min_samples - 1,
        "min_cluster_size": n_rows,
        "cluster_selection_method": "eom",
        "cluster_selection_epsilon": 0.0,
        "allow_single_cluster": False,
        "gen_min_span_tree": True,
        "output_type": "cupy",
        "build_algo": "brute_force",
    }


class CumlBackend:
    """Backend with a nearly minimum spanning tree, from a neighbour graph in float32.

    Notes
    -----
    Edges and weights are those of cuML; a weight below the distance floor counts as the floor. The tree has
    `improving_edges`: the share of sampled rows that prove that it is not a minimum spanning tree. Two fits
    may differ if several rows are equally near.

    During the search, cuVS permutes the rows in place, and undoes that at the end. After an error their order
    is unknown, and they must not be used again.
    """

    name = "cuml"
    exact = False
    weighted = False

    def unavailable_reason(self) -> str | None:
        """Explain in one line why cuML cannot run here, with the remedy; return None if it can."""
        return unavailable_reason()

    def check(self, n_rows: int, n_features: int, options: FitOptions) -> None:
        """Refuse a matrix that exceeds the limits of cuML or the free device memory; see `Backend.check`."""
        if (reason := unavailable_reason()) is not None:
            raise build_unavailable_error(self.name, reason)
        least, most = MIN_SAMPLES
        if not least <= options.min_samples <= most:
            raise UnsupportedOnBackend(
                f"backend cuml accepts min_samples from {least} to {most:,} (including the row itself), "
                f"got {options.min_samples:,}; use --backend tiled or another --min-samples"
            )
        needed, free = estimate_bytes(n_rows, n_features, options.min_samples), cuda.allocatable_bytes()
        if needed > free:
            raise UnsupportedOnBackend(
                f"backend cuml needs about {format_bytes(needed)} of device memory for {n_rows:,} × "
                f"{n_features:,} rows at min_samples {options.min_samples}, and {format_bytes(free)} are "
                f"free; "
                f"{_suggest_options(n_rows, n_features, options, free)}"
            )

    def rows_on_device(self, n_rows: int, n_features: int, options: FitOptions) -> bool:
        """Return True; see `Backend.rows_on_device`."""
        return True

    def bytes_needed(self, n_rows: int, n_features: int, options: FitOptions) -> int:
        """Estimate the device memory of a fit, including the rows; see `estimate_bytes`."""
        return estimate_bytes(n_rows, n_features, options.min_samples)

    def fit(self, vectors: Array, weights: IntArray, options: FitOptions) -> SpanningTree:
        """Build the tree; see `Backend.fit`.

        Raises
        ------
        UnsupportedOnBackend
            The rows are in host memory, for which cuML joins components at random.
        DeviceOutOfMemory
            The fit needed more memory than the device has.
        BackendFailure
            cuML could not connect its neighbour graph.
        """
        if not on_device(vectors):
            raise UnsupportedOnBackend(
                "backend cuml takes rows in device memory only, got a NumPy array; use panic_tda.hdbscan, "
                "which moves them, or --backend tiled"
            )
        try:
            tree = _build_tree(vectors, options)
            # The check needs less memory than the fit has freed.
            checked = sample_improving_edges(
                vectors, tree, distance_floor=options.distance_floor, progress=options.progress
            )
        except (MemoryError, RuntimeError) as error:
            if _NOT_CONNECTED.search(str(error)):
                raise BackendFailure(
                    f"backend cuml could not connect its neighbour graph ({first_line(error)}); use "
                    "--backend tiled, which is exact, or a larger --min-samples"
                ) from error
            if not is_out_of_memory(error):
                raise
            empty_pool()
            raise build_memory_error(error, (len(vectors), vectors.shape[1]), options) from error
        return SpanningTree(
            tree.u,
            tree.v,
            tree.height,
            tree.core_distances,
            tree.tie_tolerance,
            improving_edges=checked,
        )


def _suggest_options(
    n_rows: int, n_features: int, options: FitOptions, free: int, *, known_to_fail: bool = False
) -> str:
    """Suggest options with which a fit, including its rows, fits into `free` bytes by the estimate.

    A fit that failed although the estimate allowed it needs more memory than estimated; then at most half of
    `min_samples` is suggested.
    """
    needed = estimate_bytes(n_rows, n_features, options.min_samples)
    factor = max(2, math.ceil(needed / max(1, free)))
    least, most = MIN_SAMPLES[0], options.min_samples // 2 if known_to_fail else options.min_samples - 1
    base = needed - n_rows * _NEIGHBOUR_BYTES * options.min_samples
    samples = min(most, (free - base) // (n_rows * _NEIGHBOUR_BYTES))
    advice = ["--backend tiled (with --memory-limit if host memory is short too)"]
    if samples >= least:
        advice.append(f"--min-samples {samples}")
    return f"use {', '.join(advice)} or --downsample {factor}"


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error of CuPy, cuML or RAFT says that the device has too little memory."""
    # CuPy and Cython (for std::bad_alloc) raise MemoryError; RAFT's errors are recognised by their text.
    return isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)) is not None


def build_memory_error(error: Exception, shape: tuple[int, int], options: FitOptions) -> DeviceOutOfMemory:
    """Build the error of a fit of (n, d) rows that ran out of device memory, with estimate and remedy."""
    free, (n_rows, n_features) = cuda.allocatable_bytes(), shape
    # The next run starts without these rows in device memory.
    free_without_rows = free + 4 * n_rows * n_features
    estimate = estimate_bytes(n_rows, n_features, options.min_samples)
    return DeviceOutOfMemory(
        f"backend cuml ran out of device memory ({first_line(error)}) on {n_rows:,} × {n_features:,} rows "
        f"at min_samples {options.min_samples}: the estimate is {format_bytes(estimate)} and "
        f"{format_bytes(free)} are free now, in addition to the rows; "
        f"{_suggest_options(n_rows, n_features, options, free_without_rows, known_to_fail=True)}"
    )


def _build_tree(vectors: Float32Array, options: FitOptions) -> SpanningTree:
    estimator = import_hdbscan()
    options.progress.phase("neighbours and tree (cuML)")
    empty_pool()
    model = estimator(**cuml_arguments(len(vectors), options)).fit(vectors)
    # The public `minimum_spanning_tree_` needs hdbscan and copies the rows to the host, so private attributes
    # are used; the dictionary of the state is the one that cuML pickles.
    edges = model._min_spanning_tree
    cores = model._state.to_dict()["core_dists"].get().astype(np.float64)
    return SpanningTree(
        u=edges[:, 0].astype(np.int64),
        v=edges[:, 1].astype(np.int64),
        height=np.maximum(edges[:, 2].astype(np.float64), options.distance_floor),
        core_distances=np.maximum(cores, options.distance_floor),
        tie_tolerance=TIE_TOLERANCE,
    )


def empty_pool() -> None:
    """Free the memory in CuPy's pool, because cuML does not allocate from that pool."""
    import cupy

    cupy.get_default_memory_pool().free_all_blocks()


def import_hdbscan() -> Any:
    """Import cuML's HDBSCAN, and keep CuPy's allocator as it was."""
    import cupy

    # Importing cuML makes CuPy allocate without its pool, which slows down everything else on the device.
    allocator = cupy.cuda.get_allocator()
    try:
        from cuml.cluster import HDBSCAN
    finally:
        cupy.cuda.set_allocator(allocator)
    return HDBSCAN
