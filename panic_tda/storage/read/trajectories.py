"""The steps of runs: which cluster each sampled output is in, run by run, and what the texts of a run say.

Nothing here goes through rows of invocations or embeddings: steps come from indexes alone, and of
invocations only those of texts are looked up, whose rows hold no image.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.progress import Progress, Silent
from panic_tda.storage.bulk import stream_columns, stream_rows
from panic_tda.storage.cells import integers, naming_damage, read_rows, shares
from panic_tda.storage.read.assignments import key_of, require_labels
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.storage.schema.sampling import in_one_index, output_indices, strides
from panic_tda.storage.schema.tables import (
    Cluster,
    Embedding,
    EmbeddingCluster,
    Invocation,
    InvocationType,
    Run,
)

if TYPE_CHECKING:
    from panic_tda.types import BoolArray, FloatArray, IntArray

_ROWS = 2_000
"""Rows fetched at once: few enough to be in the cache still when they become arrays (1,610,000 assignments
took 1.3 s like this, 1.6 s with 50,000)."""
_RUNS = 100
"""Runs in one query for texts: a statement is to stay short."""
_TEXT_BYTES = 8 << 20
"""Texts fetched at once, beyond one row."""
_GONE = -1

_embedding = Embedding.__table__
_invocation = Invocation.__table__
_assignment = EmbeddingCluster.__table__
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunSteps:
    """The sampled outputs of one clustering, run by run, each run by ascending output index.

    n counts steps, r runs. There is one step for each output index of a run that was sampled; where one
    invocation has several embeddings of the model, the one with the smallest id counts.

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
        Cluster of each, or `OUTLIER`.
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
        """(n,) int64: the run of each step, as a position in `run_ids`."""
        return np.repeat(np.arange(len(self.run_ids)), np.diff(self.offsets))


