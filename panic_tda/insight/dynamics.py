"""Compute curves and orders over all runs: survival of visits, shares by step, and similar clusters and runs.

The page of a clustering draws them. The functions take and return arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial.distance import pdist, squareform

from panic_tda.arrays.rows import slices
from panic_tda.insight.dwell import exponential_mean, leaving_rates, median_survival, survival_curve
from panic_tda.insight.milestones import CORE, NO_STATE, Trajectories, Transitions, Visits
from panic_tda.types import BoolArray, Float32Array, FloatArray, IntArray

MOST_BINS = 100
MOST_ORDERED = 8_000
"""More runs are ordered by their most frequent cluster: all pairs of 8,000 runs take half a gigabyte."""
_STATES_COMPARED = 64
_CHORDS_AT_ONCE = 2048


@dataclass(frozen=True)
class Survival:
    """Survival curve of visits, by output steps.

    Attributes
    ----------
    times : list of float
        Dwell times at which the estimate falls, ascending.
    shares : list of float
        Kaplan-Meier survival from each of these times on.
    mean : float or None
        Mean of the most likely exponential distribution, exp(-t / mean); see `dwell.exponential_mean`.
    """

    times: list[float]
    shares: list[float]
    mean: float | None


@dataclass(frozen=True)
class ClusterVisits:
    """Visits of runs to each cluster, by label.

    Attributes
    ----------
    runs, entered : (k,) int64
        Number of runs that visit the cluster, and of visits to it.
    median_dwells : list of (float or None)
        Kaplan-Meier medians, in output steps.
    leaving_rates : (k,) float64
        Rates of leaving per output step, see `dwell.leaving_rates`; NaN if there is none.
    """

    runs: IntArray
    entered: IntArray
    median_dwells: list[float | None]
    leaving_rates: FloatArray

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return `clusters` of `show-trajectories --json`, of plain values."""
        columns = (self.runs.tolist(), self.entered.tolist(), self.median_dwells, self.leaving_rates.tolist())
        return [
            {
                "label": label,
                "runs": runs,
                "visits": visits,
                "median_dwell": median,
                "leaving_rate": None if np.isnan(rate) else rate,
            }
            for label, (runs, visits, median, rate) in enumerate(zip(*columns, strict=True))
        ]


def survive(dwells: IntArray, censored: BoolArray, *, sampling: int = 1) -> Survival:
    """Estimate the survival of visits; the arguments are those of `dwell.describe_dwells`."""
    ended, cut_off = dwells[~censored].astype(float), dwells[censored].astype(float) - 1
    times, shares = survival_curve(ended, cut_off)
    return Survival(times.tolist(), shares.tolist(), exponential_mean(ended, cut_off, spacing=sampling))


def visits_of_clusters(visits: Visits, n_clusters: int, *, sampling: int = 1) -> ClusterVisits:
    """Sum up the visits to each of the clusters 0 to n_clusters - 1."""
    order = np.argsort(visits.states, kind="stable")
    bounds = np.searchsorted(visits.states[order], np.arange(n_clusters + 1))
    runs, medians = np.zeros(n_clusters, dtype=np.int64), []
    for label in range(n_clusters):
        mine = order[bounds[label] : bounds[label + 1]]
        runs[label] = len(np.unique(visits.runs[mine]))
        dwells, censored = visits.dwells[mine], visits.censored[mine]
        medians.append(median_survival(dwells[~censored].astype(float), dwells[censored].astype(float) - 1))
    known = visits.states != NO_STATE
    times, censored = (visits.dwells - visits.censored)[known], visits.censored[known]
    rates = leaving_rates(times, censored, visits.states[known], n_clusters, spacing=sampling)
    return ClusterVisits(runs, np.diff(bounds), medians, rates)


