r"""Keeping secrets out of text: the values that this process holds, and whatever looks like a credential.

Works on a finished JSON line, so that messages, extras however nested, tracebacks and URLs are all covered by one pass,
and a line stays the JSON that it was: no pattern ever matches a quote or a backslash.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

REDACTED = "[redacted]"

MIN_SECRET_LENGTH = 6
"""Shorter values are not searched for: replacing every "a" would destroy the log and hide nothing."""

_VALUE = r"[^\s\"'\\&,;<>()]+"  # what a credential can consist of, inside a JSON string

# A cheap `in` for each of these decides whether the patterns below are tried at all: the usual line holds none of them.
# Compared in lower case.
_TRIGGERS = (
    "bearer", "basic ", "gob_", "sk-", "eyj", "://", "passw", "secret", "api_key", "api-key", "apikey", "_key=",
    "token=", "token\"", "token'", "authorization", "cookie", "akia",
)  # fmt: skip

# Bounded repeats: an unbounded one at the front would take quadratic time on a long path made for it.
_NAMES = (
    r"(?:[a-z0-9_.-]{0,30}(?:password|passwd|secret|api[_-]?key|private[_-]?key)[a-z0-9_.-]{0,30}"
    r"|(?:access|refresh|id|auth|session)?[_-]?token|authorization|proxy-authorization|cookie|set-cookie|x-api-key)"
)

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # Authorization: Bearer x, Basic x
    (re.compile(rf"\b(bearer|basic)(\s+){_VALUE}", re.I), rf"\1\2{REDACTED}"),
    # "password": "x" as a field of the line
    (re.compile(rf"(\"{_NAMES}\"\s*:\s*\")(?:[^\"\\]|\\.)+", re.I), rf"\1{REDACTED}"),
    # the same in a JSON text inside a string (\"password\": \"x\"): it ends with the same number of backslashes
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
    # JSON Web Tokens, ours, and the shapes of well-known keys
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
        """Add values that must never be shown, with the forms that they take inside JSON."""
        known = set(self._secrets)
        for secret in secrets:
            if len(secret) >= MIN_SECRET_LENGTH:
                known |= _forms(_forms({secret}))
        # The longest first: a secret that begins with another must not leave its rest behind.
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
    """The texts, and how they read inside JSON and Python literals. Twice, for a JSON text inside the line's JSON."""
    escaped = {json.dumps(text)[1:-1] for text in texts} | {
        json.dumps(text, ensure_ascii=False)[1:-1] for text in texts
    }
    return texts | escaped | {repr(text)[1:-1] for text in texts}
