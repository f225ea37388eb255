"""Alembic's entry point. The connection comes from database/upgrade.py.

Without the template's logging.config.fileConfig: it would disable every existing logger.
"""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from goblin_assistant.database.models import metadata

config = context.config


def _migrate(connection: Connection) -> None:
    # Batch mode, because SQLite alters a table by copying it.
    context.configure(
        connection=connection, target_metadata=metadata, render_as_batch=True, compare_type=True
    )
    with context.begin_transaction():
        context.run_migrations()


_migrate(config.attributes["connection"])
