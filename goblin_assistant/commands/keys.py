"""goblin-assistant keys: API keys, without the server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from goblin_assistant.accounts.api_keys import DEFAULT_GRACE_SECONDS, KeySpec, NewKey
from goblin_assistant.accounts.principals import SCOPES
from goblin_assistant.commands.durations import Duration
from goblin_assistant.commands.limits import NONE, limit_options, with_options
from goblin_assistant.commands.users import PAGE, as_json, open_accounts, show
from goblin_assistant.database.key_limits import KEY_LIMITS
from goblin_assistant.database.models import now_ms
from goblin_assistant.schemas.keys import key_out

_COLUMNS = (
    *("id", "user_id", "name", "prefix", "scopes"),
    *(limit.api_name for limit in KEY_LIMITS if limit.listed),
    *("expires_at", "revoked_at", "last_used_at"),
)


def _options(removable: bool = False) -> Callable[[Any], Any]:
    options = (
        click.option(
            "--scope",
            "scopes",
            multiple=True,
            type=click.Choice(sorted(SCOPES)),
            help="Repeat for several.",
        ),
        click.option(
            "--model",
            "allowed_models",
            multiple=True,
            help="Only this model (openai/*, echo ...); repeat.",
        ),
        *limit_options(KEY_LIMITS, removable),
        click.option("--expires-in", type=Duration(), help="90d, 12h ..."),
    )
    return with_options(options)


@click.group()
def keys() -> None:
    """Create, list, rotate and revoke API keys."""


@keys.command()
@click.argument("email")
@click.option("--name", required=True, help="What it is for.")
@_options()
@as_json
def create(email: str, name: str, as_json: bool, expires_in: int | None, **limits: Any) -> None:
    """Create an API key for the user EMAIL and print it, this once."""
    given: dict[str, Any] = {
        k: list(v) if isinstance(v, tuple) else v for k, v in limits.items() if v
    }
    with open_accounts() as accounts:
        spec = KeySpec(name=name, expires_at=_expiry(expires_in), **given)
        _show_new(accounts.keys.create(accounts.by_email(email).id, spec), as_json)


@keys.command("list")
@click.option("--user", "email", help="Only the keys of this e-mail address.")
@as_json
def list_keys(email: str | None, as_json: bool) -> None:
    """List API keys, without their secrets; revoked and expired ones too."""
    rows: list[dict[str, Any]] = []
    with open_accounts() as accounts:
        user_id = None if email is None else accounts.by_email(email).id
        while page := accounts.keys.list(user_id, limit=PAGE, after=rows[-1]["id"] if rows else 0):
            rows += [key_out(key) for key in page]
    show(rows, _COLUMNS, as_json)


@keys.command()
@click.argument("key_id", type=int)
@click.option("--name")
@_options(removable=True)
def change(key_id: int, name: str | None, expires_in: int | None, **limits: Any) -> None:
    """Change the limits of the key KEY_ID; `none` takes a limit away.

    Counts from the key's next request on."""
    changes = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in limits.items()
        if value
    }
    changes = {key: None if value in (NONE, [NONE]) else value for key, value in changes.items()}
    if name is not None:
        changes["name"] = name
    if expires_in is not None:
        changes["expires_at"] = _expiry(expires_in)
    if not changes:
        raise click.UsageError("nothing to change; see --help")
    with open_accounts() as accounts:
        row = accounts.keys.change(key_id, changes)
    click.echo(f"changed key {row.id} ({row.prefix}...): {', '.join(sorted(changes))}")


@keys.command()
@click.argument("key_id", type=int)
@click.option(
    "--grace",
    type=Duration(),
    default=DEFAULT_GRACE_SECONDS,
    help="How long the old key stays good. [default: 1d]",
)
@as_json
def rotate(key_id: int, grace: int, as_json: bool) -> None:
    """Replace the key KEY_ID by a new one with the same limits, and print it, this once."""
    with open_accounts() as accounts:
        _show_new(accounts.keys.rotate(key_id, grace_seconds=grace), as_json)


@keys.command()
@click.argument("key_id", type=int)
def revoke(key_id: int) -> None:
    """End the key KEY_ID now: a running server refuses it from the next request on."""
    with open_accounts() as accounts:
        accounts.keys.revoke(key_id)
    click.echo(f"revoked key {key_id}")


def _expiry(seconds: int | None) -> int | None:
    return None if seconds is None else now_ms() + seconds * 1000


def _show_new(made: NewKey, json_wanted: bool) -> None:
    if json_wanted:
        click.echo(json.dumps({**key_out(made.row), "key": made.secret}))
        return
    click.echo(made.secret)
    click.echo(f"key {made.row.id} ({made.row.name}): keep it, it is not shown again", err=True)
