"""Test each rule of the hierarchy on trees small enough to follow by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from panic_tda.clustering.condensed import TIE_SPAN, CondensedTree, build_single_linkage, condense_tree
from panic_tda.clustering.hierarchy import add_compensated, extract_clusters, mark_chosen, sum_stabilities
from panic_tda.types import OUTLIER, SpanningTree
from tests.trees import FLOOR, PLAIN, assert_same, by_smallest_row, edges, labels_of, path

# Ties.

TIED = 0.4


@pytest.mark.parametrize(("gap", "n_clusters"), [(0.0, 0), (0.9e-9, 0), (1.1e-9, 2), (1e-6, 2)])
def test_merges_within_the_tolerance_are_one(gap: float, n_clusters: int) -> None:
    # Rows 2 and 3 merge just below the height at which they meet 0 and 1: a cluster of their own or nothing.
    tree = edges((0, 1, 0.1), (2, 3, TIED), (1, 2, TIED * (1 + gap)))
    clusters = extract_clusters(tree, replace(PLAIN, cluster_selection_method="leaf"))
    assert len(clusters.persistence) == n_clusters


def test_the_tolerance_is_the_tree_s() -> None:
    tree = edges((0, 1, 0.1), (2, 3, TIED), (1, 2, TIED * (1 + 5e-7)))
    leaves = replace(PLAIN, cluster_selection_method="leaf")
    assert len(extract_clusters(tree, leaves).persistence) == 2
    assert len(extract_clusters(replace(tree, tie_tolerance=1e-6), leaves).persistence) == 0


def test_without_a_tolerance_equal_heights_are_one_merge() -> None:
    # Rows 2 and 3 meet at the height at which they meet 0 and 1, and then one digit below it.
    leaves = replace(PLAIN, cluster_selection_method="leaf")
    for below, n_clusters in ((TIED, 0), (np.nextafter(TIED, 0), 2)):
        tree = replace(edges((0, 1, 0.1), (2, 3, below), (1, 2, TIED)), tie_tolerance=0.0)
        assert len(extract_clusters(tree, leaves).persistence) == n_clusters


def test_heights_of_single_precision_count_as_the_numbers_they_are() -> None:
    heights = np.random.default_rng(0).uniform(0.1, 1, 60).astype(np.float32)
    heights[:3] = 0  # the floor has no such form
    rows = np.arange(60, dtype=np.int32)
    tree = SpanningTree(rows, rows + np.int32(1), heights)
    for epsilon in (0.0, 0.6):
        parameters = replace(PLAIN, allow_single_cluster=True, cluster_selection_epsilon=epsilon)
        assert_same(extract_clusters(tree, parameters), extract_clusters(path(heights.tolist()), parameters))


def test_ties_are_transitive_along_a_branch() -> None:
    # Each step is within 1e-9, the whole is not; rows 2, 3, 4 fall out of {0, 1} together.
    heights = [TIED * (1 + step * 0.8e-9) for step in range(3)]
    tree = edges((0, 1, 0.1), (2, 3, heights[0]), (3, 4, heights[1]), (1, 2, heights[2]))
    clusters = extract_clusters(tree, replace(PLAIN, cluster_selection_method="leaf"))
    assert np.all(clusters.labels == OUTLIER)


def test_ties_do_not_chain_through_the_whole_tree() -> None:
    # Rows fall out of {0, 1} one by one, each within the tolerance of the one before: 9.4 % in all. A pair
    # far away makes {0, 1} and all of them a cluster.
    n, step = 100_000, 0.9e-6
    heights = TIED * (1 + step) ** np.arange(n)
    ends = np.arange(1, n + 1)
    tree = SpanningTree(
        np.concatenate([ends - 1, [0, n + 1]]),
        np.concatenate([ends, [n + 1, n + 2]]),
        np.concatenate([heights, [1.9, TIED]]),
        tie_tolerance=1e-6,
    )
    labels = by_smallest_row(extract_clusters(tree, PLAIN))
    assert np.bincount(labels.labels).tolist() == [n + 1, 2]
    strengths = heights[0] / np.concatenate([heights[:1], heights])
    assert strengths.min() < 0.92
    np.testing.assert_allclose(labels.probabilities[: n + 1], strengths, rtol=2 * TIE_SPAN * 1e-6)


def test_equal_heights_in_unrelated_branches_stay_apart() -> None:
    tree = edges((0, 1, 0.1), (1, 2, 0.2), (3, 4, 0.1), (4, 5, 0.2), (2, 3, 0.7))
    labels = by_smallest_row(extract_clusters(tree, replace(PLAIN, min_cluster_size=3)))
    assert labels.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_tie_splits_into_all_its_large_children() -> None:
    # Three pairs at one distance, and a lone row at the same: binary merges would nest two of the pairs.
    tree = edges((0, 1, 0.1), (2, 3, 0.1), (4, 5, 0.1), (0, 2, TIED), (2, 4, TIED), (4, 6, TIED))
    labels = by_smallest_row(extract_clusters(tree, PLAIN))
    assert labels.labels.tolist() == [0, 0, 1, 1, 2, 2, OUTLIER]
    np.testing.assert_allclose(labels.persistence, 1 - 0.1 / TIED)


# The rules of selection.

# Pairs at 0.1; {0..3} from two of them at 0.3, {4..7} at 0.5, all at 0.8, and row 8 at 0.9.
PAIRS = edges(
    *((0, 1, 0.1), (2, 3, 0.1), (4, 5, 0.1), (6, 7, 0.1)),
    *((1, 2, 0.3), (5, 6, 0.5), (3, 4, 0.8), (7, 8, 0.9)),
)
LEAVES = [0, 0, 1, 1, 2, 2, 3, 3, OUTLIER]
HALVES = [0, 0, 0, 0, 1, 1, 1, 1, OUTLIER]


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
    clusters = extract_clusters(PAIRS, parameters)
    # Row 8 joins at 0.9, outside epsilon.
    assert clusters.labels.tolist() == [0] * 8 + [OUTLIER]
    assert np.isnan(clusters.persistence).tolist() == [True]
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
    clusters = extract_clusters(split, parameters)
    assert clusters.labels.tolist() == [0] * 6 + [OUTLIER]
    assert clusters.probabilities.tolist() == [1.0] * 6 + [0.0]


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


@pytest.mark.parametrize("scale", [1.0, 100.0])
@pytest.mark.parametrize(("more", "expected"), [(0.5e-9, [0, 0, 0, 0, 1, 1]), (2e-9, [0, 0, 1, 1, 2, 2])])
def test_children_need_more_stability_by_a_share_of_it(
    scale: float, more: float, expected: list[int]
) -> None:
    pair = 1 / scale / (3 + more)  # λ a third of `more` higher for each of 12: the share of 4 that it says
    tree = edges((0, 1, pair), (2, 3, pair), (1, 2, 1 / scale / 2), (3, 4, 1 / scale), (4, 5, pair))
    assert labels_of(tree, PLAIN) == expected


def nested(split: float, halves: float, pairs: float) -> SpanningTree:
    """Four pairs at λ `pairs`, in two halves until λ `halves`, in one until λ `split`; a fifth joins at 1."""
    return edges(
        *((2 * pair, 2 * pair + 1, 1 / pairs) for pair in range(5)),
        *((1, 2, 1 / halves), (5, 6, 1 / halves), (3, 4, 1 / split), (7, 8, 1.0)),
    )


def test_the_stability_of_selected_descendants_is_compared() -> None:
    # Stabilities: the whole 8, its halves 2 each, its pairs 3 each: 4 are less than 8, 12 are more.
    assert labels_of(nested(2, 2.5, 4), PLAIN) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_a_chosen_cluster_swallows_what_was_chosen_deep_inside() -> None:
    # Stabilities: the whole 16, its halves 2 each, its pairs 3 each: these are chosen before the whole is.
    assert labels_of(nested(3, 3.5, 5), PLAIN) == [0] * 8 + [1] * 2


def test_epsilon_raises_to_the_first_cluster_born_above_it() -> None:
    # One inside the other: pairs, {0..3} below 0.5, {0..5} below 0.7, {0..7} below 0.9. Row 10 is in the last
    # two, row 11 in the last alone: they tell which of them was chosen.
    tree = edges(
        *((row, row + 1, 0.1) for row in range(0, 10, 2)),
        *((1, 2, 0.3), (3, 4, 0.5), (5, 10, 0.6), (5, 6, 0.7), (7, 11, 0.8), (7, 8, 0.9)),
    )
    for epsilon, expected in (
        (0.4, [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, OUTLIER, OUTLIER]),
        (0.6, [0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 0, OUTLIER]),
        (0.8, [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0]),
    ):
        parameters = replace(PLAIN, cluster_selection_method="leaf", cluster_selection_epsilon=epsilon)
        assert labels_of(tree, parameters) == expected


def test_trees_are_arrays_of_the_shapes_and_kinds_that_they_say() -> None:
    linkage = build_single_linkage(PAIRS, FLOOR)
    assert [(array.shape, array.dtype) for array in linkage] == [
        ((17,), np.int64),
        ((17,), np.int64),
        ((8,), np.float64),
    ]
    clusters = condense_tree(linkage, 2, 1e-9)
    assert [(array.shape, array.dtype) for array in clusters] == [
        ((7,), np.int64),
        ((7,), np.float64),
        ((7,), np.int64),
        ((9,), np.int64),
        ((9,), np.float64),
    ]


def test_selected_clusters_are_marked_by_booleans() -> None:
    clusters = condense_tree(build_single_linkage(PAIRS, FLOOR), 2, 1e-9)
    for method, epsilon in product(("eom", "leaf"), (0.0, 0.6)):
        parameters = replace(PLAIN, cluster_selection_method=method, cluster_selection_epsilon=epsilon)
        chosen = mark_chosen(clusters, parameters)
        assert chosen.dtype == np.bool_
        assert chosen.sum() == (2 if epsilon else 4)


def test_compensated_sums_keep_small_terms() -> None:
    total, carry = np.zeros(2), np.zeros(2)
    for value in (1.0, 1e100, -1e100, 1.0, 1e100, -1e100):
        add_compensated(total, carry, 1, value)
    assert total[1] + carry[1] == 2
    assert total[0] == carry[0] == 0


def test_stabilities_do_not_depend_on_the_order_of_rows() -> None:
    # A pile at the floor in a sparse surrounding: a plain sum differs in its last digits from order to order.
    generator = np.random.default_rng(0)
    heights = np.concatenate([np.full(1000, FLOOR), generator.uniform(0.1, 1, 99_000)])
    expected = math.fsum(1 / heights)
    for _ in range(3):
        generator.shuffle(heights)
        root = CondensedTree(
            parent=np.zeros(1, dtype=np.int64),
            birth=np.array([np.inf]),
            size=np.array([len(heights)]),
            row_cluster=np.zeros(len(heights), dtype=np.int64),
            row_height=heights,
        )
        assert sum_stabilities(root)[0] == expected


def test_max_cluster_size_splits_further() -> None:
    tree = edges((0, 1, 0.1), (2, 3, 0.1), (1, 2, 0.12), (3, 4, 0.8), (4, 5, 0.1))
    assert labels_of(tree, replace(PLAIN, max_cluster_size=4)) == [0, 0, 0, 0, 1, 1]
    assert labels_of(tree, replace(PLAIN, max_cluster_size=3)) == [0, 0, 1, 1, 2, 2]
    # Too large and with nothing inside: its rows are in no cluster.
    assert labels_of(path([0.2, 0.2]), replace(PLAIN, max_cluster_size=2)) == [OUTLIER] * 3


def test_the_root_counts_with_the_rows_that_it_would_label() -> None:
    # Nine rows, of which eight are in the root's two clusters; row 8 joins at 0.52.
    halves = edges(
        *((0, 1, 0.5), (1, 2, 0.5), (2, 3, 0.5), (4, 5, 0.5), (5, 6, 0.5), (6, 7, 0.5)),
        *((3, 4, 0.51), (7, 8, 0.52)),
    )
    parameters = replace(PLAIN, allow_single_cluster=True, min_cluster_size=4)
    assert labels_of(halves, replace(parameters, max_cluster_size=8)) == [0] * 8 + [OUTLIER]
    assert labels_of(halves, replace(parameters, max_cluster_size=7)) == HALVES
    within = replace(parameters, cluster_selection_epsilon=0.55)
    assert labels_of(halves, replace(within, max_cluster_size=9)) == [0] * 9
    assert labels_of(halves, replace(within, max_cluster_size=8)) == HALVES
    # hdbscan counts a root without clusters inside as empty, and labels all six.
    assert labels_of(path([0.2] * 5), replace(parameters, max_cluster_size=6)) == [0] * 6
    assert labels_of(path([0.2] * 5), replace(parameters, max_cluster_size=5)) == [OUTLIER] * 6


@pytest.mark.parametrize(
    ("epsilon", "largest", "expected"),
    [
        (0.6, 4, HALVES),
        (0.6, 3, LEAVES),
        (0.4, 3, LEAVES),
        (0.4, 4, [0, 0, 0, 0, 1, 1, 2, 2, OUTLIER]),
        (1.5, 4, HALVES),
        (1.5, 2, LEAVES),
    ],
)
@pytest.mark.parametrize("single", [False, True])
def test_the_climb_to_epsilon_keeps_max_cluster_size(
    epsilon: float, largest: int, expected: list[int], single: bool
) -> None:
    parameters = replace(PLAIN, cluster_selection_epsilon=epsilon, max_cluster_size=largest)
    assert labels_of(PAIRS, replace(parameters, allow_single_cluster=single)) == expected


def test_a_climb_that_is_too_large_ends_at_the_uppermost_cluster_that_is_not() -> None:
    # Pairs, {0..3} below 0.5, {0..5} below 0.7, {0..7} below 0.9: all of them are below epsilon.
    tree = edges(
        *((row, row + 1, 0.1) for row in range(0, 10, 2)),
        *((1, 2, 0.3), (3, 4, 0.5), (5, 6, 0.7), (7, 8, 0.9)),
    )
    parameters = replace(PLAIN, cluster_selection_epsilon=1.0)
    for largest, expected in (
        (8, [0, 0, 0, 0, 0, 0, 0, 0, 1, 1]),
        (7, [0, 0, 0, 0, 0, 0, 1, 1, 2, 2]),
        (5, [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]),
        (3, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]),
    ):
        assert labels_of(tree, replace(parameters, max_cluster_size=largest)) == expected


# Probability and persistence.


def test_probability_is_the_share_of_the_density_reached() -> None:
    # {0, 1, 2}: 0 and 1 at 0.1, 2 at 0.4. {3, 4} at 0.2.
    tree = edges((0, 1, 0.1), (1, 2, 0.4), (2, 3, 0.8), (3, 4, 0.2))
    labels = by_smallest_row(extract_clusters(tree, PLAIN))
    assert labels.labels.tolist() == [0, 0, 0, 1, 1]
    np.testing.assert_allclose(labels.probabilities, [1, 1, 0.25, 1, 1])
    np.testing.assert_allclose(labels.persistence, [np.mean([0.875, 0.875, 0.5]), 0.75])


def test_probability_distinguishes_nothing_below_epsilon() -> None:
    tree = edges((0, 1, 0.1), (1, 2, 0.25), (2, 3, 0.5), (3, 4, 0.8), (4, 5, 0.1))
    clusters = extract_clusters(tree, replace(PLAIN, cluster_selection_epsilon=0.3))
    np.testing.assert_allclose(clusters.probabilities, [1, 1, 1, 0.6, 1, 1])


def test_copies_do_not_lower_the_probability_of_their_surroundings() -> None:
    # Two copies at distance 0 count as the floor: without it, λ would be infinite and row 2's share 0.
    tree = edges((0, 1, 0.0), (1, 2, 0.4), (2, 3, 0.8), (3, 4, 0.0))
    plain = by_smallest_row(extract_clusters(tree, PLAIN))
    np.testing.assert_allclose(plain.probabilities[2], FLOOR / 0.4)
    raised = by_smallest_row(extract_clusters(tree, replace(PLAIN, cluster_selection_epsilon=0.4)))
    assert raised.probabilities.tolist() == [1.0] * 5
    np.testing.assert_allclose(raised.persistence[0], np.mean([1 - FLOOR / 0.8] * 2 + [0.5]))


def test_members_of_swallowed_clusters_are_certain() -> None:
    # The pairs inside {0..3} are denser than the cluster ever was: 1, not more.
    clusters = extract_clusters(PAIRS, replace(PLAIN, cluster_selection_epsilon=0.6))
    assert clusters.probabilities.tolist() == [1.0] * 8 + [0.0]
    np.testing.assert_allclose(by_smallest_row(clusters).persistence, [1 - 0.1 / 0.8] * 2)
