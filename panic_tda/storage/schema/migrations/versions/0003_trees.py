"""The spanning tree that a clustering was cut from, and how often the text of a medoid occurs.

Frozen: this says what version 0003 is, whatever `schemas` says later.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring a database of version 0002 to version 0003; no row is read or written."""
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
