"""Runs and their steps: what belongs to nothing, what is missing, what is there twice."""

from __future__ import annotations

from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ColumnElement, Select

from panic_tda.storage.bulk import stream_rows
from panic_tda.storage.doctor.findings import Findings
from panic_tda.storage.doctor.subject import (
    BATCH_ROWS,
    Subject,
    first_values,
    ids_at,
    place,
    reads_invocations,
)
from panic_tda.storage.schema.tables import ExperimentConfig, Invocation, InvocationType, Run
from panic_tda.wording import pluralize

ORPHAN_INVOCATION, ORPHAN_RUN, ORPHAN_DIAGRAM = (
    "orphan_invocation",
    "orphan_run",
    "orphan_persistence_diagram",
)
OUTPUT, GAP, REPEATED, UNFINISHED, BAD_ID = (
    "missing_output",
    "sequence_gap",
    "duplicate_sequence_number",
    "unfinished_run",
    "bad_id",
)
_WITH_IDS = ("experimentconfig", "run", "invocation", "embedding", "persistencediagram", "clusteringresult")
_experiment = ExperimentConfig.__table__
_run = Run.__table__
_invocation = Invocation.__table__
_diagram = sa.table("persistencediagram", sa.column("id"), sa.column("run_id"))


def check_orphan_invocations(subject: Subject, found: Findings) -> None:
    """Find invocations without a run, in the indexes on both."""
    joined = _invocation.outerjoin(_run, _run.c.id == _invocation.c.run_id)
    with subject.reading("look for the runs of invocations") as connection:
        wanted = sa.select(place(connection, _invocation)).select_from(joined).where(_run.c.id.is_(None))
        if _is_any(connection, wanted):
            for identity in ids_at(connection, _invocation, wanted):
                found.add(ORPHAN_INVOCATION, identity)


def check_orphan_runs(subject: Subject, found: Findings) -> None:
    """Find runs whose experiment is named and missing."""
    if not subject.has("run", "experiment_id"):
        found.leave_out([ORPHAN_RUN], "runs have no column experiment_id")
        return
    joined = _run.outerjoin(_experiment, _experiment.c.id == _run.c.experiment_id)
    query = sa.select(_run.c.id).select_from(joined)
    query = query.where(_experiment.c.id.is_(None), _run.c.experiment_id.is_not(None))
    with subject.reading("look for the experiments of runs") as connection:
        for identity in first_values(connection, query):
            found.add(ORPHAN_RUN, identity)


def check_orphan_diagrams(subject: Subject, found: Findings) -> None:
    """Find persistence diagrams without a run, where there are any."""
    if not subject.has("persistencediagram", "id", "run_id"):
        return
    joined = _diagram.outerjoin(_run, _run.c.id == _diagram.c.run_id)
    with subject.reading("look for the runs of persistence diagrams") as connection:
        wanted = sa.select(place(connection, _diagram)).select_from(joined).where(_run.c.id.is_(None))
        for identity in ids_at(connection, _diagram, wanted):
            found.add(ORPHAN_DIAGRAM, identity)


def check_outputs(subject: Subject, found: Findings) -> None:
    """Find texts without text, and images without image; of each row the beginning is read, no image.

    Dumps come without images: where there is not one, none is missing.
    """
    is_text, is_image = (_invocation.c.type == kind for kind in (InvocationType.TEXT, InvocationType.IMAGE))
    no_text = _invocation.c.output_text.is_(None)
    image = _invocation.c.output_image_data
    no_image = sa.or_(image.is_(None), sa.func.length(image) == 0)
    with subject.reading("look for outputs") as connection:
        at = place(connection, _invocation)
        texts, images = (sa.select(at).where(kind) for kind in (is_text, is_image))
        if connection.dialect.name == "sqlite" and not reads_invocations(connection, texts):
            texts, images = (sa.select(at).where(at.in_(rows.correlate(None))) for rows in (texts, images))
            queries = [texts.where(no_text)]
            if _is_any(connection, images.where(~no_image)):
                queries.append(images.where(no_image))
        else:
            lacking = is_image if _is_any(connection, sa.select(at).where(~no_image)) else sa.false()
            odd: ColumnElement[bool] = no_text & is_text
            if not subject.before_images(["type"]):
                odd = sa.false()
                why = "whether a text has an image in its place is seen in an index only: upgrade first"
                found.leave_out([OUTPUT], why)
            # Of an image that is missing there is nothing to go through: the type behind it can be read.
            queries = [sa.select(at).where(sa.case((no_image, (no_text & is_text) | lacking), else_=odd))]
        for query in queries:
            # The ids take a way through a whole index: not where there are none.
            if _is_any(connection, query):
                for identity in ids_at(connection, _invocation, query):
                    found.add(OUTPUT, identity)


