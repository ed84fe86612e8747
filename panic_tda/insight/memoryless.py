"""Test whether visits to clusters are memoryless, by a Weibull shape common to all clusters.

If each cluster is left at a constant rate but the rates differ, the pooled visits seem to have a heavy tail
[1]_. So every cluster has its own scale.

References
----------
.. [1] Proschan (1963). Theoretical explanation of observed decreasing failure rate. Technometrics 5(3),
   375-383. https://doi.org/10.1080/00401706.1963.10490105
.. [2] Prentice, Gloeckler (1978). Regression analysis of grouped survival data with application to breast
   cancer data. Biometrics 34(1), 57-67. https://doi.org/10.2307/2529588
.. [3] Neyman, Scott (1948). Consistent estimates based on partially consistent observations. Econometrica
   16(1), 1-32. https://doi.org/10.2307/1914288
.. [4] Davison, Hinkley (1997). Bootstrap Methods and their Application, sections 3.5 and 4.2. Cambridge
   University Press. https://doi.org/10.1017/CBO9780511802843
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from panic_tda.arrays.rows import slices
from panic_tda.types import BoolArray, FloatArray, IntArray

SIGNIFICANCE = 0.05
LEAST_ENDED = 10
"""Least number of ended visits of a cluster; clusters with fewer are left out of the test."""
_SHAPES = (0.05, 20.0)
"""Bounds of the common shape. If the likelihood is largest at a bound, it has no maximum."""
_MOST_STEPS = 100
"""Maximum number of steps of Newton's method; it usually takes fewer than ten."""
_ROUNDING = 1e-12
_STEP = 1e-3
"""Step in the logarithm of the shape for numerical derivatives."""
N_SAMPLES, _LEAST_SAMPLES = 100, 20
"""Number of simulated data sets. Only the mean and the standard deviation of the statistic come from them, so
100 suffice; with many visits fewer are simulated, which limits the time."""
_MOST_VISITS, _VISITS_AT_ONCE = 5_000_000, 500_000
_NEWTON_STEPS, _LARGEST_STEP = 2, 0.5
_UNBOUNDED = np.iinfo(np.int64).max
_SEED = 0


@dataclass(frozen=True)
class MemorylessTest:
    """A stratified likelihood-ratio test of a common Weibull shape within clusters against shape 1.

    Attributes
    ----------
    n_clusters, n_ended : int
        Number of clusters in the test, and of their ended visits.
    shape : float
        Maximum likelihood estimate of the common shape: survival in cluster j is exp(-(t / scale_j)^shape).
        Below 1, a visit that has lasted longer is expected to go on longer.
    expected_shape : float
        Geometric mean of the estimates for simulated memoryless visits; it is above 1, the more so the fewer
        ended visits the clusters have [3]_.
    log_likelihood_ratio : float
        Log-likelihood with that shape minus log-likelihood with shape 1, summed over the clusters; 0 or more.
    p_value : float
        Two-sided p-value of the signed root of twice that ratio, by the normal distribution with the mean and
        the standard deviation that it has for simulated memoryless visits [4]_.
    """

    n_clusters: int
    n_ended: int
    shape: float
    expected_shape: float
    log_likelihood_ratio: float
    p_value: float

    @property
    def is_heavier(self) -> bool:
        """True if the shape is below that of memoryless visits, and the test rejects at `SIGNIFICANCE`."""
        return self.shape < self.expected_shape and self.p_value < SIGNIFICANCE


