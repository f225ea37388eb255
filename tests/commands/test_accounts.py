"""goblin-assistant users and keys: accounts without a server, and their effect on a running one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from goblin_assistant.accounts.users import Accounts
from goblin_assistant.commands.durations import Duration
from goblin_assistant.commands.keys import keys
from goblin_assistant.commands.users import users
from goblin_assistant.database.key_limits import UserLimits
from goblin_assistant.errors import AppError, Unauthorized
from tests.support.accounts_fixtures import PASSWORD, engine_for, settings

ADA = "ada@example.com"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty instance in development mode, configured by the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("DATABASE_URL", "REDIS_URL", "SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOBLIN_ENV", "development")
    monkeypatch.setenv("GOBLIN_INSTANCE_DIR", str(tmp_path / "instance"))
    return tmp_path


def run(group: click.Command, *args: str, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(group, args, input=stdin)
    if result.exception is not None and not isinstance(result.exception, (SystemExit, AppError)):
        raise result.exception
    return result


def good(group: click.Command, *args: str, stdin: str | None = None) -> Any:
    """The standard output, parsed where --json was asked for."""
    result = run(group, *args, stdin=stdin)
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout) if "--json" in args else result.stdout


@pytest.fixture
def ada(folder: Path) -> dict[str, Any]:
    """A user, made by command."""
    made: dict[str, Any] = good(
        users, "create", ADA, "--password-stdin", "--json", stdin=PASSWORD + "\n"
    )
    return made


@pytest.fixture
def accounts(folder: Path) -> Any:
    """What a server sees of the same database."""
    engine = engine_for(f"sqlite:///{folder / 'instance' / 'goblin.db'}")
    made = Accounts(engine, settings(""))
    yield made
    made.close()
    engine.dispose()


def test_the_first_admin_is_made_in_an_empty_folder(folder: Path, accounts: Accounts) -> None:
    out = good(users, "create", "root@example.com", "--admin", "--password-stdin", stdin=PASSWORD)
    assert out == "created admin root@example.com (id 1)\n"
    assert accounts.sessions.login("root@example.com", PASSWORD)
    assert accounts.by_email("root@example.com").role == "admin"
    good(
        users,
        "create",
        "--email",
        "second@example.com",
        "--role",
        "admin",
        "--password-stdin",
        stdin=PASSWORD,
    )
    assert accounts.by_email("second@example.com").role == "admin"
    assert run(users, "create", "--password-stdin", stdin=PASSWORD).exit_code == 2
    assert (
        run(users, "create", "a@example.com", "--email", "b@example.com", stdin=PASSWORD).exit_code
        == 2
    )


def test_the_password_is_asked_for_twice_and_never_shown(folder: Path) -> None:
    out = good(users, "create", ADA, stdin=f"{PASSWORD}\n{PASSWORD}\n")
    assert PASSWORD not in out
    assert (
        run(users, "create", "eve@example.com", stdin="one password\nanother one\n").exit_code != 0
    )


def test_without_a_terminal_the_way_to_give_the_password_is_named(folder: Path) -> None:
    result = run(users, "create", ADA, stdin="")
    assert result.exit_code == 2
    assert "give --password-stdin" in result.output


def test_users_are_listed_for_people_and_for_programs(ada: dict[str, Any]) -> None:
    listed = good(users, "list", "--json")
    assert [user["email"] for user in listed] == [ADA]
    assert (
        set(listed[0])
        == set(ada)
        == {
            *("id", "email", "role", "created_at", "disabled_at"),
            *("requests_per_minute", "tokens_per_minute"),
        }
    )
    table = good(users, "list")
    assert table.splitlines()[0].split() == [
        *("ID", "EMAIL", "ROLE", "REQUESTS_PER_MINUTE", "CREATED_AT", "DISABLED_AT")
    ]
    assert ADA in table


def test_disabling_enabling_role_and_password_reach_the_server_at_once(
    ada: dict[str, Any], accounts: Accounts
) -> None:
    claims = accounts.tokens.check(accounts.sessions.login(ADA, PASSWORD).access_token)
    good(users, "role", ADA, "admin")
    assert accounts.principals.of_token(claims).is_admin
    good(users, "disable", "ADA@example.com")
    with pytest.raises(Unauthorized):
        accounts.principals.of_token(claims)
    good(users, "enable", ADA)
    good(users, "reset-password", ADA, "--password-stdin", stdin="a new long password\r\n")
    with pytest.raises(Unauthorized):
        accounts.sessions.login(ADA, PASSWORD)
    assert accounts.sessions.login(ADA, "a new long password")


def test_a_reset_password_says_which_keys_go_on(ada: dict[str, Any], accounts: Accounts) -> None:
    key = good(keys, "create", ADA, "--name", "k").strip()
    reset = ("reset-password", ADA, "--password-stdin")
    said = good(users, *reset, stdin="a new long password\n")
    assert "its API keys that go on working: 1; --revoke-keys ends them" in said
    assert accounts.principals.of_key(key)
    assert "keys" not in good(users, *reset, "--revoke-keys", stdin="another long password\n")
    with pytest.raises(Unauthorized):
        accounts.principals.of_key(key)


def test_limits_of_a_user_reach_the_server_at_once(ada: dict[str, Any], accounts: Accounts) -> None:
    claims = accounts.tokens.check(accounts.sessions.login(ADA, PASSWORD).access_token)
    key = good(keys, "create", ADA, "--name", "team").strip()
    said = good(users, "limits", ADA, "--requests-per-minute", "500", "--tokens-per-minute", "9")
    assert said == f"limits of {ADA}: requests_per_minute 500, tokens_per_minute 9\n"
    for principal in (accounts.principals.of_token(claims), accounts.principals.of_key(key)):
        assert principal.user_limits == UserLimits(requests_per_minute=500, tokens_per_minute=9)
        assert principal.requests_per_minute is None
    said = good(users, "limits", ADA, "--tokens-per-minute", "none")
    assert said == f"limits of {ADA}: requests_per_minute 500\n"
    assert "none" in good(users, "limits", ADA, "--requests-per-minute", "none")
    assert run(users, "limits", ADA).exit_code == 2
    assert run(users, "limits", ADA, "--requests-per-minute", "0").exit_code == 2


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["create", ADA, "--password-stdin"], "already|there is an account"),
        (["create", "not an address", "--password-stdin"], "e-mail"),
        (["disable", "nobody@example.com"], "no user"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    ada: dict[str, Any], args: list[str], said: str
) -> None:
    result = run(users, *args, stdin=PASSWORD)
    assert result.exit_code != 0
    assert isinstance(result.exception, AppError)
    with pytest.raises(AppError, match=said):
        raise result.exception


def test_an_unmigrated_production_database_is_named_and_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOBLIN_ENV", "production")
    monkeypatch.setenv("SECRET_KEY", "s" * 40)
    result = run(users, "list")
    assert result.exit_code == 1
    assert "goblin-assistant db upgrade" in result.output


# -- keys -----------------------------------------------------------------------------------------
def test_a_key_made_by_command_works_and_is_all_that_standard_output_holds(
    ada: dict[str, Any], accounts: Accounts
) -> None:
    out = good(
        keys,
        "create",
        ADA,
        "--name",
        "team",
        "--scope",
        "chat",
        "--model",
        "echo",
        "--model",
        "openai/*",
        "--requests-per-minute",
        "500",
        "--monthly-budget-usd",
        "12.50",
        "--expires-in",
        "90d",
    )
    principal = accounts.principals.of_key(out.strip())
    assert principal.scopes == {"chat"}
    assert principal.allowed_models == {"echo", "openai/*"}
    assert principal.requests_per_minute == 500
    assert principal.monthly_budget_microusd == 12_500_000


def test_keys_are_listed_changed_rotated_and_revoked(
    ada: dict[str, Any], accounts: Accounts
) -> None:
    made = good(keys, "create", ADA, "--name", "team", "--json")
    number = str(made["id"])
    assert made["key"] not in json.dumps(good(keys, "list", "--user", ADA, "--json"))
    good(
        keys, "change", number, "--monthly-budget-usd", "3", "--model", "echo", "--name", "renamed"
    )
    assert accounts.principals.of_key(made["key"]).monthly_budget_microusd == 3_000_000
    good(keys, "change", number, "--monthly-budget-usd", "none", "--model", "none")
    principal = accounts.principals.of_key(made["key"])
    assert (principal.monthly_budget_microusd, principal.allowed_models) == (None, None)
    assert run(keys, "change", number).exit_code == 2

    new = good(keys, "rotate", number, "--grace", "0s", "--json")
    with pytest.raises(Unauthorized):
        accounts.principals.of_key(made["key"])
    assert accounts.principals.of_key(new["key"])
    good(keys, "revoke", str(new["id"]))
    with pytest.raises(Unauthorized):
        accounts.principals.of_key(new["key"])
    listed = good(keys, "list")
    assert "renamed" in listed
    assert len(listed.splitlines()) == 3


@pytest.mark.parametrize(
    "option",
    [
        ("--monthly-budget-usd", "1.0000001"),
        ("--monthly-budget-usd", "-1"),
        ("--monthly-budget-usd", "none"),
        ("--requests-per-minute", "0"),
        ("--scope", "root"),
        ("--expires-in", "90"),
        ("--expires-in", "tomorrow"),
    ],
)
def test_a_limit_that_makes_no_sense_is_a_usage_error(
    ada: dict[str, Any], option: tuple[str, str]
) -> None:
    assert run(keys, "create", ADA, "--name", "team", *option).exit_code == 2


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45s", 45), ("30m", 1800), ("12h", 43_200), ("90d", 7_776_000), ("2w", 1_209_600)],
)
def test_durations(text: str, seconds: int) -> None:
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "90", "d", "-1d", "1.5h", "1 d", "99999999w"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Duration().convert(text, None, None)
