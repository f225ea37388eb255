"""`Idempotency-Key` on chat: a repeated request gets the first one's answer, and is neither sent nor billed again.

Follows the draft standard (https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/): 409 while the first request is at work,
422 when the key comes with another body. Only successful answers are kept; after a failure the key is free again.
Kept in Redis when REDIS_URL is set (all instances), else in this process, bounded by bytes and time.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from goblin_assistant.database_gate import Gate
from goblin_assistant.errors import BadRequest, Conflict, IdempotencyMismatch
from goblin_assistant.metrics import idempotent_replays_total

logger = logging.getLogger("goblin_assistant.idempotency")

MAX_KEY_LENGTH = 255
AWAY_SECONDS = 2.0
MAX_ANSWER_BYTES = 4 * 1024 * 1024
"""A longer answer is delivered but not kept: its key is free again."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer, as it went to the client."""

    content_type: str
    body: bytes
    headers: dict[str, str]


class Claim:
    """The right to answer for a key. Ends with `finish` or `abandon`, once; later calls do nothing."""

    __slots__ = ("_done", "_fingerprint", "_name", "_store")

    def __init__(self, store: IdempotencyStore, name: str, fingerprint: str) -> None:
        self._store = store
        self._name = name
        self._fingerprint = fingerprint
        self._done = False

    def finish(self, answer: Answer) -> None:
        """Keep the answer for those who ask again."""
        if self._done:
            return
        if len(answer.body) > MAX_ANSWER_BYTES:
            self.abandon()
            return
        self._done = True
        self._store._put(self._name, self._fingerprint, answer)

    def abandon(self) -> None:
        """There is no answer to keep: free the key."""
        if not self._done:
            self._done = True
            self._store._drop(self._name)


class IdempotencyStore(ABC):
    """Answers by caller and key. `seconds` is how long an answer is kept, `in_flight_seconds` how long a request
    that never ends (its process was killed) may block its key."""

    def __init__(self, seconds: int, in_flight_seconds: float) -> None:
        self._seconds = seconds
        self._in_flight_seconds = in_flight_seconds

    def begin(self, caller: str, key: str, path: str, body: bytes) -> Claim | Answer:
        """Claim `key` for this request, or return the answer that it already has.

        Raises BadRequest for a malformed key, Conflict while another request holds it, IdempotencyMismatch for another body.
        """
        if not 0 < len(key) <= MAX_KEY_LENGTH or not key.isprintable() or not key.isascii():
            raise BadRequest(f"Idempotency-Key: 1 to {MAX_KEY_LENGTH} printable ASCII characters")
        name = hashlib.sha256(f"{caller}\n{key}".encode()).hexdigest()
        fingerprint = hashlib.sha256(path.encode() + b"\n" + body).hexdigest()
        held = self._claim(name, fingerprint)
        if held is None:
            return Claim(self, name, fingerprint)
        other, answer = held
        if other != fingerprint:
            raise IdempotencyMismatch("this Idempotency-Key was used with another request; use a new key")
        if answer is None:
            raise Conflict("a request with this Idempotency-Key is still being answered", reason="in_flight")
        idempotent_replays_total.inc()
        return answer

    @abstractmethod
    def _claim(self, name: str, fingerprint: str) -> tuple[str, Answer | None] | None:
        """Take the name atomically and return None, or return what is there."""

    @abstractmethod
    def _put(self, name: str, fingerprint: str, answer: Answer) -> None: ...

    @abstractmethod
    def _drop(self, name: str) -> None: ...


