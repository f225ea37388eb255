"""goblin-assistant usage: reports, import of what was not saved, retention."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click

from goblin_assistant.commands.database import open_database
from goblin_assistant.commands.durations import Duration
from goblin_assistant.commands.users import show
from goblin_assistant.money import from_microusd
from goblin_assistant.usage import csv_reports, reports
from goblin_assistant.usage.prices import Prices
from goblin_assistant.usage.recovery import ImportResult
from goblin_assistant.usage.store import UsageStore
from goblin_assistant.usage.transactions import DatabaseUnavailable

_DAY = 86_400


@contextlib.contextmanager
def open_store() -> Iterator[UsageStore]:
    """The usage store of the configured database. A server may be running on it."""
    with open_database() as (config, engine):
        store = UsageStore(engine, Prices(config.file.prices), config.instance_dir)
        try:
            yield store
        except DatabaseUnavailable as error:
            raise click.ClickException(
                f"the database does not answer ({error}); try again when it does"
            ) from None
        finally:
            store.close()


@click.group()
def usage() -> None:
    """Report, import and prune usage records."""


@usage.command()
@click.option(
    "--from",
    "start",
    metavar="DAY",
    help="First day (UTC), or a time with its zone. [default: 30 days]",
)
@click.option(
    "--to", "end", metavar="DAY", help="Last day, included; or a time, excluded. [default: today]"
)
@click.option(
    "--group-by",
    default="day",
    show_default=True,
    help="day, model, key, user, tag:NAME; separated by commas.",
)
@click.option("--user", "user_id", type=click.IntRange(min=1), help="Only the user of this id.")
@click.option("--key", "key_id", type=click.IntRange(min=1), help="Only the API key of this id.")
@click.option(
    "--format",
    "form",
    type=click.Choice(("table", "json", "csv")),
    default="table",
    show_default=True,
)
def report(
    start: str | None,
    end: str | None,
    group_by: str,
    user_id: int | None,
    key_id: int | None,
    form: str,
) -> None:
    """Add up what was used and what it cost."""
    groups = reports.parse_groups(group_by)
    first, last = reports.parse_range(start, end)
    scope = reports.Scope(user_id, key_id)
    with open_database() as (_, engine):
        page = reports.report(engine, scope, first, last, groups, reports.MAX_PAGE)
        cursor = page.next_cursor
        while cursor is not None:
            further = reports.report(engine, scope, first, last, groups, reports.MAX_PAGE, cursor)
            page.rows += further.rows
            cursor = further.next_cursor
    if form == "csv":
        click.echo(csv_reports.as_csv(page), nl=False)
    elif form == "json":
        click.echo(
            json.dumps(
                {"group_by": list(groups), "rows": page.rows, "totals": page.totals}, indent=2
            )
        )
    else:
        _table(page)


def _table(page: reports.Report) -> None:
    groups = [name for name in reports.columns_of(page.group_by) if name not in page.totals]
    sums = [
        "requests",
        "failed_requests",
        "prompt_tokens",
        "completion_tokens",
        "cost_usd",
        "unpriced_requests",
    ]
    total: dict[str, Any] = {**dict.fromkeys(groups), **page.totals}
    total[groups[0]] = "total"
    show([*page.rows, total], [*groups, *sums], False)
    if page.totals["unpriced_requests"]:
        click.echo(
            f"{page.totals['unpriced_requests']} requests have no known price "
            "and are not in the cost; set it in goblin.toml under [prices]",
            err=True,
        )


@usage.command("import")
@click.argument(
    "files", nargs=-1, type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path)
)
def import_(files: tuple[Path, ...]) -> None:
    """Write records that the database missed: from log FILES (- is standard input), and always from
    the journals that killed processes left in the instance folder.

    Lines are JSON in any log format; those without a usage_record are skipped. A file may be
    imported twice: stored records stay as they are. Exits 1 when a record cannot be read.
    """
    total = ImportResult()
    with open_store() as store:
        total.add(store.import_orphaned_journals())
        for path in files:
            with _open(path) as lines:
                total.add(store.import_records(lines))
    click.echo(
        f"{total.imported} imported, {total.present} already there, {total.unreadable} unreadable"
    )
    if total.unreadable:
        sys.exit(1)


def _open(path: Path) -> contextlib.AbstractContextManager[BinaryIO]:
    return contextlib.nullcontext(sys.stdin.buffer) if str(path) == "-" else path.open("rb")


@usage.command()
@click.option("--older-than", type=Duration(), required=True, help="For example 90d; at least 1d.")
def prune(older_than: int) -> None:
    """Delete old records. Budgets keep their sums. A server does this by itself
    (GOBLIN_USAGE_RETENTION_DAYS)."""
    if older_than % _DAY or not older_than:
        raise click.BadParameter("accepted: whole days, for example 90d", param_hint="--older-than")
    with open_store() as store:
        deleted = store.prune(older_than // _DAY)
    click.echo(f"deleted {deleted} records older than {older_than // _DAY} days")


@usage.command()
@click.argument("key_id", type=click.IntRange(min=1))
def budget(key_id: int) -> None:
    """Show what the API key KEY_ID has spent and reserved this month."""
    from goblin_assistant.database.models import now_ms

    with open_store() as store:
        state = store.budgets.state(key_id, now_ms())
    click.echo(
        f"{state.period}: ${from_microusd(state.spent_microusd)} spent, "
        f"${from_microusd(state.reserved_microusd)} reserved for running requests"
    )
