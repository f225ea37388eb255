"""The two stores keep the same promises; the Redis one against a real Redis."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from goblin_assistant.errors import BadRequest, Conflict, IdempotencyMismatch
from goblin_assistant.idempotency import (
    MAX_ANSWER_BYTES,
    Answer,
    Claim,
    IdempotencyStore,
    MemoryIdempotencyStore,
    RedisIdempotencyStore,
)

ANSWER = Answer("application/json", b'{"a": "\xc3\xa4"}', {"X-Goblin-Provider": "echo"})


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> IdempotencyStore:
    if request.param == "memory":
        return MemoryIdempotencyStore(60, 60, 10_000_000)
    url = request.getfixturevalue("redis_server").url
    return RedisIdempotencyStore(60, 60, url)


def begin(store: IdempotencyStore, key: str = "k", body: bytes = b"{}", caller: str = "user:1") -> Claim | Answer:
    return store.begin(caller, key, "/v1/chat/completions", body)


def claim(store: IdempotencyStore, key: str) -> Claim:
    held = begin(store, key)
    assert isinstance(held, Claim)
    return held


def test_a_finished_answer_is_replayed(store: IdempotencyStore) -> None:
    claim(store, "replay").finish(ANSWER)
    assert begin(store, "replay") == ANSWER


def test_a_request_in_flight_is_a_conflict(store: IdempotencyStore) -> None:
    claim(store, "flight")
    with pytest.raises(Conflict):
        begin(store, "flight")


def test_another_body_is_refused(store: IdempotencyStore) -> None:
    claim(store, "body").finish(ANSWER)
    with pytest.raises(IdempotencyMismatch):
        begin(store, "body", body=b'{"other": 1}')


def test_a_failed_request_frees_its_key(store: IdempotencyStore) -> None:
    held = claim(store, "failed")
    held.abandon()
    held.finish(ANSWER)
    assert isinstance(begin(store, "failed"), Claim)


def test_callers_do_not_share_keys(store: IdempotencyStore) -> None:
    claim(store, "shared").finish(ANSWER)
    assert isinstance(begin(store, "shared", caller="user:2"), Claim)


def test_an_answer_too_long_to_keep_frees_its_key(store: IdempotencyStore) -> None:
    claim(store, "long").finish(Answer("application/json", b"x" * (MAX_ANSWER_BYTES + 1), {}))
    assert isinstance(begin(store, "long"), Claim)


@pytest.mark.parametrize("key", ["", "x" * 256, "a\x00b", "schlüssel"])
def test_a_malformed_key_is_refused(store: IdempotencyStore, key: str) -> None:
    with pytest.raises(BadRequest):
        begin(store, key)


def test_memory_is_bounded_and_the_oldest_answer_goes_first() -> None:
    store = MemoryIdempotencyStore(60, 60, 250)
    for number in range(3):
        claim(store, f"k{number}").finish(Answer("text/plain", b"x" * 100, {}))
    assert isinstance(begin(store, "k0"), Claim)
    assert isinstance(begin(store, "k2"), Answer)
    assert store._bytes == 200


def test_answers_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    clock: Callable[[], float] = lambda: now  # noqa: E731
    monkeypatch.setattr("goblin_assistant.idempotency.time.monotonic", lambda: clock())
    store = MemoryIdempotencyStore(60, 60, 1000)
    claim(store, "old").finish(ANSWER)
    now += 61
    assert isinstance(begin(store, "old"), Claim)
    assert store._bytes == 0


def test_without_redis_requests_are_answered_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    store = RedisIdempotencyStore(60, 60, "redis://127.0.0.1:1/0")
    held = claim(store, "away")
    held.finish(ANSWER)
    assert isinstance(begin(store, "away"), Claim)
    assert any(record.message == "idempotency_store_unavailable" for record in caplog.records)
