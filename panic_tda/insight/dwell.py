"""Describe dwell times of visits; the last visit of every run is censored by the end of the run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from panic_tda.insight.memoryless import MemorylessTest, memoryless_test
from panic_tda.types import BoolArray, FloatArray, IntArray

_ROUNDING = 1e-12


@dataclass(frozen=True)
class DwellStatistics:
    """The distribution of dwell times, some of which the end of a run cut off.

    Attributes
    ----------
    visits, censored : int
        Visits, and those of them that were cut off.
    median : float or None
        Of the Kaplan-Meier survival, in output steps; None where it does not fall to a half.
    memoryless : MemorylessTest or None
        Test of shape 1; None if no cluster has enough visits, or the likelihood has no maximum.
    """

    visits: int
    censored: int
    median: float | None
    memoryless: MemorylessTest | None

    def to_dict(self) -> dict[str, Any]:
        """Return `dwell` of a group in `show-trajectories --json`, of plain values."""
        test = self.memoryless
        return {
            "visits": self.visits,
            "censored": self.censored,
            "median": self.median,
            "weibull_shape": None if test is None else test.shape,
            "expected_shape": None if test is None else test.expected_shape,
            "log_likelihood_ratio": None if test is None else test.log_likelihood_ratio,
            "p_value": None if test is None else test.p_value,
            "clusters_tested": 0 if test is None else test.n_clusters,
            "heavier_than_exponential": None if test is None else test.is_heavier,
        }


def describe_dwells(
    dwells: IntArray,
    censored: BoolArray,
    clusters: IntArray,
    *,
    limits: IntArray | None = None,
    sampling: int = 1,
) -> DwellStatistics:
    """Describe the dwell times of visits.

    Parameters
    ----------
    dwells : (v,) int64
        Output steps, 1 or more. A censored one is known up to its last step, which counts.
    censored : (v,) bool
        The visits that the end of a run cut off.
    clusters : (v,) int64
        What was visited.
    limits : (v,) int64, optional
        Output steps from the beginning of each visit to the last step of its run; see `memoryless_test`.
    sampling : int
        Output steps from one sampled step to the next.

    Notes
    -----
    A censored visit of c steps was observed to outlast c - 1 steps; only the next step would have shown
    whether it lasts longer. It is at risk up to c - 1, as usual for Kaplan-Meier. A visit that ended after d
    steps was still going on at the sampled step before. So shape 1 has the likelihood of a walk that leaves
    with the same probability at every step.
    """
    times = dwells - censored
    ended, cut_off = times[~censored].astype(float), times[censored].astype(float)
    test = memoryless_test(times, censored, clusters, limits=limits, spacing=sampling)
    return DwellStatistics(len(dwells), len(cut_off), median_survival(ended, cut_off), test)


def median_survival(ended: FloatArray, cut_off: FloatArray) -> float | None:
    """Return the median of the Kaplan-Meier estimate of survival.

    Parameters
    ----------
    ended : (e,) float64
        Durations of ended visits.
    cut_off : (c,) float64
        Longest durations that censored visits were observed to outlast.

    Returns
    -------
    float or None
        Shortest duration with a survival of at most 0.5; None if there is none.

    References
    ----------
    Kaplan and Meier, J. Am. Stat. Assoc. 53, 457 (1958), doi 10.1080/01621459.1958.10501452.
    """
    times, shares = survival_curve(ended, cut_off)
    # A product such as 3/4 · 2/3 is not always exactly a half in floating point.
    reached = np.flatnonzero(shares <= 0.5 + _ROUNDING)
    return float(times[reached[0]]) if len(reached) else None


def survival_curve(ended: FloatArray, cut_off: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the Kaplan-Meier estimate of survival.

    Parameters
    ----------
    ended, cut_off
        As for `median_survival`.

    Returns
    -------
    times, shares : (t,) float64
        The durations that occur, ascending, and the share that lasts longer than each. Both are empty where
        nothing ended.
    """
    if not len(ended):
        return np.empty(0), np.empty(0)
    survival = stats.ecdf(stats.CensoredData(uncensored=ended, right=cut_off)).sf
    return survival.quantiles, survival.probabilities


def exponential_mean(ended: FloatArray, cut_off: FloatArray, *, spacing: int = 1) -> float | None:
    """Return the mean of the most likely exponential distribution; `spacing` as in `memoryless_test`.

    Returns
    -------
    float or None
        None where nothing ended, or nothing was seen to outlast anything.
    """
    outlasted = float(ended.sum() + cut_off.sum()) - len(ended) * spacing
    return spacing / math.log1p(len(ended) * spacing / outlasted) if len(ended) and outlasted else None


def leaving_rates(
    times: IntArray, censored: BoolArray, clusters: IntArray, n_clusters: int, *, spacing: int = 1
) -> FloatArray:
    """Return the rate per output step at which each cluster, 0 to n_clusters - 1, is left, (k,) float64.

    The arguments are those of `memoryless_test`. The rate is the likeliest one of an exponential
    distribution; NaN for a cluster that no visit was seen to leave, or that every visit left at the first
    look.
    """
    ended = np.bincount(clusters[~censored], minlength=n_clusters) * float(spacing)
    outlasted = np.bincount(clusters, weights=times, minlength=n_clusters) - ended
    known = (ended > 0) & (outlasted > 0)
    rates = np.full(n_clusters, np.nan)
    rates[known] = np.log1p(ended[known] / outlasted[known]) / spacing
    return rates
