"""What an import hands to the database: batches of texts with their runs and vectors, or of a dump's rows.

Ids are 32 lower-case hexadecimal digits; those of prompts in a dump begin with `PROMPT`, and are no ids of
the database. Times are naive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
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
        One a row; None where the output has no text, or the file does not say it.
    types : list of str
        `TEXT` or `IMAGE`, one a row.
    names_runs : bool
        Whether the file names the runs of its rows; else a run is known by its texts or its first vector.
    """

    path: Path
    rows: IntArray
    model: str
    runs: list[RunKey]
    run_codes: IntArray
    sequence_numbers: IntArray
    texts: list[str | None]
    types: list[str]
    names_runs: bool

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
    vectors : (u, d) float32
        Finite and not zero.
    places : (u,) int64
        Index into the batch of each vector's row; every row has one unless invalid vectors are left out.
    invalid : list of (int, str)
        Rows without a usable vector: number in the file, and what is wrong.
    """

    vectors: Float32Array
    places: IntArray
    invalid: list[tuple[int, str]]


PROMPT = "prompt-"
"""How the ids of prompts begin, which a dump may hold as outputs before the first one."""


@dataclass(frozen=True)
class DumpedExperiment:
    """A row of a dump's experiments."""

    id: str
    networks: list[list[str]]
    seeds: list[int]
    prompts: list[str]
    embedding_models: list[str]
    max_length: int
    started_at: datetime | None
    completed_at: datetime | None


@dataclass(frozen=True)
class DumpedRun:
    """A row of a dump's runs."""

    id: str
    network: list[str]
    seed: int
    max_length: int
    initial_prompt: str
    experiment_id: str | None


@dataclass(frozen=True)
class DumpedInvocations:
    """Some rows of a dump's invocations, each a place in all of these lists.

    Attributes
    ----------
    ids, run_ids, input_ids : sequence of str
        Of each, of its run and of the invocation that it was made from; None where nothing is said of it.
    sequence_numbers : list of int
        From 0 in each run; −1 is its prompt.
    types : list of str
        `TEXT` or `IMAGE`.
    models : list of str
        What made it; prompts may have none.
    seeds : list of int
        None where it is that of the run.
    texts : list of str
        None where there is none.
    started_at, completed_at : list of datetime
        None where it is not known.
    """

    ids: Sequence[str]
    run_ids: Sequence[str]
    input_ids: Sequence[str | None]
    sequence_numbers: list[int]
    types: list[str]
    models: list[str | None]
    seeds: list[int | None]
    texts: list[str | None]
    started_at: list[datetime | None]
    completed_at: list[datetime | None]


@dataclass(frozen=True)
class DumpedEmbeddings:
    """Some rows of a dump's embeddings, all of one model.

    Attributes
    ----------
    path : Path
        The file.
    first_row : int
        Number in the file of the first one, counted from 0.
    model : str
        The embedding model.
    ids, invocation_ids : sequence of str
        Of each, and of its invocation.
    started_at, completed_at : list of datetime
        None where it is not known.
    vectors : (b, d) float32 or None
        Finite and not zero; None where none of these rows has one that can be used.
    are_invalid : bool
        Whether these rows have vectors that cannot be used.
    """

    path: Path
    first_row: int
    model: str
    ids: Sequence[str]
    invocation_ids: Sequence[str]
    started_at: list[datetime | None]
    completed_at: list[datetime | None]
    vectors: Float32Array | None
    are_invalid: bool = False


def refuse_row(path: Path, row: int, problem: str) -> NoReturn:
    """Raise `BadInput` about a row of a file."""
    raise BadInput(f"{path}, row {row} (counted from 0): {problem}; nothing was imported")
