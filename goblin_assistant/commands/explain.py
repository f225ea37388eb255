"""goblin-assistant explain: what happened to one request."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from sqlalchemy.exc import SQLAlchemyError

from goblin_assistant.commands.database import open_database
from goblin_assistant.usage.explain import log_lines_of, records_of, render, story_of


@click.command()
@click.argument("correlation_id")
@click.option(
    "--logs",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="A log file (- is standard input); may be given several times.",
)
def explain(correlation_id: str, files: tuple[Path, ...]) -> None:
    """Show what happened to the request with CORRELATION_ID (header X-Correlation-ID): who sent it,
    what it waited for, which providers were tried, what it used and cost, and how it ended. Its
    content is not shown.

    The database has chats that got a slot. Earlier refusals (limits, credentials) are only in logs.
    """
    log = []
    for path in files:
        if str(path) == "-":
            log += log_lines_of(sys.stdin.buffer, correlation_id)
        else:
            with path.open("rb") as lines:
                log += log_lines_of(lines, correlation_id)
    try:
        with open_database() as (_, engine):
            records = records_of(engine, correlation_id)
    except SQLAlchemyError as error:
        if not log:
            raise click.ClickException(
                f"the database does not answer ({type(error).__name__})"
            ) from None
        click.echo("the database does not answer; from the logs alone:", err=True)
        records = []
    # A record that the database does not have yet is complete in the log.
    known = {record["id"] for record in records}
    unsaved = [line["usage_record"] for line in log if isinstance(line.get("usage_record"), dict)]
    try:
        stories = [
            story_of(record)
            for record in [*records, *(r for r in unsaved if r.get("id") not in known)]
        ]
    except (KeyError, TypeError, ValueError):
        stories = [story_of(record) for record in records]
    if not stories and not log:
        hint = "" if files else "; with --logs FILE the log is searched too"
        raise click.ClickException(f"nothing is known of {correlation_id}{hint}")
    click.echo(render(stories, log))
