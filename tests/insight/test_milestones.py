"""Compare states, visits and transitions of label sequences with a loop over the steps."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from panic_tda.insight.milestones import (
    FLAGS,
    Trajectories,
    count_transitions,
    find_settled,
    find_states,
    find_visits,
)
from panic_tda.storage.read.trajectories import RunSteps
from tests.insight import reference_trajectories as reference

Step = tuple[int, float]
Run = dict[int, Step]
"""Label and probability by output step."""

steps = st.tuples(st.integers(-1, 3), st.sampled_from([0.0, 0.2, 0.5, 1.0]))
some_runs = st.lists(st.dictionaries(st.integers(0, 60), steps, min_size=1, max_size=50), max_size=5)


def laid_out(runs: list[Run]) -> RunSteps:
    in_order = [(step, *run[step]) for run in runs for step in sorted(run)]
    columns = list(zip(*in_order, strict=True)) or [(), (), ()]
    n = len(in_order)
    return RunSteps(
        run_ids=tuple(f"{number:032x}" for number in range(len(runs))),
        offsets=np.cumsum([0, *map(len, runs)]),
        steps=np.array(columns[0], dtype=np.int64),
        sequence_numbers=2 * np.array(columns[0], dtype=np.int64) + 1,
        are_texts=np.ones(n, dtype=bool),
        rows=np.arange(n),
        labels=np.array(columns[1], dtype=np.int64),
        probabilities=np.array(columns[2], dtype=float),
    )


def of_runs(values: np.ndarray, trajectories: Trajectories) -> list[list[int]]:
    return (
        [part.tolist() for part in np.split(values, trajectories.offsets[1:-1])]
        if trajectories.run_ids
        else []
    )


def walks(runs: list[Run], core: float) -> list[tuple[list[int], list[int], list[str]]]:
    walks_of_runs = []
    for run in runs:
        order = sorted(run)
        states, flags = reference.states_of([run[t][0] for t in order], [run[t][1] for t in order], core)
        walks_of_runs.append((order, states, flags))
    return walks_of_runs


@given(some_runs, st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([1, 2, 10, 70]))
def test_milestones_equal_a_step_by_step_computation(runs: list[Run], core: float, lag: int) -> None:
    expected_states = find_states(laid_out(runs), core_probability=core)
    expected = walks(runs, core)
    assert of_runs(expected_states.states, expected_states) == [states for _, states, _ in expected]
    assert [[FLAGS[code] for code in codes] for codes in of_runs(expected_states.flags, expected_states)] == [
        flags for *_, flags in expected
    ]
    visits = find_visits(expected_states)
    stretches = [reference.visits_of(order, states) for order, states, _ in expected]
    columns = (visits.runs, visits.states, visits.first_steps, visits.dwells)
    assert np.column_stack(columns).tolist() == [
        [number, *visit] for number, of_run in enumerate(stretches) for visit in of_run
    ]
    assert visits.censored.tolist() == [visit is of_run[-1] for of_run in stretches for visit in of_run]
    assert of_runs(expected_states.visits, expected_states) == [
        [sum(first <= t for _, first, _ in of_run) - 1 for t in order]
        for of_run, (order, *_) in zip(stretches, expected, strict=True)
    ]
    settled = find_settled(expected_states, visits)
    by_hand = [
        reference.settled_of(order, flags, of_run)
        for of_run, (order, _, flags) in zip(stretches, expected, strict=True)
    ]
    none = (None, None)
    assert list(zip(*(part.tolist() for part in settled), strict=True)) == [
        (-1, -1) if state == none else state for state in by_hand
    ]
    pairs: Counter[tuple[int, int]] = Counter()
    for order, states, _ in expected:
        pairs += reference.transitions_of(order, states, lag)
    counted = count_transitions(expected_states, lag)
    columns = (counted.sources.tolist(), counted.targets.tolist(), counted.counts.tolist())
    assert list(zip(*columns, strict=True)) == [(*pair, count) for pair, count in sorted(pairs.items())]


def test_pairs_do_not_reach_into_the_next_run() -> None:
    runs = [{0: (0, 1.0), 1: (1, 1.0)}, {2: (2, 1.0), 3: (3, 1.0)}]
    counted = count_transitions(find_states(laid_out(runs)), 1)
    assert list(zip(counted.sources.tolist(), counted.targets.tolist(), strict=True)) == [(0, 1), (2, 3)]


def test_step_numbers_may_be_any_integers() -> None:
    last = 2**62
    states = find_states(laid_out([{0: (0, 1.0), last: (1, 1.0)}] * 3))
    assert count_transitions(states, last).counts.tolist() == [3]
    assert find_visits(states).dwells.tolist() == [last, 1] * 3
