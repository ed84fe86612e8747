"""Create the indexes that make counting and sampling possible without reading rows.

Frozen: this module defines version 0002, independently of later changes of `schema.tables`.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

OLD_INDEX = "ix_embedding_embedding_model"


def upgrade() -> None:
    """Upgrade a database of version 0001 to version 0002; no row changes."""
    # Dropped first, so that the new indexes can reuse its space in the file.
    op.drop_index(OLD_INDEX, "embedding", if_exists=True)
    op.create_index(
        "ix_embedding_model_length_invocation",
        "embedding",
        ["embedding_model", sa.text("length(vector)"), "invocation_id"],
        if_not_exists=True,
    )
    op.create_index(
        "ix_invocation_id_run_type_number",
        "invocation",
        ["id", "run_id", "type", "sequence_number"],
        if_not_exists=True,
    )
    op.create_index(
        "ix_invocation_run_type_number",
        "invocation",
        ["run_id", "type", "sequence_number"],
        if_not_exists=True,
    )
