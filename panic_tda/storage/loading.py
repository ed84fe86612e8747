"""Database to arrays: counts and checks of all models, then one model's vectors as one matrix."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
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
from panic_tda.devices import cuda
from panic_tda.errors import BadVectors, DatabaseError
from panic_tda.parameters import validate_downsample
from panic_tda.progress import Progress, Silent
from panic_tda.storage.bulk import stream_vectors
from panic_tda.storage.database import Database
from panic_tda.storage.sampling import Sample, sample
from panic_tda.storage.schemas import Embedding
from panic_tda.types import EmbeddingMatrix

if TYPE_CHECKING:
    from panic_tda.types import BytesArray, Float32Array

BATCH_BYTES = 1 << 17
"""Size of an Arrow batch. Small enough to be packed while it is in the processor's cache and to be recycled
by the allocator, large enough to hide a call: 100,000 vectors of 256 bytes took 0.09 s of processor time
like this, 0.15 s in batches of 16 KiB or of 1 MiB, and a bare scan of them 0.06 s."""
_FLOAT_BYTES = 4
_NAMED_IDS = 5
_QUERY_IDS = 500

_embedding = Embedding.__table__


@dataclass(frozen=True)
class ModelCensus:
    """What the database holds of one embedding model.

    Attributes
    ----------
    model : str
        Name of the embedding model.
    n_total : int
        All its embeddings.
    n_orphans : int
        Those whose invocation is missing: they belong to no run and can never be sampled.
    longest : int
        Outputs of the longest run; known (not 0) only where a sampling factor above 1 was asked for.
    sampled : dict of int or None to int
        Number of sampled embeddings by the length of their vector in bytes; None counts missing vectors.
    """

    model: str
    n_total: int
    n_orphans: int
    longest: int = 0
    sampled: dict[int | None, int] = field(default_factory=dict)

    @property
    def n_sampled(self) -> int:
        """Embeddings that the downsampling rule chose."""
        return sum(self.sampled.values())

    @property
    def width(self) -> int:
        """Bytes of a vector: the commonest legal length among the sampled ones, 0 where there is none."""
        legal = {
            size: count for size, count in self.sampled.items() if size and size % _FLOAT_BYTES == 0 and count
        }
        return max(legal, key=lambda size: (legal[size], size), default=0)

    @property
    def n_usable(self) -> int:
        """Sampled embeddings with a vector of that length."""
        return self.sampled.get(self.width, 0) if self.width else 0


def take_census(database: Database, downsample: int = 1) -> dict[str, ModelCensus]:
    """Count and measure the embeddings of every model in one query.

    Parameters
    ----------
    database : Database
        A database of the generation pipeline.
    downsample : int
        Sampling factor; 1 keeps every row.

    Returns
    -------
    dict of str to ModelCensus
        By model name, in alphabetical order.
    """
    with database.reading() as connection:
        return _census(connection, sample(validate_downsample(downsample)))


def require_valid(database: Database, census: ModelCensus, downsample: int = 1) -> None:
    """Check that every sampled vector of a model is present and of one length.

    Raises
    ------
    BadVectors
        With the model, how many vectors are bad in which way, and the first ids.
    """
    bad = census.n_sampled - census.n_usable
    if not bad:
        return
    chosen = sample(downsample)
    wrong = sa.or_(_embedding.c.vector.is_(None), sa.func.length(_embedding.c.vector) != census.width)
    query = (
        sa.select(_embedding.c.id)
        .select_from(chosen.source)
        .where(_embedding.c.embedding_model == census.model, chosen.chosen, wrong)
        .order_by(_embedding.c.id)
        .limit(_NAMED_IDS)
    )
    with database.reading() as connection:
        first = [str(found) for found in connection.execute(query).scalars()]
    raise BadVectors(_explain_lengths(census, bad, first))


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
        Leave invalid vectors out and count them, instead of raising.
    progress : Progress, optional
        Told the rows read.
    memory_limit : int, optional
        A matrix of more bytes in host memory is a memory map of a temporary file, so that it may be larger
        than memory.
    work_dir : Path, optional
        Folder for that file; None takes the temporary folder.
    to_device : bool
        Load into the memory of the CUDA device, where there is one that can be used. Host memory then holds
        a few batches and what belongs to the ids, some 100 bytes a row.

    Returns
    -------
    EmbeddingMatrix
        Rows in ascending order of embedding id.

    Raises
    ------
    BadVectors
        A vector is missing, of another length, not finite or zero, and `skip_invalid` is off.
    MemoryError
        There is no room for the matrix.
    """
    progress = progress or Silent()
    validate_downsample(downsample)
    with database.reading() as connection:
        everything = downsample == 1 and not census.n_orphans and not skip_invalid
        if not everything:
            census = _census(connection, sample(downsample), census.model).get(census.model, census)
        # The census of all models may be hours older: a matrix of its size would have to grow, and double.
        n_rows = _count(connection, census.model) if everything else census.n_usable
        progress.phase("load", total=n_rows)
        query = _vector_query(census, downsample, filtered=skip_invalid)
        shape = (n_rows, census.width // _FLOAT_BYTES)
        destination: Destination = (
            DeviceRows(*shape)
            if to_device and cuda.unusable_because() is None
            else HostRows(*shape, memory_limit=memory_limit, work_dir=work_dir)
        )
        # Whatever happens, no copy may be under way to memory that is free again.
        with contextlib.closing(destination):
            try:
                ids = _fill(connection, query, destination, shape, progress)
            except DatabaseError:
                require_valid(database, take_census(database, downsample)[census.model], downsample)
                raise
            vectors, valid = destination.finish()
    if not skip_invalid and not valid.all():
        raise BadVectors(_explain_values(census.model, ids[~valid]))
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


def input_sha256(matrix: EmbeddingMatrix) -> str:
    """Return the SHA-256 of the ids, then the rows, as hexadecimal digits."""
    digest = hashlib.sha256(matrix.ids.data)
    for some in rows.chunks(matrix.vectors):
        digest.update(to_host(matrix.vectors[some]).data)
    return digest.hexdigest()


def stored_models(connection: Connection) -> list[str]:
    """Return the names of all embedding models in alphabetical order."""
    query = sa.select(_embedding.c.embedding_model).distinct().order_by(_embedding.c.embedding_model)
    return list(connection.execute(query).scalars())


def stored_ids(connection: Connection, model: str) -> BytesArray:
    """Return the ids of all embeddings of a model, (n,) S32, in no order."""
    query = sa.select(sa.type_coerce(_embedding.c.id, sa.String)).where(_embedding.c.embedding_model == model)
    return np.array(connection.execute(query).scalars().all(), dtype="S32")


def read_vectors(connection: Connection, ids: BytesArray) -> Float32Array:
    """Return the vectors of some embeddings, (n, d) float32, in the order of `ids`, which ascend."""
    batches = []
    for first in range(0, len(ids), _QUERY_IDS):
        some = [UUID(found.decode()) for found in ids[first : first + _QUERY_IDS]]
        query = sa.select(_embedding.c.vector).where(_embedding.c.id.in_(some)).order_by(_embedding.c.id)
        batches.append(np.stack(connection.execute(query).scalars().all()))
    return np.concatenate(batches)


def _census(connection: Connection, chosen: Sample, model: str | None = None) -> dict[str, ModelCensus]:
    size = sa.func.length(_embedding.c.vector)
    query = (
        sa.select(
            _embedding.c.embedding_model,
            size,
            sa.func.count(),
            sa.func.sum(sa.case((chosen.orphaned, 1), else_=0)),
            sa.func.sum(sa.case((chosen.chosen, 1), else_=0)),
            sa.func.coalesce(sa.func.max(chosen.output_index), -1) + 1,
        )
        .select_from(chosen.source)
        .group_by(_embedding.c.embedding_model, size)
        .order_by(_embedding.c.embedding_model)
    )
    if model is not None:
        query = query.where(_embedding.c.embedding_model == model)
    found: dict[str, ModelCensus] = {}
    for name, length, n_rows, n_orphans, n_sampled, longest in connection.execute(query):
        before = found.get(name, ModelCensus(name, 0, 0))
        found[name] = ModelCensus(
            model=name,
            n_total=before.n_total + n_rows,
            n_orphans=before.n_orphans + n_orphans,
            longest=max(before.longest, longest),
            sampled=before.sampled | ({length: n_sampled} if n_sampled else {}),
        )
    return found


def _count(connection: Connection, model: str) -> int:
    query = sa.select(sa.func.count()).where(_embedding.c.embedding_model == model)
    return int(connection.execute(query).scalar_one())


def _vector_query(census: ModelCensus, downsample: int, *, filtered: bool) -> Select[Any]:
    # No ORDER BY: the file is read in its own order, which is the fast one, and sorted in memory.
    query = sa.select(_embedding.c.id, _embedding.c.vector).where(
        _embedding.c.embedding_model == census.model
    )
    if downsample > 1 or census.n_orphans:
        # Looking up every invocation costs half as much again as reading the vectors.
        chosen = sample(downsample)
        query = query.select_from(chosen.source).where(chosen.chosen)
    return query.where(sa.func.length(_embedding.c.vector) == census.width) if filtered else query


def _fill(
    connection: Connection,
    query: Select[Any],
    destination: Destination,
    shape: tuple[int, int],
    progress: Progress,
) -> BytesArray:
    """Send all vectors to their destination, and return their ids in the same order."""
    # There are as many rows as were counted at most: both are asked for in one transaction.
    n_rows, width = shape[0], _FLOAT_BYTES * shape[1]
    ids = np.empty(n_rows, dtype="S32")
    filled = 0
    for batch in stream_vectors(
        connection, query, width=width, batch_rows=max(1, BATCH_BYTES // (width + 32))
    ):
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


def _explain_lengths(census: ModelCensus, bad: int, first: list[str]) -> str:
    missing = census.sampled.get(None, 0)
    lengths = ", ".join(
        f"{count} of {size} bytes"
        for size, count in census.sampled.items()
        if size is not None and (size != census.width or not size)
    )
    expected = f"{census.width // _FLOAT_BYTES or 'some'} float32 values expected"
    kinds = "; ".join(part for part in (f"{missing} missing" if missing else "", lengths, expected) if part)
    return (
        f"{bad} of {census.n_sampled} vectors of model {census.model} are invalid ({kinds}); "
        f"first embedding ids: {', '.join(first)}; "
        "repair them, or leave them out with --skip-invalid"
    )


def _explain_values(model: str, ids: BytesArray) -> str:
    first = ", ".join(str(UUID(found.decode())) for found in np.sort(ids)[:_NAMED_IDS])
    return (
        f"{len(ids)} vectors of model {model} are zero, NaN or infinite; first embedding ids: {first}; "
        "repair them, or leave them out with --skip-invalid"
    )
