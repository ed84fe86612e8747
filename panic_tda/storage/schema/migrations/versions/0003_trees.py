"""Add a table for the spanning trees of clusterings, and a column for the number of copies of a medoid.

Frozen: this module defines version 0003, independently of later changes of `schema.tables`.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Upgrade a database of version 0002 to version 0003; no row is read or written."""
    op.add_column("cluster", sa.Column("medoid_copies", sa.Integer))
    op.create_table(
        "clusteringtree",
        sa.Column(
            "result_key",
            sa.Integer,
            sa.ForeignKey("clusteringresult.key", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("part", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
