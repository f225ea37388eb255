"""Whether this release may serve with the database's tables.

Every migration writes its revision into the one row of `schema_compatibility`, and the oldest
revision whose release may serve with the new tables. Revisions are four digits, in order. The
reasons are in docs/adr/0013-older-releases-on-newer-tables.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, Inspector, inspect, select, text

from goblin_assistant.database.models import schema_compatibility, users

MIGRATIONS = Path(__file__).parent.parent / "migrations"

_REMEDY = "restore a backup"


class IncompatibleSchema(Exception):
    """This release may not serve with the tables: they are newer, or damaged."""


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """The database's revision (None: empty), this release's, and the oldest that may serve with
    it."""

    current: str | None
    release: str
    serves_from: str | None = None
    damage: str | None = None
    """Why the tables do not tell their revision."""

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
        if self.damage is not None:
            return f"damaged: {self.damage}"
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
        revisions = _revisions(connection, tables)
        if len(revisions) > 1:
            return SchemaStatus(
                None,
                release,
                damage=f"alembic_version has {len(revisions)} rows, not one; {_REMEDY}",
            )
        if not revisions:
            damage = f"there are tables, but no revision in alembic_version; {_REMEDY}"
            return SchemaStatus(
                None, release, damage=damage if tables.has_table(users.name) else None
            )
        current = revisions[0]
        name = schema_compatibility.name
        if not tables.has_table(name):
            return SchemaStatus(current, release)
        columns = {column["name"] for column in tables.get_columns(name)}
        if not columns >= set(schema_compatibility.c.keys()):
            return SchemaStatus(current, release, damage=f"{name} lacks columns; {_REMEDY}")
        rows = connection.execute(
            select(schema_compatibility.c.revision, schema_compatibility.c.serves_from)
        ).all()
    if len(rows) > 1:
        damage = f"{name} has {len(rows)} rows, not one; {_REMEDY}"
        return SchemaStatus(current, release, damage=damage)
    # The row may be of an earlier revision, if a migration did not write its own.
    serves_from = next((row.serves_from for row in rows if row.revision == current), None)
    return SchemaStatus(current, release, serves_from)


def current_revision(engine: Engine) -> str | None:
    """The revision of the database; None when it is empty."""
    with engine.connect() as connection:
        return next(iter(_revisions(connection, inspect(connection))), None)


def _revisions(connection: Connection, tables: Inspector) -> list[str]:
    if not tables.has_table("alembic_version"):
        return []
    return list(connection.scalars(text("SELECT version_num FROM alembic_version")))
