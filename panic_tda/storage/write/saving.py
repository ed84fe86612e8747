"""Save finished clusterings in a database, or as files if that fails, and delete saved clusterings."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import repeat
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.arrays.rows import slices
from panic_tda.doubts import Wording
from panic_tda.errors import DatabaseError, SaveFailed, unexpected
from panic_tda.interrupts import rescue
from panic_tda.storage.cells import read_each
from panic_tda.storage.database import Database, lock_for_saving, open_database
from panic_tda.storage.read.predictions import has_predictions
from panic_tda.storage.read.summaries import UnreadableClustering, row_column
from panic_tda.storage.schema.tables import (
    EMBEDDING_PREDICTION,
    UNDEFINED_PERSISTENCE,
    Cluster,
    ClusteringResult,
    ClusteringTree,
    Embedding,
    EmbeddingCluster,
    utc_now,
    uuid7,
)
from panic_tda.storage.write import pending
from panic_tda.storage.write.insertion import insert_rows
from panic_tda.storage.write.neighbour_graphs import save_graph
from panic_tda.storage.write.trees import save_tree
from panic_tda.types import OUTLIER, Clustering, EmbeddingMatrix, FinishedClustering
from panic_tda.wording import format_bytes

ALGORITHM = "hdbscan"
INSERT_ROWS = 100_000
_BYTES_PER_ROW = 2 * 130
"""Bytes per row, in the log and in the file: assignment, index entry and tree edge (measured: 125)."""

_KEY_LIMIT = 2**31 - 1
_LAST_YEAR = 9999

_log = logging.getLogger(__name__)


def build_result(matrix: EmbeddingMatrix, clustering: Clustering, started_at: datetime) -> FinishedClustering:
    """Build the finished clustering that is saved: add an id and the time of completion."""
    return FinishedClustering(
        id=uuid7(),
        embedding_model=matrix.model,
        started_at=started_at,
        completed_at=utc_now(),
        record=clustering.record,
        ids=matrix.ids,
        labels=clustering.labels,
        probabilities=clustering.probabilities,
        medoids=clustering.medoid_indices,
        # The column does not allow NULL; the root cluster gets 1, which no other cluster reaches.
        persistence=dict(
            enumerate(np.nan_to_num(clustering.persistence, nan=UNDEFINED_PERSISTENCE).tolist())
        ),
        medoid_copies=clustering.medoid_copies,
        tree=clustering.tree,
        graph=clustering.graph,
    )


def recut_hint(database: Database, finished: FinishedClustering, wording: Wording) -> str:
    """Return a hint at the command that stores other settings; "" without a tree."""
    if finished.tree is None or wording != "options":
        return ""
    return f"To store one of them, add its options to: {database.command('recut-clustering', finished.id)}"


def save_or_write_pending(database: Database, finished: FinishedClustering) -> None:
    """Save a clustering in one write transaction; write it to a file if it cannot be saved.

    Raises
    ------
    SaveFailed
        It was not saved; the message has the reason, the file, and the command that saves it later.

    Notes
    -----
    If a signal ends the process while saving, the clustering is written to a file too; its path is logged.
    """
    # Rolling back and writing the file may take longer than the time to exit after a signal.
    with rescue():
        _save_or_write_pending(database, finished)


def _save_or_write_pending(database: Database, finished: FinishedClustering) -> None:
    try:
        with database.writing() as connection:
            save_clustering(connection, finished)
    except Exception as error:
        # Any error: hours of computing must not be lost.
        reason = _describe_error(error)
        if "is full" in reason:
            n_bytes = _count_bytes(finished)
            reason = f"{reason}; saving needs up to {format_bytes(n_bytes)} of disk space while it runs"
        if not isinstance(error, (DatabaseError, OSError)):
            _log.debug("saving %s failed unexpectedly", finished.embedding_model, exc_info=True)
        raise SaveFailed(
            f"computed but not saved ({reason}); {_write_fallback(database, finished)}"
        ) from error
    except (KeyboardInterrupt, SystemExit):
        _log.warning("interrupted while saving; %s", _write_fallback(database, finished))
        raise


def _count_bytes(finished: FinishedClustering) -> int:
    """Return the most bytes of disk that saving takes while it lasts."""
    lists = None if finished.graph is None else finished.graph.neighbours
    n_bytes = _BYTES_PER_ROW * len(finished.ids)
    return n_bytes if lists is None else n_bytes + 2 * (32 * len(finished.ids) + 12 * lists.rows.size)


def _write_fallback(database: Database, finished: FinishedClustering) -> str:
    """Write the result to a file; return a sentence with the command that saves it, or why it is lost."""
    try:
        path = pending.write_pending(database, finished)
        command = database.command("save-pending", path)
    except Exception as error:
        # Any error: it must not hide the reason why saving failed.
        _log.debug("keeping %s failed", finished.embedding_model, exc_info=True)
        return f"the result could not be written to a file either ({_describe_error(error)}) and is lost"
    return f"the result is kept in {path}; when the cause is gone, save it with: {command}"


def require_savable(database: Database) -> None:
    """Check before the computation that a result can be saved: save one, and roll it back.

    Raises
    ------
    DatabaseError
        The file is marked read-only or locked, or the user may not write to one of the tables.
    """
    with database.writing() as connection:
        key = _take_next_key(connection)
        connection.execute(
            sa.insert(ClusteringResult).values(
                id=uuid7(),
                key=key,
                started_at=utc_now(),
                completed_at=utc_now(),
                embedding_model="",
                algorithm=ALGORITHM,
                parameters={},
            )
        )
        embedding_ids = (
            connection.execute(sa.select(sa.type_coerce(Embedding.id, sa.String)).limit(1)).scalars().all()
        )
        insert_rows(connection, Cluster, ((key, 0, identity, 1, 0.0, None) for identity in embedding_ids))
        insert_rows(connection, EmbeddingCluster, ((key, identity, 0, 1.0) for identity in embedding_ids))
        insert_rows(connection, ClusteringTree, [(key, 0, b"")])
        connection.rollback()
    # Asked now, while the server answers: a pending file needs the identity of its database.
    pending.identify_database(database)


def save_clustering(connection: Connection, finished: FinishedClustering) -> None:
    """Write a result, its clusters, its assignments, and its tree and neighbour lists, if it has them.

    Parameters
    ----------
    connection : Connection
        From `Database.writing`: all rows are written, or none.
    finished : FinishedClustering
        Every cluster needs its medoid.

    Raises
    ------
    DatabaseError
        An embedding was deleted, the disk is full, …; raised at the end of the transaction.
    """
    key = _take_next_key(connection)
    connection.execute(
        sa.insert(ClusteringResult).values(
            id=finished.id,
            key=key,
            created_at=_choose_creation_time(connection),
            started_at=finished.started_at,
            completed_at=finished.completed_at,
            embedding_model=finished.embedding_model,
            algorithm=ALGORITHM,
            parameters=finished.record.to_json(),
        )
    )
    insert_rows(connection, Cluster, _iterate_clusters(key, finished))
    insert_rows(connection, EmbeddingCluster, _iterate_assignments(key, finished), are_small=True)
    if finished.tree is not None:
        save_tree(connection, key, finished.tree)
    if finished.graph is not None:
        save_graph(connection, key, finished.graph)


def is_saved(connection: Connection, clustering_id: UUID) -> bool:
    """Return whether a clustering with this id is in the database."""
    query = sa.select(ClusteringResult.key).where(ClusteringResult.id == clustering_id)
    return connection.execute(query).first() is not None


def delete_clusterings(
    database: Database | str | Path,
    clustering_ids: Sequence[UUID],
    unreadable: Sequence[UnreadableClustering] = (),
) -> None:
    """Delete clusterings with their clusters, assignments and trees, in one transaction; embeddings stay.

    Parameters
    ----------
    database : Database, str or Path
        The database of the clusterings.
    clustering_ids : sequence of UUID
        Ids of the clusterings to delete.
    unreadable : sequence of UnreadableClustering
        Further clusterings to delete, whose rows cannot be read.

    Raises
    ------
    DatabaseError
        The file is marked read-only, or cannot be written.
    """
    with open_database(database).writing() as connection:
        damaged = row_column(connection).in_([clustering.row for clustering in unreadable])
        chosen = ClusteringResult.id.in_(clustering_ids) | damaged
        keys = sa.select(ClusteringResult.key).where(chosen)
        for table in (ClusteringTree, EmbeddingCluster, Cluster):
            connection.execute(sa.delete(table).where(table.result_key.in_(keys)))
        if has_predictions(connection):
            of_keys = EMBEDDING_PREDICTION.c.result_key.in_(keys)
            connection.execute(sa.delete(EMBEDDING_PREDICTION).where(of_keys))
        connection.execute(sa.delete(ClusteringResult).where(chosen))


def _describe_error(error: Exception) -> str:
    # The error inside SQLAlchemy's error, without the SQL statement.
    cause = getattr(error, "orig", None) or error
    if not str(cause):
        return type(cause).__name__
    return str(cause) if isinstance(cause, (DatabaseError, OSError)) else unexpected(cause)


def _take_next_key(connection: Connection) -> int:
    """Return a key above all keys in all tables of clusterings, and lock it against other processes."""
    lock_for_saving(connection)
    # All tables, because orphans of a deleted clustering must not belong to a new one. Each query is one
    # lookup at the end of an index. SQLite can store values that are not keys; the limit excludes them.
    keys: list[Any] = [
        *(ClusteringResult.key, Cluster.result_key, EmbeddingCluster.result_key),
        ClusteringTree.result_key,
    ]
    if has_predictions(connection):
        keys.append(EMBEDDING_PREDICTION.c.result_key)
    largest = (sa.select(sa.func.max(key)).where(key < _KEY_LIMIT) for key in keys)
    return 1 + max(int(connection.execute(query).scalar() or 0) for query in largest)


def _choose_creation_time(connection: Connection) -> datetime:
    """Return the current time, or a time just after the latest clustering if the clock went back.

    Only this time decides which clustering is the latest; an unreadable clustering is never the latest.
    """
    now = utc_now()
    query = sa.select(ClusteringResult.id, ClusteringResult.created_at)
    times = [values[1] for values, _, _ in read_each(connection, query) if values is not None]
    latest = max(times, default=now)
    if latest < now or not times:
        return now
    if latest.year >= _LAST_YEAR:
        _log.warning(
            "a clustering in the database has a date in the year %d and stays the latest", latest.year
        )
        return now
    _log.warning(
        "the clock is behind the latest clustering in the database (%s UTC): this one gets a "
        "time just after it, so that it is the latest",
        f"{latest:%Y-%m-%d %H:%M:%S}",
    )
    return latest + timedelta(microseconds=1)


def _iterate_clusters(
    key: int, finished: FinishedClustering
) -> Iterator[tuple[int, int, str, int, float, int | None]]:
    labels, counts = np.unique(finished.labels[finished.labels != OUTLIER], return_counts=True)
    for label, size in zip(labels.tolist(), counts.tolist(), strict=True):
        medoid = finished.ids[finished.medoids[label]].decode()
        copies = finished.medoid_copies.get(label)
        yield key, label, medoid, size, finished.persistence[label], copies


def _iterate_assignments(key: int, finished: FinishedClustering) -> Iterator[tuple[int, str, int, float]]:
    for rows in slices(len(finished.ids), INSERT_ROWS):
        yield from zip(
            repeat(key),
            finished.ids[rows].astype("U32").tolist(),
            finished.labels[rows].tolist(),
            finished.probabilities[rows].tolist(),
            strict=False,
        )
