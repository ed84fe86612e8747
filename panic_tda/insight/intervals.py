"""Bootstrap intervals over runs: how far a figure depends on the sample of runs.

Steps of one run are not independent. So whole runs are drawn with replacement [1]_.

References
----------
.. [1] Davison, Hinkley (1997). Bootstrap Methods and their Application, section 3.8. Cambridge University
   Press. https://doi.org/10.1017/CBO9780511802843
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from panic_tda.arrays.rows import slices
from panic_tda.types import BoolArray, FloatArray, IntArray

N_RESAMPLES = 1_000
_ENDS = 0.025, 0.975
_SEED = 0
_DRAWN_AT_ONCE = 1_000_000
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Interval:
    """A 95 % percentile interval.

    Attributes
    ----------
    low, high : float
        Ends of the interval; `high` is infinite if a median is not reached.
    """

    low: float
    high: float

    def to_list(self) -> list[float | None]:
        """Return the two ends; None for an infinite end."""
        return [end if np.isfinite(end) else None for end in (self.low, self.high)]


class Resamples:
    """Bootstrap samples of runs, the same ones for every figure.

    Parameters
    ----------
    n_runs : int
        Number of runs; with fewer than two there are no intervals.
    n_resamples : int
        Number of samples of `n_runs` runs, drawn with replacement.
    """

    def __init__(self, n_runs: int, n_resamples: int = N_RESAMPLES) -> None:
        self.n_runs, self.n_resamples = n_runs, n_resamples

    def ratio(self, numerators: FloatArray, denominators: FloatArray) -> Interval | None:
        """Return the interval of Σ numerators / Σ denominators, each (r,) float64 by run."""
        return self._compute_interval(self._compute_ratios(numerators, denominators))

    def shape(self, slopes: FloatArray, curvatures: FloatArray, *, shape: float) -> Interval | None:
        """Return the interval of a common Weibull shape.

        Parameters
        ----------
        slopes, curvatures : (r,) float64
            Sums by run of the results of `memoryless.shape_influences`.
        shape : float
            Maximum likelihood estimate of all runs.

        Notes
        -----
        Each sample's shape is one step of Newton's method away from that of all runs.
        """
        return self._compute_interval(shape * np.exp(self._compute_ratios(slopes, curvatures)))

    def median(self, times: FloatArray, censored: BoolArray, runs: IntArray) -> Interval | None:
        """Return the interval of a Kaplan-Meier median.

        Parameters
        ----------
        times : (v,) float64
            Durations; for censored visits the longest duration that they were seen to outlast.
        censored : (v,) bool
            Whether each visit was cut off.
        runs : (v,) int64
            Run of each visit, 0 to r - 1.
        """
        ends = np.unique(times[~censored])
        if not len(ends) or self.n_runs < 2:
            return None
        # A visit is at risk at every end that is not later than its duration.
        columns = np.searchsorted(ends, times, side="right")
        shape = (self.n_runs, len(ends) + 1)
        at_risk = sparse.csr_array((np.ones(len(times)), (runs, columns)), shape=shape)
        ended = sparse.csr_array(
            (np.ones(int((~censored).sum())), (runs[~censored], columns[~censored])), shape=shape
        )
        medians = []
        for part in self._divide_resamples():
            counts = self.counts[part].astype(np.float64)
            known = (at_risk.T @ counts.T)[::-1].cumsum(axis=0)[::-1][1:]
            lost = (ended.T @ counts.T)[1:]
            shares = np.cumprod(1 - lost / np.maximum(known, 1), axis=0)
            reached = shares <= 0.5 + _ROUNDING
            medians.append(np.where(reached.any(axis=0), ends[reached.argmax(axis=0)], np.inf))
        return self._compute_interval(np.concatenate(medians))

    @cached_property
    def counts(self) -> NDArray[np.uint8]:
        """Number of times that each run is in each sample, (b, r); always the same."""
        rng = np.random.default_rng(_SEED)
        counts = np.empty((self.n_resamples, self.n_runs), dtype=np.uint8)
        for part in self._divide_resamples():
            n = len(counts[part])
            drawn = rng.integers(self.n_runs, size=(n, self.n_runs)) + np.arange(n)[:, None] * self.n_runs
            counts[part] = np.bincount(drawn.ravel(), minlength=n * self.n_runs).reshape(n, -1)
        return counts

    def _divide_resamples(self) -> Iterator[slice]:
        return slices(self.n_resamples, _DRAWN_AT_ONCE // self.n_runs)

    def _compute_ratios(self, numerators: FloatArray, denominators: FloatArray) -> FloatArray:
        if self.n_runs < 2:
            return np.empty(0)
        both = np.column_stack([numerators, denominators])
        sums = np.concatenate(
            [self.counts[part].astype(np.float64) @ both for part in self._divide_resamples()]
        )
        above, below = sums.T
        return np.asarray(above[below != 0] / below[below != 0])

    def _compute_interval(self, values: FloatArray) -> Interval | None:
        """Return the percentile interval; None without values, or if the lower end is infinite."""
        if not len(values):
            return None
        # Infinite values are ranked, not interpolated.
        low, high = np.quantile(values, _ENDS, method="inverted_cdf")
        return Interval(float(low), float(high)) if np.isfinite(low) else None
