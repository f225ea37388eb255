"""How settings go together. Each function gives one line for each thing that is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator

from goblin_assistant.config.derived import DerivedValues
from goblin_assistant.config.redis_address import (
    NO_TLS,
    SENTINEL_FORM,
    is_sentinel,
    sentinel_address,
    wants_tls,
)

_MAKE_SECRET = "make one with: python -c 'import secrets; print(secrets.token_urlsafe(48))'"
_DATABASE = re.compile(r"(sqlite|postgres(ql)?(\+psycopg)?)://")
_REDIS = re.compile(r"(rediss?|unix)://")
_LIMITS_STORAGE = re.compile(r"(memory|rediss?|redis\+unix)://")
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")


def problems_of(settings: DerivedValues, *, echo_by_name: bool) -> list[str]:
    """Everything that is wrong with settings that are right one by one."""
    return [
        *_threads(settings),
        *_bodies(settings),
        *_secret_key(settings),
        *_origins(settings),
        *_addresses(settings),
        *_default_model(settings, echo_by_name),
    ]


def _threads(settings: DerivedValues) -> Iterator[str]:
    threads, held = settings.threads, settings.held_threads
    if settings.chat_slots is not None and settings.chat_slots >= threads:
        yield f"GOBLIN_CHAT_SLOTS={settings.chat_slots}: must be below GOBLIN_THREADS={threads}"
    elif settings.slots + settings.most_chats_waiting > held:
        yield (
            f"GOBLIN_CHATS_WAITING={settings.chats_waiting}: at most {held - settings.slots}, "
            f"so that {settings.reserved_threads} of GOBLIN_THREADS={threads} are left beside "
            f"{settings.slots} chat slots"
        )
    elif settings.most_logins > held:
        yield (
            f"GOBLIN_LOGINS_AT_ONCE={settings.logins_at_once}: at most {held} "
            f"with GOBLIN_THREADS={threads}"
        )


def _bodies(settings: DerivedValues) -> Iterator[str]:
    if settings.pending_body_bytes < settings.max_body_bytes:
        yield (
            f"GOBLIN_MAX_PENDING_BODY_BYTES={settings.pending_body_bytes}: "
            f"must be at least GOBLIN_MAX_BODY_BYTES={settings.max_body_bytes}"
        )


def _secret_key(settings: DerivedValues) -> Iterator[str]:
    key, previous = settings.secret_key, settings.secret_key_previous
    if key is not None and len(key.get_secret_value().encode()) < 32:
        yield f"SECRET_KEY: 32 bytes or more; {_MAKE_SECRET}"
    if key is None and settings.production:
        yield f"SECRET_KEY: required unless GOBLIN_ENV=development; {_MAKE_SECRET}"
    if previous is None:
        return
    if len(previous.get_secret_value().encode()) < 32:
        yield "SECRET_KEY_PREVIOUS: 32 bytes or more, as SECRET_KEY"
    elif previous == key:
        yield "SECRET_KEY_PREVIOUS: is SECRET_KEY itself; leave it empty, or set the other key"


def _origins(settings: DerivedValues) -> Iterator[str]:
    if settings.production and "*" in settings.cors_origins:
        yield "CORS_ORIGINS: * is refused in production; list the origins"
    for origin in settings.cors_origins:
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            yield (
                f"CORS_ORIGINS: {origin!r} is no origin; accepted: scheme://host[:port], no path"
            )


def _addresses(settings: DerivedValues) -> Iterator[str]:
    if settings.database_url and not _DATABASE.match(settings.database_url):
        yield "DATABASE_URL: accepted: sqlite:///path or postgresql://user:password@host/name"
    yield from _redis("REDIS_URL", settings.redis_url, _REDIS, "redis://host:port/db")
    yield from _redis(
        "RATELIMIT_STORAGE_URI",
        settings.ratelimit_storage_uri,
        _LIMITS_STORAGE,
        "memory://, redis://host:port/db",
    )


def _redis(name: str, url: str | None, schemes: re.Pattern[str], forms: str) -> Iterator[str]:
    if not url:
        return
    if wants_tls(url):
        yield f"{name}: {NO_TLS}"
    elif is_sentinel(url):
        try:
            sentinel_address(url)
        except ValueError as error:
            yield f"{name}: {error}"
    elif not schemes.match(url):
        yield f"{name}: accepted: {forms} or {SENTINEL_FORM}"


def _default_model(settings: DerivedValues, echo_by_name: bool) -> Iterator[str]:
    if echo_by_name and settings.default_model in ("echo", "echo/echo"):
        yield (
            "GOBLIN_DEFAULT_MODEL: in production echo is only for API keys whose model list names "
            "it, so it cannot be the default; name a model of a provider, or leave it empty"
        )
