"""Run the libraries of the benchmark, one function each: from unit rows to labels and the tree's edges.

`min_samples` counts the point itself here; libraries that do not count it are given one less.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FAISS_NEIGHBOURS = 32


@dataclass(frozen=True)
class Outcome:
    """The result of a library.

    Attributes
    ----------
    labels : (n,) int64 or None
        Cluster of each row, -1 for outliers.
    heights : (n - 1,) float64 or None
        Edges of its spanning tree, by ascending weight.
    """

    labels: NDArray[np.int64] | None = None
    heights: NDArray[np.float64] | None = None


Rows = NDArray[np.float32]


def tiled(rows: Rows, min_samples: int, min_cluster_size: int) -> Outcome:
    """Cluster with this package from rows to medoids; the tree is taken on the way."""
    from panic_tda.clustering import hierarchy
    from panic_tda.clustering import recipe as clustering
    from panic_tda.parameters import ClusteringParameters
    from panic_tda.progress import Silent

    heights = {}
    extract = hierarchy.extract_clusters

    def watching(tree: Any, parameters: Any) -> Any:
        heights["tree"] = np.sort(tree.height)
        return extract(tree, parameters)

    hierarchy.extract_clusters = watching
    settings = ClusteringParameters(
        epsilon=0.0,
        min_samples=min_samples,
        min_cluster_size=min_cluster_size,
        allow_single_cluster=False,
        distance_floor=1e-9,
        backend="tiled",
    )
    try:
        clustered = clustering.cluster_rows(rows, settings, Silent())
    finally:
        hierarchy.extract_clusters = extract
    return Outcome(clustered.labels, heights["tree"])


def sklearn(rows: Rows, min_samples: int, min_cluster_size: int, algorithm: str = "auto") -> Outcome:
    """scikit-learn's HDBSCAN as it comes."""
    from sklearn.cluster import HDBSCAN

    model = HDBSCAN(
        min_samples=min_samples,
        min_cluster_size=min_cluster_size,
        algorithm=algorithm,
        n_jobs=os.cpu_count(),
        copy=True,
    ).fit(rows)
    return Outcome(model.labels_, np.sort(model._single_linkage_tree_["value"]))


def sklearn_brute(rows: Rows, min_samples: int, min_cluster_size: int) -> Outcome:
    """scikit-learn's HDBSCAN on the full distance matrix."""
    return sklearn(rows, min_samples, min_cluster_size, "brute")


def hdbscan(rows: Rows, min_samples: int, min_cluster_size: int) -> Outcome:
    """scikit-learn-contrib's hdbscan, with the exact tree."""
    from hdbscan import HDBSCAN

    model = HDBSCAN(
        min_samples=min_samples - 1,
        min_cluster_size=min_cluster_size,
        approx_min_span_tree=False,
        core_dist_n_jobs=os.cpu_count(),
    ).fit(rows)
    return Outcome(model.labels_, np.sort(model._single_linkage_tree[:, 2]))


def fast_hdbscan(rows: Rows, min_samples: int, min_cluster_size: int) -> Outcome:
    """fast_hdbscan: approximate above 30 dimensions."""
    from fast_hdbscan import HDBSCAN

    model = HDBSCAN(min_samples=min_samples - 1, min_cluster_size=min_cluster_size).fit(rows)
    tree = getattr(model, "_single_linkage_tree", None)
    return Outcome(model.labels_, None if tree is None else np.sort(np.asarray(tree)[:, 2]))


def evoc(rows: Rows, min_samples: int, min_cluster_size: int) -> Outcome:
    """EVoC: another algorithm, made for embeddings; approximate."""
    from evoc import EVoC

    model = EVoC(min_samples=min_samples, base_min_cluster_size=min_cluster_size)
    return Outcome(np.asarray(model.fit_predict(rows)))


def quitefastmst(rows: Rows, min_samples: int, min_cluster_size: int) -> Outcome:
    """quitefastmst: the exact tree alone."""
    import quitefastmst as library

    edges = library.mst_euclid(rows, M=min_samples - 1)
    return Outcome(heights=np.sort(np.asarray(edges[0], dtype=np.float64)))


def faiss(rows: Rows, min_samples: int, min_cluster_size: int) -> Outcome:
    """One exact neighbour search with FAISS: what any exact method can hardly do without."""
    import faiss as library

    library.omp_set_num_threads(os.cpu_count() or 1)
    library.knn(rows, rows, FAISS_NEIGHBOURS, metric=library.METRIC_INNER_PRODUCT)
    return Outcome()


PEERS: dict[str, tuple[str, Callable[[Rows, int, int], Outcome]]] = {
    "tiled": ("numba", tiled),
    "faiss": ("faiss", faiss),
    "fast_hdbscan": ("fast_hdbscan", fast_hdbscan),
    "evoc": ("evoc", evoc),
    "sklearn_brute": ("sklearn", sklearn_brute),
    "sklearn": ("sklearn", sklearn),
    "hdbscan": ("hdbscan", hdbscan),
    "quitefastmst": ("quitefastmst", quitefastmst),
}
"""Name, the module it needs, and the function."""
