"""What runs do between the clusters: dwells, transitions, fixed points and loops, by network or prompt.

`study_trajectories` reads the steps and the texts of all runs, and `sum_up` says what they come to.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np

from panic_tda.errors import InvalidParameter, WrongUsage
from panic_tda.insight.dwell import DwellStatistics, describe_dwells
from panic_tda.insight.milestones import (
    CORE,
    NO_STATE,
    Trajectories,
    Transitions,
    count_transitions,
    find_settled,
    find_states,
    find_visits,
)
from panic_tda.insight.recurrence import Recurrence, find_recurrence
from panic_tda.progress import Progress, Silent
from panic_tda.storage.database import Database
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.storage.read.trajectories import (
    RunFacts,
    RunSteps,
    RunTexts,
    read_runs,
    read_steps,
    read_writers,
    stream_texts,
)
from panic_tda.wording import pluralize

if TYPE_CHECKING:
    from panic_tda.types import IntArray

NETWORK, PROMPT, MODEL = "network", "prompt", "model"
GROUPINGS = (NETWORK, PROMPT, MODEL, f"{NETWORK},{PROMPT}")
_NO_TEXTS = Recurrence(distinct_texts=0, returns=0)


@dataclass(frozen=True)
class RunSummary:
    """What one run did in a clustering, and what its texts alone say.

    Attributes
    ----------
    run_id : str
        As stored.
    facts : RunFacts or None
        What it was started with; None where the run's own row has gone.
    n_steps, transit_steps : int
        Sampled steps, and those of them in no core.
    distinct_texts, returns : int
        Different texts among all of the run, and the texts that had occurred before.
    period, absorbed_at : int or None
        Period of the tail of the texts (1: a fixed point), and the output step from which on it repeats.
    settled_in, settled_at : int or None
        State in which the run settled, and the first step of that visit.
    visits : (v, 3) int64
        State, first step and dwell of each visit; the last one was cut off by the end of the run.
    """

    run_id: str
    facts: RunFacts | None
    n_steps: int
    transit_steps: int
    distinct_texts: int
    returns: int
    period: int | None
    absorbed_at: int | None
    settled_in: int | None
    settled_at: int | None
    visits: IntArray


@dataclass(frozen=True)
class GroupSummary:
    """What some runs did.

    Attributes
    ----------
    group : dict
        What they have in common: `network` (list of str), `prompt`, `model` or several of these; a value is
        None where the runs have gone.
    n_runs, n_steps, transit_steps, settled_runs : int
        Runs, their sampled steps, those of them in no core, and the runs that settled.
    periodic_runs : dict of int to int
        Runs that end in a fixed point or a loop, by period.
    median_absorbed_at : float or None
        Median over those, in output steps.
    dwell : DwellStatistics
        Of the visits to all clusters.
    """

    group: dict[str, Any]
    n_runs: int
    n_steps: int
    transit_steps: int
    settled_runs: int
    periodic_runs: dict[int, int]
    median_absorbed_at: float | None
    dwell: DwellStatistics


@dataclass(frozen=True)
class TrajectoryStudy:
    """What the runs of a clustering did.

    Attributes
    ----------
    clustering : UUID
        Its id.
    sampling : int
        Output steps from one sampled step to the next.
    lag : int
        Output steps between the two states of a transition.
    groups : tuple of GroupSummary
        The groups in alphabetical order.
    total : GroupSummary
        All runs together.
    transitions : Transitions
        Of all runs.
    runs : tuple of RunSummary
        The runs by ascending id.
    """

    clustering: UUID
    sampling: int
    lag: int
    groups: tuple[GroupSummary, ...]
    total: GroupSummary
    transitions: Transitions
    runs: tuple[RunSummary, ...]


def study_trajectories(
    database: Database,
    clustering: ClusteringSummary,
    *,
    by: str = NETWORK,
    lag: int | None = None,
    core_probability: float = 0.0,
    progress: Progress | None = None,
) -> TrajectoryStudy:
    """Follow all runs of a clustering, and sum up what they do.

    Parameters
    ----------
    database : Database
        Read in one short transaction.
    clustering : ClusteringSummary
        One that is stored.
    by : str
        What the runs are grouped by, one of `GROUPINGS`. The model is that which wrote the sampled outputs;
        where several did, their names stand side by side.
    lag : int, optional
        Output steps between the two states of a transition; by default those from one sampled step to the
        next.
    core_probability : float
        Members of a cluster with at least this membership probability are its core; at 0 all are.
    progress : Progress, optional
        Told the rows read.

    Raises
    ------
    InvalidParameter
        There are no pairs of steps at that lag, `core_probability` is no probability, or runs are not grouped
        by that.

    Notes
    -----
    A run that never visits a core has no visits that would count in the dwells of its group, settles nowhere,
    and goes from no state to another; all its steps are in transit. Memory: about 200 bytes an assignment.
    """
    progress = progress or Silent()
    sampling = clustering.record.downsample or 1
    if by not in GROUPINGS:
        raise InvalidParameter(f"by must be one of {'; '.join(GROUPINGS)}; got {by!r}")
    if lag is not None:
        _require_multiple(lag, sampling)
    with database.reading() as connection:
        steps = read_steps(connection, clustering, progress)
        trajectories = find_states(steps, core_probability=core_probability)
        if lag is not None:
            _require_pairs(trajectories, lag)
        facts = read_runs(connection)
        recurrences = _recurrences(stream_texts(connection, steps.run_ids), len(steps.run_ids), progress)
        wanted = _few_outputs(steps, facts) if by == MODEL else []
        writers = list(read_writers(connection, wanted))
    progress.phase("sum up")
    return sum_up(clustering, trajectories, facts, recurrences, by=by, lag=lag, writers=writers)


def sum_up(
    clustering: ClusteringSummary,
    trajectories: Trajectories,
    facts: Mapping[str, RunFacts],
    recurrences: Mapping[str, Recurrence],
    *,
    by: str = NETWORK,
    lag: int | None = None,
    writers: Sequence[set[str]] = (),
) -> TrajectoryStudy:
    """Sum up what was read of runs.

    Parameters
    ----------
    clustering, by, lag
        As for `study_trajectories`, which checks them.
    trajectories : Trajectories
        The steps of the clustering.
    facts, recurrences : mapping
        By ids of runs: what they were started with, and what their texts come back to.
    writers : sequence of set of str
        Models that wrote the outputs of each run; asked for by `MODEL` alone.
    """
    sampling = clustering.record.downsample or 1
    runs = _summaries(trajectories, facts, recurrences)
    return TrajectoryStudy(
        clustering=clustering.id,
        sampling=sampling,
        lag=lag or sampling,
        groups=_groups(runs, _keys(runs, by, writers), sampling),
        total=_summed({}, runs, sampling),
        transitions=count_transitions(trajectories, lag or sampling),
        runs=runs,
    )


def group_runs(study: TrajectoryStudy, by: str) -> tuple[GroupSummary, ...]:
    """Group the runs of a study by something else; by all but `MODEL`, which takes a look into the database.

    Raises
    ------
    InvalidParameter
        Runs are not grouped by that.
    """
    if by not in GROUPINGS or by == MODEL:
        raise InvalidParameter(f"by must be one of {'; '.join(set(GROUPINGS) - {MODEL})}; got {by!r}")
    return _groups(study.runs, _keys(study.runs, by, ()), study.sampling)


def find_run(study: TrajectoryStudy, reference: str) -> RunSummary:
    """Return the run that an id, with or without dashes, or the beginning of one stands for.

    Raises
    ------
    WrongUsage
        It fits none or several.
    """
    digits = reference.lower().replace("-", "")
    fitting = [run for run in study.runs if digits and run.run_id.startswith(digits)]
    if len(fitting) != 1:
        several = f"{len(fitting) or 'none'} of the {len(study.runs)} runs"
        raise WrongUsage(
            f"{pluralize(len(study.runs), 'not the only run', several)} in clustering {study.clustering} "
            f"{pluralize(len(study.runs), 'begins', 'begin')} with {reference!r}; give an id that --runs "
            "lists, or enough of its beginning to be unique"
        )
    return fitting[0]


def _require_multiple(lag: int, sampling: int) -> None:
    if lag < 1 or lag % sampling:
        raise InvalidParameter(
            f"lag must be a multiple of {sampling}, the output steps from one sampled step to the next; "
            f"got {lag}"
        )


def _require_pairs(steps: RunSteps, lag: int) -> None:
    spans = steps.steps[steps.offsets[1:] - 1] - steps.steps[steps.offsets[:-1]]
    longest = int(spans.max(initial=0))
    if lag > longest:
        raise InvalidParameter(
            f"lag must be at most {longest}, the output steps from the first to the last sampled one of the "
            f"longest run; got {lag}"
        )


def _recurrences(found: Iterator[RunTexts], n_runs: int, progress: Progress) -> dict[str, Recurrence]:
    """Find what the texts of each run come back to; one run's texts are in memory at a time."""
    progress.phase("read texts", total=n_runs)
    recurrences = {}
    for run in found:
        recurrences[run.run_id] = find_recurrence(run.steps, run.texts)
        progress.advance(1)
    return recurrences


