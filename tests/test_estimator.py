"""Test that `panic_tda.HDBSCAN` is a scikit-learn estimator over the engine of `panic_tda.hdbscan`."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hdbscan.plots
import joblib
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.cluster.hierarchy
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import panic_tda
from panic_tda import HDBSCAN
from panic_tda.errors import BadVectors, InvalidParameter, NoTree

ZEROS = "the metric cosine has no direction for rows of zeros, and the check has such rows"
EXPECTED_FAILURES = {"check_estimators_dtypes": ZEROS}


@parametrize_with_checks(
    [HDBSCAN(), HDBSCAN(metric="euclidean")],
    expected_failed_checks=lambda model: EXPECTED_FAILURES if model.metric == "cosine" else {},
    xfail_strict=True,
)
def test_scikit_learn_accepts_the_estimator(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    groups = rng.standard_normal((4, 6))
    return (groups[rng.integers(4, size=160)] + 0.2 * rng.standard_normal((160, 6))).astype(np.float32)


def list_cells(values: np.ndarray) -> list[list[float]]:
    return values.astype(np.float64).tolist()


def as_memory_map(values: np.ndarray, folder: Path) -> np.ndarray:
    np.save(folder / "rows.npy", values)
    return np.load(folder / "rows.npy", mmap_mode="r")


def read_only(values: np.ndarray) -> np.ndarray:
    frozen = values.copy()
    frozen.flags.writeable = False
    return frozen


INPUTS: dict[str, Callable[[np.ndarray, Path], Any]] = {
    "float64": lambda values, _: values.astype(np.float64),
    "list": lambda values, _: list_cells(values),
    "fortran": lambda values, _: np.asfortranarray(values),
    "not_contiguous": lambda values, _: np.repeat(values, 2, axis=0)[::2],
    "read_only": lambda values, _: read_only(values),
    "memory_map": as_memory_map,
    "pandas": lambda values, _: pd.DataFrame(values),
    "pandas_column": lambda values, _: pd.Series(list(values)),
    "polars": lambda values, _: pl.DataFrame(values),
    "polars_column": lambda values, _: pl.Series(list_cells(values)),
    "polars_array": lambda values, _: pl.Series(values, dtype=pl.Array(pl.Float32, 6)),
    "arrow": lambda values, _: pa.table({f"c{i}": values[:, i] for i in range(6)}),
    "arrow_column": lambda values, _: pa.array(list_cells(values)),
    "arrow_chunks": lambda values, _: pa.chunked_array([list_cells(values)]),
    "arrow_table_of_vectors": lambda values, _: pa.table({"vector": list_cells(values)}),
}


@pytest.mark.parametrize("name", INPUTS)
def test_every_kind_of_rows_gives_the_same_clusters(name: str, rows: np.ndarray, tmp_path: Path) -> None:
    expected = panic_tda.hdbscan(rows, min_cluster_size=8)
    X = INPUTS[name](rows, tmp_path)
    model = HDBSCAN(8).fit(X)
    assert model.labels_.tolist() == expected.labels.tolist()
    assert model.probabilities_.tolist() == expected.probabilities.tolist()
    assert model.n_features_in_ == 6
    assert model.predict(X).tolist() == expected.labels.tolist()


def test_the_rows_of_the_caller_are_not_changed(rows: np.ndarray) -> None:
    for metric in ("cosine", "euclidean"):
        for kind in (np.float32, np.float64):
            X = rows.astype(kind)
            before = X.copy()
            HDBSCAN(8, metric=metric).fit(X).predict(X)
            assert np.array_equal(X, before)


def test_names_of_features_are_kept_and_compared(rows: np.ndarray) -> None:
    frame = pl.DataFrame(rows, schema=[f"axis {i}" for i in range(6)])
    model = HDBSCAN(8).fit(frame)
    assert model.feature_names_in_.tolist() == frame.columns
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame.rename({"axis 0": "other"}))


def test_attributes_are_those_of_the_function(rows: np.ndarray) -> None:
    clustering = panic_tda.hdbscan(rows, min_cluster_size=8)
    model = HDBSCAN(8).fit(rows)
    assert model.clustering_.n_clusters == clustering.n_clusters > 2
    assert model.cluster_persistence_.tolist() == clustering.persistence.tolist()
    assert model.medoid_indices_.tolist() == list(clustering.medoid_indices.values())
    assert np.array_equal(model.medoids_, rows[model.medoid_indices_])


def test_trees_have_the_formats_of_scipy_and_hdbscan(rows: np.ndarray) -> None:
    model = HDBSCAN(8, 5, metric="euclidean").fit(rows)
    peer = hdbscan.HDBSCAN(
        min_cluster_size=8, min_samples=4, gen_min_span_tree=True, approx_min_span_tree=False
    ).fit(rows.astype(np.float64))
    linkage = model.single_linkage_tree_
    assert scipy.cluster.hierarchy.is_valid_linkage(linkage, throw=True)
    np.testing.assert_allclose(linkage[:, 2], peer.single_linkage_tree_.to_numpy()[:, 2], rtol=1e-9)
    # Both libraries cut each other's trees alike.
    height = float(np.median(linkage[:, 2]))
    cut = hdbscan.plots.SingleLinkageTree(linkage).get_clusters(height, 8)
    theirs = peer.single_linkage_tree_.get_clusters(height, 8)
    pairs = set(zip(cut.tolist(), theirs.tolist(), strict=True))
    assert len(pairs) == len(set(theirs.tolist()))

    condensed = model.condensed_tree_
    expected = peer.condensed_tree_.to_numpy()
    assert condensed.dtype == expected.dtype
    np.testing.assert_allclose(np.sort(condensed["lambda_val"]), np.sort(expected["lambda_val"]), rtol=1e-9)
    assert sorted(condensed["child_size"].tolist()) == sorted(expected["child_size"].tolist())
    assert len(hdbscan.plots.CondensedTree(condensed, model.labels_).to_pandas()) == len(expected)

    spanning = model.minimum_spanning_tree_
    assert spanning.shape == (len(rows) - 1, 3)
    np.testing.assert_allclose(spanning[:, 2], linkage[:, 2])
    np.testing.assert_allclose(model.outlier_scores_, peer.outlier_scores_, atol=1e-9)


def test_it_works_in_a_pipeline_and_survives_cloning_and_pickling(rows: np.ndarray) -> None:
    pipeline = make_pipeline(PCA(3), HDBSCAN(8, metric="euclidean"))
    labels = pipeline.fit_predict(rows)
    assert len(set(labels.tolist())) > 2
    assert pipeline.predict(rows).tolist() == labels.tolist()
    model = HDBSCAN(8, cluster_selection_epsilon=0.2)
    copy = clone(model).set_params(cluster_selection_method="leaf")
    assert copy.get_params() == model.get_params() | {"cluster_selection_method": "leaf"}
    model.fit(rows)
    restored = pickle.loads(pickle.dumps(model))
    assert restored.labels_.tolist() == model.labels_.tolist()
    assert restored.predict(rows).tolist() == model.predict(rows).tolist()
    assert np.array_equal(restored.single_linkage_tree_, model.single_linkage_tree_)


def test_parameters_set_after_the_fit_do_not_change_predictions(rows: np.ndarray) -> None:
    model = HDBSCAN(8).fit(rows)
    model.set_params(metric="euclidean")
    assert model.predict(rows).tolist() == model.labels_.tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"cluster_selection_epsilon": 3},
            "cluster_selection_epsilon must be a chord distance from 0 to 2; got 3",
        ),
        ({"cluster_selection_method": "dbscan"}, "cluster_selection_method must be eom or leaf"),
        ({"min_cluster_size": 1}, "min_cluster_size must be a count of at least 2"),
        ({"metric": "l1"}, "metric must be cosine or euclidean"),
        ({"memory_limit": 5}, "memory_limit must be at least 1 MiB"),
    ],
)
def test_messages_name_parameters_of_the_estimator(
    settings: dict[str, Any], message: str, rows: np.ndarray
) -> None:
    with pytest.raises(InvalidParameter, match=message):
        HDBSCAN(**settings).fit(rows)


def test_advice_names_parameters_of_the_estimator(rows: np.ndarray, caplog: pytest.LogCaptureFixture) -> None:
    HDBSCAN(70, 5, cluster_selection_epsilon=0.01).fit(rows)
    assert "There are no clusters" in caplog.text
    assert "cluster_selection_method=" in caplog.text or "min_cluster_size=" in caplog.text
    assert " epsilon=" not in caplog.text
    assert " selection_method=" not in caplog.text


def test_rows_without_values_are_refused(rows: np.ndarray) -> None:
    mask = np.zeros(rows.shape, dtype=bool)
    mask[3, 1] = True
    with pytest.raises(BadVectors, match="row 3 has masked values"):
        HDBSCAN().fit(np.ma.masked_array(rows, mask=mask))
    with pytest.raises(BadVectors, match=r"LazyFrame.*pass X\.collect\(\)"):
        HDBSCAN().fit(pl.DataFrame(rows).lazy())


def test_an_estimator_that_is_mapped_from_a_file_predicts(rows: np.ndarray, tmp_path: Path) -> None:
    """Its arrays are read-only, and copies of rows are set aside for predictions."""
    model = HDBSCAN(8).fit(np.concatenate([rows, rows[:30]]))
    joblib.dump(model, tmp_path / "model")
    mapped = joblib.load(tmp_path / "model", mmap_mode="r")
    assert mapped.predict(rows).tolist() == model.labels_[: len(rows)].tolist()


def test_missing_attributes_are_errors_with_a_reason(rows: np.ndarray) -> None:
    with pytest.raises(NotFittedError):
        HDBSCAN().predict(rows)
    assert not hasattr(HDBSCAN(), "condensed_tree_")
    model = HDBSCAN(200).fit(rows)
    assert set(model.labels_.tolist()) == {-1}
    assert model.medoids_.shape == (0, 6)
    with pytest.raises(NoTree, match="min_cluster_size 200 or min_samples 5 is more than the 160 rows"):
        _ = model.single_linkage_tree_


def test_a_clustering_shows_counts_and_settings(rows: np.ndarray) -> None:
    clustering = HDBSCAN(8).fit(rows).clustering_
    text = repr(clustering)
    for part in ("160 rows", "4 clusters", "outliers", "metric cosine", "epsilon 0.4", "min_cluster_size 8"):
        assert part in text
        assert part in clustering._repr_html_()
    assert "array" not in text
    assert len(text) < 300


def test_a_clustering_becomes_an_arrow_table(rows: np.ndarray) -> None:
    clustering = HDBSCAN(8).fit(rows).clustering_
    table = clustering.to_arrow()
    assert table["label"].to_pylist() == clustering.labels.tolist()
    assert table["probability"].to_pylist() == clustering.probabilities.tolist()
    medoids = table.filter(table["is_medoid"])["label"].to_pylist()
    assert sorted(medoids) == list(range(clustering.n_clusters))
    assert table["core_distance"].null_count == 0
    too_few = panic_tda.hdbscan(rows[:3], min_cluster_size=5).to_arrow()
    assert too_few["core_distance"].null_count == 3
