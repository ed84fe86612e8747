"""Test differences between networks, and share the variance of a figure out among models and prompts.

Every run has one value of each figure. Runs are compared within their initial prompts, so that networks with
different prompts do not differ because of the prompts.

References
----------
.. [1] Pesarin, Salmaso (2010). Permutation Tests for Complex Data. Wiley.
   https://doi.org/10.1002/9780470689516
.. [2] Holm (1979). A simple sequentially rejective multiple test procedure. Scandinavian Journal of
   Statistics 6(2), 65-70. https://www.jstor.org/stable/4615733
.. [3] Olejnik, Algina (2003). Generalized eta and omega squared statistics. Psychological Methods 8(4),
   434-447. https://doi.org/10.1037/1082-989X.8.4.434
.. [4] Davison, Hinkley (1997). Bootstrap Methods and their Application, section 5.2. Cambridge University
   Press. https://doi.org/10.1017/CBO9780511802843
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np

from panic_tda.arrays.rows import slices
from panic_tda.insight.intervals import Interval, Resamples
from panic_tda.types import BoolArray, FloatArray, IntArray

N_PERMUTATIONS = 1_999
N_RESAMPLES = 200
"""Bootstrap samples for the shares of variance. Each takes six least-squares fits over all runs: with 3,220
runs, 1,000 samples take 22 s of processor time."""
_LEAST_RESAMPLES = 0.9
"""Share of the samples that must have a factor; otherwise its share has no interval."""
FACTORS = ("t2i", "i2t", "t2i:i2t", "network", "prompt")
_SEED = 0
_VALUES_AT_ONCE = 2_000_000
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Difference:
    """Difference of two networks in one figure.

    Attributes
    ----------
    figure : str
        Name of the figure.
    a, b : int
        Numbers of the networks.
    n_runs : int
        Runs of both networks with common prompts.
    difference : float
        Mean of a minus mean of b within prompts, with the weights of least squares.
    p_value : float
        Share of the permutations of whole runs within prompts with an absolute difference at least as large
        [1]_.
    p_adjusted : float
        p-value after Holm's correction [2]_ over all pairs of networks.
    """

    figure: str
    a: int
    b: int
    n_runs: int
    difference: float
    p_value: float
    p_adjusted: float


@dataclass(frozen=True)
class VarianceShare:
    """Share of the variance of one figure between runs that one factor explains.

    Attributes
    ----------
    figure, factor : str
        Names of the figure and of the factor: "t2i", "i2t", "t2i:i2t" (their interaction), "network" (both
        models together) or "prompt".
    degrees : int
        Degrees of freedom that the factor adds to the other factors.
    share : float
        Sum of squares of the factor given the others (type II; the interaction given the rest), as a share of
        the total (eta squared). In a complete, balanced design the shares and the residual add up to 1.
    adjusted : float
        Share minus the part that is expected by chance (omega squared [3]_); at least 0.
    interval : Interval or None
        95 % bootstrap interval of `adjusted` over runs; None if the samples lack the factor.
    """

    figure: str
    factor: str
    degrees: int
    share: float
    adjusted: float
    interval: Interval | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        interval = None if self.interval is None else self.interval.to_list()
        return asdict(self) | {"interval": interval}


def compare_networks(
    figures: Mapping[str, FloatArray], networks: IntArray, prompts: IntArray
) -> tuple[Difference, ...]:
    """Compare every two networks in every figure.

    Parameters
    ----------
    figures : mapping of str to (r,) float64
        Values by run.
    networks, prompts : (r,) int64
        Of the runs, by number.

    Returns
    -------
    tuple of Difference
        By networks, then figure; pairs of networks that share no prompt are left out, and with N_PERMUTATIONS
        permutations no p-value is below 1 / (1 + N_PERMUTATIONS).
    """
    names, values = list(figures), np.column_stack(list(figures.values()))
    tested = []
    for a, b in combinations(np.unique(networks).tolist(), 2):
        among = np.isin(networks, (a, b))
        # Only prompts that both networks have.
        shared = np.intersect1d(prompts[networks == a], prompts[networks == b])
        among &= np.isin(prompts, shared)
        if among.any():
            differences, p_values = _permute(values[among], networks[among] == a, prompts[among])
            results = zip(names, differences.tolist(), p_values.tolist(), strict=True)
            tested += [(name, a, b, int(among.sum()), difference, p) for name, difference, p in results]
    p_values = np.array([p for *_, p in tested]).reshape(-1, len(names))
    adjusted = np.column_stack([adjust_by_holm(of_figure) for of_figure in p_values.T]).ravel()
    return tuple(Difference(*test, p_adjusted=p) for test, p in zip(tested, adjusted.tolist(), strict=True))


def adjust_by_holm(p_values: FloatArray) -> FloatArray:
    """Adjust p-values for having been tested together [2]_.

    >>> adjust_by_holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    steps = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def share_variance(
    figures: Mapping[str, FloatArray],
    t2i: IntArray,
    i2t: IntArray,
    prompts: IntArray,
    *,
    n_resamples: int = N_RESAMPLES,
) -> tuple[VarianceShare, ...]:
    """Share the variance of each figure out among text-to-image model, image-to-text model and prompt.

    Parameters
    ----------
    figures : mapping of str to (r,) float64
        Values by run.
    t2i, i2t, prompts : (r,) int64
        Of the runs, by number.
    n_resamples : int
        Number of bootstrap samples of runs for the intervals.

    Returns
    -------
    tuple of VarianceShare
        By figure, then factor. Factors that do not vary or follow from other factors are left out, and so are
        figures with the same value for all runs. The network is a factor only if its two models cannot always
        be told apart, such as with two networks that share no model.

    Notes
    -----
    A sample of runs contains the chance differences between the runs that were observed, so its shares are
    too large on average. The ends of the intervals are quantiles over the samples, less the mean difference
    of the samples from the observed share [4]_, and at least 0.
    """
    names = [name for name, values in figures.items() if _varies(values)]
    if not names:
        return ()
    values = np.column_stack([figures[name] for name in names])
    degrees, shares, adjusted = _decompose(values, t2i, i2t, prompts)
    network = FACTORS.index("network")
    if degrees[network] == degrees[:network].sum():
        degrees[network] = 0
    samples = np.full((n_resamples, *adjusted.shape), np.nan)
    for number, counts in enumerate(Resamples(len(prompts), n_resamples).counts):
        drawn = np.repeat(np.arange(len(prompts)), counts)
        of_sample, _, samples[number] = _decompose(values[drawn], t2i[drawn], i2t[drawn], prompts[drawn])
        samples[number, of_sample == 0] = np.nan
    return tuple(
        VarianceShare(
            figure,
            factor,
            int(degrees[row]),
            float(shares[row, column]),
            max(0.0, float(adjusted[row, column])),
            _shift_interval(float(adjusted[row, column]), samples[:, row, column]),
        )
        for column, figure in enumerate(names)
        for row, factor in enumerate(FACTORS)
        if degrees[row]
    )


