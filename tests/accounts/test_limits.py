"""Every limit of the table has its column, its fields in the API and its option."""

from __future__ import annotations

from dataclasses import replace

import click
import pytest

from goblin_assistant.accounts.api_keys import CHANGEABLE, KeySpec
from goblin_assistant.accounts.principals import Principal
from goblin_assistant.accounts.users import Accounts
from goblin_assistant.commands.keys import keys
from goblin_assistant.database.limits import KEY_LIMITS, Limit, limit_values
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
