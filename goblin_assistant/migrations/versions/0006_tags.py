"""The tags of usage records.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column. Earlier releases do not write it and may go on serving."""
    op.add_column("usage_records", sa.Column("tags", sa.JSON(), nullable=True))
    op.execute(
        "UPDATE schema_compatibility SET revision = '0006', serves_from = '0001' WHERE id = 1"
    )


def downgrade() -> None:
    """Take back."""
    op.drop_column("usage_records", "tags")
    op.execute(
        "UPDATE schema_compatibility SET revision = '0005', serves_from = '0001' WHERE id = 1"
    )
