"""Define the tables: four of the generation pipeline, and four of panic_tda.

The pipeline's tables (`experimentconfig`, `run`, `invocation`, `embedding`) are defined exactly as in
existing databases; only indexes are added to them. Ids are `CHAR(32)`, 32 lower-case hexadecimal characters:
a column declared `UUID` has numeric affinity in SQLite, which stores an id such as
`06888680501e75097830817616369915` as the float infinity.

To add a column to a table of panic_tda, add it here and in a new migration (`migrations/versions`), raise
`database.SCHEMA_VERSION`, write it in `saving` and `pending`, and read it in `results`. A value of a
clustering that no query searches for needs no column: add a field to `records.ClusteringRecord`.
"""

from __future__ import annotations

import enum
import os
import time
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Enum,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
    Uuid,
    event,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, validates
from sqlalchemy.types import TypeDecorator

from panic_tda.errors import InvalidParameter

UNDEFINED_PERSISTENCE = 1.0
"""Stored persistence of a root cluster, which has no persistence; other clusters have a smaller value."""


def uuid7() -> UUID:
    """Return a new time-ordered id (RFC 9562, version 7)."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10))
    value = (milliseconds & (1 << 48) - 1) << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76
    return UUID(int=value & ~(0x3 << 62) | 0x2 << 62)


def utc_now() -> datetime:
    """Return the current UTC time without time zone, as the clustering tables store it."""
    return datetime.now(UTC).replace(tzinfo=None)


class InvocationType(enum.Enum):
    """The type of an invocation's output; stored by name."""

    TEXT = "text"
    IMAGE = "image"


