"""Read the vectors of a list of embeddings: find rows by the index on ids, read in the order of the file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.arrays.rows import has_direction, slices
from panic_tda.errors import DatabaseError
from panic_tda.progress import Progress, Silent
from panic_tda.storage.cells import read_each, row_locator, select_bytes
from panic_tda.storage.read.census import FLOAT_BYTES, stored_width
from panic_tda.storage.schema.tables import PROMPT_EMBEDDING, Embedding
from panic_tda.types import BoolArray, BytesArray, Float32Array
from panic_tda.wording import pluralize

QUERY_IDS = 500

_embedding = Embedding.__table__


def locate_rows(connection: Connection, ids: BytesArray) -> list[Any]:
    """Return the row locator of each embedding, None for an id that is not stored, by the index on ids.

    Ids, (n,) S32, are compared as texts; an invalid id counts as not stored.
    """
    names = [identity.decode("ascii", "replace") for identity in ids.tolist()]
    identity = sa.type_coerce(_embedding.c.id, sa.String)
    locators: dict[str, Any] = {}
    for chunk in slices(len(names), QUERY_IDS):
        query = sa.select(identity, row_locator(connection, _embedding)).where(identity.in_(names[chunk]))
        locators |= dict(connection.execute(query).all())
    return [locators.get(name) for name in names]


def are_stored(connection: Connection, ids: BytesArray) -> BoolArray:
    """Return for each id, (n,) S32, whether an embedding with this id is stored."""
    return np.array([locator is not None for locator in locate_rows(connection, ids)], dtype=bool)


def read_vectors(
    connection: Connection, ids: BytesArray, *, dimensions: int, progress: Progress | None = None
) -> Float32Array:
    """Read the vectors of the embeddings with these unique ids, (n,) S32; see `read_vectors_at`."""
    locators = locate_rows(connection, ids)
    return read_vectors_at(connection, locators, dimensions=dimensions, progress=progress)


def read_vectors_at(
    connection: Connection, locators: Sequence[Any], *, dimensions: int, progress: Progress | None = None
) -> Float32Array:
    """Read the vectors of the embeddings with these row locators.

    Parameters
    ----------
    connection : Connection
        From `Database.reading`.
    locators : sequence
        Unique locators of n rows (see `cells.row_locator`), in any order; None for a missing row.
    dimensions : int
        Number of dimensions of the vectors.
    progress : Progress, optional
        Receives the number of rows read.

    Returns
    -------
    (n, dimensions) float32
        Stored vectors in the order of `locators`; NaN for a vector that is missing or of another length.

    Notes
    -----
    In a file of 100 GB every row is one disk access, and the distance between accesses takes the time. Where
    files were merged, the order of ids is not the order of the file, so rows are read by locator.
    """
    progress = progress or Silent()
    column = row_locator(connection, _embedding)
    numbers = {locator: number for number, locator in enumerate(locators) if locator is not None}
    vectors = np.full((len(locators), dimensions), np.nan, dtype="<f4")
    stored = select_bytes(connection, _embedding.c.vector)
    ascending = sorted(numbers)
    for chunk in slices(len(ascending), QUERY_IDS):
        query = sa.select(column, stored).where(column.in_(ascending[chunk]))
        for locator, vector in connection.execute(query):
            if isinstance(vector, bytes) and len(vector) == FLOAT_BYTES * dimensions:
                vectors[numbers[locator]] = np.frombuffer(vector, dtype="<f4")
        progress.advance(chunk.stop - chunk.start)
    return vectors


def require_vectors(
    connection: Connection, ids: BytesArray, *, model: str, progress: Progress | None = None
) -> Float32Array:
    """Read vectors of a model as `read_vectors` does, and raise an error if one is missing.

    Raises
    ------
    DatabaseError
        Embeddings were deleted, or vectors are missing or not of the model's length.
    """
    dimensions = stored_width(connection, model) // FLOAT_BYTES
    vectors = read_vectors(connection, ids, dimensions=dimensions, progress=progress)
    n_missing = int(np.isnan(vectors).any(axis=1).sum()) if dimensions else len(ids)
    if n_missing:
        raise DatabaseError(
            f"{n_missing} of {len(ids)} "
            f"{pluralize(len(ids), 'vector')} of {model} are missing or not of the common length, or their "
            "embeddings were deleted; cluster again (panic-tda cluster-embeddings)"
        )
    return vectors


def read_prompt_vectors(connection: Connection, model: str, dimensions: int) -> dict[str, Float32Array]:
    """Read the embeddings of initial prompts by a model, (d,) float32 each, by id of the run.

    Rows that cannot be read, and vectors of another length than `dimensions` or without a direction, are left
    out; `doctor` finds them. Most databases have none.
    """
    if not sa.inspect(connection).has_table(PROMPT_EMBEDDING.name):
        return {}
    columns = PROMPT_EMBEDDING.c
    query = sa.select(columns.run_id, columns.vector).where(columns.embedding_model == model)
    vectors = {
        values[0]: np.frombuffer(values[1], dtype="<f4")
        for values, _, _ in read_each(connection, query)
        if values is not None and len(values[1]) == FLOAT_BYTES * dimensions
    }
    return {run: vector for run, vector in vectors.items() if has_direction(vector[None]).all()}
