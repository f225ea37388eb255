"""`Idempotency-Key` on chat: a repeated request gets the first one's answer, and is neither sent nor billed again.

Follows the draft standard (https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/): 409 while the first request is at work,
422 when the key comes with another body. Only successful answers are kept; after a failure the key is free again.
Kept in Redis when REDIS_URL is set (all instances), else in this process, bounded by bytes and time.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

from goblin_assistant.database.gate import Gate
from goblin_assistant.errors import BadRequest, Conflict, IdempotencyMismatch
from goblin_assistant.metrics import idempotent_replays_total

logger = logging.getLogger("goblin_assistant.idempotency")

MAX_KEY_LENGTH = 255
AWAY_SECONDS = 2.0
MAX_ANSWER_BYTES = 4 * 1024 * 1024
"""A longer answer is delivered but not kept: its key is free again."""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A finished answer, as it went to the client."""

    content_type: str
    body: bytes
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Holder:
    """Who claims a name, for which request. `token` tells a claim from a later one of the same name."""

    name: str
    fingerprint: str
    token: str


class Claim:
    """The right to answer for a key. Ends with `finish` or `abandon`, once; later calls do nothing."""

    __slots__ = ("_done", "_holder", "_store")

    def __init__(self, store: IdempotencyStore, holder: Holder) -> None:
        self._store = store
        self._holder = holder
        self._done = False

    def finish(self, answer: StoredResponse) -> None:
        """Keep the answer for those who ask again. Never raises: the answer itself has been given."""
        if self._done:
            return
        if len(answer.body) > MAX_ANSWER_BYTES:
            self.abandon()
            return
        try:
            self._store._put(self._holder, answer)
            self._done = True
        except Exception:
            logger.exception("idempotency_answer_not_kept")
            self.abandon()

    def abandon(self) -> None:
        """There is no answer to keep: free the key."""
        if not self._done:
            self._done = True
            self._store._drop(self._holder)


class Recording:
    """A streamed answer while it passes. Beyond MAX_ANSWER_BYTES nothing is kept, and what was kept is let go."""

    __slots__ = ("_body",)

    def __init__(self) -> None:
        self._body: bytearray | None = bytearray()

    def add(self, piece: bytes) -> None:
        """Keep a piece."""
        if self._body is not None:
            self._body += piece
            if len(self._body) > MAX_ANSWER_BYTES:
                self._body = None

    def body(self) -> bytes | None:
        """All pieces together; None when they are too much."""
        return None if self._body is None else bytes(self._body)


class IdempotencyStore(ABC):
    """Answers by caller and key. `seconds` is how long an answer is kept, `in_flight_seconds` how long a request
    that never ends (its process was killed) may block its key."""

    def __init__(self, seconds: int, in_flight_seconds: float) -> None:
        self._seconds = seconds
        self._in_flight_seconds = in_flight_seconds

    def begin(self, caller: str, key: str, path: str, body: bytes) -> Claim | StoredResponse:
        """Claim `key` for this request, or return the answer that it already has.

        Raises BadRequest for a malformed key, Conflict while another request holds it, IdempotencyMismatch for another body.
        """
        if not 0 < len(key) <= MAX_KEY_LENGTH or not key.isprintable() or not key.isascii():
            raise BadRequest(f"Idempotency-Key: 1 to {MAX_KEY_LENGTH} printable ASCII characters")
        name = hashlib.sha256(f"{caller}\n{key}".encode()).hexdigest()
        content = hashlib.sha256(path.encode() + b"\n")
        content.update(body)
        holder = Holder(name, content.hexdigest(), secrets.token_hex(8))
        held = self._claim(holder)
        if held is None:
            return Claim(self, holder)
        other, answer = held
        if other != holder.fingerprint:
            raise IdempotencyMismatch(
                "this Idempotency-Key was used with another request; use a new key"
            )
        if answer is None:
            raise Conflict(
                "a request with this Idempotency-Key is still being answered", reason="in_flight"
            )
        idempotent_replays_total.inc()
        return answer

    @abstractmethod
    def _claim(self, holder: Holder) -> tuple[str, StoredResponse | None] | None:
        """Take the name atomically and return None, or return what is there: its fingerprint, and the answer."""

    @abstractmethod
    def _put(self, holder: Holder, answer: StoredResponse) -> None:
        """Keep the answer, unless a successor has claimed the name meanwhile."""

    @abstractmethod
    def _drop(self, holder: Holder) -> None:
        """Free the name, unless it is a successor's."""


ENTRY_BYTES = 600
"""What an entry takes beside its texts: two hashes of 64 letters, the objects around them (measured)."""
_HEADER_BYTES = 100


