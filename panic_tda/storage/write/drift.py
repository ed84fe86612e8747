"""Count imported vectors that differ from the stored vectors of the same texts.

They differ a little if a service is not deterministic, and much if the model is another one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from panic_tda.wording import pluralize

OTHER_MODEL = 0.1
"""Chord distance from which two vectors of one text are probably of different models: in real models,
different texts have at least this distance."""


@dataclass
class Drift:
    """The number of vectors of a model that differ from stored ones, and the largest distance."""

    count: int = 0
    largest: float = 0.0

    def add(self, stored: bytes | None, vector: bytes) -> None:
        """Count a vector that differs from the stored one."""
        self.count += 1
        if stored is not None and len(stored) == len(vector):
            first, second = (np.frombuffer(data, "<f4").astype(np.float64) for data in (stored, vector))
            with np.errstate(invalid="ignore", divide="ignore"):
                distance = np.linalg.norm(first / np.linalg.norm(first) - second / np.linalg.norm(second))
            self.largest = max(self.largest, float(np.nan_to_num(distance)))

    def describe(self) -> str:
        """Describe how many vectors differ, and how far they are from the stored ones."""
        text = (
            f"{self.count:,} {pluralize(self.count, 'embedding has', 'embeddings have')} another vector than "
            "the one stored for the same text, which "
            f"stays; the largest chord distance between the two is {self.largest:.2g}"
        )
        if self.largest < OTHER_MODEL:
            return text
        return f"{text}: if these are of another model, import them under another name with --model"
