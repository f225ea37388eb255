"""goblin-assistant db: the tables."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click
from sqlalchemy import Engine, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from goblin_assistant.config import Config
from goblin_assistant.config.folders import make_private
from goblin_assistant.database import upgrade as migrations
from goblin_assistant.database.compatibility import (
    IncompatibleSchema,
    current_revision,
    schema_status,
)
from goblin_assistant.database.engine import engine_options
from goblin_assistant.database.failures import does_not_answer, explain
from goblin_assistant.health.services import describe


def open_engine(config: Config | None = None) -> Engine:
    """An engine of the configured database with few connections, for a command."""
    config = config or Config.load()
    if config.sqlalchemy_url.startswith("sqlite"):
        make_private(config.instance_dir)
    return create_engine(
        config.sqlalchemy_url,
        **engine_options(
            config.sqlalchemy_url, 2, config.database_timeout, pooler=config.database_pooler
        ),
    )


@contextlib.contextmanager
def open_database() -> Iterator[tuple[Config, Engine]]:
    """The configured database with current tables, for a command.

    In development it is migrated. In production the operator migrates: ClickException.
    """
    config = Config.load()
    engine = open_engine(config)
    try:
        if not migrations.is_current(engine):
            found = schema_status(engine)
            if found.problem is not None and (
                config.production or found.is_newer or found.damage is not None
            ):
                raise click.ClickException(f"the database is {found.problem}")
            migrations.upgrade(engine)
        yield config, engine
    except (DBAPIError, PoolTimeout) as error:
        raise _failed(error) from None
    finally:
        engine.dispose()


def _failed(error: DBAPIError | PoolTimeout) -> click.ClickException:
    if not does_not_answer(error):
        return click.ClickException(f"the database cannot be used: {explain(error)}")
    return click.ClickException(
        f"the database does not answer ({describe(error)}); "
        "check that it is up and that DATABASE_URL is right"
    )


@click.group()
def db() -> None:
    """Migrate the database."""


@contextlib.contextmanager
def _migrating() -> Iterator[Engine]:
    """The configured database. Errors of Alembic or the database become ClickExceptions."""
    from alembic.util import CommandError

    engine = open_engine()
    try:
        yield engine
    except IncompatibleSchema as error:
        raise click.ClickException(str(error)) from None
    except CommandError as error:
        at = schema_status(engine)
        if at.is_newer:
            raise click.ClickException(
                f"the database is at revision {at.current}, "
                f"which this release ({at.release}) does not know; "
                "use the command of the release that made it"
            ) from None
        raise click.ClickException(f"{error}") from None
    except (DBAPIError, PoolTimeout) as error:
        raise _failed(error) from None
    finally:
        engine.dispose()


@db.command()
@click.option("--revision", default="head", show_default=True, help="How far.")
def upgrade(revision: str) -> None:
    """Bring the tables up to date. Safe to run from several machines at once.

    Newer tables that this release may serve with are left alone; exit 1 when it may not."""
    with _migrating() as engine:
        migrations.upgrade(engine, revision)
        found = schema_status(engine)
    if found.is_newer:
        click.echo(
            f"at revision {found.current}, newer than this release ({found.release}) "
            "and compatible with it"
        )
    else:
        click.echo(f"at revision {found.current}")


@db.command()
@click.argument("revision")
@click.confirmation_option(prompt="Tables and data may be dropped. Go on?")
def downgrade(revision: str) -> None:
    """Take the tables back to REVISION (`base`: remove them all)."""
    with _migrating() as engine:
        migrations.downgrade(engine, revision)
        click.echo(f"at revision {current_revision(engine) or 'base'}")


@db.command()
def current() -> None:
    """Show the revision of the database and of this release.

    Exits 1 when this release may not serve with the database."""
    with _migrating() as engine:
        found = schema_status(engine)
    click.echo(f"database {found.current or 'empty'}, release {found.release}")
    if found.problem is not None:
        raise click.ClickException(f"the database is {found.problem}")
