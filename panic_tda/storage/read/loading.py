"""Database to arrays: one model's vectors as one matrix, in ascending order of their ids."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ColumnElement, Select

from panic_tda.arrays import rows
from panic_tda.arrays.destinations import Destination, HostRows
from panic_tda.arrays.device import DeviceRows
from panic_tda.arrays.namespace import to_host
from panic_tda.errors import BadVectors, DatabaseError
from panic_tda.parameters import ClusteringRecord, validate_downsample
from panic_tda.progress import Progress, Silent
from panic_tda.storage.bulk import ID_LENGTH, stream_vectors
from panic_tda.storage.database import Database
from panic_tda.storage.read.assignments import key_of
from panic_tda.storage.read.census import (
    FLOAT_BYTES,
    NAMED_IDS,
    ModelCensus,
    count,
    ids_of_other_lengths,
    require_valid,
    show_id,
    take_census,
)
from panic_tda.storage.schema.sampling import sample
from panic_tda.storage.schema.tables import Embedding, EmbeddingCluster
from panic_tda.types import EmbeddingMatrix

if TYPE_CHECKING:
    from panic_tda.types import BoolArray, BytesArray

BATCH_BYTES = 1 << 17
"""Size of an Arrow batch. Small enough to be packed while it is in the processor's cache and to be recycled
by the allocator, large enough to hide a call: 100,000 vectors of 256 bytes took 0.09 s of processor time
like this, 0.15 s in batches of 16 KiB or of 1 MiB, and a bare scan of them 0.06 s."""
_QUERY_IDS = 500

_NO_IDS = "ids of model {model} are not 32 lower-case hexadecimal digits"
_NO_DIRECTION = "vectors of model {model} are zero, NaN or infinite"
_OTHER_LENGTH = "vectors of model {model} are missing or not of the common length"

_embedding = Embedding.__table__
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
) -> EmbeddingMatrix:
    """Read the sampled vectors of one model into one matrix.

    Parameters
    ----------
    database : Database
        Read in one short transaction.
    census : ModelCensus
        Of this model and factor; its vector length is the one that is read. Rows may have come or gone
        since it was taken.
    downsample : int
        Sampling factor; 1 keeps every row.
    skip_invalid : bool
        Leave invalid vectors and ids out, count them and say in the log which, instead of raising.
    progress : Progress, optional
        Told the rows read.
    memory_limit : int, optional
        A matrix of more bytes in host memory is a memory map of a temporary file, so that it may be larger
        than memory.
    work_dir : Path, optional
        Folder for that file; None takes the temporary folder.
    to_device : bool
        Load into the memory of the CUDA device, which must be there. Host memory then holds
        a few batches and what belongs to the ids, some 100 bytes a row.

    Returns
    -------
    EmbeddingMatrix
        Rows in ascending order of embedding id.

    Raises
    ------
    BadVectors
        A vector is missing, of another length, not finite or zero, or an id is none, and `skip_invalid` is
        off.
    MemoryError
        There is no room for the matrix.
    """
    progress = progress or Silent()
    validate_downsample(downsample)
    # Where nothing is left out, invocations need not be looked up at all.
    everything = downsample == 1 and not census.n_orphans and not skip_invalid
    no_ids: list[Any] = []
    with database.reading() as connection:
        census, n_rows = _recounted(connection, census, downsample, everything=everything)
        progress.phase("load", total=n_rows)
        destination = _destination(
            n_rows,
            census.width // FLOAT_BYTES,
            to_device=to_device,
            memory_limit=memory_limit,
            work_dir=work_dir,
        )
        # Whatever happens, no copy may be under way to memory that is free again.
        with contextlib.closing(destination):
            try:
                query = _vector_query(connection, census, downsample, filtered=skip_invalid)
                batches = stream_vectors(
                    connection,
                    query,
                    width=census.width,
                    batch_rows=_batch_rows(census.width),
                    no_ids=no_ids,
                )
                ids = _fill(destination, batches, n_rows, progress)
            except DatabaseError:
                # A missing or ragged vector has a better message than that a batch could not be packed.
                require_valid(database, take_census(database, downsample)[census.model], downsample)
                raise
            vectors, valid = destination.finish()
        left_out = {
            _NO_IDS: sorted(map(repr, no_ids)),
            _NO_DIRECTION: [show_id(found.decode()) for found in np.sort(ids[~valid])],
        }
        if skip_invalid and census.n_sampled > census.n_usable:
            left_out[_OTHER_LENGTH] = sorted(ids_of_other_lengths(connection, census, downsample))
    _report(census.model, left_out, skip_invalid=skip_invalid)
    if everything:
        # What was read is what there is now.
        census = ModelCensus(census.model, n_total=len(ids), n_orphans=0, sampled={census.width: len(ids)})
    ids, vectors = _in_order(ids[valid], rows.keep(vectors, np.flatnonzero(valid)))
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
    database: Database,
    clustering_id: UUID,
    record: ClusteringRecord,
    *,
    model: str,
    progress: Progress | None = None,
    memory_limit: int | None = None,
) -> EmbeddingMatrix:
    """Read the rows of a stored clustering once more, in the order of its assignments.

    Parameters
    ----------
    database : Database
        Read in one short transaction.
    clustering_id : UUID
        Of the clustering.
    record, model
        As stored with it.
    progress : Progress, optional
        Told the rows read.
    memory_limit : int, optional
        As of `load_embeddings`.

    Raises
    ------
    DatabaseError
        Embeddings have gone since, or vectors are others now.
    """
    progress = progress or Silent()
    no_ids: list[Any] = []
    of_this = EmbeddingCluster.result_key == key_of(clustering_id)
    joined = EmbeddingCluster.__table__.join(_embedding, _embedding.c.id == EmbeddingCluster.embedding_id)
    with database.reading() as connection:
        counted = sa.select(sa.func.count()).select_from(EmbeddingCluster).where(of_this)
        n_rows = int(connection.execute(counted).scalar_one())
        first = sa.select(sa.func.length(_embedding.c.vector)).select_from(joined).where(of_this).limit(1)
        width = int(connection.execute(first).scalar() or 0)
        progress.phase("load", total=n_rows)
        place = _place(connection)
        # The rows are found in the indexes, and read in the order of the file.
        wanted = sa.select(place).select_from(joined).where(of_this)
        query = sa.select(_embedding.c.id, _embedding.c.vector).where(place.in_(wanted.correlate(None)))
        destination = HostRows(n_rows, width // FLOAT_BYTES, memory_limit=memory_limit)
        with contextlib.closing(destination):
            batches = stream_vectors(
                connection, query, width=width, batch_rows=_batch_rows(width), no_ids=no_ids
            )
            ids = _fill(destination, batches, n_rows, progress)
            vectors, _ = destination.finish()
    ids, vectors = _in_order(ids, vectors)
    chosen = (record.n_total, record.n_sampled, record.n_excluded, record.downsample)
    matrix = EmbeddingMatrix(model, ids, vectors, *(number or 0 for number in chosen))
    if input_sha256(matrix) != record.input_sha256:
        raise DatabaseError(
            f"the embeddings of clustering {clustering_id} are not those that it was made of: some have gone "
            "or have other vectors now; cluster again (panic-tda cluster-embeddings)"
        )
    return matrix


def input_sha256(matrix: EmbeddingMatrix) -> str:
    """Return the SHA-256 of the ids, then the rows, as hexadecimal digits."""
    digest = hashlib.sha256(matrix.ids.data)
    for some in rows.chunks(matrix.vectors):
        digest.update(to_host(matrix.vectors[some]).data)
    return digest.hexdigest()


def are_stored(connection: Connection, ids: BytesArray) -> BoolArray:
    """Tell of each id, (n,) S32, whether there is an embedding of it; only the index on ids is read.

    Ids are compared as whole texts: one that is no id at all is there as little as one that has gone.
    """
    column = sa.type_coerce(_embedding.c.id, sa.String)
    present = np.zeros(len(ids), dtype=bool)
    for first in range(0, len(ids), _QUERY_IDS):
        some = [identity.decode("ascii", "replace") for identity in ids[first : first + _QUERY_IDS].tolist()]
        found = set(connection.execute(sa.select(column).where(column.in_(some))).scalars())
        present[first : first + _QUERY_IDS] = [identity in found for identity in some]
    return present


def _recounted(
    connection: Connection, census: ModelCensus, downsample: int, *, everything: bool
) -> tuple[ModelCensus, int]:
    """Return what there is of a model now, and how many rows will come at most.

    The census of all models may be hours older: a matrix of its size would have to grow, and double.
    """
    if everything:
        query = sa.select(sa.func.count()).where(_embedding.c.embedding_model == census.model)
        return census, int(connection.execute(query).scalar_one())
    census = count(connection, downsample, census.model).get(census.model, census)
    return census, census.n_usable


def _destination(
    n_rows: int, n_features: int, *, to_device: bool, memory_limit: int | None, work_dir: Path | None
) -> Destination:
    """Allocate the matrix where its rows belong."""
    if to_device:
        return DeviceRows(n_rows, n_features)
    return HostRows(n_rows, n_features, memory_limit=memory_limit, work_dir=work_dir)


def _vector_query(
    connection: Connection, census: ModelCensus, downsample: int, *, filtered: bool
) -> Select[Any]:
    # The rows are found in the indexes, and read in the order of the file, which is the fast one: they are
    # sorted by id in memory.
    place = _place(connection)
    wanted = sa.select(place).where(_embedding.c.embedding_model == census.model)
    if downsample > 1 or census.n_orphans:
        # Looking up every invocation costs half as much again as reading the vectors.
        chosen = sample(downsample)
        wanted = wanted.select_from(chosen.source).where(chosen.chosen)
    else:
        wanted = wanted.select_from(_embedding)
    if filtered:
        wanted = wanted.where(sa.func.length(_embedding.c.vector) == census.width)
    return sa.select(_embedding.c.id, _embedding.c.vector).where(place.in_(wanted.correlate(None)))


def _place(connection: Connection) -> ColumnElement[Any]:
    """Return by what rows of embeddings are looked up: in SQLite their place in the file."""
    sqlite = connection.dialect.name == "sqlite"
    return sa.literal_column("embedding.rowid") if sqlite else _embedding.c.id


def _batch_rows(width: int) -> int:
    return max(1, BATCH_BYTES // (width + ID_LENGTH))


def _fill(
    destination: Destination, batches: Iterator[pa.RecordBatch], n_rows: int, progress: Progress
) -> BytesArray:
    """Send all vectors to their destination, and return their ids in the same order.

    There are `n_rows` at most: as many were counted in the same transaction.
    """
    ids = np.empty(n_rows, dtype="S32")
    filled = 0
    for batch in batches:
        ids[filled : filled + batch.num_rows] = _view(batch.column("id"), np.dtype("S32"))
        destination.put(_view(batch.column("vector"), np.dtype("<f4")).reshape(batch.num_rows, -1))
        filled += batch.num_rows
        progress.advance(batch.num_rows)
    return ids[:filled]


def _view(column: pa.Array, dtype: np.dtype[Any]) -> Any:
    return np.frombuffer(column.buffers()[1], dtype=dtype)


def _in_order(ids: BytesArray, vectors: Any) -> tuple[BytesArray, Any]:
    if np.all(ids[:-1] < ids[1:]):
        return ids, vectors
    order = np.argsort(ids)
    rows.permute(vectors, order)
    return ids[order], vectors


def _report(model: str, left_out: dict[str, list[str]], *, skip_invalid: bool) -> None:
    """Say in the log what was left out; or raise `BadVectors` for it."""
    for what, ids in left_out.items():
        if not ids:
            continue
        found = f"{len(ids)} {what.format(model=model)}; first embedding ids: {', '.join(ids[:NAMED_IDS])}"
        if not skip_invalid:
            raise BadVectors(f"{found}; repair them, or leave them out with --skip-invalid")
        _log.warning("left out %s", found)
        _log.debug("all of them: %s", ", ".join(ids))
