"""Fixed points and loops of a run, from its texts alone: no clustering can be blamed for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from panic_tda.types import IntArray

LONGEST_PERIOD = 16
_FEWEST_STEPS = 3


@dataclass(frozen=True)
class Recurrence:
    """What the texts of one run come back to.

    Attributes
    ----------
    distinct_texts : int
        Different texts.
    returns : int
        Steps whose text occurred before in the run.
    period : int or None
        1 for a fixed point, more for a loop, None where the run ends in neither.
    absorbed_at : int or None
        Output step from which on the texts repeat with that period.
    """

    distinct_texts: int
    returns: int
    period: int | None = None
    absorbed_at: int | None = None


def find_recurrence(steps: IntArray, texts: Sequence[str]) -> Recurrence:
    """Find the period of a run's tail.

    The tail is periodic with period p from step s when text[t] = text[t + p] for every t ≥ s with t + p
    inside the run; s is the earliest such step, and the smallest p of 1 to `LONGEST_PERIOD` counts whose tail
    has at least max(3, 2 p) steps.

    Parameters
    ----------
    steps : (m,) int64
        Output indices, strictly ascending.
    texts : sequence of str
        The text of each step; they are compared as strings.

    Notes
    -----
    What stood in a hole is not known, so it equals nothing: no tail reaches back over a step that is missing.
    (A tail of 2 p steps compares each of its steps with another one.)
    """
    codes: dict[str, int] = {}
    coded = np.array([codes.setdefault(text, len(codes)) for text in texts], dtype=np.int64)
    distinct, returns = len(codes), len(texts) - len(codes)
    behind_holes = np.flatnonzero(np.diff(steps) != 1) + 1
    first = int(behind_holes[-1]) if len(behind_holes) else 0
    tail = coded[first:]
    for period in range(1, LONGEST_PERIOD + 1):
        differing = np.flatnonzero(tail[:-period] != tail[period:])
        begin = int(differing[-1]) + 1 if len(differing) else 0
        if len(tail) - begin >= max(_FEWEST_STEPS, 2 * period):
            return Recurrence(distinct, returns, period, int(steps[first + begin]))
    return Recurrence(distinct, returns)
