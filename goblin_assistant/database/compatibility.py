"""Whether this release may serve with the tables that it finds (docs/adr/0013-older-releases-on-newer-tables.md).

Every migration writes into the one row of `schema_compatibility` its own revision, and the oldest one whose release may
serve with its tables. Revisions are four digits, in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, inspect, select, text

from goblin_assistant.database.models import schema_compatibility

MIGRATIONS = Path(__file__).parent.parent / "migrations"


class IncompatibleSchema(Exception):
    """The tables are newer than this release, and it may not serve with them."""


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """The database's revision (None: empty), this release's, and the oldest that may serve with the tables."""

    current: str | None
    release: str
    serves_from: str | None = None

    @property
    def is_current(self) -> bool:
        """Whether the tables are this release's."""
        return self.current == self.release

    @property
    def is_newer(self) -> bool:
        """Whether the tables are of a later release, or of nobody whom this one knows."""
        return self.current is not None and self.current not in known_revisions()

    @property
    def problem(self) -> str | None:
        """Why this release may not serve, with what to do; None: it may."""
        if self.is_current:
            return None
        if not self.is_newer:
            return "not migrated to this version; run: goblin-assistant db upgrade"
        if self.serves_from is not None and self.serves_from <= self.release:
            return None
        return (
            f"at revision {self.current}, newer than this version ({self.release}) and not compatible with it; "
            "upgrade this instance"
        )


def known_revisions() -> list[str]:
    """The revisions of this release, in order: the files are numbered (a test asks Alembic)."""
    return sorted(
        path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py")
    )


def schema_status(engine: Engine) -> SchemaStatus:
    """Ask the database."""
    release = known_revisions()[-1]
    with engine.connect() as connection:
        tables = inspect(connection)
        if not tables.has_table("alembic_version"):
            return SchemaStatus(None, release)
        current = connection.scalar(text("SELECT version_num FROM alembic_version"))
        if not tables.has_table(schema_compatibility.name):
            return SchemaStatus(current, release)
        # A row of another revision is of a migration that did not write its own: it says nothing.
        row = connection.execute(
            select(schema_compatibility.c.serves_from).where(
                schema_compatibility.c.revision == current
            )
        ).one_or_none()
    return SchemaStatus(current, release, None if row is None else row.serves_from)
