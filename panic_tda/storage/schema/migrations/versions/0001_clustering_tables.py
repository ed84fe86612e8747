"""Replace the old clustering tables of any layout by new ones; create the pipeline's tables if missing.

Frozen: this module defines version 0001, independently of later changes of `schema.tables`. One thing is left
out: version 0001 had an index on `embedding.embedding_model`, which 0002 drops. Both migrations run in one
transaction, and creating the index here would read every embedding for nothing.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# In the order in which foreign keys allow dropping them.
OLD_TABLES = ("embeddingcluster", "cluster", "clusteringresult")

ID = sa.CHAR(32)
# In the first PostgreSQL databases, seeds have 32 bits until ALTER TABLE … ALTER seed TYPE bigint.
SEED = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Upgrade a new database, or one of the generation pipeline, to version 0001."""
    present = set(sa.inspect(op.get_bind()).get_table_names())
    for table in OLD_TABLES:
        if table in present:
            op.drop_table(table)
    for name, create in PIPELINE_TABLES.items():
        if name not in present:
            create()
    _create_clustering_tables()


def _create_experimentconfig() -> None:
    op.create_table(
        "experimentconfig",
        sa.Column("id", ID, primary_key=True),
        sa.Column("networks", sa.JSON, nullable=False),
        sa.Column("seeds", sa.JSON, nullable=False),
        sa.Column("prompts", sa.JSON, nullable=False),
        sa.Column("embedding_models", sa.JSON, nullable=False),
        sa.Column("max_length", sa.Integer, nullable=False),
        sa.Column("started_at", sa.DateTime),
        sa.Column("completed_at", sa.DateTime),
    )


def _create_run() -> None:
    op.create_table(
        "run",
        sa.Column("id", ID, primary_key=True),
        sa.Column("network", sa.JSON, nullable=False),
        sa.Column("seed", SEED, nullable=False),
        sa.Column("max_length", sa.Integer, nullable=False),
        sa.Column("initial_prompt", sa.String, nullable=False),
        sa.Column("experiment_id", ID, sa.ForeignKey("experimentconfig.id")),
    )
    op.create_index("ix_run_experiment_id", "run", ["experiment_id"])


def _create_invocation() -> None:
    op.create_table(
        "invocation",
        sa.Column("id", ID, primary_key=True),
        sa.Column("started_at", sa.DateTime),
        sa.Column("completed_at", sa.DateTime),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("type", sa.String(5), nullable=False),
        sa.Column("seed", SEED, nullable=False),
        sa.Column("run_id", ID, sa.ForeignKey("run.id"), nullable=False),
        sa.Column("sequence_number", sa.Integer, nullable=False),
        sa.Column("input_invocation_id", ID, sa.ForeignKey("invocation.id")),
        sa.Column("output_text", sa.String),
        sa.Column("output_image_data", sa.LargeBinary),
        sa.UniqueConstraint("run_id", "sequence_number", name="uq_invocation_run_id"),
    )
    op.create_index("ix_invocation_run_id", "invocation", ["run_id"])
    op.create_index("ix_invocation_input_invocation_id", "invocation", ["input_invocation_id"])


def _create_embedding() -> None:
    op.create_table(
        "embedding",
        sa.Column("id", ID, primary_key=True),
        sa.Column("started_at", sa.DateTime),
        sa.Column("completed_at", sa.DateTime),
        sa.Column("invocation_id", ID, sa.ForeignKey("invocation.id"), nullable=False),
        sa.Column("embedding_model", sa.String, nullable=False),
        sa.Column("vector", sa.LargeBinary),
        sa.UniqueConstraint("invocation_id", "embedding_model", name="uq_embedding_invocation_id"),
    )
    op.create_index("ix_embedding_invocation_id", "embedding", ["invocation_id"])


PIPELINE_TABLES = {
    "experimentconfig": _create_experimentconfig,
    "run": _create_run,
    "invocation": _create_invocation,
    "embedding": _create_embedding,
}


def _create_clustering_tables() -> None:
    op.create_table(
        "clusteringresult",
        sa.Column("id", ID, primary_key=True),
        sa.Column("key", sa.Integer, nullable=False, unique=True),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("started_at", sa.DateTime, nullable=False),
        sa.Column("completed_at", sa.DateTime, nullable=False),
        sa.Column("embedding_model", sa.String, nullable=False),
        sa.Column("algorithm", sa.String, nullable=False),
        sa.Column("parameters", sa.JSON, nullable=False),
    )
    op.create_table(
        "cluster",
        _result_key(),
        sa.Column("label", sa.Integer, primary_key=True, autoincrement=False),
        _embedding_id("medoid_embedding_id"),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("persistence", sa.Double, nullable=False),
    )
    op.create_index("ix_cluster_medoid_embedding_id", "cluster", ["medoid_embedding_id"])
    op.create_table(
        "embeddingcluster",
        _result_key(),
        _embedding_id("embedding_id", primary_key=True),
        sa.Column("label", sa.Integer, nullable=False),
        sa.Column("probability", sa.Double, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_embeddingcluster_embedding_id", "embeddingcluster", ["embedding_id"])


def _result_key() -> sa.Column[int]:
    key = sa.ForeignKey("clusteringresult.key", ondelete="CASCADE")
    return sa.Column("result_key", sa.Integer, key, primary_key=True)


def _embedding_id(name: str, *, primary_key: bool = False) -> sa.Column[str]:
    embedding = sa.ForeignKey("embedding.id", ondelete="CASCADE")
    return sa.Column(name, ID, embedding, nullable=False, primary_key=primary_key)
