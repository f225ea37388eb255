"""`Idempotency-Key` on chat: a repeated request gets the first one's response.

It is neither sent nor billed again. The rules are the draft standard's
(https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/): 409 while the first
request is at work, 422 when the key comes with another body. Only successful responses are kept;
after a failure the key is free again.

The stores are in idempotency_memory.py (one process) and idempotency_redis.py (all instances).
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from abc import ABC, abstractmethod
from dataclasses import dataclass

from goblin_assistant.errors import BadRequest, Conflict, IdempotencyMismatch
from goblin_assistant.metrics import idempotent_replays_total

logger = logging.getLogger("goblin_assistant.idempotency")

MAX_KEY_LENGTH = 255
MAX_BODY_BYTES = 4 * 1024 * 1024
"""A longer response is delivered but not kept: its key is free again."""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A whole response, as it went to the client."""

    content_type: str
    body: bytes
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Holder:
    """Who claims a name, and for which request. `token` tells two claims of one name apart."""

    name: str
    fingerprint: str
    token: str


class Claim:
    """The right to answer for a key. `finish` or `abandon` ends it; later calls do nothing."""

    __slots__ = ("_done", "_holder", "_store")

    def __init__(self, store: IdempotencyStore, holder: Holder) -> None:
        self._store = store
        self._holder = holder
        self._done = False

    def finish(self, response: StoredResponse) -> None:
        """Keep the response for repeated requests. Never raises: the client has it already."""
        if self._done:
            return
        if len(response.body) > MAX_BODY_BYTES:
            self.abandon()
            return
        try:
            self._store._put(self._holder, response)
            self._done = True
        except Exception:
            logger.exception("idempotency_answer_not_kept")
            self.abandon()

    def abandon(self) -> None:
        """Free the key: there is no response to keep."""
        if not self._done:
            self._done = True
            self._store._drop(self._holder)


class Recording:
    """A copy of a streamed body, made while it passes. Beyond MAX_BODY_BYTES it is dropped."""

    __slots__ = ("_body",)

    def __init__(self) -> None:
        self._body: bytearray | None = bytearray()

    def add(self, piece: bytes) -> None:
        """Keep a piece."""
        if self._body is not None:
            self._body += piece
            if len(self._body) > MAX_BODY_BYTES:
                self._body = None

    def body(self) -> bytes | None:
        """The whole body; None when it was too long."""
        return None if self._body is None else bytes(self._body)


class IdempotencyStore(ABC):
    """Responses by caller and key.

    A response is kept for `seconds`. A request that never ends, because its process was killed,
    blocks its key for `in_flight_seconds`.
    """

    def __init__(self, seconds: int, in_flight_seconds: float) -> None:
        self._seconds = seconds
        self._in_flight_seconds = in_flight_seconds

    def begin(self, caller: str, key: str, path: str, body: bytes) -> Claim | StoredResponse:
        """Claim `key` for this request, or return the response that it already has.

        Raises BadRequest for a malformed key, Conflict while another request holds it, and
        IdempotencyMismatch for another body.
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
        fingerprint, response = held
        if fingerprint != holder.fingerprint:
            raise IdempotencyMismatch(
                "this Idempotency-Key was used with another request; use a new key"
            )
        if response is None:
            raise Conflict(
                "a request with this Idempotency-Key is still being answered", reason="in_flight"
            )
        idempotent_replays_total.inc()
        return response

    @abstractmethod
    def _claim(self, holder: Holder) -> tuple[str, StoredResponse | None] | None:
        """Take the name atomically and return None.

        If it is taken, return the fingerprint of its request, and its response if there is one.
        """

    @abstractmethod
    def _put(self, holder: Holder, response: StoredResponse) -> None:
        """Keep the response, unless a later claim has the name."""

    @abstractmethod
    def _drop(self, holder: Holder) -> None:
        """Free the name, unless a later claim has it."""
