"""Fit a Markov model of the clusters that runs visit, and validate it.

Counts of transitions at a lag, row-normalised, are the core-set Markov model. It is validated by its implied
time scales, which do not depend on the lag where the model holds [1]_, and by a Chapman-Kolmogorov test.

References
----------
.. [1] Prinz, Wu, Sarich, Keller, Senne, Held, Chodera, Schütte, Noé (2011). Markov models of molecular
   kinetics: generation and validation. J. Chem. Phys. 134, 174105. https://doi.org/10.1063/1.3565032
.. [2] Kemeny, Snell (1976). Finite Markov Chains. Springer. (Mean first-passage times: chapter 4.)
.. [3] Röblitz, Weber (2013). Fuzzy spectral clustering by PCCA+. Advances in Data Analysis and Classification
   7, 147-179. https://doi.org/10.1007/s11634-013-0134-6
.. [4] Schnakenberg (1976). Network theory of microscopic and macroscopic behavior of master equation systems.
   Rev. Mod. Phys. 48, 571. https://doi.org/10.1103/RevModPhys.48.571
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from panic_tda.insight.intervals import Interval, Resamples
from panic_tda.insight.milestones import NO_STATE, Trajectories
from panic_tda.types import FloatArray, IntArray

MOST_STATES = 100
"""States beyond the most visited ones are left out: eigenvalues take the cube of their number."""
N_TIMESCALES = 5
N_LAGS = 6
MOST_SETS = 6
"""PCCA+ searches in as many dimensions as the square of the number of sets."""
N_RESAMPLES = 100
_ROUNDING = 1e-12


@dataclass(frozen=True)
class LagTimescales:
    """Implied time scales at one lag.

    Attributes
    ----------
    lag : int
        Output steps.
    timescales : list of float
        -lag / ln |eigenvalue| in output steps, the slowest first, that of the stationary state left out.
    slowest : Interval or None
        Interval of the first of them, by resampling runs.
    """

    lag: int
    timescales: list[float]
    slowest: Interval | None


@dataclass(frozen=True)
class ChapmanKolmogorov:
    """Prediction of k steps of the model against the counts k lags apart.

    Attributes
    ----------
    steps : int
        Number of steps k.
    largest_difference : float
        Largest difference between the predicted and the counted probability to be in the same state again,
        over the states with at least 20 counts.
    expected : float
        95 % quantile of the largest difference by sampling alone, from resampled runs.
    """

    steps: int
    largest_difference: float
    expected: float


@dataclass(frozen=True)
class MarkovModel:
    """A Markov model of the largest set of states that lead to each other.

    Attributes
    ----------
    lag : int
        Lag in output steps.
    states : list of int
        Clusters in the model, ascending.
    n_visited : int
        Number of clusters that runs visit.
    transition_share : float
        Share of all transitions that are between states of the model.
    stationary : list of float
        Stationary probability of each state.
    timescales : list of LagTimescales
        Implied time scales at ascending lags, beginning with the model's lag.
    spectral_gap : float or None
        1 minus the second largest absolute eigenvalue; None for fewer than two states.
    mean_first_passage : list of (list of float)
        Mean number of output steps from each state (row) to each other state [2]_; 0 on the diagonal.
    absorbing : list of (list of int)
        Closed classes: sets of states that runs entered and did not leave, each ascending.
    imbalance : float
        Violation of detailed balance: half the sum of |flow from i to j - flow from j to i| [4]_, 0 for a
        reversible process, 1 if all flow goes one way.
    imbalance_expected : float
        95 % quantile of the imbalance of resampled runs, each reversed in time with probability 1/2: the
        imbalance that sampling alone produces in a reversible process.
    chapman_kolmogorov : list of ChapmanKolmogorov
        Tests for 2 and 3 steps, if there are counts.
    metastable : list of (list of int) or None
        Metastable sets of states by PCCA+ [3]_. Their number is 1 plus the number of time scales above the
        widest gap, among those longer than the lag. None if the package deeptime is missing, or no time scale
        is longer than the lag.
    """

    lag: int
    states: list[int]
    n_visited: int
    transition_share: float
    stationary: list[float]
    timescales: list[LagTimescales]
    spectral_gap: float | None
    mean_first_passage: list[list[float]]
    absorbing: list[list[int]]
    imbalance: float
    imbalance_expected: float
    chapman_kolmogorov: list[ChapmanKolmogorov]
    metastable: list[list[int]] | None

    def to_dict(self) -> dict[str, Any]:
        """Return `markov` of `show-trajectories --json`, of plain values."""
        scales = [
            {
                "lag": scale.lag,
                "timescales": scale.timescales,
                "slowest": None if scale.slowest is None else scale.slowest.to_list(),
            }
            for scale in self.timescales
        ]
        return asdict(self) | {"timescales": scales}


def fit_markov(trajectories: Trajectories, lag: int) -> MarkovModel | None:
    """Fit a Markov model to the states of runs, and validate it.

    Parameters
    ----------
    trajectories : Trajectories
        With a state for every step.
    lag : int
        Output steps from one state to the next; a multiple of those from one sampled step to the next.

    Returns
    -------
    MarkovModel or None
        None where no state leads to another one and back.

    Notes
    -----
    The transition matrix is the likeliest one, without a prior and without forcing detailed balance.
    """
    pairs = _RunPairs.of(trajectories, lag)
    if pairs is None:
        return None
    everything = pairs.count()
    core = largest_recurrent(everything)
    if len(core) < 2:
        return None
    chosen = core[np.argsort(-everything.sum(axis=1)[core], kind="stable")[:MOST_STATES]]
    # What is left of a set that was cut may fall apart.
    inside = np.sort(chosen)
    inside = inside[largest_recurrent(everything[np.ix_(inside, inside)])]
    if len(inside) < 2:
        return None
    counts = everything[np.ix_(inside, inside)]
    matrix = normalise_rows(counts)
    stationary = find_stationary(matrix)
    n_runs = len(trajectories.run_ids)
    resamples = Resamples(n_runs, N_RESAMPLES if n_runs > 1 else 0).counts
    states = pairs.states[inside]
    eigenvalues = np.sort(np.abs(np.linalg.eigvals(matrix)))[::-1]
    return MarkovModel(
        lag=lag,
        states=states.tolist(),
        n_visited=len(pairs.states),
        transition_share=float(counts.sum() / everything.sum()),
        stationary=stationary.tolist(),
        timescales=[
            timescales
            for factor in range(1, N_LAGS + 1)
            if (timescales := _estimate_timescales(trajectories, lag * factor, states, resamples)) is not None
        ],
        spectral_gap=float(1 - eigenvalues[1]),
        mean_first_passage=(lag * mean_first_passage(matrix)).tolist(),
        absorbing=sorted(sorted(pairs.states[members].tolist()) for members in closed_classes(everything)),
        imbalance=find_imbalance(counts),
        imbalance_expected=_estimate_expected_imbalance(pairs, inside, resamples),
        chapman_kolmogorov=_test_chapman_kolmogorov(trajectories, lag, states, resamples),
        metastable=_find_metastable_sets(matrix, stationary, states, eigenvalues),
    )


def normalise_rows(counts: FloatArray) -> FloatArray:
    """Divide counts by the sums of their rows; a state without counts leads to itself."""
    sums = counts.sum(axis=-1, keepdims=True)
    return np.asarray(np.where(sums > 0, counts / np.maximum(sums, 1), np.eye(counts.shape[-1])))


def largest_recurrent(counts: FloatArray) -> IntArray:
    """Return the states, ascending, of the largest set in which each leads to each; at ties by counts."""
    _, labels = connected_components(csr_array(counts), directed=True, connection="strong")
    weights = np.bincount(labels, weights=1 + counts.sum(axis=1) / (1 + len(counts) * counts.sum()))
    return np.flatnonzero(labels == weights.argmax())


def closed_classes(counts: FloatArray) -> list[IntArray]:
    """Return the sets of states that lead to each other and to no other, unless one set holds all states."""
    n_classes, labels = connected_components(csr_array(counts), directed=True, connection="strong")
    if n_classes == 1:
        return []
    sources, targets = np.nonzero(counts)
    left = np.unique(labels[sources[labels[sources] != labels[targets]]])
    return [np.flatnonzero(labels == number) for number in range(n_classes) if number not in left]


def find_stationary(matrix: FloatArray) -> FloatArray:
    """Return the stationary distribution of a transition matrix whose states all lead to each other."""
    n = len(matrix)
    equations = np.vstack([matrix.T - np.eye(n), np.ones(n)])
    solution = np.linalg.lstsq(equations, np.append(np.zeros(n), 1.0), rcond=None)[0]
    return np.asarray(np.maximum(solution, 0) / np.maximum(solution, 0).sum())


def mean_first_passage(matrix: FloatArray) -> FloatArray:
    """Return the mean number of lags from each state to the first step in each other one, (k, k) [2]_."""
    stationary = find_stationary(matrix)
    fundamental = np.linalg.inv(np.eye(len(matrix)) - matrix + stationary)
    return np.asarray((np.diag(fundamental) - fundamental) / stationary)


def find_timescales(matrix: FloatArray, lag: int, most: int = N_TIMESCALES) -> list[float]:
    """Return the implied time scales of a transition matrix, the slowest first, in output steps."""
    sizes = np.sort(np.abs(np.linalg.eigvals(matrix)))[::-1][1 : 1 + most]
    return [float(-lag / np.log(size)) for size in sizes if _ROUNDING < size < 1 - _ROUNDING]


def find_imbalance(counts: FloatArray) -> float:
    """Return half the sum of |flow from i to j - flow from j to i|, as a share of all transitions."""
    flow = counts / max(1.0, float(counts.sum()))
    return float(np.abs(flow - flow.T).sum() / 2)


@dataclass(frozen=True)
class _RunPairs:
    """Counts of the pairs of states that are a lag apart, by run.

    Attributes
    ----------
    states : (k,) int64
        Occurring states, ascending.
    runs, cells : (m,) int64
        Run of each pair, and k · source + target, with positions in `states`.
    counts : (m,) float64
        Number of times that the run has the pair.
    """

    states: IntArray
    runs: IntArray
    cells: IntArray
    counts: FloatArray

    @classmethod
    def of(cls, trajectories: Trajectories, lag: int, states: IntArray | None = None) -> _RunPairs | None:
        sources, targets = pairs_apart(trajectories, lag)
        if states is None:
            states = np.unique(trajectories.states[np.concatenate([sources, targets])])
        codes = np.searchsorted(states, trajectories.states)
        codes[codes == len(states)] = 0
        known = np.isin(trajectories.states, states)
        among = known[sources] & known[targets]
        sources, targets = sources[among], targets[among]
        if not len(sources):
            return None
        cells = codes[sources] * len(states) + codes[targets]
        pairs, counts = np.unique(
            np.stack([trajectories.run_numbers[sources], cells]), axis=1, return_counts=True
        )
        return cls(states, pairs[0], pairs[1], counts.astype(np.float64))

    def count(self, of_run: Any = None) -> FloatArray:
        """Return the counts from state to state, (k, k), with each run weighted by `of_run`, (r,)."""
        weights = self.counts if of_run is None else self.counts * of_run[self.runs]
        n = len(self.states)
        return np.bincount(self.cells, weights=weights, minlength=n * n).reshape(n, n).astype(np.float64)


def pairs_apart(trajectories: Trajectories, lag: int) -> tuple[IntArray, IntArray]:
    """Return the positions of all pairs of steps of one run that are a lag apart and have states."""
    positions = np.arange(len(trajectories.steps))
    runs = trajectories.run_numbers
    span = int(trajectories.steps.max(initial=0)) + lag + 1
    keys = runs * span + trajectories.steps
    targets = np.searchsorted(keys, keys + lag)
    targets[targets == len(keys)] = 0
    has_target = (keys[targets] == keys + lag) & (trajectories.states != NO_STATE)
    return positions[has_target], targets[has_target]


def _estimate_timescales(
    trajectories: Trajectories, lag: int, states: IntArray, resamples: Any
) -> LagTimescales | None:
    pairs = _RunPairs.of(trajectories, lag, states)
    if pairs is None:
        return None
    timescales = find_timescales(normalise_rows(pairs.count()), lag)
    if not timescales:
        return None
    slowest = []
    for of_run in resamples:
        counts = pairs.count(of_run)
        core = largest_recurrent(counts)
        slowest += find_timescales(normalise_rows(counts[np.ix_(core, core)]), lag, most=1)
    interval = Interval(*np.quantile(slowest, [0.025, 0.975]).tolist()) if slowest else None
    return LagTimescales(lag, timescales, interval)


def _test_chapman_kolmogorov(
    trajectories: Trajectories, lag: int, states: IntArray, resamples: Any
) -> list[ChapmanKolmogorov]:
    first = _RunPairs.of(trajectories, lag, states)
    results = []
    for steps in (2, 3):
        later = _RunPairs.of(trajectories, lag * steps, states)
        if first is None or later is None:
            break
        counts = later.count()
        often = counts.sum(axis=1) >= 20
        if not often.any():
            break

        def differ(of_run: Any = None, later: _RunPairs = later, steps: int = steps) -> FloatArray:
            predicted = np.linalg.matrix_power(normalise_rows(first.count(of_run)), steps)
            return np.diag(predicted) - np.diag(normalise_rows(later.count(of_run)))

        observed = differ()[often]
        # How far the difference of a resample is from the observed one is how far that is from the truth.
        errors = [np.abs(differ(of_run)[often] - observed).max() for of_run in resamples]
        expected = float(np.quantile(errors, 0.95)) if errors else float("nan")
        results.append(ChapmanKolmogorov(steps, float(np.abs(observed).max()), expected))
    return results


def _estimate_expected_imbalance(pairs: _RunPairs, inside: IntArray, resamples: Any) -> float:
    rng = np.random.default_rng(0)
    n = len(pairs.states)
    backwards = pairs.cells % n * n + pairs.cells // n
    imbalances = []
    for of_run in resamples:
        turned = rng.random(len(of_run)) < 0.5
        cells = np.where(turned[pairs.runs], backwards, pairs.cells)
        counts = replace(pairs, cells=cells).count(of_run)
        imbalances.append(find_imbalance(counts[np.ix_(inside, inside)]))
    return float(np.quantile(imbalances, 0.95)) if imbalances else float("nan")


def _find_metastable_sets(
    matrix: FloatArray, stationary: FloatArray, states: IntArray, eigenvalues: FloatArray
) -> list[list[int]] | None:
    slow = eigenvalues[1 : MOST_SETS + 1]
    slow = slow[slow > np.exp(-1)]  # A time scale longer than the lag.
    if not len(slow):
        return None
    scales = -1 / np.log(np.minimum(slow, 1 - _ROUNDING))
    # Behind the widest gap between time scales.
    n_sets = 2 + int(np.argmax(scales[:-1] / scales[1:])) if len(scales) > 1 else 2
    if n_sets >= len(states):
        return None
    try:
        from deeptime.markov import pcca
    except ImportError:
        return None
    # PCCA+ wants a process in detailed balance: that which runs forwards and backwards as often.
    backwards = matrix.T * stationary / stationary[:, None]
    try:
        assignments = pcca((matrix + backwards) / 2, n_sets, stationary).assignments
    except ValueError:
        return None
    return [
        states[assignments == number].tolist() for number in range(n_sets) if (assignments == number).any()
    ]
