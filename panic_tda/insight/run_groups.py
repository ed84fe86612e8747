"""Compute statistics of groups of runs, with bootstrap intervals, and compare networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from panic_tda.insight.differences import Difference, VarianceShare, compare_networks, share_variance
from panic_tda.insight.dwell import DwellStatistics, describe_dwells
from panic_tda.insight.intervals import Interval, Resamples
from panic_tda.insight.memoryless import shape_influences
from panic_tda.insight.milestones import NO_STATE
from panic_tda.insight.recurrence import (
    Absorption,
    Recurrence,
    RepeatStretches,
    absorption_times,
    describe_absorption,
    describe_stretches,
)
from panic_tda.storage.read.census import show_id
from panic_tda.storage.read.trajectories import RunFacts
from panic_tda.types import BoolArray, IntArray


@dataclass(frozen=True, kw_only=True)
class RunSummary(Recurrence):
    """Statistics of one run: its visits to clusters, and the repeats of its texts.

    Attributes
    ----------
    run_id : str
        As stored.
    facts : RunFacts or None
        Network, prompt and seed of the run; None if the run's row was deleted.
    n_steps, transit_steps : int
        Number of sampled steps, and of those outside all cores.
    settled_in, settled_at : int or None
        State in which the run settled, and the first step of that visit.
    visits : (v, 3) int64
        State, first step and dwell time of each visit; the last one is censored.
    """

    run_id: str
    facts: RunFacts | None
    n_steps: int
    transit_steps: int
    settled_in: int | None
    settled_at: int | None
    visits: IntArray

    def to_dict(self) -> dict[str, Any]:
        """Return an element of `runs` in `show-trajectories --runs --json`, of plain values."""
        names = ("distinct_texts", "returns", "period", "absorbed_at", "repeats", "settled_in", "settled_at")
        return {
            "run_id": show_id(self.run_id),
            "n_steps": self.n_steps,
            **{name: getattr(self, name) for name in names},
            "transit_share": self.transit_steps / self.n_steps,
            "visits": self.visits.tolist(),
        }


@dataclass(frozen=True)
class GroupSummary:
    """Statistics of a group of runs.

    Attributes
    ----------
    group : dict
        Common values of the runs: `network` (list of str), `prompt`, `model`, the text-to-image models `t2i`
        or the image-to-text models `i2t` (list of str), or several of these; None if the runs were deleted.
    n_runs, n_steps, transit_steps, settled_runs : int
        Numbers of runs, of their sampled steps, of steps outside all cores, and of runs that settled.
    n_texts, returns : int
        Number of texts, and of texts that had occurred before in their run.
    periodic_runs : dict of int to int
        Runs whose texts repeat until the end, by period.
    stretches : RepeatStretches
        Stretches of repeats at the end of runs, and stretches that were left again.
    absorption : Absorption
        Steps at which runs begin to repeat until their end.
    dwell : DwellStatistics
        Dwell times of the visits to all clusters.
    intervals : dict of str to (Interval or None)
        Bootstrap intervals over runs of `transit_share`, `settled_share`, `repeating_share`, `return_share`,
        `left_again_share`, `median_absorbed_at`, `median_dwell` and `weibull_shape`. None if the figure is
        undefined or there are fewer than two runs. Empty if no intervals were requested.
    """

    group: dict[str, Any]
    n_runs: int
    n_steps: int
    transit_steps: int
    settled_runs: int
    n_texts: int
    returns: int
    periodic_runs: dict[int, int]
    stretches: RepeatStretches
    absorption: Absorption
    dwell: DwellStatistics
    intervals: dict[str, Interval | None]

    def to_dict(self) -> dict[str, Any]:
        """Return what `show-trajectories --json` prints of it."""
        return {
            "group": self.group,
            "n_runs": self.n_runs,
            "n_steps": self.n_steps,
            "transit_share": self.transit_steps / self.n_steps,
            "settled_runs": self.settled_runs,
            "return_share": self.returns / self.n_texts if self.n_texts else None,
            "periodic_runs": {str(period): count for period, count in self.periodic_runs.items()},
            "stretches": self.stretches.to_dict(),
            "median_absorbed_at": self.absorption.median,
            "absorbed_share": self.absorption.share,
            "absorbed_within": self.absorption.within,
            "dwell": self.dwell.to_dict(),
            "intervals": {
                name: None if interval is None else interval.to_list()
                for name, interval in self.intervals.items()
            },
        }


_RATIOS: dict[str, Callable[[RunSummary], tuple[int, int]]] = {
    "transit_share": lambda run: (run.transit_steps, run.n_steps),
    "settled_share": lambda run: (run.settled_in is not None, 1),
    "repeating_share": lambda run: (run.period is not None, 1),
    "return_share": lambda run: (run.returns, run.distinct_texts + run.returns),
    "left_again_share": lambda run: (
        len(run.left_stretches),
        len(run.left_stretches) + (run.period is not None),
    ),
}
"""Figures of a group that are ratios of sums over its runs: numerator and denominator of one run."""


@dataclass(frozen=True)
class NetworkComparison:
    """Differences between networks in shares of the steps or texts of each run.

    Attributes
    ----------
    networks : tuple of (tuple of str)
        Models of each network, by number.
    differences : tuple of Difference
        Differences of every two networks with common prompts.
    variance : tuple of VarianceShare
        Shares of the variance that the models and the prompt explain.
    """

    networks: tuple[tuple[str, ...], ...]
    differences: tuple[Difference, ...]
    variance: tuple[VarianceShare, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return what `show-trajectories --json` prints of it."""
        names = [list(network) for network in self.networks]
        return {
            "differences": [
                asdict(item) | {"a": names[item.a], "b": names[item.b]} for item in self.differences
            ],
            "variance": [item.to_dict() for item in self.variance],
        }


