"""Stream the rows of a clustering with their embeddings, texts, runs and medoids.

Rows come by ascending embedding id, those of the fit before the predicted ones. That is the order of the
assignments and of the core distances, so nothing is sorted, and each embedding and each text is one lookup.
Ids of the generation pipeline ascend with time, nearly as the rows of its files do. Ids of an import are
hashes: their rows are scattered over the file.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql import Select

from panic_tda.errors import DatabaseError
from panic_tda.storage.bulk import stream_rows
from panic_tda.storage.cells import convert_integers, convert_shares, naming_damage, read_rows
from panic_tda.storage.database import Database
from panic_tda.storage.read.assignments import select_key
from panic_tda.storage.read.census import FLOAT_BYTES
from panic_tda.storage.read.clusterings import open_clustering
from panic_tda.storage.read.predictions import count_predictions, has_predictions
from panic_tda.storage.read.results import ClusteringSummary
from panic_tda.storage.read.row_streams import RowStream, describe, with_dashes
from panic_tda.storage.read.trees import read_core_distances
from panic_tda.storage.schema.sampling import select_strides
from panic_tda.storage.schema.tables import (
    EMBEDDING_PREDICTION,
    Cluster,
    Embedding,
    EmbeddingCluster,
    Invocation,
    InvocationType,
    Run,
)
from panic_tda.types import OUTLIER
from panic_tda.wording import pluralize

VECTOR = "vector"
BATCH_ROWS = 4096
BATCH_BYTES = 4 << 20
_MEDOID_BYTES = 32 << 20
"""Largest size of the cached texts of medoids, apart from those of one batch."""
_ID = pa.string()
COLUMNS = pa.schema(
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
        ("predicted", pa.bool_()),
    ]
)
_IDS = ("embedding_id", "invocation_id", "run_id", "experiment_id")
_UNCHANGED_COLUMNS = ("initial_prompt", "seed", "sequence_number", "step", "output_type", "text")
_log = logging.getLogger(__name__)


@contextmanager
def open_rows(
    database: Database,
    clustering: ClusteringSummary,
    *,
    with_vectors: bool = False,
    extra_columns: pa.RecordBatch | None = None,
) -> Iterator[RowStream]:
    """Stream the assignments of a clustering, each with its output, its run and the medoid of its cluster.

    Parameters
    ----------
    database : Database
        Read in one transaction, which lasts as long as the block.
    clustering : ClusteringSummary
        A stored clustering.
    with_vectors : bool
        Whether to add a column `vector`, a fixed-size list of float32, as stored.
    extra_columns : pyarrow.RecordBatch, optional
        Further columns, with a row for each assignment, in the order of `assignments.read_assignments`.

    Yields
    ------
    RowStream
        Rows by ascending embedding id, those of the fit before the predicted ones. Memory: some thousand
        rows, the core distances (8 bytes per row), and data of runs and clusters.

    Raises
    ------
    DatabaseError
        A number is invalid, `extra_columns` has another number of rows than there are assignments, or the
        file is damaged. It is also raised while batches are read.

    Notes
    -----
    `network` is JSON, as in the database, because a CSV file can hold it and every program can group by it.
    `step` is the output index (see `sampling`). `output_type` is `text` or `image`. `model` generated the
    output. Texts of images, medoids of outliers and core distances of clusterings without a tree are null,
    and so are values that were deleted since the clustering. Predicted rows (see `predictions`) have neither
    core distances nor extra columns.
    """
    columns = COLUMNS
    with open_clustering(database, clustering) as stored:
        connection, n_rows = stored.connection, stored.n_assigned
        if n_rows < clustering.record.n_embeddings:
            _log.warning(
                "%d of %d rows of clustering %s have no assignment: embeddings were deleted since, or "
                "rows were changed by hand; panic-tda doctor finds these",
                clustering.record.n_embeddings - n_rows,
                clustering.record.n_embeddings,
                clustering.id,
            )
        if with_vectors:
            columns = columns.append(pa.field(VECTOR, pa.list_(pa.float32(), stored.dimensions)))
        n_predicted = count_predictions(connection, clustering.id)
        aligned = {"core_distance": _read_core_distances(connection, clustering.id, n_rows)}
        if extra_columns is not None:
            if len(extra_columns) != n_rows:
                raise DatabaseError(
                    f"clustering {clustering.id} has {n_rows} "
                    f"{pluralize(n_rows, 'assignment')}, and had {len(extra_columns)} when its "
                    "map was computed: embeddings were deleted since; export again"
                )
            columns = pa.schema([*columns, *extra_columns.schema])
            aligned |= dict(zip(extra_columns.schema.names, extra_columns.columns, strict=True))
        schema = columns.with_metadata(describe(clustering))
        # The batches are closed before the transaction, even after an error.
        with closing(_stream_batches(connection, clustering, schema, aligned)) as batches:
            yield RowStream(schema, n_rows + n_predicted, batches, database.path)


def _stream_batches(
    connection: Connection, clustering: ClusteringSummary, schema: pa.Schema, aligned: Mapping[str, pa.Array]
) -> Generator[pa.RecordBatch, None, None]:
    yield from _stream_table(connection, clustering, schema, aligned)
    if has_predictions(connection):
        nulls = {name: pa.nulls(0, column.type) for name, column in aligned.items()}
        yield from _stream_table(connection, clustering, schema, nulls, table=EMBEDDING_PREDICTION)


def _stream_table(
    connection: Connection,
    clustering: ClusteringSummary,
    schema: pa.Schema,
    aligned: Mapping[str, pa.Array],
    *,
    table: sa.Table = EmbeddingCluster.__table__,  # type: ignore[assignment]
) -> Generator[pa.RecordBatch, None, None]:
    """Stream the rows of one table; columns of `aligned` are null where they have no further values."""
    medoids = _Medoids(connection, clustering.id)
    output_models = _OutputModels(connection)
    query = _select_rows(clustering.id, table, with_vectors=VECTOR in schema.names)
    names = query.selected_columns.keys()
    dimensions = schema.field(VECTOR).type.list_size if VECTOR in schema.names else 0
    batch_rows = max(1, min(BATCH_ROWS, BATCH_BYTES // (FLOAT_BYTES * dimensions or 1)))
    first = n_missing = 0
    label = names.index("label")
    stream = stream_rows(
        connection,
        query,
        batch_rows=batch_rows,
        batch_bytes=BATCH_BYTES,
        # The text of the medoid is repeated for each row.
        count_more=lambda row: medoids.text_length(row[label]),
    )
    # Closed explicitly: the traceback of an error keeps this frame alive, and with it the cursor.
    with closing(stream) as batches:
        for rows in batches:
            stored = dict(zip(names, zip(*rows, strict=True), strict=True))
            with naming_damage(connection, query):
                arrays = _convert_columns(stored, schema, dimensions)
            arrays["model"] = _convert_strings(output_models.read(stored))
            arrays["embedding_model"] = pa.repeat(clustering.embedding_model, len(rows))
            arrays |= {
                name: column.slice(first, len(rows)) if len(column) else pa.nulls(len(rows), column.type)
                for name, column in aligned.items()
            }
            arrays["predicted"] = pa.repeat(table is EMBEDDING_PREDICTION, len(rows))
            arrays["is_medoid"] = pc.is_in(_convert_strings(stored["embedding_id"]), medoids.ids)
            arrays["medoid_text"] = _convert_strings(medoids.read_texts(stored["label"]))
            n_missing += arrays[VECTOR].null_count if VECTOR in arrays else 0
            yield pa.record_batch([arrays[name] for name in schema.names], schema=schema)
            first += len(rows)
    if n_missing:
        _log.warning(
            "%d of %d vectors were deleted, or do not have %d values; they are null",
            n_missing,
            first,
            dimensions,
        )


def _convert_columns(
    stored: Mapping[str, Sequence[Any]], schema: pa.Schema, dimensions: int
) -> dict[str, pa.Array]:
    """Convert the stored columns; raise one of `columns.FAULTS` if a value is damaged."""
    arrays = {name: with_dashes(_convert_strings(stored[name])) for name in _IDS}
    arrays |= {name: _convert_values(stored[name], schema.field(name).type) for name in _UNCHANGED_COLUMNS}
    arrays["label"] = pa.array(convert_integers(stored["label"], least=OUTLIER, below=2**31))
    arrays["probability"] = pa.array(convert_shares(stored["probability"]))
    arrays["network"] = _convert_strings([_normalise_network(network) for network in stored["network"]])
    _convert_values(stored["model"], pa.string())
    if VECTOR in stored:
        arrays[VECTOR] = _convert_vectors(stored[VECTOR], dimensions)
    return arrays


def _select_rows(clustering_id: UUID, assignment: sa.Table, *, with_vectors: bool) -> Select[Any]:
    """Return the query for the assignments of a clustering with their outputs and runs, by ascending id."""
    run = Run.__table__
    embedding = Embedding.__table__
    step, text = _alias_invocations()
    stride = select_strides().cte("stride")
    joined = (
        assignment.outerjoin(embedding, embedding.c.id == assignment.c.embedding_id)
        .outerjoin(step, step.c.id.between(embedding.c.invocation_id, embedding.c.invocation_id))
        .outerjoin(stride, sa.and_(stride.c.run_id == step.c.run_id, stride.c.type == step.c.type))
        .outerjoin(run, run.c.id == step.c.run_id)
        .outerjoin(text, sa.and_(text.c.id == step.c.id, step.c.type == InvocationType.TEXT))
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
        text.c.model,
        text.c.output_text.label("text"),
        assignment.c.label,
        assignment.c.probability,
    ]
    if with_vectors:
        columns.append(embedding.c.vector)
    return (
        sa.select(*columns)
        .select_from(joined)
        .where(assignment.c.result_key == select_key(clustering_id))
        .order_by(assignment.c.embedding_id)
    )


def _alias_invocations() -> tuple[Any, Any]:
    """Return two aliases of `invocation`: one for the columns of an index, one for the rows of texts.

    In the row of an image, other columns may be stored behind the image.
    """
    return Invocation.__table__.alias("step"), Invocation.__table__.alias("said")


class _Medoids:
    """The ids and texts of the medoids of a clustering; at most `_MEDOID_BYTES` of texts are cached."""

    def __init__(self, connection: Connection, clustering_id: UUID) -> None:
        self._connection, self._clustering_id = connection, clustering_id
        rows = read_rows(connection, self._select(sa.func.length))
        self.ids = pa.array([identity for _, identity, _ in rows], _ID)
        self._lengths: dict[int, int] = {label: length for label, _, length in rows if length is not None}
        self._cached: dict[int, str | None] = {}
        self._n_cached = 0

    def text_length(self, label: int) -> int:
        """Return the length of the text of a cluster's medoid; 0 if it has no text."""
        return self._lengths.get(label, 0)

    def read_texts(self, labels: Sequence[int]) -> list[str | None]:
        """Return the text of the medoid for each of these labels."""
        wanted = set(labels) & self._lengths.keys()
        if missing := wanted - self._cached.keys():
            if self._n_cached + sum(map(self.text_length, missing)) > _MEDOID_BYTES:
                self._cached, self._n_cached, missing = {}, 0, wanted
            query = self._select(lambda text: text).where(Cluster.label.in_(sorted(missing)))
            self._cached |= {label: text for label, _, text in read_rows(self._connection, query)}
            self._n_cached += sum(map(self.text_length, missing))
        return [self._cached.get(label) for label in labels]

    def _select(self, text_function: Callable[[Any], Any]) -> Select[Any]:
        embedding = Embedding.__table__
        step, text = _alias_invocations()
        joined = (
            Cluster.__table__.outerjoin(embedding, embedding.c.id == Cluster.medoid_embedding_id)
            .outerjoin(step, step.c.id.between(embedding.c.invocation_id, embedding.c.invocation_id))
            .outerjoin(text, sa.and_(text.c.id == step.c.id, step.c.type == InvocationType.TEXT))
        )
        identity = sa.type_coerce(Cluster.medoid_embedding_id, sa.String)
        return (
            sa.select(Cluster.label, identity, text_function(text.c.output_text))
            .select_from(joined)
            .where(Cluster.result_key == select_key(self._clustering_id))
        )


