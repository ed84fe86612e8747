"""How long visits last, where the last visit of every run was cut off by its end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import stats
from scipy.optimize import brentq

if TYPE_CHECKING:
    from panic_tda.types import BoolArray, FloatArray, IntArray

SIGNIFICANCE = 0.05
_STEEPEST = 1e6
"""Shapes beyond are none: the visits last equally long, up to rounding."""
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


def describe_dwells(dwells: IntArray, censored: BoolArray) -> DwellStatistics:
    """Describe the dwells of visits.

    Parameters
    ----------
    dwells : (v,) int64
        Output steps, 1 or more. A censored one is known up to its last step, which counts.
    censored : (v,) bool
        The visits that the end of a run cut off.

    Notes
    -----
    A censored visit of c steps was seen to outlast c - 1: whether it would have lasted c or longer, the next
    step would have shown. It is at risk up to there, as censoring in Kaplan and Meier has it. So the shape 1
    has the likelihood of a walk that leaves with the same chance at every step.
    """
    ended, cut_off = dwells[~censored].astype(float), dwells[censored].astype(float) - 1
    fit = fit_weibull(ended, cut_off)
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


def fit_weibull(ended: FloatArray, cut_off: FloatArray) -> WeibullFit | None:
    """Fit a Weibull distribution to durations by maximum likelihood.

    Parameters
    ----------
    ended : (e,) float64
        Durations that were seen to their end, above 0.
    cut_off : (c,) float64
        Durations that the others were seen to outlast, 0 or more.

    Returns
    -------
    WeibullFit or None
        None for fewer than two durations that ended, and where the likelihood grows with the shape without
        end: all that ended lasted equally long, and none of the others longer.

    Notes
    -----
    The scale that is likeliest for a shape k has a closed form; what is left is the one root of a function
    that grows with k, (Σ tᵏ ln t / Σ tᵏ) - 1/k - (mean of ln t over those that ended), where the sums go over
    all durations. Durations are whole steps, and the distribution is continuous: where most visits last a
    step or two, the shape is above 1 whatever the walk remembers.

    References
    ----------
    Cohen, Technometrics 7, 579 (1965), doi 10.1080/00401706.1965.10490300.
    """
    if len(ended) < 2:
        return None
    times = np.concatenate([ended, cut_off[cut_off > 0]])
    # In units of the longest, powers of any size stay finite. Equal durations are counted, not repeated.
    longest = float(times.max())
    values, counts = np.unique(times / longest, return_counts=True)
    logs, mean_log = np.log(values), float(np.mean(np.log(ended / longest)))
    if -mean_log <= _ROUNDING:
        return None

    def slope(shape: float) -> float:
        weights = counts * values**shape
        return float(weights @ logs / weights.sum()) - 1 / shape - mean_log

    low, high = 1.0, 1.0
    while slope(low) > 0:
        low /= 2
    while slope(high) < 0:
        high *= 2
        if high > _STEEPEST:
            return None
    shape = float(brentq(slope, low, high, xtol=1e-12)) if low < high else 1.0

    def profile(shape: float) -> tuple[float, float]:
        """Return the log-likelihood per duration that ended, and the mean power of the durations."""
        mean_power = float(counts @ values**shape) / len(ended)
        return math.log(shape) - math.log(mean_power) + (shape - 1) * mean_log, mean_power

    likelihood, mean_power = profile(shape)
    ratio = len(ended) * (likelihood - profile(1.0)[0])
    return WeibullFit(shape, longest * mean_power ** (1 / shape), max(0.0, ratio))
