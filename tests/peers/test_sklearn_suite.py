"""Run scikit-learn's own tests on our HDBSCAN: each passes, or is listed with the reason."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.cluster
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.pairwise import _VALID_METRICS

from panic_tda.errors import BadVectors
from panic_tda.types import OUTLIER
from tests.peers.adapter import NO_ERROR, RADIUS, Difference, SklearnPeer, expect, their_tests

METRIC = Difference("unit vectors and their chords: no other metric, and no distances instead of vectors")
SPARSE = Difference("no sparse matrices")
NOT_FINITE = Difference("rows that are not finite are refused, not labelled", BadVectors)
ALGORITHM = Difference("how neighbours are found is no option, so that none is refused", NO_ERROR)
MIN_SAMPLES = Difference("more than there are rows makes all of them outliers", NO_ERROR)
COPY = Difference("rows are always copied, so that there is nothing to warn of", NO_ERROR)

TREES = ("kd_tree", "ball_tree")
DIFFERENCES = {
    "test_outlier_data": NOT_FINITE,
    "test_dbscan_clustering_outlier_data": NOT_FINITE,
    "test_hdbscan_distance_matrix": METRIC,
    "test_hdbscan_sparse_distance_matrix": METRIC,
    "test_hdbscan_best_balltree_metric": METRIC,
    "test_hdbscan_callable_metric": METRIC,
    "test_hdbscan_precomputed_non_brute": METRIC,
    "test_hdbscan_usable_inputs[kwargs0-X0]": METRIC,
    "test_hdbscan_usable_inputs[kwargs1-X1]": METRIC,
    "test_hdbscan_sparse_distances_too_few_nonzero": METRIC,
    "test_hdbscan_sparse_distances_disconnected_graph": METRIC,
    "test_hdbscan_tree_invalid_metric": METRIC,
    "test_hdbscan_precomputed_dense_nan": METRIC,
    "test_hdbscan_error_precomputed_and_store_centers": METRIC,
    "test_hdbscan_sparse": SPARSE,
    "test_hdbscan_cosine_metric_invalid_algorithm": ALGORITHM,
    "test_hdbscan_too_many_min_samples": MIN_SAMPLES,
    "test_hdbscan_default_copy_warning": COPY,
} | {
    f"test_hdbscan_algorithms[{metric}-{tree}]": ALGORITHM if metric == "cosine" else METRIC
    for metric, tree in product(_VALID_METRICS, TREES)
    if metric not in ("euclidean", "l2")
}

_theirs = their_tests("sklearn.cluster.tests.test_hdbscan", HDBSCAN=SklearnPeer)
globals().update({name: test for name, test in vars(_theirs).items() if name.startswith("test_")})


@pytest.fixture(autouse=True)
def _expected(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    expect(request, DIFFERENCES)
    if request.node.name == "test_hdbscan_min_cluster_size":
        # It fits once for every number of rows.
        monkeypatch.setattr(_theirs, "X", _theirs.X[::5])


@pytest.fixture(params=[0, 42])
def global_random_seed(request: pytest.FixtureRequest) -> int:
    seed: int = request.param
    return seed


def test_every_listed_difference_belongs_to_an_existing_test() -> None:
    assert {name.partition("[")[0] for name in DIFFERENCES} <= vars(_theirs).keys()


def test_all_peer_tests_of_hdbscan_are_run() -> None:
    folder = Path(sklearn.cluster.__file__).parent
    names = {path.stem for path in folder.rglob("test_*.py") if "HDBSCAN(" in path.read_text()}
    assert names == {"test_hdbscan"}


@pytest.mark.parametrize("min_samples", [1, 2, 5, 20])
def test_on_peer_data_the_spanning_tree_has_the_same_weight(min_samples: int) -> None:
    # The sorted weights are unique even where ties leave a choice of trees.
    theirs = sklearn.cluster.HDBSCAN(min_samples=min_samples, copy=False).fit(_theirs.X)
    *_, lengths = SklearnPeer(min_samples=min_samples).fit(_theirs.X).edges()
    np.testing.assert_allclose(lengths, theirs._single_linkage_tree_["value"], rtol=1 / RADIUS**2)


@pytest.mark.parametrize("method", ["eom", "leaf"])
@pytest.mark.parametrize("single", [False, True])
def test_on_peer_data_without_ties_the_clusters_are_equal(method: str, single: bool) -> None:
    noise = np.random.default_rng(0).uniform(-2, 2, (60, 2))
    for size in (3, 5, 20):
        options: dict[str, Any] = {
            "min_samples": 1,  # core distances are what ties
            "min_cluster_size": size,
            "cluster_selection_method": method,
            "allow_single_cluster": single,
            "copy": False,
        }
        for rows in (_theirs.X, np.vstack([_theirs.X, noise])):
            ours, theirs = SklearnPeer(**options).fit(rows), sklearn.cluster.HDBSCAN(**options).fit(rows)
            np.testing.assert_array_equal(ours.labels_ == OUTLIER, theirs.labels_ == OUTLIER)
            assert adjusted_rand_score(ours.labels_, theirs.labels_) == 1
            np.testing.assert_allclose(ours.probabilities_, theirs.probabilities_, rtol=2 / RADIUS**2)
