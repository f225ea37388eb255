"""Passwords: argon2id with OWASP's parameters, computed by few threads.

A hash takes 19 MiB and about 30 ms of a core. All are computed by a pool of GOBLIN_PASSWORD_HASH_CONCURRENCY threads, so that a wave of logins
neither takes the memory of one hash per server thread (32 at once at the library's defaults: 1.9 GB here) nor the cores from chats; threads that
never hash keep no malloc arena of that size either, which a semaphore around the server's own threads would not give.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from goblin_assistant.errors import OverloadedHere, ValidationFailed

T = TypeVar("T")

MIN_LENGTH = 8  # NIST SP 800-63B 3.1.1.2
MAX_BYTES = 1024

# What a password is compared with when there is no account: made with today's parameters (a test sees to it), from a random password that was thrown away.
# Kept as text, because making one at start costs 33 ms of every cold start.
_NOBODY = "$argon2id$v=19$m=19456,t=2,p=1$lq8QQPnn5mBnI52xN3n0zg$6QWKNsDAgifc8RBdk4Y6wQnpRoDENoEpb9dz9Z9dUl8"

_WAIT_SECONDS = 10.0
_QUEUE_PER_THREAD = 200  # more would wait longer than _WAIT_SECONDS anyway


class Passwords:
    """Hashes and verifies. `concurrency` hashes are computed at once; a caller waits at most ten seconds for its own."""

    def __init__(self, concurrency: int) -> None:
        # https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html#argon2id
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="password")
        self._places = threading.BoundedSemaphore(concurrency * _QUEUE_PER_THREAD)

    def hash(self, password: str) -> str:
        """The encoded hash. Raises OverloadedHere when too many are waiting."""
        return self._run(self._hasher.hash, password)

    def verify(self, encoded: str | None, password: str) -> bool:
        """Whether the password is right. None (no such account) takes the same time as a wrong one."""
        return self._run(self._verify, encoded, password)

    def needs_rehash(self, encoded: str) -> bool:
        """Whether the hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(encoded)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _verify(self, encoded: str | None, password: str) -> bool:
        known = encoded is not None
        encoded = encoded or _NOBODY
        if len(password.encode("utf-8", "replace")) > MAX_BYTES:
            password = ""
            known = False
        try:
            self._hasher.verify(encoded, password)
        except (VerificationError, InvalidHashError):
            return False
        return known

    def _run(self, function: Callable[..., T], *args: object) -> T:
        if not self._places.acquire(blocking=False):
            raise OverloadedHere("too many logins at once; try again shortly", retry_after=_WAIT_SECONDS)
        future: Future[T] = self._pool.submit(function, *args)
        future.add_done_callback(lambda _: self._places.release())
        try:
            return future.result(_WAIT_SECONDS)
        except FutureTimeout:
            future.cancel()
            raise OverloadedHere("too many logins at once; try again shortly", retry_after=_WAIT_SECONDS) from None


def check_new(password: str, email: str) -> None:
    """Raise ValidationFailed for a password that is too short, too long, or the e-mail address itself."""
    if len(password) < MIN_LENGTH:
        raise ValidationFailed(f"password: at least {MIN_LENGTH} characters", param="password")
    if len(password.encode("utf-8", "replace")) > MAX_BYTES:
        raise ValidationFailed(f"password: at most {MAX_BYTES} bytes", param="password")
    if password.strip().lower() == email.lower():
        raise ValidationFailed("password: must not be the e-mail address", param="password")
