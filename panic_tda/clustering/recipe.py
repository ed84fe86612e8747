"""The stages of a fit: HDBSCAN of vectors by cosine or Euclidean distance.

References
----------
.. [1] Campello, Moulavi, Sander (2013). Density-based clustering based on hierarchical density estimates.
   PAKDD 2013. https://doi.org/10.1007/978-3-642-37456-2_14
.. [2] McInnes, Healy, Astels (2017). hdbscan: Hierarchical density based clustering. Journal of Open Source
   Software 2(11). https://doi.org/10.21105/joss.00205
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from panic_tda import parameters, records
from panic_tda.arrays import device
from panic_tda.arrays.matrices import as_matrix
from panic_tda.clustering import backends, geometry, hierarchy, phases
from panic_tda.clustering.advice import warn_if_doubtful
from panic_tda.clustering.backends.base import Backend, Checkpoint, FitOptions
from panic_tda.clustering.duplicates import DistinctRows, attach_copies, find_distinct, keep_distinct
from panic_tda.clustering.executor import Executor
from panic_tda.clustering.hierarchy import FlatClusters
from panic_tda.clustering.medoids import find_medoids
from panic_tda.clustering.neighbour_graph import empty_lists, lower_min_samples
from panic_tda.clustering.placement import Placement, choose_fallback, choose_placement
from panic_tda.clustering.recording import add_seconds, build_record, collect_versions, count_clusters
from panic_tda.clustering.warm_up import compile_kernels
from panic_tda.devices.kernel_cache import translate_cache_errors
from panic_tda.doubts import Wording
from panic_tda.errors import BackendFailure
from panic_tda.parameters import ClusteringParameters
from panic_tda.progress import Progress, Silent
from panic_tda.records import ClusteringRecord, EffectiveParameters
from panic_tda.types import Array, Clustering, Float32Array, FloatArray, IntArray, SpanningTree

_HIERARCHY_ONLY = "sklearn"
"""A backend without compiled functions of its own."""


def hdbscan(
    vectors: ArrayLike,
    *,
    epsilon: float | None = None,
    min_cluster_size: int | float | None = None,
    min_samples: int | None = None,
    allow_single_cluster: bool = parameters.ALLOW_SINGLE_CLUSTER,
    selection_method: str = "eom",
    max_cluster_size: int | None = None,
    distance_floor: float = parameters.DISTANCE_FLOOR,
    backend: str = backends.AUTO,
    exact: bool = False,
    metric: str = records.COSINE,
    progress: Progress | None = None,
) -> Clustering:
    """Cluster vectors by density.

    Parameters
    ----------
    vectors : (n, d) array_like
        One vector per row. A pandas, polars or Arrow table of numbers or column of vectors is accepted too.
        With cosine, a vector has any length except zero, and is converted to float32.
    epsilon : float, optional
        See `ClusteringParameters`. None is 0.4 for cosine and 0 for euclidean.
    min_cluster_size, min_samples, allow_single_cluster, selection_method, max_cluster_size, \
