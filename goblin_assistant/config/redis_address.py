"""Addresses of Redis: one server, or the servers that Redis Sentinel watches."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

SENTINEL = "redis+sentinel://"
SENTINEL_FORM = f"{SENTINEL}[[user]:password@]host[:26379][,host...]/service_name"
_SENTINEL_PORT = 26379
_TLS = re.compile(r"rediss\+sentinel://|redis\+sentinel://.*[?&](?:ssl|tls)[^&=]*=", re.I | re.S)
NO_TLS = (
    "TLS to sentinels is not supported; end it beside the instance (stunnel, HAProxy) and give "
    "those addresses, or keep Redis in a network of its own"
)
_URL = re.compile(
    r"redis\+sentinel://(?:(?P<username>[^:@/?]*)(?::(?P<password>[^@/?]*))?@)?"
    r"(?P<hosts>[^/@?#]+)/(?P<service>[^/?#]+)(?:\?(?P<query>[^#]*))?"
)
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]\s]+))(?::(\d{1,5}))?")
_OPTIONS = ("db", "sentinel_username", "sentinel_password")


@dataclass(frozen=True)
class SentinelAddress:
    """What a URL with Sentinel says. The second pair of credentials is for the sentinels."""

    sentinels: tuple[tuple[str, int], ...]
    service: str
    db: int
    username: str | None
    password: str | None = field(repr=False)
    sentinel_username: str | None
    sentinel_password: str | None = field(repr=False)


def is_sentinel(url: str) -> bool:
    """Whether a URL names sentinels."""
    return url.startswith(SENTINEL)


def wants_tls(url: str) -> bool:
    """Whether a URL asks for TLS to sentinels, in one of the forms that other clients take."""
    return _TLS.match(url) is not None


def sentinel_address(url: str) -> SentinelAddress:
    """The parts of a URL in the form of the limits library, with options behind `?`:

        redis+sentinel://user:password@host:port,host:port/service_name?db=1

    As there, the sentinels get the same credentials as Redis, unless `sentinel_password` (and
    `sentinel_username`) name theirs. Empty means none. Raises ValueError without the URL's text.
    """
    found = _URL.fullmatch(url)
    if found is None:
        raise ValueError(f"accepted: {SENTINEL_FORM}")
    options = dict(parse_qsl(found["query"] or "", keep_blank_values=True, strict_parsing=False))
    if unknown := sorted(set(options) - set(_OPTIONS)):
        raise ValueError(f"unknown option {unknown[0]!r}; accepted: {', '.join(_OPTIONS)}")
    db = options.get("db", "0")
    if not re.fullmatch(r"\d{1,4}", db):
        raise ValueError("db: accepted: a number")
    username, password = _decoded(found["username"]), _decoded(found["password"])
    own = "sentinel_password" in options
    return SentinelAddress(
        tuple(_host(text) for text in found["hosts"].split(",")),
        unquote(found["service"]),
        int(db),
        username,
        password,
        options.get("sentinel_username") or None if own else username,
        options["sentinel_password"] or None if own else password,
    )


def _decoded(text: str | None) -> str | None:
    return unquote(text) if text else None


def _host(text: str) -> tuple[str, int]:
    found = _HOST.fullmatch(text)
    if found is None or not 0 < (port := int(found[3] or _SENTINEL_PORT)) < 65536:
        raise ValueError(f"accepted: {SENTINEL_FORM}")
    return found[1] or found[2], port