class MemoryIdempotencyStore(IdempotencyStore):
    """In this process. When `max_bytes` are taken the oldest answers go first; requests in flight stay."""

    def __init__(self, seconds: int, in_flight_seconds: float, max_bytes: int) -> None:
        super().__init__(seconds, in_flight_seconds)
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        # Each in order of arrival, and all in one live equally long: whatever has to go is at the front.
        self._claims: OrderedDict[str, tuple[float, Holder]] = OrderedDict()
        self._answers: OrderedDict[str, tuple[float, str, StoredResponse]] = OrderedDict()
        self._bytes = 0

    def _claim(self, holder: Holder) -> tuple[str, StoredResponse | None] | None:
        now = time.monotonic()
        with self._lock:
            self._expire(now)
            if (kept := self._answers.get(holder.name)) is not None:
                return kept[1], kept[2]
            if (claimed := self._claims.get(holder.name)) is not None:
                return claimed[1].fingerprint, None
            self._claims[holder.name] = (now + self._in_flight_seconds, holder)
            return None

    def _put(self, holder: Holder, answer: StoredResponse) -> None:
        size = _size(answer)
        with self._lock:
            claimed = self._claims.get(holder.name)
            if claimed is not None:
                if claimed[1] is not holder:
                    return
                del self._claims[holder.name]
            if size > self._max_bytes or holder.name in self._answers:
                return
            self._answers[holder.name] = (
                time.monotonic() + self._seconds,
                holder.fingerprint,
                answer,
            )
            self._bytes += size
            while self._bytes > self._max_bytes:
                self._remove_oldest()

    def _drop(self, holder: Holder) -> None:
        with self._lock:
            claimed = self._claims.get(holder.name)
            if claimed is not None and claimed[1] is holder:
                del self._claims[holder.name]

    def _expire(self, now: float) -> None:
        while self._claims and next(iter(self._claims.values()))[0] <= now:
            self._claims.popitem(last=False)
        while self._answers and next(iter(self._answers.values()))[0] <= now:
            self._remove_oldest()

    def _remove_oldest(self) -> None:
        _, (_, _, answer) = self._answers.popitem(last=False)
        self._bytes -= _size(answer)


def _size(answer: StoredResponse) -> int:
    headers = sum(len(name) + len(value) + _HEADER_BYTES for name, value in answer.headers.items())
    return ENTRY_BYTES + len(answer.content_type) + len(answer.body) + headers


_PUT = """
local held = redis.call('GET', KEYS[1])
if held == false or held == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3]) end
"""
_DROP = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class RedisIdempotencyStore(IdempotencyStore):
    """In Redis, for all instances. When Redis is away, requests are answered without the guarantee, and the log says so.

    A claim is its fingerprint and token. An answer is a line of JSON about it, then its body as it is: a provider's
    stream may hold bytes that are no UTF-8.
    """

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

    def _claim(self, holder: Holder) -> tuple[str, StoredResponse | None] | None:
        key = _key(holder)
        try:
            # Two tries: the holder may vanish between SET and GET.
            for _ in range(2):
                if self._ask(
                    self._redis.set,
                    key,
                    _mark(holder),
                    nx=True,
                    ex=max(1, int(self._in_flight_seconds)),
                ):
                    return None
                raw = self._ask(self._redis.get, key)
                if isinstance(raw, bytes):
                    return _read(raw)
        except self._away as error:
            self._say(error)
        return None

    def _put(self, holder: Holder, answer: StoredResponse) -> None:
        about = {
            "fingerprint": holder.fingerprint,
            "content_type": answer.content_type,
            "headers": answer.headers,
        }
        value = orjson.dumps(about) + b"\n" + answer.body
        try:
            self._ask(self._redis.eval, _PUT, 1, _key(holder), _mark(holder), value, self._seconds)
        except self._away as error:
            self._say(error)

    def _drop(self, holder: Holder) -> None:
        try:
            self._ask(self._redis.eval, _DROP, 1, _key(holder), _mark(holder))
        except self._away as error:
            self._say(error)


def _key(holder: Holder) -> str:
    return f"goblin:idempotency:2:{holder.name}"  # 2: the form of the value; up to 0.1.0 it was one JSON object


def _mark(holder: Holder) -> bytes:
    return orjson.dumps({"fingerprint": holder.fingerprint, "token": holder.token})


def _read(raw: bytes) -> tuple[str, StoredResponse | None]:
    line, newline, body = raw.partition(b"\n")
    about: dict[str, Any] = orjson.loads(line)
    if not newline:
        return about["fingerprint"], None
    return about["fingerprint"], StoredResponse(about["content_type"], body, about["headers"])


def build_store(
    *, redis_url: str | None, seconds: int, in_flight_seconds: float, max_bytes: int
) -> IdempotencyStore:
    """The store that the configuration asks for."""
    if redis_url:
        return RedisIdempotencyStore(seconds, in_flight_seconds, redis_url)
    return MemoryIdempotencyStore(seconds, in_flight_seconds, max_bytes)
