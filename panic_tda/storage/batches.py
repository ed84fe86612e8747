"""What an import hands to the database: batches of texts with their runs, and their vectors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from panic_tda.errors import BadInput

if TYPE_CHECKING:
    from panic_tda.types import Float32Array, IntArray


@dataclass(frozen=True)
class RunKey:
    """What a run is known by."""

    name: str
    seed: int
    network: tuple[str, ...]
    initial_prompt: str


@dataclass(frozen=True)
class TextBatch:
    """Some rows of a file, all of one embedding model, without their vectors.

    Attributes
    ----------
    path : Path
        The file.
    rows : (b,) int64
        Row numbers in the file, counted from 0.
    model : str
        The embedding model.
    runs : list of RunKey
        The runs that occur, each once.
    run_codes : (b,) int64
        Index into `runs` of each row.
    sequence_numbers : (b,) int64
        Position of each row's text in its run, from 0.
    texts : list of str
        One a row.
    """

    path: Path
    rows: IntArray
    model: str
    runs: list[RunKey]
    run_codes: IntArray
    sequence_numbers: IntArray
    texts: list[str]

    def refuse(self, index: int, problem: str) -> NoReturn:
        """Raise `BadInput` about the row at `index` of this batch."""
        run = self.runs[self.run_codes[index]].name
        problem = f"run {run}, sequence number {self.sequence_numbers[index]}, {problem}"
        refuse_row(self.path, int(self.rows[index]), problem)


@dataclass(frozen=True)
class EmbeddingBatch(TextBatch):
    """Some rows of a file, all of one embedding model.

    Attributes
    ----------
    vectors : (b, d) float32
        Finite and not zero.
    """

    vectors: Float32Array


def refuse_row(path: Path, row: int, problem: str) -> NoReturn:
    """Raise `BadInput` about a row of a file."""
    raise BadInput(f"{path}, row {row} (counted from 0): {problem}; nothing was imported")
