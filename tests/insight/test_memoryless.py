"""Test the test of memoryless visits: planted clusters, SciPy's fit, and its level."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from panic_tda.insight.memoryless import MemorylessTest, memoryless_test, shape_influences

MEANS = np.array([1.5, 2.0, 3.0, 5.0, 8.0, 13.0, 21.0, 40.0])


def of(dwells: np.ndarray, clusters: np.ndarray, **options: int) -> MemorylessTest:
    result = memoryless_test(dwells, np.zeros(len(dwells), dtype=bool), clusters, **options)
    assert result is not None
    return result


def test_memoryless_clusters_with_different_rates_have_no_heavy_tail() -> None:
    clusters = np.repeat(np.arange(8), 300)
    dwells = np.random.default_rng(0).geometric(1 / MEANS[clusters])
    shape = of(dwells, clusters)
    assert (shape.n_clusters, shape.n_ended) == (8, 2400)
    assert shape.shape == pytest.approx(1, abs=0.06)
    assert not shape.is_heavier
    # Thrown together, as if they were one place, they would have one.
    together = of(dwells, np.zeros_like(clusters))
    assert together.shape == pytest.approx(0.6, abs=0.06)
    assert together.is_heavier


def test_the_test_keeps_its_level() -> None:
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(8), 40)
    p_values = [of(rng.geometric(1 / MEANS[clusters]), clusters).p_value for _ in range(60)]
    # Of 60 exactly memoryless data sets some 3 are rejected; 9 or more three times in a thousand.
    assert sum(p < 0.05 for p in p_values) < 9
    assert stats.kstest(p_values, "uniform").pvalue > 0.001


@pytest.mark.parametrize("shape", [0.6, 1.7])
@pytest.mark.parametrize("spacing", [1, 5])
def test_a_planted_common_shape_is_found(shape: float, spacing: int) -> None:
    rng = np.random.default_rng(2)
    clusters = np.repeat(np.arange(8), 500)
    dwells = np.ceil(MEANS[clusters] * 4 * rng.weibull(shape, len(clusters)) / spacing).astype(int) * spacing
    watched = rng.integers(1, 60, len(clusters)) * spacing
    censored = dwells > watched
    times = np.where(censored, watched, dwells)
    result = memoryless_test(times, censored, clusters, limits=watched, spacing=spacing)
    assert result is not None
    assert result.shape == pytest.approx(shape, rel=0.06)
    assert result.is_heavier == (shape < 1)
    assert result.p_value < 1e-6


@pytest.mark.parametrize("shape", [0.3, 0.6, 1.0, 2.5, 4.0])
@pytest.mark.parametrize("spacing", [1, 3])
def test_for_one_cluster_scipy_fits_the_same_distribution(shape: float, spacing: int) -> None:
    rng = np.random.default_rng(4)
    dwells = np.ceil(6 * rng.weibull(shape, 400)).astype(int) * spacing
    watched = rng.integers(1, 20, 400) * spacing
    censored = dwells > watched
    times = np.where(censored, watched, dwells)
    intervals = np.column_stack([times[~censored] - spacing, times[~censored]])
    data = stats.CensoredData(interval=intervals, right=times[censored])
    expected, _, scale = stats.weibull_min.fit(data, floc=0)
    result = memoryless_test(times, censored, np.zeros(400, dtype=int), limits=watched, spacing=spacing)
    assert result is not None
    assert result.shape == pytest.approx(expected, rel=1e-4)

    def log_likelihood(shape: float, scale: float) -> float:
        survival = stats.weibull_min(shape, scale=scale)
        inside = survival.sf(intervals[:, 0]) - survival.sf(intervals[:, 1])
        return float(np.log(inside).sum() + survival.logsf(times[censored]).sum())

    _, mean = stats.expon.fit(data, floc=0)
    ratio = log_likelihood(expected, scale) - log_likelihood(1.0, mean)
    assert result.log_likelihood_ratio == pytest.approx(ratio, rel=1e-3, abs=1e-5)
    # 400 visits to one cluster are nearly as many as infinitely many.
    assert result.expected_shape == pytest.approx(1, abs=0.03)
    assert (result.p_value < 0.05) == (stats.chi2.sf(2 * ratio, df=1) < 0.05)


@pytest.mark.parametrize("is_cut_off", [False, True])
def test_the_test_has_its_level_with_many_small_clusters(is_cut_off: bool) -> None:
    # By the chi-square distribution most of these memoryless data sets were rejected: the scales of 80
    # clusters with about 11 ended visits each bias the shape upwards.
    rng = np.random.default_rng(9)
    clusters = np.repeat(np.arange(80), 18 if is_cut_off else 11)
    means = rng.uniform(2, 20, 80)[clusters]
    p_values, biases, by_chi_square = [], [], 0
    for _ in range(12):
        dwells = rng.geometric(1 / means)
        limits = rng.integers(5, 30, len(clusters)) if is_cut_off else np.full(len(clusters), 10**6)
        censored = dwells > limits
        times = np.where(censored, limits, dwells)
        result = memoryless_test(times, censored, clusters, limits=limits)
        assert result is not None
        p_values.append(result.p_value)
        biases.append(math.log(result.shape / result.expected_shape))
        by_chi_square += stats.chi2.sf(2 * result.log_likelihood_ratio, df=1) < 0.05
    assert by_chi_square > 5 or is_cut_off
    # Of 12, 4 or more are rejected twice in a thousand.
    assert sum(p < 0.05 for p in p_values) < 4
    assert np.mean(biases) == pytest.approx(0, abs=0.03)


def test_a_slightly_heavy_tail_is_detected_in_small_clusters() -> None:
    # The bias of the shape hides half of the tail: the shape is about 0.95.
    rng = np.random.default_rng(10)
    clusters = np.repeat(np.arange(200), 12)
    result = of(np.ceil(rng.uniform(3, 20, 200)[clusters] * rng.weibull(0.9, 2400)).astype(int), clusters)
    assert result.shape > 0.92
    assert result.is_heavier


def test_small_clusters_neither_hide_nor_create_a_heavy_tail() -> None:
    rng = np.random.default_rng(6)
    clusters = np.repeat(np.arange(300), 10)
    means = rng.uniform(3, 20, 300)[clusters]
    assert not of(rng.geometric(1 / means), clusters).is_heavier
    assert of(np.ceil(means * rng.weibull(0.6, len(clusters))).astype(int), clusters).is_heavier


@pytest.mark.parametrize(
    ("ended", "cut_off"),
    [
        ([], []),
        ([], [3, 4]),
        ([5, 5], []),
        ([5, 5, 5], [5, 2, 0]),
        # All lasted for 5 steps, up to when it was looked.
        ([5, 6, 6], [5]),
        # Some end at once and some never.
        ([1, 1], []),
    ],
)
def test_without_a_likelihood_maximum_there_is_no_shape(ended: list[int], cut_off: list[int]) -> None:
    times = np.array(ended + cut_off, dtype=np.int64)
    censored = np.arange(len(times)) >= len(ended)
    assert memoryless_test(times, censored, np.zeros(len(times), dtype=int), least_ended=1) is None


def test_clusters_with_few_ends_are_left_out() -> None:
    rng = np.random.default_rng(7)
    clusters = np.repeat([0, 1], [40, 9])
    dwells = rng.geometric(0.2, 49)
    assert of(dwells, clusters) == of(dwells[:40], clusters[:40])
    assert memoryless_test(dwells[40:], np.zeros(9, dtype=bool), clusters[40:]) is None


def test_extreme_durations_stay_finite() -> None:
    for ended in ([1, 10**15], [10**15, 10**15 + 2], [1] * 1000 + [3]):
        times = np.array(ended)
        result = memoryless_test(times, np.zeros(len(times), dtype=bool), 0 * times, least_ended=1)
        assert result is None or (math.isfinite(result.shape) and math.isfinite(result.log_likelihood_ratio))


def test_influences_predict_the_shape_at_other_weights() -> None:
    rng = np.random.default_rng(8)
    clusters = np.repeat(np.arange(3), 400)
    dwells = np.ceil(9 * rng.weibull(0.8, 1200)).astype(int)
    shape = of(dwells, clusters)
    slopes, curvatures = shape_influences(dwells, np.zeros(1200, dtype=bool), clusters, shape=shape.shape)
    assert slopes.sum() == pytest.approx(0, abs=1e-2 * np.abs(slopes).sum())
    weights = rng.multinomial(1200, np.full(1200, 1 / 1200))
    again = np.repeat(np.arange(1200), weights)
    step = math.exp((weights @ slopes) / (weights @ curvatures))
    assert shape.shape * step == pytest.approx(of(dwells[again], clusters[again]).shape, rel=5e-3)
