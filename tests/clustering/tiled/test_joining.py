"""Test that joining edges connect all components and are nearly as light as possible."""

from __future__ import annotations

import numpy as np
import pytest

from panic_tda.clustering.tiled import host
from panic_tda.clustering.tiled.joining import Search, join_components
from panic_tda.clustering.tiled.layout import Layout, build_local_layout
from panic_tda.clustering.tiled.space import build_space
from panic_tda.clustering.tiled.workers import workers
from panic_tda.progress import Silent
from tests.clustering.tiled.test_tiled import anisotropic, unit


def weights_to(rows: np.ndarray, cores: np.ndarray, leader: np.ndarray, query_rows: np.ndarray) -> np.ndarray:
    """Weights of all edges from the query rows to other components; infinite within their own."""
    products = rows[query_rows].astype(np.float64) @ rows.astype(np.float64).T
    weights = np.maximum(
        np.maximum(cores[query_rows][:, None], cores), np.sqrt(np.maximum(2 - 2 * products, 0))
    )
    weights[leader[query_rows][:, None] == leader] = np.inf
    return weights


@pytest.mark.parametrize("n_axes", [0, 8])
def test_the_nearest_row_is_found_if_all_panels_are_searched(n_axes: int) -> None:
    rng = np.random.default_rng(0)
    rows = unit(anisotropic(rng, 8 * 64 - 5, 200))
    cores, leader = np.zeros(len(rows)), rng.integers(0, 3, len(rows))
    space = build_space(np, rows, n_axes, rng)
    search = host.OutsideSearch(
        space, Layout(rng.permutation(len(rows)).astype(np.int32), np.array([0])), cores
    )
    search.begin(leader)
    query_rows = np.arange(0, len(rows), 7)
    best, weights = search.find(query_rows, full_rows=False), weights_to(rows, cores, leader, query_rows)
    chosen = weights[np.arange(len(query_rows)), best]
    assert np.isfinite(chosen).all()
    if not n_axes:
        np.testing.assert_allclose(chosen, weights.min(axis=1), atol=1e-6)
    # Eight axes only estimate a product.
    assert np.mean(chosen - weights.min(axis=1)) < 0.05


@pytest.mark.parametrize("sizes", [(600, 1), (1, 1), (64, 64, 64, 3), (200, 200, 1, 1, 1)])
def test_components_of_any_size_are_joined(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    rows = unit(anisotropic(rng, sum(sizes), 170))
    component = np.repeat(np.arange(len(sizes)), sizes)
    first = np.cumsum(sizes) - sizes
    leader = first[component]
    space = build_space(np, rows, 0, rng)
    with workers(2) as team:
        cores = rng.random(len(rows))
        layout = build_local_layout(space.coordinates, 100, rng)
        u, v = join_components(Search(space, layout, cores, team), leader, rng, Silent())
    assert len(u) == len(sizes) - 1
    assert (leader == leader[0]).all()
    joined = np.arange(len(sizes))
    for a, b in zip(component[u].tolist(), component[v].tolist(), strict=True):
        assert joined[a] != joined[b]
        joined[joined == joined[a]] = joined[b]


def test_a_component_that_fills_its_panels_searches_the_others() -> None:
    """Panels that hold only the component of the query rows are passed over, however similar they are."""
    rng = np.random.default_rng(2)
    near = np.ones(16) + 0.01 * rng.standard_normal((20 * 64, 16))
    far = -np.ones(16) + 0.01 * rng.standard_normal((3, 16))
    rows = unit(np.vstack([near, far]))
    leader = np.where(np.arange(len(rows)) < len(rows) - 3, 0, len(rows) - 3)
    space = build_space(np, rows, 0, rng)
    search = host.OutsideSearch(
        space, Layout(np.arange(len(rows), dtype=np.int32), np.array([0])), np.zeros(len(rows))
    )
    search.begin(leader)
    best = search.find(np.array([0, 500, len(rows) - 1]), full_rows=False)
    assert (leader[best] != leader[[0, 500, len(rows) - 1]]).all()
