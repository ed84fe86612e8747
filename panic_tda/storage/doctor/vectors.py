"""Check all vectors for values that cannot be clustered; each is read once, in the order of the file."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql import Select

from panic_tda.arrays.rows import has_direction
from panic_tda.storage.bulk import stream_rows
from panic_tda.storage.cells import select_bytes
from panic_tda.storage.doctor.database_info import BATCH_ROWS, DatabaseInfo, has_index
from panic_tda.storage.doctor.findings import Findings
from panic_tda.storage.read.census import FLOAT_BYTES, ModelCensus, list_models, stored_width
from panic_tda.storage.schema.tables import Embedding
from panic_tda.wording import pluralize

MISSING, LENGTH, NOT_FINITE, ZERO = "missing_vector", "vector_length", "vector_not_finite", "vector_zero"
_BATCH_BYTES = 1 << 20
_NO_BYTES = -1
_INDEX = "ix_embedding_model_length_invocation"
_embedding = Embedding.__table__


def check_vectors(info: DatabaseInfo, findings: Findings) -> None:
    """Find vectors that are missing, not finite, zero, or not of the length of their model."""
    with info.reading("check vector lengths") as connection:
        widths = _read_widths(info, connection)
        n_rows = connection.execute(sa.select(sa.func.count()).select_from(_embedding)).scalar_one()
        info.progress.phase("read vectors", n_rows)
        stored = select_bytes(connection, _embedding.c.vector)
        query = sa.select(_embedding.c.id, _embedding.c.embedding_model, stored)
        at_once = max(1, _BATCH_BYTES // max([1, *widths.values()]))
        for rows in stream_rows(connection, query, batch_rows=min(BATCH_ROWS, at_once)):
            _check_rows(rows, widths, findings)
            info.progress.advance(len(rows))


def _read_widths(info: DatabaseInfo, connection: Connection) -> dict[str, int]:
    """Return the vector length in bytes of each model: the most frequent valid length, 0 if there is none."""
    if has_index(connection, _INDEX):
        return {model: stored_width(connection, model) for model in list_models(connection)}
    info.progress.phase("check vector lengths: without an index, all embeddings are read")
    query: Select[Any] = sa.select(_embedding.c.embedding_model, sa.func.length(_embedding.c.vector))
    size_counts: defaultdict[str, Counter[int | None]] = defaultdict(Counter)
    for rows in stream_rows(connection, query, batch_rows=BATCH_ROWS):
        for model, size in rows:
            size_counts[model][size] += 1
    return {model: ModelCensus(model, 0, 0, sampled=sizes).width for model, sizes in size_counts.items()}


def _check_rows(rows: list[tuple[Any, ...]], widths: dict[str, int], findings: Findings) -> None:
    rows_by_size: defaultdict[int, tuple[list[Any], list[bytes]]] = defaultdict(lambda: ([], []))
    for identity, model, vector in rows:
        size = len(vector) if isinstance(vector, bytes) else _NO_BYTES
        if size == widths.get(model) and size:
            ids, vectors = rows_by_size[size]
            ids.append(identity)
            vectors.append(vector)
        elif vector is None or size == 0:
            findings.add(MISSING, identity, model)
        else:
            stored = f"{size} {pluralize(size, 'byte')}" if size >= 0 else "no bytes"
            findings.add(LENGTH, identity, f"{model}, {stored}, not {widths.get(model) or 'float32 values'}")
    for size, (ids, vectors) in rows_by_size.items():
        matrix = np.frombuffer(b"".join(vectors), dtype="<f4").reshape(-1, size // FLOAT_BYTES)
        for row in np.flatnonzero(~has_direction(matrix)).tolist():
            findings.add(ZERO if np.isfinite(matrix[row]).all() else NOT_FINITE, ids[row])
