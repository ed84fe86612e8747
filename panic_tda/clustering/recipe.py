"""HDBSCAN on cosine geometry, as a recipe: every stage is a line of `cluster_rows`.

References
----------
.. [1] Campello, Moulavi, Sander (2013). Density-based clustering based on hierarchical density estimates.
   PAKDD 2013. https://doi.org/10.1007/978-3-642-37456-2_14
.. [2] McInnes, Healy, Astels (2017). hdbscan: Hierarchical density based clustering. Journal of Open Source
   Software 2(11). https://doi.org/10.21105/joss.00205
"""

from __future__ import annotations

import importlib.metadata
import platform
import sys
import time
from dataclasses import asdict, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from panic_tda import parameters
from panic_tda.arrays import device
from panic_tda.arrays.matrices import as_matrix
from panic_tda.arrays.rows import normalise
from panic_tda.clustering import backends, hierarchy
from panic_tda.clustering.advice import warn_if_doubtful
from panic_tda.clustering.backends.base import Backend, Checkpoint, FitOptions
from panic_tda.clustering.cuts import largest_of
from panic_tda.clustering.duplicates import DistinctRows, attach_copies, find_distinct, keep_distinct
from panic_tda.clustering.medoids import medoids
from panic_tda.clustering.placement import Placement, place, place_instead
from panic_tda.clustering.warm_up import compile_kernels
from panic_tda.devices.kernel_cache import translate_cache_errors
from panic_tda.errors import OUTLIER, BackendFailure
from panic_tda.parameters import ClusteringParameters, ClusteringRecord, EffectiveParameters
from panic_tda.progress import Progress, Silent
from panic_tda.types import Clustering, FlatClusters, SpanningTree

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from panic_tda.types import Array, Float32Array, FloatArray, IntArray

_VERSIONED = ("panic_tda", "numpy", "numba", "scikit-learn")
_HIERARCHY_ONLY = "sklearn"
"""A backend without loops of its own to compile."""
_VERSIONED_IF_LOADED = ("cupy", "cuml")


def hdbscan(
    vectors: ArrayLike,
    *,
    epsilon: float = parameters.EPSILON,
    min_cluster_size: int | float | None = None,
    min_samples: int | None = None,
    allow_single_cluster: bool = parameters.ALLOW_SINGLE_CLUSTER,
    selection_method: str = "eom",
    max_cluster_size: int | None = None,
    distance_floor: float = parameters.DISTANCE_FLOOR,
    backend: str = backends.AUTO,
    exact: bool = False,
    progress: Progress | None = None,
) -> Clustering:
    """Cluster vectors by density on cosine geometry.

    Parameters
    ----------
    vectors : (n, d) array_like
        One vector a row, of any length but zero; taken as float32. Also a table of numbers, or a column of
        vectors, of pandas, polars or Arrow.
    epsilon, min_cluster_size, min_samples, allow_single_cluster, selection_method, max_cluster_size, \
distance_floor, backend, exact
        See `ClusteringParameters`; distances are chord lengths between unit vectors, sqrt(2 - 2 cos).
    progress : Progress, optional
        Told what is being done.

    Returns
    -------
    Clustering
        Labels, probabilities, persistence, medoids and every effective parameter.

    Raises
    ------
    InvalidParameter
        A parameter outside its range.
    BadVectors
        Not a matrix (see `arrays.matrices.as_matrix`), or rows that are zero, NaN or infinite.
    UnsupportedOnBackend
        The chosen backend cannot do this.
    DeviceOutOfMemory
        The device had less memory than the fit took.
    BackendFailure
        The backend that was named could not build a tree; instead of one that "auto" chose, `tiled` does.

    Notes
    -----
    The result depends on the data and the parameters alone: equal distances merge at once, so neither the
    order of the rows nor the choice among exact backends can move a row (see `hierarchy`). `min_samples`
    counts the point itself, as in scikit-learn; hdbscan, fast_hdbscan and cuML do not count it.
    """
    asked = ClusteringParameters(
        epsilon=epsilon,
        min_cluster_size=min_cluster_size,
        min_samples=min_samples,
        allow_single_cluster=allow_single_cluster,
        selection_method=selection_method,
        max_cluster_size=max_cluster_size,
        distance_floor=distance_floor,
        backend=backend,
        exact=exact,
    )
    clustering = _fit(vectors, asked, progress or Silent())
    warn_if_doubtful(clustering.record, clustering.tree)
    return clustering