def _varies(values: FloatArray) -> bool:
    centred = values - values.mean()
    return float(centred @ centred) > _ROUNDING * len(values) * float(np.abs(values).max(initial=0.0)) ** 2


def _decompose(
    values: FloatArray, t2i: IntArray, i2t: IntArray, prompts: IntArray
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Decompose the variance of values, (r, f), by factor.

    Returns
    -------
    degrees : (5,) int64
        Degrees of freedom of each of `FACTORS`.
    shares, adjusted : (5, f) float64
        Shares of the total, and the same less the part expected by chance, which may be below 0. NaN for
        values that do not vary.
    """
    _, networks = np.unique(np.stack([t2i, i2t]), axis=1, return_inverse=True)
    networks = networks.reshape(-1)
    # The two models that are compared for each factor: with the factor and without it.
    models = _Effects.of(t2i, i2t, prompts)
    everything = _Effects.of(networks, prompts)
    compared = (
        (models, _Effects.of(i2t, prompts)),
        (models, _Effects.of(t2i, prompts)),
        (everything, models),
        (everything, _Effects.of(prompts)),
        (everything, _Effects.of(networks)),
    )
    centred = values - values.mean(axis=0)
    residuals = {id(effects): effects.residual(centred) for pair in compared for effects in pair}
    ranks = {id(effects): effects.rank for pair in compared for effects in pair}
    degrees = np.array([ranks[id(larger)] - ranks[id(smaller)] for larger, smaller in compared])
    explained = np.array([residuals[id(smaller)] - residuals[id(larger)] for larger, smaller in compared])
    explained = np.maximum(explained, 0.0)
    total = (centred**2).sum(axis=0)
    left_over = len(prompts) - everything.rank
    error = residuals[id(everything)] / left_over if left_over else np.zeros(len(total))
    with np.errstate(divide="ignore", invalid="ignore"):
        return degrees, explained / total, (explained - degrees[:, None] * error) / (total + error)


def _shift_interval(observed: float, samples: FloatArray) -> Interval | None:
    known = samples[np.isfinite(samples)]
    if not len(samples) or len(known) < _LEAST_RESAMPLES * len(samples):
        return None
    low, high = np.quantile(known, [0.025, 0.975]) - (known.mean() - observed)
    return Interval(max(0.0, float(low)), max(0.0, float(high)))


def _permute(values: FloatArray, in_a: BoolArray, prompts: IntArray) -> tuple[FloatArray, FloatArray]:
    """Return the differences of values, (m, f), between two networks, and their p-values, (f,) both."""
    order = np.lexsort((~in_a, prompts))
    _, blocks, sizes = np.unique(prompts[order], return_inverse=True, return_counts=True)
    values, in_a = values[order], in_a[order]
    n_a = np.bincount(blocks, weights=in_a)
    centred = _within(values, blocks)
    # The difference of the two means is a multiple of this sum.
    observed = centred[in_a].sum(axis=0)
    rng = np.random.default_rng(_SEED)
    scale = np.abs(centred).sum(axis=0)
    as_large = np.zeros(values.shape[1], dtype=np.int64)
    for part in slices(N_PERMUTATIONS, _VALUES_AT_ONCE // len(values)):
        n = len(range(*part.indices(N_PERMUTATIONS)))
        # Sorted by prompt and random number: the first runs of each prompt are a random choice.
        chosen = np.argsort(rng.random((n, len(values))) + blocks, axis=1)[:, in_a]
        for column in range(values.shape[1]):
            sums = centred[:, column][chosen].sum(axis=1)
            as_large[column] += np.count_nonzero(
                np.abs(sums) >= abs(observed[column]) - _ROUNDING * scale[column]
            )
    weights = float((n_a * (sizes - n_a) / sizes).sum())
    return observed / weights, (1 + as_large) / (1 + N_PERMUTATIONS)


@dataclass(frozen=True)
class _Effects:
    """Sums of effects of some factors, the last of which may have many levels.

    Attributes
    ----------
    last : (n,) int64
        Level of the last factor.
    columns : (n, c) float64
        One for each level of each other factor, 1 in the rows that have it, less its mean within `last`.
    """

    last: IntArray
    columns: FloatArray

    @classmethod
    def of(cls, *factors: IntArray) -> _Effects:
        """Take the levels of factors, (n,) int64 each."""
        *others, last = (np.unique(factor, return_inverse=True)[1] for factor in factors)
        columns = [np.eye(codes.max() + 1)[codes] for codes in others]
        return cls(last, _within(np.hstack([np.empty((len(last), 0)), *columns]), last))

    @property
    def rank(self) -> int:
        """The number of independent effects."""
        within = np.linalg.matrix_rank(
            self.columns.T @ self.columns, hermitian=True, tol=_ROUNDING * len(self.last)
        )
        return int(self.last.max()) + 1 + int(within)

    def residual(self, values: FloatArray) -> FloatArray:
        """Return the sums of squares of values, (n, f), that no effects explain, (f,)."""
        within = _within(values, self.last)
        explained = self.columns @ np.linalg.lstsq(self.columns, within, rcond=_ROUNDING)[0]
        return np.asarray(((within - explained) ** 2).sum(axis=0))


def _within(values: FloatArray, blocks: IntArray) -> FloatArray:
    """Subtract from values, (n, f), their means within blocks, (n,)."""
    order = np.argsort(blocks, kind="stable")
    sizes = np.bincount(blocks)
    starts = np.cumsum(sizes) - sizes
    return values - (np.add.reduceat(values[order], starts, axis=0) / sizes[:, None])[blocks]
