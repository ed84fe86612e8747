"""Check for several embeddings of one invocation by one model, and find those that can be deleted."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.storage.bulk import select_by_keys, stream_rows
from panic_tda.storage.cells import undecoded_texts
from panic_tda.storage.columns import decode_or_bytes
from panic_tda.storage.doctor.database_info import DatabaseInfo
from panic_tda.storage.doctor.findings import Findings
from panic_tda.storage.schema.tables import ClusteringResult, Embedding

DUPLICATE = "duplicate_embedding"
PAIRS_AT_ONCE = 500
_TIMES = ("started_at", "completed_at")
_embedding: Any = Embedding.__table__
Pair = tuple[Any, ...]
"""An invocation and a model."""


class Copy(NamedTuple):
    """One of several embeddings of an invocation by a model.

    Attributes
    ----------
    id : str
        As stored.
    is_named : bool
        Whether an assignment or a medoid of a clustering refers to it: then it must not be deleted.
    vector : bytes or None
        Digest of the vector; None if there is no vector, or if digests were not requested.
    """

    id: Any
    is_named: bool
    vector: bytes | None


def check_duplicates(info: DatabaseInfo, findings: Findings) -> None:
    """Find the embeddings beyond the first of an invocation and a model."""
    with info.reading("find duplicate embeddings") as connection:
        for _, copies in find_duplicates(info, connection):
            for copy in copies[1:]:
                findings.add(DUPLICATE, copy.id)


def find_duplicates(
    info: DatabaseInfo, connection: Connection, *, vectors: bool = False
) -> Iterator[tuple[Pair, list[Copy]]]:
    """Yield each invocation and model with several embeddings, and these embeddings, the best to keep first.

    Embeddings that clusterings refer to come first, then the oldest.
    """
    invocation, model = _embedding.c.invocation_id, _embedding.c.embedding_model
    query = sa.select(invocation, model).where(invocation.is_not(None)).group_by(model, invocation)
    query = query.having(sa.func.count() > 1)
    for pairs in stream_rows(connection, query, batch_rows=PAIRS_AT_ONCE):
        yield from find_copies(info, connection, pairs, vectors=vectors)


def find_copies(
    info: DatabaseInfo, connection: Connection, pairs: Sequence[Pair], *, vectors: bool
) -> Iterator[tuple[Pair, list[Copy]]]:
    """Yield these pairs of invocation and model, each with its embeddings, the best to keep first."""
    times = [name for name in _TIMES if info.has("embedding", name)]
    columns = ["invocation_id", "embedding_model", "id", *times, *(["vector"] if vectors else [])]
    invocations = list(dict.fromkeys(invocation for invocation, _ in pairs))
    wanted = set(pairs)
    rows_by_pair: defaultdict[Pair, list[tuple[Any, ...]]] = defaultdict(list)
    # A damaged row must not end the check: texts that are not UTF-8 stay bytes.
    with undecoded_texts(connection):
        stored = list(select_by_keys(connection, "embedding", columns, {"invocation_id": invocations}))
    for row in (tuple(map(decode_or_bytes, values)) for values in stored):
        if row[:2] in wanted:
            digest = _hash_vector(row[-1]) if vectors else None
            rows_by_pair[row[:2]].append((row[2], row[3 : 3 + len(times)], digest))
    ids = [identity for rows in rows_by_pair.values() for identity, *_ in rows]
    referenced = find_referenced_ids(info, connection, ids)
    for pair, rows in rows_by_pair.items():
        rows.sort(
            key=lambda row: (
                row[0] not in referenced,
                [(time is None, str(time)) for time in row[1]],
                str(row[0]),
            )
        )
        yield pair, [Copy(identity, identity in referenced, digest) for identity, _, digest in rows]


def find_referenced_ids(info: DatabaseInfo, connection: Connection, ids: Sequence[Any]) -> set[Any]:
    """Return those ids that assignments or medoids of stored clusterings refer to."""
    if not info.has_ours("clusteringresult"):
        return set()
    known = set(connection.execute(sa.select(ClusteringResult.key)).scalars())
    columns = {
        "embeddingcluster": "embedding_id",
        "cluster": "medoid_embedding_id",
        "embeddingprediction": "embedding_id",
    }
    return {
        identity
        for table, column in columns.items()
        if info.has_ours(table)
        for identity, key in select_by_keys(connection, table, [column, "result_key"], {column: ids})
        if key in known
    }


def find_removable(copies: Sequence[Copy]) -> list[Any]:
    """Return the ids of copies that can be deleted: no clustering refers to them, and an equal one stays."""
    remaining_vectors: set[bytes] = set()
    removable_ids = []
    for copy in copies:
        if copy.vector is not None and copy.vector in remaining_vectors and not copy.is_named:
            removable_ids.append(copy.id)
        elif copy.vector is not None:
            remaining_vectors.add(copy.vector)
    return removable_ids


def _hash_vector(vector: Any) -> bytes | None:
    # Both drivers return bytes; any other type (`Undecoded` too) is not a vector, and its row is not deleted.
    return hashlib.sha256(vector).digest() if type(vector) is bytes and vector else None
