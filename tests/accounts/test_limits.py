"""Every limit of the table has its column, its fields in the API and its option."""

from __future__ import annotations

from dataclasses import replace

import click
import pytest

from goblin_assistant.accounts.api_keys import CHANGEABLE, KeySpec
from goblin_assistant.accounts.principals import Principal
from goblin_assistant.accounts.users import Accounts
from goblin_assistant.commands.keys import keys
from goblin_assistant.database.key_limits import KEY_LIMITS, Limit, UserLimits, limit_values
from goblin_assistant.database.models import api_keys
from goblin_assistant.schemas.keys import KeyChange, KeyIn, KeyOut, key_out
from tests.support.accounts_fixtures import PASSWORD, accounts, database_url, engine

__all__ = ["accounts", "database_url", "engine"]


@pytest.mark.parametrize("limit", KEY_LIMITS, ids=lambda limit: limit.name)
def test_a_limit_has_a_column_a_field_and_an_option(limit: Limit) -> None:
    assert api_keys.c[limit.name].nullable
    assert limit.name in CHANGEABLE
    for shape in (KeyIn, KeyChange, KeyOut):
        assert limit.api_name in shape.model_fields
    for name in ("create", "change"):
        options = {one.name: one for one in keys.commands[name].params}
        option = options[limit.name]
        assert isinstance(option, click.Option)
        assert option.opts == ["--" + limit.api_name.replace("_", "-")]


def test_every_limit_reaches_the_caller_and_survives_a_rotation(accounts: Accounts) -> None:
    user = accounts.create("ada@example.com", PASSWORD)
    given = {limit.name: number for number, limit in enumerate(KEY_LIMITS, 2)}
    made = accounts.keys.create(user.id, KeySpec("k", **given))
    assert limit_values(accounts.principals.of_key(made.secret)) == given
    rotated = accounts.keys.rotate(made.row.id)
    assert limit_values(accounts.principals.of_key(rotated.secret)) == given
    assert {limit.api_name for limit in KEY_LIMITS} <= set(key_out(rotated.row))


def test_a_principal_without_limits_has_none() -> None:
    assert set(limit_values(replace(Principal(1, "user"), key_id=2)).values()) == {None}


@pytest.mark.parametrize(
    ("of_key", "of_user", "smallest"),
    [(None, None, None), (5, None, 5), (None, 7, 7), (5, 7, 5), (9, 7, 7), (0, 7, 0)],
)
def test_the_tighter_of_the_keys_and_the_users_tokens_counts(
    of_key: int | None, of_user: int | None, smallest: int | None
) -> None:
    limits = UserLimits(tokens_per_minute=of_user)
    caller = Principal(1, "user", 2, tokens_per_minute=of_key, user_limits=limits)
    assert caller.smallest_tokens_per_minute == smallest


@pytest.mark.parametrize(
    ("role", "scopes", "admin"),
    [
        ("admin", {"admin", "chat"}, True),
        ("admin", {"chat"}, False),
        ("user", {"admin"}, False),
        ("user", {"chat"}, False),
        ("zoo", {"admin"}, False),
        ("aa", {"admin"}, False),
    ],
)
def test_admin_routes_need_the_role_and_the_scope(role: str, scopes: set[str], admin: bool) -> None:
    assert Principal(1, role, 2, scopes=frozenset(scopes)).is_admin is admin


def test_limits_are_shared_by_a_users_keys_and_by_a_key_and_its_successors() -> None:
    key = Principal(3, "user", 7, label="key:7")
    rotated = Principal(3, "user", 9, label="key:9", budget_key_id=7)
    assert (key.user_label, rotated.user_label) == ("user:3", "user:3")
    assert (key.shared_label, rotated.shared_label) == ("key:7", "key:7")
