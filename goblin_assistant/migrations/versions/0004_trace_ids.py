"""The trace id of usage records.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. Earlier releases do not write it and may go on serving."""
    op.add_column("usage_records", sa.Column("trace_id", sa.String(32), nullable=True))
    op.execute(
        "UPDATE schema_compatibility SET revision = '0004', serves_from = '0001' WHERE id = 1"
    )


def downgrade() -> None:
    """Take back."""
    op.drop_column("usage_records", "trace_id")
    op.execute(
        "UPDATE schema_compatibility SET revision = '0003', serves_from = '0001' WHERE id = 1"
    )
