"""Check the tables of the generation pipeline for values of a type that their column does not allow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.storage import cells
from panic_tda.storage.cells import row_locator
from panic_tda.storage.doctor.database_info import DatabaseInfo, has_index, reads_invocations
from panic_tda.storage.doctor.findings import Findings
from panic_tda.storage.schema.tables import Embedding, ExperimentConfig, Invocation, InvocationType, Run

UNREADABLE = "unreadable_value"
_INDEX = "ix_embedding_model_length_invocation"
_embedding: Any = Embedding.__table__
_invocation: Any = Invocation.__table__


def check_values(info: DatabaseInfo, findings: Findings) -> None:
    """Find unreadable values of experiments, runs, texts and models; read no image and no vector."""
    tables: tuple[Any, ...] = (ExperimentConfig.__table__, Run.__table__)
    for table in tables:
        # Invalid ids and ids of missing rows are other kinds of findings.
        stored = [column for column in table.c if info.has(table.name, column.name)]
        columns = [column for column in stored if not isinstance(column.type, sa.Uuid)]
        with info.reading(f"check values of {table.name}") as connection:
            _add_values(findings, cells.find_damaged_values(connection, sa.select(*columns)))
    with info.reading("check texts of invocations") as connection:
        # PostgreSQL rejects values of another type.
        if connection.dialect.name != "sqlite":
            return
        if not has_index(connection, _INDEX):
            why = "no index has the types of outputs and the models of embeddings yet: upgrade first"
            findings.leave_out([UNREADABLE], why)
            return
        _check_invocations(info, connection, findings)
        _check_models(connection, findings)


def _check_invocations(info: DatabaseInfo, connection: Connection, findings: Findings) -> None:
    kind, number = _invocation.c.type, _invocation.c.sequence_number
    wrong = (
        kind.is_(None),
        sa.type_coerce(kind, sa.String).not_in([member.name for member in InvocationType]),
        sa.func.typeof(number) != "integer",
        ~number.between(-(2**31), 2**31 - 1),
    )
    query = sa.select(kind, number).where(sa.or_(*wrong))
    if info.may_read(connection, query, ["type", "sequence_number"], findings, UNREADABLE):
        _add_values(findings, cells.find_damaged_values(connection, query))
    at = row_locator(connection, _invocation)
    texts = sa.select(at).where(kind == InvocationType.TEXT)
    query = sa.select(_invocation.c.model, _invocation.c.output_text)
    if not reads_invocations(connection, texts):
        query = query.where(at.in_(texts.correlate(None)))
    elif info.may_read(connection, query, ["type", "model", "output_text"], findings, UNREADABLE):
        query = query.where(kind == InvocationType.TEXT)
    else:
        return
    _add_values(findings, cells.find_damaged_values(connection, query))


def _check_models(connection: Connection, findings: Findings) -> None:
    """Check each model name once, in the index that begins with it."""
    model = _embedding.c.embedding_model
    rows = sa.select(model)
    # The index is searched first; a row is read only if it is found there.
    missing = sa.select(sa.literal(1)).select_from(_embedding).where(model.is_(None)).limit(1)
    if connection.execute(missing).first() is not None:
        _add_values(findings, cells.find_damaged_values(connection, rows.where(model.is_(None))))
    for name in cells.read_distinct_values(connection, model):
        if not isinstance(name, str):
            _add_values(
                findings, cells.find_damaged_values(connection, rows.where(model == cells.as_literal(name)))
            )


def _add_values(findings: Findings, damaged: Iterator[Any]) -> None:
    for value in damaged:
        findings.add(UNREADABLE, value.place, value.reason)
