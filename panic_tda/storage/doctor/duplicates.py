"""Embeddings of one invocation by one model: which stays, and which can go without a loss."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.storage.bulk import select_by_keys, stream_rows
from panic_tda.storage.doctor.findings import Findings
from panic_tda.storage.doctor.subject import Subject
from panic_tda.storage.schema.tables import ClusteringResult, Embedding

DUPLICATE = "duplicate_embedding"
_AT_ONCE = 500
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
        Whether a clustering names it, as an assignment or a medoid: then it must not vanish.
    vector : bytes or None
        Digest of the vector; None where there is no vector, or where nobody asked.
    """

    id: Any
    is_named: bool
    vector: bytes | None


def check_duplicates(subject: Subject, found: Findings) -> None:
    """Find the embeddings beyond the first of an invocation and a model."""
    with subject.reading("look for embeddings of one output") as connection:
        for _, copies in duplicates(subject, connection):
            for copy in copies[1:]:
                found.add(DUPLICATE, copy.id)


def duplicates(
    subject: Subject, connection: Connection, *, vectors: bool = False
) -> Iterator[tuple[Pair, list[Copy]]]:
    """Yield each invocation and model with several embeddings, and these in the order in which they stay.

    First come those that clusterings name, then the oldest.
    """
    invocation, model = _embedding.c.invocation_id, _embedding.c.embedding_model
    query = sa.select(invocation, model).where(invocation.is_not(None)).group_by(model, invocation)
    query = query.having(sa.func.count() > 1)
    for pairs in stream_rows(connection, query, batch_rows=_AT_ONCE):
        yield from copies_of(subject, connection, pairs, vectors=vectors)


def copies_of(
    subject: Subject, connection: Connection, pairs: Sequence[Pair], *, vectors: bool
) -> Iterator[tuple[Pair, list[Copy]]]:
    """Yield some pairs of an invocation and a model, and their embeddings in the order in which they stay."""
    times = [name for name in _TIMES if subject.has("embedding", name)]
    columns = ["invocation_id", "embedding_model", "id", *times, *(["vector"] if vectors else [])]
    invocations = list(dict.fromkeys(invocation for invocation, _ in pairs))
    wanted = set(pairs)
    found: defaultdict[Pair, list[tuple[Any, ...]]] = defaultdict(list)
    for row in select_by_keys(connection, "embedding", columns, {"invocation_id": invocations}):
        if row[:2] in wanted:
            digest = _digest(row[-1]) if vectors else None
            found[row[:2]].append((row[2], row[3 : 3 + len(times)], digest))
    ids = [identity for rows in found.values() for identity, *_ in rows]
    named = named_by_clusterings(subject, connection, ids)
    for pair, rows in found.items():
        rows.sort(
            key=lambda row: (row[0] not in named, [(one is None, str(one)) for one in row[1]], str(row[0]))
        )
        yield pair, [Copy(identity, identity in named, digest) for identity, _, digest in rows]


def named_by_clusterings(subject: Subject, connection: Connection, ids: Sequence[Any]) -> set[Any]:
    """Return the ids that assignments and medoids of stored clusterings name."""
    if not subject.has_ours("clusteringresult"):
        return set()
    known = set(connection.execute(sa.select(ClusteringResult.key)).scalars())
    return {
        identity
        for table, column in (("embeddingcluster", "embedding_id"), ("cluster", "medoid_embedding_id"))
        for identity, key in select_by_keys(connection, table, [column, "result_key"], {column: ids})
        if key in known
    }


def without_loss(copies: Sequence[Copy]) -> list[Any]:
    """Return the ids of the copies that can go: no clustering names them, and an equal one stays."""
    kept: set[bytes] = set()
    gone = []
    for copy in copies:
        if copy.vector is not None and copy.vector in kept and not copy.is_named:
            gone.append(copy.id)
        elif copy.vector is not None:
            kept.add(copy.vector)
    return gone


def _digest(vector: Any) -> bytes | None:
    # PostgreSQL's driver gives bytes too; what is neither is no vector, and stays.
    return hashlib.sha256(vector).digest() if isinstance(vector, bytes) and vector else None
