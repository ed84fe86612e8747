"""How long visits last, where the last visit of every run was cut off by its end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import stats

if TYPE_CHECKING:
    from panic_tda.types import BoolArray, FloatArray, IntArray

SIGNIFICANCE = 0.05
_MOST_STEPS = 100
"""Of Newton's method, which takes a handful."""
_ROUNDING = 1e-12


@dataclass(frozen=True)
class WeibullFit:
    """A Weibull distribution fitted to durations.

    Attributes
    ----------
    shape, scale : float
        Survival at t is exp(-(t / scale)^shape). Shape 1 is the exponential distribution: how long a visit
        has lasted says nothing of how long it goes on. Below 1 the longer it stayed the longer it stays.
    log_likelihood_ratio : float
        Log-likelihood of this fit less that of the exponential distribution; 0 or more.
    """

    shape: float
    scale: float
    log_likelihood_ratio: float

    @property
    def is_heavier(self) -> bool:
        """Whether the shape is below 1, and a likelihood ratio test rejects 1 at `SIGNIFICANCE`."""
        return self.shape < 1 and bool(2 * self.log_likelihood_ratio > stats.chi2.isf(SIGNIFICANCE, df=1))


@dataclass(frozen=True)
class DwellStatistics:
    """The distribution of the dwells of visits, some of which the end of a run cut off.

    Attributes
    ----------
    visits, censored : int
        Visits, and those of them that were cut off.
    median : float or None
        Of the Kaplan-Meier survival, in output steps; None where it does not fall to a half.
    weibull_shape : float or None
        Of the likeliest Weibull distribution: 1 is memoryless, below it the longer a visit has lasted the
        longer it goes on. None where none is the likeliest.
    log_likelihood_ratio : float or None
        Log-likelihood of that distribution less that of the exponential one; 0 or more.
    heavier_than_exponential : bool or None
        Whether the shape is below 1, and a likelihood ratio test at 5 % rejects 1.
    """

    visits: int
    censored: int
    median: float | None
    weibull_shape: float | None
    log_likelihood_ratio: float | None
    heavier_than_exponential: bool | None

    def to_dict(self) -> dict[str, Any]:
        """Return `dwell` of a group in `show-trajectories --json`, of plain values."""
        return {
            "visits": self.visits,
            "censored": self.censored,
            "median": self.median,
            "weibull_shape": self.weibull_shape,
            "heavier_than_exponential": self.heavier_than_exponential,
        }


def describe_dwells(dwells: IntArray, censored: BoolArray, *, sampling: int = 1) -> DwellStatistics:
    """Describe the dwells of visits.

    Parameters
    ----------
    dwells : (v,) int64
        Output steps, 1 or more. A censored one is known up to its last step, which counts.
    censored : (v,) bool
        The visits that the end of a run cut off.
    sampling : int
        Output steps from one sampled step to the next.

    Notes
    -----
    A censored visit of c steps was seen to outlast c - 1: whether it would have lasted c or longer, the next
    step would have shown. It is at risk up to there, as censoring in Kaplan and Meier has it. One that ended
    after d steps was still there at the sampled step before. So the shape 1 has the likelihood of a walk that
    leaves with the same chance at every step.
    """
    ended, cut_off = dwells[~censored].astype(float), dwells[censored].astype(float) - 1
    fit = fit_weibull(ended, cut_off, spacing=sampling)
    shape = (None,) * 3 if fit is None else (fit.shape, fit.log_likelihood_ratio, fit.is_heavier)
    return DwellStatistics(len(dwells), len(cut_off), median_survival(ended, cut_off), *shape)


def median_survival(ended: FloatArray, cut_off: FloatArray) -> float | None:
    """Return the median of the Kaplan-Meier estimate of survival.

    Parameters
    ----------
    ended : (e,) float64
        Durations that were seen to their end.
    cut_off : (c,) float64
        Durations that the others were seen to outlast.

    Returns
    -------
    float or None
        The shortest duration with a survival of at most 0.5; None where there is none.

    References
    ----------
    Kaplan and Meier, J. Am. Stat. Assoc. 53, 457 (1958), doi 10.1080/01621459.1958.10501452.
    """
    times, shares = survival_curve(ended, cut_off)
    # A product of shares such as 3/4 · 2/3 is a half, and not always in floating point.
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
    """Return the mean of the likeliest exponential distribution; the arguments are those of `fit_weibull`.

    Returns
    -------
    float or None
        None where nothing ended, or nothing was seen to outlast anything.
    """
    outlasted = float(ended.sum() + cut_off.sum()) - len(ended) * spacing
    return spacing / math.log1p(len(ended) * spacing / outlasted) if len(ended) and outlasted else None


