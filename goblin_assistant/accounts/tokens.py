"""Signed access tokens (JWT), and random tokens of which only the hash is stored.

Access tokens are RFC 7519 JWTs, HS256, with sub (user id), tv (the user's token version), iat, exp
and jti. They identify the user. Roles and limits come from the database with each request.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from goblin_assistant.errors import AuthFailure, Unauthorized

REFRESH_PREFIX = "gor_"
KEY_PREFIX = "gob_"

_CACHE_SIZE = 20_000
_SUCCESSOR = b"goblin refresh token\0"
"""Stands before what is signed: no JWT begins so."""

LEEWAY_SECONDS = 30
"""How far the clocks of two instances may differ. A token of one that is ahead is not yet issued
for the other (RFC 7519, section 4.1.4)."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What an access token says. `expires_at` is in seconds since 1970."""

    user_id: int
    token_version: int
    expires_at: float


class AccessTokens:
    """Issues and checks access tokens.

    The first of `keys` signs. Tokens by any of them are accepted, so that the key can be replaced
    while clients hold tokens by the old one. A checked token is remembered until it expires: a
    check costs 69 us, a look-up 1 us.

    PyJWT is imported with the first token. It imports cryptography, which HS256 does not need: a
    start would take 6 % more CPU, and a server whose callers have API keys 8 MB more.
    """

    def __init__(self, keys: Sequence[str], seconds: int) -> None:
        self.seconds = seconds
        self._keys = tuple(keys)
        self._cache: dict[str, Claims] = {}
        self._lock = threading.Lock()

    def issue(self, user_id: int, token_version: int) -> str:
        """A new token."""
        import jwt

        now = int(time.time())
        claims = {
            "sub": str(user_id),
            "tv": token_version,
            "iat": now,
            "exp": now + self.seconds,
            "jti": secrets.token_hex(8),
        }
        return jwt.encode(claims, self._keys[0], algorithm="HS256")

    def check(self, token: str) -> Claims:
        """The token's claims. Raises Unauthorized when it is not ours or has expired."""
        claims = self._cache.get(token)
        if claims is not None:
            if claims.expires_at > time.time() - LEEWAY_SECONDS:
                return claims
            raise _expired()
        claims = self._read(token)
        with self._lock:
            if len(self._cache) >= _CACHE_SIZE:
                # Rare, so the simple way: each token is checked once more.
                self._cache.clear()
            self._cache[token] = claims
        return claims

    def successors(self, refresh_token: str) -> list[str]:
        """The refresh tokens that may follow this one where an answer must be repeatable: the first
        is given out, the others are by a key that is being replaced.

        They follow from the token and our key, so that the token need not be stored to be given
        again. Nobody without the key can make one.
        """
        message = _SUCCESSOR + refresh_token.encode("utf-8", "replace")
        digests = [hmac.digest(key.encode(), message, "sha256") for key in self._keys]
        return [
            REFRESH_PREFIX + base64.urlsafe_b64encode(one).decode().rstrip("=") for one in digests
        ]

    def _read(self, token: str) -> Claims:
        """The claims, by the first key that fits. Raises Unauthorized."""
        import jwt

        for key in self._keys:
            try:
                payload = jwt.decode(
                    token,
                    key,
                    algorithms=["HS256"],
                    leeway=LEEWAY_SECONDS,
                    options={"require": ["sub", "tv", "exp", "iat"]},
                )
                return Claims(int(payload["sub"]), int(payload["tv"]), float(payload["exp"]))
            except jwt.InvalidSignatureError:
                continue
            except jwt.ExpiredSignatureError:
                raise _expired() from None
            except (jwt.InvalidTokenError, ValueError, TypeError):
                break
        raise Unauthorized(
            "the access token is not valid; log in again", reason=AuthFailure.BAD_TOKEN
        )


def _expired() -> Unauthorized:
    return Unauthorized(
        "the access token has expired; refresh it or log in again",
        reason=AuthFailure.EXPIRED_TOKEN,
    )


def new_refresh_token() -> str:
    """256 random bits behind a prefix."""
    return REFRESH_PREFIX + secrets.token_urlsafe(32)


def new_api_key() -> str:
    """256 random bits behind a prefix, by which secret scanners recognise keys."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """The hash that is stored of a random token, 64 hex digits.

    A fast hash is enough: 256 random bits cannot be guessed.
    """
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