class MemoryIdempotencyStore(IdempotencyStore):
    """In this process. When `max_bytes` are taken the oldest answers go first; requests in flight stay."""

    def __init__(self, seconds: int, in_flight_seconds: float, max_bytes: int) -> None:
        super().__init__(seconds, in_flight_seconds)
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, tuple[float, str, Answer | None]] = OrderedDict()
        self._bytes = 0

    def _claim(self, name: str, fingerprint: str) -> tuple[str, Answer | None] | None:
        now = time.monotonic()
        with self._lock:
            self._expire(now)
            entry = self._entries.get(name)
            if entry is not None and entry[0] > now:
                return entry[1], entry[2]
            self._remove(name)
            self._entries[name] = (now + self._in_flight_seconds, fingerprint, None)
            return None

    def _put(self, name: str, fingerprint: str, answer: Answer) -> None:
        with self._lock:
            self._remove(name)
            self._entries[name] = (time.monotonic() + self._seconds, fingerprint, answer)
            self._bytes += len(answer.body)
            if self._bytes > self._max_bytes:
                for old in [key for key, entry in self._entries.items() if entry[2] is not None]:
                    self._remove(old)
                    if self._bytes <= self._max_bytes:
                        break

    def _drop(self, name: str) -> None:
        with self._lock:
            self._remove(name)

    def _expire(self, now: float) -> None:
        # In order of arrival, so looking at the front is enough; an entry behind a longer-lived one waits its turn and is
        # still not used, because its time is looked at when it is asked for.
        while self._entries:
            name, entry = next(iter(self._entries.items()))
            if entry[0] > now:
                return
            self._remove(name)

    def _remove(self, name: str) -> None:
        entry = self._entries.pop(name, None)
        if entry is not None and entry[2] is not None:
            self._bytes -= len(entry[2].body)


class RedisIdempotencyStore(IdempotencyStore):
    """In Redis, for all instances. When Redis is away, requests are answered without the guarantee, and the log says so."""

    def __init__(self, seconds: int, in_flight_seconds: float, url: str) -> None:
        import redis  # 9 MB and 0.1 s that a server without Redis never needs
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        super().__init__(seconds, in_flight_seconds)
        self._redis = redis.Redis.from_url(
            url,
            socket_connect_timeout=0.3,
            socket_timeout=0.5,
            # Its default is three more times with pauses. Once more is for a connection that was closed while it idled.
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        )
        self._away = redis.RedisError
        self._lost = (redis.ConnectionError, redis.TimeoutError)
        self._gate = Gate(AWAY_SECONDS)

    def _ask(self, command: Callable[..., Any], *args: Any, **options: Any) -> Any:
        # Redis that hangs is left alone for a moment: each request would wait half a second for it, in a thread.
        if not self._gate.enter():
            raise self._away("no answer a moment ago")
        try:
            answer = command(*args, **options)
        except self._lost:
            self._gate.failed()
            raise
        except self._away:
            self._gate.succeeded()  # an error, but an answer
            raise
        self._gate.succeeded()
        return answer

    @staticmethod
    def _say(error: Exception) -> None:
        logger.warning("idempotency_store_unavailable", extra={"error_type": type(error).__name__})

    def _claim(self, name: str, fingerprint: str) -> tuple[str, Answer | None] | None:
        key = f"goblin:idempotency:{name}"
        mark = orjson.dumps({"fingerprint": fingerprint})
        try:
            # Two tries: the holder may vanish between SET and GET.
            for _ in range(2):
                if self._ask(self._redis.set, key, mark, nx=True, ex=max(1, int(self._in_flight_seconds))):
                    return None
                raw = self._ask(self._redis.get, key)
                if raw is not None:
                    held = orjson.loads(raw)
                    answer = held.get("answer")
                    return held["fingerprint"], None if answer is None else Answer(
                        answer["content_type"], answer["body"].encode(), answer["headers"]
                    )
        except self._away as error:
            self._say(error)
        return None

    def _put(self, name: str, fingerprint: str, answer: Answer) -> None:
        held = {
            "fingerprint": fingerprint,
            "answer": {
                "content_type": answer.content_type,
                "body": answer.body.decode(),
                "headers": answer.headers,
            },
        }
        try:
            self._ask(self._redis.set, f"goblin:idempotency:{name}", orjson.dumps(held), ex=self._seconds)
        except self._away as error:
            self._say(error)

    def _drop(self, name: str) -> None:
        try:
            self._ask(self._redis.delete, f"goblin:idempotency:{name}")
        except self._away as error:
            self._say(error)


def build_store(*, redis_url: str | None, seconds: int, in_flight_seconds: float, max_bytes: int) -> IdempotencyStore:
    """The store that the configuration asks for."""
    if redis_url:
        return RedisIdempotencyStore(seconds, in_flight_seconds, redis_url)
    return MemoryIdempotencyStore(seconds, in_flight_seconds, max_bytes)
