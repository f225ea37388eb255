"""Alembic's entry. The connection comes from database/upgrade.py.

Alembic's own template calls logging.config.fileConfig here, which switches off every logger that exists: left out.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from goblin_assistant.database.models import metadata

config = context.config


def _migrate(connection: Connection) -> None:
    # Batch mode: SQLite alters a table by copying it.
    context.configure(
        connection=connection, target_metadata=metadata, render_as_batch=True, compare_type=True
    )
    with context.begin_transaction():
        context.run_migrations()


_migrate(config.attributes["connection"])