def compare_runs(runs: Sequence[RunSummary]) -> NetworkComparison:
    """Compare networks in the figures of their runs, within prompts.

    Runs whose row was deleted are left out.
    """
    known = [(run, run.facts) for run in runs if run.facts is not None]
    networks = [facts.network for _, facts in known]
    names = tuple(sorted(set(networks)))
    if len(names) < 2:
        return NetworkComparison(names, (), ())
    figures = {
        name: np.array([above / max(1, below) for above, below in map(ratio, (run for run, _ in known))])
        for name, ratio in _RATIOS.items()
        if name != "left_again_share"
    }
    figures["visits_per_step"] = np.array([len(run.visits) / run.n_steps for run, _ in known])
    prompts = _number_values([facts.initial_prompt for _, facts in known])
    t2i, i2t = (_number_values([network[first::2] for network in networks]) for first in (0, 1))
    return NetworkComparison(
        networks=names,
        differences=compare_networks(figures, _number_values(networks), prompts),
        variance=share_variance(figures, t2i, i2t, prompts),
    )


def _number_values(values: Sequence[Any]) -> IntArray:
    """Number values in ascending order, (r,) int64."""
    numbers = {value: number for number, value in enumerate(sorted(set(values)))}
    return np.array([numbers[value] for value in values], dtype=np.int64)


def summarise_group(
    group: dict[str, Any], runs: Sequence[RunSummary], *, sampling: int, with_intervals: bool = True
) -> GroupSummary:
    """Compute the statistics of a group of runs.

    Parameters
    ----------
    group : dict
        Common values of the runs.
    runs : sequence of RunSummary
        At least one.
    sampling : int
        Output steps from one sampled step to the next.
    with_intervals : bool
        Whether to compute bootstrap intervals; otherwise `intervals` is empty.
    """
    periods = Counter(run.period for run in runs if run.period is not None)
    visits = _GroupVisits.of(runs)
    dwell = describe_dwells(
        visits.dwells, visits.censored, visits.states, limits=visits.limits, sampling=sampling
    )
    return GroupSummary(
        group=group,
        n_runs=len(runs),
        n_steps=sum(run.n_steps for run in runs),
        transit_steps=sum(run.transit_steps for run in runs),
        settled_runs=sum(run.settled_in is not None for run in runs),
        n_texts=sum(run.distinct_texts + run.returns for run in runs),
        returns=sum(run.returns for run in runs),
        periodic_runs=dict(sorted(periods.items())),
        stretches=describe_stretches(runs),
        absorption=describe_absorption(runs),
        dwell=dwell,
        intervals=_compute_intervals(runs, visits, dwell, sampling) if with_intervals else {},
    )


@dataclass(frozen=True)
class _GroupVisits:
    """Visits of a group of runs to clusters, as (v,) arrays.

    `limits` are the output steps from the beginning of each visit to the last step of its run.
    """

    runs: IntArray
    states: IntArray
    dwells: IntArray
    censored: BoolArray
    limits: IntArray

    @classmethod
    def of(cls, runs: Sequence[RunSummary]) -> _GroupVisits:
        visits = np.concatenate([np.empty((0, 3), dtype=np.int64), *(run.visits for run in runs)])
        counts = np.array([len(run.visits) for run in runs], dtype=np.int64)
        censored = np.zeros(len(visits), dtype=bool)
        last = np.cumsum(counts) - 1
        censored[last] = True
        # A run ends at the last step of its last visit, which counts that step.
        last_steps = np.repeat((visits[last, 1] + visits[last, 2] - 1), counts)
        columns = (
            np.repeat(np.arange(len(runs)), counts),
            visits[:, 0],
            visits[:, 2],
            censored,
            last_steps - visits[:, 1],
        )
        of_cluster = visits[:, 0] != NO_STATE
        return cls(*(column[of_cluster] for column in columns))


def _compute_intervals(
    runs: Sequence[RunSummary], visits: _GroupVisits, dwell: DwellStatistics, sampling: int
) -> dict[str, Interval | None]:
    resamples = Resamples(len(runs))
    intervals = {
        name: resamples.ratio(*np.array([ratio(run) for run in runs], dtype=float).reshape(-1, 2).T)
        for name, ratio in _RATIOS.items()
    }
    intervals["median_absorbed_at"] = resamples.median(*absorption_times(runs))
    outlasted = visits.dwells - visits.censored
    intervals["median_dwell"] = resamples.median(outlasted.astype(float), visits.censored, visits.runs)
    intervals["weibull_shape"] = None
    if dwell.memoryless is not None:
        shape = dwell.memoryless.shape
        influences = shape_influences(
            outlasted, visits.censored, visits.states, shape=shape, spacing=sampling
        )
        sums = [
            np.bincount(visits.runs, weights=influence, minlength=len(runs)).astype(np.float64)
            for influence in influences
        ]
        intervals["weibull_shape"] = resamples.shape(*sums, shape=shape)
    return intervals
