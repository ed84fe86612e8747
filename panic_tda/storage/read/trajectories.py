"""Read the steps of runs with their clusters, run by run, and the texts of runs.

No query scans rows of invocations or embeddings: steps are read from indexes alone, and only invocations of
type TEXT are looked up, whose rows contain no image.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.arrays.rows import slices
from panic_tda.progress import Progress, Silent
from panic_tda.storage.bulk import stream_columns, stream_rows
from panic_tda.storage.cells import convert_integers, naming_damage, read_rows, row_locator
from panic_tda.storage.read.assignments import Assignments, read_assignments, select_key
from panic_tda.storage.read.summaries import ClusteringSummary
from panic_tda.storage.schema.sampling import join_invocations, output_indices, select_strides
from panic_tda.storage.schema.tables import (
    Cluster,
    Embedding,
    Invocation,
    InvocationType,
    Run,
)
from panic_tda.types import BoolArray, FloatArray, IntArray

_ROWS = 2_000
"""Rows per fetch: few enough to stay in the processor's cache until they become arrays (1,610,000 assignments
took 1.3 s, and 1.6 s with 50,000 rows per fetch)."""
_RUNS = 100
"""Runs per query for texts; it keeps the SQL statement short."""
_TEXT_BYTES = 8 << 20
"""Bytes of texts per fetch; one longer row is fetched alone."""
_GONE = -1

_embedding = Embedding.__table__
_invocation = Invocation.__table__
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunSteps:
    """The sampled outputs of one clustering, run by run, each run by ascending output index.

    There are n steps and r runs, and one step for each sampled output index of a run. If an invocation has
    several embeddings of the model, the one with the smallest id is used.

    Attributes
    ----------
    run_ids : tuple of str
        Ids of the r runs as they are stored, ascending.
    offsets : (r + 1,) int64
        Run i has the steps from `offsets[i]` up to `offsets[i + 1]`, at least one.
    steps : (n,) int64
        Output index: `sequence_number // stride` (see `sampling`), ascending within a run.
    sequence_numbers : (n,) int64
        As stored.
    are_texts : (n,) bool
        Whether the output is a text, not an image.
    rows : (n,) int64
        Position of the step's embedding among the assignments of the clustering (`read_assignments`).
    labels : (n,) int64
        Cluster of each step, or `OUTLIER`.
    probabilities : (n,) float64
        Membership strengths, 0 to 1.
    """

    run_ids: tuple[str, ...]
    offsets: IntArray
    steps: IntArray
    sequence_numbers: IntArray
    are_texts: BoolArray
    rows: IntArray
    labels: IntArray
    probabilities: FloatArray

    @property
    def run_numbers(self) -> IntArray:
        """Return the run of each step, as a position in `run_ids`; (n,) int64."""
        return np.repeat(np.arange(len(self.run_ids)), np.diff(self.offsets))


@dataclass(frozen=True)
class RunFacts:
    """The network, initial prompt and seed of a run."""

    network: tuple[str, ...]
    initial_prompt: str
    seed: int


@dataclass(frozen=True)
class RunTexts:
    """All texts of one run, whether they were sampled or not.

    Attributes
    ----------
    run_id : str
        As stored.
    steps : (m,) int64
        Output indices, ascending; steps whose text is missing (NULL) are left out.
    texts : list of str
        Text of each step.
    models : list of str
        Model that generated each text.
    """

    run_id: str
    steps: IntArray
    texts: list[str]
    models: list[str]


def read_steps(
    connection: Connection,
    clustering: ClusteringSummary,
    progress: Progress | None = None,
    *,
    assignments: Assignments | None = None,
    predictions: Assignments | None = None,
) -> RunSteps:
    """Read the steps of all runs with embeddings in a clustering.

    Parameters
    ----------
    connection : Connection
        From `Database.reading`.
    clustering : ClusteringSummary
        A stored clustering.
    progress : Progress, optional
        Receives the number of rows read.
    assignments : Assignments, optional
        Assignments of the clustering with locators; read if None.
    predictions : Assignments, optional
        Predicted assignments with locators, whose steps are read too. Their rows come after those of
        `assignments`. Steps that the clustering's sampling factor leaves out are left out here too.

    Notes
    -----
    Memory: about 200 bytes per assignment. Time: one range scan of the assignments and one of the index on
    models, each with one index lookup per row, and one scan of the index on runs. On SQLite no row of
    `embedding` or `invocation` is read; these tables are most of a file.

    Rows that were deleted since the clustering (if foreign keys are not enforced) are left out, and their
    number is logged.
    """
    progress = progress or Silent()
    if assignments is None:
        assignments = read_assignments(connection, clustering.id, with_locators=True)
    n_fitted = len(assignments.labels)
    if predictions is not None:
        assignments = assignments.join(predictions)
    labels, probabilities = assignments.labels, assignments.probabilities
    progress.phase("read steps", total=len(labels))
    rows, numbers, are_texts, runs, run_ids = _find_invocations(
        connection, clustering.embedding_model, assignments.locators, progress
    )
    if len(rows) < len(labels):
        _log.warning(
            "%d of %d assignments belong to no step of a run and are left out",
            len(labels) - len(rows),
            len(labels),
        )
    steps = numbers // _read_strides(connection, run_ids)[runs, are_texts.astype(int)]
    is_sampled = (rows < n_fitted) | (steps % (clustering.record.downsample or 1) == 0)
    rows, numbers, are_texts, runs, steps = (
        column[is_sampled] for column in (rows, numbers, are_texts, runs, steps)
    )
    order = np.lexsort((rows, numbers, steps, runs))
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (np.diff(runs[order]) != 0) | (np.diff(steps[order]) != 0)
    if not is_first.all():
        _log.warning(
            "%d of %d embeddings belong to a step that has another embedding, and are left out",
            np.count_nonzero(~is_first),
            len(order),
        )
    order = order[is_first]
    return RunSteps(
        run_ids=run_ids,
        offsets=np.searchsorted(runs[order], np.arange(len(run_ids) + 1)),
        steps=steps[order],
        sequence_numbers=numbers[order],
        are_texts=are_texts[order],
        rows=rows[order],
        labels=labels[rows[order]],
        probabilities=probabilities[rows[order]],
    )


def read_runs(connection: Connection) -> dict[str, RunFacts]:
    """Return network, prompt and seed of all runs, by stored id; the table is small."""
    query = sa.select(sa.type_coerce(Run.id, sa.String), Run.network, Run.initial_prompt, Run.seed)
    return {
        identity: RunFacts(tuple(network), prompt, seed)
        for identity, network, prompt, seed in read_rows(connection, query)
    }


def stream_texts(connection: Connection, run_ids: Sequence[str]) -> Iterator[RunTexts]:
    """Yield the texts of these runs, run by run; runs without texts are left out.

    Parameters
    ----------
    connection : Connection
        From `Database.reading`.
    run_ids : sequence of str
        Ascending ids.

    Notes
    -----
    Texts are found by the index on runs and types, so no image is read. One run is in memory at a time. If
    two texts have the same sequence number (possible only without the constraint), the first is used.
    """
    run_id = sa.type_coerce(_invocation.c.run_id, sa.String)
    columns = (_invocation.c.sequence_number, _invocation.c.output_text, _invocation.c.model)
    for chunk in slices(len(run_ids), _RUNS):
        query = (
            sa.select(run_id, *columns)
            .where(run_id.in_(run_ids[chunk]), _invocation.c.type == InvocationType.TEXT)
            .order_by(run_id, _invocation.c.sequence_number)
        )
        batches = stream_rows(connection, query, batch_rows=_ROWS, batch_bytes=_TEXT_BYTES)
        rows_of_runs = (row for rows in batches for row in rows)
        for identity, of_run in groupby(rows_of_runs, key=itemgetter(0)):
            _, numbers, texts, models = zip(*of_run, strict=True)
            with naming_damage(connection, query):
                texts_of_run = _build_texts(identity, _convert_sequence_numbers(numbers), texts, models)
            yield texts_of_run


def read_writers(connection: Connection, outputs: Iterable[tuple[str, Sequence[int]]]) -> Iterator[set[str]]:
    """Yield for each run the set of models that generated these outputs.

    Parameters
    ----------
    connection : Connection
        From `Database.reading`.
    outputs : iterable of (str, sequence of int)
        A run, and the sequence numbers of its outputs. Keep them few: each is a row lookup, and in the row of
        an image the model may be stored behind the image.
    """
    for run, numbers in outputs:
        query = sa.select(_invocation.c.model).where(
            sa.type_coerce(_invocation.c.run_id, sa.String) == run,
            # All types, because the type comes before the sequence number in the index.
            _invocation.c.type.in_(list(InvocationType)),
            _invocation.c.sequence_number.in_(list(numbers)),
        )
        yield {model for (model,) in read_rows(connection, query)}


def read_medoid_texts(
    connection: Connection, clustering_id: UUID, labels: Iterable[int]
) -> dict[int, str | None]:
    """Return the texts of the medoids of these clusters, by label; None for an image."""
    query = (
        sa.select(Cluster.label, Invocation.output_text)
        .join(Embedding, Embedding.id == Cluster.medoid_embedding_id)
        .join(Invocation, Invocation.id == Embedding.invocation_id)
        .where(Cluster.result_key == select_key(clustering_id), Cluster.label.in_(list(labels)))
    )
    return dict(read_rows(connection, query))


def _find_invocations(
    connection: Connection, model: str, locators: Any, progress: Progress
) -> tuple[IntArray, IntArray, BoolArray, IntArray, tuple[str, ...]]:
    """Find the invocations of the embeddings with these row locators.

    Returns
    -------
    rows, sequence_numbers : (n,) int64
        Positions in `locators`, in no order, and sequence numbers.
    are_texts : (n,) bool
        Whether the output of the invocation is a text.
    runs : (n,) int64
        Position of the run in `run_ids`.
    run_ids : tuple of str
        Ascending ids.
    """
    kind = sa.case(
        (_invocation.c.id.is_(None), _GONE), (_invocation.c.type == InvocationType.TEXT, 1), else_=0
    )
    # An outer join: SQLite could swap the tables of an inner join and scan all invocations.
    query = (
        sa.select(
            row_locator(connection, _embedding),
            _invocation.c.run_id,
            kind,
            sa.func.coalesce(_invocation.c.sequence_number, 0),
        )
        .select_from(_embedding.outerjoin(_invocation, join_invocations()))
        .where(_embedding.c.embedding_model == model)
    )
    order = np.argsort(locators)
    ascending = locators[order]
    codes: dict[str, int] = {}
    parts: list[Sequence[Any]] = []
    convert = (
        convert_integers if connection.dialect.name == "sqlite" else _convert_ids,
        lambda runs: np.array([codes.setdefault(_convert_run_id(run), len(codes)) for run in runs]),
        convert_integers,
        _convert_sequence_numbers,
    )
    for at, runs, of_text, numbers in stream_columns(connection, query, batch_rows=_ROWS, convert=convert):
        positions, is_assigned = _look_up(ascending, at)
        is_assigned &= of_text != _GONE
        parts.append([column[is_assigned] for column in (positions, numbers, of_text == 1, runs)])
        progress.advance(int(np.count_nonzero(is_assigned)))
    positions, sequence_numbers, are_texts, coded = _concatenate(parts, (np.int64, np.int64, bool, np.int64))
    return order[positions], sequence_numbers, are_texts, *_sort_codes(list(codes), coded)


def _convert_ids(values: Sequence[Any]) -> Any:
    return np.array(values, dtype="S32")


def _convert_run_id(value: Any) -> str:
    # The run of a deleted invocation is NULL.
    if not isinstance(value, (str, type(None))):
        raise ValueError("a run's id is not text")
    return value or ""


def _convert_sequence_numbers(values: Sequence[Any]) -> IntArray:
    return convert_integers(values, least=-(2**31), below=2**31)


def _sort_codes(names: list[str], coded: IntArray) -> tuple[IntArray, tuple[str, ...]]:
    """Renumber codes in alphabetical order of their names, and return them with the sorted names."""
    used = sorted(np.unique(coded).tolist(), key=names.__getitem__)
    new_codes = np.zeros(len(names), dtype=np.int64)
    new_codes[used] = np.arange(len(used))
    return new_codes[coded], tuple(names[code] for code in used)


def _read_strides(connection: Connection, run_ids: Sequence[str]) -> IntArray:
    """Return the strides of runs, (r, 2): column 0 for images, column 1 for texts."""
    numbers = {run: number for number, run in enumerate(run_ids)}
    strides = np.ones((len(run_ids), 2), dtype=np.int64)
    for rows in stream_rows(connection, select_strides(), batch_rows=_ROWS):
        for run, kind, stride in rows:
            if run in numbers:
                strides[numbers[run], int(kind == InvocationType.TEXT.name)] = stride
    return strides


def _build_texts(
    run_id: str, numbers: IntArray, texts: Sequence[str | None], models: Sequence[str]
) -> RunTexts:
    steps = output_indices(numbers)
    first_of: dict[int, tuple[str, str]] = {}
    for step, text, model in zip(steps.tolist(), texts, models, strict=True):
        if text is not None:
            if not (isinstance(text, str) and isinstance(model, str)):
                raise ValueError("a value is not a text")
            first_of.setdefault(step, (text, model))
    texts_and_models, steps = list(first_of.values()), np.fromiter(first_of, dtype=np.int64)
    return RunTexts(
        run_id, steps, [text for text, _ in texts_and_models], [model for _, model in texts_and_models]
    )


def _look_up(ascending: Any, values: Any) -> tuple[IntArray, BoolArray]:
    """Return the position of each value in an ascending array, and whether it is in the array."""
    positions = np.searchsorted(ascending, values)
    is_present = positions < len(ascending)
    positions[~is_present] = 0
    is_present[is_present] = ascending[positions[is_present]] == values[is_present]
    return positions, is_present


def _concatenate(parts: Sequence[Sequence[Any]], kinds: Sequence[Any]) -> list[Any]:
    """Concatenate the columns of batches; the list of batches may be empty."""
    empty = [np.empty(0, dtype=kind) for kind in kinds]
    return [np.concatenate(column) for column in zip(empty, *parts, strict=True)]
