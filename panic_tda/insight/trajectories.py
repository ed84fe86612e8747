"""Study what runs do between clusters: dwell times, transitions and repeats, by network or prompt.

`study_trajectories` reads the steps and the texts of all runs, and `sum_up` computes their statistics.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import Any
from uuid import UUID

import numpy as np

from panic_tda.errors import InvalidParameter, WrongUsage
from panic_tda.insight.dynamics import ClusterVisits, visits_of_clusters
from panic_tda.insight.markov import MarkovModel, fit_markov
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
from panic_tda.insight.run_groups import GroupSummary, RunSummary, summarise_group
from panic_tda.parameters import GROUPINGS, I2T, MODEL, NETWORK, PROMPT, T2I
from panic_tda.progress import Progress, Silent
from panic_tda.storage.database import Database
from panic_tda.storage.read.clusterings import open_clustering
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.storage.read.trajectories import RunFacts, RunSteps, RunTexts, read_writers
from panic_tda.types import IntArray
from panic_tda.wording import pluralize

_NO_TEXTS = Recurrence(distinct_texts=0, returns=0)


@dataclass(frozen=True)
class TrajectoryStudy:
    """Statistics of the runs of a clustering.

    Attributes
    ----------
    clustering : UUID
        Id of the clustering.
    sampling : int
        Output steps from one sampled step to the next.
    lag : int
        Output steps between the two states of a transition.
    groups : tuple of GroupSummary
        The groups in alphabetical order.
    total : GroupSummary
        Statistics of all runs together.
    transitions : Transitions
        Transitions of all runs.
    clusters : ClusterVisits
        Visits of runs to each cluster.
    runs : tuple of RunSummary
        Statistics of each run, by ascending id.
    markov : MarkovModel or None
        Markov model of all runs; None if it was not requested, or if no state leads to another and back.
    n_steps, n_predicted : int
        Number of all steps, and of those whose cluster is predicted.
    """

    clustering: UUID
    sampling: int
    lag: int
    groups: tuple[GroupSummary, ...]
    total: GroupSummary
    transitions: Transitions
    clusters: ClusterVisits
    runs: tuple[RunSummary, ...]
    markov: MarkovModel | None = None
    n_steps: int = 0
    n_predicted: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the object that `show-trajectories --json` prints, of plain values and without the runs."""
        return {
            "clustering": str(self.clustering),
            "lag": self.lag,
            "n_steps": self.n_steps,
            "n_predicted": self.n_predicted,
            "groups": [group.to_dict() for group in self.groups],
            "total": self.total.to_dict() if self.runs else None,
            "transitions": self.transitions.to_dicts(),
            "clusters": self.clusters.to_dicts(),
            "markov": None if self.markov is None else self.markov.to_dict(),
        }


class Recurrences(dict[str, Recurrence]):
    """Repeats of the texts of each run, by id of the run; no text is stored."""

    def add(self, run: RunTexts) -> None:
        """Add the texts of a run."""
        self[run.run_id] = find_recurrence(run.steps, run.texts)


def study_trajectories(
    database: Database,
    clustering: ClusteringSummary,
    *,
    by: str = NETWORK,
    lag: int | None = None,
    core_probability: float = 0.0,
    with_markov: bool = False,
    progress: Progress | None = None,
) -> TrajectoryStudy:
    """Read all runs of a clustering, and compute their statistics.

    Parameters
    ----------
    database : Database
        Read in one short transaction.
    clustering : ClusteringSummary
        One that is stored.
    by : str
        Key by which runs are grouped, one of `GROUPINGS`. The model is the one that wrote the sampled
        outputs; if there are several, their names are joined.
    lag : int, optional
        Output steps between the two states of a transition; by default those from one sampled step to the
        next.
    core_probability : float
        Members of a cluster with at least this membership probability are its core; at 0 all are.
    with_markov : bool
        Whether to fit a Markov model; deeptime is imported for its metastable sets only.
    progress : Progress, optional
        Told the rows read.

    Raises
    ------
    InvalidParameter
        There are no pairs of steps at that lag, `core_probability` is not between 0 and 1, or `by` is
        unknown.

    Notes
    -----
    A run that never visits a core contributes no dwell times and no transitions, and has not settled. All its
    steps are in transit. Memory: about 200 bytes per assignment.
    """
    progress = progress or Silent()
    sampling = clustering.record.downsample or 1
    if by not in GROUPINGS:
        raise InvalidParameter(f"by must be one of {'; '.join(GROUPINGS)}; got {by!r}")
    if lag is not None:
        _require_multiple(lag, sampling)
    with open_clustering(database, clustering, progress) as stored:
        steps = stored.all_steps
        trajectories = find_states(steps, core_probability=core_probability)
        n_predicted = int(stored.mark_predicted(steps).sum())
        if lag is not None:
            _require_pairs(trajectories, lag)
        recurrences = Recurrences()
        stored.read_texts(recurrences.add, steps=steps)
        wanted = _choose_outputs(steps, stored.runs) if by == MODEL else []
        writers = list(read_writers(stored.connection, wanted))
        facts = stored.runs
    progress.phase("compute statistics")
    study = sum_up(clustering, trajectories, facts, recurrences, by=by, lag=lag, writers=writers)
    study = replace(study, n_predicted=n_predicted)
    if not with_markov:
        return study
    progress.phase("fit a Markov model")
    return replace(study, markov=fit_markov(trajectories, study.lag))


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
    """Compute the statistics of runs from data that was read.

    Parameters
    ----------
    clustering, by, lag
        As for `study_trajectories`, which checks them.
    trajectories : Trajectories
        The steps of the clustering.
    facts, recurrences : mapping
        Facts (network, prompt, seed) and repeats of texts, by id of the run.
    writers : sequence of set of str
        Models that wrote the outputs of each run; needed only for `MODEL`.
    """
    sampling = clustering.record.downsample or 1
    runs = _summarise_runs(trajectories, facts, recurrences)
    n_clusters = max(clustering.record.n_clusters, int(trajectories.states.max(initial=-1)) + 1)
    return TrajectoryStudy(
        clustering=clustering.id,
        sampling=sampling,
        lag=lag or sampling,
        groups=_group_by_key(runs, _make_keys(runs, by, writers), sampling),
        total=summarise_group({}, runs, sampling=sampling),
        transitions=count_transitions(trajectories, lag or sampling),
        clusters=visits_of_clusters(find_visits(trajectories), n_clusters, sampling=sampling),
        runs=runs,
        n_steps=len(trajectories.steps),
    )


