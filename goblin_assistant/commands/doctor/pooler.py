"""Checks for a connection pooler in front of PostgreSQL, and for statement timeouts."""

from __future__ import annotations

from collections.abc import Iterator

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from goblin_assistant.commands.doctor.context import Context
from goblin_assistant.commands.doctor.findings import Finding, failure, ok, warning

_TRIES = 2
"""Each asks `first` twice. psycopg prepares what a connection executes for the sixth time."""
_BACKEND = text("SELECT pg_backend_pid()")


def sessions(context: Context) -> Iterator[Finding]:
    """Each connection is a session of its own, unless GOBLIN_DATABASE_POOLER says otherwise, and
    the server ends slow statements. Nothing is said of SQLite, or of a server that does not answer:
    the line about the database does."""
    if not context.config.sqlalchemy_url.startswith("postgresql"):
        return
    try:
        with context.database() as engine:
            yield _sessions(context, engine)
    except (SQLAlchemyError, OSError):
        return


def _sessions(context: Context, engine: Engine) -> Finding:
    expected = context.config.database_pooler == "transaction"
    shared = _are_shared(engine)
    if shared and not expected:
        return failure(
            "pooler",
            "one in transaction mode, which loses prepared statements and with them usage records",
            "Set GOBLIN_DATABASE_POOLER=transaction on all instances.",
        )
    seconds = context.config.database_timeout
    with engine.connect() as connection:
        user, *limits = connection.execute(
            text(
                "SELECT current_user, "
                "(SELECT setting::int FROM pg_settings WHERE name = 'statement_timeout'), "
                "(SELECT setting::int FROM pg_settings WHERE name = 'lock_timeout')"
            )
        ).one()
    if not all(0 < limit <= seconds * 1000 for limit in limits):
        name = user.replace('"', '""')
        return warning(
            "pooler",
            f"PostgreSQL does not end statements after GOBLIN_DATABASE_TIMEOUT ({seconds:g} s)",
            "; ".join(
                f"ALTER ROLE \"{name}\" SET {which} = '{seconds:g}s'"
                for which in ("statement_timeout", "lock_timeout")
            )
            + "; then let the pooler connect anew (RECONNECT).",
        )
    where = "in transaction mode, as configured" if shared else "none in transaction mode"
    return ok("pooler", f"{where}; PostgreSQL ends a statement after {limits[0] / 1000:g} s")


def _are_shared(engine: Engine) -> bool:
    # A pooler in transaction mode lends a connection that is between two transactions to others.
    # So the second one gets the first one's, or keeps it from getting the same again.
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    with autocommit.connect() as first:
        for _ in range(_TRIES):
            before = first.execute(_BACKEND).scalar()
            with engine.connect() as second:
                if second.execute(_BACKEND).scalar() == before:
                    return True
                if first.execute(_BACKEND).scalar() != before:
                    return True
    return False
