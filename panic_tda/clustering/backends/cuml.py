"""The backend `cuml`: cuML's spanning tree of a neighbour graph on a CUDA device, and nothing else of cuML.

cuML takes the tree from each row's nearest neighbours and joins what they leave apart; it is close to the
minimum spanning tree of all pairs, and fast. Labels are made of the tree as for every backend: cuML's own
differ in epsilon, in ties and at the root.
"""

from __future__ import annotations

import importlib.util
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from panic_tda.arrays.namespace import on_device
from panic_tda.clustering.backends.base import FitOptions, cannot_run
from panic_tda.clustering.backends.tree_check import lighter_edges
from panic_tda.devices import cuda
from panic_tda.errors import BackendFailure, DeviceOutOfMemory, UnsupportedOnBackend
from panic_tda.parameters import format_bytes
from panic_tda.types import SpanningTree

if TYPE_CHECKING:
    from panic_tda.types import Array, Float32Array, IntArray

MIN_SAMPLES = (2, 1_024)
"""Fewest and most, the row itself counted; cuML does not count it and takes 1 to 1,023."""
TIE_TOLERANCE = 1e-6
"""One distance measured twice in float32 differs by less, relatively."""
_ROW_BYTES, _NEIGHBOUR_BYTES = 72, 140
_NOT_CONNECTED = re.compile(r"graph could not be connected|multiple components found", re.IGNORECASE)
_OUT_OF_MEMORY = re.compile(r"out[ _]of[ _]memory|bad_alloc|cudaErrorMemoryAllocation", re.IGNORECASE)


def unusable_because() -> str | None:
    """Say in one line why cuML can do nothing here, with the remedy; None where it can. Imports no cuML."""
    if (reason := cuda.unusable_because()) is not None:
        return reason
    if importlib.util.find_spec("cuml") is None:
        return f"cuML is not installed; {cuda.INSTALL}"
    return None


def estimate_bytes(n_rows: int, n_features: int, min_samples: int) -> int:
    """Estimate the device memory that a fit takes, its rows included.

    Parameters
    ----------
    n_rows, n_features : int
        Shape of the matrix, copies of rows counted.
    min_samples : int
        The row itself counted.

    Returns
    -------
    int
        72·n + 140·n·k bytes, and 4·n·d for the rows.
    """
    return n_rows * (_ROW_BYTES + _NEIGHBOUR_BYTES * min_samples + 4 * n_features)