def _fit(vectors: Any, asked: ClusteringParameters, progress: Progress) -> Clustering:
    """Cluster the rows, and once more on another backend where `auto` took one that failed."""
    try:
        with translate_cache_errors():
            return cluster_rows(as_matrix(vectors), asked, progress)
    except BackendFailure as failure:
        if asked.backend != backends.AUTO:
            raise
        reason = str(failure)
    # Out of the handler, which holds the rows of the failed fit.
    device.release()
    matrix = as_matrix(vectors)
    placement = place_instead(asked, *matrix.shape, reason=reason)
    with translate_cache_errors():
        return cluster_rows(matrix, asked, progress, placement=placement)


def cluster_rows(
    vectors: Array,
    asked: ClusteringParameters,
    progress: Progress,
    *,
    placement: Placement | None = None,
    checkpoint: Checkpoint | None = None,
) -> Clustering:
    """Cluster the rows of a matrix that may be overwritten; see `hdbscan`.

    Parameters
    ----------
    vectors : (n, d) float32
        NumPy or CuPy, C-ordered and writable; normalised in place, its distinct rows moved to the front.
        Moved to the memory where the backend wants them.
    asked : ClusteringParameters
        What was asked for.
    progress : Progress
        Told what is being done.
    placement : Placement, optional
        What `place` said; None asks it.
    checkpoint : Checkpoint, optional
        Where a backend that can go on after a kill keeps its state.
    """
    n = len(vectors)
    effective = asked.resolve(n)
    placement = placement or place(asked, *vectors.shape)
    compiling = compile_kernels(placement.backend, progress)
    began = time.monotonic()
    backend, vectors = placement.backend, placement.bring(vectors)
    progress.phase("normalise, find duplicates")
    normalise(vectors)
    distinct = find_distinct(vectors)
    rows = keep_distinct(vectors, distinct) if backend.weighted else vectors

    options = placement.options(effective, progress, checkpoint)
    are_enough = max(effective.min_cluster_size, effective.min_samples) <= n
    tree = _spanning_tree(rows, distinct, backend, options) if are_enough else None
    progress.phase("hierarchy")
    flat = canonicalise(_flat_clusters(tree, n, effective))
    fitted = time.monotonic()

    progress.phase("medoids")
    found = _medoids(rows if backend.weighted else keep_distinct(vectors, distinct), distinct, flat)
    record = replace(
        _record(effective, backend, distinct, flat, tree),
        seconds=({"compile": compiling} if compiling else {})
        | {"fit": fitted - began, "medoids": time.monotonic() - fitted},
    )
    return _clustering(flat, distinct, found, record=record, tree=tree)


def recut_rows(
    vectors: Array,
    tree: SpanningTree,
    effective: EffectiveParameters,
    *,
    source: ClusteringRecord,
    progress: Progress,
) -> Clustering:
    """Cut other clusters from the tree of an earlier fit: what a fit with these parameters would find.

    Parameters
    ----------
    vectors : (n, d) float32
        The rows of that fit, in its order; writable, normalised in place, distinct rows moved to the front.
    tree : SpanningTree
        Over these rows.
    effective : EffectiveParameters
        Those of the fit but for what the tree does not depend on: epsilon, `min_cluster_size`, the method,
        `max_cluster_size`, the single cluster.
    source : ClusteringRecord
        Of that fit.
    progress : Progress
        Told what is being done.

    Returns
    -------
    Clustering
        Its record says what cut it, and of the tree what the source's says.
    """
    compiling = compile_kernels(backends.get(_HIERARCHY_ONLY), progress)
    began = time.monotonic()
    progress.phase("hierarchy")
    flat = canonicalise(_flat_clusters(tree, len(vectors), effective))
    cut = time.monotonic()
    progress.phase("medoids")
    normalise(vectors)
    distinct = find_distinct(vectors)
    found = _medoids(keep_distinct(vectors, distinct), distinct, flat)
    record = replace(
        source,
        **asdict(effective),
        **_counts(flat),
        versions=_versions(),
        seconds=({"compile": compiling} if compiling else {})
        | {"cut": cut - began, "medoids": time.monotonic() - cut},
    )
    return _clustering(flat, distinct, found, record=record, tree=tree)


def medoid_of(vectors: Float32Array, probabilities: FloatArray) -> int:
    """Return the row of the medoid when all rows are one cluster.

    Parameters
    ----------
    vectors : (n, d) float32
        At least one row; normalised in place.
    probabilities : (n,) float64
        Membership strengths.
    """
    normalise(vectors)
    return medoids(vectors, np.zeros(len(vectors), dtype=np.int64), probabilities, 1)[0]


