"""Vectors that come again for the same texts and differ: not every service is deterministic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from panic_tda.wording import pluralize

OTHER_MODEL = 0.1
"""Chord distance from which two vectors of one text are hardly of one model: in real models, distinct texts
lie at least so far apart."""


@dataclass
class Drift:
    """Vectors of a model that differ from those stored under their ids."""

    count: int = 0
    largest: float = 0.0

    def add(self, stored: bytes | None, vector: bytes) -> None:
        """Count a vector."""
        self.count += 1
        if stored is not None and len(stored) == len(vector):
            first, second = (np.frombuffer(one, "<f4").astype(np.float64) for one in (stored, vector))
            with np.errstate(invalid="ignore", divide="ignore"):
                gap = np.linalg.norm(first / np.linalg.norm(first) - second / np.linalg.norm(second))
            self.largest = max(self.largest, float(np.nan_to_num(gap)))

    def describe(self) -> str:
        """Say how many there are and how far they are from the stored ones."""
        said = (
            f"{self.count:,} {pluralize(self.count, 'embedding has', 'embeddings have')} another vector than "
            "the one stored for the same text, which "
            f"stays; the largest chord distance between the two is {self.largest:.2g}"
        )
        if self.largest < OTHER_MODEL:
            return said
        return f"{said}: if these are of another model, import them under another name with --model"
