"""Sessions: login, refresh, logout; on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, select, update

from goblin_assistant.accounts.users import Accounts
from goblin_assistant.database.models import now_ms, refresh_tokens, users
from goblin_assistant.errors import (
    AuthFailure,
    NotFound,
    Unauthorized,
    ValidationFailed,
)
from goblin_assistant.metrics import REGISTRY
from tests.support.accounts_fixtures import (
    PASSWORD,
    account_log,
    accounts,
    database_url,
    engine,
    events,
    failures,
    refused,
    user_id_of,
)

__all__ = ["account_log", "accounts", "database_url", "engine"]


# -- refresh --------------------------------------------------------------------------------------
def test_a_refresh_token_gives_a_new_pair_and_is_used_up(accounts: Accounts) -> None:
    accounts.create("ada@example.com", PASSWORD)
    first = accounts.sessions.login("ada@example.com", PASSWORD)
    second = accounts.sessions.refresh(first.refresh_token)
    third = accounts.sessions.refresh(second.refresh_token)
    assert len({first.refresh_token, second.refresh_token, third.refresh_token}) == 3
    assert user_id_of(accounts, third)


def test_a_stolen_refresh_token_ends_the_session_of_thief_and_owner_and_is_logged(
    accounts: Accounts, account_log: pytest.LogCaptureFixture
) -> None:
    accounts.create("ada@example.com", PASSWORD)
    owner = accounts.sessions.login("ada@example.com", PASSWORD)
    thief = accounts.sessions.refresh(owner.refresh_token)  # the thief is first
    with pytest.raises(Unauthorized) as caught:
        accounts.sessions.refresh(owner.refresh_token)  # the owner comes second
    assert caught.value.reason == "refresh_reused"
    with pytest.raises(Unauthorized):
        accounts.sessions.refresh(thief.refresh_token)
    assert refused(accounts, thief.access_token) == "bad_token"
    assert refused(accounts, owner.access_token) == "bad_token"
    assert len(events(account_log, "refresh_token_reused")) == 1
    again = accounts.sessions.login("ada@example.com", PASSWORD)
    assert user_id_of(accounts, again)


def test_an_old_refresh_token_cannot_log_its_owner_out_again_and_again(accounts: Accounts) -> None:
    accounts.create("ada@example.com", PASSWORD)
    first = accounts.sessions.login("ada@example.com", PASSWORD)
    accounts.sessions.refresh(first.refresh_token)
    with pytest.raises(Unauthorized):
        accounts.sessions.refresh(first.refresh_token)
    later = accounts.sessions.login("ada@example.com", PASSWORD)
    with pytest.raises(Unauthorized) as caught:
        accounts.sessions.refresh(first.refresh_token)
    assert caught.value.reason == "refresh_reused"
    assert user_id_of(accounts, later)
    assert accounts.sessions.refresh(later.refresh_token)


def test_a_reuse_leaves_other_devices_able_to_refresh(accounts: Accounts) -> None:
    accounts.create("ada@example.com", PASSWORD)
    phone, laptop = (accounts.sessions.login("ada@example.com", PASSWORD) for _ in range(2))
    accounts.sessions.refresh(phone.refresh_token)
    with pytest.raises(Unauthorized):
        accounts.sessions.refresh(phone.refresh_token)
    assert user_id_of(accounts, accounts.sessions.refresh(laptop.refresh_token))


def test_of_sixteen_uses_of_one_refresh_token_at_once_at_most_one_succeeds_and_the_family_ends(
    accounts: Accounts, engine: Engine
) -> None:
    accounts.create("ada@example.com", PASSWORD)
    pair = accounts.sessions.login("ada@example.com", PASSWORD)
    start = threading.Barrier(16)

    def use(_: int) -> bool:
        start.wait()
        try:
            accounts.sessions.refresh(pair.refresh_token)
        except Unauthorized:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(use, range(16))) == 1
    with engine.connect() as connection:
        open_rows = connection.execute(
            select(refresh_tokens).where(refresh_tokens.c.revoked_at.is_(None))
        ).all()
    assert not open_rows


def test_expired_unknown_and_foreign_refresh_tokens_are_refused_by_reason(
    accounts: Accounts, engine: Engine
) -> None:
    user = accounts.create("ada@example.com", PASSWORD)
    pair = accounts.sessions.login("ada@example.com", PASSWORD)
    with engine.begin() as connection:
        connection.execute(update(refresh_tokens).values(expires_at=now_ms() - 1))
    for token, reason in (
        (pair.refresh_token, "refresh_expired"),
        ("gor_made_up", "refresh_unknown"),
    ):
        with pytest.raises(Unauthorized) as caught:
            accounts.sessions.refresh(token)
        assert caught.value.reason == reason
    fresh = accounts.sessions.login("ada@example.com", PASSWORD)
    accounts._change(user.id, "test", disabled_at=now_ms())
    with pytest.raises(Unauthorized):
        accounts.sessions.refresh(fresh.refresh_token)


def test_tokens_are_stored_as_hashes_only(accounts: Accounts, engine: Engine) -> None:
    accounts.create("ada@example.com", PASSWORD)
    pair = accounts.sessions.login("ada@example.com", PASSWORD)
    with engine.connect() as connection:
        stored = str(
            [
                tuple(row)
                for table in (refresh_tokens, users)
                for row in connection.execute(select(table))
            ]
        )
    assert pair.refresh_token.removeprefix("gor_") not in stored
    assert pair.access_token not in stored
    assert PASSWORD not in stored


def test_refresh_tokens_are_kept_until_a_day_after_their_end(
    accounts: Accounts, engine: Engine
) -> None:
    accounts.create("ada@example.com", PASSWORD)
    for age in (2 * 86_400_000, 3_600_000):
        pair = accounts.sessions.login("ada@example.com", PASSWORD)
        from goblin_assistant.accounts.tokens import digest

        with engine.begin() as connection:
            connection.execute(
                update(refresh_tokens)
                .where(refresh_tokens.c.token_hash == digest(pair.refresh_token))
                .values(expires_at=now_ms() - age)
            )
    accounts.sessions.delete_expired_tokens()
    with engine.connect() as connection:
        assert len(connection.execute(select(refresh_tokens)).all()) == 1


# -- the ends of sessions -------------------------------------------------------------------------
def test_logout_of_one_session_leaves_the_others(accounts: Accounts) -> None:
    user = accounts.create("ada@example.com", PASSWORD)
    one, other = (accounts.sessions.login("ada@example.com", PASSWORD) for _ in range(2))
    accounts.sessions.logout(user.id, one.refresh_token)
    with pytest.raises(Unauthorized):
        accounts.sessions.refresh(one.refresh_token)
    assert accounts.sessions.refresh(other.refresh_token)


def test_logout_everywhere_ends_access_tokens_too(accounts: Accounts) -> None:
    user = accounts.create("ada@example.com", PASSWORD)
    pairs = [accounts.sessions.login("ada@example.com", PASSWORD) for _ in range(2)]
    accounts.sessions.logout(user.id)
    for pair in pairs:
        assert refused(accounts, pair.access_token) == "bad_token"
        with pytest.raises(Unauthorized):
            accounts.sessions.refresh(pair.refresh_token)


def test_nobody_can_end_the_session_of_another(accounts: Accounts) -> None:
    accounts.create("ada@example.com", PASSWORD)
    eve = accounts.create("eve@example.com", PASSWORD)
    pair = accounts.sessions.login("ada@example.com", PASSWORD)
    accounts.sessions.logout(eve.id, pair.refresh_token)
    assert accounts.sessions.refresh(pair.refresh_token)


def test_a_changed_password_ends_every_session_but_the_new_one(accounts: Accounts) -> None:
    user = accounts.create("ada@example.com", PASSWORD)
    old = accounts.sessions.login("ada@example.com", PASSWORD)
    with pytest.raises(Unauthorized, match="current password"):
        accounts.sessions.change_password(user.id, "wrong password", "another long password")
    new = accounts.sessions.change_password(user.id, PASSWORD, "another long password")
    assert refused(accounts, old.access_token) == "bad_token"
    with pytest.raises(Unauthorized):
        accounts.sessions.refresh(old.refresh_token)
    with pytest.raises(Unauthorized):
        accounts.sessions.login("ada@example.com", PASSWORD)
    assert user_id_of(accounts, new) == user.id
    assert accounts.sessions.refresh(new.refresh_token)
    assert accounts.sessions.login("ada@example.com", "another long password")


def test_a_disabled_user_is_out_at_once_and_back_after_logging_in_again(accounts: Accounts) -> None:
    user = accounts.create("ada@example.com", PASSWORD)
    pair = accounts.sessions.login("ada@example.com", PASSWORD)
    accounts.disable(user.id)
    assert refused(accounts, pair.access_token)
    accounts.enable(user.id)
    assert refused(accounts, pair.access_token) == "bad_token"
    assert accounts.sessions.login("ada@example.com", PASSWORD)


def test_a_role_counts_from_the_next_request_on(accounts: Accounts) -> None:
    user = accounts.create("ada@example.com", PASSWORD)
    claims = accounts.tokens.check(
        accounts.sessions.login("ada@example.com", PASSWORD).access_token
    )
    assert not accounts.principals.of_token(claims).is_admin
    accounts.set_role(user.id, "admin")
    assert accounts.principals.of_token(claims).is_admin
    accounts.set_role(user.id, "user")
    assert not accounts.principals.of_token(claims).is_admin
    with pytest.raises(ValidationFailed):
        accounts.set_role(user.id, "root")


def test_every_reason_for_a_refusal_is_a_series_from_the_start(accounts: Accounts) -> None:

    for reason in AuthFailure:
        assert REGISTRY.get_sample_value("auth_failures_total", {"reason": reason}) is not None
    assert failures("no such reason") == 0


# -- the list of sessions -------------------------------------------------------------------------
def test_sessions_are_listed_the_last_renewed_first(accounts: Accounts, engine: Engine) -> None:
    ada = accounts.create("ada@example.com", PASSWORD)
    eve = accounts.create("eve@example.com", PASSWORD)
    phone, laptop = (accounts.sessions.login(ada.email, PASSWORD) for _ in range(2))
    accounts.sessions.login(eve.email, PASSWORD)
    with engine.begin() as connection:
        earlier = update(refresh_tokens).values(created_at=refresh_tokens.c.created_at - 60_000)
        connection.execute(earlier)
    accounts.sessions.refresh(phone.refresh_token)
    found, total = accounts.sessions.latest(ada.id, 10)
    assert [one.id for one in found] == [phone.session_id, laptop.session_id]
    assert total == 2
    assert found[0].renewed_at - found[0].started_at >= 60_000
    assert found[1].renewed_at == found[1].started_at
    assert found[0].expires_at > now_ms()


def test_no_more_sessions_are_listed_than_asked_for_but_all_are_counted(accounts: Accounts) -> None:
    ada = accounts.create("ada@example.com", PASSWORD)
    assert accounts.sessions.latest(ada.id, 10) == ([], 0)
    for _ in range(3):
        accounts.sessions.login(ada.email, PASSWORD)
    found, total = accounts.sessions.latest(ada.id, 2)
    assert (len(found), total) == (2, 3)


def test_sessions_that_have_ended_or_expired_are_not_listed(
    accounts: Accounts, engine: Engine
) -> None:
    ada = accounts.create("ada@example.com", PASSWORD)
    out, over, on = (accounts.sessions.login(ada.email, PASSWORD) for _ in range(3))
    accounts.sessions.logout(ada.id, out.refresh_token)
    with engine.begin() as connection:
        connection.execute(
            update(refresh_tokens)
            .where(refresh_tokens.c.family_id == over.session_id)
            .values(expires_at=now_ms() - 1)
        )
    found, total = accounts.sessions.latest(ada.id, 10)
    assert ([one.id for one in found], total) == ([on.session_id], 1)


def test_ending_one_session_ends_it_at_once_and_the_others_refresh(accounts: Accounts) -> None:
    ada = accounts.create("ada@example.com", PASSWORD)
    phone, laptop = (accounts.sessions.login(ada.email, PASSWORD) for _ in range(2))
    accounts.sessions.end_one(ada.id, phone.session_id)
    assert refused(accounts, phone.access_token) == "bad_token"
    with pytest.raises(Unauthorized):
        accounts.sessions.refresh(phone.refresh_token)
    assert user_id_of(accounts, accounts.sessions.refresh(laptop.refresh_token)) == ada.id
    assert [one.id for one in accounts.sessions.latest(ada.id, 10)[0]] == [laptop.session_id]


def test_another_persons_session_is_not_found_and_goes_on(accounts: Accounts) -> None:
    ada = accounts.create("ada@example.com", PASSWORD)
    eve = accounts.create("eve@example.com", PASSWORD)
    session = accounts.sessions.login(ada.email, PASSWORD)
    odd = ("unknown", "0" * 32, "\0", "\ud800", "")
    for user_id, name in ((eve.id, session.session_id), *((ada.id, name) for name in odd)):
        with pytest.raises(NotFound):
            accounts.sessions.end_one(user_id, name)
    assert user_id_of(accounts, session) == ada.id
    accounts.sessions.end_one(ada.id, session.session_id)
    with pytest.raises(NotFound):
        accounts.sessions.end_one(ada.id, session.session_id)


def test_a_renewal_at_the_same_moment_does_not_outlive_the_end_of_its_session(
    accounts: Accounts,
) -> None:
    ada = accounts.create("ada@example.com", PASSWORD)
    for _ in range(8):
        session = accounts.sessions.login(ada.email, PASSWORD)
        together = threading.Barrier(2, timeout=60)

        def renew(token: str, together: threading.Barrier) -> str:
            together.wait()
            try:
                return accounts.sessions.renew(token)[0].refresh_token
            except Unauthorized:
                return token

        def end(session_id: str, together: threading.Barrier) -> None:
            together.wait()
            accounts.sessions.end_one(ada.id, session_id)

        with ThreadPoolExecutor(2) as pool:
            renewed = pool.submit(renew, session.refresh_token, together)
            pool.submit(end, session.session_id, together).result(120)
        with pytest.raises(Unauthorized):
            accounts.sessions.renew(renewed.result(120))
