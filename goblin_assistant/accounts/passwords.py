"""Passwords: argon2id with OWASP's parameters, computed by few threads.

A hash takes 19 MiB and about 30 ms of a core. A pool of GOBLIN_PASSWORD_HASH_CONCURRENCY threads
computes all of them, so that many logins at once take neither the memory nor the cores from chats.
Not a semaphore around the server's threads: each thread that has ever hashed keeps a malloc arena
of that size.
"""

from __future__ import annotations

import contextlib
import threading
import unicodedata
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from goblin_assistant.errors import NoFreeSlot, ValidationFailed
from goblin_assistant.metrics import password_requests_waiting
from goblin_assistant.threads.budget import ThreadBudget

T = TypeVar("T")

MIN_LENGTH = 8  # NIST SP 800-63B 3.1.1.2
MAX_BYTES = 1024

_NOBODY = (
    "$argon2id$v=19$m=19456,t=2,p=1$lq8QQPnn5mBnI52xN3n0zg"
    "$6QWKNsDAgifc8RBdk4Y6wQnpRoDENoEpb9dz9Z9dUl8"
)
"""What a password is compared with when there is no account: the hash of a discarded random one.

A constant, because making it at start costs 33 ms. A test checks that its parameters are current.
"""

_HASHER = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)
"""https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html#argon2id"""

_WAIT_SECONDS = 2.0
_RETRY_AFTER_SECONDS = 1.0


class Passwords:
    """Hashes and verifies. `concurrency` hashes are computed at once.

    At most `waiting` requests are inside, each for two seconds at most. Each holds a thread of
    `threads`, the server's budget.
    """

    def __init__(self, concurrency: int, waiting: int, threads: ThreadBudget) -> None:
        self._hasher = _HASHER
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="password")
        self._most = waiting
        self._threads = threads
        self._lock = threading.Lock()
        self._inside = 0
        self._mine = threading.local()
        password_requests_waiting.set_function(lambda: self._inside)

    def hash(self, password: str) -> str:
        """The encoded hash. Raises NoFreeSlot when too many are waiting."""
        return self._run(self._hasher.hash, normal(password))

    def verify(self, encoded: str | None, password: str) -> bool:
        """Whether the password is right. No account (None) takes as long as a wrong password."""
        return self._run(self._verify, encoded, password)

    def needs_rehash(self, encoded: str) -> bool:
        """Whether the hash was made with other parameters than the current ones."""
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
        if self._matches(encoded, normal(password)):
            return known
        # Of a hash from before passwords were normalised. Only who types other letters pays twice.
        return password != normal(password) and self._matches(encoded, password) and known

    def _matches(self, encoded: str, password: str) -> bool:
        try:
            self._hasher.verify(encoded, password)
        except (VerificationError, InvalidHashError):
            return False
        return True

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place among the waiting requests while the block runs.

        Hashing inside the block takes no second place. Raises NoFreeSlot at once without one.
        """
        if getattr(self._mine, "held", False):
            yield
            return
        with self._lock:
            if self._inside >= self._most or not self._threads.take():
                raise _refusal()
            self._inside += 1
        self._mine.held = True
        try:
            yield
        finally:
            self._mine.held = False
            with self._lock:
                self._inside -= 1
                self._threads.give_back()

    def _run(self, function: Callable[..., T], *args: object) -> T:
        with self.place():
            future: Future[T] = self._pool.submit(function, *args)
            try:
                return future.result(_WAIT_SECONDS)
            except FutureTimeout:
                future.cancel()
                raise _refusal() from None


def normal(password: str) -> str:
    """The password in one form: keyboards write the same letter as one character or as two.

    NFC is what NIST SP 800-63B-4 (2025), section 3.1.1.2, and RFC 8265, section 4.2.2, ask for. Not
    NFKC or NFKD, as NIST's third revision had it: they make one of different signs, such as 2 and
    a raised 2.
    """
    return password if password.isascii() else unicodedata.normalize("NFC", password)


def _refusal() -> NoFreeSlot:
    return NoFreeSlot(
        "too many logins at once; try again shortly", retry_after=_RETRY_AFTER_SECONDS
    )


def check_new(password: str, email: str) -> None:
    """Raise ValidationFailed for a password that is too short, too long, or the e-mail address."""
    if len(password) < MIN_LENGTH:
        raise ValidationFailed(f"password: at least {MIN_LENGTH} characters", param="password")
    if len(password.encode("utf-8", "replace")) > MAX_BYTES:
        raise ValidationFailed(f"password: at most {MAX_BYTES} bytes", param="password")
    if normal(password).strip().lower() == normal(email).lower():
        raise ValidationFailed("password: must not be the e-mail address", param="password")
