"""Find stretches of repeated texts in runs: at the end of a run, and earlier ones that were left again.

A run whose last three texts are equal has not necessarily reached a fixed point. The stretches of repeats
that were left again show how often such a stretch is only a pause.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from panic_tda.insight.dwell import median_survival, survival_curve
from panic_tda.types import BoolArray, FloatArray, IntArray

LONGEST_PERIOD = 16
FEWEST_STEPS = 3
"""Least length of a stretch of repeats, in steps; it also needs two periods."""


@dataclass(frozen=True)
class Recurrence:
    """Repeats among the texts of one run.

    Attributes
    ----------
    distinct_texts : int
        Number of distinct texts.
    returns : int
        Number of steps whose text occurred before in the run.
    period : int or None
        Period with which the texts repeat until the end: 1 for one text, more for a loop; None if they do not
        repeat.
    absorbed_at : int or None
        First output step of these repeats.
    repeats : int or None
        Number of complete periods from there to the end.
    last_text_step : int or None
        Output step of the last text; None without texts.
    left_stretches : tuple of (int, int)
        Period and repeats of each stretch of repeats that was left again.
    """

    distinct_texts: int
    returns: int
    period: int | None = None
    absorbed_at: int | None = None
    repeats: int | None = None
    last_text_step: int | None = None
    left_stretches: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class RepeatStretches:
    """Stretches of repeated texts: those that lasted to the end of a run, and those that were left again.

    Attributes
    ----------
    reached_end, left_again : int
        Number of stretches that reached the end, and of those after which another text followed.
    by_repeats : tuple of (int, int, int)
        For every k that occurs: k, the number of stretches of one text with at least k repeats, and the
        number of those that were left again.
    """

    reached_end: int
    left_again: int
    by_repeats: tuple[tuple[int, int, int], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return `stretches` of a group in `show-trajectories --json`, of plain values."""
        rows = (
            dict(zip(("repeats", "stretches", "left_again"), row, strict=True)) for row in self.by_repeats
        )
        return {"reached_end": self.reached_end, "left_again": self.left_again, "by_repeats": list(rows)}


@dataclass(frozen=True)
class Absorption:
    """Estimate of the step at which runs begin to repeat until their end.

    Attributes
    ----------
    n_runs, n_absorbed : int
        Runs with at least three texts, and those that repeat until their end.
    median : float or None
        Kaplan-Meier median, in output steps; None if it is not reached.
    share, within : float or None
        Kaplan-Meier estimate of the share of runs that repeat from step `within` or before, at the last step
        with data; None if no run repeats.
    """

    n_runs: int
    n_absorbed: int
    median: float | None
    share: float | None
    within: float | None


