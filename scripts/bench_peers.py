"""What the benchmark runs, one function a peer: unit rows in; labels and tree weight out.

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
    """What a peer found.

    Attributes
    ----------
    labels : (n,) int64 or None
        Cluster of each row, -1 for outliers.
    tree_weight : float or None
        Sum of the edges of its spanning tree.
    """

    labels: NDArray[np.int64] | None = None
    tree_weight: float | None = None


Rows = NDArray[np.float32]


def tiled(rows: Rows, min_samples: int, min_cluster_size: int) -> Outcome:
    """Cluster with this package from rows to medoids; the tree's weight is taken on the way."""
    from panic_tda import clustering, hierarchy
    from panic_tda.parameters import ClusteringParameters
    from panic_tda.progress import Silent

    weight = {}
    extract = hierarchy.extract

    def weighing(tree: Any, parameters: Any) -> Any:
        weight["tree"] = float(tree.height.sum())
        return extract(tree, parameters)

    hierarchy.extract = weighing
    asked = ClusteringParameters(
        epsilon=0.0,
        min_samples=min_samples,
        min_cluster_size=min_cluster_size,
        allow_single_cluster=False,
        distance_floor=1e-9,
        backend="tiled",
    )
    found = clustering.cluster_rows(rows, asked, Silent())
    return Outcome(found.labels, weight["tree"])


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
    return Outcome(model.labels_, float(model._single_linkage_tree_["value"].sum()))


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
    return Outcome(model.labels_, float(model._single_linkage_tree[:, 2].sum()))


def fast_hdbscan(rows: Rows, min_samples: int, min_cluster_size: int) -> Outcome:
    """fast_hdbscan: approximate above 30 dimensions."""
    from fast_hdbscan import HDBSCAN

    model = HDBSCAN(min_samples=min_samples - 1, min_cluster_size=min_cluster_size).fit(rows)
    tree = getattr(model, "_single_linkage_tree", None)
    return Outcome(model.labels_, None if tree is None else float(np.asarray(tree)[:, 2].sum()))


def evoc(rows: Rows, min_samples: int, min_cluster_size: int) -> Outcome:
    """EVoC: another algorithm, made for embeddings; approximate."""
    from evoc import EVoC

    model = EVoC(min_samples=min_samples, base_min_cluster_size=min_cluster_size)
    return Outcome(np.asarray(model.fit_predict(rows)))


def quitefastmst(rows: Rows, min_samples: int, min_cluster_size: int) -> Outcome:
    """quitefastmst: the exact tree alone."""
    import quitefastmst as library

    found = library.mst_euclid(rows, M=min_samples - 1)
    return Outcome(tree_weight=float(np.asarray(found[0]).sum()))


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