@dataclass(frozen=True)
class RunFacts:
    """What a run was started with."""

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
        Output indices, ascending. A text that is missing (NULL) is a hole, as one that failed is.
    texts : list of str
        One a step.
    models : list of str
        Which model wrote each.
    """

    run_id: str
    steps: IntArray
    texts: list[str]
    models: list[str]


def read_steps(
    connection: Connection, clustering: ClusteringSummary, progress: Progress | None = None
) -> RunSteps:
    """Read the steps of all runs that a clustering has embeddings of.

    Parameters
    ----------
    connection : Connection
        From `Database.reading`.
    clustering : ClusteringSummary
        One that is stored.
    progress : Progress, optional
        Told the rows read.

    Notes
    -----
    Memory: about 200 bytes an assignment. Time: one range of the assignments, one of the index on the model's
    embeddings, each with a look into one more index, and one pass through the index on runs. No row of an
    embedding or an invocation is read on SQLite; their tables are most of a file.

    What has gone since the clustering (where foreign keys are not enforced) is left out, and the log says
    how much.
    """
    progress = progress or Silent()
    progress.phase("read assignments", total=clustering.record.n_embeddings)
    labels, probabilities, places = _assignments(connection, clustering.id, progress)
    progress.phase("read steps", total=len(labels))
    rows, numbers, are_texts, runs, run_ids = _invocations(
        connection, clustering.embedding_model, places, progress
    )
    if len(rows) < len(labels):
        _log.warning(
            "%d of %d assignments belong to no step of a run any more, and are left out",
            len(labels) - len(rows),
            len(labels),
        )
    steps = numbers // _strides_of(connection, run_ids)[runs, are_texts.astype(int)]
    order = np.lexsort((rows, numbers, steps, runs))
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = (np.diff(runs[order]) != 0) | (np.diff(steps[order]) != 0)
    if not is_first.all():
        _log.warning(
            "%d of %d embeddings are of a step that has one already, and are left out",
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
    """Return what the runs were started with, by their ids as they are stored; the table is small."""
    query = sa.select(sa.type_coerce(Run.id, sa.String), Run.network, Run.initial_prompt, Run.seed)
    return {
        identity: RunFacts(tuple(network), prompt, seed)
        for identity, network, prompt, seed in read_rows(connection, query)
    }


def stream_texts(connection: Connection, run_ids: Sequence[str]) -> Iterator[RunTexts]:
    """Yield the texts of some runs, one run after another, those without texts left out.

    Parameters
    ----------
    connection : Connection
        From `Database.reading`.
    run_ids : sequence of str
        Ascending.

    Notes
    -----
    The index on runs and types leads to the texts; no image is passed. One run is in memory at a time. Of
    two texts at one sequence number, which only files without a constraint have, the first found counts.
    """
    run_id = sa.type_coerce(_invocation.c.run_id, sa.String)
    columns = (_invocation.c.sequence_number, _invocation.c.output_text, _invocation.c.model)
    for first in range(0, len(run_ids), _RUNS):
        query = (
            sa.select(run_id, *columns)
            .where(run_id.in_(run_ids[first : first + _RUNS]), _invocation.c.type == InvocationType.TEXT)
            .order_by(run_id, _invocation.c.sequence_number)
        )
        batches = stream_rows(connection, query, batch_rows=_ROWS, batch_bytes=_TEXT_BYTES)
        found = (row for rows in batches for row in rows)
        for identity, of_run in groupby(found, key=itemgetter(0)):
            _, numbers, texts, models = zip(*of_run, strict=True)
            with naming_damage(connection, query):
                texts_of_run = _texts_of(identity, _sequence_numbers(numbers), texts, models)
            yield texts_of_run


def read_writers(connection: Connection, outputs: Iterable[tuple[str, Sequence[int]]]) -> Iterator[set[str]]:
    """Yield, for each run, the models that wrote some of its outputs.

    Parameters
    ----------
    connection : Connection
        From `Database.reading`.
    outputs : iterable of (str, sequence of int)
        A run, and the sequence numbers of the outputs: few, as each is a row that is looked up, and the row
        of an image may have its model's name behind the image.
    """
    for run, numbers in outputs:
        query = sa.select(_invocation.c.model).where(
            sa.type_coerce(_invocation.c.run_id, sa.String) == run,
            # All types: they stand before the number in the index.
            _invocation.c.type.in_(list(InvocationType)),
            _invocation.c.sequence_number.in_(list(numbers)),
        )
        yield {model for (model,) in read_rows(connection, query)}


def read_medoid_texts(
    connection: Connection, clustering_id: UUID, labels: Iterable[int]
) -> dict[int, str | None]:
    """Return what the medoids of some clusters say, by label; None where one is an image."""
    query = (
        sa.select(Cluster.label, Invocation.output_text)
        .join(Embedding, Embedding.id == Cluster.medoid_embedding_id)
        .join(Invocation, Invocation.id == Embedding.invocation_id)
        .where(Cluster.result_key == key_of(clustering_id), Cluster.label.in_(list(labels)))
    )
    return dict(read_rows(connection, query))


def _assignments(
    connection: Connection, clustering_id: UUID, progress: Progress
) -> tuple[IntArray, FloatArray, Any]:
    """Return the labels and probabilities by ascending embedding id, and each embedding's place."""
    columns: list[Any] = [_assignment.c.label, _assignment.c.probability]
    source: Any = _assignment
    if _in_sqlite(connection):
        columns.append(sa.func.coalesce(_place(connection), _GONE))
        source = _assignment.outerjoin(_embedding, _embedding.c.id == _assignment.c.embedding_id)
    else:
        columns.append(_assignment.c.embedding_id)
    query = (
        sa.select(*columns)
        .select_from(source)
        .where(_assignment.c.result_key == key_of(clustering_id))
        .order_by(_assignment.c.embedding_id)
    )
    kinds = (np.int64, np.float64, _kind_of_place(connection))
    parts: list[Sequence[Any]] = []
    convert = (integers, shares, integers if _in_sqlite(connection) else _as_ids)
    for batch in stream_columns(connection, query, batch_rows=_ROWS, convert=convert):
        parts.append(batch)
        progress.advance(len(batch[0]))
    labels, probabilities, places = _joined(parts, kinds)
    require_labels(connection, clustering_id, labels)
    return labels, probabilities, places


