"""Check runs and their steps for missing parents, missing steps and repeated steps."""

from __future__ import annotations

from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ColumnElement, Select

from panic_tda.storage.bulk import stream_rows
from panic_tda.storage.cells import read_stored_values, row_locator
from panic_tda.storage.doctor.database_info import (
    BATCH_ROWS,
    DatabaseInfo,
    read_ids_at,
    reads_invocations,
)
from panic_tda.storage.doctor.findings import Findings
from panic_tda.storage.schema.tables import ExperimentConfig, Invocation, InvocationType, Run
from panic_tda.wording import pluralize

ORPHAN_INVOCATION, ORPHAN_RUN = "orphan_invocation", "orphan_run"
OUTPUT, GAP, REPEATED, UNFINISHED, BAD_ID = (
    "missing_output",
    "sequence_gap",
    "duplicate_sequence_number",
    "unfinished_run",
    "bad_id",
)
_WITH_IDS = ("experimentconfig", "run", "invocation", "embedding", "clusteringresult")
_experiment = ExperimentConfig.__table__
_run = Run.__table__
_invocation = Invocation.__table__


def check_orphan_invocations(info: DatabaseInfo, findings: Findings) -> None:
    """Find invocations without a run, by the indexes of both tables."""
    joined = _invocation.outerjoin(_run, _run.c.id == _invocation.c.run_id)
    with info.reading("find orphan invocations") as connection:
        wanted = (
            sa.select(row_locator(connection, _invocation)).select_from(joined).where(_run.c.id.is_(None))
        )
        if _has_rows(connection, wanted):
            for identity in read_ids_at(connection, _invocation, wanted):
                findings.add(ORPHAN_INVOCATION, identity)


def check_orphan_runs(info: DatabaseInfo, findings: Findings) -> None:
    """Find runs that refer to a missing experiment."""
    if not info.has("run", "experiment_id"):
        findings.leave_out([ORPHAN_RUN], "runs have no column experiment_id")
        return
    joined = _run.outerjoin(_experiment, _experiment.c.id == _run.c.experiment_id)
    query = sa.select(_run.c.id).select_from(joined)
    query = query.where(_experiment.c.id.is_(None), _run.c.experiment_id.is_not(None))
    with info.reading("find orphan runs") as connection:
        for identity in read_stored_values(connection, query):
            findings.add(ORPHAN_RUN, identity)


def check_outputs(info: DatabaseInfo, findings: Findings) -> None:
    """Find invocations of type TEXT without a text, and of type IMAGE without an image; read no image.

    Dumps may contain no images: if the database has no image at all, none is reported as missing.
    """
    is_text, is_image = (_invocation.c.type == kind for kind in (InvocationType.TEXT, InvocationType.IMAGE))
    no_text = _invocation.c.output_text.is_(None)
    image = _invocation.c.output_image_data
    no_image = sa.or_(image.is_(None), sa.func.length(image) == 0)
    with info.reading("find missing outputs") as connection:
        at = row_locator(connection, _invocation)
        texts, images = (sa.select(at).where(kind) for kind in (is_text, is_image))
        if connection.dialect.name == "sqlite" and not reads_invocations(connection, texts):
            texts, images = (sa.select(at).where(at.in_(rows.correlate(None))) for rows in (texts, images))
            queries = [texts.where(no_text)]
            if _has_rows(connection, images.where(~no_image)):
                queries.append(images.where(no_image))
        else:
            lacks_image = is_image if _has_rows(connection, sa.select(at).where(~no_image)) else sa.false()
            lacks_text: ColumnElement[bool] = no_text & is_text
            if not info.are_before_images(["type"]):
                lacks_text = sa.false()
                why = (
                    "only an index shows which invocations of type TEXT have an image instead: upgrade first"
                )
                findings.leave_out([OUTPUT], why)
            # The type stored behind a missing image can be read without reading an image.
            queries = [
                sa.select(at).where(sa.case((no_image, (no_text & is_text) | lacks_image), else_=lacks_text))
            ]
        for query in queries:
            # Reading the ids scans a whole index, so it is skipped if no row matches.
            if _has_rows(connection, query):
                for identity in read_ids_at(connection, _invocation, query):
                    findings.add(OUTPUT, identity)