def _few_outputs(steps: RunSteps, facts: Mapping[str, RunFacts]) -> Iterator[tuple[str, list[int]]]:
    """Choose outputs that show who writes in a run: one for each place in its network that is sampled.

    The models of a network take turns, so what is written at one place of it is written by one model.
    """
    for number, run in enumerate(steps.run_ids):
        numbers = steps.sequence_numbers[steps.offsets[number] : steps.offsets[number + 1]]
        period = max(1, len(facts[run].network)) if run in facts else 1
        _, first = np.unique(numbers % period, return_index=True)
        yield run, numbers[first].tolist()


def _summaries(
    trajectories: Trajectories, facts: Mapping[str, RunFacts], recurrences: Mapping[str, Recurrence]
) -> tuple[RunSummary, ...]:
    visits = find_visits(trajectories)
    table = np.column_stack([visits.states, visits.first_steps, visits.dwells])
    of_runs = np.split(table, np.searchsorted(visits.runs, np.arange(1, len(trajectories.run_ids))))
    counts = np.diff(trajectories.offsets)
    outside = np.bincount(trajectories.run_numbers[trajectories.flags != CORE], minlength=len(counts))
    settled, since = find_settled(trajectories, visits)
    found = []
    for number, run in enumerate(trajectories.run_ids):
        has_settled = settled[number] != NO_STATE
        found.append(
            RunSummary(
                run_id=run,
                facts=facts.get(run),
                n_steps=int(counts[number]),
                transit_steps=int(outside[number]),
                **vars(recurrences.get(run, _NO_TEXTS)),
                settled_in=int(settled[number]) if has_settled else None,
                settled_at=int(since[number]) if has_settled else None,
                visits=of_runs[number],
            )
        )
    return tuple(found)


