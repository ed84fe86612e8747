"""Embeddings that belong to nothing, or to an output that their model does not embed."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from panic_tda.storage.bulk import stream_rows
from panic_tda.storage.doctor.findings import Findings
from panic_tda.storage.doctor.subject import BATCH_ROWS, Subject, ids_at, place
from panic_tda.storage.schema.sampling import holds, in_one_index
from panic_tda.storage.schema.tables import Embedding, Invocation, InvocationType

ORPHAN, WRONG_TYPE = "orphan_embedding", "wrong_type"
FEW = 0.1
"""Up to this share of a model's embeddings are strangers among the others; above, the model embeds both."""
_embedding = Embedding.__table__
_invocation = Invocation.__table__


def check_orphans(subject: Subject, found: Findings) -> None:
    """Find embeddings without an invocation, in the indexes on both."""
    joined = _embedding.outerjoin(_invocation, _invocation.c.id == _embedding.c.invocation_id)
    with subject.reading("look for the invocations of embeddings") as connection:
        at = place(connection, _embedding)
        wanted = sa.select(at).select_from(joined).where(_invocation.c.id.is_(None))
        for identity in ids_at(connection, _embedding, wanted):
            found.add(ORPHAN, identity)


def check_types(subject: Subject, found: Findings) -> None:
    """Find embeddings on the type of output that hardly any other of their model is on."""
    kinds = InvocationType.TEXT, InvocationType.IMAGE
    joined = _embedding.outerjoin(_invocation, in_one_index())
    of_kind = [sa.func.sum(sa.case((_invocation.c.type == kind, 1), else_=0)) for kind in kinds]
    model: Any = _embedding.c.embedding_model
    query = sa.select(model, *of_kind).select_from(joined).group_by(model)
    with subject.reading("compare the types of outputs") as connection:
        if not subject.may_read(connection, query, ["type"], found, WRONG_TYPE):
            return
        counted = [row for rows in stream_rows(connection, query, batch_rows=BATCH_ROWS) for row in rows]
        for name, *counts in counted:
            rarer = min(kinds, key=dict(zip(kinds, counts, strict=True)).__getitem__)
            n_rarer = min(counts)
            if not 0 < n_rarer <= FEW * sum(counts):
                continue
            found.say(WRONG_TYPE, f"{name}: {n_rarer} of {sum(counts)} belong to {rarer.name} outputs")
            # SQLite would turn the join around, and go through all embeddings for each invocation.
            strange = model == name, holds(_invocation.c.type == rarer)
            wanted = sa.select(place(connection, _embedding)).select_from(joined).where(*strange)
            for identity in ids_at(connection, _embedding, wanted):
                found.add(WRONG_TYPE, identity)
