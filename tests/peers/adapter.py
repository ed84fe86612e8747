"""Wrap our function in the interfaces of scikit-learn's and hdbscan's classes, to run their tests on it.

Theirs measure Euclidean distances, ours chords between unit vectors. A small patch of a sphere is flat: on
one with a radius far beyond that of the points, chords are in proportion to their distances.
"""

from __future__ import annotations

import importlib.util
import math
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import pytest
from hdbscan import _hdbscan_linkage, _hdbscan_tree
from sklearn.cluster._hdbscan import _linkage, _tree

import panic_tda

if TYPE_CHECKING:
    from types import ModuleType

    from panic_tda.types import Clustering, FloatArray, IntArray

RADIUS = 100
"""Of the sphere, in lengths of the longest centred row. Chords are too short by at most one part in 10,000
then; on a larger one single precision leaves fewer digits to the differences of the rows' heights."""
FLOOR = 1e-9
"""Theirs have none."""
HOW_NOT_WHAT = {
    *("algorithm", "leaf_size", "n_jobs", "core_dist_n_jobs", "copy", "memory"),
    *("approx_min_span_tree", "gen_min_span_tree", "store_centers"),
}
"""Options of theirs that leave an exact answer as it is."""


NO_ERROR = pytest.fail.Exception
"""What a test of theirs ends with that waits for an error or a warning in vain."""


class OutOfScope(Exception):
    """A feature that the peer has and this package does not; no peer test expects this error."""


class Difference(NamedTuple):
    """Reason and error of a peer test that fails."""

    reason: str
    raises: type[BaseException] | tuple[type[BaseException], ...] = OutOfScope


class _Peer:
    """The common part of both adapters."""

    metric: Any = "euclidean"
    min_cluster_size: Any = 5
    min_samples: Any = None
    cluster_selection_epsilon: Any = 0.0
    cluster_selection_method: Any = "eom"
    allow_single_cluster: Any = False
    max_cluster_size: Any = None

    clustering: Clustering
    X: Any
    unit: float

    def __init__(self, **settings: Any) -> None:
        for name, value in settings.items():
            if name in _Peer.__annotations__:
                setattr(self, name, value)
            elif name not in HOW_NOT_WHAT and value is not None:
                raise OutOfScope(f"{name}={value!r}")

    def __getattr__(self, name: str) -> Any:
        raise OutOfScope(name)

    def fit(self, X: Any, y: None = None) -> Self:
        if self.metric not in ("euclidean", "l2", "cosine"):
            raise OutOfScope(f"metric {self.metric}")
        if hasattr(X, "tocsr"):
            raise OutOfScope("sparse matrices")
        self.X, epsilon = np.asarray(X), self.cluster_selection_epsilon
        if self.metric == "cosine":
            rows, self.unit, epsilon = self.X, 1.0, math.sqrt(2 * epsilon)
        else:
            rows, self.unit = on_a_sphere(self.X)
        self.clustering = panic_tda.hdbscan(
            rows,
            epsilon=epsilon * self.unit,
            min_cluster_size=self.min_cluster_size,
            min_samples=self.neighbours(),
            # Theirs ignore it where it has no effect; ours refuses it there.
            allow_single_cluster=self.allow_single_cluster
            and not (self.cluster_selection_method == "leaf" and epsilon == 0),
            selection_method=self.cluster_selection_method,
            max_cluster_size=self.max_cluster_size or None,
            distance_floor=FLOOR,
            backend="tiled",  # the small ones' own would ask scikit-learn about itself
        )
        return self

    def fit_predict(self, X: Any, y: None = None) -> IntArray:
        return self.fit(X).labels_

    def neighbours(self) -> Any:
        """Return the number of neighbours, called `min_samples` in panic_tda."""
        return self.min_cluster_size if self.min_samples is None else self.min_samples

    @property
    def labels_(self) -> IntArray:
        return self.clustering.labels

    @property
    def probabilities_(self) -> FloatArray:
        return self.clustering.probabilities

    @property
    def cluster_persistence_(self) -> FloatArray:
        return self.clustering.persistence

    @property
    def medoids_(self) -> FloatArray:
        medoids: FloatArray = self.X[list(self.clustering.medoid_indices.values())]
        return medoids

    @property
    def centroids_(self) -> FloatArray:
        """Not computed; present because tests of medoids access it first."""
        of_label = [self.labels_ == label for label in self.clustering.medoid_indices]
        means = [
            np.average(self.X[members], axis=0, weights=self.probabilities_[members]) for members in of_label
        ]
        return np.reshape(means, (len(of_label), self.X.shape[1]))

    def edges(self) -> tuple[IntArray, IntArray, FloatArray]:
        """Return our spanning tree in the units of the peer's rows, the shortest edge first."""
        tree = self.clustering.tree
        assert tree is not None
        order = np.argsort(tree.height, kind="stable")
        return tree.u[order], tree.v[order], tree.height[order] / self.unit


