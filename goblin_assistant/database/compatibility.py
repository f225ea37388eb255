"""Whether this release may serve with the database's tables.

Every migration writes its revision into the one row of `schema_compatibility`, and the oldest
revision whose release may serve with the new tables. Revisions are four digits, in order. The
reasons are in docs/adr/0013-older-releases-on-newer-tables.md.
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
    """The database's revision (None: empty), this release's, and the oldest that may serve with
    it."""

    current: str | None
    release: str
    serves_from: str | None = None

    @property
    def is_current(self) -> bool:
        """Whether the tables are those of this release."""
        return self.current == self.release

    @property
    def is_newer(self) -> bool:
        """Whether this release does not know the tables' revision, so that it must be a later
        one."""
        return self.current is not None and self.current not in known_revisions()

    @property
    def problem(self) -> str | None:
        """Why this release may not serve, and what to do; None: it may."""
        if self.is_current:
            return None
        if not self.is_newer:
            return "not migrated to this version; run: goblin-assistant db upgrade"
        if self.serves_from is not None and self.serves_from <= self.release:
            return None
        return (
            f"at revision {self.current}, newer than this version ({self.release}) "
            "and not compatible with it; upgrade this instance"
        )


def known_revisions() -> list[str]:
    """The revisions of this release, in order. The files are numbered; a test compares with
    Alembic."""
    return sorted(
        path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py")
    )


def schema_status(engine: Engine) -> SchemaStatus:
    """Read the status from the database."""
    release = known_revisions()[-1]
    with engine.connect() as connection:
        tables = inspect(connection)
        if not tables.has_table("alembic_version"):
            return SchemaStatus(None, release)
        current = connection.scalar(text("SELECT version_num FROM alembic_version"))
        if not tables.has_table(schema_compatibility.name):
            return SchemaStatus(current, release)
        # The row may be of an earlier revision, if a migration did not write its own.
        row = connection.execute(
            select(schema_compatibility.c.serves_from).where(
                schema_compatibility.c.revision == current
            )
        ).one_or_none()
    return SchemaStatus(current, release, None if row is None else row.serves_from)
