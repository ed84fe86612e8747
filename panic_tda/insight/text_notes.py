"""Lengths and writers of the texts of a clustering."""

from __future__ import annotations

import numpy as np

from panic_tda.storage.read.trajectories import RunSteps, RunTexts
from panic_tda.types import BoolArray


class TextNotes:
    """Collector of the lengths and writers of the texts of all steps; no text is stored.

    Attributes
    ----------
    lengths, writers : (n,) int64
        Number of characters of each step's text, and its writer (a position in `names`); -1 without a text.
    """

    def __init__(self, steps: RunSteps) -> None:
        n = len(steps.rows)
        self.lengths, self.writers = np.full(n, -1, dtype=np.int64), np.full(n, -1, dtype=np.int64)
        self._codes = np.zeros(n, dtype=np.int64)
        self._steps = steps
        self._numbers = {run: number for number, run in enumerate(steps.run_ids)}
        self._names: dict[str, int] = {}

    def add(self, run: RunTexts) -> None:
        """Add the texts of a run."""
        steps, number = self._steps, self._numbers[run.run_id]
        first, last = steps.offsets[number], steps.offsets[number + 1]
        sampled = np.flatnonzero(steps.are_texts[first:last])
        at = np.searchsorted(run.steps, steps.steps[first:last][sampled])
        at[at == len(run.steps)] = 0
        there = run.steps[at] == steps.steps[first:last][sampled] if len(run.steps) else at != at
        for row, text in zip((first + sampled[there]).tolist(), at[there].tolist(), strict=True):
            self.lengths[row] = len(run.texts[text])
            self._codes[row] = hash(run.texts[text])
            self.writers[row] = self._names.setdefault(run.models[text], len(self._names))

    @property
    def names(self) -> list[str]:
        """Models that wrote the texts."""
        return list(self._names)

    @property
    def is_first(self) -> BoolArray:
        """True for steps whose text no earlier step has, and for steps that are not texts, (n,) bool."""
        is_first = np.ones(len(self.lengths), dtype=bool)
        known = np.flatnonzero(self.lengths >= 0)
        is_first[known] = False
        is_first[known[np.unique(self._codes[known], return_index=True)[1]]] = True
        return is_first
