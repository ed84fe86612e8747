"""The rows of a clustering with what stands behind them, streamed: embeddings, texts, runs, medoids.

Rows come by ascending embedding id. That is the order of the assignments and of the core distances, so
nothing is sorted, and each embedding and each text is one look-up. Ids of the generation pipeline are ordered
by time, as its files nearly are; those of an import are hashes, and lead to all places of a file.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql import Select

from panic_tda.errors import OUTLIER, DatabaseError
from panic_tda.storage.bulk import stream_rows
from panic_tda.storage.cells import integers, naming_damage, read_rows, shares
from panic_tda.storage.database import Database
from panic_tda.storage.read.assignments import key_of
from panic_tda.storage.read.census import FLOAT_BYTES, stored_width
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.storage.read.trees import read_core_distances
from panic_tda.storage.schema.sampling import strides
from panic_tda.storage.schema.tables import (
    Cluster,
    Embedding,
    EmbeddingCluster,
    Invocation,
    InvocationType,
    Run,
)
from panic_tda.wording import format_utc, pluralize

METADATA_KEY = "panic_tda"
"""Under which the schema of a stream says what clustering it is of."""
VECTOR = "vector"
_BATCH_ROWS = 4096
_BATCH_BYTES = 4 << 20
_MEDOID_BYTES = 32 << 20
"""Texts of medoids that are held, beyond those of one batch."""
_ID = pa.string()
_COLUMNS = pa.schema(
    [
        ("embedding_id", _ID),
        ("invocation_id", _ID),
        ("run_id", _ID),
        ("experiment_id", _ID),
        ("initial_prompt", pa.string()),
        ("network", pa.string()),
        ("seed", pa.int64()),
        ("sequence_number", pa.int64()),
        ("step", pa.int64()),
        ("output_type", pa.string()),
        ("model", pa.string()),
        ("embedding_model", pa.string()),
        ("text", pa.string()),
        ("label", pa.int64()),
        ("probability", pa.float64()),
        ("core_distance", pa.float64()),
        ("is_medoid", pa.bool_()),
        ("medoid_text", pa.string()),
    ]
)
_IDS = ("embedding_id", "invocation_id", "run_id", "experiment_id")
_AS_THEY_ARE = ("initial_prompt", "seed", "sequence_number", "step", "output_type", "text")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RowStream:
    """Rows on their way into a file.

    Attributes
    ----------
    schema : pyarrow.Schema
        Of every batch.
    n_rows : int
        Of all batches.
    batches : iterator of pyarrow.RecordBatch
        At most some thousand rows each; to be gone through once, and while what they are read from is open.
    source : Path or None
        The database file that they are read from.
    """

    schema: pa.Schema
    n_rows: int
    batches: Iterator[pa.RecordBatch]
    source: Path | None = None


def describe(clustering: ClusteringSummary, **more: Any) -> dict[bytes, bytes]:
    """Return what the schema of a file says of the clustering that its rows are of, and whatever else."""
    said: dict[str, Any] = {
        "clustering": str(clustering.id),
        "embedding_model": clustering.embedding_model,
        "created_at": format_utc(clustering.created_at),
        "parameters": clustering.record.to_json(),
    }
    with suppress(importlib.metadata.PackageNotFoundError):
        said["version"] = importlib.metadata.version("panic_tda")
    return {METADATA_KEY.encode(): json.dumps(said | more).encode()}


def with_dashes(ids: pa.Array) -> pa.Array:
    """Write ids, 32 hexadecimal digits each, as everybody else does; what is no id stays as it is."""
    groups = "".join(f"([0-9a-f]{{{length}}})" for length in (8, 4, 4, 4, 12))
    return pc.replace_substring_regex(ids, f"^{groups}$", r"\1-\2-\3-\4-\5")


@contextmanager
def open_rows(
    database: Database,
    clustering: ClusteringSummary,
    *,
    with_vectors: bool = False,
    beside: pa.RecordBatch | None = None,
) -> Iterator[RowStream]:
    """Give the assignments of a clustering, each with its output, its run and the medoid of its cluster.

    Parameters
    ----------
    database : Database
        Read in one transaction, which lasts as long as the block.
    clustering : ClusteringSummary
        One that is stored.
    with_vectors : bool
        Whether there is a column `vector`, a fixed-size list of float32, as stored.
    beside : pyarrow.RecordBatch, optional
        Further columns: a row for each assignment, in the order of `assignments.read_assignments`.

    Yields
    ------
    RowStream
        By ascending embedding id. Memory: some thousand rows, the core distances (8 bytes a row), and what
        belongs to runs and clusters.

    Raises
    ------
    DatabaseError
        A number is none, there are not as many assignments as rows `beside`, or the file is damaged; also
        while batches are read.

    Notes
    -----
    `network` is JSON, as the database has it: a value that a CSV file holds and every program groups by.
    `step` is the output index (see `sampling`). `output_type` is `text` or `image`. `model` wrote the
    output. Texts of images, medoids of outliers and core distances of clusterings without a tree are null,
    and so is whatever has gone since the clustering.
    """
    of_this = EmbeddingCluster.result_key == key_of(clustering.id)
    columns = _COLUMNS
    with database.reading() as connection:
        n_rows = int(connection.execute(sa.select(sa.func.count()).where(of_this)).scalar_one())
        if with_vectors:
            dimensions = stored_width(connection, clustering.embedding_model) // FLOAT_BYTES
            columns = columns.append(pa.field(VECTOR, pa.list_(pa.float32(), dimensions)))
        aligned = {"core_distance": _core_distances(connection, clustering.id, n_rows)}
        if beside is not None:
            if len(beside) != n_rows:
                raise DatabaseError(
                    f"clustering {clustering.id} has {n_rows} "
                    f"{pluralize(n_rows, 'assignment')}, and had {len(beside)} when its "
                    "map was made: embeddings have gone since; export again"
                )
            columns = pa.schema([*columns, *beside.schema])
            aligned |= dict(zip(beside.schema.names, beside.columns, strict=True))
        schema = columns.with_metadata(describe(clustering))
        # Closed before what it reads from, whatever becomes of the block.
        with closing(_batches(connection, clustering, schema, aligned)) as batches:
            yield RowStream(schema, n_rows, batches, database.path)


def _batches(
    connection: Connection, clustering: ClusteringSummary, schema: pa.Schema, aligned: Mapping[str, pa.Array]
) -> Generator[pa.RecordBatch, None, None]:
    medoids = _Medoids(connection, clustering.id)
    writers = _Writers(connection)
    query = _query(clustering.id, with_vectors=VECTOR in schema.names)
    names = query.selected_columns.keys()
    dimensions = schema.field(VECTOR).type.list_size if VECTOR in schema.names else 0
    batch_rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // (FLOAT_BYTES * dimensions or 1)))
    first = n_missing = 0
    stream = stream_rows(connection, query, batch_rows=batch_rows, batch_bytes=_BATCH_BYTES)
    # Closed by name: an error that is on its way keeps this frame, and with it the cursor.
    with closing(stream), closing(_with_medoids(stream, medoids, names.index("label"))) as batches:
        for rows in batches:
            stored = dict(zip(names, zip(*rows, strict=True), strict=True))
            with naming_damage(connection, query):
                made = _columns(stored, schema, dimensions)
            made["model"] = _strings(writers.of(stored))
            made["embedding_model"] = pa.repeat(clustering.embedding_model, len(rows))
            made |= {name: column.slice(first, len(rows)) for name, column in aligned.items()}
            made["is_medoid"] = pc.is_in(_strings(stored["embedding_id"]), medoids.ids)
            made["medoid_text"] = _strings(medoids.texts(stored["label"]))
            n_missing += made[VECTOR].null_count if VECTOR in made else 0
            yield pa.record_batch([made[name] for name in schema.names], schema=schema)
            first += len(rows)
    if n_missing:
        _log.warning(
            "%d of %d vectors are gone, or do not have %d values; they are null", n_missing, first, dimensions
        )


def _columns(stored: Mapping[str, Sequence[Any]], schema: pa.Schema, dimensions: int) -> dict[str, pa.Array]:
    """Return the stored columns; raises one of `columns.FAULTS` where a value is damaged."""
    made = {name: with_dashes(_strings(stored[name])) for name in _IDS}
    made |= {name: _array(stored[name], schema.field(name).type) for name in _AS_THEY_ARE}
    made["label"] = pa.array(integers(stored["label"], least=OUTLIER, below=2**31))
    made["probability"] = pa.array(shares(stored["probability"]))
    made["network"] = _strings([_network(network) for network in stored["network"]])
    _array(stored["model"], pa.string())
    if VECTOR in stored:
        made[VECTOR] = _vectors(stored[VECTOR], dimensions)
    return made


def _query(clustering_id: UUID, *, with_vectors: bool) -> Select[Any]:
    """Ask for the assignments of a clustering, by ascending id, with all that stands behind them."""
    assignment, run = EmbeddingCluster.__table__, Run.__table__
    embedding = Embedding.__table__
    step, said = _step_and_text()
    stride = strides().cte("stride")
    joined = (
        assignment.outerjoin(embedding, embedding.c.id == assignment.c.embedding_id)
        .outerjoin(step, step.c.id.between(embedding.c.invocation_id, embedding.c.invocation_id))
        .outerjoin(stride, sa.and_(stride.c.run_id == step.c.run_id, stride.c.type == step.c.type))
        .outerjoin(run, run.c.id == step.c.run_id)
        .outerjoin(said, sa.and_(said.c.id == step.c.id, step.c.type == InvocationType.TEXT))
    )
    columns: list[Any] = [
        assignment.c.embedding_id,
        embedding.c.invocation_id,
        step.c.id.label("step_id"),
        step.c.run_id,
        run.c.experiment_id,
        run.c.initial_prompt,
        sa.cast(run.c.network, sa.String).label("network"),
        run.c.seed,
        step.c.sequence_number,
        (step.c.sequence_number // stride.c.stride).label("step"),
        sa.func.lower(step.c.type).label("output_type"),
        said.c.model,
        said.c.output_text.label("text"),
        assignment.c.label,
        assignment.c.probability,
    ]
    if with_vectors:
        columns.append(embedding.c.vector)
    return (
        sa.select(*columns)
        .select_from(joined)
        .where(assignment.c.result_key == key_of(clustering_id))
        .order_by(assignment.c.embedding_id)
    )


def _step_and_text() -> tuple[Any, Any]:
    """Return the invocations twice: one for what an index has of all, one for the rows of texts.

    The row of an image may have whatever is asked for behind the image.
    """
    return Invocation.__table__.alias("step"), Invocation.__table__.alias("said")


class _Medoids:
    """The medoids of a clustering: their ids, and their texts, of which only some MiB are held at once."""

    def __init__(self, connection: Connection, clustering_id: UUID) -> None:
        self._connection, self._clustering_id = connection, clustering_id
        found = read_rows(connection, self._query(sa.func.length))
        self.ids = pa.array([identity for _, identity, _ in found], _ID)
        self._lengths: dict[int, int] = {label: length for label, _, length in found if length is not None}
        self._known: dict[int, str | None] = {}
        self._n_held = 0

    def length(self, label: int) -> int:
        """Return how long the text of a cluster's medoid is; 0 where there is none."""
        return self._lengths.get(label, 0)

    def texts(self, labels: Sequence[int]) -> list[str | None]:
        """Return the texts of the medoids of some rows, by label."""
        wanted = set(labels) & self._lengths.keys()
        if missing := wanted - self._known.keys():
            if self._n_held + sum(map(self.length, missing)) > _MEDOID_BYTES:
                self._known, self._n_held, missing = {}, 0, wanted
            query = self._query(lambda text: text).where(Cluster.label.in_(sorted(missing)))
            self._known |= {label: text for label, _, text in read_rows(self._connection, query)}
            self._n_held += sum(map(self.length, missing))
        return [self._known.get(label) for label in labels]

    def _query(self, of_text: Callable[[Any], Any]) -> Select[Any]:
        embedding = Embedding.__table__
        step, said = _step_and_text()
        joined = (
            Cluster.__table__.outerjoin(embedding, embedding.c.id == Cluster.medoid_embedding_id)
            .outerjoin(step, step.c.id.between(embedding.c.invocation_id, embedding.c.invocation_id))
            .outerjoin(said, sa.and_(said.c.id == step.c.id, step.c.type == InvocationType.TEXT))
        )
        identity = sa.type_coerce(Cluster.medoid_embedding_id, sa.String)
        return (
            sa.select(Cluster.label, identity, of_text(said.c.output_text))
            .select_from(joined)
            .where(Cluster.result_key == key_of(self._clustering_id))
        )


