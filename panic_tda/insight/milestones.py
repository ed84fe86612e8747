"""Assign every step of a run to a cluster (milestoning), also steps that are outliers.

The core of a cluster has its members, or those with a high membership probability. The state of a step is
the cluster whose core the run visited last. So a run is a sequence of states, and its dwell times and
transitions are those of a core-set Markov model (Schütte, Noé, Lu, Sarich and Vanden-Eijnden, J. Chem. Phys.
134, 204105 (2011), doi 10.1063/1.3590108). The functions take and return arrays; time is the output index.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from panic_tda.errors import InvalidParameter
from panic_tda.storage.read.trajectories import RunSteps
from panic_tda.types import OUTLIER, BoolArray, IntArray

CORE, TRANSIT, ENTERING = 0, 1, 2
FLAGS = ("core", "transit", "entering")
"""Flags of steps, by code: in a core; outside after the first core; outside before the first core."""
NO_STATE = -1
"""State of all steps of a run that never visits a core."""
SETTLED_SHARE = 5
"""A run has settled if its final visit has at least 1/5 of its output steps. The share makes short runs
comparable with long ones: 5 steps suffice for a run of 25 texts, and 3 steps do not for one of 500."""
LEAST_SETTLED_STEPS = 3


@dataclass(frozen=True)
class Trajectories(RunSteps):
    """The steps of runs with their states.

    Attributes
    ----------
    states : (n,) int64
        The cluster whose core the run visited last; before its first core, that one; `NO_STATE` in a run that
        never visits any.
    flags : (n,) int8
        `CORE`, `TRANSIT` or `ENTERING`. A run that never visits a core is entering all the time.
    visits : (n,) int64
        Number of the visit within its run, from 0.
    """

    states: IntArray
    flags: NDArray[np.int8]
    visits: IntArray


@dataclass(frozen=True)
class Visits:
    """Maximal stretches of one state, run by run.

    Attributes
    ----------
    runs : (v,) int64
        Position of the run in `run_ids`, ascending.
    states : (v,) int64
        As those of the steps.
    first_steps : (v,) int64
        Output index at which the visit begins.
    dwells : (v,) int64
        Output steps from there to the beginning of the next visit. The last visit of a run is cut off: its
        dwell counts the steps up to the run's last sampled one, and that one, and would have been no shorter.
    censored : (v,) bool
        The last visits.
    """

    runs: IntArray
    states: IntArray
    first_steps: IntArray
    dwells: IntArray
    censored: BoolArray


@dataclass(frozen=True)
class Transitions:
    """Counts of transitions between states, ascending by source and target.

    Attributes
    ----------
    sources, targets, counts : (c,) int64
        The state, the one a lag later, and the number of such pairs; a state may follow itself.
    """

    sources: IntArray
    targets: IntArray
    counts: IntArray

    def to_dicts(self) -> list[dict[str, int]]:
        """Return one object a transition, of plain values."""
        columns = (self.sources.tolist(), self.targets.tolist(), self.counts.tolist())
        return [
            {"from": source, "to": target, "count": count}
            for source, target, count in zip(*columns, strict=True)
        ]


def find_states(steps: RunSteps, *, core_probability: float = 0.0) -> Trajectories:
    """Find the state, the flag and the visit of every step.

    Parameters
    ----------
    steps : RunSteps
        Of one clustering.
    core_probability : float
        Members of a cluster with at least this membership probability are its core; at 0 all are.

    Raises
    ------
    InvalidParameter
        `core_probability` is not between 0 and 1.
    """
    if not 0 <= core_probability <= 1:
        raise InvalidParameter(f"core_probability must be a probability from 0 to 1; got {core_probability}")
    n = len(steps.steps)
    positions, runs = np.arange(n), steps.run_numbers
    begins, ends = steps.offsets[:-1][runs], steps.offsets[1:][runs]
    in_core = (steps.labels != OUTLIER) & (steps.probabilities >= core_probability)
    last = np.maximum.accumulate(np.where(in_core, positions, -1))
    coming = np.minimum.accumulate(np.where(in_core, positions, n)[::-1])[::-1]
    entered, to_enter = last >= begins, coming < ends
    states = np.full(n, NO_STATE, dtype=np.int64)
    states[to_enter] = steps.labels[coming[to_enter]]
    states[entered] = steps.labels[last[entered]]
    flags = np.where(in_core, CORE, np.where(entered, TRANSIT, ENTERING)).astype(np.int8)
    visits = np.cumsum(_find_beginnings(runs, states)) - 1
    return Trajectories(**vars(steps), states=states, flags=flags, visits=visits - visits[begins])


def find_visits(trajectories: Trajectories) -> Visits:
    """Return the visits of all runs, those of a run one after another."""
    runs = trajectories.run_numbers
    begins = np.flatnonzero(_find_beginnings(runs, trajectories.states))
    runs, first_steps = runs[begins], trajectories.steps[begins]
    censored = np.ones(len(begins), dtype=bool)
    censored[:-1] = runs[:-1] != runs[1:]
    dwells = np.zeros(len(begins), dtype=np.int64)
    dwells[:-1] = np.diff(first_steps)
    last_steps = trajectories.steps[trajectories.offsets[1:] - 1]
    dwells[censored] = last_steps - first_steps[censored] + 1
    return Visits(runs, trajectories.states[begins], first_steps, dwells, censored)


def find_settled(trajectories: Trajectories, visits: Visits) -> tuple[IntArray, IntArray]:
    """Find the states in which runs settled.

    A run has settled if its final visit has at least a fifth of the run's output steps, at least
    `LEAST_SETTLED_STEPS`, and more than half of the sampled steps of that visit are in the core of its
    cluster. The last condition excludes runs that drift away from their last cluster.

    Parameters
    ----------
    trajectories, visits
        The steps, and the visits that `find_visits` found in them.

    Returns
    -------
    states, first_steps : (r,) int64
        State of the final visit and its first step; `NO_STATE` twice if a run has not settled. A run that
        never visits a core has not settled.
    """
    first, last = trajectories.offsets[:-1], trajectories.offsets[1:] - 1
    lengths = trajectories.steps[last] - trajectories.steps[first] + 1
    final = visits.censored
    # Whole numbers: a fifth of 101 steps is more than 20.
    settled = visits.dwells[final] >= LEAST_SETTLED_STEPS
    settled &= SETTLED_SHARE * visits.dwells[final] >= lengths
    settled &= visits.states[final] != NO_STATE
    settled &= _are_mostly_in_core(trajectories)
    return (
        np.where(settled, visits.states[final], NO_STATE),
        np.where(settled, visits.first_steps[final], NO_STATE),
    )


def _are_mostly_in_core(trajectories: Trajectories) -> BoolArray:
    """Return whether more than half of the sampled steps of each final visit are core, (r,) bool."""
    runs, n_runs = trajectories.run_numbers, len(trajectories.run_ids)
    in_final = trajectories.visits == trajectories.visits[trajectories.offsets[1:] - 1][runs]
    n_steps = np.bincount(runs[in_final], minlength=n_runs)
    n_core = np.bincount(runs[in_final & (trajectories.flags == CORE)], minlength=n_runs)
    return 2 * n_core > n_steps


def count_transitions(trajectories: Trajectories, lag: int) -> Transitions:
    """Count the pairs of states that lie `lag` output steps apart in a run, from every step on.

    A pair counts where both steps were sampled. Runs that never visit a core have no states to go between,
    and are left out.
    """
    # Steps are numbered among all that occur, so that a run and a step are one number without an overflow.
    occurring, ranks = np.unique(trajectories.steps, return_inverse=True)
    later = np.searchsorted(occurring, trajectories.steps + lag)
    occurs = later < len(occurring)
    occurs[occurs] = occurring[later[occurs]] == trajectories.steps[occurs] + lag
    of_run = trajectories.run_numbers * len(occurring)
    keys = of_run + ranks
    sources = np.flatnonzero(occurs & (trajectories.states != NO_STATE))
    wanted = of_run[sources] + later[sources]
    targets = np.searchsorted(keys, wanted)
    targets[targets == len(keys)] = 0
    is_sampled = keys[targets] == wanted
    states = trajectories.states
    return _count_pairs(states[sources[is_sampled]], states[targets[is_sampled]])


def _count_pairs(sources: IntArray, targets: IntArray) -> Transitions:
    n_states = int(max(sources.max(initial=0), targets.max(initial=0))) + 1
    pairs, counts = np.unique(sources * n_states + targets, return_counts=True)
    return Transitions(pairs // n_states, pairs % n_states, counts)


def _find_beginnings(runs: IntArray, states: IntArray) -> BoolArray:
    begins = np.ones(len(states), dtype=bool)
    begins[1:] = (np.diff(runs) != 0) | (np.diff(states) != 0)
    return begins
