"""goblin-assistant explain: what happened to one request."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click
from sqlalchemy.exc import SQLAlchemyError

from goblin_assistant.commands.database import open_database
from goblin_assistant.logs.reading import open_lines
from goblin_assistant.usage.explain import log_lines_of, records_of, render, story_of


@click.command()
@click.argument("identity", metavar="ID")
@click.option(
    "--logs",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    help="A log file (- is standard input); may be given several times. "
    "Plain, from journalctl or from Docker; also compressed by gzip.",
)
def explain(identity: str, files: tuple[Path, ...]) -> None:
    """Show what happened to a request: who sent it, what it waited for, which providers were tried,
    what it used and cost, and how it ended. Its content is not shown.

    ID is its correlation id (header X-Correlation-ID), or the id of a trace of the last seven days:
    then all its chats are shown.

    The database has chats that got a slot. Earlier refusals (limits, credentials) are only in logs.
    """
    log: list[dict[str, Any]] = []
    for path in files:
        log += _lines_in(path, identity)
    # Files may be given in any order, and several instances write at once.
    log.sort(key=lambda line: str(line.get("timestamp", "")))
    try:
        with open_database() as (_, engine):
            records = records_of(engine, identity)
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
        raise click.ClickException(f"nothing is known of {identity}{hint}")
    click.echo(render(stories, log))


def _lines_in(path: Path, identity: str) -> list[dict[str, Any]]:
    standard_input = str(path) == "-"
    opened = nullcontext(sys.stdin.buffer) if standard_input else path.open("rb")
    with opened as file:
        return log_lines_of(_whole_lines(open_lines(file), path), identity)


def _whole_lines(lines: Iterable[bytes], path: Path) -> Iterator[bytes]:
    """The lines up to the place where a compressed file is damaged or not finished."""
    try:
        yield from lines
    except (EOFError, zlib.error, OSError) as error:
        click.echo(f"{path}: read only in part ({error})", err=True)
