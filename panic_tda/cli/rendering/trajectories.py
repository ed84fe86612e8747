"""Render trajectories: numbers by group of runs, all runs, and the path of a run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from panic_tda.cli.rendering.common import PIPE_COLUMNS, percent
from panic_tda.cli.text import Column, paragraph, shorten, table
from panic_tda.insight.intervals import Interval
from panic_tda.insight.markov import MarkovModel
from panic_tda.insight.memoryless import SIGNIFICANCE
from panic_tda.insight.milestones import Transitions
from panic_tda.insight.run_groups import GroupSummary, NetworkComparison, RunSummary
from panic_tda.insight.trajectories import TrajectoryStudy
from panic_tda.storage.read.census import show_id
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.wording import on_one_line, pluralize, shorten_ids

_TRANSITIONS_SHOWN = 5
_STATES_NAMED = 10
_PARAGRAPH_WIDTH = 110
_GROUP_COLUMNS = (
    Column("runs", right=True),
    Column("steps", right=True, rank=3),
    Column("transit", right=True),
    Column("settled", right=True, rank=2),
    Column("repeat", right=True),
    Column("loops", right=True),
    Column("from step", right=True, rank=4),
    Column("visits", right=True, rank=5),
    Column("dwell", right=True),
    Column("shape", right=True, rank=1),
    Column("p", right=True, rank=6),
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
_DIFFERENCES_SHOWN = 5
_DIFFERENCE_COLUMNS = (
    Column("quantity"),
    Column("network", elastic=True),
    Column("minus that of", elastic=True),
    Column("difference", right=True),
    Column("p", right=True),
)
_TRANSITION_COLUMNS = (
    Column("count", right=True),
    Column("from", right=True),
    Column("text", elastic=True),
    Column("to", right=True),
    Column("text", elastic=True),
)


def trajectories_text(
    study: TrajectoryStudy,
    clustering: ClusteringSummary,
    texts: Mapping[int, str | None],
    *,
    width: int,
) -> str:
    """Return the numbers of the runs of a clustering, by group and for all runs.

    Parameters
    ----------
    study, clustering
        Result of the analysis, and the clustering it was made of.
    texts : mapping of int to str or None
        Texts of the medoids of the clusters that `shown_states` names.
    width : int
        Columns of the terminal.
    """
    apart = f", {study.sampling} from one sampled step to the next" if study.sampling > 1 else ""
    predicted = (
        f" The clusters of {study.n_predicted:,} {pluralize(study.n_predicted, 'step')} are predicted."
        if study.n_predicted
        else ""
    )
    head = f"Trajectories in clustering {study.clustering} of {on_one_line(clustering.embedding_model)}"
    narrow = min(width, PIPE_COLUMNS)
    parts = [f"{paragraph(head, narrow)}\n{paragraph(f'Times are output steps{apart}.{predicted}', narrow)}"]
    if not study.runs:
        return "\n\n".join([*parts, "No run has a step left in this clustering."])
    names = list(study.groups[0].group)
    heads = [Column(name, elastic=True) for name in names]
    # A long prompt must not displace the numbers.
    room = max(20, width // 2 // len(names))
    rows = [
        [*(shorten(_format_name(value), room) for value in group.group.values()), *_format_group(group)]
        for group in study.groups
    ]
    parts.append(table([*heads, *_GROUP_COLUMNS], rows, width))
    parts.append(paragraph(_describe_totals(study.total), min(width, _PARAGRAPH_WIDTH)))
    if study.markov is not None:
        parts.append(paragraph(_describe_markov_model(study.markov), min(width, _PARAGRAPH_WIDTH)))
    frequent = _find_frequent_transitions(study.transitions)
    if frequent:
        rows = [
            [
                str(count),
                str(source),
                _format_medoid(texts, source),
                str(target),
                _format_medoid(texts, target),
            ]
            for source, target, count in frequent
        ]
        listed = table(_TRANSITION_COLUMNS, rows, width)
        parts.append(f"Most frequent transitions at lag {study.lag}:\n{listed}")
    return "\n\n".join(parts)


def comparison_text(comparison: NetworkComparison, width: int) -> str:
    """Return the networks that differ within prompts, and the variance that models and prompts explain."""
    names = [" → ".join(map(on_one_line, network)) for network in comparison.networks]
    differing = sorted(
        (difference for difference in comparison.differences if difference.p_adjusted < SIGNIFICANCE),
        key=lambda difference: difference.p_adjusted,
    )
    narrow = min(width, _PARAGRAPH_WIDTH)
    parts = []
    if comparison.differences:
        head = (
            f"{len(differing)} of {len(comparison.differences)} differences between networks within prompts "
            f"{pluralize(len(differing), 'is', 'are')} significant (whole runs permuted, Holm, 5 %)."
        )
        rows = [
            (
                difference.figure,
                names[difference.a],
                names[difference.b],
                f"{difference.difference:+.3f}",
                _format_p_value(difference.p_adjusted),
            )
            for difference in differing[:_DIFFERENCES_SHOWN]
        ]
        listed = table(_DIFFERENCE_COLUMNS, rows, width) if rows else ""
        parts.append("\n".join(filter(None, [paragraph(head, narrow), listed])))
    if comparison.variance:
        figures = dict.fromkeys(share.figure for share in comparison.variance)
        factors = dict.fromkeys(share.factor for share in comparison.variance)
        shares = {
            (share.figure, share.factor): f"{100 * share.adjusted:.1f} %{_format_percents(share.interval)}"
            for share in comparison.variance
        }
        columns = [Column("variance between runs"), *(Column(name, right=True) for name in factors)]
        cells = [[figure, *(shares.get((figure, name), "-") for name in factors)] for figure in figures]
        parts.append(table(columns, cells, width))
    return "\n\n".join(parts)


def runs_text(runs: Sequence[RunSummary], width: int) -> str:
    """Return one line per run of the clustering."""
    names = shorten_ids(show_id(run.run_id) for run in runs)
    rows = [
        (
            names[show_id(run.run_id)],
            str(run.n_steps),
            str(len(run.visits)),
            percent(run.transit_steps, run.n_steps),
            _format_optional(run.settled_in),
            _format_optional(run.settled_at),
            _format_optional(run.period),
            _format_optional(run.absorbed_at),
            str(run.distinct_texts),
        )
        for run in runs
    ]
    return table(_RUN_COLUMNS, rows, width)


def run_text(run: RunSummary, texts: Mapping[int, str | None], width: int) -> str:
    """Return the path of a run: its states with their dwell times, then how it ended."""
    origin = [show_id(run.run_id)]
    if run.facts is not None:
        prompt = on_one_line(run.facts.initial_prompt)
        origin += [_format_name(list(run.facts.network)), f'"{prompt}"', f"seed {run.facts.seed}"]
    narrow = min(width, PIPE_COLUMNS)
    path = " → ".join(f"{state}×{dwell}" for state, _, dwell in run.visits.tolist())
    return "\n".join(
        [
            shorten(f"Run {', '.join(origin)}", width),
            paragraph(f"{path}+", narrow),
            paragraph(f"{_describe_end(run)}.", narrow),
            *_list_medoids(run, texts, width),
        ]
    )


def shown_states(study: TrajectoryStudy, run: RunSummary | None = None) -> set[int]:
    """Return the labels of the clusters that the text shows with the texts of their medoids."""
    pairs = _find_frequent_transitions(study.transitions)
    return {label for source, target, _ in pairs for label in (source, target)} | set(
        _find_longest_clusters(run) if run is not None else ()
    )


def _format_group(group: GroupSummary) -> list[str]:
    fixed, loops = _count_periodic_runs(group)
    test = group.dwell.memoryless
    return [
        str(group.n_runs),
        str(group.n_steps),
        percent(group.transit_steps, group.n_steps),
        str(group.settled_runs),
        str(fixed),
        str(loops),
        _format_optional(group.absorption.median),
        str(group.dwell.visits),
        _format_optional(group.dwell.median),
        "-" if test is None else f"{test.shape:.2f}",
        "-" if test is None else _format_p_value(test.p_value),
    ]


def _describe_totals(total: GroupSummary) -> str:
    one_text, loops = _count_periodic_runs(total)
    stretches = total.stretches.reached_end + total.stretches.left_again
    sentences = [
        f"{'The only run' if total.n_runs == 1 else f'All {total.n_runs} runs'}: "
        f"{percent(total.transit_steps, total.n_steps)}{_format_percents(total.intervals['transit_share'])} "
        f"of {total.n_steps} "
        f"{pluralize(total.n_steps, 'step is', 'steps are')} in transit, {total.settled_runs} settled in a "
        f"cluster, {one_text} {pluralize(one_text, 'repeats', 'repeat')} one text until the end and {loops} "
        f"a loop{_describe_absorption(total)}."
    ]
    if stretches:
        left = total.stretches.left_again
        sentences.append(
            f"Of {stretches} {pluralize(stretches, 'stretch', 'stretches')} of repeats, {left} "
            f"{pluralize(left, 'was', 'were')} left again."
        )
    return " ".join([*sentences, _describe_dwell_times(total)])


def _describe_absorption(total: GroupSummary) -> str:
    absorption = total.absorption
    if absorption.median is not None:
        return f" (half do from step {absorption.median:g} on{_format_interval(total, 'median_absorbed_at')})"
    if absorption.share is None:
        return ""
    by_step = f"{100 * absorption.share:.1f} % from step {absorption.within:g} or before"
    return f" ({by_step}; fewer than half in total)"


def _describe_dwell_times(total: GroupSummary) -> str:
    dwell = total.dwell
    visits, were = pluralize(dwell.visits, "visit"), pluralize(dwell.censored, "was", "were")
    sentence = f"Of {dwell.visits} {visits}, {dwell.censored} {were} cut off by the end of a run"
    if dwell.median is not None:
        steps = pluralize(dwell.median, "step")
        sentence += (
            f"; half of them end within {dwell.median:g} {steps}{_format_interval(total, 'median_dwell')}"
        )
    test = dwell.memoryless
    if test is None:
        return f"{sentence}."
    clusters = pluralize(test.n_clusters, "cluster")
    heavier = "Within clusters, the longer a visit has lasted the longer it goes on: " * test.is_heavier
    return (
        f"{sentence}. {heavier}Weibull shape {test.shape:.2f}"
        f"{_format_interval(total, 'weibull_shape', '.2f')}, memoryless visits would have "
        f"{test.expected_shape:.2f}, p {_format_p_value(test.p_value)}, within {test.n_clusters} {clusters}."
    )


def _describe_markov_model(model: MarkovModel) -> str:
    sentences = [
        f"Markov model at lag {model.lag}: clusters in it {len(model.states)} of {model.n_visited}, with "
        f"{100 * model.transition_share:.1f} % of the transitions; imbalance of flows {model.imbalance:.3f}, "
        f"by sampling alone up to {model.imbalance_expected:.3f}"
    ]
    if model.timescales:
        first, last = model.timescales[0], model.timescales[-1]
        interval = first.slowest
        span = "" if interval is None else f" ({interval.low:.1f} to {interval.high:.1f})"
        sentences.append(
            f"Slowest time scale in steps: {first.timescales[0]:.1f}{span} at lag {first.lag}, "
            f"{last.timescales[0]:.1f} at lag {last.lag}; a Markov process has the same at every lag"
        )
    for test in model.chapman_kolmogorov[:1]:
        sentences.append(
            f"Chapman-Kolmogorov test at lag {model.lag * test.steps}: largest difference "
            f"{test.largest_difference:.3f}, by sampling alone up to {test.expected:.3f}"
        )
    if model.absorbing:
        sentences.append(
            f"{len(model.absorbing)} {pluralize(len(model.absorbing), 'set')} of clusters "
            f"{pluralize(len(model.absorbing), 'was', 'were')} entered and not seen to be left"
        )
    if model.metastable is not None:
        sentences.append(f"Metastable sets: {len(model.metastable)}")
    return ". ".join(sentences) + "."


def _format_interval(total: GroupSummary, name: str, digits: str = "g") -> str:
    """Return a 95 % interval in brackets."""
    interval = total.intervals[name]
    if interval is None:
        return ""
    high = f"{interval.high:{digits}}" if math.isfinite(interval.high) else "not reached"
    return f" ({interval.low:{digits}} to {high})"


def _format_percents(interval: Interval | None) -> str:
    return "" if interval is None else f" ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def _describe_end(run: RunSummary) -> str:
    parts = [
        f"{percent(run.transit_steps, run.n_steps)} of {run.n_steps} "
        f"{pluralize(run.n_steps, 'step')} in transit"
    ]
    if run.settled_in is not None:
        parts.append(f"settled in {run.settled_in} at step {run.settled_at}")
    n_texts = run.distinct_texts + run.returns
    parts.append(f"{run.distinct_texts} different {pluralize(run.distinct_texts, 'text')} of {n_texts}")
    if run.period is not None:
        loop = "" if run.period == 1 else f"a loop of {run.period} "
        parts.append(f"{loop}repeats until the end from step {run.absorbed_at} on ({run.repeats} times)")
    return ", ".join(parts)


def _list_medoids(run: RunSummary, texts: Mapping[int, str | None], width: int) -> list[str]:
    return [
        shorten(f"{label:>5}  {_format_medoid(texts, label)}", width) for label in _find_longest_clusters(run)
    ]


def _find_longest_clusters(run: RunSummary) -> list[int]:
    """Return the clusters in which a run spent most steps."""
    dwells: Counter[int] = Counter()
    for state, _, dwell in run.visits.tolist():
        dwells[state] += dwell
    return [state for state, _ in dwells.most_common(_STATES_NAMED) if state >= 0]


def _find_frequent_transitions(transitions: Transitions) -> list[tuple[int, int, int]]:
    """Return the most frequent transitions between different states."""
    columns = (transitions.sources.tolist(), transitions.targets.tolist(), transitions.counts.tolist())
    moves = [
        (source, target, count) for source, target, count in zip(*columns, strict=True) if source != target
    ]
    return sorted(moves, key=lambda move: -move[2])[:_TRANSITIONS_SHOWN]


def _count_periodic_runs(group: GroupSummary) -> tuple[int, int]:
    fixed = group.periodic_runs.get(1, 0)
    return fixed, sum(group.periodic_runs.values()) - fixed


def _format_medoid(texts: Mapping[int, str | None], label: int) -> str:
    return on_one_line(texts.get(label) or "") or "(no text)"


def _format_name(value: Any) -> str:
    if value is None:
        return "(deleted)"
    return on_one_line(" → ".join(map(str, value)) if isinstance(value, list) else str(value))


def _format_p_value(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _format_optional(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
