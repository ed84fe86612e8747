"""Compare labels, probabilities and medoids with the reference, for every form of input."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panic_tda.arrays.rows import normalise
from panic_tda.clustering import backends
from panic_tda.clustering import recipe as clustering
from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.hierarchy import FlatClusters, relabel_by_size
from panic_tda.clustering.recipe import hdbscan
from panic_tda.clustering.warm_up import PHASE
from panic_tda.errors import BadVectors, InvalidParameter, UnsupportedOnBackend
from panic_tda.parameters import ClusteringParameters
from panic_tda.records import ClusteringRecord
from panic_tda.types import OUTLIER, Clustering, SpanningTree
from tests import reference
from tests.clustering.datasets import CASES, DATA, EXACT, SETTINGS, unit_rows

if TYPE_CHECKING:
    from panic_tda.types import Float32Array, IntArray


def renumbered(labels: IntArray) -> IntArray:
    """Number clusters by size, then by smallest row; slow and obvious."""
    old_labels = sorted(set(labels.tolist()) - {OUTLIER})
    rows = {label: np.flatnonzero(labels == label) for label in old_labels}
    order = sorted(old_labels, key=lambda label: (-len(rows[label]), rows[label][0]))
    return np.array([OUTLIER if label == OUTLIER else order.index(label) for label in labels])


@cache
def oracles_answer(
    vectors: bytes, n_rows: int, parameters: ClusteringParameters
) -> tuple[FlatClusters, IntArray, dict[int, int]]:
    """Return the reference clusters, their renumbered labels and medoids, cached for all backends."""
    rows = unit_rows(np.frombuffer(vectors).reshape(n_rows, -1))
    expected = reference.cluster_rows(rows, parameters.resolve(n_rows))
    labels = renumbered(expected.labels)
    return expected, labels, reference.medoids(rows, labels, expected.probabilities)


def assert_is_the_oracles(
    clustering: Clustering, vectors: np.ndarray, parameters: ClusteringParameters
) -> None:
    expected, labels, medoids = oracles_answer(vectors.astype(np.float64).tobytes(), len(vectors), parameters)
    assert clustering.labels.tolist() == labels.tolist()
    np.testing.assert_allclose(clustering.probabilities, expected.probabilities, rtol=1e-9)
    number_of = {
        number: old for number, old in zip(labels.tolist(), expected.labels.tolist(), strict=True) if old >= 0
    }
    np.testing.assert_allclose(
        clustering.persistence,
        [expected.persistence[number_of[number]] for number in range(len(number_of))],
        rtol=1e-9,
        atol=1e-12,
    )
    assert clustering.medoid_indices == medoids


@pytest.mark.parametrize(("backend", "data", "setting"), CASES)
def test_results_equal_the_reference(backend: str, data: str, setting: str) -> None:
    vectors, parameters = DATA[data], SETTINGS[setting]
    clustering = hdbscan(vectors, backend=backend, **parameters)
    assert_is_the_oracles(clustering, vectors, ClusteringParameters(**parameters))
    assert (
        clustering.record.n_clusters
        == clustering.n_clusters
        == len(set(clustering.labels.tolist()) - {OUTLIER})
    )
    assert clustering.record.n_outliers == np.count_nonzero(clustering.labels == OUTLIER)
    for label, row in clustering.medoid_indices.items():
        assert clustering.labels[row] == label


def test_the_test_data_contain_clusters() -> None:
    # Otherwise the comparisons above would compare nothing.
    n_clusters_of = {
        (data, setting): hdbscan(DATA[data], **SETTINGS[setting]).n_clusters
        for data in DATA
        for setting in ("no epsilon", "no single cluster", "small clusters")
    }
    assert n_clusters_of["blobs", "no epsilon"] >= 3
    assert n_clusters_of["blobs in noise", "no epsilon"] >= 3
    assert n_clusters_of["copies", "small clusters"] >= 2
    assert n_clusters_of["a pile among blobs", "no single cluster"] >= 3
    assert n_clusters_of["equal blobs", "no single cluster"] == 3
    assert len(set(n_clusters_of.values())) >= 4


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(1, 4), st.integers(2, 5), st.integers(1, 5))
def test_small_lattices_with_ties_and_copies_equal_the_reference(
    seed: int, n: int, d: int, size: int, samples: int
) -> None:
    vectors = np.random.default_rng(seed).integers(-2, 3, (n, d)).astype(np.float64)
    vectors[(vectors == 0).all(axis=1), 0] = 1
    parameters = {"epsilon": 0.0, "min_cluster_size": size, "min_samples": min(samples, n)}
    assert_is_the_oracles(hdbscan(vectors, **parameters), vectors, ClusteringParameters(**parameters))


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(sorted(DATA)), st.sampled_from(sorted(SETTINGS)), st.randoms())
def test_shuffled_rows_give_the_shuffled_result(data: str, setting: str, random: Any) -> None:
    vectors = DATA[data]
    order = np.array(random.sample(range(len(vectors)), len(vectors)))
    clustering, shuffled = hdbscan(vectors, **SETTINGS[setting]), hdbscan(vectors[order], **SETTINGS[setting])
    assert shuffled.labels.tolist() == renumbered(clustering.labels[order]).tolist()
    np.testing.assert_allclose(shuffled.probabilities, clustering.probabilities[order], rtol=1e-9)
    np.testing.assert_allclose(
        np.sort(shuffled.persistence), np.sort(clustering.persistence), rtol=1e-9, atol=1e-12
    )


class _Weighted:
    """Backend with weights that builds the tree with the slow reference."""

    name, exact, weighted = "weighted", True, True

    def check(self, _n_rows: int, _n_features: int, _options: FitOptions) -> None:
        pass

    def rows_on_device(self, _n_rows: int, _n_features: int, _options: FitOptions) -> bool:
        return False

    def fit(self, vectors: Float32Array, weights: IntArray, options: FitOptions) -> SpanningTree:
        assert len(np.unique(vectors, axis=0)) == len(vectors)
        everything = reference.chord_distances(np.repeat(vectors, weights, axis=0))
        first = np.cumsum(weights) - weights
        cores = np.maximum(
            reference.core_distances(everything, options.min_samples)[first], options.distance_floor
        )
        distances = reference.chord_distances(vectors)
        tree = reference.prim_tree(np.maximum(distances, np.maximum(cores[:, None], cores)))
        return SpanningTree(tree.u, tree.v, tree.height, cores)


@pytest.mark.parametrize("parameters", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("data", ["copies", "a pile among blobs", "lattice"])
def test_collapsed_copies_equal_clustering_all_rows(
    monkeypatch: pytest.MonkeyPatch, data: str, parameters: dict[str, Any]
) -> None:
    rng = np.random.default_rng(2)
    vectors = DATA[data][rng.integers(0, len(DATA[data]), 150)]
    everything = hdbscan(vectors, backend="sklearn", **parameters)
    monkeypatch.setattr(backends, "get_backend", lambda _name: _Weighted())
    collapsed = hdbscan(vectors, **parameters)
    assert collapsed.record.backend == "weighted"
    assert collapsed.record.n_unique < len(vectors)
    assert collapsed.labels.tolist() == everything.labels.tolist()
    np.testing.assert_allclose(collapsed.probabilities, everything.probabilities, rtol=1e-9)
    np.testing.assert_allclose(collapsed.persistence, everything.persistence, rtol=1e-9, atol=1e-12)
    assert collapsed.medoid_indices == everything.medoid_indices


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_fits_of_no_row_and_of_few_rows_work(caplog: pytest.LogCaptureFixture, n: int) -> None:
    with caplog.at_level(logging.WARNING, "panic_tda"):
        clustering = hdbscan(np.eye(4)[:n].reshape(n, 4))
    assert len(clustering.labels) == len(clustering.probabilities) == n
    if n < 2:
        assert clustering.labels.tolist() == [OUTLIER] * n
        assert clustering.n_clusters == 0
        assert clustering.medoid_indices == {}
        assert f"all {n} rows are outliers" in caplog.text
    else:
        assert_is_the_oracles(clustering, np.eye(4)[:n], ClusteringParameters())


def test_two_equal_rows_are_one_cluster() -> None:
    clustering = hdbscan([[1, 2], [2, 4]], allow_single_cluster=True)
    assert clustering.labels.tolist() == [0, 0]
    assert clustering.medoid_indices == {0: 0}
    assert clustering.record.n_unique == 1


@pytest.mark.parametrize("backend", EXACT)
@pytest.mark.parametrize("parameters", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("n", [2, 30])
def test_identical_rows_have_one_label(backend: str, n: int, parameters: dict[str, Any]) -> None:
    vectors = np.tile([0.3, -0.2, 0.9], (n, 1))
    clustering = hdbscan(vectors, backend=backend, **parameters)
    if ClusteringParameters(**parameters).resolve(n).min_samples <= n:
        assert_is_the_oracles(clustering, vectors, ClusteringParameters(**parameters))
    assert len(set(clustering.labels.tolist())) == 1
    assert clustering.record.n_unique == 1
    assert np.isfinite(clustering.probabilities).all()
    assert np.isfinite(clustering.persistence).all()


def test_a_group_of_identical_rows_is_one_cluster() -> None:
    vectors = np.concatenate([np.tile([1.0, 0.0], (1_500, 1)), [[0, 1], [-1, 0]]])
    clustering = hdbscan(vectors, allow_single_cluster=True)
    assert clustering.labels.tolist() == [0] * 1_500 + [OUTLIER] * 2
    assert clustering.medoid_indices == {0: 0}


def test_fewer_rows_than_min_cluster_size_or_min_samples_are_outliers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for parameters in ({"min_cluster_size": 91}, {"min_samples": 91}, {"min_cluster_size": 10**30}):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "panic_tda"):
            clustering = hdbscan(DATA["blobs"], **parameters)  # type: ignore[arg-type]
        assert set(clustering.labels.tolist()) == {OUTLIER}
        assert clustering.probabilities.tolist() == [0.0] * 90
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "more than there are rows" in caplog.text


def test_parameters_equal_to_the_number_of_rows_cause_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    parameters = {"min_cluster_size": 90, "min_samples": 90, "epsilon": 2.0}
    assert_is_the_oracles(
        hdbscan(DATA["blobs"], **parameters), DATA["blobs"], ClusteringParameters(**parameters)
    )
    assert "more than there are rows" not in caplog.text


def test_a_max_cluster_size_beyond_every_integer_is_no_limit() -> None:
    parameters = {"epsilon": 0.0, "min_cluster_size": 4}
    unlimited = hdbscan(DATA["blobs"], **parameters)
    assert (
        hdbscan(DATA["blobs"], max_cluster_size=10**30, **parameters).labels.tolist()
        == unlimited.labels.tolist()
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    vectors = DATA["blobs"].copy()
    vectors[[3, 70], 5] = value
    with pytest.raises(BadVectors, match="rows must be finite and not zero; the first that are not: 3, 70"):
        hdbscan(vectors)


def test_zero_rows_have_no_direction() -> None:
    vectors = DATA["blobs"].copy()
    vectors[:7] = -0.0
    with pytest.raises(BadVectors, match=r"the first that are not: 0, 1, 2, 3, 4$"):
        hdbscan(vectors)


@pytest.mark.parametrize("value", [1e300, 1e-300])
def test_values_beyond_single_precision_are_refused_without_warnings(value: float) -> None:
    vectors = DATA["blobs"].copy()
    vectors[4] = value
    with pytest.raises(BadVectors, match=r"the first that are not: 4$"):
        hdbscan(vectors)


def test_signalling_nans_are_refused_without_warnings() -> None:
    vectors = DATA["blobs"].astype(np.float32)
    vectors[4] = np.array([0x7F800001], dtype=np.uint32).view(np.float32)
    with pytest.raises(BadVectors, match=r"the first that are not: 4$"):
        hdbscan(vectors)


@pytest.mark.parametrize(
    "vectors",
    [[[1, 2], [3]], [], [1.0, 2.0], [[[1.0]]], [[], []], 3.0, [["a", "b"]], None],
    ids=["ragged", "empty list", "one axis", "three axes", "no columns", "number", "text", "nothing"],
)
def test_invalid_matrices_are_refused(vectors: Any) -> None:
    with pytest.raises(BadVectors, match="vectors must be a matrix"):
        hdbscan(vectors)


def test_the_array_of_the_caller_is_not_changed() -> None:
    for vectors in (DATA["copies"].copy(), DATA["copies"].astype(np.float32)):
        before = vectors.copy()
        hdbscan(vectors)
        assert np.array_equal(vectors, before)


def test_every_layout_and_type_of_array_gives_the_same_result() -> None:
    vectors = DATA["blobs in noise"].astype(np.float32)
    expected = hdbscan(vectors)
    padded = np.zeros((len(vectors), 40), dtype=np.float32)
    padded[:, ::2][:, :12] = vectors
    for same in (vectors.tolist(), np.asfortranarray(vectors), padded[:, ::2][:, :12], vectors.astype(">f4")):
        clustering = hdbscan(same)
        assert clustering.labels.tolist() == expected.labels.tolist()
        assert clustering.probabilities.tolist() == expected.probabilities.tolist()


def test_the_length_of_vectors_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    scaled = DATA["blobs"].astype(np.float32) * 2.0 ** rng.integers(-60, 60, (90, 1)).astype(np.float32)
    assert hdbscan(scaled).labels.tolist() == hdbscan(DATA["blobs"]).labels.tolist()


def test_rows_are_normalised_in_double_precision() -> None:
    rng = np.random.default_rng(4)
    vectors = rng.standard_normal((40_000, 8)).astype(np.float32)
    vectors[0] = [0, -0.0, 3, 0, 0, -4, 0, 0]
    vectors[1], vectors[2] = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal
    expected = unit_rows(vectors)
    normalise(vectors)
    assert vectors.tobytes() == (expected + 0.0).tobytes()
    assert vectors[0].tolist() == [0, 0, np.float32(0.6), 0, 0, np.float32(-0.8), 0, 0]
    assert not np.signbit(vectors[0, 1])


def test_rows_that_differ_by_negative_zeros_are_equal() -> None:
    clustering = hdbscan([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0]], min_cluster_size=2, min_samples=1)
    assert clustering.record.n_unique == 2


@given(st.lists(st.integers(-1, 6), max_size=40))
def test_clusters_are_numbered_by_size_then_by_smallest_row(drawn: list[int]) -> None:
    names, labels = np.unique([label for label in drawn if label >= 0], return_inverse=True)
    raw = np.full(len(drawn), OUTLIER)
    raw[[row for row, label in enumerate(drawn) if label >= 0]] = labels
    persistence = names / 10
    relabelled = relabel_by_size(FlatClusters(raw, np.zeros(len(raw)), persistence))
    assert relabelled.labels.tolist() == renumbered(raw).tolist()
    for label in range(len(names)):
        row = np.flatnonzero(relabelled.labels == label)[0]
        assert relabelled.persistence[label] == persistence[raw[row]]


def test_every_effective_value_is_recorded() -> None:
    parameters: dict[str, Any] = {"epsilon": 0.25, "min_cluster_size": 0.05, "selection_method": "leaf"}
    clustering = hdbscan(DATA["copies"], **parameters)
    effective = asdict(ClusteringParameters(**parameters).resolve(120))
    assert {name: getattr(clustering.record, name) for name in effective} == effective
    assert effective["min_cluster_size"] == 6
    assert clustering.record.backend in backends.NAMES[1:]
    assert clustering.record.exact is True
    assert clustering.record.n_embeddings == 120
    assert clustering.record.n_unique == len(np.unique(DATA["copies"], axis=0)) < 120
    assert set(clustering.record.versions) >= {"python", "panic_tda", "numpy"}
    assert (
        ClusteringRecord.from_json(json.loads(json.dumps(clustering.record.to_json()))) == clustering.record
    )
    assert set(clustering.record.seconds) - {"compile"} == {"fit", "medoids"}


def test_parameters_and_backends_are_refused_by_the_library_too() -> None:
    with pytest.raises(InvalidParameter, match="epsilon must be"):
        hdbscan(DATA["blobs"], epsilon=-0.1)
    with pytest.raises(InvalidParameter, match="backend must be one of"):
        hdbscan(DATA["blobs"], backend="fastest")


def test_a_named_backend_that_refuses_is_an_error_also_for_copies() -> None:
    vectors = np.tile(np.eye(2), (10_001, 1))
    with pytest.raises(UnsupportedOnBackend, match="up to 20,000 rows"):
        hdbscan(vectors, backend="sklearn")


def test_phases_are_reported_in_order() -> None:
    phases: list[str] = []

    class Recorder:
        def phase(self, name: str, total: float | None = None) -> None:
            phases.append(name)

        def advance(self, amount: float) -> None:
            assert amount > 0

    hdbscan(DATA["blobs"], progress=Recorder())
    # Compiling comes first, and only where it has to be done.
    phases = [name for name in phases if name != PHASE]
    assert phases[0] == "normalise, find duplicates"
    assert phases[-2:] == ["hierarchy", "medoids"]
    assert len(phases) > 3


def test_hdbscan_can_be_imported_from_the_package() -> None:
    import panic_tda

    assert panic_tda.hdbscan is clustering.hdbscan
    assert set(panic_tda.__all__) <= set(dir(panic_tda))
    for name in panic_tda.__all__:
        assert getattr(panic_tda, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        panic_tda.nonsense  # noqa: B018 (the attribute access is what is tested)
