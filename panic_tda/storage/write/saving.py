"""Arrays to database: a finished clustering is saved whole, or kept as a file; and deleting saved ones."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from panic_tda.errors import OUTLIER, DatabaseError, SaveFailed, unexpected
from panic_tda.interrupts import rescue
from panic_tda.parameters import format_bytes
from panic_tda.storage.bulk import insert_rows
from panic_tda.storage.cells import read_each
from panic_tda.storage.database import Database, lock_for_saving, open_database
from panic_tda.storage.read.summaries import UnreadableClustering, row_column
from panic_tda.storage.read.trees import save_tree
from panic_tda.storage.schema.tables import (
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
from panic_tda.types import FinishedClustering

if TYPE_CHECKING:
    from datetime import datetime

    from panic_tda.doubts import Wording
    from panic_tda.types import Clustering, EmbeddingMatrix

ALGORITHM = "hdbscan"
_INSERT_ROWS = 100_000
_BYTES_PER_ROW = 2 * 130
"""An assignment with its index, and its edge of the tree; in the log, and in the file (measured: 125)."""

_KEY_LIMIT = 2**31 - 1
_LAST_YEAR = 9999

_log = logging.getLogger(__name__)


def finish(matrix: EmbeddingMatrix, clustering: Clustering, started_at: datetime) -> FinishedClustering:
    """Give a clustering of a model's rows an id and a time of completion: it is ready to be saved."""
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
        # The column takes no missing value; 1, which no other cluster reaches, stands for the root's.
        persistence=dict(
            enumerate(np.nan_to_num(clustering.persistence, nan=UNDEFINED_PERSISTENCE).tolist())
        ),
        medoid_copies=clustering.medoid_copies,
        tree=clustering.tree,
    )


def how_to_recut(database: Database, finished: FinishedClustering, wording: Wording) -> str:
    """Return the sentence that says which command stores other settings; nothing without a stored tree."""
    if finished.tree is None or wording != "options":
        return ""
    return f"To store one of them, add its options to: {database.command('recut-clustering', finished.id)}"


def save_or_keep(database: Database, finished: FinishedClustering) -> None:
    """Save a clustering in one write transaction; what cannot be saved is kept as a file.

    Raises
    ------
    SaveFailed
        It was not saved; the message says why, where it was kept, and how to save it later.

    Notes
    -----
    Where a signal ends the process in the middle, the clustering is kept too, and the log says where.
    """
    # Rolling back and keeping may take longer than a process has to end after a signal.
    with rescue():
        _save_or_keep(database, finished)


def _save_or_keep(database: Database, finished: FinishedClustering) -> None:
    try:
        with database.writing() as connection:
            save_clustering(connection, finished)
    except Exception as error:
        # Whatever it is, hours of computing are not lost to it.
        reason = _reason(error)
        if "is full" in reason:
            n_bytes = _BYTES_PER_ROW * len(finished.ids)
            reason = f"{reason}; saving takes up to {format_bytes(n_bytes)} while it lasts"
        if not isinstance(error, (DatabaseError, OSError)):
            _log.debug("saving %s failed unexpectedly", finished.embedding_model, exc_info=True)
        raise SaveFailed(f"computed but not saved ({reason}); {_keep(database, finished)}") from error
    except (KeyboardInterrupt, SystemExit):
        _log.warning("interrupted while saving; %s", _keep(database, finished))
        raise


def _keep(database: Database, finished: FinishedClustering) -> str:
    """Keep the result as a file, and say how to save it, or why it is lost."""
    try:
        path = pending.keep(database, finished)
        command = database.command("save-pending", path)
    except Exception as error:
        # Whatever it is, it must not hide why the saving failed.
        _log.debug("keeping %s failed", finished.embedding_model, exc_info=True)
        return f"it could not be kept as a file either ({_reason(error)}), and is lost"
    return f"the result is kept in {path}; when the cause is gone, save it with: {command}"


def require_savable(database: Database) -> None:
    """Check now, not after hours of computing, that a result can be saved: save one, and take it back.

    Raises
    ------
    DatabaseError
        The file is marked read-only or locked, or this user may not write what saving writes.
    """
    with database.writing() as connection:
        key = _next_key(connection)
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
        some = connection.execute(sa.select(sa.type_coerce(Embedding.id, sa.String)).limit(1)).scalars().all()
        insert_rows(connection, Cluster, ((key, 0, identity, 1, 0.0, None) for identity in some))
        insert_rows(connection, EmbeddingCluster, ((key, identity, 0, 1.0) for identity in some))
        insert_rows(connection, ClusteringTree, [(key, 0, b"")])
        connection.rollback()
    # While the server answers: what cannot be saved in the end is kept with the name of its database.
    pending.identify(database)


