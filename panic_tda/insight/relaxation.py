"""Fit an exponential relaxation to a mean distance over steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import optimize

from panic_tda.insight.intervals import Interval
from panic_tda.types import FloatArray

_KNOWN_SHARE = 0.9
"""Share of the samples that must have a fit; an interval over fewer would be misleading."""


@dataclass(frozen=True)
class Relaxation:
    """A fit of d(t) = d∞ - (d∞ - d₀) e^(-t / τ) to a mean distance over steps.

    Attributes
    ----------
    start, limit, time : float
        d₀, d∞ (chords) and τ (output steps).
    time_interval : Interval or None
        Of τ, by resampling runs.
    """

    start: float
    limit: float
    time: float
    time_interval: Interval | None


def fit_relaxation(times: FloatArray, distances: FloatArray) -> tuple[float, float, float] | None:
    """Fit d(t) = d∞ - (d∞ - d₀) e^(-t / τ) by least squares.

    Returns
    -------
    d₀, d∞, τ : float
        None if there are fewer than four distances, or the best τ is at a bound of the search.
    """
    known = np.isfinite(distances)
    times, distances = times[known], distances[known]
    if len(times) < 4 or np.ptp(distances) == 0:
        return None
    span = float(times[-1] - times[0])

    def residuals(log_time: float) -> tuple[float, FloatArray]:
        # For a given τ the model is linear in the other two parameters.
        decay = np.exp(-times / np.exp(log_time))
        design = np.column_stack([decay, 1 - decay])
        coefficients = np.linalg.lstsq(design, distances, rcond=None)[0]
        return float(((design @ coefficients - distances) ** 2).sum()), coefficients

    bounds = np.log(span / 100), np.log(span * 10)
    grid = np.linspace(*bounds, 40)
    best = int(np.argmin([residuals(log_time)[0] for log_time in grid]))
    if best in (0, len(grid) - 1):
        return None
    search = optimize.minimize_scalar(
        lambda log_time: residuals(log_time)[0], bounds=(grid[best - 1], grid[best + 1]), method="bounded"
    )
    start, limit = residuals(search.x)[1]
    return float(start), float(limit), float(np.exp(search.x))


def fit_with_interval(times: FloatArray, means: FloatArray) -> Relaxation | None:
    """Fit a relaxation to the means of all runs, with an interval over those of samples of runs.

    Parameters
    ----------
    times : (t,) float64
        Output steps.
    means : (1 + b, t) float64
        Mean distances of all runs, then of b samples; NaN where there are none.
    """
    fit = fit_relaxation(times, means[0])
    if fit is None:
        return None
    times_of_samples = [
        refit[2] for sample in means[1:] if (refit := fit_relaxation(times, sample)) is not None
    ]
    enough = len(times_of_samples) > _KNOWN_SHARE * (len(means) - 1)
    interval = Interval(*np.quantile(times_of_samples, [0.025, 0.975]).tolist()) if enough else None
    return Relaxation(*fit, time_interval=interval)