distance_floor, backend, exact
        See `ClusteringParameters`.
    metric : {"cosine", "euclidean"}
        Distance of two rows. Cosine distances are measured as chord lengths between unit vectors,
        sqrt(2 - 2 cos). Euclidean distances are measured in float64, in host memory.
    progress : Progress, optional
        Receives the phases of the fit.

    Returns
    -------
    Clustering
        Labels, probabilities, persistence, medoids and every effective parameter.

    Raises
    ------
    InvalidParameter
        A parameter is outside its range.
    BadVectors
        The vectors are not a matrix (see `arrays.matrices.as_matrix`), or rows are zero, NaN or infinite.
    UnsupportedOnBackend
        The chosen backend cannot process this input.
    DeviceOutOfMemory
        The fit needed more memory than the device has.
    BackendFailure
        The backend that was named could not build a tree. If "auto" chose it, `tiled` is used instead.

    Notes
    -----
    The result depends on the data and the parameters alone. Equal distances merge at the same time, so
    neither the order of the rows nor the choice among exact backends changes a label (see `hierarchy`).
    `min_samples` counts the point itself, as in scikit-learn; hdbscan, fast_hdbscan and cuML do not count it.
    """
    requested = ClusteringParameters(
        epsilon=parameters.choose_epsilon(metric) if epsilon is None else epsilon,
        min_cluster_size=min_cluster_size,
        min_samples=min_samples,
        allow_single_cluster=allow_single_cluster,
        selection_method=selection_method,
        max_cluster_size=max_cluster_size,
        distance_floor=distance_floor,
        backend=backend,
        exact=exact,
        metric=metric,
    )
    return fit_vectors(vectors, requested, progress=progress)


def fit_vectors(
    vectors: Any,
    requested: ClusteringParameters,
    *,
    progress: Progress | None = None,
    memory_limit: int | None = None,
    wording: Wording = "parameters",
) -> Clustering:
    """Cluster vectors of any kind, and log why the clusters are doubtful if they are; see `hdbscan`.

    Parameters
    ----------
    vectors : (n, d) array_like
        One vector per row.
    requested : ClusteringParameters
        The requested parameters.
    progress : Progress, optional
        Receives the phases of the fit.
    memory_limit : int, optional
        Bytes to use in addition to the vectors; lists above the limit are stored in temporary files.
    wording : {"parameters", "estimator"}
        How messages name the settings.
    """
    clustering = _fit_with_fallback(vectors, requested, progress or Silent(), memory_limit)
    warn_if_doubtful(clustering.record, clustering.tree, wording=wording)
    return clustering


def _fit_with_fallback(
    vectors: Any, requested: ClusteringParameters, progress: Progress, memory_limit: int | None
) -> Clustering:
    """Cluster the rows; if `auto` chose a backend that fails, cluster them again on another one."""
    try:
        matrix_type = geometry.row_type(requested.metric)
        return _fit_matrix(as_matrix(vectors, matrix_type), requested, progress, memory_limit)
    except BackendFailure as failure:
        if requested.backend != backends.AUTO:
            raise
        reason = str(failure)
    # After the exception handler, because the exception keeps the rows of the failed fit in memory.
    device.free_device_memory()
    matrix = as_matrix(vectors)
    placement = choose_fallback(requested, *matrix.shape, reason=reason, memory_limit=memory_limit)
    with translate_cache_errors():
        return cluster_rows(matrix, requested, progress, placement=placement)


def _fit_matrix(
    matrix: Array, requested: ClusteringParameters, progress: Progress, memory_limit: int | None
) -> Clustering:
    placement = choose_placement(requested, *matrix.shape, memory_limit=memory_limit)
    with translate_cache_errors():
        return cluster_rows(matrix, requested, progress, placement=placement)


def cluster_rows(
    vectors: Array,
    requested: ClusteringParameters,
    progress: Progress,
    *,
    placement: Placement | None = None,
    checkpoint: Checkpoint | None = None,
    executor: Executor | None = None,
    about: Mapping[str, Any] | None = None,
) -> Clustering:
    """Cluster the rows of a matrix, which are overwritten; see `hdbscan`.

    Parameters
    ----------
    vectors : (n, d) float32
        NumPy or CuPy, C-ordered and writable; normalised in place, its distinct rows moved to the front.
        Copied if the backend needs them in the other memory (host or device). For the metric euclidean,
        (n, d) float64 in host memory, centred and scaled in place.
    requested : ClusteringParameters
        The requested parameters.
    progress : Progress
        Receives the phases of the fit.
    placement : Placement, optional
        The result of `choose_placement`; None calls it.
    checkpoint : Checkpoint, optional
        Stores the state of a backend that can resume after a kill.
    executor : Executor, optional
        Runs the passes over all pairs of rows, if the backend can divide them into tasks.
    about : mapping, optional
        Fields of the record that the fit does not know, by name; its `seconds` are those of earlier stages.
    """
    n = len(vectors)
    effective = requested.resolve(n)
    placement = placement or choose_placement(requested, *vectors.shape)
    compiling = compile_kernels(placement.backend, progress, requested.metric)
    began = time.monotonic()
    backend, vectors = placement.backend, placement.bring(vectors)
    progress.phase(phases.NORMALISE)
    frame = geometry.prepare_rows(vectors, requested.metric)
    effective = geometry.fit_floor(effective, frame)
    distinct = find_distinct(vectors)
    rows = keep_distinct(vectors, distinct) if backend.weighted else vectors

    # The number of rows may differ from that for which the backend was chosen.
    options = replace(
        placement.options,
        min_samples=effective.min_samples,
        distance_floor=effective.distance_floor,
        progress=progress,
        checkpoint=checkpoint,
        executor=executor,
        keep_neighbours=min(placement.options.keep_neighbours, n),
    )
    options = geometry.scale_options(options, frame)
    are_enough = max(effective.min_cluster_size, effective.min_samples) <= n
    tree = None
    if are_enough:
        tree = geometry.scale_tree(_build_spanning_tree(rows, distinct, backend, options), frame)
    progress.phase(phases.HIERARCHY)
    graph = tree if tree is not None and tree.neighbours is not None else None
    if graph is not None:
        tree = lower_min_samples(graph, effective.min_samples, effective.distance_floor)
    # Without a tree, all rows are outliers.
    flat = FlatClusters.without_clusters(n) if tree is None else hierarchy.extract_clusters(tree, effective)
    flat = hierarchy.relabel_by_size(flat)
    fitted = time.monotonic()

    progress.phase(phases.MEDOIDS)
    rows = rows if backend.weighted else keep_distinct(vectors, distinct)
    medoids = _find_medoids(rows, distinct, flat, requested.metric)
    about = add_seconds(about, compile=compiling, fit=fitted - began, medoids=time.monotonic() - fitted)
    largest = None if graph is None else options.tree_min_samples
    about |= {"metric": requested.metric, "keep_neighbours": largest}
    record = build_record(effective, backend, distinct, flat, tree=tree, about=about)
    return _build_clustering(flat, distinct, medoids, record=record, tree=tree, graph=graph)


def recut_rows(
    vectors: Array,
    tree: SpanningTree,
    effective: EffectiveParameters,
    *,
    source: ClusteringRecord,
    progress: Progress,
    about: Mapping[str, Any] | None = None,
) -> Clustering:
    """Cut the tree of an earlier fit with other parameters; the clusters are those of a fit with these.

    Parameters
    ----------
    vectors : (n, d) float32
        The rows of the earlier fit, in its order; writable, prepared in place, distinct rows moved to the
        front.
    tree : SpanningTree
        The tree of the earlier fit at the new `min_samples`.
    effective : EffectiveParameters
        The new parameters. The `distance_floor` must equal that of the earlier fit.
    source : ClusteringRecord
        The record of the earlier fit.
    progress : Progress
        Receives the phases.
    about : mapping, optional
        As for `cluster_rows`.

    Returns
    -------
    Clustering
        Its record has the new parameters, and the source's values for the tree.
    """
    compiling = compile_kernels(backends.get_backend(_HIERARCHY_ONLY), progress)
    began = time.monotonic()
    progress.phase(phases.HIERARCHY)
    flat = hierarchy.relabel_by_size(hierarchy.extract_clusters(tree, effective))
    cut = time.monotonic()
    progress.phase(phases.MEDOIDS)
    metric = source.metric or records.COSINE
    vectors = geometry.convert_rows(vectors, metric)
    geometry.prepare_rows(vectors, metric)
    distinct = find_distinct(vectors)
    medoids = _find_medoids(keep_distinct(vectors, distinct), distinct, flat, metric)
    record = replace(
        source,
        **asdict(effective),
        **count_clusters(effective, flat),
        versions=collect_versions(),
        keep_neighbours=None,
        **add_seconds(about, compile=compiling, cut=cut - began, medoids=time.monotonic() - cut),
    )
    return _build_clustering(flat, distinct, medoids, record=record, tree=tree)


def find_medoid(vectors: Float32Array, probabilities: FloatArray, metric: str = records.COSINE) -> int:
    """Return the medoid of a cluster that consists of all rows.

    Parameters
    ----------
    vectors : (n, d) float32
        At least one row; changed in place.
    probabilities : (n,) float64
        Membership strengths.
    metric : {"cosine", "euclidean"}
        Distance of two rows.
    """
    rows = geometry.convert_rows(vectors, metric)
    geometry.prepare_rows(rows, metric)
    return find_medoids(rows, np.zeros(len(rows), dtype=np.int64), probabilities, 1, metric)[0]


def _build_spanning_tree(
    rows: Array, distinct: DistinctRows, backend: Backend, options: FitOptions
) -> SpanningTree:
    """Build the tree over all rows; backends that accept weights get the distinct rows only."""
    n, m = len(distinct.inverse), len(distinct.first)
    if m == 1:
        # All rows are copies of one, so that the tree is a star for every backend.
        floor = np.full(1, options.distance_floor)
        empty = np.empty(0, dtype=np.int64)
        has_lists = backend.exact and options.keep_neighbours > 0
        lists = empty_lists(1, options.tree_min_samples) if has_lists else None
        return attach_copies(SpanningTree(empty, empty, np.empty(0), floor, neighbours=lists), distinct)
    if backend.weighted:
        return attach_copies(backend.fit(rows, distinct.counts, options), distinct)
    return backend.fit(rows, np.ones(n, dtype=np.int64), options)


def _find_medoids(rows: Array, distinct: DistinctRows, flat: FlatClusters, metric: str) -> dict[int, int]:
    # Copies have the same label and probability, so a distinct row has the summed weight of its copies.
    labels: IntArray = flat.labels[distinct.first]
    weights = np.bincount(distinct.inverse, weights=flat.probabilities, minlength=len(rows))
    n_clusters = len(flat.persistence)
    medoids = find_medoids(rows, labels, weights.astype(np.float64, copy=False), n_clusters, metric)
    return {label: int(distinct.first[row]) for label, row in medoids.items()}


def _build_clustering(
    flat: FlatClusters,
    distinct: DistinctRows,
    medoids: dict[int, int],
    *,
    record: ClusteringRecord,
    tree: SpanningTree | None,
    graph: SpanningTree | None = None,
) -> Clustering:
    return Clustering(
        labels=flat.labels,
        probabilities=flat.probabilities,
        persistence=flat.persistence,
        medoid_indices=medoids,
        medoid_copies={label: int(distinct.counts[distinct.inverse[row]]) for label, row in medoids.items()},
        record=record,
        tree=tree,
        graph=graph,
    )
