"""API keys and the principals they become, on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, delete, select, update

from goblin_assistant.accounts import lookup, principals
from goblin_assistant.accounts.api_keys import MAX_KEYS_PER_USER, ApiKeys, KeySpec, NewKey
from goblin_assistant.accounts.tokens import Claims
from goblin_assistant.accounts.users import Accounts
from goblin_assistant.database.models import api_keys, now_ms, users
from goblin_assistant.errors import (
    BudgetExceeded,
    Conflict,
    Forbidden,
    NotFound,
    Unauthorized,
    Unavailable,
    ValidationFailed,
)
from goblin_assistant.usage.budgets import Budgets
from goblin_assistant.usage.records import new_record_id
from goblin_assistant.usage.transactions import UsageDatabase
from tests.support.accounts_fixtures import PASSWORD, accounts, database_url, engine, engine_for
from tests.support.services import PostgresServer

__all__ = ["accounts", "database_url", "engine"]


@pytest.fixture
def user_id(accounts: Accounts) -> int:
    """A user to own keys."""
    return accounts.create("ada@example.com", PASSWORD).id


def make(accounts: Accounts, user_id: int, **limits: Any) -> NewKey:
    return accounts.keys.create(user_id, KeySpec(name="test", **limits))


def refusal(accounts: Accounts, key: str) -> str | None:
    with pytest.raises(Unauthorized) as caught:
        accounts.principals.of_key(key)
    return caught.value.reason


def set_columns(engine: Engine, key_id: int, **values: Any) -> None:
    with engine.begin() as connection:
        connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(**values))


def test_a_key_becomes_a_principal_with_all_its_limits(accounts: Accounts, user_id: int) -> None:
    made = make(
        accounts,
        user_id,
        scopes=["embeddings"],
        allowed_models=["openai/*", "echo"],
        requests_per_minute=3,
        tokens_per_minute=400,
        max_concurrency=5,
        monthly_budget_microusd=1_234_567,
        expires_at=now_ms() + 60_000,
    )
    principal = accounts.principals.of_key(made.secret)
    assert (principal.user_id, principal.key_id, principal.label) == (
        user_id,
        made.row.id,
        f"key:{made.row.id}",
    )
    assert principal.scopes == {"embeddings"}
    assert principal.allowed_models == {"openai/*", "echo"}
    assert (
        principal.requests_per_minute,
        principal.tokens_per_minute,
        principal.max_concurrency,
    ) == (3, 400, 5)
    assert principal.monthly_budget_microusd == 1_234_567


def test_a_key_carries_its_users_chat_defaults(accounts: Accounts, user_id: int) -> None:
    made = make(accounts, user_id)
    accounts.save_settings(user_id, {"model": "echo", "system_prompt": "Antworte auf Deutsch: äöü"})
    assert accounts.principals.of_key(made.secret).settings == {
        "model": "echo",
        "system_prompt": "Antworte auf Deutsch: äöü",
    }


def test_the_secret_is_never_stored_and_the_prefix_tells_keys_apart(
    accounts: Accounts, engine: Engine, user_id: int
) -> None:
    made = make(accounts, user_id)
    assert made.secret.startswith("gob_")
    assert len(made.secret) == 47
    assert made.secret.startswith(made.row.prefix)
    assert len(made.row.prefix) == 12
    with engine.connect() as connection:
        stored = str([tuple(row) for row in connection.execute(select(api_keys))])
    assert made.secret not in stored
    assert made.secret[12:] not in stored


def test_a_revoked_key_is_refused_on_the_next_request_on_every_instance(
    accounts: Accounts, engine: Engine, database_url: str, user_id: int
) -> None:
    other = engine_for(database_url)
    elsewhere = principals.PrincipalStore(other)
    made = make(accounts, user_id)
    assert elsewhere.of_key(made.secret)
    accounts.keys.revoke(made.row.id)
    with pytest.raises(Unauthorized) as caught:
        elsewhere.of_key(made.secret)
    assert caught.value.reason == "revoked_key"
    assert refusal(accounts, made.secret) == "revoked_key"
    accounts.keys.revoke(made.row.id)
    elsewhere.close()
    other.dispose()


def test_expired_unknown_and_orphaned_keys_are_refused_by_reason(
    accounts: Accounts, engine: Engine, user_id: int
) -> None:
    made = make(accounts, user_id, expires_at=now_ms() + 60_000)
    assert accounts.principals.of_key(made.secret)
    set_columns(engine, made.row.id, expires_at=now_ms() - 1)
    assert refusal(accounts, made.secret) == "expired_key"
    assert refusal(accounts, "gob_" + "x" * 43) == "bad_key"
    assert refusal(accounts, made.secret[:-1]) == "bad_key"
    for number in range(16):
        assert refusal(accounts, f"gob_{number:043}") == "bad_key"
    good = make(accounts, user_id)
    accounts.disable(user_id)
    assert refusal(accounts, good.secret) == "disabled"
    accounts.enable(user_id)
    assert accounts.principals.of_key(good.secret)


def test_changed_limits_count_from_the_next_request_on(accounts: Accounts, user_id: int) -> None:
    made = make(accounts, user_id, monthly_budget_microusd=5)
    accounts.keys.change(
        made.row.id,
        {"monthly_budget_microusd": None, "allowed_models": ["echo"], "scopes": ["chat"]},
    )
    principal = accounts.principals.of_key(made.secret)
    assert principal.monthly_budget_microusd is None
    assert principal.allowed_models == {"echo"}
    assert principal.scopes == {"chat"}


def test_the_admin_scope_needs_an_admin_and_ends_with_the_role(
    accounts: Accounts, user_id: int
) -> None:
    with pytest.raises(Forbidden):
        make(accounts, user_id, scopes=["chat", "admin"])
    plain = make(accounts, user_id)
    with pytest.raises(Forbidden):
        accounts.keys.change(plain.row.id, {"scopes": ["admin"]})
    accounts.set_role(user_id, "admin")
    made = make(accounts, user_id, scopes=["admin"])
    assert accounts.principals.of_key(made.secret).is_admin
    assert not accounts.principals.of_key(plain.secret).is_admin, (
        "an admin's key without the scope is no admin"
    )
    accounts.set_role(user_id, "user")
    assert not accounts.principals.of_key(made.secret).is_admin


@pytest.mark.parametrize("scopes", [[], ["root"], ["chat", "root"]])
def test_scopes_are_those_that_exist(accounts: Accounts, user_id: int, scopes: list[str]) -> None:
    with pytest.raises(ValidationFailed):
        make(accounts, user_id, scopes=scopes)


def test_a_key_cannot_be_made_for_nobody_nor_for_the_past(accounts: Accounts, user_id: int) -> None:
    for nobody in (99, 2**80):
        with pytest.raises(NotFound):
            make(accounts, nobody)
        with pytest.raises(NotFound):
            accounts.keys.get(nobody)
    with pytest.raises(ValidationFailed, match="future"):
        make(accounts, user_id, expires_at=now_ms() - 1)


def test_others_keys_do_not_exist_for_a_user(accounts: Accounts, user_id: int) -> None:
    made = make(accounts, user_id)
    eve = accounts.create("eve@example.com", PASSWORD).id
    for attempt in (
        lambda: accounts.keys.get(made.row.id, eve),
        lambda: accounts.keys.rotate(made.row.id, eve),
        lambda: accounts.keys.revoke(made.row.id, eve),
    ):
        with pytest.raises(NotFound):
            attempt()
    assert accounts.keys.list(eve) == []
    assert accounts.principals.of_key(made.secret)


def test_a_user_has_at_most_a_hundred_good_keys(
    accounts: Accounts, engine: Engine, user_id: int
) -> None:
    for _ in range(MAX_KEYS_PER_USER):
        last = make(accounts, user_id)
    with pytest.raises(Conflict):
        make(accounts, user_id)
    set_columns(engine, last.row.id, expires_at=now_ms() - 1)
    again = make(accounts, user_id)
    accounts.keys.revoke(again.row.id)
    make(accounts, user_id)


def test_keys_made_at_once_do_not_pass_the_limit_and_rotated_ones_count(
    accounts: Accounts, engine: Engine, user_id: int
) -> None:
    keys = ApiKeys(engine, accounts.principals, most=5)
    start = threading.Barrier(8)

    def attempt(_: int) -> NewKey | None:
        start.wait()
        try:
            return keys.create(user_id, KeySpec("k"))
        except Conflict:
            return None

    with ThreadPoolExecutor(8) as pool:
        made = [key for key in pool.map(attempt, range(8)) if key is not None]
    assert len(made) == 5
    with pytest.raises(Conflict, match="a user may have 5; revoke one first"):
        keys.rotate(made[0].row.id)
    successor = keys.rotate(made[0].row.id, grace_seconds=0)
    assert accounts.principals.of_key(successor.secret).shared_label == f"key:{made[0].row.id}"
    with pytest.raises(Conflict):
        keys.create(user_id, KeySpec("k"))


# -- rotation -------------------------------------------------------------------------------------
def test_old_and_new_key_are_good_for_the_grace_time_with_the_same_limits(
    accounts: Accounts, engine: Engine, user_id: int
) -> None:
    old = make(accounts, user_id, requests_per_minute=3, allowed_models=["echo"], scopes=["chat"])
    new = accounts.keys.rotate(old.row.id, grace_seconds=60)
    before, after = (accounts.principals.of_key(key.secret) for key in (old, new))
    assert after.key_id != before.key_id
    assert (after.requests_per_minute, after.allowed_models, after.scopes) == (
        3,
        {"echo"},
        {"chat"},
    )
    row = accounts.keys.get(old.row.id)
    assert row.replaced_by_id == new.row.id
    assert row.expires_at is not None
    assert abs(row.expires_at - now_ms() - 60_000) < 30_000
    assert new.row.expires_at is None
    set_columns(engine, old.row.id, expires_at=now_ms() - 1)
    assert refusal(accounts, old.secret) == "expired_key"
    assert accounts.principals.of_key(new.secret)


def test_without_grace_the_old_key_ends_at_once(accounts: Accounts, user_id: int) -> None:
    old = make(accounts, user_id)
    new = accounts.keys.rotate(old.row.id, grace_seconds=0)
    assert refusal(accounts, old.secret) == "expired_key"
    assert accounts.principals.of_key(new.secret)


def test_rotation_never_prolongs_a_key(accounts: Accounts, user_id: int) -> None:
    end = now_ms() + 30_000
    old = make(accounts, user_id, expires_at=end)
    new = accounts.keys.rotate(old.row.id, grace_seconds=86_400)
    assert accounts.keys.get(old.row.id).expires_at == end
    assert new.row.expires_at == end


def test_a_rotated_revoked_or_expired_key_cannot_be_rotated(
    accounts: Accounts, engine: Engine, user_id: int
) -> None:
    rotated, revoked, expired = (make(accounts, user_id) for _ in range(3))
    accounts.keys.rotate(rotated.row.id)
    accounts.keys.revoke(revoked.row.id)
    set_columns(engine, expired.row.id, expires_at=now_ms() - 1)
    for key in (rotated, revoked, expired):
        with pytest.raises(Conflict):
            accounts.keys.rotate(key.row.id)
    with pytest.raises(ValidationFailed):
        accounts.keys.rotate(make(accounts, user_id).row.id, grace_seconds=31 * 86_400)


def test_of_eight_rotations_at_once_one_succeeds(accounts: Accounts, user_id: int) -> None:
    old = make(accounts, user_id)
    start = threading.Barrier(8)

    def attempt(_: int) -> NewKey | None:
        start.wait()
        try:
            return accounts.keys.rotate(old.row.id)
        except Conflict:
            return None

    with ThreadPoolExecutor(8) as pool:
        made = [key for key in pool.map(attempt, range(8)) if key is not None]
    assert len(made) == 1
    assert len(accounts.keys.list(user_id)) == 2
    assert accounts.keys.get(old.row.id).replaced_by_id == made[0].row.id


def test_a_rotated_key_and_its_successors_share_one_budget(
    accounts: Accounts, engine: Engine, user_id: int
) -> None:
    budgets = Budgets(UsageDatabase(engine))
    limit = 1_000_000

    def reserve(key: NewKey, amount: int) -> None:
        budgets.reserve(new_record_id(), key.row.id, limit, amount, now_ms() + 60_000)

    first = make(accounts, user_id, monthly_budget_microusd=limit)
    reserve(first, 400_000)
    second = accounts.keys.rotate(first.row.id)
    third = accounts.keys.rotate(second.row.id)
    reserve(third, 400_000)
    for key in (first, second, third):
        assert budgets.state(key.row.id, now_ms()).reserved_microusd == 800_000
        with pytest.raises(BudgetExceeded):
            reserve(key, 200_001)
    reserve(second, 200_000)
    with pytest.raises(BudgetExceeded):
        reserve(first, 1)


# -- last used ------------------------------------------------------------------------------------
def test_last_use_is_written_by_the_chore_and_not_by_the_request(
    accounts: Accounts, user_id: int
) -> None:
    made = make(accounts, user_id)
    before = now_ms()
    accounts.principals.of_key(made.secret)
    assert accounts.keys.get(made.row.id).last_used_at is None
    accounts.keys.flush_last_used()
    used = accounts.keys.get(made.row.id).last_used_at
    assert used is not None
    assert used >= before
    accounts.keys.flush_last_used()
    assert accounts.keys.get(made.row.id).last_used_at == used


def test_an_instance_that_is_late_does_not_turn_last_use_back(
    accounts: Accounts, engine: Engine, user_id: int
) -> None:
    made = make(accounts, user_id)
    accounts.principals.of_key(made.secret)
    later = now_ms() + 60_000
    set_columns(engine, made.row.id, last_used_at=later)
    accounts.keys.flush_last_used()
    assert accounts.keys.get(made.row.id).last_used_at == later


# -- the database is away -------------------------------------------------------------------------
def test_a_caller_seen_within_a_minute_passes_while_the_database_is_away(
    own_postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from goblin_assistant.database.upgrade import upgrade
    from tests.support.accounts_fixtures import settings

    url = own_postgres.create_database()
    engine = engine_for(url)
    upgrade(engine)
    accounts = Accounts(engine, settings(url))
    user = accounts.create("ada@example.com", PASSWORD)
    seen, unseen = make(accounts, user.id), make(accounts, user.id)
    ending = make(accounts, user.id, expires_at=now_ms() + 20_000)
    claims = accounts.tokens.check(
        accounts.sessions.login("ada@example.com", PASSWORD).access_token
    )
    known = [accounts.principals.of_key(key.secret) for key in (seen, ending)] + [
        accounts.principals.of_token(claims)
    ]

    own_postgres.stop()
    assert accounts.principals.of_key(seen.secret) == known[0]
    assert accounts.principals.of_key(ending.secret) == known[1]
    assert accounts.principals.of_token(claims) == known[2]
    with pytest.raises(Unavailable):
        accounts.principals.of_key(unseen.secret)
    accounts.keys.flush_last_used()  # logs the failure, and keeps the times for later

    real = principals.time.monotonic
    monkeypatch.setattr(principals.time, "monotonic", lambda: real() + 30)
    assert accounts.principals.of_key(seen.secret)
    with pytest.raises(Unavailable):
        accounts.principals.of_key(ending.secret)
    monkeypatch.setattr(principals.time, "monotonic", lambda: real() + 61)
    with pytest.raises(Unavailable):
        accounts.principals.of_key(seen.secret)

    own_postgres.start()
    monkeypatch.setattr(principals.time, "monotonic", lambda: real() + 90)
    assert accounts.principals.of_key(unseen.secret)
    accounts.keys.flush_last_used()
    assert accounts.keys.get(seen.row.id).last_used_at is not None
    accounts.close()
    engine.dispose()


def away(*_: object) -> None:
    raise Unavailable("the database is away", retry_after=2)


def test_a_caller_may_go_on_for_sixty_seconds_and_a_key_no_longer_than_it_lasts(
    accounts: Accounts, user_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, today = accounts.principals, now_ms()
    lasting = make(accounts, user_id, expires_at=today + 100_000)
    ending = make(accounts, user_id, expires_at=today + 20_400)
    token = accounts.sessions.login("ada@example.com", PASSWORD).access_token
    claims = accounts.tokens.check(token)
    assert not store.any_recent()
    now = 1000.0
    with monkeypatch.context() as patched:
        patched.setattr(principals, "now_ms", lambda: today)
        patched.setattr(principals.time, "monotonic", lambda: now)
        known = [store.of_key(lasting.secret), store.of_key(ending.secret), store.of_token(claims)]
        patched.setattr(store._key, "first", away)
        patched.setattr(store._user, "first", away)
        now = 1020.39
        assert store.of_key(ending.secret) == known[1]
        now = 1020.41
        with pytest.raises(Unavailable) as refused:
            store.of_key(ending.secret)
        assert refused.value.retry_after == 2
        now = 1060.0
        assert [store.of_key(lasting.secret), store.of_token(claims)] == [known[0], known[2]]
        assert store.any_recent()
        now = 1060.5
        assert not store.any_recent()
        with pytest.raises(Unavailable):
            store.of_key(lasting.secret)
        with pytest.raises(Unavailable):
            store.of_token(claims)


def test_a_key_ends_at_its_very_millisecond_also_when_it_was_just_used(
    accounts: Accounts, user_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = now_ms() + 1_000_000
    made = make(accounts, user_id, expires_at=end)
    monkeypatch.setattr(principals, "now_ms", lambda: end - 1)
    assert accounts.principals.of_key(made.secret).key_id == made.row.id
    assert accounts.principals.take_used() == {made.row.id: end - 1}
    monkeypatch.setattr(principals, "now_ms", lambda: end)
    assert refusal(accounts, made.secret) == "expired_key"
    assert accounts.principals.take_used() == {}


def test_uses_that_could_not_be_written_are_kept_unless_there_are_later_ones() -> None:
    store = principals.PrincipalStore(create_engine("sqlite:////no/such/folder/goblin.db"))
    store.put_back_used({1: 50, 2: 60})
    store.put_back_used({1: 40, 3: 70})
    assert store.take_used() == {1: 50, 2: 60, 3: 70}
    assert store.take_used() == {}


def test_a_caller_who_has_not_changed_is_not_judged_anew(accounts: Accounts, user_id: int) -> None:
    made = make(accounts, user_id)
    claims = Claims(user_id, accounts.get(user_id).token_version, 0)
    store = accounts.principals
    assert store.of_key(made.secret) is store.of_key(made.secret)
    assert store.of_token(claims) is store.of_token(claims)


def test_each_caller_has_the_role_and_the_settings_of_its_own_user(
    accounts: Accounts, user_id: int
) -> None:
    others = [accounts.create(f"{name}@example.com", PASSWORD).id for name in ("bea", "eve")]
    users_ = (user_id, *others)
    for one in users_:
        accounts.save_settings(one, {"system_prompt": f"of {one}"})
    accounts.set_role(others[0], "admin")
    for one in users_:
        role = "admin" if one == others[0] else "user"
        of_key = accounts.principals.of_key(make(accounts, one).secret)
        of_token = accounts.principals.of_token(Claims(one, accounts.get(one).token_version, 0))
        for found in (of_key, of_token):
            assert (found.user_id, found.role) == (one, role)
            assert found.settings == {"system_prompt": f"of {one}"}
        assert of_token.is_admin is (role == "admin")


def test_a_token_of_another_version_or_of_a_user_who_is_gone_is_refused(
    accounts: Accounts, engine: Engine, user_id: int
) -> None:
    other = accounts.create("eve@example.com", PASSWORD).id
    store, version = accounts.principals, 1000  # as after many logouts

    def refused(user: int, token_version: int) -> str | None:
        with pytest.raises(Unauthorized) as caught:
            store.of_token(Claims(user, token_version, 0))
        return caught.value.reason

    with engine.begin() as connection:
        connection.execute(update(users).values(token_version=version))
    assert store.of_token(Claims(user_id, int("1000"), 0)).settings == {}
    assert [refused(user_id, version + step) for step in (-1, 1)] == ["bad_token"] * 2
    with engine.begin() as connection:
        connection.execute(delete(users).where(users.c.id == user_id))
    assert refused(user_id, version) == "bad_token"
    assert store.of_token(Claims(other, version, 0)).user_id == other


def test_of_many_callers_those_seen_last_may_go_on_without_the_database(
    accounts: Accounts, user_id: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(principals, "MAX_SEEN", 2)
    store = accounts.principals
    made = [make(accounts, user_id) for _ in range(5)]
    now = 1000.0
    with monkeypatch.context() as patched:
        patched.setattr(principals.time, "monotonic", lambda: now)
        for key in made:
            store.of_key(key.secret)
        patched.setattr(store._key, "first", away)
        for key in made[2:]:
            assert store.of_key(key.secret).key_id == key.row.id
        for key in made[:2]:
            with pytest.raises(Unavailable):
                store.of_key(key.secret)


def test_while_the_database_is_away_it_is_asked_once_a_second_and_not_by_every_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = create_engine("sqlite:////no/such/folder/goblin.db")
    store = principals.PrincipalStore(engine)
    asked = []
    real = engine.raw_connection
    monkeypatch.setattr(engine, "raw_connection", lambda: asked.append(1) or real())
    for _ in range(50):
        with pytest.raises(Unavailable):
            store.of_key("gob_x")
    assert len(asked) == 1


def test_the_memory_of_callers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(principals, "MAX_SEEN", 300)
    store = principals.PrincipalStore(create_engine("sqlite:////no/such/folder/goblin.db"))
    caller = principals._Seen(principals.Principal(1, "user"), None)
    for number in range(1000):
        store._remember(str(number), caller)
    assert (len(store._seen), len(store._older)) == (100, 300)


def test_a_thousand_lookups_from_many_threads_leave_no_connection_behind(
    accounts: Accounts, engine: Engine, user_id: int
) -> None:
    made = make(accounts, user_id)
    with ThreadPoolExecutor(16) as pool:
        found = list(
            pool.map(lambda _: accounts.principals.of_key(made.secret).key_id, range(1000))
        )
    assert set(found) == {made.row.id}
    accounts.principals.of_token(Claims(user_id, accounts.get(user_id).token_version, 0))
    assert engine.pool.checkedout() <= lookup.KEPT_CONNECTIONS + 1  # type: ignore[attr-defined]
    accounts.close()
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_connections_are_there_before_the_first_callers(accounts: Accounts, engine: Engine) -> None:
    accounts.principals.warm()
    kept = 1 if engine.dialect.name == "sqlite" else lookup.KEPT_CONNECTIONS
    assert engine.pool.checkedout() == 2 * kept  # type: ignore[attr-defined]
