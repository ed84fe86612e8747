"""Compare intervals by run with explicit resampling and with planted values."""

from __future__ import annotations

import numpy as np
import pytest

from panic_tda.insight.dwell import median_survival
from panic_tda.insight.intervals import Interval, Resamples


def test_a_ratio_is_that_of_the_runs_drawn() -> None:
    rng = np.random.default_rng(0)
    above, below = rng.random(25), rng.integers(1, 9, 25).astype(float)
    resamples = Resamples(25)
    assert resamples.counts.shape == (1000, 25)
    assert set(resamples.counts.sum(axis=1).tolist()) == {25}
    by_hand = []
    for counts in resamples.counts:
        runs = [run for run, count in enumerate(counts) for _ in range(count)]
        by_hand.append(sum(above[run] for run in runs) / sum(below[run] for run in runs))
    low, high = sorted(by_hand)[24], sorted(by_hand)[974]
    result = resamples.ratio(above, below)
    assert result is not None
    assert (result.low, result.high) == (pytest.approx(low), pytest.approx(high))
    # The same runs are drawn each time.
    assert Resamples(25).ratio(above, below) == result


def test_a_median_is_that_of_the_visits_of_the_runs_drawn() -> None:
    rng = np.random.default_rng(1)
    runs = np.repeat(np.arange(20), 6)
    times, censored = rng.geometric(0.1, 120).astype(float), rng.random(120) < 0.4
    resamples = Resamples(20, 300)
    medians = []
    for counts in resamples.counts:
        drawn = np.repeat(np.arange(120), counts[runs])
        median = median_survival(times[drawn][~censored[drawn]], times[drawn][censored[drawn]])
        medians.append(np.inf if median is None else median)
    low, high = np.quantile(medians, [0.025, 0.975], method="inverted_cdf")
    assert resamples.median(times, censored, runs) == Interval(low, high)


def test_a_median_that_some_samples_do_not_reach_has_no_upper_end() -> None:
    times = np.arange(1.0, 21.0)
    censored = times > 11
    result = Resamples(20).median(times, censored, np.arange(20))
    assert result is not None
    assert (np.isfinite(result.low), result.to_list()[1]) == (True, None)
    assert Resamples(20).median(times, times > 4, np.arange(20)) is None
    assert Resamples(20).median(times, times > 0, np.arange(20)) is None


def test_steps_of_one_run_are_not_independent() -> None:
    # Every run is in transit always or never: 40 runs of 100 steps are 40 values, not 4,000.
    rng = np.random.default_rng(2)
    covered = widths = 0.0
    for _ in range(200):
        share = 100.0 * (rng.random(40) < 0.3)
        result = Resamples(40, 400).ratio(share, np.full(40, 100.0))
        assert result is not None
        covered += (result.low <= 0.3 <= result.high) / 200
        widths += (result.high - result.low) / 200
    assert covered > 0.88
    assert widths == pytest.approx(2 * 1.96 * np.sqrt(0.3 * 0.7 / 40), rel=0.15)


def test_one_run_has_no_interval() -> None:
    assert Resamples(1).ratio(np.ones(1), np.ones(1)) is None
    assert Resamples(0).ratio(np.empty(0), np.empty(0)) is None
    assert Resamples(1).median(np.ones(3), np.zeros(3, dtype=bool), np.zeros(3, dtype=int)) is None
    assert Resamples(3).ratio(np.zeros(3), np.zeros(3)) is None
