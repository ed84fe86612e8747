"""Arrays to database and back: saving, listing, showing and deleting clusterings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import repeat
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session, aliased

from panic_tda.errors import OUTLIER, UnknownClustering
from panic_tda.storage.database import Database, insert_rows
from panic_tda.storage.schemas import (
    Cluster,
    ClusteringResult,
    Embedding,
    EmbeddingCluster,
    Invocation,
    InvocationType,
    utc_now,
)

if TYPE_CHECKING:
    from panic_tda.types import FinishedClustering

ALGORITHM = "hdbscan"
_INSERT_ROWS = 100_000


@dataclass(frozen=True)
class ClusteringSummary:
    """What a listing says of one stored clustering."""

    id: UUID
    embedding_model: str
    algorithm: str
    created_at: datetime
    started_at: datetime
    completed_at: datetime
    parameters: dict[str, Any]

    @property
    def seconds(self) -> float:
        """Time the computation took."""
        return (self.completed_at - self.started_at).total_seconds()


@dataclass(frozen=True)
class ClusterDetails:
    """One cluster, and how to get from its medoid to the pipeline's own rows.

    Attributes
    ----------
    label, size, persistence
        As stored.
    medoid_embedding_id, medoid_invocation_id, medoid_run_id : UUID
        The chain from the medoid to its run.
    medoid_image_invocation_id : UUID or None
        The image that the medoid's text describes (or that the medoid is).
    medoid_text : str or None
        Text of the medoid; None where it is an image.
    medoid_copies : int or None
        Members with exactly this text, the medoid among them.
    """

    label: int
    size: int
    persistence: float
    medoid_embedding_id: UUID
    medoid_invocation_id: UUID | None
    medoid_run_id: UUID | None
    medoid_image_invocation_id: UUID | None
    medoid_text: str | None
    medoid_copies: int | None


def save_clustering(connection: Connection, finished: FinishedClustering) -> None:
    """Write a result, its clusters and its assignments.

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
    key = connection.execute(
        sa.select(sa.func.coalesce(sa.func.max(ClusteringResult.key), 0) + 1)
    ).scalar_one()
    connection.execute(
        sa.insert(ClusteringResult).values(
            id=finished.id,
            key=key,
            created_at=utc_now(),
            started_at=finished.started_at,
            completed_at=finished.completed_at,
            embedding_model=finished.embedding_model,
            algorithm=ALGORITHM,
            parameters=finished.parameters,
        )
    )
    insert_rows(
        connection,
        Cluster,
        (
            (key, label, finished.ids[finished.medoids[label]].decode(), size, finished.persistence[label])
            for label, size in _sizes(finished)
        ),
    )
    insert_rows(connection, EmbeddingCluster, _assignments(key, finished))


def is_saved(connection: Connection, clustering_id: UUID) -> bool:
    """Tell whether a clustering with this id is in the database."""
    query = sa.select(ClusteringResult.key).where(ClusteringResult.id == clustering_id)
    return connection.execute(query).first() is not None


def list_summaries(
    session: Session, *, model: str | None = None, limit: int | None = None
) -> list[ClusteringSummary]:
    """Return the stored clusterings, the latest first."""
    query = sa.select(ClusteringResult).order_by(
        ClusteringResult.created_at.desc(), ClusteringResult.key.desc()
    )
    if model is not None:
        query = query.where(ClusteringResult.embedding_model == model)
    return [_summary(found) for found in session.scalars(query.limit(limit))]


def find_clusterings(session: Session, references: Iterable[str]) -> list[ClusteringSummary]:
    """Return the clusterings that full ids or unique beginnings of ids stand for.

    Raises
    ------
    UnknownClustering
        A reference fits none, or more than one.
    """
    stored = list_summaries(session)
    found: dict[UUID, ClusteringSummary] = {}
    for reference in references:
        digits = reference.lower().replace("-", "")
        fitting = [summary for summary in stored if digits and summary.id.hex.startswith(digits)]
        if len(fitting) != 1:
            raise UnknownClustering(
                f"{len(fitting) or 'none'} of {len(stored)} stored clusterings begin with {reference!r}; "
                "give an id that list-clusterings shows, or enough of its beginning to be unique"
            )
        found[fitting[0].id] = fitting[0]
    return list(found.values())


def latest_summaries(session: Session, *, model: str | None = None) -> list[ClusteringSummary]:
    """Return the latest clustering of each model, by time of creation."""
    latest: dict[str, ClusteringSummary] = {}
    for summary in list_summaries(session, model=model):
        latest.setdefault(summary.embedding_model, summary)
    return [latest[name] for name in sorted(latest)]