def cuml_arguments(n_rows: int, options: FitOptions) -> dict[str, Any]:
    """Translate options into arguments of `cuml.cluster.HDBSCAN`.

    cuML cannot be kept from labelling. With a smallest cluster of all rows that is one pass over the tree;
    choosing its root, or splitting it, can take O(n²).
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
    """A nearly minimum spanning tree, from a neighbour graph in float32.

    Notes
    -----
    Edges and weights are cuML's, unchanged; a weight below the distance floor counts as the floor. The tree
    comes with the share of sampled rows that show it is not a minimum one. Two fits may differ where several
    rows are equally near.

    While it searches, cuVS permutes the rows that it was given, in place, and undoes that at the end. After
    an error they are in no known order and must not be used again.
    """

    name = "cuml"
    exact = False
    weighted = False

    def unusable_because(self) -> str | None:
        """Say in one line why cuML can do nothing here, with the remedy; None where it can."""
        return unusable_because()

    def check(self, n_rows: int, n_features: int, options: FitOptions) -> None:
        """Refuse, before anything is allocated, what cuML or the device has no room for."""
        if (reason := unusable_because()) is not None:
            raise cannot_run(self.name, reason)
        least, most = MIN_SAMPLES
        if not least <= options.min_samples <= most:
            raise UnsupportedOnBackend(
                f"backend cuml accepts min_samples from {least} to {most:,} (the row itself counted), "
                f"got {options.min_samples:,}; use --backend tiled or another --min-samples"
            )
        needed, free = estimate_bytes(n_rows, n_features, options.min_samples), cuda.free_bytes()
        if needed > free:
            raise UnsupportedOnBackend(
                f"backend cuml needs about {format_bytes(needed)} of device memory for {n_rows:,} × "
                f"{n_features:,} rows at min_samples {options.min_samples}, and {format_bytes(free)} are "
                f"free; "
                f"{_what_fits(n_rows, n_features, options, free)}"
            )

    def rows_on_device(self, n_rows: int, n_features: int, options: FitOptions) -> bool:
        """Say yes: see `Backend.rows_on_device`."""
        return True

    def bytes_needed(self, n_rows: int, n_features: int, options: FitOptions) -> int:
        """Device memory, rows included; see `estimate_bytes`."""
        return estimate_bytes(n_rows, n_features, options.min_samples)

    def fit(self, vectors: Array, weights: IntArray, options: FitOptions) -> SpanningTree:
        """Build the tree; see `Backend.fit`.

        Raises
        ------
        UnsupportedOnBackend
            The rows lie in host memory: from there cuML joins components at random.
        DeviceOutOfMemory
            The device had less memory than the fit took.
        BackendFailure
            cuML could not connect its neighbour graph.
        """
        if not on_device(vectors):
            raise UnsupportedOnBackend(
                "backend cuml takes rows in device memory only, got a NumPy array; use panic_tda.hdbscan, "
                "which moves them, or --backend tiled"
            )
        try:
            tree = _tree(vectors, options)
            # The check has room in what the fit has given back.
            checked = lighter_edges(
                vectors, tree, distance_floor=options.distance_floor, progress=options.progress
            )
        except (MemoryError, RuntimeError) as error:
            if _NOT_CONNECTED.search(str(error)):
                raise BackendFailure(
                    f"backend cuml could not connect its neighbour graph ({_first_line(error)}); use "
                    "--backend tiled, which is exact, or a larger --min-samples"
                ) from error
            if not _is_out_of_memory(error):
                raise
            _empty_pool()
            raise _out_of_memory(error, (len(vectors), vectors.shape[1]), options) from error
        return SpanningTree(
            tree.u, tree.v, tree.height, tree.core_distances, tree.tie_tolerance, lighter_edges=checked
        )


def _what_fits(
    n_rows: int, n_features: int, options: FitOptions, free: int, *, known_to_fail: bool = False
) -> str:
    """Say which options would fit into `free` bytes, rows included, by the estimate.

    A fit that failed although the estimate allowed it took more: half of it is advised then.
    """
    whole = estimate_bytes(n_rows, n_features, options.min_samples)
    factor = max(2, math.ceil(whole / max(1, free)))
    least, most = MIN_SAMPLES[0], options.min_samples // 2 if known_to_fail else options.min_samples - 1
    base = whole - n_rows * _NEIGHBOUR_BYTES * options.min_samples
    samples = min(most, (free - base) // (n_rows * _NEIGHBOUR_BYTES))
    advice = ["--backend tiled (with --memory-limit, where the host is short too)"]
    if samples >= least:
        advice.append(f"--min-samples {samples}")
    return f"use {', '.join(advice)} or --downsample {factor}"


def _is_out_of_memory(error: Exception) -> bool:
    # CuPy's own error and what Cython makes of std::bad_alloc are MemoryErrors; RAFT's are texts.
    return isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error)) is not None


def _out_of_memory(error: Exception, shape: tuple[int, int], options: FitOptions) -> DeviceOutOfMemory:
    free, (n_rows, n_features) = cuda.free_bytes(), shape
    # Another run begins without the rows that are there now.
    without = free + 4 * n_rows * n_features
    estimate = estimate_bytes(n_rows, n_features, options.min_samples)
    said = _first_line(error)
    return DeviceOutOfMemory(
        f"backend cuml ran out of device memory ({said}) on {n_rows:,} × {n_features:,} rows at min_samples "
        f"{options.min_samples}: the estimate is {format_bytes(estimate)} and "
        f"{format_bytes(free)} are free now beside the rows; "
        f"{_what_fits(n_rows, n_features, options, without, known_to_fail=True)}"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _tree(vectors: Float32Array, options: FitOptions) -> SpanningTree:
    estimator = _hdbscan_class()
    options.progress.phase("neighbours and tree (cuML)")
    _empty_pool()
    model = estimator(**cuml_arguments(len(vectors), options)).fit(vectors)
    # Underscored, because the public `minimum_spanning_tree_` needs hdbscan and copies the rows to the host;
    # the state's dictionary is what cuML pickles.
    edges = model._min_spanning_tree
    cores = model._state.to_dict()["core_dists"].get().astype(np.float64)
    return SpanningTree(
        u=edges[:, 0].astype(np.int64),
        v=edges[:, 1].astype(np.int64),
        height=np.maximum(edges[:, 2].astype(np.float64), options.distance_floor),
        core_distances=np.maximum(cores, options.distance_floor),
        tie_tolerance=TIE_TOLERANCE,
    )


def _empty_pool() -> None:
    """Give back what CuPy keeps ready for itself: cuML allocates past its pool."""
    import cupy

    cupy.get_default_memory_pool().free_all_blocks()


def _hdbscan_class() -> Any:
    import cupy

    # Importing cuML makes CuPy allocate without its pool, which everything else on the device is slower by.
    allocator = cupy.cuda.get_allocator()
    try:
        from cuml.cluster import HDBSCAN
    finally:
        cupy.cuda.set_allocator(allocator)
    return HDBSCAN
