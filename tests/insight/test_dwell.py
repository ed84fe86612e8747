"""Test survival estimates of censored visits, by hand and planted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from panic_tda.insight.dwell import describe_dwells, leaving_rates, median_survival
from tests.insight import reference_trajectories as reference

# Freireich et al., Blood 21, 699 (1963): weeks in remission under 6-mercaptopurine, doi
# 10.1182/blood.V21.6.699.699. The survival is 0.538 at 22 weeks and 0.448 at 23.
RELAPSED = [6, 6, 6, 7, 10, 13, 16, 22, 23]
IN_REMISSION = [6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35]


def floats(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=float)


def test_the_median_of_a_published_survival_curve() -> None:
    assert median_survival(floats(RELAPSED), floats(IN_REMISSION)) == 23
    assert median_survival(floats(RELAPSED[:-1]), floats([*IN_REMISSION, 23])) is None


@pytest.mark.parametrize(
    ("ended", "cut_off", "median"),
    [
        ([], [], None),
        ([], [5, 9], None),
        ([4], [], 4),
        ([1, 2, 3, 4], [], 2),
        # 3/4 of 2/3 is a half, whichever way it is rounded.
        ([1, 3], [1, 3, 5, 9], None),
        ([1, 3, 4], [3], 3),
        ([2, 2, 2, 3], [9] * 4, 3),
        ([2, 2, 2, 3], [9] * 5, None),
        ([2, 2, 2, 2], [9] * 4, 2),
        # Cut off at 3, it is at risk at 3.
        ([3], [3], 3),
        ([3], [2], 3),
        ([3], [3, 3], None),
    ],
)
def test_the_median_matches_a_hand_computed_example(
    ended: list[int], cut_off: list[int], median: float | None
) -> None:
    assert median_survival(floats(ended), floats(cut_off)) == median


DWELLS = st.lists(st.integers(1, 60), min_size=0, max_size=40)


@given(DWELLS, DWELLS)
def test_the_median_is_that_of_the_product_limit_estimate(ended: list[int], cut_off: list[int]) -> None:
    assert median_survival(floats(ended), floats(cut_off)) == reference.median_of(ended, cut_off)


def test_a_visit_that_was_cut_off_outlasts_all_but_its_last_step() -> None:
    # Two walks that stay for ever, seen for 1 and for 4 steps, and one that left after 4.
    dwells = describe_dwells(np.array([4, 1, 4]), np.array([False, True, True]), np.zeros(3, dtype=int))
    # Of the second nothing is known at 4, nor of the third, which was seen for 4 steps: the next might have
    # been elsewhere.
    assert (dwells.visits, dwells.censored, dwells.median) == (3, 2, 4)


def test_short_observation_does_not_bias_the_median() -> None:
    # They leave with a chance of a fifth at every step: 0.51 outlast 3 steps, and 0.41 outlast 4.
    # At risk at 4 are those that were seen at the fourth step after the first, not those cut off before.
    rng = np.random.default_rng(2)
    durations, watched = rng.geometric(0.2, 60_000), rng.integers(1, 7, 60_000)
    left = durations < watched
    dwells = describe_dwells(np.where(left, durations, watched), ~left, np.zeros(len(left), dtype=int))
    assert dwells.censored > 30_000
    assert dwells.median == 4


def test_rates_are_those_of_each_cluster() -> None:
    rng = np.random.default_rng(5)
    chances = np.array([0.5, 0.1, 0.02])
    clusters = np.repeat([0, 1, 2], 20_000)
    durations, watched = rng.geometric(chances[clusters]), rng.integers(1, 40, len(clusters))
    censored = durations > watched
    rates = leaving_rates(np.where(censored, watched, durations), censored, clusters, 4)
    assert rates[:3] == pytest.approx(-np.log1p(-chances), rel=0.03)
    # Nobody was seen to leave the fourth.
    assert np.isnan(rates[3])