def fit_weibull(ended: FloatArray, cut_off: FloatArray, *, spacing: int = 1) -> WeibullFit | None:
    """Fit a Weibull distribution to durations that are known up to the time between two looks at them.

    Parameters
    ----------
    ended : (e,) float64
        Durations after which the end was seen, `spacing` or more.
    cut_off : (c,) float64
        Durations that the others were seen to outlast, 0 or more.
    spacing : int
        From one look to the next: what ended after t lasted longer than t - `spacing`, and t at most.

    Returns
    -------
    WeibullFit or None
        None for fewer than two durations that ended, and where the likelihood has no maximum: all of these
        ended at the first look, or one and the same duration agrees with all that is known.

    Notes
    -----
    The likelihood is that of the intervals [1]_. Taken for exact, the dwells of a walk that leaves with the
    same chance at every step, which are those of an exponential distribution rounded up, have the shape 1.6
    where they last for 2 steps on average, and not 1.

    With survival exp(-exp(shape ln t + b)) the log-likelihood is concave in shape and b [2]_: Newton's method
    finds its maximum.

    References
    ----------
    .. [1] Prentice, Gloeckler (1978). Regression analysis of grouped survival data with application to breast
       cancer data. Biometrics 34(1), 57-67. https://doi.org/10.2307/2529588
    .. [2] Burridge (1981). A note on maximum likelihood estimation for regression models using grouped data.
       Journal of the Royal Statistical Society B 43(1), 41-45.
    """
    mean = exponential_mean(ended, cut_off, spacing=spacing)
    if mean is None or len(ended) < 2 or ended.max() <= spacing:
        return None
    if max(ended.max() - spacing, cut_off.max(initial=0.0)) <= ended.min():
        return None
    likelihood = _Likelihood(ended, cut_off, spacing)
    at = np.array([1.0, math.log(likelihood.unit / mean)])
    value, slope, curvature = exponential = likelihood.look(at)
    for _ in range(_MOST_STEPS):
        step = np.linalg.solve(-curvature, slope)
        gain = float(slope @ step)
        # Far from the maximum a whole step may lead too far. Near it there is none that rounding would see.
        while not (ahead := likelihood.look(at + step))[0] > value and gain > _ROUNDING * abs(value):
            step /= 2
            gain /= 2
        if gain <= _ROUNDING * abs(value):
            break
        at, (value, slope, curvature) = at + step, ahead
    with np.errstate(over="ignore"):
        scale = likelihood.unit * np.exp(-at[1] / at[0])
    return WeibullFit(float(at[0]), float(scale), max(0.0, value - exponential[0]))


class _Likelihood:
    """The log-likelihood of Weibull distributions; equal durations are counted, not repeated."""

    def __init__(self, ended: FloatArray, cut_off: FloatArray, spacing: int) -> None:
        # In units of the longest, powers of any size stay finite.
        self.unit = max(float(ended.max()), float(cut_off.max(initial=0.0)))
        last, self._n_ended = np.unique(ended, return_counts=True)
        outlasted, self._n_cut_off = np.unique(cut_off, return_counts=True)
        times = (last, last - spacing, outlasted)
        self._times = [time / self.unit for time in times]
        self._logs = [np.log(time, out=np.zeros(len(time)), where=time > 0) for time in self._times]

    def look(self, at: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        """Return the logarithm at (shape, b) with its first and second derivatives; -inf at no shape."""
        if at[0] <= 0:
            return -math.inf, at, at
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            hazards = []
            for time, log in zip(self._times, self._logs, strict=True):
                hazard = np.where(time > 0, np.exp(at[0] * log + at[1]), 0.0)
                hazards.append(np.array([hazard, hazard * log, hazard * log**2]))
            before, cut_off = hazards[1], hazards[2]
            inside = hazards[0] - before
            odds = 1 / np.expm1(inside[0])
            value = self._n_ended @ (np.log(-np.expm1(-inside[0])) - before[0]) - self._n_cut_off @ cut_off[0]
            # By b once, by shape once, and by b twice, by both, by shape twice.
            first = (odds * inside - before) @ self._n_ended - cut_off @ self._n_cut_off
            pairs = np.array([inside[0] ** 2, inside[0] * inside[1], inside[1] ** 2])
            second = first - (odds * (1 + odds) * pairs) @ self._n_ended
        return (
            float(value),
            np.array([first[1], first[0]]),
            np.array([[second[2], second[1]], [second[1], second[0]]]),
        )