class SklearnPeer(_Peer):
    """scikit-learn's HDBSCAN. Its `min_samples` counts the point itself, as ours does."""

    @property
    def _single_linkage_tree_(self) -> Any:
        edges = np.empty(len(self.X) - 1, dtype=_linkage.MST_edge_dtype)
        edges["current_node"], edges["next_node"], edges["distance"] = self.edges()
        return _linkage.make_single_linkage(edges)

    def dbscan_clustering(self, cut_distance: float) -> IntArray:
        tree = self._single_linkage_tree_
        labels: IntArray = _tree.labelling_at_cut(tree, cut_distance, self.min_cluster_size)
        return labels


class HdbscanPeer(_Peer):
    """hdbscan's HDBSCAN. Its `min_samples` does not count the point itself, and is cut to what there is."""

    def neighbours(self) -> Any:
        result = super().neighbours()
        return min(result + 1, len(self.X)) if isinstance(result, int) and self.X.ndim else result

    def dbscan_clustering(self, cut_distance: float) -> IntArray:
        linkage = _hdbscan_linkage.label(np.column_stack(self.edges()))
        labels: IntArray = _hdbscan_tree.labelling_at_cut(linkage, cut_distance, self.min_cluster_size)
        return labels

    def weighted_cluster_centroid(self, cluster_id: int) -> FloatArray:
        centroid: FloatArray = self.centroids_[self._of(cluster_id)]
        return centroid

    def weighted_cluster_medoid(self, cluster_id: int) -> FloatArray:
        medoid: FloatArray = self.medoids_[self._of(cluster_id)]
        return medoid

    def _of(self, cluster_id: int) -> int:
        return list(self.clustering.medoid_indices).index(cluster_id)


def hdbscan(X: Any, **options: Any) -> tuple[Any, ...]:
    """hdbscan's function: labels, probabilities, persistence and three trees, of which none is ours."""
    peer = HdbscanPeer(**options).fit(X)
    return peer.labels_, peer.probabilities_, peer.cluster_persistence_, None, None, None


def on_a_sphere(X: Any) -> tuple[Any, float]:
    """Map points to the unit sphere; return them and the chord of a distance of 1."""
    if X.ndim != 2 or X.dtype.kind not in "fiu" or not np.isfinite(X).all():
        return X, 1.0  # ours to refuse
    centred = X - X.mean(axis=0)
    unit = 1 / (RADIUS * np.linalg.norm(centred, axis=1).max())
    flat = centred * unit
    return np.column_stack([flat, np.sqrt(1 - (flat**2).sum(axis=1))]), unit


def their_tests(module: str, **ours: Any) -> ModuleType:
    """Load a module of peer tests in which the peer's names refer to ours."""
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    missing = [name for name in ours if not hasattr(loaded, name)]
    assert not missing, f"{module} has no {missing} to replace any more"
    vars(loaded).update(ours)
    return loaded


def expect(request: pytest.FixtureRequest, differences: dict[str, Difference]) -> None:
    """Expect listed tests, by name or with parameters, to fail with the listed error."""
    difference = differences.get(request.node.name) or differences.get(request.node.originalname)
    if difference:
        mark = pytest.mark.xfail(reason=difference.reason, raises=difference.raises, strict=True)
        request.applymarker(mark)
