"""Compare the hierarchy with its definition by thresholds, in edge cases and on deep trees."""

from __future__ import annotations

import doctest
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panic_tda.clustering import condensed
from panic_tda.clustering.hierarchy import extract_clusters
from panic_tda.errors import PanicTdaError
from panic_tda.records import EffectiveParameters
from panic_tda.types import OUTLIER, SpanningTree
from tests import reference
from tests.datasets import DATASETS
from tests.trees import (
    FLOOR,
    GRID,
    PLAIN,
    assert_same,
    by_smallest_row,
    distances_of,
    edges,
    labels_of,
    merges_of,
    neighbour_counts,
    path,
    tree_of,
)

if TYPE_CHECKING:
    from panic_tda.types import FloatArray


@pytest.mark.slow
@pytest.mark.parametrize("name", DATASETS)
def test_clusters_equal_the_definition_by_thresholds(name: str) -> None:
    for turn, min_samples in enumerate(neighbour_counts(name)):
        tree, merges = tree_of(name, min_samples), merges_of(name, min_samples)
        # A part of the grid for each, so that the next one gets the others.
        for parameters in GRID[turn::4]:
            expected = reference.threshold_clusters(merges, parameters)
            assert_same(extract_clusters(tree, parameters), expected, (min_samples, parameters))


def test_the_grid_exercises_every_rule() -> None:
    numbers: dict[str, set[int]] = {"eom": set(), "leaf": set()}
    outliers = set()
    for name in DATASETS:
        for parameters in GRID:
            clusters = extract_clusters(tree_of(name, 2), parameters)
            numbers[parameters.cluster_selection_method].add(len(clusters.persistence))
            outliers.add(bool((clusters.labels == OUTLIER).any()))
    assert numbers["eom"] >= {0, 1, 2, 3, 4, 8}
    assert numbers["leaf"] >= {0, 1, 2, 3, 4, 8}
    assert outliers == {False, True}


@pytest.mark.slow
@pytest.mark.parametrize(
    "plainer",
    [
        {"cluster_selection_epsilon": 0.0},
        {"allow_single_cluster": False},
        {"cluster_selection_method": "eom"},
        {"max_cluster_size": None},
        {"min_cluster_size": 2},
    ],
    ids=lambda plainer: next(iter(plainer)),
)
def test_every_parameter_of_the_grid_decides_something(plainer: dict[str, Any]) -> None:
    decided = set()
    for name in DATASETS:
        tree = tree_of(name, 2)
        for parameters in GRID:
            without = replace(parameters, **plainer)
            if without != parameters and labels_of(tree, parameters) != labels_of(tree, without):
                decided.add(name)
                break
    assert len(decided) >= 5, decided


@pytest.mark.slow
@pytest.mark.parametrize("name", DATASETS)
def test_row_order_and_choice_of_tree_do_not_matter(name: str) -> None:
    distances = distances_of(name)
    generator = np.random.default_rng(0)
    for min_samples in neighbour_counts(name):
        reachability = reference.mutual_reachability(distances, min_samples)
        tree = tree_of(name, min_samples)
        for _ in range(2):
            # Row i of the shuffled data is row order[i]: another tree wherever distances tie.
            order = generator.permutation(len(distances))
            shuffled = reference.prim_tree(reachability[np.ix_(order, order)])
            flips = generator.random(len(tree.u)) < 0.5
            u, v = (
                order[np.where(flips, shuffled.u, shuffled.v)],
                order[np.where(flips, shuffled.v, shuffled.u)],
            )
            edge_order = generator.permutation(len(u))
            other_tree = SpanningTree(u[edge_order], v[edge_order], shuffled.height[edge_order])
            for parameters in GRID[::7]:
                assert_same(
                    extract_clusters(other_tree, parameters), extract_clusters(tree, parameters), parameters
                )


@pytest.mark.parametrize("name", ["lattice", "tied_groups", "duplicates", "ring_of_clusters", "near_copies"])
def test_rounding_of_heights_does_not_matter(name: str) -> None:
    generator = np.random.default_rng(0)
    tree = tree_of(name, 5)
    for parameters in GRID[::7]:
        noise = 1 + generator.uniform(-1e-12, 1e-12, len(tree.height))
        noisy = SpanningTree(tree.u, tree.v, tree.height * noise)
        assert_same(extract_clusters(noisy, parameters), extract_clusters(tree, parameters), parameters)