def memoryless_test(
    times: IntArray,
    censored: BoolArray,
    clusters: IntArray,
    *,
    limits: IntArray | None = None,
    spacing: int = 1,
    least_ended: int = LEAST_ENDED,
) -> MemorylessTest | None:
    """Test whether visits to clusters are memoryless, with one shape for all clusters and a scale for each.

    Parameters
    ----------
    times : (v,) int64
        Durations after which the end was observed, `spacing` or more; for censored visits the longest
        durations that they were observed to outlast, 0 or more.
    censored : (v,) bool
        Whether each visit was cut off.
    clusters : (v,) int64
        Stratum of each visit.
    limits : (v,) int64, optional
        Longest duration that could have been observed for each visit, which is the one of a censored visit.
        By default the visits that ended could have been observed for any time.
    spacing : int
        Steps between observations. A visit that ended at t lasted longer than t - `spacing`, and at most t.
    least_ended : int
        Clusters with fewer ended visits are left out, and clusters that all visits left at the first
        observation.

    Returns
    -------
    MemorylessTest or None
        None if no cluster remains, or the likelihood has no maximum.

    Notes
    -----
    The likelihood is that of intervals [2]_. If dwell times were treated as exact, a walk that leaves with
    the same probability at every step and stays 2 steps on average would have the shape 1.6 instead of 1.
    With one cluster, the shape equals that of ``scipy.stats.weibull_min.fit(CensoredData(interval=...,
    right=...), floc=0)``, which takes a quarter of a second per cluster.

    A scale for each cluster biases the common shape upwards, by about a tenth if clusters have ten ended
    visits, and less if they have more [3]_. Then twice the log-likelihood ratio does not have a chi-square
    distribution: with 200 such clusters it would reject nearly all memoryless data. So the distribution comes
    from visits that are simulated with the rates of the clusters and the same limits, always the same ones.
    """
    cells = _Cells.of_tested(times, censored, clusters, spacing=spacing, least_ended=least_ended)
    if cells is None:
        return None
    logs = np.log(_SHAPES)
    search = optimize.minimize_scalar(
        lambda log_shape: -cells.maximise(math.exp(log_shape))[0].sum(),
        bounds=logs,
        method="bounded",
        options={"xatol": 1e-7},
    )
    # With durations 15 orders of magnitude apart the likelihoods are not precise enough to compare.
    if min(abs(search.x - logs)) < 1e-3 or not math.isfinite(search.fun):
        return None
    ratio = max(0.0, -float(search.fun) - float(cells.maximise(1.0)[0].sum()))
    if limits is None:
        limits = np.where(censored, times, _UNBOUNDED)
    roots, log_shapes = _simulate_roots(cells, clusters, limits, spacing=spacing)
    root = math.copysign(math.sqrt(2 * ratio), search.x)
    return MemorylessTest(
        n_clusters=cells.n_strata,
        n_ended=cells.n_ended,
        shape=math.exp(search.x),
        expected_shape=math.exp(log_shapes.mean()) if len(roots) else 1.0,
        log_likelihood_ratio=ratio,
        p_value=_compute_p_value(root, roots),
    )


def _compute_p_value(root: float, simulated: FloatArray) -> float:
    """Return the two-sided p-value of a signed root, by a normal distribution fitted to simulated ones."""
    mean, deviation = 0.0, 1.0
    if len(simulated) >= _LEAST_SAMPLES // 2:
        mean, deviation = float(simulated.mean()), float(simulated.std(ddof=1)) or 1.0
    return float(2 * special.ndtr(-abs(root - mean) / deviation))