def canonicalise(flat: FlatClusters) -> FlatClusters:
    """Number clusters by size, the largest first; ties go to the one with the smallest row."""
    n_clusters = len(flat.persistence)
    members = np.flatnonzero(flat.labels != OUTLIER)
    sizes = np.bincount(flat.labels[members], minlength=n_clusters)
    smallest = np.full(n_clusters, len(flat.labels))
    np.minimum.at(smallest, flat.labels[members], members)
    order = np.lexsort((smallest, -sizes))
    number = np.empty(n_clusters, dtype=np.int64)
    number[order] = np.arange(n_clusters)
    labels = np.full(len(flat.labels), OUTLIER, dtype=np.int64)
    labels[members] = number[flat.labels[members]]
    return replace(flat, labels=labels, persistence=flat.persistence[order])


def _spanning_tree(
    rows: Array, distinct: DistinctRows, backend: Backend, options: FitOptions
) -> SpanningTree:
    """Build the tree over all rows; copies are collapsed for backends that know of weights."""
    n, m = len(distinct.inverse), len(distinct.first)
    if m == 1:
        # All rows are copies of one: a star, whatever the backend.
        floor = np.full(1, options.distance_floor)
        empty = np.empty(0, dtype=np.int64)
        return attach_copies(SpanningTree(empty, empty, np.empty(0), floor), distinct)
    if backend.weighted:
        return attach_copies(backend.fit(rows, distinct.counts, options), distinct)
    return backend.fit(rows, np.ones(n, dtype=np.int64), options)


def _flat_clusters(tree: SpanningTree | None, n: int, effective: EffectiveParameters) -> FlatClusters:
    """Extract clusters from the tree; without one, all rows are outliers."""
    if tree is None:
        return FlatClusters(np.full(n, OUTLIER, dtype=np.int64), np.zeros(n), np.empty(0))
    return hierarchy.extract(tree, effective)


def _medoids(rows: Array, distinct: DistinctRows, flat: FlatClusters) -> dict[int, int]:
    # Copies share label and probability, so a distinct row stands for its copies with their summed weight.
    labels: IntArray = flat.labels[distinct.first]
    weights = np.bincount(distinct.inverse, weights=flat.probabilities, minlength=len(rows))
    found = medoids(rows, labels, weights.astype(np.float64, copy=False), len(flat.persistence))
    return {label: int(distinct.first[row]) for label, row in found.items()}


def _clustering(
    flat: FlatClusters,
    distinct: DistinctRows,
    medoids: dict[int, int],
    *,
    record: ClusteringRecord,
    tree: SpanningTree | None,
) -> Clustering:
    return Clustering(
        labels=flat.labels,
        probabilities=flat.probabilities,
        persistence=flat.persistence,
        medoid_indices=medoids,
        medoid_copies={label: int(distinct.counts[distinct.inverse[row]]) for label, row in medoids.items()},
        record=record,
        tree=tree,
    )


@cache
def _installed_versions() -> dict[str, str]:
    """Return the versions of installed packages, read once: each is a file of thousands of lines."""
    versions = {}
    for name in _VERSIONED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _record(
    effective: EffectiveParameters,
    backend: Backend,
    distinct: DistinctRows,
    flat: FlatClusters,
    tree: SpanningTree | None,
) -> ClusteringRecord:
    checked = None if tree is None else tree.lighter_edges
    return ClusteringRecord(
        **asdict(effective),
        backend=backend.name,
        exact=backend.exact,
        n_embeddings=len(distinct.inverse),
        n_unique=len(distinct.first),
        **_counts(flat),
        versions=_versions(),
        lighter_edge_share=None if checked is None else checked.share,
        lighter_edge_sample=None if checked is None else checked.sample,
    )


def _counts(flat: FlatClusters) -> dict[str, Any]:
    """Return what a record says of the clusters, by the names of `ClusteringRecord`."""
    return {
        "n_clusters": len(flat.persistence),
        "n_outliers": int(np.count_nonzero(flat.labels == OUTLIER)),
        "root_selected": flat.root_selected,
        "largest_cluster_size": largest_of(flat.labels),
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()} | _installed_versions()
    # Their distributions have other names for every CUDA version, and what is not loaded had no part in it.
    for name in _VERSIONED_IF_LOADED:
        if name in sys.modules:
            found[name] = str(getattr(sys.modules[name], "__version__", "unknown"))
    return found
