"""HDBSCAN as an estimator of scikit-learn, over the same engine as the commands."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from panic_tda import parameters, records
from panic_tda.arrays.frames import Frame
from panic_tda.arrays.matrices import as_matrix, require_unmasked
from panic_tda.clustering import geometry
from panic_tda.clustering.condensed import build_single_linkage, condense_tree
from panic_tda.clustering.prediction import Predictor, build_predictor
from panic_tda.clustering.recipe import fit_vectors
from panic_tda.doubts import ESTIMATOR_NAMES
from panic_tda.errors import BadVectors, InvalidParameter, NoTree
from panic_tda.parameters import ClusteringParameters, validate_memory_limit
from panic_tda.types import Array, Clustering, FloatArray, IntArray, SpanningTree
from panic_tda.wording import pluralize

_CONDENSED_TYPE = np.dtype(
    [("parent", np.intp), ("child", np.intp), ("lambda_val", np.float64), ("child_size", np.intp)]
)
"""Data type of hdbscan's condensed tree."""


class HDBSCAN(ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """Exact HDBSCAN of vectors by cosine or Euclidean distance.

    Parameters
    ----------
    min_cluster_size : int, float or None
        Smallest number of rows of a cluster, or a share of the rows in (0, 1). None is 0.1 % of the rows; on
        small data it is a tenth of the rows, at most 10.
    min_samples : int or None
        Number of neighbours for the core distance, including the point itself, as in scikit-learn; hdbscan
        does not count it. None is 5, or the number of rows if that is smaller.
    cluster_selection_epsilon : float or None
        Clusters closer than this distance are merged. With cosine it is a chord distance, sqrt(2 - 2 cos).
        None is 0.4 for cosine and 0 for euclidean.
    max_cluster_size : int or None
        Clusters above this size are split; for "eom" only.
    metric : {"cosine", "euclidean"}
        Distance of two rows. Cosine scales rows to unit length and cannot cluster rows of zeros.
    allow_single_cluster : bool
        Whether the root cluster, which contains all rows, may be selected.
    cluster_selection_method : {"eom", "leaf"}
        Excess of mass, or the leaves of the hierarchy.
    backend : {"auto", "tiled", "sklearn", "cuml"}
        Backend that builds the spanning tree. All but "cuml" are exact and give the same clusters.
    memory_limit : int or None
        Bytes to use in addition to the rows; lists above the limit are stored in temporary files.

    Attributes
    ----------
    labels_ : (n,) int64
        Cluster of each row, the largest first; -1 for outliers.
    probabilities_ : (n,) float64
        Membership probability of each row, 0 for outliers.
    cluster_persistence_ : (n_clusters,) float64
        Persistence of each cluster; NaN for the root cluster.
    medoid_indices_ : (n_clusters,) int64
        Row of the medoid of each cluster.
    medoids_ : (n_clusters, n_features_in_) array
        The medoids, as they were passed to `fit`.
    clustering_ : Clustering
        The clustering with its record of every value that was used.
    n_features_in_ : int
        Number of features seen in `fit`.
    feature_names_in_ : (n_features_in_,) str
        Names of the features, if all of them are strings.

    Notes
    -----
    Nothing is random, and the threads do not change a result, so that there is neither `random_state` nor
    `n_jobs`. The fitted estimator keeps a copy of the rows for `predict`.
    """

    labels_: IntArray
    probabilities_: FloatArray
    cluster_persistence_: FloatArray
    medoid_indices_: IntArray
    medoids_: NDArray[Any]
    clustering_: Clustering
    n_features_in_: int
    feature_names_in_: NDArray[Any]

    def __init__(
        self,
        min_cluster_size: int | float | None = None,
        min_samples: int | None = None,
        *,
        cluster_selection_epsilon: float | None = None,
        max_cluster_size: int | None = None,
        metric: str = records.COSINE,
        allow_single_cluster: bool = parameters.ALLOW_SINGLE_CLUSTER,
        cluster_selection_method: str = "eom",
        backend: str = "auto",
        memory_limit: int | None = None,
    ) -> None:
        self.min_cluster_size = min_cluster_size
        self.min_samples = min_samples
        self.cluster_selection_epsilon = cluster_selection_epsilon
        self.max_cluster_size = max_cluster_size
        self.metric = metric
        self.allow_single_cluster = allow_single_cluster
        self.cluster_selection_method = cluster_selection_method
        self.backend = backend
        self.memory_limit = memory_limit

    def fit(self, X: Any, y: object = None) -> Self:
        """Cluster the rows of a matrix.

        Parameters
        ----------
        X : (n, d) array_like
            Rows: NumPy, CuPy, a memory map, a pandas, polars or Arrow table of numbers, or a column of
            vectors of one of these.
        y : object
            Ignored.
        """
        requested = self._build_request()
        rows = self._read_rows(X, reset=True)
        clustering = fit_vectors(rows, requested, memory_limit=self.memory_limit, wording="estimator")
        prepared = as_matrix(rows, geometry.row_type(self.metric))
        frame = geometry.prepare_rows(prepared, self.metric)
        self.clustering_ = clustering
        self.labels_, self.probabilities_ = clustering.labels, clustering.probabilities
        self.cluster_persistence_ = clustering.persistence
        self.medoid_indices_ = np.array(
            [clustering.medoid_indices[label] for label in range(clustering.n_clusters)], dtype=np.int64
        )
        self.medoids_ = rows[self.medoid_indices_]
        self._state = _FittedState(clustering, prepared, frame)
        return self

    def predict(self, X: Any) -> IntArray:
        """Return the cluster of new rows, or -1; see `predict_with_probability`."""
        return self.predict_with_probability(X)[0]

    def predict_with_probability(self, X: Any) -> tuple[IntArray, FloatArray]:
        """Return the cluster of new rows, and their membership probabilities.

        Parameters
        ----------
        X : (m, d) array_like
            New rows.

        Returns
        -------
        labels : (m,) int64
            Cluster of the nearest row of the fit by mutual reachability distance, if the new row would have
            joined it above the cluster's birth; otherwise -1. Rows of the fit get their own labels.
        probabilities : (m,) float64
            Membership probabilities; 0 for outliers.

        Notes
        -----
        This is the definition of hdbscan's `approximate_predict`, with exact neighbours. A new row changes
        neither the clusters nor the labels of other new rows.
        """
        check_is_fitted(self)
        # The metric of the fit: parameters may have been set since.
        prepared = as_matrix(self._read_rows(X, reset=False), geometry.row_type(self._state.metric))
        geometry.prepare_more_rows(prepared, self._state.frame)
        return self._state.predictor.predict(prepared)

    @property
    def outlier_scores_(self) -> FloatArray:
        """GLOSH outlier score of each row, 0 in the densest part of its cluster to 1."""
        return self._fitted.outlier_scores

    @property
    def minimum_spanning_tree_(self) -> FloatArray:
        """Minimum spanning tree, (n - 1, 3) float64: two rows and their mutual reachability distance."""
        tree = self._fitted.tree
        order = np.argsort(tree.height, kind="stable")
        return np.column_stack([tree.u[order], tree.v[order], tree.height[order]])

    @property
    def single_linkage_tree_(self) -> FloatArray:
        """Single linkage tree, (n - 1, 4) float64, in the format of `scipy.cluster.hierarchy`."""
        return self._fitted.single_linkage

    @property
    def condensed_tree_(self) -> NDArray[Any]:
        """Condensed tree as hdbscan's structured array: parent, child, lambda_val and child_size."""
        return self._fitted.condensed

    @property
    def _fitted(self) -> _FittedState:
        try:
            return self._state
        except AttributeError:
            # check_is_fitted would be a message about the class; hasattr() needs this error.
            raise AttributeError(f"{type(self).__name__} has no trees and scores before fit") from None

    def _build_request(self) -> ClusteringParameters:
        try:
            epsilon = self.cluster_selection_epsilon
            if self.memory_limit is not None:
                validate_memory_limit(self.memory_limit)
            return ClusteringParameters(
                epsilon=parameters.choose_epsilon(self.metric) if epsilon is None else epsilon,
                min_cluster_size=self.min_cluster_size,
                min_samples=self.min_samples,
                allow_single_cluster=self.allow_single_cluster,
                selection_method=self.cluster_selection_method,
                max_cluster_size=self.max_cluster_size,
                backend=self.backend,
                metric=self.metric,
            )
        except InvalidParameter as error:
            raise InvalidParameter(_rename_parameters(str(error))) from None

    def _read_rows(self, X: Any, *, reset: bool) -> NDArray[Any]:
        rows = validate_data(
            self, _join_cells(X), reset=reset, dtype=[np.float64, np.float32], ensure_min_samples=1
        )
        matrix: NDArray[Any] = rows
        return matrix


@dataclass
class _FittedState:
    """Clustering of a fitted estimator, and everything that is derived from it on demand."""

    clustering: Clustering
    prepared: Array
    frame: Frame | None

    @property
    def metric(self) -> str:
        return self.clustering.record.metric or records.COSINE

    @property
    def tree(self) -> SpanningTree:
        if self.clustering.tree is None:
            record = self.clustering.record
            n = record.n_embeddings
            raise NoTree(
                f"there is no tree: min_cluster_size {record.min_cluster_size} or min_samples "
                f"{record.min_samples} is more than the {n} {pluralize(n, 'row')}"
            )
        return self.clustering.tree

    @cached_property
    def predictor(self) -> Predictor:
        scale = 1.0 if self.frame is None else self.frame.scale
        predictor = build_predictor(self.prepared, self.clustering, scale)
        self.prepared = predictor.rows  # moved in place; one array, so that it is pickled once
        return predictor

    @cached_property
    def outlier_scores(self) -> FloatArray:
        from panic_tda.insight.outlier_scores import score_outliers

        return score_outliers(self.tree, self.clustering.record)

    @cached_property
    def single_linkage(self) -> FloatArray:
        linkage = build_single_linkage(self.tree, self.clustering.record.distance_floor)
        n = len(linkage.height) + 1
        # Sorted by parent, the two children of every merge stand side by side.
        children = np.argsort(linkage.parent[:-1], kind="stable").reshape(-1, 2)
        return np.column_stack([children, linkage.height, linkage.size[n:]])

    @cached_property
    def condensed(self) -> NDArray[Any]:
        record = self.clustering.record
        linkage = build_single_linkage(self.tree, record.distance_floor)
        tree = condense_tree(linkage, record.min_cluster_size, self.tree.tie_tolerance)
        n, m = len(tree.row_cluster), len(tree.parent)
        edges = np.empty(n + m - 1, dtype=_CONDENSED_TYPE)
        edges["parent"] = n + np.concatenate([tree.row_cluster, tree.parent[1:]])
        edges["child"] = np.concatenate([np.arange(n), n + np.arange(1, m)])
        edges["lambda_val"] = 1 / np.concatenate([tree.row_height, tree.birth[1:]])
        edges["child_size"] = np.concatenate([np.ones(n, dtype=np.intp), tree.size[1:]])
        return edges[np.argsort(edges["parent"], kind="stable")]


def _rename_parameters(message: str) -> str:
    """Name parameters of `ClusteringParameters` as those of the estimator in a message."""
    for name, estimator_name in ESTIMATOR_NAMES.items():
        message = message.replace(estimator_name, name).replace(name, estimator_name)
    return message.replace("--", "")


def _join_cells(X: Any) -> Any:
    """Return a column of vectors as a matrix, a CuPy array in host memory, and anything else unchanged."""
    kind = type(X)
    if hasattr(kind, "collect_schema") and hasattr(kind, "collect"):
        raise BadVectors(f"X is a {kind.__name__}, whose rows are not computed yet; pass X.collect()")
    require_unmasked(X)
    if isinstance(X, np.ndarray | list | tuple) or hasattr(kind, "nnz"):
        return X
    if hasattr(kind, "__cuda_array_interface__"):
        return X.get()
    # Looked up in the class, because a data frame has an attribute for each of its columns.
    is_arrow_column = hasattr(kind, "null_count") and hasattr(kind, "type")
    n_axes = len(X.shape) if hasattr(kind, "shape") else 1 if is_arrow_column else 0
    if n_axes == 1 or (n_axes == 2 and X.shape[1] == 1):
        cells = np.asarray(X)
        if cells.dtype == object:
            return as_matrix(cells, np.float64)
        if n_axes == 1 and cells.ndim == 2:
            return cells
    return X