def _invocations(
    connection: Connection, model: str, places: Any, progress: Progress
) -> tuple[IntArray, IntArray, BoolArray, IntArray, tuple[str, ...]]:
    """Find the invocations of the embeddings at `places`.

    Returns
    -------
    rows, sequence_numbers : (n,) int64
        Positions in `places`, in no order, and the sequence numbers.
    are_texts : (n,) bool
        Whether the invocation put out a text.
    runs : (n,) int64
        Position in `run_ids`.
    run_ids : tuple of str
        Ascending.
    """
    kind = sa.case(
        (_invocation.c.id.is_(None), _GONE), (_invocation.c.type == InvocationType.TEXT, 1), else_=0
    )
    # An outer join: an inner one could be turned around, and go through all invocations.
    query = (
        sa.select(
            _place(connection),
            _invocation.c.run_id,
            kind,
            sa.func.coalesce(_invocation.c.sequence_number, 0),
        )
        .select_from(_embedding.outerjoin(_invocation, in_one_index()))
        .where(_embedding.c.embedding_model == model)
    )
    by_place = np.argsort(places)
    ascending = places[by_place]
    codes: dict[str, int] = {}
    parts: list[Sequence[Any]] = []
    convert = (
        integers if _in_sqlite(connection) else _as_ids,
        lambda runs: np.array([codes.setdefault(_as_text(run), len(codes)) for run in runs]),
        integers,
        _sequence_numbers,
    )
    for at, runs, of_text, numbers in stream_columns(connection, query, batch_rows=_ROWS, convert=convert):
        found, wanted = _found(ascending, at)
        wanted &= of_text != _GONE
        parts.append([column[wanted] for column in (found, numbers, of_text == 1, runs)])
        progress.advance(int(np.count_nonzero(wanted)))
    found, sequence_numbers, are_texts, coded = _joined(parts, (np.int64, np.int64, bool, np.int64))
    return by_place[found], sequence_numbers, are_texts, *_in_order(list(codes), coded)


def _as_ids(values: Sequence[Any]) -> Any:
    return np.array(values, dtype="S32")


def _as_text(value: Any) -> str:
    # The runs of what has gone since are NULL.
    if not isinstance(value, (str, type(None))):
        raise ValueError("a run's id is not text")
    return value or ""


def _sequence_numbers(values: Sequence[Any]) -> IntArray:
    return integers(values, least=-(2**31), below=2**31)


def _in_order(names: list[str], coded: IntArray) -> tuple[IntArray, tuple[str, ...]]:
    """Number the names that occur anew, in alphabetical order."""
    used = sorted(np.unique(coded).tolist(), key=names.__getitem__)
    anew = np.zeros(len(names), dtype=np.int64)
    anew[used] = np.arange(len(used))
    return anew[coded], tuple(names[code] for code in used)


def _strides_of(connection: Connection, run_ids: Sequence[str]) -> IntArray:
    """Return the strides of runs, (r, 2): of their images, and of their texts."""
    numbers = {run: number for number, run in enumerate(run_ids)}
    found = np.ones((len(run_ids), 2), dtype=np.int64)
    for rows in stream_rows(connection, strides(), batch_rows=_ROWS):
        for run, kind, stride in rows:
            if run in numbers:
                found[numbers[run], int(kind == InvocationType.TEXT.name)] = stride
    return found


def _texts_of(run_id: str, numbers: IntArray, texts: Sequence[str | None], models: Sequence[str]) -> RunTexts:
    steps = output_indices(numbers)
    first_of: dict[int, tuple[str, str]] = {}
    for step, text, model in zip(steps.tolist(), texts, models, strict=True):
        if text is not None:
            if not (isinstance(text, str) and isinstance(model, str)):
                raise ValueError("a value is not a text")
            first_of.setdefault(step, (text, model))
    kept, steps = list(first_of.values()), np.fromiter(first_of, dtype=np.int64)
    return RunTexts(run_id, steps, [text for text, _ in kept], [model for _, model in kept])


def _in_sqlite(connection: Connection) -> bool:
    return connection.dialect.name == "sqlite"


def _place(connection: Connection) -> Any:
    """What every index knows a row of an embedding by: the rowid on SQLite. Elsewhere its id stands in."""
    return sa.literal_column("embedding.rowid") if _in_sqlite(connection) else _embedding.c.id


def _kind_of_place(connection: Connection) -> Any:
    return np.int64 if _in_sqlite(connection) else np.dtype("S32")


def _found(ascending: Any, wanted: Any) -> tuple[IntArray, BoolArray]:
    """Look values up in ascending ones: where each is, and whether it is there."""
    found = np.searchsorted(ascending, wanted)
    there = found < len(ascending)
    found[~there] = 0
    there[there] = ascending[found[there]] == wanted[there]
    return found, there


def _joined(parts: Sequence[Sequence[Any]], kinds: Sequence[Any]) -> list[Any]:
    """Join the columns of batches, of which there may be none."""
    empty = [np.empty(0, dtype=kind) for kind in kinds]
    return [np.concatenate(column) for column in zip(empty, *parts, strict=True)]