def save_clustering(connection: Connection, finished: FinishedClustering) -> None:
    """Write a result, its clusters, its assignments and, where it has one, its tree.

    Parameters
    ----------
    connection : Connection
        From `Database.writing`: all or nothing is written.
    finished : FinishedClustering
        Every cluster needs its medoid.

    Raises
    ------
    DatabaseError
        An embedding is gone, the disk is full, …; raised where the transaction ends.
    """
    key = _next_key(connection)
    connection.execute(
        sa.insert(ClusteringResult).values(
            id=finished.id,
            key=key,
            created_at=_created_at(connection),
            started_at=finished.started_at,
            completed_at=finished.completed_at,
            embedding_model=finished.embedding_model,
            algorithm=ALGORITHM,
            parameters=finished.record.to_json(),
        )
    )
    insert_rows(connection, Cluster, _clusters(key, finished))
    insert_rows(connection, EmbeddingCluster, _assignments(key, finished))
    if finished.tree is not None:
        save_tree(connection, key, finished.tree)


def is_saved(connection: Connection, clustering_id: UUID) -> bool:
    """Tell whether a clustering with this id is in the database."""
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
        Where they are stored.
    clustering_ids : sequence of UUID
        Of clusterings.
    unreadable : sequence of UnreadableClustering
        Others, whose rows cannot be read.

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
        connection.execute(sa.delete(ClusteringResult).where(chosen))


def _reason(error: Exception) -> str:
    # What SQLAlchemy wraps, without the statement.
    cause = getattr(error, "orig", None) or error
    if not str(cause):
        return type(cause).__name__
    return str(cause) if isinstance(cause, (DatabaseError, OSError)) else unexpected(cause)


def _next_key(connection: Connection) -> int:
    """Return a key above all that were ever used and left a row, and keep others from taking it."""
    lock_for_saving(connection)
    # Rows whose clustering was deleted by hand, without foreign keys, are nobody's, and are to stay so. Each
    # of the four is one look at the end of an index. What is no key, SQLite keeps too: not below the limit.
    keys = (
        *(ClusteringResult.key, Cluster.result_key, EmbeddingCluster.result_key),
        ClusteringTree.result_key,
    )
    largest = (sa.select(sa.func.max(key)).where(key < _KEY_LIMIT) for key in keys)
    return 1 + max(int(connection.execute(query).scalar() or 0) for query in largest)


def _created_at(connection: Connection) -> datetime:
    """Return the present, or just after the latest clustering where the clock went back.

    Which one is the latest is told by this time alone; one that cannot be read is never the latest.
    """
    now = utc_now()
    query = sa.select(ClusteringResult.id, ClusteringResult.created_at)
    times = [values[1] for values, _, _ in read_each(connection, query) if values is not None]
    latest = max(times, default=now)
    if latest < now or not times:
        return now
    if latest.year >= _LAST_YEAR:
        _log.warning(
            "a clustering in the database is said to be made in %d, and stays the latest", latest.year
        )
        return now
    _log.warning(
        "the clock is behind the latest clustering in the database (%s UTC): this one is stored as made "
        "just after it, so that it is the latest",
        f"{latest:%Y-%m-%d %H:%M:%S}",
    )
    return latest + timedelta(microseconds=1)


def _clusters(
    key: int, finished: FinishedClustering
) -> Iterator[tuple[int, int, str, int, float, int | None]]:
    labels, counts = np.unique(finished.labels[finished.labels != OUTLIER], return_counts=True)
    for label, size in zip(labels.tolist(), counts.tolist(), strict=True):
        medoid = finished.ids[finished.medoids[label]].decode()
        copies = finished.medoid_copies.get(label)
        yield key, label, medoid, size, finished.persistence[label], copies


def _assignments(key: int, finished: FinishedClustering) -> Iterator[tuple[int, str, int, float]]:
    for begin in range(0, len(finished.ids), _INSERT_ROWS):
        rows = slice(begin, begin + _INSERT_ROWS)
        yield from zip(
            repeat(key),
            finished.ids[rows].astype("U32").tolist(),
            finished.labels[rows].tolist(),
            finished.probabilities[rows].tolist(),
            strict=False,
        )