parameters_of_small_trees = st.builds(
    EffectiveParameters,
    cluster_selection_epsilon=st.sampled_from([0.0, 0.125, 0.25, 0.3, 0.5, 0.75, 1.1]),
    min_cluster_size=st.integers(2, 6),
    min_samples=st.just(1),
    allow_single_cluster=st.booleans(),
    cluster_selection_method=st.sampled_from(["eom", "leaf"]),
    max_cluster_size=st.none() | st.integers(1, 12),
    distance_floor=st.sampled_from([FLOOR, 0.2]),
)


@st.composite
def tied_weights(draw: st.DrawFn) -> FloatArray:
    """Symmetric weights of few distinct values (eighths, so that epsilon can tie too)."""
    n = draw(st.integers(2, 16))
    eighths = draw(st.lists(st.integers(1, 8), min_size=n * n, max_size=n * n))
    weights = np.reshape(eighths, (n, n)) / 8
    return np.minimum(weights, weights.T)


@given(weights=tied_weights(), parameters=parameters_of_small_trees, seed=st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_any_weights_equal_the_definition_in_any_row_order(
    weights: FloatArray, parameters: EffectiveParameters, seed: int
) -> None:
    merges = reference.threshold_merges(np.maximum(weights, parameters.distance_floor))
    order = np.random.default_rng(seed).permutation(len(weights))
    tree = reference.prim_tree(weights[np.ix_(order, order)])
    tree = SpanningTree(order[tree.u], order[tree.v], tree.height)
    assert_same(extract_clusters(tree, parameters), reference.threshold_clusters(merges, parameters))


@pytest.mark.slow
@given(weights=tied_weights(), parameters=parameters_of_small_trees, seed=st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_noisy_weights_equal_the_definition_with_their_tolerance(
    weights: FloatArray, parameters: EffectiveParameters, seed: int
) -> None:
    noise = np.random.default_rng(seed).uniform(-2e-7, 2e-7, weights.shape)
    noisy = np.maximum(weights * (1 + np.maximum(noise, noise.T)), parameters.distance_floor)
    tree = replace(reference.prim_tree(noisy), tie_tolerance=1e-6)
    merges = reference.threshold_merges(noisy, tie_tolerance=1e-6)
    assert_same(extract_clusters(tree, parameters), reference.threshold_clusters(merges, parameters))


@given(
    steps=st.lists(st.floats(1e-4, 2), min_size=1, max_size=60),
    parameters=parameters_of_small_trees,
)
@settings(max_examples=100, deadline=None)
def test_probabilities_and_persistence_are_in_range(
    steps: list[float], parameters: EffectiveParameters
) -> None:
    labels = by_smallest_row(extract_clusters(path(steps), parameters))
    inside = labels.labels != OUTLIER
    assert np.all(labels.probabilities[~inside] == 0)
    assert np.all((labels.probabilities[inside] > 0) & (labels.probabilities[inside] <= 1))
    # Undefined for the root, which was never born.
    if not labels.root_selected:
        assert np.all((labels.persistence > 0) & (labels.persistence <= 1))


# Edges of the domain.


def nothing(n: int) -> SpanningTree:
    return path([0.1] * (n - 1))


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_fewer_rows_than_min_cluster_size_are_outliers(n: int, single: bool) -> None:
    clusters = extract_clusters(
        nothing(n), replace(PLAIN, min_cluster_size=n + 1, allow_single_cluster=single)
    )
    assert clusters.labels.tolist() == [OUTLIER] * n
    assert clusters.probabilities.tolist() == [0.0] * n
    assert len(clusters.persistence) == 0


def test_one_row_is_an_outlier() -> None:
    assert extract_clusters(nothing(1), replace(PLAIN, allow_single_cluster=True)).labels.tolist() == [
        OUTLIER
    ]


def test_two_rows_are_a_cluster_only_when_a_single_one_is_allowed() -> None:
    assert labels_of(nothing(2), PLAIN) == [OUTLIER] * 2
    assert labels_of(nothing(2), replace(PLAIN, allow_single_cluster=True)) == [0, 0]


def test_epsilon_below_every_height_leaves_no_empty_cluster() -> None:
    parameters = replace(PLAIN, allow_single_cluster=True, cluster_selection_epsilon=0.05)
    clusters = extract_clusters(nothing(4), parameters)
    assert clusters.labels.tolist() == [OUTLIER] * 4
    assert len(clusters.persistence) == 0


def test_the_input_is_not_changed() -> None:
    tree = edges((2, 3, 0.5), (0, 1, 0.0), (1, 2, 0.2))
    for array in (tree.u, tree.v, tree.height):
        array.flags.writeable = False
    extract_clusters(tree, PLAIN)
    assert tree.height.tolist() == [0.5, 0.0, 0.2]


def test_edges_that_close_a_cycle_are_refused() -> None:
    tree = edges((0, 1, 0.1), (3, 2, 0.4), (1, 2, 0.2), (2, 0, 0.3))
    with pytest.raises(PanicTdaError, match=r"edge 3, \(2, 0\) at height 0.3, closes a cycle"):
        extract_clusters(tree, PLAIN)


@pytest.mark.parametrize("edge", [(2, 4, 0.3), (-1, 2, 0.3), (2, 3, np.nan), (2, 3, np.inf)])
def test_edges_outside_the_rows_or_without_height_are_refused(edge: tuple[int, int, float]) -> None:
    tree = edges((0, 1, 0.1), edge, (1, 2, 0.2))
    with pytest.raises(PanicTdaError, match=r"edge 1, .* lies outside the 4 rows or has no finite height"):
        extract_clusters(tree, PLAIN)


# Deep trees.


def test_a_chain_of_100_000_points_does_not_overflow_the_stack() -> None:
    n = 100_000
    heights = np.linspace(0.1, 0.5, n - 1)
    parameters = replace(PLAIN, allow_single_cluster=True, min_cluster_size=100)
    clusters = extract_clusters(path(heights), replace(parameters, cluster_selection_epsilon=0.3))
    expected = np.where(np.concatenate([heights[:1], heights]) <= 0.3, 0, OUTLIER)
    np.testing.assert_array_equal(clusters.labels, expected)
    # Without epsilon: the last 100 rows to hold together, which fall apart at once.
    np.testing.assert_array_equal(
        extract_clusters(path(heights), parameters).labels, np.where(np.arange(n) < 100, 0, OUTLIER)
    )
    assert np.all(
        extract_clusters(path(heights), replace(PLAIN, cluster_selection_method="leaf")).labels == OUTLIER
    )


@pytest.mark.parametrize("shape", ["star", "path"])
def test_ten_thousand_equal_rows_are_one_cluster(shape: str) -> None:
    n = 10_000
    v = np.arange(1, n)
    tree = SpanningTree(np.zeros(n - 1, dtype=np.int64) if shape == "star" else v - 1, v, np.zeros(n - 1))
    clusters = extract_clusters(tree, replace(PLAIN, allow_single_cluster=True, min_cluster_size=10))
    assert np.all(clusters.labels == 0)
    assert np.all(clusters.probabilities == 1)
    assert clusters.root_selected
    assert np.isnan(clusters.persistence).tolist() == [True]
    assert np.all(extract_clusters(tree, replace(PLAIN, min_cluster_size=10)).labels == OUTLIER)


def nested_pairs(n_pairs: int) -> SpanningTree:
    """Pairs that join one after the other: a condensed tree as deep as there are pairs."""
    inside, between = np.full(n_pairs, 0.01), np.linspace(0.1, 0.5, n_pairs - 1)
    first = np.arange(n_pairs) * 2
    return SpanningTree(
        np.concatenate([first, first[:-1]]),
        np.concatenate([first + 1, first[1:]]),
        np.concatenate([inside, between]),
    )


def test_fifty_thousand_nested_clusters_do_not_overflow_the_stack() -> None:
    n_pairs = 50_000
    tree = nested_pairs(n_pairs)
    leaves = replace(PLAIN, cluster_selection_method="leaf")
    assert labels_of(tree, leaves) == np.repeat(np.arange(n_pairs), 2).tolist()
    # Every leaf climbs to the cluster just above epsilon: the rest of the pairs stay alone.
    raised = labels_of(tree, replace(leaves, cluster_selection_epsilon=0.3))
    n_joined = int(np.searchsorted(np.linspace(0.1, 0.5, n_pairs - 1), 0.3)) + 1
    expected = np.maximum(np.repeat(np.arange(n_pairs), 2) - (n_joined - 1), 0)
    assert raised == expected.tolist()
    # One below the root: all but the last pair.
    assert labels_of(tree, replace(PLAIN, cluster_selection_epsilon=2.0)) == [0] * (2 * n_pairs - 2) + [1, 1]


def test_the_worked_example_of_the_docstring_holds() -> None:
    result = doctest.testmod(condensed)
    assert result.attempted > 0
    assert result.failed == 0