def find_recurrence(steps: IntArray, texts: Sequence[str]) -> Recurrence:
    """Find the stretches of repeats in a run, and the period of its tail.

    The tail is periodic with period p from step s when text[t] = text[t + p] for every t ≥ s with t + p
    inside the run; s is the earliest such step, and the smallest p of 1 to `LONGEST_PERIOD` counts whose tail
    has at least max(3, 2 p) steps. A stretch that was left again is the same between two other texts.

    Parameters
    ----------
    steps : (m,) int64
        Output indices, strictly ascending.
    texts : sequence of str
        The text of each step; they are compared as strings.

    Notes
    -----
    A missing text equals no other text: no stretch continues over a missing step, and a stretch that ends at
    a missing step counts neither as left again nor as lasting to the end. (A tail of 2 p steps compares each
    of its steps with another one.)
    """
    codes: dict[str, int] = {}
    coded = np.array([codes.setdefault(text, len(codes)) for text in texts], dtype=np.int64)
    distinct, returns = len(codes), len(texts) - len(codes)
    if not len(coded):
        return Recurrence(distinct, returns)
    bounds = [0, *(np.flatnonzero(np.diff(steps) != 1) + 1).tolist(), len(coded)]
    left: list[tuple[int, int]] = []
    stretches: list[tuple[int, int, int]] = []
    first = last = 0
    for first, last in pairwise(bounds):
        stretches = _find_stretches(coded[first:last])
        left += [(period, (end - begin) // period) for period, begin, end in stretches if end < last - first]
    ends = [stretch for stretch in stretches if stretch[2] == last - first]
    at_end = Recurrence(distinct, returns)
    if ends:
        period, begin, end = min(ends)
        at_end = Recurrence(
            distinct, returns, period, int(steps[bounds[-2] + begin]), (end - begin) // period
        )
    return replace(
        at_end,
        last_text_step=int(steps[-1]),
        left_stretches=tuple(left),
    )


def describe_stretches(recurrences: Iterable[Recurrence]) -> RepeatStretches:
    """Sum up the stretches of repeats in some runs."""
    known = list(recurrences)
    at_end = [
        (recurrence.period, recurrence.repeats)
        for recurrence in known
        if recurrence.period is not None and recurrence.repeats is not None
    ]
    left = [stretch for recurrence in known for stretch in recurrence.left_stretches]
    all_repeats, left_repeats = (
        Counter(repeats for period, repeats in stretches if period == 1)
        for stretches in (at_end + left, left)
    )
    by_repeats = tuple(
        (
            least,
            sum(count for repeats, count in all_repeats.items() if repeats >= least),
            sum(count for repeats, count in left_repeats.items() if repeats >= least),
        )
        for least in sorted(all_repeats)
    )
    return RepeatStretches(len(at_end), len(left), by_repeats)


def describe_absorption(recurrences: Iterable[Recurrence]) -> Absorption:
    """Estimate when runs begin to repeat until their end.

    Notes
    -----
    A run that does not repeat until its end might have begun to at one of its last two texts without showing
    it: it is known to have outlasted all steps before, and is censored there [1]_. Runs of fewer than three
    texts are left out.

    References
    ----------
    .. [1] Kaplan, Meier (1958). Nonparametric estimation from incomplete observations. J. Am. Stat. Assoc.
       53,
       457-481. https://doi.org/10.1080/01621459.1958.10501452
    """
    known, censored, _ = absorption_times(recurrences)
    ended, cut_off = known[~censored], known[censored]
    times, shares = survival_curve(ended, cut_off)
    return Absorption(
        n_runs=len(ended) + len(cut_off),
        n_absorbed=len(ended),
        median=median_survival(ended, cut_off),
        share=float(1 - shares[-1]) if len(times) else None,
        within=float(times[-1]) if len(times) else None,
    )


def absorption_times(recurrences: Iterable[Recurrence]) -> tuple[FloatArray, BoolArray, IntArray]:
    """Return when runs began to repeat until their end, or what they outlasted without.

    Returns
    -------
    times : (m,) float64
        Output steps.
    censored : (m,) bool
        Whether the run outlasted the step.
    runs : (m,) int64
        Position of the run; those of fewer than three texts are left out.
    """
    rows = []
    for number, run in enumerate(recurrences):
        if run.absorbed_at is not None:
            rows.append((run.absorbed_at, False, number))
        elif run.last_text_step is not None and run.last_text_step >= FEWEST_STEPS - 1:
            rows.append((run.last_text_step - (FEWEST_STEPS - 1), True, number))
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return table[:, 0].astype(float), table[:, 1].astype(bool), table[:, 2]


def _find_stretches(coded: IntArray) -> list[tuple[int, int, int]]:
    """Return period, begin and end of every maximal stretch, none inside one of a shorter period."""
    stretches: list[tuple[int, int, int]] = []
    for period in range(1, min(LONGEST_PERIOD, len(coded) // 2) + 1):
        least = max(FEWEST_STEPS, 2 * period)
        differing = np.flatnonzero(coded[:-period] != coded[period:])
        edges = np.concatenate([[-1], differing, [len(coded) - period]])
        for at in np.flatnonzero(np.diff(edges) - 1 + period >= least).tolist():
            begin, end = int(edges[at]) + 1, int(edges[at + 1]) + period
            if not any(low <= begin and end <= high for _, low, high in stretches):
                stretches.append((period, begin, end))
    return stretches