def step_bins(steps: IntArray) -> IntArray:
    """Return the first steps of at most `MOST_BINS` bins over output steps, (b,) int64."""
    if not len(steps):
        return np.empty(0, dtype=np.int64)
    occurring = np.unique(steps)
    return occurring[:: -(-len(occurring) // MOST_BINS)]


def transit_by_step(trajectories: Trajectories, of_step: IntArray, n_groups: int) -> list[list[float | None]]:
    """Return the share of steps outside all cores, for each group of runs and each bin of `step_bins`.

    Parameters
    ----------
    trajectories : Trajectories
        n steps.
    of_step : (n,) int64
        Group of each, from 0.
    n_groups : int
        Number of groups.
    """
    bins = step_bins(trajectories.steps)
    cell = of_step * len(bins) + np.searchsorted(bins, trajectories.steps, side="right") - 1
    counts = np.bincount(cell, minlength=n_groups * len(bins))
    outside = np.bincount(cell[trajectories.flags != CORE], minlength=n_groups * len(bins))
    pairs = zip(outside.tolist(), counts.tolist(), strict=True)
    shares = [out / count if count else None for out, count in pairs]
    return [shares[group * len(bins) : (group + 1) * len(bins)] for group in range(n_groups)]


def drift_by_step(
    drifts: FloatArray, steps: IntArray, of_step: IntArray, *, bins: IntArray, n_groups: int
) -> list[list[float | None]]:
    """Return the median of `drifts`, (m,) float64, for each group of runs and each bin of steps."""
    cells = of_step * len(bins) + np.searchsorted(bins, steps, side="right") - 1
    order = np.argsort(cells, kind="stable")
    bounds = np.searchsorted(cells[order], np.arange(n_groups * len(bins) + 1))
    medians = [
        float(np.median(drifts[order[first:last]])) if last > first else None
        for first, last in pairwise(bounds.tolist())
    ]
    return [medians[group * len(bins) : (group + 1) * len(bins)] for group in range(n_groups)]


def chords(vectors: Float32Array, others: Float32Array) -> FloatArray:
    """Return the chords between rows scaled to unit length, (m,) float64; NaN for zero vectors."""
    distances = np.empty(len(vectors))
    # In parts, because float64 copies of all rows would take too much memory.
    for part in slices(len(vectors), _CHORDS_AT_ONCE):
        with np.errstate(invalid="ignore", divide="ignore"):
            wide = (vectors[part].astype(np.float64), others[part].astype(np.float64))
            units = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in wide]
            distances[part] = np.linalg.norm(units[0] - units[1], axis=1)
    return distances


def matrix_of(transitions: Transitions, states: IntArray) -> IntArray:
    """Return the counts of transitions between states, (k, k) int64: row to column."""
    numbers = {int(state): number for number, state in enumerate(states)}
    matrix = np.zeros((len(states), len(states)), dtype=np.int64)
    for source, target, count in zip(
        transitions.sources.tolist(), transitions.targets.tolist(), transitions.counts.tolist(), strict=True
    ):
        if source in numbers and target in numbers:
            matrix[numbers[source], numbers[target]] = count
    return matrix


def seriate(matrix: IntArray) -> IntArray:
    """Order states so that states with many transitions between them are neighbours, (k,) int64.

    The order is the optimal leaf order of an average linkage over 1 - (share of transitions between two
    states) (Bar-Joseph, Gifford and Jaakkola, Bioinformatics 17, S22 (2001), doi
    10.1093/bioinformatics/17.suppl_1.S22).
    """
    if len(matrix) < 3:
        return np.arange(len(matrix))
    between = (matrix + matrix.T).astype(float)
    np.fill_diagonal(between, 0)
    totals = np.maximum(between.sum(axis=1), 1)
    likeness = between / np.sqrt(np.outer(totals, totals))
    distances = 1 - likeness
    np.fill_diagonal(distances, 0)
    linked = hierarchy.linkage(squareform(distances, checks=False), "average", optimal_ordering=True)
    return np.asarray(hierarchy.leaves_list(linked), dtype=np.int64)


def order_by_similarity(trajectories: Trajectories) -> IntArray:
    """Order runs so that runs in the same clusters are neighbours, (r,) int64.

    The order is that of the leaves of a Ward linkage over the shares of steps in the 64 most frequent states.
    More than `MOST_ORDERED` runs are ordered by their most frequent state.
    """
    n_runs = len(trajectories.run_ids)
    states, counts = np.unique(trajectories.states, return_counts=True)
    frequent = states[np.argsort(-counts, kind="stable")[:_STATES_COMPARED]]
    frequent = np.sort(frequent[frequent != NO_STATE])
    if n_runs < 3 or not len(frequent):
        return np.arange(n_runs)
    at = np.searchsorted(frequent, trajectories.states)
    at[at == len(frequent)] = 0
    there = frequent[at] == trajectories.states
    cells = trajectories.run_numbers[there] * len(frequent) + at[there]
    shares = np.bincount(cells, minlength=n_runs * len(frequent)).reshape(n_runs, -1).astype(float)
    shares /= np.diff(trajectories.offsets)[:, None]
    if n_runs > MOST_ORDERED:
        return np.lexsort((-shares.max(axis=1), shares.argmax(axis=1)))
    linked = hierarchy.linkage(pdist(np.sqrt(shares)), "ward")
    return np.asarray(hierarchy.leaves_list(linked), dtype=np.int64)
