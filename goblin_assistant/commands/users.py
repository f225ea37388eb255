"""goblin-assistant users: accounts without the server, and the way to the first admin."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click

from goblin_assistant.accounts.users import ROLES, Accounts
from goblin_assistant.commands.database import open_database
from goblin_assistant.commands.limits import NONE, limit_options, with_options
from goblin_assistant.database.key_limits import USER_LIMITS
from goblin_assistant.schemas.accounts import user_out
from goblin_assistant.schemas.limits import limits_out

PAGE = 500

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
password_option = click.option(
    "--password-stdin",
    is_flag=True,
    help="Read the password from standard input instead of asking.",
)


@contextlib.contextmanager
def open_accounts() -> Iterator[Accounts]:
    """The accounts of the configured database. A server may be running on it."""
    with open_database() as (config, engine):
        accounts = Accounts(engine, config)
        try:
            yield accounts
        finally:
            accounts.close()


def read_password(from_stdin: bool) -> str:
    """The password from a hidden prompt, or from standard input without its line end."""
    if from_stdin:
        return sys.stdin.read().rstrip("\r\n")
    try:
        password: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    except click.Abort:
        if sys.stdin.isatty():  # Ctrl-C or Ctrl-D
            raise
        raise click.UsageError(
            "there is no terminal to ask for the password; "
            "give --password-stdin and write it to standard input"
        ) from None
    return password


def show(rows: Sequence[dict[str, Any]], columns: Sequence[str], json_wanted: bool) -> None:
    """Print some columns of rows as a table, or everything as JSON."""
    if json_wanted:
        click.echo(json.dumps(list(rows), indent=2))
        return
    table = [[column.upper() for column in columns]]
    table += [
        ["-" if row[column] is None else _cell(row[column]) for column in columns] for row in rows
    ]
    widths = [max(len(line[number]) for line in table) for number in range(len(columns))]
    for line in table:
        click.echo(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )


def _cell(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


@click.group()
def users() -> None:
    """Create, list and disable accounts."""


@users.command()
@click.argument("email", required=False)
@click.option("--email", "named", help="The same as EMAIL.")
@click.option("--role", type=click.Choice(ROLES), default="user", show_default=True)
@click.option("--admin", is_flag=True, help="The same as --role admin.")
@password_option
@as_json
def create(
    email: str | None,
    named: str | None,
    role: str,
    admin: bool,
    password_stdin: bool,
    as_json: bool,
) -> None:
    """Create an account for EMAIL, also when registration is closed."""
    address = email or named
    if address is None or (email and named):
        raise click.UsageError("give one e-mail address")
    with open_accounts() as accounts:
        user = accounts.create(address, read_password(password_stdin), "admin" if admin else role)
        if as_json:
            click.echo(json.dumps(user_out(user)))
        else:
            click.echo(f"created {user.role} {user.email} (id {user.id})")


@users.command("list")
@as_json
def list_users(as_json: bool) -> None:
    """List all accounts."""
    rows: list[dict[str, Any]] = []
    with open_accounts() as accounts:
        while page := accounts.list(limit=PAGE, after=rows[-1]["id"] if rows else 0):
            rows += [user_out(user) for user in page]
    listed = [limit.api_name for limit in USER_LIMITS if limit.listed]
    show(rows, ("id", "email", "role", *listed, "created_at", "disabled_at"), as_json)


@users.command()
@click.argument("email")
def disable(email: str) -> None:
    """Disable EMAIL: tokens and API keys are refused from the next request on."""
    with open_accounts() as accounts:
        accounts.disable(accounts.by_email(email).id)
    click.echo(f"disabled {email}")


@users.command()
@click.argument("email")
def enable(email: str) -> None:
    """Enable EMAIL again: its API keys work again, and it has to log in."""
    with open_accounts() as accounts:
        accounts.enable(accounts.by_email(email).id)
    click.echo(f"enabled {email}")


@users.command("reset-password")
@click.argument("email")
@password_option
@click.option("--revoke-keys", is_flag=True, help="Revoke all of its API keys too.")
def reset_password(email: str, password_stdin: bool, revoke_keys: bool) -> None:
    """Set the password of EMAIL and end all of its sessions. API keys go on working."""
    with open_accounts() as accounts:
        user_id = accounts.by_email(email).id
        accounts.reset_password(user_id, read_password(password_stdin))
        if revoke_keys:
            accounts.keys.revoke_all(user_id)
        live = accounts.keys.count_live(user_id)
    click.echo(f"password of {email} set; its sessions have ended")
    if live:
        click.echo(f"its API keys that go on working: {live}; --revoke-keys ends them")


@users.command()
@click.argument("email")
@click.argument("role", type=click.Choice(ROLES))
def role(email: str, role: str) -> None:
    """Make EMAIL a user or an admin."""
    with open_accounts() as accounts:
        accounts.set_role(accounts.by_email(email).id, role)
    click.echo(f"{email} is now {role}")


@users.command("limits")
@click.argument("email")
@with_options(limit_options(USER_LIMITS, removable=True))
def set_limits(email: str, **limits: Any) -> None:
    """Widen or narrow EMAIL, all of its API keys together; `none` takes a limit away.

    Counts from the user's next request on."""
    changes = {
        name: None if value == NONE else value
        for name, value in limits.items()
        if value is not None
    }
    if not changes:
        raise click.UsageError("nothing to change; see --help")
    with open_accounts() as accounts:
        user = accounts.set_limits(accounts.by_email(email).id, changes)
    now = [
        f"{name} {value}"
        for name, value in limits_out(user, USER_LIMITS).items()
        if value is not None
    ]
    click.echo(f"limits of {email}: {', '.join(now) or 'none of its own'}")
