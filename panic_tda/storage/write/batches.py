"""The batches of an import: texts with their runs and vectors, or rows of a dump.

Ids are 32 lower-case hexadecimal digits. The ids of prompts in a dump begin with `PROMPT`; they are not ids
of the database. Times have no time zone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from panic_tda.errors import BadInput
from panic_tda.types import Float32Array, IntArray


@dataclass(frozen=True)
class RunKey:
    """The values that identify a run."""

    name: str
    seed: int
    network: tuple[str, ...]
    initial_prompt: str


@dataclass(frozen=True)
class TextBatch:
    """A batch of rows of a file, all of one embedding model, without vectors.

    Attributes
    ----------
    path : Path
        The file.
    rows : (b,) int64
        Row numbers in the file, counted from 0.
    model : str
        The embedding model.
    runs : list of RunKey
        The runs of the batch, without repetition.
    run_codes : (b,) int64
        Index into `runs` of each row.
    sequence_numbers : (b,) int64
        Position of each row's text in its run, from 0.
    texts : list of str
        Text of each row; None if the output has no text or the file does not have it.
    types : list of str
        `TEXT` or `IMAGE` for each row.
    names_runs : bool
        Whether the file has names of runs; otherwise a run is identified by its texts or its first vector.
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
        """Raise `BadInput` for the row at `index` of this batch."""
        run = self.runs[self.run_codes[index]].name
        problem = f"run {run}, sequence number {self.sequence_numbers[index]}, {problem}"
        refuse_row(self.path, int(self.rows[index]), problem)


@dataclass(frozen=True)
class EmbeddingBatch(TextBatch):
    """A batch of rows of a file, all of one embedding model, with vectors.

    Attributes
    ----------
    vectors : (u, d) float32
        Finite and not zero.
    places : (u,) int64
        Index of each vector's row in the batch; some rows have no vector if invalid vectors are left out.
    invalid : list of (int, str)
        Rows without a usable vector: number in the file, and the problem.
    """

    vectors: Float32Array
    places: IntArray
    invalid: list[tuple[int, str]]


PROMPT = "prompt-"
"""Prefix of the ids of prompts, which a dump may have as outputs before the first output."""


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
    """A batch of a dump's invocations; row i is element i of all lists.

    Attributes
    ----------
    ids, run_ids, input_ids : sequence of str
        Ids of the invocation, of its run and of its input invocation; None if the input is unknown.
    sequence_numbers : list of int
        From 0 in each run; −1 is the prompt of the run.
    types : list of str
        `TEXT` or `IMAGE`.
    models : list of str
        Model that generated the output; None for some prompts.
    seeds : list of int
        None if it is the seed of the run.
    texts : list of str
        None if the output has no text.
    started_at, completed_at : list of datetime
        None if unknown.
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
    """A batch of a dump's embeddings, all of one model.

    Attributes
    ----------
    path : Path
        The file.
    first_row : int
        Row number of the first embedding in the file, counted from 0.
    model : str
        The embedding model.
    ids, invocation_ids : sequence of str
        Ids of the embedding and of its invocation.
    started_at, completed_at : list of datetime
        None if unknown.
    vectors : (b, d) float32 or None
        Finite and not zero; None if these rows have no usable vectors.
    are_invalid : bool
        Whether these rows have vectors that are not usable.
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
    """Raise `BadInput` for a row of a file."""
    raise BadInput(f"{path}, row {row} (counted from 0): {problem}; nothing was imported")
