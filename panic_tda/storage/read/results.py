"""Find stored clusterings by id or model, and read their clusters and the invocations of medoids."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session, aliased

from panic_tda.errors import DamagedValue, InvalidParameter, UnknownClustering, UnknownModel
from panic_tda.storage.cells import naming_damage, read_rows
from panic_tda.storage.columns import build_damage_error
from panic_tda.storage.read.census import list_models
from panic_tda.storage.read.summaries import ClusteringSummary as ClusteringSummary
from panic_tda.storage.read.summaries import UnreadableClustering as UnreadableClustering
from panic_tda.storage.read.summaries import matches, read_summaries
from panic_tda.storage.schema.tables import (
    UNDEFINED_PERSISTENCE,
    Cluster,
    ClusteringResult,
    Embedding,
    EmbeddingCluster,
    Invocation,
    InvocationType,
)
from panic_tda.types import OUTLIER
from panic_tda.wording import pluralize

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClusterDetails:
    """A stored cluster, with its medoid and the ids that lead from the medoid to its run.

    Attributes
    ----------
    label, size
        As stored.
    persistence : float or None
        As stored; None for the root cluster, which has no persistence.
    medoid_embedding_id, medoid_invocation_id, medoid_run_id : UUID
        Ids of the medoid, of its invocation and of its run.
    medoid_image_invocation_id : UUID or None
        Id of the image that the medoid's text describes, or of the medoid if it is an image.
    medoid_text : str or None
        Text of the medoid; None if it is an image.
    medoid_copies : int or None
        Number of members with the same vector as the medoid, the medoid included. Clusterings of earlier
        versions do not store it; for these, the members with the same text are counted.
    """

    label: int
    size: int
    persistence: float | None
    medoid_embedding_id: UUID
    medoid_invocation_id: UUID | None
    medoid_run_id: UUID | None
    medoid_image_invocation_id: UUID | None
    medoid_text: str | None
    medoid_copies: int | None


def list_clusterings(session: Session, *, model: str | None = None) -> list[ClusteringSummary]:
    """Return the stored clusterings of one model or of all models, the latest first.

    Unreadable clusterings are left out; `list_all_clusterings` returns them too.

    Raises
    ------
    UnknownModel
        The database has neither clusterings nor embeddings of `model`.
    """
    return list_all_clusterings(session, model=model)[0]


def list_all_clusterings(
    session: Session, *, model: str | None = None
) -> tuple[list[ClusteringSummary], list[UnreadableClustering]]:
    """Return the readable clusterings, as `list_clusterings` does, and the unreadable ones."""
    readable, unreadable = read_summaries(session.connection(), model=model)
    if model is not None and not readable and not unreadable:
        known = list_models(session.connection())
        if model not in known:
            raise UnknownModel(f"no embeddings of model {model}; the database has: {', '.join(known)}")
    return readable, unreadable


def read_clustering_ids(session: Session) -> list[str]:
    """Return the ids of all stored clusterings, in the form that commands show."""
    readable, unreadable = read_summaries(session.connection())
    return [str(summary.id) for summary in readable] + [clustering.reference for clustering in unreadable]


def find_clusterings(
    session: Session, references: Iterable[str] = (), *, model: str | None = None
) -> list[ClusteringSummary]:
    """Return the clusterings for ids, beginnings of ids or the word `latest`.

    `latest`, or no reference at all, means the latest readable clustering of each model (or of `model`).

    Raises
    ------
    UnknownClustering
        A reference matches no clustering or several.
    DamagedValue
        The row of a referenced clustering cannot be read.
    UnknownModel
        There is no clustering of `model`.
    """
    references = list(references) or ["latest"]
    readable, unreadable = read_summaries(session.connection())
    of_model = [summary for summary in readable if model in (None, summary.embedding_model)]
    if model is not None and not of_model:
        raise UnknownModel(f"no clustering of model {model!r} is stored; see panic-tda list-clusterings")
    latest = _find_latest(of_model, unreadable) if "latest" in references else []
    named, damaged = _resolve_references(readable, unreadable, references)
    if damaged:
        raise DamagedValue(f"clustering {damaged[0].reference} cannot be read: {damaged[0].reason}")
    for summary in named:
        if model not in (None, summary.embedding_model):
            raise UnknownClustering(
                f"clustering {summary.id} is of model {summary.embedding_model}, not of {model}"
            )
    return list({summary.id: summary for summary in [*latest, *named]}.values())


def find_all_clusterings(
    session: Session, references: Iterable[str]
) -> tuple[list[ClusteringSummary], list[UnreadableClustering]]:
    """Return the readable and the unreadable clusterings for ids or beginnings of ids.

    The reference to a clustering whose id cannot be read is the one that `list-clusterings` shows.

    Raises
    ------
    UnknownClustering
        A reference matches no clustering or several.
    """
    references = list(references)
    readable, unreadable = read_summaries(session.connection())
    latest = _find_latest(readable, unreadable) if "latest" in references else []
    named, damaged = _resolve_references(readable, unreadable, references)
    return list({summary.id: summary for summary in [*latest, *named]}.values()), damaged


def find_clustering(
    session: Session, reference: str = "latest", *, model: str | None = None
) -> ClusteringSummary:
    """Return the one clustering for an id, the beginning of an id or the word `latest`.

    Raises
    ------
    UnknownClustering
        The reference matches no clustering or several. `latest` matches several if there are clusterings of
        several models and `model` is None.
    UnknownModel
        There is no clustering of `model`.
    """
    summaries = find_clusterings(session, [reference], model=model)
    if not summaries:
        raise UnknownClustering("no clustering is stored; make one with panic-tda cluster-embeddings")
    if len(summaries) > 1:
        names = ", ".join(summary.embedding_model for summary in summaries)
        raise UnknownClustering(
            f"latest is the latest clustering of one model, and there are clusterings of {names}; "
            "choose one with --model, or give an id that list-clusterings shows"
        )
    return summaries[0]


def get_cluster_details(
    clustering_result_id: UUID | str, session: Session, *, limit: int | None = None
) -> list[ClusterDetails]:
    """Return the clusters of one clustering with their medoids, the largest first."""
    return read_details(session.connection(), _parse_uuid(clustering_result_id), limit=limit)


def read_details(
    connection: Connection, clustering_id: UUID, *, limit: int | None = None
) -> list[ClusterDetails]:
    """Return the clusters of one clustering with their medoids, inside the transaction of `connection`.

    Raises
    ------
    DamagedValue
        A label is negative, or a value does not match its column.
    """
    source = aliased(Invocation)
    query = (
        sa.select(
            Cluster.label,
            Cluster.size,
            Cluster.persistence,
            Cluster.medoid_copies,
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
    rows = read_rows(connection, query)
    if rows and rows[0][0] < 0:
        raise build_damage_error(
            "cluster", "label", [clustering_id.hex, rows[0][0]], "labels of clusters are not negative"
        )
    uncounted = any(row[3] is None and row[7] is InvocationType.TEXT for row in rows)
    copies = _count_copies(connection, clustering_id, rows[-1][0]) if uncounted else {}
    return [
        ClusterDetails(
            label=label,
            size=size,
            persistence=None if persistence >= UNDEFINED_PERSISTENCE else persistence,
            medoid_embedding_id=embedding_id,
            medoid_invocation_id=invocation_id,
            medoid_run_id=run_id,
            medoid_image_invocation_id=invocation_id if kind is InvocationType.IMAGE else image_id,
            medoid_text=text,
            medoid_copies=copies.get(label) if counted is None else counted,
        )
        for label, size, persistence, counted, embedding_id, invocation_id, run_id, kind, text, image_id in (
            rows
        )
    ]


def get_medoid_invocation(
    cluster_id: int, clustering_result_id: UUID | str, session: Session
) -> Invocation | None:
    """Return the invocation of the medoid of a cluster.

    Parameters
    ----------
    cluster_id : int
        Label of the cluster within its clustering.
    clustering_result_id : UUID or str
        Id of the clustering, with or without dashes.
    session : Session
        A session, for example from `Database.session`.

    Returns
    -------
    Invocation or None
        None if there is no such clustering or no such cluster (outliers have no medoid).

    Raises
    ------
    InvalidParameter
        The id is invalid: it does not have 32 hexadecimal digits.
    """
    query = (
        sa.select(Invocation)
        .join(Embedding, Embedding.invocation_id == Invocation.id)
        .join(Cluster, Cluster.medoid_embedding_id == Embedding.id)
        .join(ClusteringResult, ClusteringResult.key == Cluster.result_key)
        .where(ClusteringResult.id == _parse_uuid(clustering_result_id), Cluster.label == cluster_id)
    )
    ids = query.with_only_columns(Invocation.id)
    columns = sa.select(Invocation.__table__).where(Invocation.id.in_(ids))
    with naming_damage(session.connection(), columns):
        return session.scalars(query).one_or_none()


def _resolve_references(
    readable: Sequence[ClusteringSummary],
    unreadable: Sequence[UnreadableClustering],
    references: Iterable[str],
) -> tuple[list[ClusteringSummary], list[UnreadableClustering]]:
    """Return the readable and the unreadable clusterings for unique beginnings of ids; skip `latest`."""
    stored: list[ClusteringSummary | UnreadableClustering] = [*readable, *unreadable]
    named: list[ClusteringSummary | UnreadableClustering] = []
    for reference in references:
        if reference == "latest":
            continue
        matching = [clustering for clustering in stored if matches(clustering, reference)]
        if len(matching) != 1:
            several = f"{len(matching) or 'none'} of {len(stored)} stored clusterings begin"
            begin = pluralize(len(stored), "the only stored clustering does not begin", several)
            raise UnknownClustering(
                f"{begin} with {reference!r}; give an id that list-clusterings shows, or enough of its "
                "beginning to be unique"
            )
        named += [] if matching[0] in named else matching
    return (
        [clustering for clustering in named if isinstance(clustering, ClusteringSummary)],
        [clustering for clustering in named if isinstance(clustering, UnreadableClustering)],
    )


def _find_latest(
    readable: Sequence[ClusteringSummary], unreadable: Sequence[UnreadableClustering]
) -> list[ClusteringSummary]:
    """Return the latest readable clustering of each model, by time of creation."""
    latest: dict[str, ClusteringSummary] = {}
    for summary in readable:
        latest.setdefault(summary.embedding_model, summary)
    for clustering in unreadable:
        if clustering.embedding_model is None or clustering.embedding_model in latest:
            _log.warning("latest leaves out clustering %s: %s", clustering.reference, clustering.reason)
    return [latest[name] for name in sorted(latest)]


def _count_copies(connection: Connection, clustering_id: UUID, last_label: int) -> dict[int, int]:
    """Count the members with the same text as their medoid, by label up to `last_label`."""
    medoid, member = aliased(Embedding), aliased(Embedding)
    medoid_text, text = aliased(Invocation), aliased(Invocation)
    # One pass over the assignments, which looks up the medoid of each. An index on texts would be most of the
    # file, and a list of texts can be longer than an SQL statement may be.
    query = (
        sa.select(EmbeddingCluster.label, sa.func.count())
        .select_from(ClusteringResult)
        .join(EmbeddingCluster, EmbeddingCluster.result_key == ClusteringResult.key)
        .join(
            Cluster,
            sa.and_(
                Cluster.result_key == EmbeddingCluster.result_key,
                # "+ 0": otherwise SQLite scans all assignments for each cluster (17,000: 25 s, not 0.4 s).
                Cluster.label == EmbeddingCluster.label + 0,
            ),
        )
        .join(medoid, medoid.id == Cluster.medoid_embedding_id)
        .join(medoid_text, medoid_text.id == medoid.invocation_id)
        .join(member, member.id == EmbeddingCluster.embedding_id)
        .join(text, text.id == member.invocation_id)
        .where(
            ClusteringResult.id == clustering_id,
            # Outliers, which are most rows, need no lookup.
            EmbeddingCluster.label.between(OUTLIER + 1, last_label),
            text.output_text == medoid_text.output_text,
        )
        .group_by(EmbeddingCluster.label)
    )
    return dict(read_rows(connection, query))


def _parse_uuid(text: UUID | str) -> UUID:
    try:
        return UUID(str(text))
    except ValueError:
        raise InvalidParameter(
            f"clustering_result_id must have 32 hexadecimal digits, with or without dashes; got {text!r}"
        ) from None
