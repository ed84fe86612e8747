"""Load the vectors of one model into one matrix, in ascending order of embedding id."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql import Select

from panic_tda.arrays import rows
from panic_tda.arrays.destinations import Destination, HostRows
from panic_tda.arrays.device import DeviceRows
from panic_tda.arrays.namespace import to_host
from panic_tda.errors import BadVectors, DatabaseError
from panic_tda.parameters import validate_downsample
from panic_tda.progress import Progress, Silent
from panic_tda.storage.bulk import ID_LENGTH, stream_vectors
from panic_tda.storage.cells import row_locator
from panic_tda.storage.connections import streaming_cache
from panic_tda.storage.database import Database
from panic_tda.storage.read.assignments import count_assignments, select_key
from panic_tda.storage.read.census import (
    FLOAT_BYTES,
    NAMED_IDS,
    ModelCensus,
    count_models,
    find_ids_of_other_lengths,
    require_valid,
    show_id,
    take_census,
)
from panic_tda.storage.read.summaries import ClusteringSummary
from panic_tda.storage.schema.sampling import sample
from panic_tda.storage.schema.tables import Embedding, EmbeddingCluster
from panic_tda.types import BytesArray, EmbeddingMatrix

BATCH_ROWS, BATCH_BYTES = 448, 1 << 20
"""Rows and bytes of an Arrow batch, at most: enough rows that calls cost little, few enough bytes that the
batch is packed in the processor's cache. 60,000 vectors of 384 values took 0.21 s of processor time, 0.29 s
in batches of 83 rows, and a bare scan 0.12 s; with 64 values, batches of 1 MiB were slower than these."""

_DENSE_SHARE = 0.9
"""Least share of a model's rows between its first and its last row, to read all rows between them."""

_INVALID_IDS = "ids of model {model} are not 32 lower-case hexadecimal digits"
_NO_DIRECTION = "vectors of model {model} are zero, NaN or infinite"
_OTHER_LENGTH = "vectors of model {model} are missing or not of the common length"

_DAMAGED_INDEX = (
    "the table embedding has more rows than its indexes, which are damaged; rebuild them (REINDEX embedding)"
)

_embedding = Embedding.__table__
_ASSIGNED = EmbeddingCluster.__table__.join(_embedding, _embedding.c.id == EmbeddingCluster.embedding_id)
_log = logging.getLogger(__name__)


def load_embeddings(
    database: Database,
    census: ModelCensus,
    *,
    downsample: int = 1,
    skip_invalid: bool = False,
    progress: Progress | None = None,
    memory_limit: int | None = None,
    work_dir: Path | None = None,
    to_device: bool = False,
    zeros_allowed: bool = False,
) -> EmbeddingMatrix:
    """Read the sampled vectors of one model into one matrix.

    Parameters
    ----------
    database : Database
        Read in one short transaction.
    census : ModelCensus
        Census of the model for this factor; vectors of its `width` are read. Rows may have been added or
        deleted since it was taken.
    downsample : int
        Sampling factor; 1 keeps every row.
    skip_invalid : bool
        Leave out, count and log invalid vectors and ids instead of raising an error.
    progress : Progress, optional
        Receives the number of rows read.
    memory_limit : int, optional
        Largest matrix in host memory, in bytes; a larger matrix is a memory map of a temporary file.
    work_dir : Path, optional
        Folder for that file; None means the temporary folder.
    to_device : bool
        Load into the memory of the CUDA device, which must exist. Host memory then holds a few batches and
        the ids, about 100 bytes per row.
    zeros_allowed : bool
        Whether rows of zeros are valid; in host memory only.

    Returns
    -------
    EmbeddingMatrix
        Rows in ascending order of embedding id.

    Raises
    ------
    BadVectors
        A vector is missing, of another length, not finite or zero, or an id is invalid, and `skip_invalid` is
        off.
    MemoryError
        The matrix does not fit into memory.
    """
    progress = progress or Silent()
    validate_downsample(downsample)
    # If all rows are read, invocations need not be looked up.
    all_rows = downsample == 1 and not census.n_orphans and not skip_invalid
    invalid_ids: list[Any] = []
    with database.reading() as connection:
        rows_of_model = _find_rows(connection, census.model) if all_rows else None
        if rows_of_model is None:
            # The census of all models may be hours old, and a matrix of its size might be too small by now.
            census = count_models(connection, downsample, census.model).get(census.model, census)
        n_rows = rows_of_model.n_rows if rows_of_model else census.n_usable
        progress.phase("load", total=n_rows)
        destination = _allocate_destination(
            n_rows,
            census.width // FLOAT_BYTES,
            to_device=to_device,
            memory_limit=memory_limit,
            work_dir=work_dir,
            zeros_allowed=zeros_allowed,
        )
        # After an error too: no copy to the device may still be writing to memory that is freed.
        with contextlib.closing(destination):
            if rows_of_model and rows_of_model.are_dense:
                query = _select_range(connection, census.model, rows_of_model)
            else:
                query = _select_vectors(connection, census, downsample, filtered=skip_invalid)
            batches = stream_vectors(
                connection,
                query,
                width=census.width,
                batch_rows=_compute_batch_rows(census.width),
                invalid_ids=invalid_ids,
            )
            try:
                ids = _fill_destination(destination, batches, n_rows, progress)
            except DatabaseError:
                # A missing vector, or one of another length, gets a better message than the failed batch.
                require_valid(database, take_census(database, downsample)[census.model], downsample)
                raise
            vectors, valid = destination.finish()
        left_out = {_INVALID_IDS: sorted(map(repr, invalid_ids)), _NO_DIRECTION: _show_ids(ids[~valid])}
        if skip_invalid and census.n_sampled > census.n_usable:
            left_out[_OTHER_LENGTH] = sorted(find_ids_of_other_lengths(connection, census, downsample))
    _report_left_out(census.model, left_out, skip_invalid=skip_invalid)
    if all_rows:
        # All rows of the model were read, so their number is the current count.
        census = ModelCensus(census.model, n_total=len(ids), n_orphans=0, sampled={census.width: len(ids)})
    ids, vectors = _sort_by_id(ids[valid], rows.move_to_front(vectors, np.flatnonzero(valid)))
    return EmbeddingMatrix(
        model=census.model,
        ids=ids,
        vectors=vectors,
        n_total=census.n_total,
        n_sampled=census.n_sampled,
        n_excluded=census.n_orphans + census.n_sampled - len(ids),
        downsample=downsample,
    )


