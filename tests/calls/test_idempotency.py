"""Both stores keep the same promises. The Redis store runs against a real Redis."""

from __future__ import annotations

import tracemalloc
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import redis

from goblin_assistant.calls import idempotency_redis
from goblin_assistant.calls.idempotency import (
    MAX_BODY_BYTES,
    Claim,
    Holder,
    IdempotencyStore,
    Recording,
    StoredResponse,
)
from goblin_assistant.calls.idempotency_memory import ENTRY_BYTES, MemoryIdempotencyStore
from goblin_assistant.calls.idempotency_redis import RedisIdempotencyStore
from goblin_assistant.errors import BadRequest, Conflict, IdempotencyMismatch
from goblin_assistant.metrics import REGISTRY
from tests.conftest import wait_until
from tests.support.services import RedisServer

ANSWER = StoredResponse("application/json", b'{"a": "\xc3\xa4"}', {"X-Goblin-Provider": "echo"})


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> IdempotencyStore:
    if request.param == "memory":
        return in_memory()
    url = request.getfixturevalue("redis_server").url
    return RedisIdempotencyStore(60, 60, url, ["s" * 40])


def in_memory() -> MemoryIdempotencyStore:
    return MemoryIdempotencyStore(60, 60, 10_000_000)


def begin(
    store: IdempotencyStore, key: str = "k", body: bytes = b"{}", caller: str = "user:1"
) -> Claim | StoredResponse:
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
    claim(store, "long").finish(StoredResponse("application/json", b"x" * (MAX_BODY_BYTES + 1), {}))
    assert isinstance(begin(store, "long"), Claim)


@pytest.mark.parametrize("key", ["", "x" * 256, "a\x00b", "schlüssel"])
def test_a_malformed_key_is_refused(store: IdempotencyStore, key: str) -> None:
    with pytest.raises(BadRequest):
        begin(store, key)


def test_memory_is_bounded_and_the_oldest_answer_goes_first() -> None:
    store = MemoryIdempotencyStore(60, 60, 2 * (ENTRY_BYTES + 110) + 50)
    for number in range(3):
        claim(store, f"k{number}").finish(StoredResponse("text/plain", b"x" * 100, {}))
    assert isinstance(begin(store, "k0"), Claim)
    assert isinstance(begin(store, "k2"), StoredResponse)
    assert store._bytes == 2 * (ENTRY_BYTES + 110)


def test_what_the_memory_store_counts_is_what_it_holds() -> None:
    store = MemoryIdempotencyStore(60, 60, 10_000_000)
    headers = {
        "Server-Timing": "queue;dur=0, overhead;dur=0.41, provider;dur=512.33",
        "X-Goblin-Attempts": "1",
    }
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(2000):
            mine = {name: value + str(number) for name, value in headers.items()}
            claim(store, f"k{number}").finish(
                StoredResponse("application/json", b"x" * 100 + b"%d" % number, mine)
            )
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert 0.5 < held / store._bytes < 1.25


def test_an_answer_that_fills_the_whole_memory_store_is_kept() -> None:
    answer = StoredResponse("text/plain", b"x" * 100, {"abc": "def"})
    size = ENTRY_BYTES + len("text/plain") + 100 + len("abcdef") + 100
    store = MemoryIdempotencyStore(60, 60, size)
    claim(store, "fits").finish(answer)
    assert begin(store, "fits") == answer
    assert store._bytes == size
    smaller = MemoryIdempotencyStore(60, 60, size - 1)
    claim(smaller, "fits").finish(answer)
    assert isinstance(begin(smaller, "fits"), Claim)
    assert smaller._bytes == 0


def test_an_answer_is_counted_once_though_two_requests_gave_it() -> None:
    store = MemoryIdempotencyStore(60, 60, 10_000)
    held = claim(store, "twice")
    held.finish(ANSWER)
    counted = store._bytes
    again = Claim(store, held._holder)
    again.finish(StoredResponse("text/plain", b"another", {}))
    assert begin(store, "twice") == ANSWER
    assert store._bytes == counted


def test_a_key_of_255_characters_is_long_enough_and_not_too_long() -> None:
    store = in_memory()
    claim(store, "x" * 255)
    claim(store, "y")


