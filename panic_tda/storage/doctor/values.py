"""Values that are not what their column holds, in the tables of the generation pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.storage import cells
from panic_tda.storage.doctor.findings import Findings
from panic_tda.storage.doctor.subject import Subject, first_values, has_index, place, reads_invocations
from panic_tda.storage.schema.tables import Embedding, ExperimentConfig, Invocation, InvocationType, Run

UNREADABLE = "unreadable_value"
_INDEX = "ix_embedding_model_length_invocation"
_embedding: Any = Embedding.__table__
_invocation: Any = Invocation.__table__


def check_values(subject: Subject, found: Findings) -> None:
    """Find values of experiments, runs, texts and models that cannot be read; no image or vector is read."""
    tables: tuple[Any, ...] = (ExperimentConfig.__table__, Run.__table__)
    for table in tables:
        # Ids that are none are a kind of their own, and those that name nothing.
        stored = [column for column in table.c if subject.has(table.name, column.name)]
        columns = [column for column in stored if not isinstance(column.type, sa.Uuid)]
        with subject.reading(f"look at the values of {table.name}") as connection:
            _add(found, cells.damaged_values(connection, sa.select(*columns)))
    with subject.reading("look at the texts of invocations") as connection:
        # PostgreSQL takes no value of another type.
        if connection.dialect.name != "sqlite":
            return
        if not has_index(connection, _INDEX):
            why = "no index has the types of outputs and the models of embeddings yet: upgrade first"
            found.leave_out([UNREADABLE], why)
            return
        _check_invocations(subject, connection, found)
        _check_models(connection, found)


def _check_invocations(subject: Subject, connection: Connection, found: Findings) -> None:
    kind, number = _invocation.c.type, _invocation.c.sequence_number
    wrong = (
        kind.is_(None),
        sa.type_coerce(kind, sa.String).not_in([member.name for member in InvocationType]),
        sa.func.typeof(number) != "integer",
        ~number.between(-(2**31), 2**31 - 1),
    )
    query = sa.select(kind, number).where(sa.or_(*wrong))
    if subject.may_read(connection, query, ["type", "sequence_number"], found, UNREADABLE):
        _add(found, cells.damaged_values(connection, query))
    at = place(connection, _invocation)
    texts = sa.select(at).where(kind == InvocationType.TEXT)
    query = sa.select(_invocation.c.model, _invocation.c.output_text)
    if not reads_invocations(connection, texts):
        query = query.where(at.in_(texts.correlate(None)))
    elif subject.may_read(connection, query, ["type", "model", "output_text"], found, UNREADABLE):
        query = query.where(kind == InvocationType.TEXT)
    else:
        return
    _add(found, cells.damaged_values(connection, query))


def _check_models(connection: Connection, found: Findings) -> None:
    """Look at each name of a model once, in the index that begins with it."""
    model = _embedding.c.embedding_model
    names = sa.select(sa.func.min(model))
    rows = sa.select(model)
    # In the index first: only of what is found there a row is read.
    missing = sa.select(sa.literal(1)).select_from(_embedding).where(model.is_(None)).limit(1)
    if connection.execute(missing).first() is not None:
        _add(found, cells.damaged_values(connection, rows.where(model.is_(None))))
    name = next(first_values(connection, names))
    while name is not None:
        if not isinstance(name, str):
            _add(found, cells.damaged_values(connection, rows.where(model == cells.as_literal(name))))
        name = next(first_values(connection, names.where(model > cells.as_literal(name))))


def _add(found: Findings, damaged: Iterator[Any]) -> None:
    for value in damaged:
        found.add(UNREADABLE, value.place, value.reason)