def _simulate_roots(
    cells: _Cells, clusters: IntArray, limits: IntArray, *, spacing: int
) -> tuple[FloatArray, FloatArray]:
    """Simulate memoryless visits to the tested clusters; return the signed root and log shape of each sample.

    Samples whose likelihood has no maximum are left out.
    """
    tested = np.flatnonzero(cells.are_tested)
    strata = np.searchsorted(cells.strata, clusters[tested])
    chances, limits = cells.chances[strata], limits[tested]
    n_visits, n_strata = len(tested), cells.n_strata
    n_samples = min(N_SAMPLES, max(_LEAST_SAMPLES, _MOST_VISITS // n_visits))
    rng = np.random.default_rng(_SEED)
    results = []
    for part in slices(n_samples, _VISITS_AT_ONCE // n_visits):
        n = len(range(*part.indices(n_samples)))
        durations = rng.geometric(chances, size=(n, n_visits))
        # Compared in units of the spacing, because a product could be beyond the range of integers.
        ended = durations <= limits // spacing
        times = np.where(ended, durations, 0) * spacing + np.where(ended, 0, limits)
        samples = np.arange(n)[:, None] * n_strata + strata
        simulated = _Cells.of_tested(
            times.ravel(), ~ended.ravel(), samples.ravel(), spacing=spacing, least_ended=1
        )
        if simulated is not None:
            results.append(_find_roots(simulated, simulated.strata // n_strata, n))
    roots, log_shapes = np.concatenate([np.empty((2, 0)), *results], axis=1)
    return roots, log_shapes


def _find_roots(cells: _Cells, groups: IntArray, n_groups: int) -> FloatArray:
    """Return the signed roots of twice the log-likelihood ratios, and the log shapes, of groups of strata.

    Parameters
    ----------
    cells : _Cells
        With k strata.
    groups : (k,) int64
        Group of each stratum, 0 to n_groups - 1. A group has a common shape.

    Returns
    -------
    (2, m) float64
        Of the groups with a maximum.
    """

    def sum_up(log_shapes: FloatArray) -> FloatArray:
        likelihoods, _ = cells.maximise(np.exp(log_shapes)[groups])
        return np.bincount(groups, weights=likelihoods, minlength=n_groups).astype(np.float64)

    log_shapes = np.zeros(n_groups)
    memoryless = sum_up(log_shapes)
    for _ in range(_NEWTON_STEPS):
        low, at, high = (sum_up(log_shapes + step) for step in (-_STEP, 0.0, _STEP))
        slopes, curvatures = (high - low) / (2 * _STEP), (2 * at - low - high) / _STEP**2
        with np.errstate(divide="ignore", invalid="ignore"):
            steps = np.where(curvatures > 0, slopes / curvatures, 0.0)
        log_shapes = log_shapes + np.clip(steps, -_LARGEST_STEP, _LARGEST_STEP)
    ratios = np.maximum(0.0, sum_up(log_shapes) - memoryless)
    has_maximum = np.isfinite(ratios) & (curvatures > 0)
    return np.stack([np.copysign(np.sqrt(2 * ratios), log_shapes), log_shapes])[:, has_maximum]


def shape_influences(
    times: IntArray,
    censored: BoolArray,
    clusters: IntArray,
    *,
    shape: float,
    spacing: int = 1,
    least_ended: int = LEAST_ENDED,
) -> tuple[FloatArray, FloatArray]:
    """Return the influence of each visit on the logarithm of the common shape of `memoryless_test`.

    Returns
    -------
    slopes, curvatures : (v,) float64
        First derivative and negative second derivative of each visit's log-likelihood by the logarithm of the
        shape, the scales following it; 0 for visits that were not in the test. With weights w on the visits,
        a step of Newton's method leads from the shape to shape · exp(Σ w slopes / Σ w curvatures).
    """
    cells = _Cells.of_tested(times, censored, clusters, spacing=spacing, least_ended=least_ended)
    if cells is None:
        return np.zeros(len(times)), np.zeros(len(times))
    low, at, high = (cells.maximise(shape * math.exp(step))[1] for step in (-_STEP, 0.0, _STEP))
    return (high - low) / (2 * _STEP), (2 * at - low - high) / _STEP**2


class _Cells:
    """Visits counted by cluster and duration, and the log-likelihood of a shape common to all clusters.

    Attributes
    ----------
    strata : (k,) int64
        The clusters, ascending.
    are_tested : (v,) bool
        Whether each visit that was given to `of_tested` is one to these clusters.
    chances : (k,) float64
        Likeliest chance to be left between two observations, if visits are memoryless.
    n_ended : int
        Visits that ended.
    """

    strata: IntArray
    are_tested: BoolArray
    chances: FloatArray

    def __init__(self, times: IntArray, censored: BoolArray, strata: IntArray, spacing: int) -> None:
        self._are_censored = censored
        self._ended, last, self._n_ended, self._of_ended = _count_pairs(strata[~censored], times[~censored])
        self._cut_off, outlasted, self._n_cut_off, self._of_cut_off = _count_pairs(
            strata[censored], times[censored]
        )
        # In units of the longest, powers of any size stay finite.
        unit = float(times.max())
        self._before, self._after, self._outlasted = (at / unit for at in (last - spacing, last, outlasted))
        self._ends = np.bincount(self._ended, weights=self._n_ended)
        self.n_ended = int(self._n_ended.sum())

    @classmethod
    def of_tested(
        cls, times: IntArray, censored: BoolArray, clusters: IntArray, *, spacing: int, least_ended: int
    ) -> _Cells | None:
        """Count the visits to clusters with enough ends; None where these leave the shape without a bound."""
        order, strata = np.unique(clusters, return_inverse=True)
        n_ended = np.bincount(strata[~censored], minlength=len(order))
        outlasted = np.bincount(strata, weights=times - spacing * ~censored, minlength=len(order))
        tested = (n_ended >= max(1, least_ended)) & (outlasted > 0)
        if not tested.any():
            return None
        among = tested[strata]
        cells = cls(times[among], censored[among], (np.cumsum(tested) - 1)[strata[among]], spacing)
        cells.strata, cells.are_tested = order[tested], among
        cells.chances = n_ended[tested] / (n_ended[tested] + outlasted[tested] / spacing)
        return None if cells._agree_on_one_duration() else cells

    @property
    def n_strata(self) -> int:
        """The number of clusters."""
        return len(self._ends)

    def maximise(self, shape: float | FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the largest log-likelihood of each cluster with this shape, over its scale, and the part of
        each visit that was given to `of_tested`.

        `shape` is common to all clusters, or (k,) float64. The log-likelihood is concave in the logarithm b
        of every rate scale^-shape: Newton's method, clipped to factors of e, finds all maxima at once.
        """
        with np.errstate(over="ignore", divide="ignore", invalid="ignore", under="ignore"):
            return self._maximise(np.broadcast_to(np.asarray(shape, dtype=np.float64), self.n_strata))

    def _maximise(self, shapes: FloatArray) -> tuple[FloatArray, FloatArray]:
        of_ended, of_cut_off = shapes[self._ended], shapes[self._cut_off]
        before, after = self._before**of_ended, self._after**of_ended
        outlasted = self._outlasted**of_cut_off
        logs = np.log(self._ends / self._sum_up((before + after) / 2, outlasted))
        for _ in range(_MOST_STEPS):
            rates = np.exp(logs)
            low, inside = rates[self._ended] * before, rates[self._ended] * (after - before)
            odds = 1 / np.expm1(inside)
            slope = self._sum_up(odds * inside - low, -rates[self._cut_off] * outlasted)
            curvature = slope - self._sum_up(odds * (1 + odds) * inside**2, np.zeros(len(outlasted)))
            step = np.clip(-slope / curvature, -1, 1)
            logs = logs + step
            if np.abs(step).max() < _ROUNDING**0.5:
                break
        rates = np.exp(logs)
        ended = np.log(-np.expm1(-rates[self._ended] * (after - before))) - rates[self._ended] * before
        cut_off = -rates[self._cut_off] * outlasted
        of_tested = np.empty(len(self._are_censored))
        of_tested[~self._are_censored] = ended[self._of_ended]
        of_tested[self._are_censored] = cut_off[self._of_cut_off]
        of_visits = np.zeros(len(self.are_tested))
        of_visits[self.are_tested] = of_tested
        return self._sum_up(ended, cut_off), of_visits

    def _sum_up(self, ended: FloatArray, cut_off: FloatArray) -> FloatArray:
        """Add what is known of the cells, cluster by cluster."""
        sums = np.bincount(self._ended, weights=self._n_ended * ended, minlength=self.n_strata)
        sums += np.bincount(self._cut_off, weights=self._n_cut_off * cut_off, minlength=self.n_strata)
        return np.asarray(sums, dtype=np.float64)

    def _agree_on_one_duration(self) -> bool:
        """Return whether in every cluster one duration is possible for all visits: no shape is too large."""
        latest, earliest = np.zeros(self.n_strata), np.full(self.n_strata, np.inf)
        np.maximum.at(latest, self._ended, self._before)
        np.maximum.at(latest, self._cut_off, self._outlasted)
        np.minimum.at(earliest, self._ended, self._after)
        return bool((latest <= earliest).all())


def _count_pairs(strata: IntArray, times: IntArray) -> tuple[IntArray, IntArray, FloatArray, IntArray]:
    """Return the pairs that occur, how often each does, and which of them each row is."""
    durations, codes = np.unique(times, return_inverse=True)
    n = max(1, len(durations))
    pairs, numbers, counts = np.unique(strata * n + codes, return_inverse=True, return_counts=True)
    return pairs // n, durations[pairs % n], counts.astype(np.float64), numbers
