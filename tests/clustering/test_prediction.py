"""Test that new rows get the cluster of hdbscan's definition, with exact neighbours."""

from __future__ import annotations

import hdbscan as peer
import numpy as np
import pytest
from sklearn.neighbors import KDTree

from panic_tda import HDBSCAN
from tests.clustering.test_euclidean import islands

MIN_SAMPLES = 6


def split(d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a fit, and new rows: near the clusters, between them and far from all."""
    rows = islands(d, 300, seed).astype(np.float64)
    rng = np.random.default_rng(seed)
    new = rows[rng.integers(len(rows), size=120)] + rng.standard_normal((120, d)) * rng.uniform(
        0, 3, (120, 1)
    )
    return rows, np.concatenate([new, rng.uniform(-40, 60, (20, d))])


@pytest.mark.parametrize(("d", "seed"), [(2, 0), (3, 3), (5, 2)])
def test_euclidean_predictions_are_those_of_hdbscan(d: int, seed: int) -> None:
    """With these seeds both have the same condensed tree; hdbscan's depends on the order of tied edges."""
    rows, new = split(d, seed)
    labels, probabilities, theirs, strengths = predict_both(rows, new, rows, new, "euclidean")
    assert labels.tolist() == theirs.tolist()
    np.testing.assert_allclose(probabilities, strengths, rtol=1e-9)
    assert -1 in labels
    assert len(set(labels.tolist())) > 3


def test_cosine_predictions_are_those_of_hdbscan_on_unit_rows() -> None:
    rng = np.random.default_rng(3)
    groups = rng.standard_normal((5, 8))
    rows, new = (
        groups[rng.integers(5, size=n)] + spread * rng.standard_normal((n, 8))
        for n, spread in ((250, 0.25), (120, 0.5))
    )
    unit, new_unit = (
        (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)
        for vectors in (rows, new)
    )
    labels, probabilities, theirs, strengths = predict_both(rows, new, unit, new_unit, "cosine")
    assert labels.tolist() == theirs.tolist()
    np.testing.assert_allclose(probabilities, strengths, rtol=1e-6)
    assert len(set(labels.tolist())) > 3


def predict_both(
    rows: np.ndarray, new: np.ndarray, flat_rows: np.ndarray, flat_new: np.ndarray, metric: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return our labels and probabilities, and hdbscan's with our numbers of the clusters."""
    ours = HDBSCAN(10, MIN_SAMPLES, metric=metric, cluster_selection_epsilon=0.0).fit(rows)
    theirs = peer.HDBSCAN(
        min_cluster_size=10, min_samples=MIN_SAMPLES - 1, prediction_data=True, approx_min_span_tree=False
    ).fit(flat_rows)
    # Its prediction data count the point itself among min_samples; its fit does not.
    cores = KDTree(flat_rows).query(flat_rows, k=MIN_SAMPLES)[0][:, -1]
    theirs.prediction_data_.core_distances = cores
    number = dict(zip(theirs.labels_.tolist(), ours.labels_.tolist(), strict=True)) | {-1: -1}
    assert [number[label] for label in theirs.labels_.tolist()] == ours.labels_.tolist()
    labels, strengths = peer.approximate_predict(theirs, flat_new)
    renamed = np.array([number[label] for label in labels.tolist()])
    return *ours.predict_with_probability(new), renamed, strengths


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("single", [False, True])
def test_rows_of_the_fit_get_their_own_labels_back(metric: str, single: bool) -> None:
    noise = np.random.default_rng(0).uniform(-30, 40, (30, 3))
    rows = np.concatenate([islands(3), islands(3)[:40], noise])
    model = HDBSCAN(8, metric=metric, allow_single_cluster=single, cluster_selection_epsilon=0.0).fit(rows)
    labels, probabilities = model.predict_with_probability(rows)
    assert labels.tolist() == model.labels_.tolist()
    assert probabilities.tolist() == model.probabilities_.tolist()
    assert -1 in labels


def test_a_prediction_does_not_depend_on_the_other_new_rows() -> None:
    rows, new = split(3, 4)
    model = HDBSCAN(10, metric="euclidean").fit(rows)
    together = model.predict_with_probability(new)
    alone = [model.predict_with_probability(row[None, :]) for row in new[:30]]
    assert [label for labels, _ in alone for label in labels] == together[0][:30].tolist()
    assert [value for _, values in alone for value in values] == together[1][:30].tolist()


def test_a_prediction_does_not_depend_on_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    from panic_tda.clustering import prediction

    rows, new = split(2, 5)
    model = HDBSCAN(10, metric="euclidean").fit(rows)
    together = model.predict(new)
    monkeypatch.setattr(prediction, "QUERY_ROWS", 7)
    monkeypatch.setattr(prediction, "TILE_ROWS", 64)
    assert model.predict(new).tolist() == together.tolist()


def test_without_clusters_every_new_row_is_an_outlier() -> None:
    rows = np.random.default_rng(0).standard_normal((30, 2))
    for model in (HDBSCAN(40, metric="euclidean"), HDBSCAN(25, metric="euclidean")):
        labels, probabilities = model.fit(rows).predict_with_probability(rows)
        assert set(labels.tolist()) == {-1}
        assert set(probabilities.tolist()) == {0.0}


def test_copies_count_as_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The neighbour and the height of each new row are those of the definition, over all rows with copies."""
    from panic_tda.clustering import geometry, prediction

    generator = np.random.default_rng(8)
    distinct = islands(3, 200, 8).astype(np.float64)
    rows = distinct[generator.permutation(np.repeat(np.arange(200), generator.integers(1, 9, 200)))]
    new = np.concatenate([distinct[:40], distinct[:80] + generator.normal(size=(80, 3))])
    model = HDBSCAN(10, MIN_SAMPLES, metric="euclidean").fit(rows)
    assert model.clustering_.tree is not None
    cores = model.clustering_.tree.core_distances
    assert cores is not None
    distances = np.linalg.norm(new[:, None] - rows[None], axis=2)
    own = np.sort(distances, axis=1)[:, MIN_SAMPLES - 1]
    heights = np.maximum(np.maximum(distances, cores), own[:, None])
    monkeypatch.setattr(prediction, "TILE_ROWS", 32)
    frame = geometry.prepare_rows(prepared_rows := rows.copy(), "euclidean")
    assert frame is not None
    predictor = prediction.build_predictor(prepared_rows, model.clustering_, frame.scale)
    geometry.prepare_more_rows(prepared := new.copy(), frame)
    joins = prediction.find_joins(predictor, prepared)
    floor = model.clustering_.record.distance_floor
    np.testing.assert_allclose(
        joins.height / predictor.scale, np.maximum(heights.min(axis=1), floor), rtol=1e-9
    )
    tied = heights <= heights.min(axis=1)[:, None] * (1 + 1e-9)
    nearest = np.where(tied, distances, np.inf).min(axis=1)
    np.testing.assert_allclose(joins.distance / predictor.scale, nearest, rtol=1e-9, atol=1e-12)
    assert len(predictor.rows) == 200
    assert predictor.counts.sum() == len(rows)