class _OutputModels:
    """The models that generated outputs, found without reading the rows of all images.

    The models of a network take turns, so one output for each position in the network shows its model.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[tuple[Any, ...], str | None] = {}

    def read(self, columns: dict[str, tuple[Any, ...]]) -> Sequence[str | None]:
        """Return the model of each row; the models of texts are in the rows already."""
        if None not in columns["model"]:
            return columns["model"]
        values = (columns[name] for name in ("model", "step_id", "run_id", "sequence_number", "network"))
        return [
            model if model is not None or step is None else self._find_image_model(step, run, number, network)
            for model, step, run, number, network in zip(*values, strict=True)
        ]

    def _find_image_model(self, step: str, run: str, number: int, network: str | None) -> str | None:
        position = (step,) if network is None else (run, number % _count_models(network))
        if position not in self._known:
            query = sa.select(Invocation.model).where(sa.type_coerce(Invocation.id, sa.String) == step)
            self._known[position] = next((model for (model,) in read_rows(self._connection, query)), None)
        return self._known[position]


@lru_cache(maxsize=1024)
def _count_models(network: str) -> int:
    try:
        return len(json.loads(network)) or 1
    except (ValueError, TypeError, RecursionError):
        return 1


@lru_cache(maxsize=1024)
def _normalise_network(stored: str | None) -> str | None:
    """Return the JSON of a network in one normal form; invalid JSON stays unchanged."""
    if stored is None:
        return None
    try:
        text = json.dumps(json.loads(stored), ensure_ascii=False)
        text.encode()  # JSON can contain lone surrogates, which no file format accepts.
    except (ValueError, RecursionError):
        return stored
    return text


def _read_core_distances(connection: Connection, clustering_id: UUID, n_rows: int) -> pa.Array:
    nulls = pa.nulls(n_rows, pa.float64())
    try:
        distances = read_core_distances(connection, clustering_id)
    except DatabaseError as error:
        _log.warning("core distances are null: %s", error)
        return nulls
    if distances is not None and len(distances) != n_rows:
        _log.warning(
            "core distances are null: there are %d for %d assignments, as embeddings were deleted since",
            len(distances),
            n_rows,
        )
        return nulls
    return nulls if distances is None else pa.array(distances)


def _convert_values(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    # Arrow accepts bytes as texts, and truncates fractions.
    if (bytes if kind == pa.string() else float) in set(map(type, values)):
        raise ValueError("a value has another type than its column")
    return pa.array(values, kind)


def _convert_strings(values: Sequence[Any]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except (pa.ArrowException, TypeError):
        # In columns declared as UUID, SQLite stores ids of digits only as numbers.
        return pa.array([None if value is None else str(value) for value in values], pa.string())


def _convert_vectors(values: Sequence[bytes | None], dimensions: int) -> pa.Array:
    width = FLOAT_BYTES * dimensions
    missing = np.array([value is None or len(value) != width for value in values])
    if missing.any():
        values = [
            bytes(width) if is_missing else value
            for value, is_missing in zip(values, missing.tolist(), strict=True)
        ]
    numbers = pa.array(np.frombuffer(b"".join(values), dtype="<f4"))  # type: ignore[arg-type]
    return pa.FixedSizeListArray.from_arrays(numbers, dimensions, mask=pa.array(missing))
