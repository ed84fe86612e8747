"""Fixed points and loops are those that the definition names, with holes and without."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from panic_tda.insight.recurrence import Recurrence, find_recurrence
from tests.insight import reference_trajectories as reference


def found_in(texts: dict[int, str]) -> Recurrence:
    steps = sorted(texts)
    return find_recurrence(np.array(steps, dtype=np.int64), [texts[step] for step in steps])


def spelled(word: str, first: int = 0) -> dict[int, str]:
    """Make a text of every letter; a dot is a hole."""
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
def test_periods_by_hand(word: str, period: int | None, absorbed_at: int | None) -> None:
    found = found_in(spelled(word))
    assert (found.period, found.absorbed_at) == (period, absorbed_at)


def test_texts_that_occurred_before_are_returns() -> None:
    assert found_in(spelled("abacabad")) == Recurrence(distinct_texts=4, returns=4)


def test_a_run_need_not_begin_at_nought() -> None:
    assert found_in(spelled("baaa", first=7)).absorbed_at == 8


def test_texts_are_compared_as_they_are() -> None:
    assert found_in({0: "a", 1: "a ", 2: "A", 3: ""}) == Recurrence(distinct_texts=4, returns=0)
    assert found_in({0: "", 1: "", 2: ""}).period == 1


@given(st.text("ab.", max_size=40) | st.text("abc", max_size=70), st.integers(0, 3))
@example("ab" * 20 + "c" + "ab" * 17, 0)
@example("abcdefghijklmnop" * 3, 0)
def test_any_run_is_as_the_definition_says(word: str, first: int) -> None:
    texts = spelled(word, first)
    assert vars(found_in(texts)) == reference.recurrence_of(texts)
