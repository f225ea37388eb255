r"""Removes secrets from text: the values that this process holds, and what looks like a credential.

It works on a finished JSON line, so that one pass covers messages, nested extras, tracebacks and
URLs. The line stays valid JSON, because the quotes around a text are kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

REDACTED = "[redacted]"

MIN_SECRET_LENGTH = 6
"""Shorter values are not searched for: replacing every "a" would only destroy the log."""

_VALUE = r"[^\s\"'\\&,;<>()]+"  # a credential inside a JSON string

# The patterns below are tried only on a line with one of these, in lower case: most have none.
_TRIGGERS = (
    "bearer", "basic ", "gob_", "sk-", "eyj", "://", "passw", "secret", "api_key", "api-key",
    "apikey", "_key=", "token=", "token\"", "token'", "authorization", "cookie", "akia",
)  # fmt: skip

# The repeats are bounded: an unbounded one in front takes quadratic time on a hostile path.
_NAMES = (
    r"(?:[a-z0-9_.-]{0,30}(?:password|passwd|secret|api[_-]?key|private[_-]?key)[a-z0-9_.-]{0,30}"
    r"|(?:access|refresh|id|auth|session)?[_-]?token|authorization|proxy-authorization"
    r"|cookie|set-cookie|x-api-key)"
)

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # Authorization: Bearer x, Basic x
    (re.compile(rf"\b(bearer|basic)(\s+){_VALUE}", re.I), rf"\1\2{REDACTED}"),
    # "password": "x" as a field of the line
    (re.compile(rf"(\"{_NAMES}\"\s*:\s*\")(?:[^\"\\]|\\.)+", re.I), rf"\1{REDACTED}"),
    # the same in JSON inside a string (\"password\": \"x\"): it ends with as many backslashes
    (
        re.compile(rf"((\\+)\"{_NAMES}\2\"\s*:\s*\2\")(?:(?!(?<!\\)\2\").){{1,4000}}", re.I),
        rf"\1{REDACTED}",
    ),
    # the same in Python's repr of a dict
    (re.compile(rf"('{_NAMES}'\s*[:=]\s*b?')[^\"'\\]+", re.I), rf"\1{REDACTED}"),
    # password=x, api_key: x, ?token=x
    (re.compile(rf"(?<![a-z0-9])({_NAMES}\s?[=:]\s?)(?!\\*[\"']){_VALUE}", re.I), rf"\1{REDACTED}"),
    # https://user:password@host, redis://:password@host
    (re.compile(r"(://[^\s/\"'\\:@]*:)[^\s/\"'\\@]+(?=@)"), rf"\1{REDACTED}"),
    # JSON Web Tokens, our keys, and well-known formats of keys
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,2000}\.[A-Za-z0-9_-]{1,4000}\.[A-Za-z0-9_-]*"), REDACTED),
    (re.compile(r"\bgob_[A-Za-z0-9_-]{8,}"), REDACTED),
    (re.compile(r"\bsk-[A-Za-z0-9_-]{8,}"), REDACTED),
    (re.compile(r"\bAKIA[A-Z0-9]{12,}"), REDACTED),
)


class Redactor:
    """Replaces registered secrets and credential-like text."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets: tuple[str, ...] = ()
        self.register(secrets)

    def register(self, secrets: Iterable[str]) -> None:
        """Add values that must never appear, with their forms inside JSON."""
        known = set(self._secrets)
        for secret in secrets:
            if len(secret) >= MIN_SECRET_LENGTH:
                known |= _forms(_forms({secret}))
        # The longest first: a secret that begins with another must not leave its rest.
        self._secrets = tuple(sorted(known, key=len, reverse=True))

    def redact(self, text: str) -> str:
        """`text` without secrets. JSON stays JSON."""
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, REDACTED)
        lower = text.lower()
        for trigger in _TRIGGERS:
            if trigger in lower:
                break
        else:
            return text
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text


def _forms(texts: set[str]) -> set[str]:
    """The texts, and how they are written inside JSON and Python literals. Applied twice, for JSON
    inside the line's JSON."""
    escaped = {json.dumps(text)[1:-1] for text in texts} | {
        json.dumps(text, ensure_ascii=False)[1:-1] for text in texts
    }
    return texts | escaped | {repr(text)[1:-1] for text in texts}