def test_an_answer_of_the_greatest_length_is_kept() -> None:
    store = in_memory()
    longest = StoredResponse("text/plain", b"x" * 4_194_304, {})
    claim(store, "longest").finish(longest)
    assert begin(store, "longest") == longest
    recording = Recording()
    recording.add(longest.body)
    assert recording.body() == longest.body
    recording.add(b"x")
    assert recording.body() is None
    claim(store, "longer").finish(StoredResponse("text/plain", longest.body + b"x", {}))
    assert isinstance(begin(store, "longer"), Claim)


def test_every_other_body_is_another_request() -> None:
    store = in_memory()
    claim(store, "others").finish(ANSWER)
    for number in range(16):
        with pytest.raises(IdempotencyMismatch):
            begin(store, "others", body=b"%d" % number)


def test_the_same_body_to_another_path_is_another_request() -> None:
    store = in_memory()
    claim(store, "path").finish(ANSWER)
    with pytest.raises(IdempotencyMismatch):
        store.begin("user:1", "path", "/v1/embeddings", b"{}")


def test_a_replay_is_counted_and_a_conflict_says_that_the_request_is_in_flight() -> None:
    store = in_memory()
    before = REGISTRY.get_sample_value("idempotent_replays_total")
    held = claim(store, "counted")
    with pytest.raises(Conflict) as refused:
        begin(store, "counted")
    assert refused.value.reason == "in_flight"
    assert REGISTRY.get_sample_value("idempotent_replays_total") == before
    held.finish(ANSWER)
    begin(store, "counted")
    assert REGISTRY.get_sample_value("idempotent_replays_total") == (before or 0) + 1


def test_an_answer_is_finished_once() -> None:
    store = in_memory()
    held = claim(store, "once")
    held.finish(ANSWER)
    held.finish(StoredResponse("text/plain", b"another", {}))
    held.abandon()
    assert begin(store, "once") == ANSWER


def test_an_answer_larger_than_the_whole_memory_store_pushes_nothing_out() -> None:
    store = MemoryIdempotencyStore(60, 60, 5000)
    claim(store, "small").finish(ANSWER)
    claim(store, "large").finish(StoredResponse("text/plain", b"x" * 5001, {}))
    assert isinstance(begin(store, "large"), Claim)
    assert begin(store, "small") == ANSWER


def test_a_full_memory_store_looks_at_the_oldest_answers_only() -> None:
    class Counting(OrderedDict[str, Any]):
        looked = 0

        def items(self) -> Any:
            Counting.looked += len(self)
            return super().items()

        def values(self) -> Any:  # only its first is read
            return super().values()

    store = MemoryIdempotencyStore(60, 60, 1000 * (ENTRY_BYTES + 110))
    store._responses, store._claims = Counting(), Counting()
    for number in range(1500):
        claim(store, f"k{number}").finish(StoredResponse("text/plain", b"x" * 100, {}))
    assert len(store._responses) == 1000
    assert not store._claims
    assert Counting.looked == 0


@pytest.mark.parametrize("end", ["finish", "abandon"])
def test_a_claim_that_ran_out_leaves_its_successor_alone(store: IdempotencyStore, end: str) -> None:
    store._in_flight_seconds = 0
    late = claim(store, "late")
    store._in_flight_seconds = 60
    # In Redis a claim lives for a second at least.
    successor = wait_until(lambda: claimed_anew(store), 30, "the claim to run out")
    late.finish(ANSWER) if end == "finish" else late.abandon()
    with pytest.raises(Conflict):
        begin(store, "late")
    theirs = StoredResponse("text/plain", b"theirs", {})
    successor.finish(theirs)
    assert begin(store, "late") == theirs


def claimed_anew(store: IdempotencyStore) -> Claim | None:
    try:
        return claim(store, "late")
    except Conflict:
        return None


def test_an_answer_of_any_bytes_is_replayed(store: IdempotencyStore) -> None:
    body = bytes(range(256)) + b"data: \xff\xfe\n\n\n"
    claim(store, "bytes").finish(StoredResponse("text/event-stream", body, {"a": "b"}))
    assert begin(store, "bytes") == StoredResponse("text/event-stream", body, {"a": "b"})


