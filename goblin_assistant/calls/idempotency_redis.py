"""Idempotency keys in Redis, for all instances that share it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from goblin_assistant.calls.idempotency import Holder, IdempotencyStore, StoredResponse, logger
from goblin_assistant.calls.sealing import Seal
from goblin_assistant.database.gate import Gate
from goblin_assistant.metrics import idempotency_store_failures_total

UNAVAILABLE_SECONDS = 2.0
"""How long Redis is not asked again after it did not answer."""

MAX_LEFT = 256
"""How many claims that could not be freed are remembered."""

_PUT = """
local held = redis.call('GET', KEYS[1])
if held == false or held == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3]) end
"""
_DROP = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class RedisIdempotencyStore(IdempotencyStore):
    """Without Redis, requests are answered without the guarantee, and the log says so.

    A claim is stored as its fingerprint and token. A response is stored as a line of JSON with the
    fingerprint, and behind it, encrypted with `secrets` (sealing.py): a line with its headers, and
    the body as it is, because a provider's stream may not be UTF-8.
    """

    def __init__(
        self, seconds: int, in_flight_seconds: float, url: str, secrets: Sequence[str]
    ) -> None:
        import redis  # 9 MB and 0.1 s that a server without Redis never needs

        from goblin_assistant.database.redis_client import redis_client

        super().__init__(seconds, in_flight_seconds)
        self._seal = Seal(secrets)
        self._redis = redis_client(url, connect_seconds=0.3, answer_seconds=0.5, retries=1)
        self._redis_error = redis.RedisError
        self._bad_answer = redis.ResponseError
        self._no_answer = (redis.ConnectionError, redis.TimeoutError)
        self._gate = Gate(UNAVAILABLE_SECONDS)
        self._left: deque[Holder] = deque()

    def _send(self, command: Callable[..., Any], *args: Any, **options: Any) -> Any:
        # Each request would hold a thread for half a second while Redis hangs.
        if not self._gate.enter():
            raise self._redis_error("no answer a moment ago")
        try:
            answer = command(*args, **options)
        except self._no_answer:
            self._gate.failed()
            raise
        except self._redis_error:
            self._gate.succeeded()  # an error, but an answer
            raise
        self._gate.succeeded()
        return answer

    def _claim(self, holder: Holder) -> tuple[str, StoredResponse | None] | None:
        key, claim = _key(holder), _claim_value(holder)
        seconds = max(1, int(self._in_flight_seconds))
        try:
            if self._left:
                self._free_left()
            # Two tries: the holder may vanish between SET and GET.
            for _ in range(2):
                if self._send(self._redis.set, key, claim, nx=True, ex=seconds):
                    return None
                raw = self._get(key)
                if raw is not None and (held := self._read(holder, raw)) is not None:
                    return held
                if raw is not None:
                    self._discard(key, raw)
        except self._redis_error as error:
            _log_unavailable(error)
        return None

    def _get(self, key: str) -> bytes | None:
        try:
            raw: bytes | None = self._send(self._redis.get, key)
        except self._bad_answer as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            logger.warning("idempotency_value_unreadable")
            self._send(self._redis.delete, key)
            return None
        return raw

    def _discard(self, key: str, raw: bytes) -> None:
        # Only this value: another request may have claimed the key in the meantime.
        logger.warning("idempotency_value_unreadable")
        self._send(self._redis.eval, _DROP, 1, key, raw)

    def _put(self, holder: Holder, response: StoredResponse) -> None:
        about = {"content_type": response.content_type, "headers": response.headers}
        content = orjson.dumps(about) + b"\n" + response.body
        head = orjson.dumps({"fingerprint": holder.fingerprint})
        value = head + b"\n" + self._seal.close(content, _bound_to(holder, holder.fingerprint))
        try:
            self._run(_PUT, holder, value, self._seconds)
        except self._redis_error as error:
            # A full Redis refuses the response; the claim can be deleted all the same.
            _log_unavailable(error)
            self._drop(holder)

    def _drop(self, holder: Holder) -> None:
        try:
            self._run(_DROP, holder)
        except self._redis_error as error:
            _log_unavailable(error)
            if len(self._left) < MAX_LEFT:
                self._left.append(holder)

    def _free_left(self) -> None:
        """Free the claims that could not be freed when they ended: their keys would answer 409
        until they expire. Raises RedisError."""
        while True:
            try:
                holder = self._left.popleft()
            except IndexError:  # another thread took the last one
                return
            try:
                self._run(_DROP, holder)
            except self._redis_error:
                self._left.append(holder)
                raise

    def _read(self, holder: Holder, raw: bytes) -> tuple[str, StoredResponse | None] | None:
        """What is stored; None when this program did not write it, or not with these secrets."""
        line, newline, sealed = raw.partition(b"\n")
        fingerprint = (_object(line) or {}).get("fingerprint")
        if not isinstance(fingerprint, str):
            return None
        if not newline:
            return fingerprint, None
        content = self._seal.open(sealed, _bound_to(holder, fingerprint))
        if content is None:
            return None
        line, _, body = content.partition(b"\n")
        about = _object(line) or {}
        content_type, headers = about.get("content_type"), about.get("headers")
        if not isinstance(content_type, str) or not isinstance(headers, dict):
            return None
        return fingerprint, StoredResponse(content_type, body, headers)

    def _run(self, script: str, holder: Holder, *args: Any) -> None:
        self._send(self._redis.eval, script, 1, _key(holder), _claim_value(holder), *args)


def _key(holder: Holder) -> str:
    # 3 is the format of the value: 2 was in the clear, and up to 0.1.0 it was one JSON object.
    return f"goblin:idempotency:3:{holder.name}"


def _bound_to(holder: Holder, fingerprint: str) -> bytes:
    """What a sealed response belongs to: it opens under no other key, and for no other body."""
    return f"{_key(holder)} {fingerprint}".encode()


def _claim_value(holder: Holder) -> bytes:
    return orjson.dumps({"fingerprint": holder.fingerprint, "token": holder.token})


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _log_unavailable(error: Exception) -> None:
    idempotency_store_failures_total.inc()
    logger.warning("idempotency_store_unavailable", extra={"error_type": type(error).__name__})
