"""What was stored before: clusterings by id or model, their clusters, and the invocations behind them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session, aliased

from panic_tda.errors import OUTLIER, DamagedValue, InvalidParameter, UnknownClustering, UnknownModel
from panic_tda.storage.cells import naming_damage, read_rows
from panic_tda.storage.read.census import stored_models
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
from panic_tda.wording import pluralize

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClusterDetails:
    """One cluster, and how to get from its medoid to the pipeline's own rows.

    Attributes
    ----------
    label, size
        As stored.
    persistence : float or None
        As stored; None for the root cluster, of which it is undefined.
    medoid_embedding_id, medoid_invocation_id, medoid_run_id : UUID
        The chain from the medoid to its run.
    medoid_image_invocation_id : UUID or None
        The image that the medoid's text describes (or that the medoid is).
    medoid_text : str or None
        Text of the medoid; None where it is an image.
    medoid_copies : int or None
        Members with the medoid's very vector, as equal texts have, the medoid among them. Clusterings of
        earlier versions do not say: there members with exactly its text are counted, each looked up.
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
    """Return the stored clusterings, of one model or of all, the latest first.

    Those that cannot be read are left out; `list_all_clusterings` returns them too.

    Raises
    ------
    UnknownModel
        The database has neither clusterings nor embeddings of `model`.
    """
    return list_all_clusterings(session, model=model)[0]


def list_all_clusterings(
    session: Session, *, model: str | None = None
) -> tuple[list[ClusteringSummary], list[UnreadableClustering]]:
    """Return what `list_clusterings` does, and the clusterings whose rows cannot be read."""
    readable, unreadable = read_summaries(session.connection(), model=model)
    if model is not None and not readable and not unreadable:
        known = stored_models(session.connection())
        if model not in known:
            raise UnknownModel(f"no embeddings of model {model}; the database has: {', '.join(known)}")
    return readable, unreadable


def read_clustering_ids(session: Session) -> list[str]:
    """Return the ids of all stored clusterings, as they are shown."""
    readable, unreadable = read_summaries(session.connection())
    return [str(summary.id) for summary in readable] + [clustering.reference for clustering in unreadable]


def find_clusterings(
    session: Session, references: Iterable[str] = (), *, model: str | None = None
) -> list[ClusteringSummary]:
    """Return the clusterings that ids, beginnings of ids or the word `latest` stand for.

    `latest`, or no reference at all, means the latest clustering of each model (or of `model`) that can be
    read.

    Raises
    ------
    UnknownClustering
        A reference fits none or several.
    DamagedValue
        The row of a clustering that is named cannot be read.
    UnknownModel
        There is no clustering of `model`.
    """
    references = list(references) or ["latest"]
    readable, unreadable = read_summaries(session.connection())
    of_model = [summary for summary in readable if model in (None, summary.embedding_model)]
    if model is not None and not of_model:
        raise UnknownModel(f"no clustering of model {model!r} is stored; see panic-tda list-clusterings")
    latest = _latest(of_model, unreadable) if "latest" in references else []
    named, damaged = _named(readable, unreadable, [name for name in references if name != "latest"])
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
    """Return the clusterings that ids or beginnings of ids stand for, those too whose rows cannot be read.

    A clustering whose id cannot be read is named as `list-clusterings` shows it.

    Raises
    ------
    UnknownClustering
        A reference fits none or several.
    """
    references = list(references)
    readable, unreadable = read_summaries(session.connection())
    latest = _latest(readable, unreadable) if "latest" in references else []
    named, damaged = _named(readable, unreadable, [name for name in references if name != "latest"])
    return list({summary.id: summary for summary in [*latest, *named]}.values()), damaged