class _Steps(NamedTuple):
    """Statistics of the steps of a run; None for a run without steps.

    Attributes
    ----------
    n_steps, n_numbers : int
        Number of steps, and number of different sequence numbers.
    first, last : int
        The lowest and the highest number.
    stride : int
        2 if all numbers are odd or all are even, because only one type of output was stored; otherwise 1.
    """

    n_steps: int | None
    n_numbers: int
    first: int
    last: int
    stride: int


def check_sequences(info: DatabaseInfo, findings: Findings) -> None:
    """Find runs with missing steps, with several steps of one number, and runs that end too early."""
    number = _invocation.c.sequence_number
    parity = sa.func.abs(number % 2)
    aggregates = (
        sa.func.count(),
        sa.func.count(number.distinct()),
        # SQLite accepts any value in an integer column.
        sa.cast(sa.func.min(number), sa.Integer),
        sa.cast(sa.func.max(number), sa.Integer),
        sa.case((sa.func.min(parity) == sa.func.max(parity), 2), else_=1),
    )
    labelled = (column.label(name) for name, column in zip(_Steps._fields, aggregates, strict=True))
    steps = sa.select(_invocation.c.run_id, *labelled).group_by(_invocation.c.run_id).subquery()
    query = sa.select(_run.c.id, _run.c.max_length, *(steps.c[name] for name in _Steps._fields))
    query = query.select_from(_run.outerjoin(steps, steps.c.run_id == _run.c.id))
    with info.reading("count the steps of runs") as connection:
        names = ["run_id", "sequence_number"]
        if info.may_read(connection, query, names, findings, GAP, REPEATED, UNFINISHED):
            for rows in stream_rows(connection, query, batch_rows=BATCH_ROWS):
                for identity, length, *of_run in rows:
                    # A max_length of another type is an unreadable value, another kind of finding.
                    length = length if isinstance(length, int) else None
                    _check_run(findings, identity, length, _Steps(*of_run))


def _check_run(findings: Findings, identity: object, length: int | None, steps: _Steps) -> None:
    if steps.n_steps is None:
        findings.add(UNFINISHED, identity, "no step" if length is None else f"no step of {length}")
        return
    n_expected = steps.last // steps.stride + 1
    if steps.n_numbers != n_expected or steps.first < 0:
        numbers, are = pluralize(n_expected, "number"), pluralize(steps.n_numbers, "is", "are")
        gap = f"{n_expected} {numbers} up to {steps.last}, of which {steps.n_numbers} {are} there"
        findings.add(GAP, identity, gap)
    if steps.n_steps > steps.n_numbers:
        findings.add(
            REPEATED,
            identity,
            f"{steps.n_steps} steps have {steps.n_numbers} {pluralize(steps.n_numbers, 'number')}",
        )
    if length is not None and steps.last + steps.stride < length:
        findings.add(
            UNFINISHED, identity, f"the last number is {steps.last}, of {length} {pluralize(length, 'step')}"
        )


def check_ids(info: DatabaseInfo, findings: Findings) -> None:
    """Find ids that are not 32 lower-case hexadecimal digits, by the indexes on ids."""
    for name in _WITH_IDS:
        is_ours = name != "clusteringresult" or info.has_ours(name)
        if is_ours and info.has(name, "id"):
            with info.reading(f"check ids of {name}") as connection:
                for identity in read_stored_values(connection, _select_bad_ids(connection, name)):
                    findings.add(BAD_ID, identity, f"in {name}")


def _has_rows(connection: Connection, query: Select[Any]) -> bool:
    return connection.execute(query.limit(1)).first() is not None


def _select_bad_ids(connection: Connection, name: str) -> Select[Any]:
    identity: Any = sa.column("id", sa.String)
    query = sa.select(identity).select_from(sa.table(name))
    if connection.dialect.name != "sqlite":
        return query.where(~identity.regexp_match("^[0-9a-f]{32}$"))
    return query.where(
        sa.or_(
            sa.func.typeof(identity) != "text",
            sa.func.length(identity) != 32,
            identity.op("GLOB")("*[^0-9a-f]*"),
        )
    )