class _Steps(NamedTuple):
    """The steps of a run: None where it has none.

    Attributes
    ----------
    n_steps, n_numbers : int
        How many there are, and how many sequence numbers they have.
    first, last : int
        The lowest and the highest number.
    stride : int
        2 where all numbers are odd, or all even: those of one type of output where the other was not stored.
    """

    n_steps: int | None
    n_numbers: int
    first: int
    last: int
    stride: int


def check_sequences(subject: Subject, found: Findings) -> None:
    """Find runs with steps missing, with steps of one number, and those that end too soon."""
    number = _invocation.c.sequence_number
    parity = sa.func.abs(number % 2)
    counted = (
        sa.func.count(),
        sa.func.count(number.distinct()),
        # SQLite takes anything for a number.
        sa.cast(sa.func.min(number), sa.Integer),
        sa.cast(sa.func.max(number), sa.Integer),
        sa.case((sa.func.min(parity) == sa.func.max(parity), 2), else_=1),
    )
    named = (column.label(name) for name, column in zip(_Steps._fields, counted, strict=True))
    steps = sa.select(_invocation.c.run_id, *named).group_by(_invocation.c.run_id).subquery()
    query = sa.select(_run.c.id, _run.c.max_length, *(steps.c[name] for name in _Steps._fields))
    query = query.select_from(_run.outerjoin(steps, steps.c.run_id == _run.c.id))
    with subject.reading("count the steps of runs") as connection:
        names = ["run_id", "sequence_number"]
        if subject.may_read(connection, query, names, found, GAP, REPEATED, UNFINISHED):
            for rows in stream_rows(connection, query, batch_rows=BATCH_ROWS):
                for identity, length, *of_run in rows:
                    _check_run(found, identity, length, _Steps(*of_run))


def _check_run(found: Findings, identity: object, length: int, steps: _Steps) -> None:
    if steps.n_steps is None:
        found.add(UNFINISHED, identity, f"no step of {length}")
        return
    n_expected = steps.last // steps.stride + 1
    if steps.n_numbers != n_expected or steps.first < 0:
        numbers, are = pluralize(n_expected, "number"), pluralize(steps.n_numbers, "is", "are")
        there = f"{n_expected} {numbers} up to {steps.last}, of which {steps.n_numbers} {are} there"
        found.add(GAP, identity, there)
    if steps.n_steps > steps.n_numbers:
        found.add(
            REPEATED,
            identity,
            f"{steps.n_steps} steps have {steps.n_numbers} {pluralize(steps.n_numbers, 'number')}",
        )
    if steps.last + steps.stride < length:
        found.add(
            UNFINISHED, identity, f"the last number is {steps.last}, of {length} {pluralize(length, 'step')}"
        )


def check_ids(subject: Subject, found: Findings) -> None:
    """Find ids that are not 32 lower-case hexadecimal digits, in the indexes on ids."""
    for name in _WITH_IDS:
        is_ours = name != "clusteringresult" or subject.has_ours(name)
        if is_ours and subject.has(name, "id"):
            with subject.reading(f"look at the ids of {name}") as connection:
                for identity in first_values(connection, _bad_ids(connection, name)):
                    found.add(BAD_ID, identity, f"in {name}")


def _is_any(connection: Connection, query: Select[Any]) -> bool:
    return connection.execute(query.limit(1)).first() is not None


def _bad_ids(connection: Connection, name: str) -> Select[Any]:
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
