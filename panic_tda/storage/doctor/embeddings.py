"""Check for embeddings without an invocation, or of an output type that their model does not embed."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from panic_tda.storage.bulk import stream_rows
from panic_tda.storage.cells import row_locator
from panic_tda.storage.doctor.database_info import BATCH_ROWS, DatabaseInfo, read_ids_at
from panic_tda.storage.doctor.findings import Findings
from panic_tda.storage.schema.sampling import join_invocations, keep_join_order
from panic_tda.storage.schema.tables import Embedding, Invocation, InvocationType

ORPHAN, WRONG_TYPE = "orphan_embedding", "wrong_type"
FEW = 0.1
"""Largest share of embeddings of one output type that is an error; above it, the model embeds both types."""
_embedding = Embedding.__table__
_invocation = Invocation.__table__


def check_orphans(info: DatabaseInfo, findings: Findings) -> None:
    """Find embeddings without an invocation, by the indexes of both tables."""
    joined = _embedding.outerjoin(_invocation, _invocation.c.id == _embedding.c.invocation_id)
    with info.reading("find orphan embeddings") as connection:
        at = row_locator(connection, _embedding)
        wanted = sa.select(at).select_from(joined).where(_invocation.c.id.is_(None))
        for identity in read_ids_at(connection, _embedding, wanted):
            findings.add(ORPHAN, identity)


def check_types(info: DatabaseInfo, findings: Findings) -> None:
    """Find embeddings of an output type that is rare among the embeddings of their model."""
    kinds = InvocationType.TEXT, InvocationType.IMAGE
    joined = _embedding.outerjoin(_invocation, join_invocations())
    count_of_kind = [sa.func.sum(sa.case((_invocation.c.type == kind, 1), else_=0)) for kind in kinds]
    model: Any = _embedding.c.embedding_model
    query = sa.select(model, *count_of_kind).select_from(joined).group_by(model)
    with info.reading("check output types") as connection:
        if not info.may_read(connection, query, ["type"], findings, WRONG_TYPE):
            return
        counts_by_model = [
            row for rows in stream_rows(connection, query, batch_rows=BATCH_ROWS) for row in rows
        ]
        for name, *counts in counts_by_model:
            rarer = min(kinds, key=dict(zip(kinds, counts, strict=True)).__getitem__)
            n_rarer = min(counts)
            if not 0 < n_rarer <= FEW * sum(counts):
                continue
            findings.say(WRONG_TYPE, f"{name}: {n_rarer} of {sum(counts)} belong to {rarer.name} outputs")
            # Otherwise SQLite swaps the tables of the join and scans all embeddings for each invocation.
            is_rarer = model == name, keep_join_order(_invocation.c.type == rarer)
            wanted = sa.select(row_locator(connection, _embedding)).select_from(joined).where(*is_rarer)
            for identity in read_ids_at(connection, _embedding, wanted):
                findings.add(WRONG_TYPE, identity)
