"""Access tokens, and random tokens of which only the hash is stored."""

from __future__ import annotations

import base64
import time

import jwt
import pytest

from goblin_assistant.accounts.tokens import (
    LEEWAY_SECONDS,
    AccessTokens,
    digest,
    new_api_key,
    new_refresh_token,
)
from goblin_assistant.errors import Unauthorized


@pytest.mark.parametrize("algorithm", ["none", "HS512"])
def test_a_token_of_another_algorithm_is_refused(algorithm: str) -> None:
    import jwt

    claims = {"sub": "1", "tv": 0, "iat": 0, "exp": 9_999_999_999}
    token = jwt.encode(claims, "" if algorithm == "none" else "s" * 64, algorithm=algorithm)
    with pytest.raises(Unauthorized) as caught:
        AccessTokens(["s" * 64], 900).check(token)
    assert caught.value.reason == "bad_token"


def test_a_token_of_another_secret_or_with_a_changed_letter_is_refused() -> None:
    tokens = AccessTokens(["s" * 40], 900)
    good = tokens.issue(1, 0)
    assert tokens.check(good).user_id == 1
    head, body, signature = good.split(".")
    for bad in (
        AccessTokens(["t" * 40], 900).issue(1, 0),
        f"{head}.{body}x.{signature}",
        "",
        "a.b.c",
        good[:-4] + "AAAA",
    ):
        with pytest.raises(Unauthorized):
            tokens.check(bad)


@pytest.mark.parametrize(("ahead", "good"), [(1, True), (20, True), (-20, True), (300, False)])
def test_clocks_of_two_instances_may_differ_a_little(ahead: int, good: bool) -> None:
    now = int(time.time()) + ahead
    claims = {"sub": "1", "tv": 0, "iat": now, "exp": now + 10, "jti": "x"}
    token = jwt.encode(claims, "s" * 40, algorithm="HS256")
    tokens = AccessTokens(["s" * 40], 10)
    if good:
        assert tokens.check(token) == tokens.check(token)
    else:
        with pytest.raises(Unauthorized):
            tokens.check(token)


def test_an_expired_token_is_refused_also_when_it_was_checked_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens = AccessTokens(["s" * 40], 60)
    token = tokens.issue(1, 0)
    claims = tokens.check(token)
    late = claims.expires_at + LEEWAY_SECONDS + 1
    monkeypatch.setattr("goblin_assistant.accounts.tokens.time.time", lambda: late)
    with pytest.raises(Unauthorized) as caught:
        tokens.check(token)
    assert caught.value.reason == "expired_token"


def test_the_memory_of_checked_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("goblin_assistant.accounts.tokens._CACHE_SIZE", 300)
    tokens = AccessTokens(["s" * 40], 900)
    for number in range(700):
        tokens.check(tokens.issue(number, 0))
    assert len(tokens._cache) == 100


def test_a_checked_token_is_good_for_thirty_seconds_beyond_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tokens = AccessTokens(["s" * 40], 60)
    token = tokens.issue(1, 0)
    claims = tokens.check(token)
    now = claims.expires_at + 29.5
    monkeypatch.setattr("goblin_assistant.accounts.tokens.time.time", lambda: now)
    assert tokens.check(token) == claims
    now = claims.expires_at + 30
    with pytest.raises(Unauthorized):
        tokens.check(token)


def test_a_token_lasts_as_long_as_is_set_and_is_like_no_other() -> None:
    tokens = AccessTokens(["s" * 40], 900)
    first, second = (
        jwt.decode(tokens.issue(7, 3), options={"verify_signature": False}) for _ in range(2)
    )
    assert (first["sub"], first["tv"], first["exp"] - first["iat"]) == ("7", 3, 900)
    assert first["jti"] != second["jti"]
    claims = tokens.check(tokens.issue(7, 3))
    assert (claims.user_id, claims.token_version) == (7, 3)


@pytest.mark.parametrize(
    "claims", [{"sub": "ada"}, {"tv": None}, {"tv": "new"}, {"exp": "soon"}, {"iat": "now"}]
)
def test_a_signed_token_whose_claims_are_none_of_ours_is_refused(claims: dict[str, object]) -> None:
    good = {"sub": "1", "tv": 0, "iat": 0, "exp": 9_999_999_999}
    token = jwt.encode({**good, **claims}, "s" * 40, algorithm="HS256")
    with pytest.raises(Unauthorized) as caught:
        AccessTokens(["t" * 40, "s" * 40], 900).check(token)
    assert caught.value.reason == "bad_token"


def test_a_checked_token_is_remembered() -> None:
    tokens = AccessTokens(["s" * 40], 900)
    token = tokens.issue(1, 0)
    assert tokens.check(token) is tokens.check(token)


def test_as_many_tokens_are_remembered_as_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("goblin_assistant.accounts.tokens._CACHE_SIZE", 3)
    tokens = AccessTokens(["s" * 40], 900)
    sizes = []
    for number in range(5):
        tokens.check(tokens.issue(number, 0))
        sizes.append(len(tokens._cache))
    assert sizes == [1, 2, 3, 1, 2]


def test_random_tokens_have_256_bits_a_prefix_and_a_hash_of_sha_256() -> None:
    for make, prefix in ((new_refresh_token, "gor_"), (new_api_key, "gob_")):
        made = {make() for _ in range(5)}
        assert len(made) == 5
        for token in made:
            assert token.startswith(prefix)
            assert len(base64.urlsafe_b64decode(token[len(prefix) :] + "=")) == 32
    assert digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_refresh_token_has_one_successor_by_each_key_and_always_the_same() -> None:
    token = new_refresh_token()
    found = AccessTokens(["n" * 40, "o" * 40], 900).successors(token)
    assert found == AccessTokens(["n" * 40, "o" * 40], 60).successors(token)
    assert found[1:] == AccessTokens(["o" * 40], 900).successors(token)
    assert len(set(found)) == 2
    assert found != AccessTokens(["n" * 40, "o" * 40], 900).successors(new_refresh_token())
    for one in found:
        assert one.startswith("gor_")
        assert len(base64.urlsafe_b64decode(one[4:] + "=")) == 32


def test_the_first_of_several_keys_signs() -> None:
    token = AccessTokens(["n" * 40, "o" * 40], 900).issue(7, 0)
    assert AccessTokens(["n" * 40], 900).check(token).user_id == 7


def test_a_token_by_the_key_that_is_being_replaced_is_accepted() -> None:
    old = AccessTokens(["o" * 40], 900).issue(7, 0)
    assert AccessTokens(["n" * 40, "o" * 40], 900).check(old).user_id == 7
