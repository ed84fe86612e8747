"""What is said of the runs in a clustering: what groups of them do, and the path of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from panic_tda.cli.rendering.common import PIPE_COLUMNS, percent, yes_no
from panic_tda.cli.text import Column, on_one_line, paragraph, shorten, shorten_ids, table
from panic_tda.insight.dwell import DwellStatistics
from panic_tda.insight.milestones import Transitions
from panic_tda.insight.trajectories import GroupSummary, RunSummary, TrajectoryStudy
from panic_tda.storage.read.census import show_id
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.wording import pluralize

_TRANSITIONS_SHOWN = 5
_STATES_NAMED = 10
_PARAGRAPH_WIDTH = 110
_GROUP_COLUMNS = (
    Column("runs", right=True),
    Column("steps", right=True, rank=3),
    Column("transit", right=True),
    Column("settled", right=True, rank=2),
    Column("fixed", right=True),
    Column("loops", right=True),
    Column("from step", right=True, rank=4),
    Column("visits", right=True, rank=5),
    Column("dwell", right=True),
    Column("shape", right=True, rank=1),
    Column("heavy tail", rank=6),
)
_RUN_COLUMNS = (
    Column("run"),
    Column("steps", right=True, rank=5),
    Column("visits", right=True, rank=3),
    Column("transit", right=True, rank=2),
    Column("settled in", right=True),
    Column("at", right=True, rank=1),
    Column("period", right=True),
    Column("from step", right=True),
    Column("texts", right=True, rank=4),
)
_TRANSITION_COLUMNS = (
    Column("count", right=True),
    Column("from", right=True),
    Column("text", elastic=True),
    Column("to", right=True),
    Column("text", elastic=True),
)


def trajectories_json(study: TrajectoryStudy, runs: Sequence[RunSummary] | None = None) -> dict[str, Any]:
    """Return the object that `show-trajectories --json` prints, with these runs where some were asked for."""
    found = study.transitions
    columns = (found.sources.tolist(), found.targets.tolist(), found.counts.tolist())
    said = {
        "clustering": str(study.clustering),
        "lag": study.lag,
        "groups": [_group_json(group) for group in study.groups],
        "transitions": [
            {"from": source, "to": target, "count": count}
            for source, target, count in zip(*columns, strict=True)
        ],
    }
    return said if runs is None else said | {"runs": [_run_json(run) for run in runs]}


def trajectories_text(
    study: TrajectoryStudy,
    clustering: ClusteringSummary,
    texts: Mapping[int, str | None],
    *,
    width: int,
) -> str:
    """Say what the runs of a clustering do, group by group, then all of them.

    Parameters
    ----------
    study, clustering
        What was found, and where.
    texts : mapping of int to str or None
        Texts of the medoids of the clusters that `shown_states` names.
    width : int
        Columns of the terminal.
    """
    apart = f", {study.sampling} from one sampled step to the next" if study.sampling > 1 else ""
    head = f"Trajectories in clustering {study.clustering} of {on_one_line(clustering.embedding_model)}"
    narrow = min(width, PIPE_COLUMNS)
    parts = [f"{paragraph(head, narrow)}\n{paragraph(f'Times are output steps{apart}.', narrow)}"]
    if not study.runs:
        return "\n\n".join([*parts, "No run has a step in it any more."])
    names = list(study.groups[0].group)
    heads = [Column(name, elastic=True) for name in names]
    # A prompt may be long, and is not to push the numbers out.
    room = max(20, width // 2 // len(names))
    rows = [
        [*(shorten(_named(value), room) for value in group.group.values()), *_group_cells(group)]
        for group in study.groups
    ]
    parts.append(table([*heads, *_GROUP_COLUMNS], rows, width))
    parts.append(paragraph(_totals(study.total), min(width, _PARAGRAPH_WIDTH)))
    frequent = _frequent(study.transitions)
    if frequent:
        rows = [
            [str(count), str(source), _medoid(texts, source), str(target), _medoid(texts, target)]
            for source, target, count in frequent
        ]
        listed = table(_TRANSITION_COLUMNS, rows, width)
        parts.append(f"Most frequent transitions at lag {study.lag}:\n{listed}")
    return "\n\n".join(parts)


def runs_text(runs: Sequence[RunSummary], width: int) -> str:
    """Return one line a run, of all that are in the clustering."""
    names = shorten_ids(show_id(run.run_id) for run in runs)
    rows = [
        (
            names[show_id(run.run_id)],
            str(run.n_steps),
            str(len(run.visits)),
            percent(run.transit_steps, run.n_steps),
            _or_dash(run.settled_in),
            _or_dash(run.settled_at),
            _or_dash(run.period),
            _or_dash(run.absorbed_at),
            str(run.distinct_texts),
        )
        for run in runs
    ]
    return table(_RUN_COLUMNS, rows, width)


def run_text(run: RunSummary, texts: Mapping[int, str | None], width: int) -> str:
    """Say where a run went: its states with their dwells as one line, then what it ended in."""
    origin = [show_id(run.run_id)]
    if run.facts is not None:
        prompt = on_one_line(run.facts.initial_prompt)
        origin += [_named(list(run.facts.network)), f'"{prompt}"', f"seed {run.facts.seed}"]
    narrow = min(width, PIPE_COLUMNS)
    path = " → ".join(f"{state}×{dwell}" for state, _, dwell in run.visits.tolist())
    return "\n".join(
        [
            shorten(f"Run {', '.join(origin)}", width),
            paragraph(f"{path}+", narrow),
            paragraph(f"{_ending(run)}.", narrow),
            *_legend(run, texts, width),
        ]
    )


def shown_states(study: TrajectoryStudy, run: RunSummary | None = None) -> set[int]:
    """Return the clusters that the text names, of which it needs the medoids' texts."""
    pairs = _frequent(study.transitions)
    return {label for source, target, _ in pairs for label in (source, target)} | set(
        _longest_in(run) if run is not None else ()
    )


