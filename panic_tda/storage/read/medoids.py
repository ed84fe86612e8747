"""Read the medoids of clusters, and the images that their texts describe, each by one lookup."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.orm import aliased

from panic_tda.storage.cells import read_rows
from panic_tda.storage.read.assignments import select_key
from panic_tda.storage.schema.tables import Cluster, Embedding, Invocation, InvocationType


def read_medoid_ids(connection: Connection, clustering_id: UUID) -> dict[int, bytes]:
    """Return the ids of the medoids, 32 characters each, by ascending label.

    Medoids that were deleted since are left out.
    """
    # Joined, because the embedding may have been deleted if foreign keys are not enforced.
    query = (
        sa.select(Cluster.label, sa.type_coerce(Embedding.id, sa.String))
        .select_from(Cluster)
        .join(Embedding, Embedding.id == Cluster.medoid_embedding_id)
        .where(Cluster.result_key == select_key(clustering_id))
        .order_by(Cluster.label)
    )
    return {label: identity.encode("ascii", "replace") for label, identity in read_rows(connection, query)}


def find_medoid_images(connection: Connection, clustering_id: UUID, labels: Iterable[int]) -> dict[int, UUID]:
    """Return the invocations of the images that the medoids of these clusters describe, or are, by label.

    Labels of medoids without an image are left out. No image is read.
    """
    source = aliased(Invocation)
    own = Invocation.type == InvocationType.IMAGE
    query = (
        sa.select(Cluster.label, sa.case((own, Invocation.id), else_=source.id))
        .select_from(Cluster)
        .join(Embedding, Embedding.id == Cluster.medoid_embedding_id)
        .join(Invocation, Invocation.id == Embedding.invocation_id)
        .outerjoin(
            source,
            sa.and_(source.id == Invocation.input_invocation_id, source.type == InvocationType.IMAGE),
        )
        .where(Cluster.result_key == select_key(clustering_id), Cluster.label.in_(list(labels)))
        .order_by(Cluster.label)
    )
    return {label: identity for label, identity in read_rows(connection, query) if identity is not None}


def read_image(connection: Connection, invocation_id: UUID) -> bytes | None:
    """Return the stored output image of an invocation; None if there is none."""
    query = sa.select(Invocation.output_image_data).where(Invocation.id == invocation_id)
    return next((image for (image,) in read_rows(connection, query)), None)
