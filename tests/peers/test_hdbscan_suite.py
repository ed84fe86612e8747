"""Run hdbscan's own tests on our HDBSCAN: each passes, or is listed with the reason."""

from __future__ import annotations

from pathlib import Path

import hdbscan
import numpy as np
import pytest

from panic_tda.errors import BadVectors
from tests.peers import adapter
from tests.peers.adapter import NO_ERROR, RADIUS, Difference, HdbscanPeer, expect, their_tests

METRIC = Difference("unit vectors and their chords: no other metric, and no distances instead of vectors")
SPARSE = Difference("no sparse matrices")
NOT_FINITE = Difference("rows that are not finite are refused, not labelled", BadVectors)
ALGORITHM = Difference("how neighbours are found is no option, so that none is refused", NO_ERROR)
TREES = Difference("trees are arrays, without plots and conversions")
PREDICTION = Difference("no strengths and scores of other rows or other clusters")
SELECTION = Difference("no least persistence, no largest epsilon")

DIFFERENCES = {
    "test_missing_data": NOT_FINITE,
    "test_hdbscan_distance_matrix": METRIC,
    "test_hdbscan_sparse_distance_matrix": METRIC,
    "test_hdbscan_high_dimensional": METRIC,
    "test_hdbscan_best_balltree_metric": METRIC,
    "test_hdbscan_callable_metric": METRIC,
    "test_hdbscan_badargs": METRIC,
    "test_hdbscan_prims_kdtree": METRIC,
    "test_hdbscan_boruvka_kdtree": METRIC,
    "test_hdbscan_prims_balltree": ALGORITHM,
    "test_hdbscan_boruvka_balltree": ALGORITHM,
    "test_hdbscan_sparse": SPARSE,
    "test_condensed_tree_plot": TREES,
    "test_single_linkage_tree_plot": TREES,
    "test_min_span_tree_plot": TREES,
    "test_tree_numpy_output_formats": TREES,
    "test_tree_pandas_output_formats": TREES,
    "test_tree_networkx_output_formats": TREES,
    "test_hdbscan_outliers": PREDICTION,
    "test_hdbscan_approximate_predict": PREDICTION,
    "test_hdbscan_approximate_predict_score": PREDICTION,
    "test_hdbscan_all_points_membership_vectors": PREDICTION,
    "test_hdbscan_persistence_threshold": SELECTION,
    "test_hdbscan_cluster_selection_epsilon_max": SELECTION,
    "test_hdbscan_parameters_do_not_trigger_errors": SELECTION,
}
OTHER_FUNCTIONS = {
    "test_branches": "branches inside clusters",
    "test_flat": "the epsilon that gives a wanted number of clusters, from their own fitted object",
    "test_prediction_utils": "a division inside their predictions",
    "test_rsl": "robust single linkage",
}

_theirs = their_tests("hdbscan.tests.test_hdbscan", HDBSCAN=HdbscanPeer, hdbscan=adapter.hdbscan)
globals().update({name: test for name, test in vars(_theirs).items() if name.startswith("test_")})


@pytest.fixture(autouse=True)
def _expected(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    expect(request, DIFFERENCES)
    if request.node.name == "test_hdbscan_min_cluster_size":
        # It fits once for every number of rows.
        monkeypatch.setattr(_theirs, "X", _theirs.X[::5])


def test_every_listed_difference_belongs_to_an_existing_test() -> None:
    assert DIFFERENCES.keys() <= vars(_theirs).keys()


def test_all_peer_tests_of_hdbscan_are_run() -> None:
    folder = Path(hdbscan.__file__).parent / "tests"
    assert {path.stem for path in folder.glob("test_*.py")} == {"test_hdbscan", *OTHER_FUNCTIONS}


@pytest.mark.parametrize("min_samples", [1, 4, 19])
def test_on_peer_data_the_spanning_tree_has_the_same_weight(min_samples: int) -> None:
    # The sorted weights are unique even where ties leave a choice of trees.
    rows = _theirs.generate_noisy_data()
    exact = {"approx_min_span_tree": False, "core_dist_n_jobs": 1, "gen_min_span_tree": True}
    theirs = hdbscan.HDBSCAN(min_samples=min_samples, **exact).fit(rows)
    *_, lengths = HdbscanPeer(min_samples=min_samples).fit(rows).edges()
    weights = np.sort(theirs.minimum_spanning_tree_.to_numpy()[:, 2])
    np.testing.assert_allclose(lengths, weights, rtol=1 / RADIUS**2)