def group_runs(study: TrajectoryStudy, by: str) -> tuple[GroupSummary, ...]:
    """Group the runs of a study by another key, without intervals.

    `MODEL` is not possible, because it needs the database.

    Raises
    ------
    InvalidParameter
        `by` is unknown.
    """
    if by not in GROUPINGS or by == MODEL:
        raise InvalidParameter(f"by must be one of {'; '.join(set(GROUPINGS) - {MODEL})}; got {by!r}")
    return _group_by_key(study.runs, _make_keys(study.runs, by, ()), study.sampling, with_intervals=False)


def classify_runs(runs: Sequence[RunSummary], by: str) -> tuple[list[Any], IntArray]:
    """Return the networks or prompts of runs in alphabetical order, and the position of each run's.

    None, for deleted runs, comes last. Unlike among groups, texts with an apostrophe come first.
    """
    distinct, codes = _number_keys(_make_keys(runs, by, ()), lambda key: (key[by] is None, repr(key[by])))
    return [key[by] for key in distinct], codes


def find_run(study: TrajectoryStudy, reference: str) -> RunSummary:
    """Return the run that an id, with or without dashes, or the beginning of one stands for.

    Raises
    ------
    WrongUsage
        No run or several runs match.
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


def _choose_outputs(steps: RunSteps, facts: Mapping[str, RunFacts]) -> Iterator[tuple[str, list[int]]]:
    """Choose outputs that show the writers of a run: one for each sampled position in its network.

    The models of a network take turns, so all outputs at one position are written by one model.
    """
    for number, run in enumerate(steps.run_ids):
        numbers = steps.sequence_numbers[steps.offsets[number] : steps.offsets[number + 1]]
        period = max(1, len(facts[run].network)) if run in facts else 1
        _, first = np.unique(numbers % period, return_index=True)
        yield run, numbers[first].tolist()


def _summarise_runs(
    trajectories: Trajectories, facts: Mapping[str, RunFacts], recurrences: Mapping[str, Recurrence]
) -> tuple[RunSummary, ...]:
    visits = find_visits(trajectories)
    table = np.column_stack([visits.states, visits.first_steps, visits.dwells])
    of_runs = np.split(table, np.searchsorted(visits.runs, np.arange(1, len(trajectories.run_ids))))
    counts = np.diff(trajectories.offsets)
    outside = np.bincount(trajectories.run_numbers[trajectories.flags != CORE], minlength=len(counts))
    settled, since = find_settled(trajectories, visits)
    summaries = []
    for number, run in enumerate(trajectories.run_ids):
        has_settled = settled[number] != NO_STATE
        summaries.append(
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
    return tuple(summaries)


def _make_keys(runs: Sequence[RunSummary], by: str, writers: Sequence[set[str]]) -> list[dict[str, Any]]:
    """Return the key of each run's group."""
    if by == MODEL:
        return [{MODEL: ", ".join(sorted(models)) or None} for models in writers]
    return [{name: _read_value(name, run.facts) for name in by.split(",")} for run in runs]


def _read_value(name: str, facts: RunFacts | None) -> str | list[str] | None:
    if facts is None:
        return None
    if name == PROMPT:
        return facts.initial_prompt
    # A run begins with a prompt, of which its first model makes an image; then the models take turns.
    return list({NETWORK: facts.network, T2I: facts.network[::2], I2T: facts.network[1::2]}[name])


def _group_by_key(
    runs: Sequence[RunSummary],
    keys: Sequence[dict[str, Any]],
    sampling: int,
    *,
    with_intervals: bool = True,
) -> tuple[GroupSummary, ...]:
    distinct, codes = _number_keys(keys, partial(json.dumps, ensure_ascii=False))
    return tuple(
        summarise_group(
            key,
            [runs[number] for number in np.flatnonzero(codes == code).tolist()],
            sampling=sampling,
            with_intervals=with_intervals,
        )
        for code, key in enumerate(distinct)
    )


def _number_keys(
    keys: Sequence[dict[str, Any]], name: Callable[[dict[str, Any]], Any]
) -> tuple[list[dict[str, Any]], IntArray]:
    """Return the distinct keys in the order of their names, and the position of each key among them."""
    names = [name(key) for key in keys]
    distinct = dict(sorted(zip(names, keys, strict=True), key=itemgetter(0)))
    codes = {text: code for code, text in enumerate(distinct)}
    return list(distinct.values()), np.array([codes[text] for text in names], dtype=np.int64)
