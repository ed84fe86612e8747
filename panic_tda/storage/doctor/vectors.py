"""Vectors that no clustering can take: all of them are read once, in the order of the file."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.arrays.rows import usable
from panic_tda.storage.bulk import stream_rows
from panic_tda.storage.doctor.findings import Findings
from panic_tda.storage.doctor.subject import BATCH_ROWS, Subject, has_index
from panic_tda.storage.read.census import FLOAT_BYTES, ModelCensus, stored_models, stored_width
from panic_tda.storage.schema.tables import Embedding
from panic_tda.wording import pluralize

if TYPE_CHECKING:
    from sqlalchemy.sql import ColumnElement, Select

MISSING, LENGTH, NOT_FINITE, ZERO = "missing_vector", "vector_length", "vector_not_finite", "vector_zero"
_BATCH_BYTES = 1 << 20
_NO_BYTES = -1
_INDEX = "ix_embedding_model_length_invocation"
_embedding = Embedding.__table__


def check_vectors(subject: Subject, found: Findings) -> None:
    """Find vectors that are missing, of another length than their model's, not finite, or zero."""
    with subject.reading("measure vectors") as connection:
        widths = _widths(subject, connection)
        n_rows = connection.execute(sa.select(sa.func.count()).select_from(_embedding)).scalar_one()
        subject.progress.phase("read vectors", n_rows)
        query = sa.select(_embedding.c.id, _embedding.c.embedding_model, _bytes(connection))
        at_once = max(1, _BATCH_BYTES // max([1, *widths.values()]))
        for rows in stream_rows(connection, query, batch_rows=min(BATCH_ROWS, at_once)):
            _check_rows(rows, widths, found)
            subject.progress.advance(len(rows))


def _widths(subject: Subject, connection: Connection) -> dict[str, int]:
    """Return the bytes of the vectors of each model: the commonest legal length, 0 where there is none."""
    if has_index(connection, _INDEX):
        return {model: stored_width(connection, model) for model in stored_models(connection)}
    subject.progress.phase("measure vectors: no index has their lengths yet, so embeddings are read")
    query: Select[Any] = sa.select(_embedding.c.embedding_model, sa.func.length(_embedding.c.vector))
    counted: defaultdict[str, Counter[int | None]] = defaultdict(Counter)
    for rows in stream_rows(connection, query, batch_rows=BATCH_ROWS):
        for model, size in rows:
            counted[model][size] += 1
    return {model: ModelCensus(model, 0, 0, sampled=sizes).width for model, sizes in counted.items()}


def _bytes(connection: Connection) -> ColumnElement[Any]:
    """Return the column of vectors, with a number where SQLite has a text, which might not be decoded."""
    vector = _embedding.c.vector
    if connection.dialect.name != "sqlite":
        return vector
    return sa.case((sa.func.typeof(vector) == "text", sa.literal_column("0")), else_=vector)


def _check_rows(rows: list[tuple[Any, ...]], widths: dict[str, int], found: Findings) -> None:
    of_width: defaultdict[int, tuple[list[Any], list[bytes]]] = defaultdict(lambda: ([], []))
    for identity, model, vector in rows:
        size = len(vector) if isinstance(vector, bytes) else _NO_BYTES
        if size == widths.get(model) and size:
            ids, vectors = of_width[size]
            ids.append(identity)
            vectors.append(vector)
        elif vector is None or size == 0:
            found.add(MISSING, identity, model)
        else:
            stored = f"{size} {pluralize(size, 'byte')}" if size >= 0 else "no bytes"
            found.add(LENGTH, identity, f"{model}, {stored}, not {widths.get(model) or 'float32 values'}")
    for size, (ids, vectors) in of_width.items():
        matrix = np.frombuffer(b"".join(vectors), dtype="<f4").reshape(-1, size // FLOAT_BYTES)
        for row in np.flatnonzero(~usable(matrix)).tolist():
            found.add(ZERO if np.isfinite(matrix[row]).all() else NOT_FINITE, ids[row])
