"""Test that with the metric euclidean, trees, clusters and medoids match the definition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sklearn.cluster
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist

from panic_tda import hdbscan
from panic_tda.arrays.frames import centre_rows
from panic_tda.clustering.backends.base import FitOptions
from panic_tda.clustering.tiled import margins, panels
from panic_tda.clustering.tiled.engine import Settings, TiledBackend
from panic_tda.clustering.tiled.layout import Layout, tile_starts
from panic_tda.clustering.tiled.space import build_lifted_space, lift_rows
from panic_tda.clustering.tiled.workers import workers
from panic_tda.errors import BadVectors, InvalidParameter
from panic_tda.types import Clustering
from tests import reference

RNG = np.random.default_rng
FLOOR = 1e-9


def islands(d: int, n: int = 260, seed: int = 0) -> np.ndarray:
    """Float32 clouds of unequal density side by side, as UMAP lays them out."""
    rng = RNG(seed)
    centres, spread = rng.uniform(-10, 20, (6, d)), rng.uniform(0.1, 1.0, 6)
    island = rng.integers(6, size=n)
    return (centres[island] + spread[island, None] * rng.standard_normal((n, d))).astype(np.float32)


def wide_scales() -> np.ndarray:
    """Clusters of spread 1e-4, 1 and 1e3, and one row far from all of them."""
    rng = RNG(1)
    parts = [
        spread * (rng.standard_normal((60, 3)) + 9 * rng.standard_normal(3)) for spread in (1e-4, 1, 1e3)
    ]
    return np.concatenate([*parts, [[1e6, 0, 0]]])


def copies() -> np.ndarray:
    rng = RNG(2)
    return np.repeat(islands(2, 60), rng.integers(1, 6, 60), axis=0)


DATA: dict[str, Callable[[], np.ndarray]] = {
    "islands_2": lambda: islands(2),
    "islands_5": lambda: islands(5),
    "far_from_the_origin": lambda: islands(3).astype(np.float64) + 1e6,
    "wide_scales": wide_scales,
    "copies": copies,
    "lattice_of_tenths": lambda: np.array([[a, b] for a in range(12) for b in range(15)]) / 10,
    "line": lambda: np.cumsum(RNG(3).uniform(0.1, 1, (150, 1)), axis=0),
    "many_features": lambda: islands(200, 150),
    "small_numbers": lambda: islands(2) * 1e-120,
    "large_numbers": lambda: islands(2).astype(np.float64) * 1e120,
}


def fit_tree(rows: np.ndarray, min_samples: int, **how: Any) -> Any:
    """Fit distinct rows by the engine, in their centred frame; return tree, rows and weights."""
    distinct, weights = np.unique(rows.astype(np.float64), axis=0, return_counts=True)
    centre_rows(distinct)
    options = FitOptions(min_samples=min_samples, distance_floor=FLOOR, metric="euclidean")
    tree = TiledBackend(Settings(**how)).fit(distinct, weights.astype(np.int64), options)
    return tree, distinct, weights


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("tile_rows", [48, None])
def test_the_tree_is_that_of_the_definition(name: str, tile_rows: int | None) -> None:
    tree, rows, weights = fit_tree(DATA[name](), 5, tile_rows=tile_rows, threads=2)
    oracle = reference.spanning_tree(np.repeat(rows, weights, axis=0), 5, FLOOR)
    first = np.cumsum(weights) - weights
    np.testing.assert_allclose(
        tree.core_distances, np.maximum(oracle.core_distances[first], FLOOR), rtol=1e-12
    )
    heights = np.concatenate([tree.height, np.repeat(tree.core_distances, weights - 1)])
    np.testing.assert_allclose(np.sort(heights), np.sort(oracle.height), rtol=1e-12)


def test_the_verify_pass_works_from_a_poor_initial_tree() -> None:
    def star(n: int, _rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(n - 1, dtype=np.int64), np.arange(1, n)

    rows = islands(3)
    exact = fit_tree(rows, 4)[0]
    poor = fit_tree(rows, 4, tile_rows=50, initial_tree=star)[0]
    assert np.array_equal(np.sort(poor.height), np.sort(exact.height))


def test_row_counts_around_the_tile_size_give_the_exact_tree() -> None:
    rows = islands(2, 1_030)
    tree = fit_tree(rows, 10)[0]
    tree_of_smaller_tiles = fit_tree(rows, 10, tile_rows=100)[0]
    assert np.array_equal(np.sort(tree.height), np.sort(tree_of_smaller_tiles.height))


ROWS = st.tuples(st.integers(12, 40), st.integers(1, 4)).flatmap(
    lambda shape: arrays(np.int64, shape, elements=st.integers(-6, 6))
)


@settings(max_examples=25, deadline=None)
@given(ROWS, st.sampled_from([1.0, 0.1, 1e-30]), st.sampled_from([0.0, 1e3]), st.integers(1, 6))
def test_backends_agree_with_the_definition(
    numbers: np.ndarray, unit: float, offset: float, min_samples: int
) -> None:
    rows = (numbers + offset) * unit
    if not np.ptp(rows):
        return
    fits = [
        hdbscan(rows, metric="euclidean", min_cluster_size=3, min_samples=min_samples, backend=backend)
        for backend in ("tiled", "sklearn")
    ]
    assert_definition(fits[0], rows)
    assert fits[0].labels.tolist() == fits[1].labels.tolist()
    assert fits[0].medoid_indices == fits[1].medoid_indices


def assert_definition(clustering: Clustering, rows: np.ndarray) -> None:
    expected = reference.cluster_rows(rows, clustering.record)
    pairs = set(zip(clustering.labels.tolist(), expected.labels.tolist(), strict=True))
    assert len(pairs) == len(set(clustering.labels.tolist())) == len(set(expected.labels.tolist()))
    assert all((ours == -1) == (theirs == -1) for ours, theirs in pairs)
    np.testing.assert_allclose(clustering.probabilities, expected.probabilities, rtol=1e-7)


@pytest.mark.parametrize("name", DATA)
def test_clusters_are_those_of_the_definition(name: str) -> None:
    rows = DATA[name]()
    clustering = hdbscan(rows, metric="euclidean", min_cluster_size=8, min_samples=5, backend="tiled")
    assert_definition(clustering, rows)
    assert clustering.record.metric == "euclidean"


@pytest.mark.parametrize("d", [2, 3])
def test_clusters_are_those_of_scikit_learn(d: int) -> None:
    rows = islands(d, 300, seed=4).astype(np.float64)
    ours = hdbscan(rows, metric="euclidean", min_cluster_size=10, min_samples=6, epsilon=0.3)
    theirs = sklearn.cluster.HDBSCAN(
        min_cluster_size=10, min_samples=6, cluster_selection_epsilon=0.3, copy=True
    ).fit(rows)
    pairs = set(zip(ours.labels.tolist(), theirs.labels_.tolist(), strict=True))
    assert len(pairs) == len(set(theirs.labels_.tolist())) > 3


def test_epsilon_and_distances_have_the_units_of_the_rows() -> None:
    rows = islands(2)
    near = hdbscan(rows, metric="euclidean", epsilon=0.5)
    far = hdbscan(rows * np.float64(1000), metric="euclidean", epsilon=500.0)
    assert near.labels.tolist() == far.labels.tolist()
    assert near.tree is not None
    assert far.tree is not None
    np.testing.assert_allclose(far.tree.height, 1000 * near.tree.height, rtol=1e-12)


def test_medoids_have_the_smallest_sum_of_distances() -> None:
    rows = islands(3).astype(np.float64)
    clustering = hdbscan(rows, metric="euclidean", min_cluster_size=8)
    assert clustering.n_clusters > 2
    for label, medoid in clustering.medoid_indices.items():
        members = np.flatnonzero(clustering.labels == label)
        sums = cdist(rows[members], rows[members]) @ clustering.probabilities[members]
        assert medoid == members[np.argmin(sums)]


@pytest.mark.parametrize("d", [1, 2, 5, 50, 700])
def test_products_of_lifted_rows_are_within_the_margin(d: int) -> None:
    rows = RNG(5).standard_normal((200, d)) * RNG(6).uniform(0, 1, (200, 1)) ** 3
    centre_rows(rows)
    left, right, _ = lift_rows(rows)
    exact = 1 - cdist(rows, rows, "sqeuclidean") / 2
    assert np.abs(left @ right.T - exact).max() < margins.lifted_margin(d)
    assert np.linalg.norm(left.astype(np.float64), axis=1).max() <= build_lifted_space(rows).largest_norm


@pytest.mark.parametrize("use_integers", [True, False])
def test_packed_products_of_lifted_rows_are_within_the_bound(use_integers: bool) -> None:
    """|q·q' - S²·(p·p')| ≤ 2NE + E², with the right forms behind the left ones."""
    rows = RNG(7).standard_normal((70, 3))
    centre_rows(rows)
    space = build_lifted_space(rows)
    layout = Layout(np.arange(70, dtype=np.int32), tile_starts(70, 40))
    with workers(1) as team:
        packed = panels.pack(space, layout, team, use_integers)
    packing, half = packed.packing, len(packed.values) // 2
    assert packed.mirror == layout.n_tiles

    def unpack(values: np.ndarray) -> np.ndarray:
        by_row = values.reshape(-1, packing.words, panels.PANEL).transpose(0, 2, 1).reshape(-1, packing.words)
        by_row = np.ascontiguousarray(by_row)[packed.slots]
        return by_row.view(np.int16).astype(np.float64) if use_integers else by_row.astype(np.float64)

    products = unpack(packed.values[:half]) @ unpack(packed.values[half:]).T
    exact = packing.scale**2 * (1 - cdist(rows, rows, "sqeuclidean") / 2)
    allowed = packing.error + packing.scale**2 * space.margin
    assert np.abs(products - exact).max() <= allowed


def test_centring_and_scaling_are_exact_where_possible() -> None:
    rows = np.array([[1.0, 2.0], [5.0, 2.0], [3.0, 10.0]])
    frame = centre_rows(rows)
    assert frame.centre.tolist() == [3.0, 6.0]
    assert np.log2(frame.scale) == -3
    assert (rows / frame.scale).tolist() == [[-2.0, -4.0], [2.0, -4.0], [0.0, 4.0]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0.0, 1.0], [np.nan, 1.0]], "finite; the first that are not: 1"),
        ([[0.0, np.inf], [0.0, 1.0]], "finite; the first that are not: 0"),
        ([[0.0, 1e300], [0.0, -1e300]], "1e-150 and 1e150"),
        ([[0.0, 1e-300], [0.0, 0.0]], "1e-150 and 1e150"),
    ],
)
def test_rows_without_a_distance_are_refused(rows: list[list[float]], message: str) -> None:
    with pytest.raises(BadVectors, match=message):
        hdbscan(rows, metric="euclidean")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"metric": "manhattan"}, "metric must be cosine or euclidean; got 'manhattan'"),
        ({"epsilon": -1.0}, "epsilon must be a finite distance of at least 0"),
        ({"epsilon": np.inf}, "epsilon must be a finite distance of at least 0"),
        ({"distance_floor": 0.1}, "distance_floor has no effect on the metric euclidean"),
        ({"backend": "cuml"}, "backend cuml clusters by the metric cosine only"),
    ],
)
def test_settings_that_do_not_fit_the_metric_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        hdbscan(islands(2), **({"metric": "euclidean"} | settings))


def test_identical_rows_make_one_group() -> None:
    clustering = hdbscan(np.ones((20, 2)), metric="euclidean", allow_single_cluster=True, min_cluster_size=5)
    assert set(clustering.labels.tolist()) == {0}
    assert clustering.record.n_unique == 1
