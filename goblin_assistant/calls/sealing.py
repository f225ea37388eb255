"""Encrypts what Redis keeps of chats: AES-256-GCM with a key made of SECRET_KEY.

Redis may be shared, backed up and watched by others. The key is derived by HKDF (RFC 5869), so that
it is no other use's. While keys rotate, what was sealed with SECRET_KEY_PREVIOUS can be opened.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

NONCE_BYTES = 12
"""Random. 2**32 messages may share a key (NIST SP 800-38D, section 8.3)."""
_PURPOSE = b"goblin-assistant idempotency store"


class Seal:
    """Seals with the first secret, opens with any. Shared by all threads."""

    def __init__(self, secrets: Sequence[str]) -> None:
        # 10 MB that a server without Redis never needs.
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        self._invalid = InvalidTag
        self._ciphers = [
            AESGCM(HKDF(SHA256(), 32, None, _PURPOSE).derive(secret.encode())) for secret in secrets
        ]

    def close(self, content: bytes, about: bytes) -> bytes:
        """The sealed content. `about` is not part of it, but has to be the same to open it."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._ciphers[0].encrypt(nonce, content, about)

    def open(self, sealed: bytes, about: bytes) -> bytes | None:
        """The content; None if no secret opens it, or it was changed."""
        nonce, text = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        for cipher in self._ciphers:
            try:
                return cipher.decrypt(nonce, text, about)
            except (self._invalid, ValueError):
                continue
        return None
