"""goblin-assistant keys: API keys, without the server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import click

from goblin_assistant.accounts.api_keys import DEFAULT_GRACE_SECONDS, KeySpec, NewKey
from goblin_assistant.accounts.principals import SCOPES
from goblin_assistant.commands.durations import Duration
from goblin_assistant.commands.users import PAGE, as_json, open_accounts, show
from goblin_assistant.database.limits import KEY_LIMITS, MAX_COUNT, Limit
from goblin_assistant.database.models import now_ms
from goblin_assistant.money import to_microusd
from goblin_assistant.schemas.accounts import USD_PATTERN, key_out

NONE = "none"
"""What takes a limit away in `keys change`."""

_COLUMNS = (
    *("id", "user_id", "name", "prefix", "scopes"),
    *(limit.api_name for limit in KEY_LIMITS if limit.listed),
    *("expires_at", "revoked_at", "last_used_at"),
)


class Usd(click.ParamType):
    """US dollars with at most six decimals; the value is in micro-dollars. `none` where a limit can be taken away."""

    name = "usd"

    def __init__(self, removable: bool = False) -> None:
        self._removable = removable

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """Whole micro-dollars, exactly."""
        if isinstance(value, int) or (self._removable and value == NONE):
            return value  # type: ignore[no-any-return]
        if not re.fullmatch(USD_PATTERN, value):
            self.fail(
                f"{value!r} is no amount; accepted: 25 or 12.50, at most six decimals", param, ctx
            )
        return to_microusd(value)


class Count(click.ParamType):
    """A whole number from 1, or `none`."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """The number."""
        if isinstance(value, int) or value == NONE:
            return value  # type: ignore[no-any-return]
        return click.IntRange(1, MAX_COUNT).convert(value, param, ctx)


def limit_options(limits: Sequence[Limit], count: Any, usd: Any) -> list[Callable[[Any], Any]]:
    """An option of the command line for each limit; `count` and `usd` are the types of values."""
    return [
        click.option(
            "--" + limit.api_name.replace("_", "-"),
            limit.name,
            type=usd if limit.is_money else count,
            help=limit.help[0].upper() + limit.help[1:] + ".",
        )
        for limit in limits
    ]


def _options(count: Any, usd: Any) -> Callable[[Any], Any]:
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
        *limit_options(KEY_LIMITS, count, usd),
        click.option("--expires-in", type=Duration(), help="90d, 12h ..."),
    )

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.group()
def keys() -> None:
    """Create, list, rotate and revoke API keys."""


@keys.command()
@click.argument("email")
@click.option("--name", required=True, help="What it is for.")
@_options(click.IntRange(1, MAX_COUNT), Usd())
@as_json
def create(email: str, name: str, as_json: bool, expires_in: int | None, **limits: Any) -> None:
    """Make an API key for the user EMAIL and print it, this once."""
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
@_options(Count(), Usd(removable=True))
def change(key_id: int, name: str | None, expires_in: int | None, **limits: Any) -> None:
    """Change the limits of the key KEY_ID; `none` takes a limit away. Counts from the key's next request on."""
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