def test_a_store_that_fails_frees_the_key_and_lets_the_answer_go(
    store: IdempotencyStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    held = claim(store, "broken")
    monkeypatch.setattr(store, "_put", broken)
    held.finish(ANSWER)
    assert isinstance(begin(store, "broken"), Claim)
    assert [record.message for record in caplog.records] == ["idempotency_answer_not_kept"]


def test_a_recording_lets_go_of_what_is_too_long_to_keep() -> None:
    recording = Recording()
    for _ in range(MAX_BODY_BYTES // 1000):
        recording.add(b"x" * 1000)
    assert len(recording.body() or b"") == MAX_BODY_BYTES // 1000 * 1000
    tracemalloc.start()
    try:
        recording.add(b"x" * 1000)
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(1000):
            recording.add(b"x" * 10_000)
        assert tracemalloc.get_traced_memory()[0] - before < 10_000
    finally:
        tracemalloc.stop()
    assert recording.body() is None


def test_answers_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    clock: Callable[[], float] = lambda: now  # noqa: E731
    monkeypatch.setattr("goblin_assistant.calls.idempotency_memory.time.monotonic", lambda: clock())
    store = MemoryIdempotencyStore(60, 60, 10_000)
    claim(store, "old").finish(ANSWER)
    now += 59
    assert begin(store, "old") == ANSWER
    now += 1
    held = begin(store, "old")
    assert isinstance(held, Claim)
    assert store._bytes == 0
    now += 59
    with pytest.raises(Conflict):
        begin(store, "old")
    now += 1
    assert isinstance(begin(store, "old"), Claim)


def test_what_has_expired_goes_oldest_first_and_what_has_not_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("goblin_assistant.calls.idempotency_memory.time.monotonic", lambda: now)
    store = MemoryIdempotencyStore(60, 60, 10_000)
    for name in ("a", "b"):
        claim(store, f"answered {name}").finish(ANSWER)
        claim(store, f"running {name}")
        now += 10
    claim(store, "answered late").finish(ANSWER)
    claim(store, "running late")
    now += 55
    assert begin(store, "answered late") == ANSWER
    with pytest.raises(Conflict):
        begin(store, "running late")
    for name in ("answered a", "answered b", "running a", "running b"):
        assert isinstance(begin(store, name), Claim)
    now += 500
    for name in ("answered late", "running late"):
        assert isinstance(begin(store, name), Claim)


def test_without_redis_requests_are_answered_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = RedisIdempotencyStore(60, 60, "redis://127.0.0.1:1/0", ["s" * 40])
    held = claim(store, "unavailable")
    held.finish(ANSWER)
    assert isinstance(begin(store, "unavailable"), Claim)
    assert any(record.message == "idempotency_store_unavailable" for record in caplog.records)


JUNK: list[bytes | list[bytes]] = [
    b"notjson",
    b"",
    b"\n",
    b"1",
    b"[1]",
    b"[1]\nabc",
    b"{}",
    b'{"fingerprint": 1}',
    b'{"fingerprint": "a"}\nabc',
    b'{"fingerprint": "a", "content_type": 1, "headers": {}}\nabc',
    b'{"fingerprint": "a", "content_type": "a", "headers": []}\nabc',
    b'{"fingerprint": "a", "content_type": "a", "headers": {"a": 1}}\nabc',
    b"\xff\xfe",
    [b"a list"],
]


@pytest.mark.parametrize("junk", JUNK, ids=str)
def test_a_value_in_redis_that_nobody_here_wrote_is_no_claim(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture, junk: bytes | list[bytes]
) -> None:
    store = RedisIdempotencyStore(60, 60, redis_server.url, ["s" * 40])
    client = redis.Redis.from_url(redis_server.url)
    client.flushdb()
    claim(store, "junk")
    (key,) = client.keys("goblin:idempotency:*")
    client.delete(key)
    if isinstance(junk, list):
        client.rpush(key, *junk)
    else:
        client.set(key, junk)
    claim(store, "junk").finish(ANSWER)
    assert begin(store, "junk") == ANSWER
    assert [record.message for record in caplog.records] == ["idempotency_value_unreadable"]


def test_a_full_redis_frees_the_key_when_it_refuses_the_answer(redis_server: RedisServer) -> None:
    store = RedisIdempotencyStore(60, 60, redis_server.url, ["s" * 40])
    client = redis.Redis.from_url(redis_server.url)
    held = claim(store, "full")
    client.config_set("maxmemory", 1)
    try:
        held.finish(ANSWER)
    finally:
        client.config_set("maxmemory", 0)
    claim(store, "full").finish(ANSWER)
    assert begin(store, "full") == ANSWER


@pytest.mark.parametrize("end", ["finish", "abandon"])
def test_a_key_that_could_not_be_freed_is_freed_with_the_next_call(
    redis_server: RedisServer, end: str
) -> None:
    store = RedisIdempotencyStore(60, 60, redis_server.url, ["s" * 40])
    client = redis.Redis.from_url(redis_server.url)
    client.flushdb()
    held = claim(store, end)
    # A replica refuses every write, and still answers.
    client.execute_command("REPLICAOF", "127.0.0.1", "1")
    try:
        if end == "finish":
            held.finish(ANSWER)
        else:
            held.abandon()
        assert client.dbsize() == 1, "the claim is still there"
    finally:
        client.execute_command("REPLICAOF", "NO", "ONE")
    claim(store, end).finish(ANSWER)
    assert begin(store, end) == ANSWER


def test_only_so_many_keys_that_could_not_be_freed_are_remembered(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency_redis, "MAX_LEFT", 2)
    store = RedisIdempotencyStore(3600, 3600, redis_server.url, ["s" * 40])
    client = redis.Redis.from_url(redis_server.url)
    try:
        client.flushdb()
        held = [claim(store, f"left{number}") for number in range(3)]
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        try:
            for one in held:
                one.abandon()
        finally:
            client.execute_command("REPLICAOF", "NO", "ONE")
        claim(store, "next")
        assert client.dbsize() == 2, "the third of the three, and the next"
        claim(store, "left0")
        claim(store, "left1")
        with pytest.raises(Conflict):
            begin(store, "left2")
    finally:
        client.close()


def test_redis_holds_no_text_of_a_chat_and_a_new_secret_reads_what_the_old_one_wrote(
    redis_server: RedisServer,
) -> None:
    old, new, other = "o" * 40, "n" * 40, "x" * 40
    text = b'{"said": "canary-4f1d in the clear"}'
    answer = StoredResponse("application/json", text, {"X-Goblin-Provider": "canary-provider"})
    claim(RedisIdempotencyStore(60, 60, redis_server.url, [old]), "sealed").finish(answer)
    client = redis.Redis.from_url(redis_server.url)
    try:
        stored = [client.get(name) for name in client.keys("goblin:idempotency:*")]
        assert stored
        assert not any(b"canary" in value for value in stored)
        # While keys rotate.
        assert (
            begin(RedisIdempotencyStore(60, 60, redis_server.url, [new, old]), "sealed") == answer
        )
        (name,) = client.keys("goblin:idempotency:*")
        held = client.get(name)
        # Without the secret it is no answer of this product: the request runs again.
        store = RedisIdempotencyStore(60, 60, redis_server.url, [other])
        assert isinstance(begin(store, "sealed"), Claim)
        client.set(name, held[:-1] + bytes([held[-1] ^ 1]))
        changed = RedisIdempotencyStore(60, 60, redis_server.url, [old])
        assert isinstance(begin(changed, "sealed"), Claim)
    finally:
        client.close()


@pytest.mark.parametrize("end", ["finish", "abandon"])
def test_a_claim_that_has_ended_does_not_ask_the_store_again(end: str) -> None:
    asked: list[str] = []

    class Recorded(MemoryIdempotencyStore):
        def _put(self, holder: Holder, response: StoredResponse) -> None:
            asked.append("finish")

        def _drop(self, holder: Holder) -> None:
            asked.append("abandon")

    held = claim(Recorded(60, 60, 10_000), "ended")
    for _ in range(2):
        held.finish(ANSWER) if end == "finish" else held.abandon()
    held.finish(ANSWER)
    held.abandon()
    assert asked == [end]
