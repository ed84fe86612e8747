"""The vectors of some embeddings, found in the index on ids and read in the order of the file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.errors import DatabaseError
from panic_tda.progress import Progress, Silent
from panic_tda.storage.census import FLOAT_BYTES
from panic_tda.storage.schemas import Embedding

if TYPE_CHECKING:
    from panic_tda.types import BytesArray, Float32Array

_QUERY_IDS = 500

_embedding = Embedding.__table__


def pick_vectors(
    connection: Connection, ids: BytesArray, *, progress: Progress | None = None
) -> Float32Array:
    """Read the vectors of some embeddings.

    Parameters
    ----------
    connection : Connection
        From `Database.reading`.
    ids : (n,) S32
        Each once, in any order.
    progress : Progress, optional
        Told the rows read.

    Returns
    -------
    (n, d) float32
        In the order of `ids`; (0, 0) where there are none.

    Raises
    ------
    DatabaseError
        Embeddings have gone, or vectors are missing or of several lengths.

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
    vectors: list[bytes | None] = [None] * len(ids)
    # The bytes themselves: not every one of another length is a vector.
    stored = sa.type_coerce(_embedding.c.vector, sa.LargeBinary)
    for some in _chunks(sorted(number_at)):
        for at, vector in connection.execute(sa.select(place, stored).where(place.in_(some))):
            vectors[number_at[at]] = vector
        progress.advance(len(some))
    lengths = {-1 if vector is None else len(vector) for vector in vectors}
    if len(lengths) > 1 or any(length < 0 or length % FLOAT_BYTES for length in lengths):
        raise DatabaseError(
            f"vectors of one length were expected, got {sorted(lengths)} bytes (-1: missing, or the "
            "embedding has gone); cluster again (panic-tda cluster-embeddings)"
        )
    joined = np.frombuffer(b"".join(found for found in vectors if found is not None), dtype="<f4")
    return joined.reshape(len(ids), -1 if len(ids) else 0)


def _chunks(values: list[Any]) -> Iterator[list[Any]]:
    for first in range(0, len(values), _QUERY_IDS):
        yield values[first : first + _QUERY_IDS]