def _group_json(group: GroupSummary) -> dict[str, Any]:
    return {
        "group": group.group,
        "n_runs": group.n_runs,
        "n_steps": group.n_steps,
        "transit_share": group.transit_steps / group.n_steps,
        "settled_runs": group.settled_runs,
        "periodic_runs": {str(period): count for period, count in group.periodic_runs.items()},
        "median_absorbed_at": group.median_absorbed_at,
        "dwell": {
            "visits": group.dwell.visits,
            "censored": group.dwell.censored,
            "median": group.dwell.median,
            "weibull_shape": group.dwell.weibull_shape,
            "heavier_than_exponential": group.dwell.heavier_than_exponential,
        },
    }


def _run_json(run: RunSummary) -> dict[str, Any]:
    return {
        "run_id": show_id(run.run_id),
        "n_steps": run.n_steps,
        "distinct_texts": run.distinct_texts,
        "period": run.period,
        "absorbed_at": run.absorbed_at,
        "settled_in": run.settled_in,
        "settled_at": run.settled_at,
        "transit_share": run.transit_steps / run.n_steps,
        "visits": run.visits.tolist(),
    }


def _group_cells(group: GroupSummary) -> list[str]:
    fixed, loops = _periodic(group)
    return [
        str(group.n_runs),
        str(group.n_steps),
        percent(group.transit_steps, group.n_steps),
        str(group.settled_runs),
        str(fixed),
        str(loops),
        _or_dash(group.median_absorbed_at),
        str(group.dwell.visits),
        _or_dash(group.dwell.median),
        "-" if group.dwell.weibull_shape is None else f"{group.dwell.weibull_shape:.2f}",
        yes_no(group.dwell.heavier_than_exponential),
    ]


def _totals(total: GroupSummary) -> str:
    fixed, loops = _periodic(total)
    median = total.median_absorbed_at
    since = "" if median is None else f" (the median from step {median:g} on)"
    return (
        f"{'The only run' if total.n_runs == 1 else f'All {total.n_runs} runs'}: "
        f"{percent(total.transit_steps, total.n_steps)} of {total.n_steps} "
        f"{pluralize(total.n_steps, 'step is', 'steps are')} in transit, {total.settled_runs} settled in a "
        f"cluster, {fixed} {pluralize(fixed, 'ends', 'end')} in a fixed point of "
        f"{pluralize(total.n_runs, 'its', 'their')} texts and {loops} in a loop{since}. "
        f"{_dwelling(total.dwell)}"
    )


def _dwelling(dwell: DwellStatistics) -> str:
    visits, were = pluralize(dwell.visits, "visit"), pluralize(dwell.censored, "was", "were")
    said = f"Of {dwell.visits} {visits}, {dwell.censored} {were} cut off by the end of a run"
    if dwell.median is not None:
        said += f"; half of them end within {dwell.median:g} {pluralize(dwell.median, 'step')}"
    if dwell.weibull_shape is None:
        return f"{said}."
    heavy = "the longer one has lasted the longer it goes on"
    light = "their tail is no heavier than the exponential one"
    return (
        f"{said}; {heavy if dwell.heavier_than_exponential else light} "
        f"(Weibull shape {dwell.weibull_shape:.2f})."
    )


def _ending(run: RunSummary) -> str:
    said = [
        f"{percent(run.transit_steps, run.n_steps)} of {run.n_steps} "
        f"{pluralize(run.n_steps, 'step')} in transit"
    ]
    if run.settled_in is not None:
        said.append(f"settled in {run.settled_in} at step {run.settled_at}")
    n_texts = run.distinct_texts + run.returns
    said.append(f"{run.distinct_texts} different {pluralize(run.distinct_texts, 'text')} of {n_texts}")
    if run.period == 1:
        said.append(f"a fixed point from step {run.absorbed_at} on")
    elif run.period is not None:
        said.append(f"a loop of {run.period} from step {run.absorbed_at} on")
    return ", ".join(said)


def _legend(run: RunSummary, texts: Mapping[int, str | None], width: int) -> list[str]:
    return [shorten(f"{label:>5}  {_medoid(texts, label)}", width) for label in _longest_in(run)]


def _longest_in(run: RunSummary) -> list[int]:
    """Return the states in which a run was longest."""
    dwells: Counter[int] = Counter()
    for state, _, dwell in run.visits.tolist():
        dwells[state] += dwell
    return [state for state, _ in dwells.most_common(_STATES_NAMED) if state >= 0]


def _frequent(transitions: Transitions) -> list[tuple[int, int, int]]:
    """Return the commonest transitions from one state to another."""
    columns = (transitions.sources.tolist(), transitions.targets.tolist(), transitions.counts.tolist())
    moves = [
        (source, target, count) for source, target, count in zip(*columns, strict=True) if source != target
    ]
    return sorted(moves, key=lambda move: -move[2])[:_TRANSITIONS_SHOWN]


def _periodic(group: GroupSummary) -> tuple[int, int]:
    fixed = group.periodic_runs.get(1, 0)
    return fixed, sum(group.periodic_runs.values()) - fixed


def _medoid(texts: Mapping[int, str | None], label: int) -> str:
    return on_one_line(texts.get(label) or "") or "(no text)"


def _named(value: Any) -> str:
    if value is None:
        return "(gone)"
    return on_one_line(" → ".join(map(str, value)) if isinstance(value, list) else str(value))


def _or_dash(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
