"""The hierarchy against its definition by thresholds, and its rules one by one."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panic_tda.errors import OUTLIER, PanicTdaError
from panic_tda.hierarchy import _Condensed, _stabilities, extract
from panic_tda.parameters import EffectiveParameters
from panic_tda.types import FlatClusters, SpanningTree
from tests import reference
from tests.datasets import DATASETS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from panic_tda.types import FloatArray

FLOOR = 1e-3
PLAIN = EffectiveParameters(
    cluster_selection_epsilon=0.0,
    min_cluster_size=2,
    min_samples=1,
    allow_single_cluster=False,
    cluster_selection_method="eom",
    max_cluster_size=None,
    distance_floor=FLOOR,
)
GRID = [
    replace(
        PLAIN,
        min_cluster_size=size,
        cluster_selection_epsilon=epsilon,
        allow_single_cluster=single,
        cluster_selection_method=method,
        max_cluster_size=largest,
    )
    for size, epsilon, single, (method, largest) in product(
        (2, 3, 5, 12),
        (0.0, 0.05, 0.2, 0.4, 0.9),
        (False, True),
        (("eom", None), ("eom", 14), ("leaf", None)),
    )
]


@cache
def distances_of(name: str) -> FloatArray:
    return reference.chord_distances(DATASETS[name]())


@cache
def tree_of(name: str, min_samples: int) -> SpanningTree:
    """A minimum spanning tree that knows nothing of the floor."""
    return reference.prim_tree(reference.mutual_reachability(distances_of(name), min_samples))


@cache
def merges_of(name: str, min_samples: int) -> reference.Merge:
    return reference.threshold_merges(reference.mutual_reachability(distances_of(name), min_samples, FLOOR))


def neighbour_counts(name: str) -> list[int]:
    n = len(distances_of(name))
    return sorted({min(k, n) for k in (1, 2, 5, 10)})


def edges(*triples: tuple[int, int, float]) -> SpanningTree:
    u, v, height = zip(*triples, strict=True)
    return SpanningTree(np.array(u), np.array(v), np.array(height))


def path(heights: Sequence[float]) -> SpanningTree:
    """A tree in which row i + 1 hangs on row i."""
    rows = np.arange(len(heights))
    return SpanningTree(rows, rows + 1, np.array(heights, dtype=np.float64))


def by_smallest_row(found: FlatClusters) -> FlatClusters:
    """Number clusters in the order of their smallest rows."""
    members = found.labels != OUTLIER
    present, first = np.unique(found.labels[members], return_index=True)
    assert np.array_equal(present, np.arange(len(found.persistence))), "clusters without rows, or gaps"
    order = np.argsort(first)
    labels = found.labels.copy()
    labels[members] = np.argsort(order)[labels[members]]
    return FlatClusters(labels, found.probabilities, found.persistence[order])


def assert_same(found: FlatClusters, expected: FlatClusters, note: object = "") -> None:
    found, expected = by_smallest_row(found), by_smallest_row(expected)
    np.testing.assert_array_equal(found.labels, expected.labels, err_msg=str(note))
    np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=1e-9, err_msg=str(note))
    np.testing.assert_allclose(
        found.persistence, expected.persistence, rtol=1e-9, atol=1e-15, err_msg=str(note)
    )


@pytest.mark.parametrize("name", DATASETS)
def test_equals_the_definition_by_thresholds(name: str) -> None:
    for min_samples in neighbour_counts(name):
        tree, merges = tree_of(name, min_samples), merges_of(name, min_samples)
        for parameters in GRID:
            expected = reference.threshold_clusters(merges, parameters)
            assert_same(extract(tree, parameters), expected, (min_samples, parameters))


def test_the_grid_exercises_every_rule() -> None:
    seen: dict[str, set[int]] = {"eom": set(), "leaf": set()}
    outliers = set()
    for name in DATASETS:
        for parameters in GRID:
            found = extract(tree_of(name, 2), parameters)
            seen[parameters.cluster_selection_method].add(len(found.persistence))
            outliers.add(bool((found.labels == OUTLIER).any()))
    assert seen["eom"] >= {0, 1, 2, 3, 4, 8}
    assert seen["leaf"] >= {0, 1, 2, 3, 4, 8}
    assert outliers == {False, True}


@pytest.mark.parametrize("name", DATASETS)
def test_row_order_and_choice_of_tree_do_not_matter(name: str) -> None:
    distances = distances_of(name)
    generator = np.random.default_rng(0)
    for min_samples in neighbour_counts(name):
        reachability = reference.mutual_reachability(distances, min_samples)
        tree = tree_of(name, min_samples)
        for _ in range(4):
            # Row i of the shuffled data is row order[i]: another tree wherever distances tie.
            order = generator.permutation(len(distances))
            shuffled = reference.prim_tree(reachability[np.ix_(order, order)])
            flips = generator.random(len(tree.u)) < 0.5
            u, v = (
                order[np.where(flips, shuffled.u, shuffled.v)],
                order[np.where(flips, shuffled.v, shuffled.u)],
            )
            edge_order = generator.permutation(len(u))
            other = SpanningTree(u[edge_order], v[edge_order], shuffled.height[edge_order])
            for parameters in GRID[::7]:
                assert_same(extract(other, parameters), extract(tree, parameters), parameters)


@pytest.mark.parametrize("name", ["lattice", "tied_groups", "duplicates", "ring_of_clusters", "near_copies"])
def test_rounding_of_heights_does_not_matter(name: str) -> None:
    generator = np.random.default_rng(0)
    tree = tree_of(name, 5)
    for parameters in GRID[::7]:
        noise = 1 + generator.uniform(-1e-12, 1e-12, len(tree.height))
        noisy = SpanningTree(tree.u, tree.v, tree.height * noise)
        assert_same(extract(noisy, parameters), extract(tree, parameters), parameters)


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
@settings(max_examples=300, deadline=None)
def test_any_weights_equal_the_definition_in_any_row_order(
    weights: FloatArray, parameters: EffectiveParameters, seed: int
) -> None:
    merges = reference.threshold_merges(np.maximum(weights, parameters.distance_floor))
    order = np.random.default_rng(seed).permutation(len(weights))
    tree = reference.prim_tree(weights[np.ix_(order, order)])
    tree = SpanningTree(order[tree.u], order[tree.v], tree.height)
    assert_same(extract(tree, parameters), reference.threshold_clusters(merges, parameters))


@given(
    steps=st.lists(st.floats(1e-4, 2), min_size=1, max_size=60),
    parameters=parameters_of_small_trees,
)
@settings(max_examples=200, deadline=None)
def test_numbers_stay_in_their_ranges(steps: list[float], parameters: EffectiveParameters) -> None:
    found = by_smallest_row(extract(path(steps), parameters))
    inside = found.labels != OUTLIER
    assert np.all(found.probabilities[~inside] == 0)
    assert np.all((found.probabilities[inside] > 0) & (found.probabilities[inside] <= 1))
    assert np.all((found.persistence > 0) & (found.persistence <= 1))


# Ties.

TIED = 0.4


@pytest.mark.parametrize(("gap", "n_clusters"), [(0.0, 0), (0.9e-9, 0), (1.1e-9, 2), (1e-6, 2)])
def test_merges_within_the_tolerance_are_one(gap: float, n_clusters: int) -> None:
    # Rows 2 and 3 merge just below the height at which they meet 0 and 1: a cluster of their own or nothing.
    tree = edges((0, 1, 0.1), (2, 3, TIED), (1, 2, TIED * (1 + gap)))
    found = extract(tree, replace(PLAIN, cluster_selection_method="leaf"))
    assert len(found.persistence) == n_clusters


def test_the_tolerance_is_the_tree_s() -> None:
    tree = edges((0, 1, 0.1), (2, 3, TIED), (1, 2, TIED * (1 + 5e-7)))
    leaves = replace(PLAIN, cluster_selection_method="leaf")
    assert len(extract(tree, leaves).persistence) == 2
    assert len(extract(replace(tree, tie_tolerance=1e-6), leaves).persistence) == 0


def test_ties_are_transitive_along_a_branch() -> None:
    # Each step is within 1e-9, the whole is not; rows 2, 3, 4 fall out of {0, 1} together.
    heights = [TIED * (1 + step * 0.8e-9) for step in range(3)]
    tree = edges((0, 1, 0.1), (2, 3, heights[0]), (3, 4, heights[1]), (1, 2, heights[2]))
    found = extract(tree, replace(PLAIN, cluster_selection_method="leaf"))
    assert np.all(found.labels == OUTLIER)


def test_equal_heights_in_unrelated_branches_stay_apart() -> None:
    tree = edges((0, 1, 0.1), (1, 2, 0.2), (3, 4, 0.1), (4, 5, 0.2), (2, 3, 0.7))
    found = by_smallest_row(extract(tree, replace(PLAIN, min_cluster_size=3)))
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_tie_splits_into_all_its_large_children() -> None:
    # Three pairs at one distance, and a lone row at the same: binary merges would nest two of the pairs.
    tree = edges((0, 1, 0.1), (2, 3, 0.1), (4, 5, 0.1), (0, 2, TIED), (2, 4, TIED), (4, 6, TIED))
    found = by_smallest_row(extract(tree, PLAIN))
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2, OUTLIER]
    np.testing.assert_allclose(found.persistence, 1 - 0.1 / TIED)


# The rules of selection.

# Pairs at 0.1; {0..3} from two of them at 0.3, {4..7} at 0.5, all at 0.8, and row 8 at 0.9.
PAIRS = edges(
    *((0, 1, 0.1), (2, 3, 0.1), (4, 5, 0.1), (6, 7, 0.1)),
    *((1, 2, 0.3), (5, 6, 0.5), (3, 4, 0.8), (7, 8, 0.9)),
)
LEAVES = [0, 0, 1, 1, 2, 2, 3, 3, OUTLIER]
HALVES = [0, 0, 0, 0, 1, 1, 1, 1, OUTLIER]


def labels_of(tree: SpanningTree, parameters: EffectiveParameters) -> list[int]:
    labels: list[int] = by_smallest_row(extract(tree, parameters)).labels.tolist()
    return labels


@pytest.mark.parametrize("method", ["eom", "leaf"])
@pytest.mark.parametrize(
    ("epsilon", "expected"),
    [
        (0.0, LEAVES),
        (0.3, LEAVES),  # born at epsilon is not below it
        (0.4, [0, 0, 0, 0, 1, 1, 2, 2, OUTLIER]),
        (0.5, [0, 0, 0, 0, 1, 1, 2, 2, OUTLIER]),
        (0.6, HALVES),
        (1.5, HALVES),  # one below the root is as far as it goes
    ],
)
def test_epsilon_raises_clusters_born_below_it(method: str, epsilon: float, expected: list[int]) -> None:
    parameters = replace(PLAIN, cluster_selection_method=method, cluster_selection_epsilon=epsilon)
    assert labels_of(PAIRS, parameters) == expected


@pytest.mark.parametrize("method", ["eom", "leaf"])
def test_epsilon_may_reach_the_root_when_a_single_cluster_is_allowed(method: str) -> None:
    parameters = replace(
        PLAIN, cluster_selection_method=method, allow_single_cluster=True, cluster_selection_epsilon=0.85
    )
    found = extract(PAIRS, parameters)
    # Row 8 joins at 0.9, outside epsilon.
    assert found.labels.tolist() == [0] * 8 + [OUTLIER]
    assert found.persistence.tolist() == [1.0]
    assert labels_of(PAIRS, replace(parameters, cluster_selection_epsilon=0.95)) == [0] * 9


def test_a_descendant_born_at_epsilon_stays_beside_its_raised_relatives() -> None:
    # All at 0.5: {0..3} and {4, 5}. The pairs below 0.25 climb past {0..3}, born exactly at epsilon, to the
    # root, of which then only {4, 5} is left: the reference does the same.
    tree = edges((0, 1, 0.0625), (2, 3, 0.0625), (4, 5, 0.0625), (1, 2, 0.25), (3, 4, 0.5))
    parameters = replace(PLAIN, allow_single_cluster=True, cluster_selection_epsilon=0.5)
    assert labels_of(tree, parameters) == [OUTLIER] * 4 + [0, 0]


def test_a_chosen_root_without_epsilon_labels_its_densest_level() -> None:
    parameters = replace(PLAIN, allow_single_cluster=True, min_cluster_size=3)
    # No split: the densest rows are those of the last merge.
    assert labels_of(path([0.2, 0.2, 0.4, 0.6]), parameters) == [0, 0, 0, OUTLIER, OUTLIER]
    # A split at 0.58 is the root's densest level; what lies below it belongs, row 6 does not.
    split = edges((0, 1, 0.55), (1, 2, 0.55), (3, 4, 0.55), (4, 5, 0.55), (2, 3, 0.58), (5, 6, 0.9))
    found = extract(split, parameters)
    assert found.labels.tolist() == [0] * 6 + [OUTLIER]
    assert found.probabilities.tolist() == [1.0] * 6 + [0.0]


def test_leaf_finds_nothing_without_a_split() -> None:
    for single, epsilon in product((False, True), (0.0, 0.7)):
        parameters = replace(
            PLAIN,
            cluster_selection_method="leaf",
            min_cluster_size=3,
            allow_single_cluster=single,
            cluster_selection_epsilon=epsilon,
        )
        assert labels_of(path([0.2, 0.2, 0.4, 0.6]), parameters) == [OUTLIER] * 5


def test_eom_keeps_a_cluster_whose_children_are_hardly_born() -> None:
    # {0..3} lives from 0.8 to 0.12, its pairs only from 0.12 to 0.1.
    tree = edges((0, 1, 0.1), (2, 3, 0.1), (1, 2, 0.12), (3, 4, 0.8), (4, 5, 0.1))
    assert labels_of(tree, PLAIN) == [0, 0, 0, 0, 1, 1]
    assert labels_of(tree, replace(PLAIN, cluster_selection_method="leaf")) == [0, 0, 1, 1, 2, 2]


def test_equal_stabilities_keep_the_outer_cluster() -> None:
    # λ: {0..3} is born at 1 and lives to 2, its pairs to 3: 4 · 1 on either side.
    tree = edges((0, 1, 1 / 3), (2, 3, 1 / 3), (1, 2, 1 / 2), (3, 4, 1.0), (4, 5, 1 / 3))
    assert labels_of(tree, PLAIN) == [0, 0, 0, 0, 1, 1]
    # A millionth more below the split decides for the pairs.
    more = edges((0, 1, 1 / 3.00001), (2, 3, 1 / 3.00001), (1, 2, 1 / 2), (3, 4, 1.0), (4, 5, 1 / 3))
    assert labels_of(more, PLAIN) == [0, 0, 1, 1, 2, 2]


def test_stabilities_are_sums_that_know_no_order_of_rows() -> None:
    # A pile at the floor in a sparse surrounding: a plain sum differs in its last digits from order to order.
    generator = np.random.default_rng(0)
    heights = np.concatenate([np.full(1000, FLOOR), generator.uniform(0.1, 1, 99_000)])
    expected = math.fsum(1 / heights)
    for _ in range(3):
        generator.shuffle(heights)
        root = _Condensed(
            parent=np.zeros(1, dtype=np.int64),
            birth=np.array([np.inf]),
            size=np.array([len(heights)]),
            row_cluster=np.zeros(len(heights), dtype=np.int64),
            row_height=heights,
        )
        assert _stabilities(root)[0] == expected


def test_max_cluster_size_splits_further() -> None:
    tree = edges((0, 1, 0.1), (2, 3, 0.1), (1, 2, 0.12), (3, 4, 0.8), (4, 5, 0.1))
    assert labels_of(tree, replace(PLAIN, max_cluster_size=4)) == [0, 0, 0, 0, 1, 1]
    assert labels_of(tree, replace(PLAIN, max_cluster_size=3)) == [0, 0, 1, 1, 2, 2]
    # Too large and with nothing inside: its rows are in no cluster.
    assert labels_of(path([0.2, 0.2]), replace(PLAIN, max_cluster_size=2)) == [OUTLIER] * 3


def test_max_cluster_size_sees_the_root_as_the_sum_of_its_clusters() -> None:
    # Nine rows, of which eight are in the root's two clusters.
    halves = edges(
        *((0, 1, 0.5), (1, 2, 0.5), (2, 3, 0.5), (4, 5, 0.5), (5, 6, 0.5), (6, 7, 0.5)),
        *((3, 4, 0.51), (7, 8, 0.52)),
    )
    parameters = replace(PLAIN, allow_single_cluster=True, min_cluster_size=4)
    assert labels_of(halves, replace(parameters, max_cluster_size=8)) == [0] * 8 + [OUTLIER]
    assert labels_of(halves, replace(parameters, max_cluster_size=7)) == HALVES
    # Without clusters inside, the root counts as empty and is never too large.
    assert labels_of(path([0.2] * 5), replace(parameters, max_cluster_size=1)) == [0] * 6


# Probability and persistence.


def test_probability_is_the_share_of_the_density_reached() -> None:
    # {0, 1, 2}: 0 and 1 at 0.1, 2 at 0.4. {3, 4} at 0.2.
    tree = edges((0, 1, 0.1), (1, 2, 0.4), (2, 3, 0.8), (3, 4, 0.2))
    found = by_smallest_row(extract(tree, PLAIN))
    assert found.labels.tolist() == [0, 0, 0, 1, 1]
    np.testing.assert_allclose(found.probabilities, [1, 1, 0.25, 1, 1])
    np.testing.assert_allclose(found.persistence, [np.mean([0.875, 0.875, 0.5]), 0.75])


def test_probability_distinguishes_nothing_below_epsilon() -> None:
    tree = edges((0, 1, 0.1), (1, 2, 0.25), (2, 3, 0.5), (3, 4, 0.8), (4, 5, 0.1))
    found = extract(tree, replace(PLAIN, cluster_selection_epsilon=0.3))
    np.testing.assert_allclose(found.probabilities, [1, 1, 1, 0.6, 1, 1])


def test_copies_do_not_fade_their_surroundings() -> None:
    # Two copies at distance 0 count as the floor: without it, λ would be infinite and row 2's share 0.
    tree = edges((0, 1, 0.0), (1, 2, 0.4), (2, 3, 0.8), (3, 4, 0.0))
    plain = by_smallest_row(extract(tree, PLAIN))
    np.testing.assert_allclose(plain.probabilities[2], FLOOR / 0.4)
    raised = by_smallest_row(extract(tree, replace(PLAIN, cluster_selection_epsilon=0.4)))
    assert raised.probabilities.tolist() == [1.0] * 5
    np.testing.assert_allclose(raised.persistence[0], np.mean([1 - FLOOR / 0.8] * 2 + [0.5]))


def test_members_of_swallowed_clusters_are_certain() -> None:
    # The pairs inside {0..3} are denser than the cluster ever was: 1, not more.
    found = extract(PAIRS, replace(PLAIN, cluster_selection_epsilon=0.6))
    assert found.probabilities.tolist() == [1.0] * 8 + [0.0]
    np.testing.assert_allclose(by_smallest_row(found).persistence, [1 - 0.1 / 0.8] * 2)


# Edges of the domain.


def nothing(n: int) -> SpanningTree:
    return path([0.1] * (n - 1))


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_fewer_rows_than_min_cluster_size_are_outliers(n: int, single: bool) -> None:
    found = extract(nothing(n), replace(PLAIN, min_cluster_size=n + 1, allow_single_cluster=single))
    assert found.labels.tolist() == [OUTLIER] * n
    assert found.probabilities.tolist() == [0.0] * n
    assert len(found.persistence) == 0


def test_one_row_is_an_outlier() -> None:
    assert extract(nothing(1), replace(PLAIN, allow_single_cluster=True)).labels.tolist() == [OUTLIER]


def test_two_rows_are_a_cluster_only_when_a_single_one_is_allowed() -> None:
    assert labels_of(nothing(2), PLAIN) == [OUTLIER] * 2
    assert labels_of(nothing(2), replace(PLAIN, allow_single_cluster=True)) == [0, 0]


def test_epsilon_below_every_height_leaves_no_empty_cluster() -> None:
    parameters = replace(PLAIN, allow_single_cluster=True, cluster_selection_epsilon=0.05)
    found = extract(nothing(4), parameters)
    assert found.labels.tolist() == [OUTLIER] * 4
    assert len(found.persistence) == 0


def test_input_is_left_as_it_was() -> None:
    tree = edges((2, 3, 0.5), (0, 1, 0.0), (1, 2, 0.2))
    for array in (tree.u, tree.v, tree.height):
        array.flags.writeable = False
    extract(tree, PLAIN)
    assert tree.height.tolist() == [0.5, 0.0, 0.2]


def test_edges_that_close_a_cycle_are_refused() -> None:
    tree = edges((0, 1, 0.1), (3, 2, 0.4), (1, 2, 0.2), (2, 0, 0.3))
    with pytest.raises(PanicTdaError, match=r"edge 3 \(2, 0\) closes a cycle"):
        extract(tree, PLAIN)


# Deep trees.


def test_a_chain_of_100_000_points() -> None:
    n = 100_000
    heights = np.linspace(0.1, 0.5, n - 1)
    parameters = replace(PLAIN, allow_single_cluster=True, min_cluster_size=100)
    found = extract(path(heights), replace(parameters, cluster_selection_epsilon=0.3))
    expected = np.where(np.concatenate([heights[:1], heights]) <= 0.3, 0, OUTLIER)
    np.testing.assert_array_equal(found.labels, expected)
    # Without epsilon: the last 100 rows to hold together, which fall apart at once.
    np.testing.assert_array_equal(
        extract(path(heights), parameters).labels, np.where(np.arange(n) < 100, 0, OUTLIER)
    )
    assert np.all(extract(path(heights), replace(PLAIN, cluster_selection_method="leaf")).labels == OUTLIER)


@pytest.mark.parametrize("shape", ["star", "path"])
def test_a_pile_of_10_000_equal_rows(shape: str) -> None:
    n = 10_000
    v = np.arange(1, n)
    tree = SpanningTree(np.zeros(n - 1, dtype=np.int64) if shape == "star" else v - 1, v, np.zeros(n - 1))
    found = extract(tree, replace(PLAIN, allow_single_cluster=True, min_cluster_size=10))
    assert np.all(found.labels == 0)
    assert np.all(found.probabilities == 1)
    assert found.persistence.tolist() == [1.0]
    assert np.all(extract(tree, replace(PLAIN, min_cluster_size=10)).labels == OUTLIER)


def nested_pairs(n_pairs: int) -> SpanningTree:
    """Pairs that join one after the other: a condensed tree as deep as there are pairs."""
    inside, between = np.full(n_pairs, 0.01), np.linspace(0.1, 0.5, n_pairs - 1)
    first = np.arange(n_pairs) * 2
    return SpanningTree(
        np.concatenate([first, first[:-1]]),
        np.concatenate([first + 1, first[1:]]),
        np.concatenate([inside, between]),
    )


def test_50_000_nested_clusters() -> None:
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
