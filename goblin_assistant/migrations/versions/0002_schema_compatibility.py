"""Say which releases may serve with these tables.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table and its one row. Every later migration updates the row, downgrades too."""
    op.create_table(
        "schema_compatibility",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("revision", sa.String(length=32), nullable=False),
        sa.Column("serves_from", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_schema_compatibility")),
    )
    op.execute(
        "INSERT INTO schema_compatibility (id, revision, serves_from) VALUES (1, '0002', '0001')"
    )


def downgrade() -> None:
    """Take back."""
    op.drop_table("schema_compatibility")
