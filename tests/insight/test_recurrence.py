"""Test that repeated texts match the definition, with and without missing steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from panic_tda.insight.recurrence import (
    Absorption,
    Recurrence,
    describe_absorption,
    describe_stretches,
    find_recurrence,
)
from tests.insight import reference_trajectories as reference


def found_in(texts: dict[int, str]) -> Recurrence:
    steps = sorted(texts)
    return find_recurrence(np.array(steps, dtype=np.int64), [texts[step] for step in steps])


def spelled(word: str, first: int = 0) -> dict[int, str]:
    """Make one text per letter; a dot is a missing step."""
    return {first + step: letter for step, letter in enumerate(word) if letter != "."}


@pytest.mark.parametrize(
    ("word", "period", "absorbed_at"),
    [
        ("", None, None),
        ("a", None, None),
        ("aa", None, None),
        ("aaa", 1, 0),
        ("baaa", 1, 1),
        ("abab", 2, 0),
        ("bab", None, None),
        # Three steps are a fixed point, though a loop of two would reach further back.
        ("abaaa", 1, 2),
        ("abcabc", 3, 0),
        ("xabcabca", 3, 1),
        ("abcab", None, None),
        ("aab" * 4, 3, 0),
        ("ababababx", None, None),
        ("abcdefghijklmnop" * 2, 16, 0),
        ("abcdefghijklmnopq" * 2, None, None),
        ("aaaa.aa", None, None),
        ("aaaa.aaa", 1, 5),
        ("ab.abab", 2, 3),
        (".abab", 2, 1),
        ("aaa..", 1, 0),
    ],
)
def test_periods_match_hand_computed_examples(word: str, period: int | None, absorbed_at: int | None) -> None:
    findings = found_in(spelled(word))
    assert (findings.period, findings.absorbed_at) == (period, absorbed_at)


def test_texts_that_occurred_before_are_returns() -> None:
    assert found_in(spelled("abacabad")) == Recurrence(distinct_texts=4, returns=4, last_text_step=7)


def test_a_run_may_begin_at_any_step() -> None:
    assert found_in(spelled("baaa", first=7)).absorbed_at == 8


def test_texts_are_compared_without_normalisation() -> None:
    assert found_in({0: "a", 1: "a ", 2: "A", 3: ""}) == Recurrence(4, 0, last_text_step=3)
    assert found_in({0: "", 1: "", 2: ""}).period == 1


@given(st.text("ab.", max_size=40) | st.text("abc", max_size=70), st.integers(0, 3))
@example("ab" * 20 + "c" + "ab" * 17, 0)
@example("abcdefghijklmnop" * 3, 0)
def test_every_run_matches_the_definition(word: str, first: int) -> None:
    texts = spelled(word, first)
    fields = vars(found_in(texts))
    assert sorted(fields.pop("left_stretches")) == reference.left_stretches_of(texts)
    assert fields.pop("last_text_step") == max(texts, default=None)
    assert fields == reference.recurrence_of(texts)


@pytest.mark.parametrize(
    ("word", "stretches"),
    [
        ("aab", ()),
        ("aaab", ((1, 3),)),
        ("aaaa", ()),
        # What stands in the hole is not known.
        ("aaa.b", ()),
        ("baaaabbbb", ((1, 4),)),
        ("ababac", ((2, 2),)),
        # Six equal texts have the period 2, too.
        ("aaaaaab", ((1, 6),)),
    ],
)
def test_loops_that_were_left_match_hand_computed_examples(
    word: str, stretches: tuple[tuple[int, int], ...]
) -> None:
    assert found_in(spelled(word)).left_stretches == stretches


def test_a_pause_and_an_end_differ_by_what_other_runs_did() -> None:
    # Three runs say one text three times in the middle, one of these ends in four; one goes on for ever.
    runs = [found_in(spelled(word)) for word in ("aaab", "xaaab", "aaabcccc", "ddddd")]
    stretches = describe_stretches(runs)
    assert (stretches.reached_end, stretches.left_again) == (2, 3)
    assert stretches.by_repeats == ((3, 5, 3), (4, 2, 0), (5, 1, 0))
    assert [run.repeats for run in runs] == [None, None, 4, 5]
    assert describe_stretches([]).by_repeats == ()


@pytest.mark.parametrize(("hazard", "n_steps"), [(0.01, 50), (0.01, 400), (0.05, 50)])
def test_absorption_counts_the_runs_that_were_not_absorbed(hazard: float, n_steps: int) -> None:
    # Half of all runs begin to repeat by step log(1/2) / log(1 - hazard): 69 at 0.01, though those of 50
    # texts that were seen to begin to repeat did so by step 22 or so.
    rng = np.random.default_rng(0)
    runs = []
    for begin in rng.geometric(hazard, 6_000):
        word = [str(step) for step in range(min(begin, n_steps))] + ["z"] * max(0, n_steps - begin)
        runs.append(find_recurrence(np.arange(n_steps), word))
    absorption = describe_absorption(runs)
    half = math.ceil(math.log(0.5) / math.log1p(-hazard))
    if half > n_steps:
        assert absorption.median is None
        assert float(np.median([run.absorbed_at for run in runs if run.absorbed_at is not None])) < 25
    else:
        assert absorption.median == pytest.approx(half, rel=0.06)
    assert absorption.within == n_steps - 3
    assert absorption.share == pytest.approx(1 - (1 - hazard) ** (n_steps - 3), abs=0.02)
    assert (absorption.n_runs, absorption.n_absorbed) == (6_000, sum(run.period is not None for run in runs))


def test_runs_of_two_texts_give_no_absorption_estimate() -> None:
    absorption = describe_absorption([found_in(spelled(word)) for word in ("", "a", "ab")])
    assert absorption == Absorption(0, 0, None, None, None)
