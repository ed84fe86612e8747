"""Count what a database contains: models, embeddings, runs, networks and clusterings.

Embeddings and invocations are counted in indexes: no row of theirs is read.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.storage.cells import read_each
from panic_tda.storage.database import SCHEMA_VERSION, Database, sqlite_version
from panic_tda.storage.read.census import FLOAT_BYTES, count_lengths, find_width, list_models
from panic_tda.storage.read.summaries import ClusteringSummary, UnreadableClustering, read_summaries
from panic_tda.storage.schema.tables import Invocation, InvocationType, Run

_invocation = Invocation.__table__


@dataclass(frozen=True)
class ModelOverview:
    """The embeddings and clusterings of one embedding model.

    Attributes
    ----------
    embedding_model : str
    n_embeddings : int
    dimensions : int
        Of the commonest valid length of a vector; 0 if no vector is valid.
    n_invalid : int
        Embeddings without a vector of that length.
    vector_bytes : int
        Bytes of all its vectors.
    n_clusterings : int
        Stored clusterings of the model that can be read.
    latest : ClusteringSummary or None
        The latest of them.
    """

    embedding_model: str
    n_embeddings: int
    dimensions: int
    n_invalid: int
    vector_bytes: int
    n_clusterings: int
    latest: ClusteringSummary | None


@dataclass(frozen=True)
class DatabaseOverview:
    """Contents of a database, as counts.

    Attributes
    ----------
    database : str
        Its path or URL, without a password.
    system : str
        The database system with its version.
    schema_version : str
        Of the clustering tables.
    n_bytes : int
        Size of an SQLite file with its write-ahead log, or of all tables on a server.
    n_runs, n_prompts, n_texts, n_images : int
        Runs, different initial prompts, and outputs by type.
    networks : tuple of (tuple of str, int)
        Names of the models of each network with its number of runs, the most frequent first.
    n_unreadable_runs : int
        Runs whose network cannot be read.
    models : tuple of ModelOverview
        In alphabetical order.
    clusterings : tuple of ClusteringSummary
        The latest first.
    unreadable_clusterings : tuple of UnreadableClustering
    """

    database: str
    system: str
    schema_version: str
    n_bytes: int
    n_runs: int
    n_prompts: int
    n_texts: int
    n_images: int
    networks: tuple[tuple[tuple[str, ...], int], ...]
    n_unreadable_runs: int
    models: tuple[ModelOverview, ...]
    clusterings: tuple[ClusteringSummary, ...]
    unreadable_clusterings: tuple[UnreadableClustering, ...]


def read_overview(database: Database) -> DatabaseOverview:
    """Count what a database contains, in one read transaction.

    Raises
    ------
    DamagedValue
        The name of an embedding model cannot be read.
    """
    with database.reading() as connection:
        readable, unreadable = read_summaries(connection)
        networks, n_unreadable_runs = _count_networks(connection)
        n_runs, n_prompts = connection.execute(
            sa.select(sa.func.count(), sa.func.count(Run.initial_prompt.distinct())).select_from(Run)
        ).one()
        n_texts, n_images = _count_outputs(connection)
        stored = list_models(connection)
        names = sorted({*stored, *(summary.embedding_model for summary in readable)})
        return DatabaseOverview(
            database=str(database),
            system=_describe_system(connection),
            schema_version=SCHEMA_VERSION,
            n_bytes=_measure_size(connection, database),
            n_runs=n_runs,
            n_prompts=n_prompts,
            n_texts=n_texts,
            n_images=n_images,
            networks=networks,
            n_unreadable_runs=n_unreadable_runs,
            models=tuple(_describe_model(connection, name, readable) for name in names),
            clusterings=tuple(readable),
            unreadable_clusterings=tuple(unreadable),
        )


def _describe_model(
    connection: Connection, model: str, clusterings: list[ClusteringSummary]
) -> ModelOverview:
    counts = count_lengths(connection, model)
    width = find_width(counts)
    n_embeddings = sum(counts.values())
    of_model = [summary for summary in clusterings if summary.embedding_model == model]
    return ModelOverview(
        embedding_model=model,
        n_embeddings=n_embeddings,
        dimensions=width // FLOAT_BYTES,
        n_invalid=n_embeddings - counts.get(width, 0) if width else n_embeddings,
        vector_bytes=sum((length or 0) * count for length, count in counts.items()),
        n_clusterings=len(of_model),
        latest=of_model[0] if of_model else None,
    )


def _count_outputs(connection: Connection) -> tuple[int, int]:
    """Return the number of texts and of images: one pass through an index."""
    is_image = sa.case((_invocation.c.type == InvocationType.IMAGE, 1), else_=0)
    query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(is_image), 0))
    n_outputs, n_images = connection.execute(query.select_from(_invocation)).one()
    return n_outputs - n_images, n_images


def _count_networks(connection: Connection) -> tuple[tuple[tuple[tuple[str, ...], int], ...], int]:
    """Return the networks with their numbers of runs, and the number of runs whose network is damaged."""
    counts: Counter[tuple[str, ...]] = Counter()
    n_unreadable = 0
    for values, _, _ in read_each(connection, sa.select(Run.network)):
        network = None if values is None else values[0]
        if isinstance(network, list) and all(isinstance(name, str) for name in network):
            counts[tuple(network)] += 1
        else:
            n_unreadable += 1
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0]))), n_unreadable


def _describe_system(connection: Connection) -> str:
    if connection.dialect.name == "sqlite":
        return f"SQLite {sqlite_version()}"
    version = connection.dialect.server_version_info or ()
    return f"PostgreSQL {'.'.join(map(str, version))}"


def _measure_size(connection: Connection, database: Database) -> int:
    if database.path is None:
        query = sa.select(sa.func.pg_database_size(sa.func.current_database()))
        return int(connection.execute(query).scalar_one())
    files = (database.path, database.path.with_name(f"{database.path.name}-wal"))
    return sum(file.stat().st_size for file in files if file.exists())