def _with_medoids(
    batches: Iterator[list[tuple[Any, ...]]], medoids: _Medoids, at: int
) -> Generator[list[tuple[Any, ...]], None, None]:
    """Cut batches where the texts of the medoids, which each row repeats, come to too many bytes.

    The label is the value at position `at` of each row.
    """
    for rows in batches:
        some: list[tuple[Any, ...]] = []
        n_bytes = 0
        for row in rows:
            some.append(row)
            n_bytes += medoids.length(row[at])
            if n_bytes >= _BATCH_BYTES:
                yield some
                some, n_bytes = [], 0
        if some:
            yield some


class _Writers:
    """Tells which model wrote an output, without reading the rows of all images.

    The models of a network take turns, so that one output of each place in it shows who wrote there.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[tuple[Any, ...], str | None] = {}

    def of(self, found: dict[str, tuple[Any, ...]]) -> Sequence[str | None]:
        """Return the models of some rows; those of texts were read with them."""
        if None not in found["model"]:
            return found["model"]
        columns = (found[name] for name in ("model", "step_id", "run_id", "sequence_number", "network"))
        return [
            model if model is not None or step is None else self._of_image(step, run, number, network)
            for model, step, run, number, network in zip(*columns, strict=True)
        ]

    def _of_image(self, step: str, run: str, number: int, network: str | None) -> str | None:
        place = (step,) if network is None else (run, number % _length(network))
        if place not in self._known:
            query = sa.select(Invocation.model).where(sa.type_coerce(Invocation.id, sa.String) == step)
            self._known[place] = next((model for (model,) in read_rows(self._connection, query)), None)
        return self._known[place]


@lru_cache(maxsize=1024)
def _length(network: str) -> int:
    try:
        return len(json.loads(network)) or 1
    except (ValueError, TypeError, RecursionError):
        return 1


@lru_cache(maxsize=1024)
def _network(stored: str | None) -> str | None:
    """Write a network as every other of the same models is written; what is no JSON stays as it is."""
    if stored is None:
        return None
    try:
        text = json.dumps(json.loads(stored), ensure_ascii=False)
        text.encode()  # JSON can name halves of characters, which no file takes.
    except (ValueError, RecursionError):
        return stored
    return text


def _core_distances(connection: Connection, clustering_id: UUID, n_rows: int) -> pa.Array:
    none = pa.nulls(n_rows, pa.float64())
    try:
        found = read_core_distances(connection, clustering_id)
    except DatabaseError as error:
        _log.warning("core distances are null: %s", error)
        return none
    if found is not None and len(found) != n_rows:
        _log.warning(
            "core distances are null: there are %d for %d assignments, as embeddings have gone since",
            len(found),
            n_rows,
        )
        return none
    return none if found is None else pa.array(found)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    # Arrow takes bytes for texts, and cuts fractions.
    if (bytes if kind == pa.string() else float) in set(map(type, values)):
        raise ValueError("a value has another type than its column")
    return pa.array(values, kind)


def _strings(values: Sequence[Any]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except (pa.ArrowException, TypeError):
        # Columns declared UUID turned ids of digits into numbers.
        return pa.array([None if value is None else str(value) for value in values], pa.string())


def _vectors(values: Sequence[bytes | None], dimensions: int) -> pa.Array:
    width = FLOAT_BYTES * dimensions
    missing = np.array([value is None or len(value) != width for value in values])
    if missing.any():
        values = [
            bytes(width) if gone else value for value, gone in zip(values, missing.tolist(), strict=True)
        ]
    numbers = pa.array(np.frombuffer(b"".join(values), dtype="<f4"))  # type: ignore[arg-type]
    return pa.FixedSizeListArray.from_arrays(numbers, dimensions, mask=pa.array(missing))
