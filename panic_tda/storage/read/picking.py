"""The vectors of some embeddings, found in the index on ids and read in the order of the file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.errors import DatabaseError
from panic_tda.progress import Progress, Silent
from panic_tda.storage.read.census import FLOAT_BYTES, stored_width
from panic_tda.storage.schema.tables import Embedding
from panic_tda.wording import pluralize

if TYPE_CHECKING:
    from panic_tda.types import BytesArray, Float32Array

_QUERY_IDS = 500

_embedding = Embedding.__table__


def read_vectors(
    connection: Connection, ids: BytesArray, *, dimensions: int, progress: Progress | None = None
) -> Float32Array:
    """Read the vectors of some embeddings.

    Parameters
    ----------
    connection : Connection
        From `Database.reading`.
    ids : (n,) S32
        Each once, in any order.
    dimensions : int
        Of the vectors.
    progress : Progress, optional
        Told the rows read.

    Returns
    -------
    (n, dimensions) float32
        As stored, in the order of `ids`. NaN where there is none, or one of another length.

    Notes
    -----
    In a file of 100 GB every row that is read is a place of its own on the disk, and the way there and back
    is what takes time: by id they come in another order than they lie in where files were merged.
    """
    progress = progress or Silent()
    identity = sa.type_coerce(_embedding.c.id, sa.String)
    # In SQLite a place in the file; elsewhere nothing tells it, and ids ascend with time.
    sqlite = connection.dialect.name == "sqlite"
    place: Any = sa.literal_column("embedding.rowid") if sqlite else identity
    numbers = {found.decode("ascii", "replace"): number for number, found in enumerate(ids.tolist())}
    number_at: dict[Any, int] = {}
    for some in _chunks(list(numbers)):
        query = sa.select(place, identity).where(identity.in_(some))
        number_at |= {at: numbers[found] for at, found in connection.execute(query).all()}
    vectors = np.full((len(ids), dimensions), np.nan, dtype="<f4")
    # The bytes themselves: not every one of another length is a vector.
    stored = sa.type_coerce(_embedding.c.vector, sa.LargeBinary)
    for some in _chunks(sorted(number_at)):
        for at, vector in connection.execute(sa.select(place, stored).where(place.in_(some))):
            if isinstance(vector, bytes) and len(vector) == FLOAT_BYTES * dimensions:
                vectors[number_at[at]] = np.frombuffer(vector, dtype="<f4")
        progress.advance(len(some))
    return vectors


def require_vectors(
    connection: Connection, ids: BytesArray, *, model: str, progress: Progress | None = None
) -> Float32Array:
    """Read vectors of a model as `read_vectors` does, all of which are to be there.

    Raises
    ------
    DatabaseError
        Embeddings have gone, or vectors are missing or not of the model's length.
    """
    dimensions = stored_width(connection, model) // FLOAT_BYTES
    vectors = read_vectors(connection, ids, dimensions=dimensions, progress=progress)
    n_missing = int(np.isnan(vectors).any(axis=1).sum()) if dimensions else len(ids)
    if n_missing:
        raise DatabaseError(
            f"{n_missing} of {len(ids)} "
            f"{pluralize(len(ids), 'vector')} of {model} are missing or not of the common length, or their "
            "embeddings have gone; cluster again (panic-tda cluster-embeddings)"
        )
    return vectors


def _chunks(values: list[Any]) -> Iterator[list[Any]]:
    for first in range(0, len(values), _QUERY_IDS):
        yield values[first : first + _QUERY_IDS]