def _keys(runs: Sequence[RunSummary], by: str, writers: Sequence[set[str]]) -> list[dict[str, Any]]:
    """Return for each run what it has in common with those of its group."""
    if by == MODEL:
        return [{MODEL: ", ".join(sorted(models)) or None} for models in writers]
    return [{name: _value(name, run.facts) for name in by.split(",")} for run in runs]


def _value(name: str, facts: RunFacts | None) -> str | list[str] | None:
    if facts is None:
        return None
    return facts.initial_prompt if name == PROMPT else list(facts.network)


def _groups(
    runs: Sequence[RunSummary], keys: Sequence[dict[str, Any]], sampling: int
) -> tuple[GroupSummary, ...]:
    members: dict[str, list[int]] = {}
    for number, key in enumerate(keys):
        members.setdefault(json.dumps(key, ensure_ascii=False), []).append(number)
    return tuple(
        _summed(keys[numbers[0]], [runs[number] for number in numbers], sampling)
        for _, numbers in sorted(members.items())
    )


def _summed(group: dict[str, Any], runs: Sequence[RunSummary], sampling: int) -> GroupSummary:
    visits = np.concatenate([np.empty((0, 3), dtype=np.int64), *(run.visits for run in runs)])
    censored = np.zeros(len(visits), dtype=bool)
    censored[np.cumsum([len(run.visits) for run in runs], dtype=np.int64) - 1] = True
    of_cluster = visits[:, 0] != NO_STATE
    absorbed = [run.absorbed_at for run in runs if run.absorbed_at is not None]
    periods = Counter(run.period for run in runs if run.period is not None)
    return GroupSummary(
        group=group,
        n_runs=len(runs),
        n_steps=sum(run.n_steps for run in runs),
        transit_steps=sum(run.transit_steps for run in runs),
        settled_runs=sum(run.settled_in is not None for run in runs),
        periodic_runs=dict(sorted(periods.items())),
        median_absorbed_at=float(np.median(absorbed)) if absorbed else None,
        dwell=describe_dwells(visits[of_cluster, 2], censored[of_cluster], sampling=sampling),
    )
