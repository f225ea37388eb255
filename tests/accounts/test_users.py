"""Users and passwords, on SQLite and on PostgreSQL."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jwt
import pytest
from argon2 import PasswordHasher
from sqlalchemy import Engine

from goblin_assistant.accounts import passwords
from goblin_assistant.accounts.emails import canonical, normalise
from goblin_assistant.accounts.passwords import Passwords, check_new
from goblin_assistant.accounts.users import Accounts
from goblin_assistant.errors import (
    Conflict,
    NoFreeSlot,
    NotFound,
    Unauthorized,
    ValidationFailed,
)
from goblin_assistant.metrics import REGISTRY
from goblin_assistant.threads.budget import ThreadBudget
from tests.conftest import wait_until
from tests.support.accounts_fixtures import (
    PASSWORD,
    account_log,
    accounts,
    database_url,
    engine,
    user_id_of,
)

__all__ = ["account_log", "accounts", "database_url", "engine"]


@pytest.fixture
def cheap_hashing() -> None:
    """Nothing: here passwords are hashed at the real cost."""


# -- users ----------------------------------------------------------------------------------------
def test_an_account_is_made_once_for_every_spelling_of_its_address(accounts: Accounts) -> None:
    user = accounts.create("Ada@Example.com", PASSWORD)
    assert user.email == "ada@example.com"
    for spelling in ("ada@example.com", "ADA@EXAMPLE.COM", "ada@EXAMPLE.com"):
        with pytest.raises(Conflict):
            accounts.create(spelling, PASSWORD)
        assert user_id_of(accounts, accounts.sessions.login(spelling, PASSWORD)) == user.id


def test_an_address_beyond_ascii_is_found_in_either_unicode_form(accounts: Accounts) -> None:
    composed, decomposed = "jos\u00e9@example.com", "jose\u0301@example.com"
    user = accounts.create(decomposed, PASSWORD)
    assert user_id_of(accounts, accounts.sessions.login(composed, PASSWORD)) == user.id
    with pytest.raises(Conflict):
        accounts.create(composed, PASSWORD)


def test_of_sixteen_registrations_of_one_address_at_once_one_succeeds(accounts: Accounts) -> None:
    def attempt(_: int) -> bool:
        while True:
            try:
                accounts.create("ada@example.com", PASSWORD)
            except NoFreeSlot:  # on a busy machine a hash may wait for too long
                continue
            except Conflict:
                return False
            return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(attempt, range(16))) == 1
    assert len(accounts.list()) == 1


@pytest.mark.parametrize(
    "email",
    [
        "",
        "ada",
        "@example.com",
        "ada@",
        "a b@example.com",
        "ada@example",
        "ada@@example.com",
        "x" * 300 + "@example.com",
    ],
)
def test_what_is_no_address_cannot_register(email: str) -> None:
    with pytest.raises(ValidationFailed):
        normalise(email)
    assert canonical(email) == email.strip().lower()


@pytest.mark.parametrize(
    ("password", "complaint"),
    [
        ("seven77", "at least 8"),
        ("", "at least 8"),
        ("ada@example.com", "e-mail"),
        (" ADA@example.com ", "e-mail"),
        ("ü" * 600, "at most 1024 bytes"),
    ],
)
def test_a_weak_new_password_is_refused_with_the_reason(password: str, complaint: str) -> None:
    with pytest.raises(ValidationFailed, match=complaint):
        check_new(password, "ada@example.com")


def test_an_address_is_no_password_in_another_unicode_form_either() -> None:
    with pytest.raises(ValidationFailed, match="e-mail"):
        check_new("u\u0308ber@example.com", "\u00fcber@example.com")


def test_users_are_listed_in_pages(accounts: Accounts) -> None:
    ids = [accounts.create(f"user{number}@example.com", PASSWORD).id for number in range(5)]
    first = accounts.list(limit=2)
    assert [user.id for user in first] == ids[:2]
    assert [user.id for user in accounts.list(limit=10, after=first[-1].id)] == ids[2:]


@pytest.mark.parametrize("user_id", [0, 99, 2**63 - 1, 2**63, 10**30])
def test_an_id_that_does_not_exist_is_not_found_however_large(
    accounts: Accounts, user_id: int
) -> None:
    with pytest.raises(NotFound):
        accounts.get(user_id)


# -- login ----------------------------------------------------------------------------------------
def test_unknown_address_wrong_password_and_disabled_account_get_the_same_answer(
    accounts: Accounts,
) -> None:
    user = accounts.create("ada@example.com", PASSWORD)
    answers = []
    for email, password in (
        ("nobody@example.com", PASSWORD),
        ("ada@example.com", "wrong password"),
    ):
        with pytest.raises(Unauthorized) as caught:
            accounts.sessions.login(email, password)
        answers.append((str(caught.value), caught.value.reason))
    accounts.disable(user.id)
    with pytest.raises(Unauthorized) as caught:
        accounts.sessions.login("ada@example.com", PASSWORD)
    assert {text for text, _ in (*answers, (str(caught.value), ""))} == {answers[0][0]}
    assert caught.value.reason == "disabled"


def test_an_unknown_address_costs_a_full_verification_with_todays_parameters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hasher = Passwords(1, 16, ThreadBudget(16))
    verified: list[str] = []
    real = PasswordHasher.verify

    def spy(self: PasswordHasher, hash: str | bytes, password: str | bytes) -> Any:
        verified.append(str(hash))
        return real(self, hash, password)

    monkeypatch.setattr(PasswordHasher, "verify", spy)
    assert hasher.verify(None, PASSWORD) is False
    assert verified
    assert not hasher.needs_rehash(verified[0])
    assert hasher.verify(hasher.hash(PASSWORD), "x" * 2000) is False
    assert len(verified) == 2, "a password that is too long costs the same"
    hasher.close()


def test_passwords_are_argon2id_with_owasp_parameters(accounts: Accounts, engine: Engine) -> None:
    user = accounts.create("ada@example.com", PASSWORD)
    assert user.password_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


def test_a_hash_of_other_parameters_is_renewed_at_login(accounts: Accounts) -> None:
    user = accounts.create("ada@example.com", PASSWORD)
    old = PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash(PASSWORD)
    accounts._change(user.id, "test", password_hash=old)
    accounts.sessions.login("ada@example.com", PASSWORD)
    renewed = accounts.get(user.id).password_hash
    assert renewed.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    accounts.sessions.login("ada@example.com", PASSWORD)
    assert accounts.get(user.id).password_hash == renewed


def test_no_more_passwords_are_hashed_at_once_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    running, most, lock = 0, 0, threading.Lock()
    real = PasswordHasher.verify

    def counted(self: PasswordHasher, hash: str | bytes, password: str | bytes) -> Any:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        try:
            return real(self, hash, password)
        finally:
            with lock:
                running -= 1

    monkeypatch.setattr(PasswordHasher, "verify", counted)
    hasher = Passwords(2, 16, ThreadBudget(16))
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: hasher.verify(None, "x"), range(16)))
    hasher.close()
    assert most == 2


def test_a_login_that_would_wait_too_long_is_told_to_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(passwords, "_WAIT_SECONDS", 0.05)
    hasher = Passwords(1, 16, ThreadBudget(16))
    release = threading.Event()
    hasher._pool.submit(release.wait)
    with pytest.raises(NoFreeSlot) as caught:
        hasher.hash(PASSWORD)
    assert caught.value.retry_after
    monkeypatch.undo()
    release.set()
    assert hasher.hash(PASSWORD)
    hasher.close()


def test_logins_beyond_the_places_are_refused_at_once_with_retry_after() -> None:
    threads = ThreadBudget(10)
    hasher = Passwords(1, 3, threads)
    release = threading.Event()
    hasher._pool.submit(release.wait)
    with ThreadPoolExecutor(3) as pool:
        inside = [pool.submit(hasher.verify, None, "x") for _ in range(3)]
        wait_until(lambda: REGISTRY.get_sample_value("password_requests_waiting") == 3)
        assert threads.held == 3
        with pytest.raises(NoFreeSlot) as refused, hasher.place():
            pytest.fail("there was no place")
        assert refused.value.retry_after == 1
        release.set()
        assert [one.result(30) for one in inside] == [False] * 3
    assert threads.held == 0
    hasher.close()


def test_within_a_place_a_hash_takes_no_second_one() -> None:
    hasher = Passwords(1, 1, ThreadBudget(1))
    with hasher.place():
        assert hasher.verify(hasher.hash(PASSWORD), PASSWORD)
    hasher.close()


# -- access tokens --------------------------------------------------------------------------------
def test_an_access_token_says_who_and_never_what_they_may(accounts: Accounts) -> None:

    accounts.create("ada@example.com", PASSWORD, "admin")
    token = accounts.sessions.login("ada@example.com", PASSWORD).access_token
    assert set(jwt.decode(token, options={"verify_signature": False})) == {
        "sub",
        "tv",
        "iat",
        "exp",
        "jti",
    }


def test_a_password_is_the_same_however_its_letters_are_composed() -> None:
    composed, decomposed = "correct h\u00f6rse battery", "correct ho\u0308rse battery"
    passwords = Passwords(1, 4, ThreadBudget(8))
    try:
        for known, typed in ((composed, decomposed), (decomposed, composed)):
            assert passwords.verify(passwords.hash(known), typed)
        # A hash of an earlier release, of the letters as they were typed then.
        assert passwords.verify(PasswordHasher().hash(decomposed), decomposed)
        assert not passwords.verify(passwords.hash(composed), "correct horse battery")
        assert not passwords.verify(None, decomposed)
        # Signs that people tell apart stay apart: NFKC would make one of them.
        assert not passwords.verify(passwords.hash("battery 2\u00b2 staple"), "battery 22 staple")
    finally:
        passwords.close()
