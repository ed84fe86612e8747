"""Compare adjusted mutual information with that of scikit-learn, in values and in cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_mutual_info_score

from panic_tda.insight.agreement import adjusted_mutual_information, adjusted_rand, contingency

LABELS = st.integers(1, 60).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(-1, 6), min_size=n, max_size=n)] * 2)
)


def mutual(a: np.ndarray, b: np.ndarray) -> float:
    return adjusted_mutual_information(contingency(a, b))


@settings(deadline=None)
@given(LABELS)
def test_ari_equals_that_of_scikit_learn(pair: tuple[list[int], list[int]]) -> None:
    a, b = map(np.array, pair)
    assert mutual(a, b) == pytest.approx(adjusted_mutual_info_score(a, b), abs=1e-9)


@pytest.mark.parametrize(("n_a", "n_b", "skew"), [(3, 3, 0.0), (40, 7, 1.0), (200, 150, 0.7), (2, 900, 0.0)])
def test_small_overlaps_left_out_of_the_sums_do_not_change_the_result(
    n_a: int, n_b: int, skew: float
) -> None:
    # Sizes from 1 to thousands, so that most overlaps that two clusters could have lie beyond the cut.
    rng = np.random.default_rng(n_a)
    n = 20_000
    a, b = (rng.choice(k, n, p=_shares(k, skew)) for k in (n_a, n_b))
    b[: n // 3] = a[: n // 3] % n_b
    assert mutual(a, b) == pytest.approx(adjusted_mutual_info_score(a, b), abs=1e-9)


def _shares(k: int, skew: float) -> np.ndarray:
    weights = 1 / np.arange(1, k + 1) ** skew
    return weights / weights.sum()


def test_twenty_thousand_clusters_in_a_million_rows_take_little_memory() -> None:
    # Over every pair of clusters, 400,000,000 of them, this would not end.
    a = np.arange(1_000_000) // 50
    b = (np.arange(1_000_000) + 25) // 50
    # A row shares its cluster with half of those of the other, log 2 less than all; by chance with none of
    # them, log 50 less.
    assert mutual(a, b) == pytest.approx(1 - np.log(2) / np.log(50), abs=1e-3)
    assert abs(mutual(a, np.arange(1_000_000) % 20_000)) < 0.1


@pytest.mark.parametrize("labels", [[0], [-1, -1, -1], [3, 1, 2], list(range(400)), [0, 0, 5, 5, 5]])
def test_renamed_labels_have_agreement_1(labels: list[int]) -> None:
    table = contingency(np.array(labels), 400 - np.array(labels))
    assert adjusted_mutual_information(table) == adjusted_rand(table) == 1.0


def test_empty_rows_and_columns_are_not_clusters() -> None:
    a, b = np.array([-1, -1, 0, 5, 5, 2]), np.array([3, -1, -1, 0, 3, 0])
    inside = (a >= 0) & (b >= 0)
    expected = adjusted_mutual_info_score(a[inside], b[inside])
    assert adjusted_mutual_information(contingency(a, b)[1:, 1:]) == pytest.approx(expected)


def test_one_cluster_has_agreement_0_with_another_labeling() -> None:
    assert mutual(np.zeros(6, dtype=int), np.array([0, 0, 1, 1, 2, 2])) == 0.0
