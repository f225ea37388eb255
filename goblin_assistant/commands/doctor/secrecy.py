"""Checks for secrets that can be guessed, and for files that other users may read."""

from __future__ import annotations

import re
import stat
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from dotenv import dotenv_values
from sqlalchemy import make_url

from goblin_assistant.commands.doctor.context import Context
from goblin_assistant.commands.doctor.findings import Finding, failure, ok, warning
from goblin_assistant.config.redis_address import is_sentinel, sentinel_address

_PLACEHOLDER = re.compile(
    r"\.\.\.|change.?me|change.?this|your.?(secret|key|api|token)|placeholder|replace.?(me|this)"
    r"|insert|example|<[^>]*>|x{6,}|\*{4,}|dummy",
    re.I,
)
_COMMON_PASSWORDS = frozenset(
    ("admin", "administrator", "changeme", "default", "goblin", "password", "postgres",
     "postgresql", "qwerty", "redis", "root", "secret", "test", "user", "123456", "12345678")
)  # fmt: skip
_FEWEST_CHARACTERS = 10
_SHORTEST_TOKEN = 16
_MAKE = "Make one with: python -c 'import secrets; print(secrets.token_urlsafe(48))'"


def is_placeholder(secret: str) -> bool:
    """Whether a text looks like a placeholder."""
    return _PLACEHOLDER.search(secret) is not None


def is_weak(secret: str) -> bool:
    """Whether a long text says little: few different characters, a part that repeats (the last
    time perhaps cut off), or the alphabet."""
    length = len(secret)
    repeats = any(secret[part:] == secret[:-part] for part in range(1, length // 2 + 1))
    in_order = sum(ord(after) - ord(before) == 1 for before, after in pairwise(secret))
    return repeats or len(set(secret)) < _FEWEST_CHARACTERS or in_order > length / 2


def signing_key(context: Context) -> Iterator[Finding]:
    """SECRET_KEY."""
    key = context.config.secret
    if is_placeholder(key):
        yield failure("SECRET_KEY", "is a placeholder: anybody can sign tokens with it", _MAKE)
    elif is_weak(key):
        yield failure(
            "SECRET_KEY", "repeats itself, has few different characters or is the alphabet", _MAKE
        )
    else:
        yield ok("SECRET_KEY", f"{len(key)} characters")
    yield from _previous_key(context)


def _previous_key(context: Context) -> Iterator[Finding]:
    # Only access tokens are signed, so nothing needs the key for longer than one lives. Since when
    # it is set is known only where it stands in `.env`.
    config = context.config
    if config.secret_key_previous is None:
        return
    life = config.access_token_seconds
    age = _seconds_since_change(context.dotenv)
    if age is not None and age <= life and _sets(context.dotenv, "SECRET_KEY_PREVIOUS"):
        yield ok("SECRET_KEY_PREVIOUS", f"set, and {context.dotenv.name} is {age:.0f} s old")
    else:
        yield warning(
            "SECRET_KEY_PREVIOUS",
            "set: whoever has that key can make access tokens",
            f"Remove it when all instances have signed with SECRET_KEY for {life} s "
            "(docs/operations.md, Rotating SECRET_KEY).",
        )


def _seconds_since_change(path: Path) -> float | None:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return None


def _sets(path: Path, name: str) -> bool:
    return bool(dotenv_values(path).get(name))


def other_secrets(context: Context) -> Iterator[Finding]:
    """The token of /metrics, the keys of providers, the database's and Redis' passwords."""
    found = [*_metrics_token(context), *_provider_keys(context), *_passwords(context)]
    yield from found
    if not found:
        yield ok("secrets", "no placeholder and no common password")


def _metrics_token(context: Context) -> Iterator[Finding]:
    token = context.config.metrics_token
    if token is None:
        return
    text = token.get_secret_value()
    if len(text) < _SHORTEST_TOKEN or is_placeholder(text) or is_weak(text):
        yield warning("GOBLIN_METRICS_TOKEN", "can be guessed", _MAKE)


def _provider_keys(context: Context) -> Iterator[Finding]:
    config = context.config
    keys = {
        "OPENAI_API_KEY": config.openai_api_key,
        "ANTHROPIC_API_KEY": config.anthropic_api_key,
        **{
            f"[providers.{name}] api_key": row.api_key
            for name, row in config.file.providers.items()
        },
    }
    texts = {name: key.get_secret_value() for name, key in keys.items() if key is not None}
    for row in config.file.providers.values():
        if row.api_key_env:
            texts[row.api_key_env] = config.environ.get(row.api_key_env, "")
    for name, text in texts.items():
        if text and is_placeholder(text):
            yield failure(name, "is a placeholder", "Set the provider's key, or remove it.")


def _passwords(context: Context) -> Iterator[Finding]:
    config = context.config
    addresses = {"DATABASE_URL": config.database_url, "REDIS_URL": config.redis_url or ""}
    for name, address in addresses.items():
        if not address or address.startswith(("sqlite", "unix")):
            continue
        password, host = _password_and_host(address)
        if password and (is_placeholder(password) or password.lower() in _COMMON_PASSWORDS):
            yield failure(name, "its password is a placeholder or a common one", "Change it.")
        elif not password and host not in ("localhost", "127.0.0.1", "::1", None):
            yield warning(
                name,
                f"no password for {host}",
                "Give the server a password, unless its network is closed to all others.",
            )


def _password_and_host(address: str) -> tuple[str, str | None]:
    if is_sentinel(address):
        sentinels = sentinel_address(address)
        return sentinels.password or "", sentinels.sentinels[0][0]
    url = make_url(address)
    return str(url.password or ""), url.host


def files(context: Context) -> Iterator[Finding]:
    """Only the server's user can read `.env`, goblin.toml and the instance folder."""
    config = context.config
    verdict = failure if config.production else warning
    found = []
    for path in (context.dotenv, config.config_file):
        if _others_read(path) and (path == context.dotenv or _holds_key(context)):
            found.append(
                verdict(path.name, "holds secrets, and every user can read it", f"chmod 600 {path}")
            )
    folder = config.instance_dir
    kept = [folder / "goblin.db", *sorted(folder.glob("*.jsonl"))] if _others_enter(folder) else []
    if readable := [path.name for path in kept if _others_read(path)]:
        found.append(
            warning(
                "instance",
                f"every user can read {', '.join(readable)}",
                f"chmod 700 {folder}",
            )
        )
    yield from found
    if not found:
        yield ok("files", "no other user can read what is secret")


def _holds_key(context: Context) -> bool:
    return any(row.api_key for row in context.config.file.providers.values())


def _others_read(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def _others_enter(folder: Path) -> bool:
    try:
        return bool(folder.stat().st_mode & stat.S_IXOTH)
    except OSError:
        return False