class Vector(TypeDecorator[NDArray[np.float32]]):
    """A float32 vector, stored as raw little-endian bytes without a header."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> bytes | None:
        """Convert an array to bytes."""
        if value is None:
            return None
        return np.ascontiguousarray(value, dtype="<f4").tobytes()

    def process_result_value(self, value: bytes | None, dialect: Any) -> NDArray[np.float32] | None:
        """Convert bytes to a read-only array of shape (d,)."""
        if value is None:
            return None
        return np.frombuffer(value, dtype="<f4")


# Stored as CHAR(32) in every database, also in PostgreSQL, which has a UUID type.
Id = Uuid(as_uuid=True, native_uuid=False)

# Seeds of existing databases need 64 bits, which integers of SQLite have.
Seed = BigInteger().with_variant(Integer(), "sqlite")


class Base(DeclarativeBase):
    """The registry of all tables."""

    type_annotation_map: ClassVar = {UUID: Id}


class ExperimentConfig(Base):
    """An experiment: the networks, prompts and seeds of its runs."""

    __tablename__ = "experimentconfig"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    networks: Mapped[list[list[str]]] = mapped_column(JSON)
    seeds: Mapped[list[int]] = mapped_column(JSON)
    prompts: Mapped[list[str]] = mapped_column(JSON)
    embedding_models: Mapped[list[str]] = mapped_column(JSON)
    max_length: Mapped[int] = mapped_column()
    started_at: Mapped[datetime | None] = mapped_column()
    completed_at: Mapped[datetime | None] = mapped_column()

    runs: Mapped[list[Run]] = relationship(back_populates="experiment")

    @validates("networks")
    def _require_networks(self, _key: str, networks: list[list[str]]) -> list[list[str]]:
        if not networks or not all(networks):
            raise InvalidParameter(f"networks must be a list of non-empty lists of models; got {networks!r}")
        return networks

    @validates("max_length")
    def _require_length(self, _key: str, max_length: int) -> int:
        return _require_positive(max_length)


class Run(Base):
    """One trajectory: a network that is fed with its own output, beginning with a prompt and a seed."""

    __tablename__ = "run"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    network: Mapped[list[str]] = mapped_column(JSON)
    seed: Mapped[int] = mapped_column(Seed)
    max_length: Mapped[int] = mapped_column()
    initial_prompt: Mapped[str] = mapped_column()
    experiment_id: Mapped[UUID | None] = mapped_column(ForeignKey("experimentconfig.id"), index=True)

    experiment: Mapped[ExperimentConfig | None] = relationship(back_populates="runs")
    invocations: Mapped[list[Invocation]] = relationship(
        back_populates="run", order_by="Invocation.sequence_number"
    )

    @validates("network")
    def _require_network(self, _key: str, network: list[str]) -> list[str]:
        if not network:
            raise InvalidParameter("network must name at least one model; got an empty list")
        return network

    @validates("max_length")
    def _require_length(self, _key: str, max_length: int) -> int:
        return _require_positive(max_length)


class Invocation(Base):
    """One step of a run: a model's text or image."""

    __tablename__ = "invocation"
    __table_args__ = (
        UniqueConstraint("run_id", "sequence_number", name="uq_invocation_run_id"),
        # The columns that sampling needs, so that no row is read: most rows contain an image.
        Index("ix_invocation_id_run_type_number", "id", "run_id", "type", "sequence_number"),
        Index("ix_invocation_run_type_number", "run_id", "type", "sequence_number"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    started_at: Mapped[datetime | None] = mapped_column()
    completed_at: Mapped[datetime | None] = mapped_column()
    model: Mapped[str] = mapped_column()
    type: Mapped[InvocationType] = mapped_column(Enum(InvocationType, native_enum=False))
    seed: Mapped[int] = mapped_column(Seed)
    run_id: Mapped[UUID] = mapped_column(ForeignKey("run.id"), index=True)
    sequence_number: Mapped[int] = mapped_column()
    input_invocation_id: Mapped[UUID | None] = mapped_column(ForeignKey("invocation.id"), index=True)
    output_text: Mapped[str | None] = mapped_column()
    # Images are most of a database's bytes, so they are loaded only when this attribute is read.
    output_image_data: Mapped[bytes | None] = mapped_column(LargeBinary, deferred=True)

    run: Mapped[Run] = relationship(back_populates="invocations")
    input_invocation: Mapped[Invocation | None] = relationship(remote_side="Invocation.id")
    embeddings: Mapped[list[Embedding]] = relationship(back_populates="invocation")


class Embedding(Base):
    """The vector of one invocation's output by one embedding model."""

    __tablename__ = "embedding"
    __table_args__ = (
        UniqueConstraint("invocation_id", "embedding_model", name="uq_embedding_invocation_id"),
        # The columns that counting needs, so that no vector is read.
        Index(
            "ix_embedding_model_length_invocation", "embedding_model", text("length(vector)"), "invocation_id"
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    started_at: Mapped[datetime | None] = mapped_column()
    completed_at: Mapped[datetime | None] = mapped_column()
    invocation_id: Mapped[UUID] = mapped_column(ForeignKey("invocation.id"), index=True)
    embedding_model: Mapped[str] = mapped_column()
    vector: Mapped[NDArray[np.float32] | None] = mapped_column(Vector, deferred=True)

    invocation: Mapped[Invocation] = relationship(back_populates="embeddings")


class ClusteringResult(Base):
    """One clustering of all embeddings of one embedding model.

    `key` is a short integer to which the many rows of the other three tables refer.
    """

    __tablename__ = "clusteringresult"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid7)
    key: Mapped[int] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(default=utc_now)
    started_at: Mapped[datetime] = mapped_column()
    completed_at: Mapped[datetime] = mapped_column()
    embedding_model: Mapped[str] = mapped_column()
    algorithm: Mapped[str] = mapped_column()
    parameters: Mapped[dict[str, Any]] = mapped_column(JSON)

    clusters: Mapped[list[Cluster]] = relationship(
        back_populates="result", order_by="Cluster.label", passive_deletes="all"
    )


class Cluster(Base):
    """One cluster of a clustering, with its medoid."""

    __tablename__ = "cluster"

    result_key: Mapped[int] = mapped_column(
        ForeignKey("clusteringresult.key", ondelete="CASCADE"), primary_key=True
    )
    label: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    medoid_embedding_id: Mapped[UUID] = mapped_column(
        ForeignKey("embedding.id", ondelete="CASCADE"), index=True
    )
    size: Mapped[int] = mapped_column()
    persistence: Mapped[float] = mapped_column()
    # NULL in clusterings of earlier versions, which did not count copies.
    medoid_copies: Mapped[int | None] = mapped_column()

    result: Mapped[ClusteringResult] = relationship(back_populates="clusters")
    medoid: Mapped[Embedding] = relationship()


class EmbeddingCluster(Base):
    """The assignment of one embedding in one clustering; outliers have label -1."""

    __tablename__ = "embeddingcluster"
    # Without a rowid the primary key is the table: about 90 bytes per row with its index, instead of 400.
    __table_args__ = {  # noqa: RUF012 (the declarative base wants it plain)
        "sqlite_with_rowid": False
    }

    result_key: Mapped[int] = mapped_column(
        ForeignKey("clusteringresult.key", ondelete="CASCADE"), primary_key=True
    )
    embedding_id: Mapped[UUID] = mapped_column(
        ForeignKey("embedding.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    label: Mapped[int] = mapped_column()
    probability: Mapped[float] = mapped_column()


class ClusteringTree(Base):
    """A part of the spanning tree that a clustering was cut from; see `storage.read.trees`."""

    __tablename__ = "clusteringtree"

    result_key: Mapped[int] = mapped_column(
        ForeignKey("clusteringresult.key", ondelete="CASCADE"), primary_key=True
    )
    part: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    data: Mapped[bytes] = mapped_column(LargeBinary)


EMBEDDING_PREDICTION = Table(
    "embeddingprediction",
    MetaData(),
    Column("result_key", ForeignKey(ClusteringResult.key, ondelete="CASCADE"), primary_key=True),
    Column("embedding_id", ForeignKey(Embedding.id, ondelete="CASCADE"), primary_key=True, index=True),
    Column("label", Integer, nullable=False),
    Column("probability", Float, nullable=False),
    sqlite_with_rowid=False,
)
"""The predicted assignments of a clustering: of embeddings that were added after its fit. Only databases in
which embeddings were assigned have this table; it is no part of a schema version, so that no database needs
an upgrade for it."""

PROMPT_EMBEDDING = Table(
    "promptembedding",
    MetaData(),
    Column("run_id", String(32), primary_key=True),
    Column("embedding_model", String, primary_key=True),
    Column("vector", LargeBinary, nullable=False),
)
"""The embeddings of the initial prompts of runs. Only databases into which a dump with such embeddings was
imported have this table; it is no part of a schema version. Rows of runs that were deleted are ignored."""


def _require_positive(max_length: int) -> int:
    if max_length < 1:
        raise InvalidParameter(f"max_length must be at least 1; got {max_length}")
    return max_length


@event.listens_for(Invocation, "before_insert")
def _require_output_of_type(_mapper: Any, _connection: Any, invocation: Invocation) -> None:
    has_text = invocation.output_text is not None
    has_image = invocation.output_image_data is not None
    is_text = invocation.type is InvocationType.TEXT
    if has_text != is_text or has_image == is_text:
        raise InvalidParameter(
            "a TEXT invocation has output_text and no image, an IMAGE invocation output_image_data and no "
            f"text; got type {invocation.type} with text: {has_text}, image: {has_image}"
        )
