"""Runs and their steps: what belongs to nothing, what is missing, what is there twice."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql import Select

from panic_tda.storage.bulk import stream_rows
from panic_tda.storage.doctor.findings import Findings
from panic_tda.storage.doctor.subject import (
    BATCH_ROWS,
    IMAGE,
    Subject,
    first_values,
    ids_at,
    place,
    reads_invocations,
)
from panic_tda.storage.schemas import ExperimentConfig, Invocation, InvocationType, Run

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
        # The ids take a way through a whole index: not where there are none.
        if connection.execute(wanted.limit(1)).first() is not None:
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
    """Find texts without text, and images without image; of each row the beginning is read, no image."""
    is_text, is_image = (_invocation.c.type == kind for kind in (InvocationType.TEXT, InvocationType.IMAGE))
    no_text = _invocation.c.output_text.is_(None)
    image = _invocation.c.output_image_data
    no_image = sa.or_(image.is_(None), sa.func.length(image) == 0)
    with subject.reading("look for outputs") as connection:
        at = place(connection, _invocation)
        of_type = sa.select(at).where(is_text)
        if connection.dialect.name == "sqlite" and not reads_invocations(connection, of_type):
            pairs = (is_text, no_text), (is_image, no_image)
            queries = [
                sa.select(at).where(at.in_(sa.select(at).where(kind).correlate(None)), nothing)
                for kind, nothing in pairs
            ]
        else:
            # An image that is missing is nothing to go through: what stands behind it is read for nothing.
            odd = sa.and_(no_text, is_text)
            if IMAGE in subject.columns["invocation"] and not subject.before_images(["type"]):
                odd = sa.false()
                why = "whether a text has an image in its place is seen in an index only: upgrade first"
                found.leave_out([OUTPUT], why)
            queries = [
                sa.select(at).where(
                    sa.case((no_image, sa.or_(sa.and_(no_text, is_text), is_image)), else_=odd)
                )
            ]
        for query in queries:
            if connection.execute(query.limit(1)).first() is not None:
                for identity in ids_at(connection, _invocation, query):
                    found.add(OUTPUT, identity)


def check_sequences(subject: Subject, found: Findings) -> None:
    """Find runs with steps missing, with steps of one number, and those that end too soon."""
    number = _invocation.c.sequence_number
    parity = sa.func.abs(number % 2)
    steps = (
        sa.select(
            _invocation.c.run_id,
            sa.func.count().label("n_steps"),
            sa.func.count(number.distinct()).label("n_numbers"),
            # SQLite takes anything for a number.
            sa.cast(sa.func.max(number), sa.Integer).label("last"),
            sa.case((sa.func.min(parity) == sa.func.max(parity), 2), else_=1).label("stride"),
        )
        .group_by(_invocation.c.run_id)
        .subquery()
    )
    query = sa.select(
        _run.c.id, _run.c.max_length, steps.c.n_steps, steps.c.n_numbers, steps.c.last, steps.c.stride
    ).select_from(_run.outerjoin(steps, steps.c.run_id == _run.c.id))
    with subject.reading("count the steps of runs") as connection:
        names = ["run_id", "sequence_number"]
        if subject.may_read(connection, query, names, found, GAP, REPEATED, UNFINISHED):
            for rows in stream_rows(connection, query, batch_rows=BATCH_ROWS):
                for identity, length, n_steps, *others in rows:
                    if n_steps is None:
                        found.add(UNFINISHED, identity, f"no step of {length}")
                    else:
                        _check_run(found, identity, length, n_steps, *others)


def _check_run(
    found: Findings, identity: object, length: int, n_steps: int, n_numbers: int, last: int, stride: int
) -> None:
    """Compare the steps of a run with what they should be.

    Numbers that are all odd, or all even, are those of one type where the other was not stored.
    """
    n_expected = last // stride + 1
    if n_numbers != n_expected:
        found.add(GAP, identity, f"{n_numbers} of the numbers that {n_expected} steps have")
    if n_steps > n_numbers:
        found.add(REPEATED, identity, f"{n_steps} steps have {n_numbers} numbers")
    if last + stride < length:
        found.add(UNFINISHED, identity, f"the last number is {last}, of {length} steps")


def check_ids(subject: Subject, found: Findings) -> None:
    """Find ids that are not 32 lower-case hexadecimal digits, in the indexes on ids."""
    for name in _WITH_IDS:
        is_ours = name != "clusteringresult" or subject.has_ours(name)
        if is_ours and subject.has(name, "id"):
            with subject.reading(f"look at the ids of {name}") as connection:
                for identity in first_values(connection, _bad_ids(connection, name)):
                    found.add(BAD_ID, identity, f"in {name}")


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