def cluster_details(
    session: Session, clustering_id: UUID, *, limit: int | None = None
) -> list[ClusterDetails]:
    """Return the clusters of one clustering by label, which is by size."""
    source = aliased(Invocation)
    query = (
        sa.select(
            Cluster.label,
            Cluster.size,
            Cluster.persistence,
            Cluster.medoid_embedding_id,
            Invocation.id,
            Invocation.run_id,
            Invocation.type,
            Invocation.output_text,
            source.id,
        )
        .join(ClusteringResult, ClusteringResult.key == Cluster.result_key)
        .join(Embedding, Embedding.id == Cluster.medoid_embedding_id)
        .outerjoin(Invocation, Invocation.id == Embedding.invocation_id)
        .outerjoin(
            source,
            sa.and_(source.id == Invocation.input_invocation_id, source.type == InvocationType.IMAGE),
        )
        .where(ClusteringResult.id == clustering_id)
        .order_by(Cluster.label)
        .limit(limit)
    )
    rows = session.execute(query).all()
    has_texts = any(kind is InvocationType.TEXT for *_, kind, _, _ in rows)
    copies = _count_copies(session, clustering_id, rows[-1][0]) if has_texts else {}
    return [
        ClusterDetails(
            label=label,
            size=size,
            persistence=persistence,
            medoid_embedding_id=embedding_id,
            medoid_invocation_id=invocation_id,
            medoid_run_id=run_id,
            medoid_image_invocation_id=invocation_id if kind is InvocationType.IMAGE else image_id,
            medoid_text=text,
            medoid_copies=copies.get(label),
        )
        for label, size, persistence, embedding_id, invocation_id, run_id, kind, text, image_id in rows
    ]


def medoid_invocation(session: Session, clustering_id: UUID, label: int) -> Invocation | None:
    """Return the invocation that is the medoid of a cluster, None where there is no such cluster."""
    query = (
        sa.select(Invocation)
        .join(Embedding, Embedding.invocation_id == Invocation.id)
        .join(Cluster, Cluster.medoid_embedding_id == Embedding.id)
        .join(ClusteringResult, ClusteringResult.key == Cluster.result_key)
        .where(ClusteringResult.id == clustering_id, Cluster.label == label)
    )
    return session.scalars(query).one_or_none()


def delete_results(database: Database, clustering_ids: Sequence[UUID]) -> None:
    """Delete clusterings with their clusters and assignments, in one transaction."""
    with database.writing() as connection:
        keys = sa.select(ClusteringResult.key).where(ClusteringResult.id.in_(clustering_ids))
        for table in (EmbeddingCluster, Cluster):
            connection.execute(sa.delete(table).where(table.result_key.in_(keys)))
        connection.execute(sa.delete(ClusteringResult).where(ClusteringResult.id.in_(clustering_ids)))


def _sizes(finished: FinishedClustering) -> Iterator[tuple[int, int]]:
    labels, counts = np.unique(finished.labels[finished.labels != OUTLIER], return_counts=True)
    yield from zip(labels.tolist(), counts.tolist(), strict=True)


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


def _count_copies(session: Session, clustering_id: UUID, last_label: int) -> dict[int, int]:
    """Count, by label up to `last_label`, the members that have the text of their medoid."""
    stands, member = aliased(Embedding), aliased(Embedding)
    text_of, text = aliased(Invocation), aliased(Invocation)
    # One pass over the assignments; each looks up its cluster's medoid. An index on the texts would be most
    # of a file, and a list of the texts more than a statement may hold.
    query = (
        sa.select(EmbeddingCluster.label, sa.func.count())
        .select_from(ClusteringResult)
        .join(EmbeddingCluster, EmbeddingCluster.result_key == ClusteringResult.key)
        .join(
            Cluster,
            sa.and_(
                Cluster.result_key == EmbeddingCluster.result_key,
                # A sum, or SQLite goes through all assignments once for each cluster (17,000: 25 s, not 0.4).
                Cluster.label == EmbeddingCluster.label + 0,
            ),
        )
        .join(stands, stands.id == Cluster.medoid_embedding_id)
        .join(text_of, text_of.id == stands.invocation_id)
        .join(member, member.id == EmbeddingCluster.embedding_id)
        .join(text, text.id == member.invocation_id)
        .where(
            ClusteringResult.id == clustering_id,
            # Most rows are outliers: they need not be looked up.
            EmbeddingCluster.label.between(OUTLIER + 1, last_label),
            text.output_text == text_of.output_text,
        )
        .group_by(EmbeddingCluster.label)
    )
    return dict(session.execute(query).all())


def _summary(found: ClusteringResult) -> ClusteringSummary:
    return ClusteringSummary(
        id=found.id,
        embedding_model=found.embedding_model,
        algorithm=found.algorithm,
        created_at=found.created_at,
        started_at=found.started_at,
        completed_at=found.completed_at,
        parameters=found.parameters,
    )