def load_assigned(
    connection: Connection,
    clustering: ClusteringSummary,
    *,
    progress: Progress | None = None,
    memory_limit: int | None = None,
) -> EmbeddingMatrix:
    """Load the vectors of a stored clustering again, in the order of its assignments.

    Parameters
    ----------
    connection : Connection
        From `Database.reading`.
    clustering : ClusteringSummary
        A stored clustering.
    progress : Progress, optional
        Receives the number of rows read.
    memory_limit : int, optional
        Largest matrix in host memory, in bytes; see `load_embeddings`.

    Raises
    ------
    DatabaseError
        Embeddings were deleted or vectors were changed since the clustering.
    """
    progress, record = progress or Silent(), clustering.record
    invalid_ids: list[Any] = []
    n_rows = count_assignments(connection, clustering.id)
    width = read_assigned_width(connection, clustering.id)
    progress.phase("load", total=n_rows)
    locator = row_locator(connection, _embedding)
    # The rows are found in the indexes, and read in the order of the file.
    wanted = sa.select(locator).select_from(_ASSIGNED).where(_has_key(clustering.id))
    query = sa.select(_embedding.c.id, _embedding.c.vector).where(locator.in_(wanted.correlate(None)))
    destination = HostRows(n_rows, width // FLOAT_BYTES, memory_limit=memory_limit)
    with contextlib.closing(destination):
        batches = stream_vectors(
            connection, query, width=width, batch_rows=_compute_batch_rows(width), invalid_ids=invalid_ids
        )
        ids = _fill_destination(destination, batches, n_rows, progress)
        vectors, _ = destination.finish()
    ids, vectors = _sort_by_id(ids, vectors)
    chosen = (record.n_total, record.n_sampled, record.n_excluded, record.downsample)
    matrix = EmbeddingMatrix(clustering.embedding_model, ids, vectors, *(number or 0 for number in chosen))
    if input_sha256(matrix) != record.input_sha256:
        raise DatabaseError(
            f"the embeddings of clustering {clustering.id} have changed since: some were deleted or "
            "have other vectors now; cluster again (panic-tda cluster-embeddings)"
        )
    return matrix


def read_assigned_width(connection: Connection, clustering_id: UUID) -> int:
    """Return the number of bytes of a vector of a stored clustering; 0 if all embeddings were deleted."""
    length = sa.select(sa.func.length(_embedding.c.vector)).select_from(_ASSIGNED)
    return int(connection.execute(length.where(_has_key(clustering_id)).limit(1)).scalar() or 0)


def _has_key(clustering_id: UUID) -> sa.ColumnElement[bool]:
    return EmbeddingCluster.result_key == select_key(clustering_id)


def input_sha256(matrix: EmbeddingMatrix) -> str:
    """Return the SHA-256 of the ids followed by the rows, as hexadecimal digits."""
    digest = hashlib.sha256(matrix.ids.data)
    for chunk in rows.chunks(matrix.vectors):
        digest.update(to_host(matrix.vectors[chunk]).data)
    return digest.hexdigest()


class _ModelRows(NamedTuple):
    """The current number of rows of a model, and in SQLite the numbers of its first and last row."""

    n_rows: int
    first: int
    last: int

    @property
    def are_dense(self) -> bool:
        """Return whether so few other rows lie between them that all may be read."""
        return self.n_rows >= _DENSE_SHARE * (self.last - self.first + 1)


def _find_rows(connection: Connection, model: str) -> _ModelRows:
    """Find all rows of a model in an index."""
    of_model = _embedding.c.embedding_model == model
    if connection.dialect.name != "sqlite":
        n_rows = connection.execute(sa.select(sa.func.count()).where(of_model)).scalar_one()
        return _ModelRows(int(n_rows), first=0, last=2**63)
    locator = row_locator(connection, _embedding)
    numbers = sa.select(sa.func.count(), sa.func.min(locator), sa.func.max(locator)).where(of_model)
    with streaming_cache(connection):
        n_rows, first, last = connection.execute(numbers).one()
    return _ModelRows(n_rows, first or 0, last or 0)


def _allocate_destination(n_rows: int, n_features: int, *, to_device: bool, **options: Any) -> Destination:
    """Allocate the matrix in device memory or in host memory."""
    if to_device:
        return DeviceRows(n_rows, n_features)
    return HostRows(n_rows, n_features, **options)


def _select_range(connection: Connection, model: str, rows_of_model: _ModelRows) -> Select[Any]:
    # A look-up of each row takes a quarter of the time of reading it.
    in_range = row_locator(connection, _embedding).between(rows_of_model.first, rows_of_model.last)
    # With the plus, SQLite does not use the index on models.
    of_model = sa.literal_column("+embedding.embedding_model", sa.String) == model
    return sa.select(_embedding.c.id, _embedding.c.vector).where(in_range, of_model)


def _select_vectors(
    connection: Connection, census: ModelCensus, downsample: int, *, filtered: bool
) -> Select[Any]:
    # Rows are found in the indexes and read in the order of the file, which is fastest; they are sorted by id
    # in memory.
    locator = row_locator(connection, _embedding)
    wanted = sa.select(locator).where(_embedding.c.embedding_model == census.model)
    if downsample > 1 or census.n_orphans:
        # Looking up every invocation takes half the time of reading the vectors.
        chosen = sample(downsample)
        wanted = wanted.select_from(chosen.source).where(chosen.chosen)
    else:
        wanted = wanted.select_from(_embedding)
    if filtered:
        wanted = wanted.where(sa.func.length(_embedding.c.vector) == census.width)
    return sa.select(_embedding.c.id, _embedding.c.vector).where(locator.in_(wanted.correlate(None)))


def _compute_batch_rows(width: int) -> int:
    return max(1, min(BATCH_ROWS, BATCH_BYTES // (width + ID_LENGTH)))


def _show_ids(ids: BytesArray) -> list[str]:
    """Return ids as the user sees them, ascending."""
    return [show_id(identity.decode()) for identity in np.sort(ids)]


def _fill_destination(
    destination: Destination, batches: Iterator[pa.RecordBatch], n_rows: int, progress: Progress
) -> BytesArray:
    """Copy all vectors to their destination, and return their ids in the same order.

    There are at most `n_rows` rows, because they were counted in the same transaction: in an index, which a
    damaged file may contradict.
    """
    ids = np.empty(n_rows, dtype="S32")
    filled = 0
    for batch in batches:
        if filled + batch.num_rows > n_rows:
            raise DatabaseError(_DAMAGED_INDEX)
        ids[filled : filled + batch.num_rows] = _view_buffer(batch.column("id"), np.dtype("S32"))
        destination.put(_view_buffer(batch.column("vector"), np.dtype("<f4")).reshape(batch.num_rows, -1))
        filled += batch.num_rows
        progress.advance(batch.num_rows)
    return ids[:filled]


def _view_buffer(column: pa.Array, dtype: np.dtype[Any]) -> Any:
    return np.frombuffer(column.buffers()[1], dtype=dtype)


def _sort_by_id(ids: BytesArray, vectors: Any) -> tuple[BytesArray, Any]:
    if np.all(ids[:-1] < ids[1:]):
        return ids, vectors
    order = np.argsort(ids)
    rows.permute_rows(vectors, order)
    return ids[order], vectors


def _report_left_out(model: str, left_out: dict[str, list[str]], *, skip_invalid: bool) -> None:
    """Log the ids that were left out; raise `BadVectors` for them unless `skip_invalid` is set."""
    for description, ids in left_out.items():
        if not ids:
            continue
        summary = (
            f"{len(ids)} {description.format(model=model)}; first embedding ids: {', '.join(ids[:NAMED_IDS])}"
        )
        if not skip_invalid:
            raise BadVectors(f"{summary}; repair them, or leave them out with --skip-invalid")
        _log.warning("left out %s", summary)
        _log.debug("all of them: %s", ", ".join(ids))
