"""Survival and Weibull shapes of dwells that are cut off: by hand, planted, and against every neighbour."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from panic_tda.insight.dwell import describe_dwells, fit_weibull, median_survival
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
def test_the_median_by_hand(ended: list[int], cut_off: list[int], median: float | None) -> None:
    assert median_survival(floats(ended), floats(cut_off)) == median


DWELLS = st.lists(st.integers(1, 60), min_size=0, max_size=40)


@given(DWELLS, DWELLS)
def test_the_median_is_the_products(ended: list[int], cut_off: list[int]) -> None:
    assert median_survival(floats(ended), floats(cut_off)) == reference.median_of(ended, cut_off)


@pytest.mark.parametrize("shape", [0.5, 0.8, 1.0, 1.7, 4.0])
@pytest.mark.parametrize("horizon", [10_000, 20])
@pytest.mark.parametrize("spacing", [1, 5])
def test_a_planted_shape_is_found(shape: float, horizon: int, spacing: int) -> None:
    durations = 12 * np.random.default_rng(1).weibull(shape, 20_000)
    dwells = np.ceil(durations / spacing) * spacing
    ended, cut_off = dwells[dwells <= horizon], np.full((dwells > horizon).sum(), float(horizon))
    found = fit_weibull(ended, cut_off, spacing=spacing)
    assert found is not None
    assert found.shape == pytest.approx(shape, rel=0.03)
    assert found.scale == pytest.approx(12, rel=0.05)
    assert found.is_heavier == (shape < 1)
    assert (found.log_likelihood_ratio < 1.92) == (shape == 1)


@pytest.mark.parametrize("mean", [1.3, 2.0, 5.0, 20.0])
def test_a_walk_that_forgets_has_the_shape_one_however_short_its_visits(mean: float) -> None:
    dwells = np.random.default_rng(3).geometric(1 / mean, 40_000)
    found = describe_dwells(dwells, np.zeros(len(dwells), dtype=bool))
    assert found.weibull_shape == pytest.approx(1, abs=0.02)
    assert found.heavier_than_exponential is False
    # Looked at every third step, it lasts a third as many looks, and forgets as before.
    rarely = describe_dwells(-(-dwells // 3) * 3, np.zeros(len(dwells), dtype=bool), sampling=3)
    assert rarely.weibull_shape == pytest.approx(1, abs=0.04)


def test_scipy_finds_the_same_distribution() -> None:
    rng = np.random.default_rng(4)
    dwells, watched = np.ceil(6 * rng.weibull(0.7, 400)), rng.integers(1, 20, 400).astype(float)
    ended, cut_off = dwells[dwells <= watched], watched[dwells > watched]
    intervals = np.column_stack([ended - 1, ended])
    data = stats.CensoredData(interval=intervals, right=cut_off)
    shape, _, scale = stats.weibull_min.fit(data, floc=0)
    found = fit_weibull(ended, cut_off)
    assert found is not None
    assert (found.shape, found.scale) == pytest.approx((shape, scale), rel=1e-3)


@given(
    st.lists(st.integers(1, 300), min_size=2, max_size=30),
    st.lists(st.integers(0, 300), max_size=30),
    st.sampled_from([1, 10]),
)
def test_no_other_shape_or_scale_is_likelier(ended: list[int], cut_off: list[int], spacing: int) -> None:
    ended = [-(-t // spacing) * spacing for t in ended]
    found = fit_weibull(floats(ended), floats(cut_off), spacing=spacing)
    if found is None:
        assert reference.weibull_of(ended, cut_off, spacing) == (None, None)
        return
    likelihood = reference.log_likelihood(found.shape, found.scale, ended, cut_off, spacing)
    mean = reference.best_mean(ended, cut_off, spacing)
    exponential = reference.log_likelihood(1.0, mean, ended, cut_off, spacing)
    assert found.log_likelihood_ratio == pytest.approx(likelihood - exponential, rel=1e-6, abs=1e-9)
    for step in (1e-4, 1e-2, 0.3):
        for up, right in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1), (1, -1), (-1, 1)):
            shape, scale = found.shape * (1 + up * step), found.scale * (1 + right * step)
            assert reference.log_likelihood(shape, scale, ended, cut_off, spacing) <= likelihood + 1e-9


@pytest.mark.parametrize(
    ("ended", "cut_off"),
    [
        ([], []),
        ([], [3, 4]),
        ([5], []),
        ([5], [1, 9]),
        ([5, 5], []),
        ([5, 5, 5], [5, 2, 0]),
        # All lasted for 5 steps, up to when it was looked.
        ([5, 6, 6], [5]),
        # Some end at once and some never.
        ([1, 1], [50, 3]),
    ],
)
def test_no_shape_without_a_maximum(ended: list[int], cut_off: list[int]) -> None:
    assert fit_weibull(floats(ended), floats(cut_off)) is None


def test_extreme_durations_stay_finite() -> None:
    for ended in ([1, 10**15], [10**15, 10**15 + 2], [1] * 1000 + [3]):
        found = fit_weibull(floats(ended), floats([]))
        assert found is None or (math.isfinite(found.shape) and math.isfinite(found.scale))


def test_a_visit_that_was_cut_off_outlasts_all_but_its_last_step() -> None:
    # Two walks that stay for ever, seen for 1 and for 4 steps, and one that left after 4.
    found = describe_dwells(np.array([4, 1, 4]), np.array([False, True, True]))
    # Of the second nothing is known at 4, nor of the third, which was seen for 4 steps: the next might have
    # been elsewhere.
    assert (found.visits, found.censored, found.median) == (3, 2, 4)


def test_walks_that_are_watched_briefly_seem_no_slower() -> None:
    # They leave with a chance of a fifth at every step: 0.51 outlast 3 steps, and 0.41 outlast 4.
    # At risk at 4 are those that were seen at the fourth step after the first, not those cut off before.
    rng = np.random.default_rng(2)
    durations, watched = rng.geometric(0.2, 60_000), rng.integers(1, 7, 60_000)
    left = durations < watched
    found = describe_dwells(np.where(left, durations, watched), ~left)
    assert found.censored > 30_000
    assert found.median == 4


def test_whether_a_tail_is_heavy_needs_evidence() -> None:
    # The same shares of short and long dwells, six of them and sixty.
    some = [1, 1, 2, 3, 8, 30]
    few, many = (describe_dwells(np.array(some * n), np.zeros(6 * n, dtype=bool)) for n in (1, 10))
    assert few.weibull_shape is not None
    assert few.weibull_shape == pytest.approx(many.weibull_shape)
    assert few.weibull_shape < 1
    assert (few.heavier_than_exponential, many.heavier_than_exponential) == (False, True)
