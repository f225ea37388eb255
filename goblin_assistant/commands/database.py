"""goblin-assistant db: the tables."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click
from sqlalchemy import Engine, create_engine

from goblin_assistant import database
from goblin_assistant.config import Config


def open_engine(config: Config | None = None) -> Engine:
    """An engine for a command: the configured database, few connections."""
    config = config or Config.load()
    if config.sqlalchemy_url.startswith("sqlite"):
        config.instance_dir.mkdir(parents=True, exist_ok=True)
    return create_engine(
        config.sqlalchemy_url, **database.engine_options(config.sqlalchemy_url, 2, config.database_timeout)
    )


@contextlib.contextmanager
def open_database() -> Iterator[tuple[Config, Engine]]:
    """The configured database for a command, up to date: in development it is migrated, in production that is an operator's decision."""
    config = Config.load()
    engine = open_engine(config)
    try:
        if not database.is_current(engine):
            if config.production:
                raise click.ClickException("the database is not migrated; run: goblin-assistant db upgrade")
            database.upgrade(engine)
        yield config, engine
    finally:
        engine.dispose()


@click.group()
def db() -> None:
    """Migrate the database."""


@db.command()
@click.option("--revision", default="head", show_default=True, help="How far.")
def upgrade(revision: str) -> None:
    """Bring the tables up to date. Safe to run from several machines at once."""
    engine = open_engine()
    database.upgrade(engine, revision)
    click.echo(f"at revision {database.current_revision(engine)}")


@db.command()
@click.argument("revision")
@click.confirmation_option(prompt="Tables and data may be dropped. Go on?")
def downgrade(revision: str) -> None:
    """Take the tables back to REVISION (`base`: remove them all)."""
    engine = open_engine()
    database.downgrade(engine, revision)
    click.echo(f"at revision {database.current_revision(engine) or 'base'}")


@db.command()
def current() -> None:
    """Show the revision of the database and of this release; exit 1 when they differ."""
    at = database.current_revision(open_engine())
    click.echo(f"database {at or 'empty'}, release {database.head_revision()}")
    raise SystemExit(0 if at == database.head_revision() else 1)