def find_clustering(
    session: Session, reference: str = "latest", *, model: str | None = None
) -> ClusteringSummary:
    """Return the one clustering that an id, the beginning of an id or the word `latest` stands for.

    Raises
    ------
    UnknownClustering
        It fits none or several; `latest` does where there are clusterings of several models, and none is
        named.
    UnknownModel
        There is no clustering of `model`.
    """
    found = find_clusterings(session, [reference], model=model)
    if not found:
        raise UnknownClustering("no clustering is stored; make one with panic-tda cluster-embeddings")
    if len(found) > 1:
        names = ", ".join(summary.embedding_model for summary in found)
        raise UnknownClustering(
            f"latest is the latest clustering of one model, and there are clusterings of {names}; "
            "choose one with --model, or give an id that list-clusterings shows"
        )
    return found[0]


def get_cluster_details(
    clustering_result_id: UUID | str, session: Session, *, limit: int | None = None
) -> list[ClusterDetails]:
    """Return the clusters of one clustering with their medoids, the largest first."""
    clustering_id = _uuid(clustering_result_id)
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
    rows = read_rows(session.connection(), query)
    uncounted = any(row[3] is None and row[7] is InvocationType.TEXT for row in rows)
    copies = _count_copies(session, clustering_id, rows[-1][0]) if uncounted else {}
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
    """Return the invocation that stands for a cluster.

    Parameters
    ----------
    cluster_id : int
        Label of the cluster within its clustering.
    clustering_result_id : UUID or str
        Id of the clustering, with or without dashes.
    session : Session
        For example from `Database.session`.

    Returns
    -------
    Invocation or None
        None where there is no such clustering or no such cluster (outliers have no medoid).

    Raises
    ------
    InvalidParameter
        The id is none: it has not 32 hexadecimal digits.
    """
    query = (
        sa.select(Invocation)
        .join(Embedding, Embedding.invocation_id == Invocation.id)
        .join(Cluster, Cluster.medoid_embedding_id == Embedding.id)
        .join(ClusteringResult, ClusteringResult.key == Cluster.result_key)
        .where(ClusteringResult.id == _uuid(clustering_result_id), Cluster.label == cluster_id)
    )
    ids = query.with_only_columns(Invocation.id)
    columns = sa.select(Invocation.__table__).where(Invocation.id.in_(ids))
    with naming_damage(session.connection(), columns):
        return session.scalars(query).one_or_none()


def _named(
    readable: Sequence[ClusteringSummary],
    unreadable: Sequence[UnreadableClustering],
    references: Iterable[str],
) -> tuple[list[ClusteringSummary], list[UnreadableClustering]]:
    """Return the clusterings that full ids or unique beginnings of ids stand for."""
    stored: list[ClusteringSummary | UnreadableClustering] = [*readable, *unreadable]
    named: list[ClusteringSummary | UnreadableClustering] = []
    for reference in references:
        fitting = [clustering for clustering in stored if matches(clustering, reference)]
        if len(fitting) != 1:
            several = f"{len(fitting) or 'none'} of {len(stored)} stored clusterings begin"
            begin = pluralize(len(stored), "the only stored clustering does not begin", several)
            raise UnknownClustering(
                f"{begin} with {reference!r}; give an id that list-clusterings shows, or enough of its "
                "beginning to be unique"
            )
        named += [] if fitting[0] in named else fitting
    return (
        [clustering for clustering in named if isinstance(clustering, ClusteringSummary)],
        [clustering for clustering in named if isinstance(clustering, UnreadableClustering)],
    )


def _latest(
    readable: Sequence[ClusteringSummary], unreadable: Sequence[UnreadableClustering]
) -> list[ClusteringSummary]:
    """Return the latest clustering of each model, by time of creation, of those that can be read."""
    latest: dict[str, ClusteringSummary] = {}
    for summary in readable:
        latest.setdefault(summary.embedding_model, summary)
    for clustering in unreadable:
        if clustering.embedding_model is None or clustering.embedding_model in latest:
            _log.warning("latest leaves out clustering %s: %s", clustering.reference, clustering.reason)
    return [latest[name] for name in sorted(latest)]


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
    return dict(read_rows(session.connection(), query))


def _uuid(text: UUID | str) -> UUID:
    try:
        return UUID(str(text))
    except ValueError:
        raise InvalidParameter(
            f"clustering_result_id must have 32 hexadecimal digits, with or without dashes; got {text!r}"
        ) from None
