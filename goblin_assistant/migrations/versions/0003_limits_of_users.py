"""Limits of users, which only an admin sets.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns. Earlier releases do not read them and may go on serving."""
    for name in ("requests_per_minute", "tokens_per_minute"):
        op.add_column("users", sa.Column(name, sa.Integer(), nullable=True))
    op.execute(
        "UPDATE schema_compatibility SET revision = '0003', serves_from = '0001' WHERE id = 1"
    )


def downgrade() -> None:
    """Take back."""
    # Not in a batch: SQLite would make the table anew, and dropping the old one deletes the keys.
    for name in ("tokens_per_minute", "requests_per_minute"):
        op.drop_column("users", name)
    op.execute(
        "UPDATE schema_compatibility SET revision = '0002', serves_from = '0001' WHERE id = 1"
    )
