"""What a database holds that it should not, and what waits beside it; nothing is changed.

Every check has a name that stays. They go through indexes: rows of `invocation` and `embedding` are read
where an example is named, vectors and images never, and a check whose index is missing is left out by name.
`broken-clusterings` reads every assignment once.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ClauseElement

from panic_tda.clustering.checkpoint import saved_states
from panic_tda.errors import OUTLIER, BadVectors, DatabaseError
from panic_tda.parameters import ClusteringRecord, format_bytes
from panic_tda.storage import pending
from panic_tda.storage.census import NAMED_IDS, ModelCensus, require_valid, take_census
from panic_tda.storage.database import Database
from panic_tda.storage.schemas import (
    Cluster,
    ClusteringResult,
    ClusteringTree,
    Embedding,
    EmbeddingCluster,
    Invocation,
    InvocationType,
)


@dataclass(frozen=True)
class Finding:
    """Something that should not be there.

    Attributes
    ----------
    name : str
        Of the check that found it; stays what it is from version to version.
    count : int
        How many there are.
    text : str
        What they are, and what they do.
    examples : tuple of str
        The first of them.
    """

    name: str
    count: int
    text: str
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Examination:
    """What was found in one database.

    Attributes
    ----------
    database : str
        Its path or URL.
    findings : tuple of Finding
        None where all is well.
    unchecked : tuple of str
        Names of the checks for which an index is missing.
    """

    database: str
    findings: tuple[Finding, ...]
    unchecked: tuple[str, ...]


def examine_database(database: Database) -> Examination:
    """Look for what is wrong in a database, and for what waits beside it.

    Parameters
    ----------
    database : Database
        With tables of this version.

    Raises
    ------
    DatabaseError
        It cannot be read.
    """
    censuses = take_census(database)
    with database.reading() as connection:
        found = [*_orphaned_rows(connection), _broken_clusterings(connection)]
        found.append(_orphaned_embeddings(connection, censuses))
        checked = {name: check(connection, censuses) for name, check in _BY_INDEX.items()}
    found += [finding for finding in checked.values() if finding is not None]
    found += [_bad_vectors(database, censuses), _waiting(database), _unfinished(database)]
    return Examination(
        database=str(database),
        findings=tuple(finding for finding in found if finding.count),
        unchecked=tuple(name for name, finding in checked.items() if finding is None),
    )


def _orphaned_rows(connection: Connection) -> Iterator[Finding]:
    known = set(connection.execute(sa.select(ClusteringResult.key)).scalars())
    for table, what in ((EmbeddingCluster, "assignments"), (Cluster, "clusters"), (ClusteringTree, "trees")):
        query = sa.select(sa.func.count()).select_from(table)
        counts = {
            key: connection.execute(query.where(table.result_key == key)).scalar_one()
            for key in _keys(connection, table.result_key)
            if key not in known
        }
        yield Finding(
            f"orphaned-{what}",
            sum(counts.values()),
            f"{what} of clusterings that are gone (deleted without foreign keys); they only take room",
            tuple(f"{count} {what} with result_key {key}" for key, count in counts.items())[:NAMED_IDS],
        )


def _keys(connection: Connection, column: Any) -> Iterator[int]:
    """Go from key to key through the index, past all the rows that have the same."""
    query = sa.select(sa.func.min(column))
    key = connection.execute(query).scalar()
    while key is not None:
        yield key
        key = connection.execute(query.where(column > key)).scalar()


def _broken_clusterings(connection: Connection) -> Finding:
    query = sa.select(ClusteringResult.id, ClusteringResult.key, ClusteringResult.parameters)
    broken = {
        identity: reason
        for identity, key, parameters in connection.execute(query.order_by(ClusteringResult.key)).all()
        if (reason := _differs(connection, key, parameters))
    }
    return Finding(
        "broken-clusterings",
        len(broken),
        "clusterings whose stored counts and rows differ: embeddings have gone since, or rows were changed "
        "by hand; cluster again",
        tuple(f"{identity}: {reason}" for identity, reason in broken.items())[:NAMED_IDS],
    )


def _differs(connection: Connection, key: int, parameters: dict[str, Any]) -> str:
    """Say how the rows of a clustering differ from what is stored of them; nothing where they do not."""
    try:
        said = ClusteringRecord.from_json(parameters)
    except (DatabaseError, TypeError) as error:
        return str(error)
    outliers = sa.func.coalesce(sa.func.sum(sa.case((EmbeddingCluster.label == OUTLIER, 1), else_=0)), 0)
    of_key = EmbeddingCluster.result_key == key
    n_rows, n_outliers = connection.execute(sa.select(sa.func.count(), outliers).where(of_key)).one()
    n_clusters = connection.execute(sa.select(sa.func.count()).where(Cluster.result_key == key)).scalar_one()
    counts = {
        "assignments": (said.n_embeddings, n_rows),
        "outliers": (said.n_outliers, n_outliers),
        "clusters": (said.n_clusters, n_clusters),
    }
    return ", ".join(
        f"{stored} {name} stored and {there} there"
        for name, (stored, there) in counts.items()
        if stored != there
    )


def _orphaned_embeddings(connection: Connection, censuses: dict[str, ModelCensus]) -> Finding:
    count = sum(census.n_orphans for census in censuses.values())
    examples: list[str] = []
    if count:
        # By way of the missing invocations, which the index on them knows.
        missing = (
            sa.select(Embedding.invocation_id)
            .outerjoin(Invocation, Invocation.id == Embedding.invocation_id)
            .where(Invocation.id.is_(None))
            .limit(NAMED_IDS)
        )
        ids = connection.execute(missing).scalars().all()
        query = sa.select(Embedding.id).where(Embedding.invocation_id.in_(ids)).limit(NAMED_IDS)
        examples = [f"embedding {identity}" for identity in connection.execute(query).scalars()]
    return Finding(
        "orphaned-embeddings",
        count,
        "embeddings whose invocation is missing; no clustering has them",
        tuple(examples),
    )


def _duplicates(connection: Connection, censuses: dict[str, ModelCensus]) -> Finding | None:
    count, examples = 0, []
    for model, census in censuses.items():
        # One query a length: in the index it stands between the model and the invocation.
        for size in census.sampled:
            query = (
                sa.select(Embedding.invocation_id)
                .where(Embedding.embedding_model == model, sa.func.length(Embedding.vector) == size)
                .group_by(Embedding.invocation_id)
                .having(sa.func.count() > 1)
            )
            if not _by_index_alone(connection, query):
                return None
            count += connection.execute(sa.select(sa.func.count()).select_from(query.subquery())).scalar_one()
            first = connection.execute(query.limit(NAMED_IDS)).scalars()
            examples += [f"{model}: invocation {identity}" for identity in first]
    return Finding(
        "duplicate-embeddings",
        count,
        "invocations with several embeddings of one model; each of these counts",
        tuple(examples[:NAMED_IDS]),
    )


def _mixed_types(connection: Connection, censuses: dict[str, ModelCensus]) -> Finding | None:
    count, examples = 0, []
    kinds = InvocationType.TEXT, InvocationType.IMAGE
    of_kind = [sa.func.sum(sa.case((Invocation.type == kind, 1), else_=0)) for kind in kinds]
    # A range of one id: for an equality SQLite would take the index on the bare id, and read the rows.
    one = Invocation.id.between(Embedding.invocation_id, Embedding.invocation_id)
    for model in censuses:
        query = sa.select(*of_kind).select_from(Embedding).outerjoin(Invocation, one)
        query = query.where(Embedding.embedding_model == model)
        if not _by_index_alone(connection, query):
            return None
        counts = dict(zip(kinds, connection.execute(query).one(), strict=True))
        rarer = min(kinds[::-1], key=lambda kind: counts[kind])
        count += counts[rarer]
        if counts[rarer]:
            total = sum(counts.values())
            examples.append(f"{model}: {counts[rarer]} of {total} belong to {rarer.name} invocations")
    return Finding(
        "mixed-types",
        count,
        "embeddings of a text model that belong to an image, or of an image model that belong to a text",
        tuple(examples[:NAMED_IDS]),
    )


_BY_INDEX = {"duplicate-embeddings": _duplicates, "mixed-types": _mixed_types}
"""The checks that go through all embeddings, and may only where an index has what they need."""


def _by_index_alone(connection: Connection, query: ClauseElement) -> bool:
    """Tell whether a query reads no row of the tables that hold vectors and images."""
    if connection.dialect.name != "sqlite":
        return True  # PostgreSQL keeps large values apart from their rows.
    text = query.compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
    plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}").all()
    # By a length it looks up an expression: the row behind it is not read unless a column is asked for.
    rows = re.compile(r"(SCAN|SEARCH) (embedding|invocation)\b(?!.* COVERING INDEX |.*<expr>)")
    return not any(rows.match(step[3]) for step in plan)


def _bad_vectors(database: Database, censuses: dict[str, ModelCensus]) -> Finding:
    examples = []
    for census in censuses.values():
        try:
            require_valid(database, census)
        except BadVectors as error:
            examples.append(str(error))
    return Finding(
        "bad-vectors",
        sum(census.n_sampled - census.n_usable for census in censuses.values()),
        "embeddings whose vector is missing or of another length than most of their model",
        tuple(examples[:NAMED_IDS]),
    )


def _waiting(database: Database) -> Finding:
    files = pending.find(database)
    return Finding(
        "waiting-clusterings",
        len(files),
        f"clusterings that were computed and wait to be saved; try: {database.command('save-pending')}",
        tuple(map(str, files[:NAMED_IDS])),
    )


def _unfinished(database: Database) -> Finding:
    states = saved_states(database.work_root)
    size = format_bytes(sum(state.n_bytes for state in states))
    return Finding(
        "unfinished-states",
        len(states),
        f"states of runs that have not ended, {size}, from which the same command goes on; delete the folder "
        "of one that nobody will go on with",
        tuple(
            f"{state.folder}: {format_bytes(state.n_bytes)}, saved {_age(time.time() - state.saved_at)} ago"
            for state in states[:NAMED_IDS]
        ),
    )


def _age(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours / 24:.0f} days" if hours >= 48 else f"{hours:.1f} hours"
