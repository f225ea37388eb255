"""The page's session cookie. It holds a refresh token, and the browser sends it to one route only.

Scripts cannot read it (HttpOnly). Other sites cannot send it (SameSite=Strict). Hosts under the
same domain count as the same site, so the origin is checked too. All other routes accept
credentials in headers only, so no cookie can be used to forge a request (CSRF).
"""

from __future__ import annotations

from urllib.parse import urlsplit

from flask import Response, request

from goblin_assistant.errors import Forbidden
from goblin_assistant.runtime import runtime

PATH = "/auth/session"
COOKIE = "goblin_session"

_MOST_COOKIES = 5
_PORTS = {"http": 80, "https": 443}


def token() -> str | None:
    """The refresh token in the request's cookie. Another host under the same domain may have set
    cookies of this name; then the first one that belongs to a session is used."""
    given = [one for one in request.cookies.getlist(COOKIE) if one][:_MOST_COOKIES]
    if len(given) > 1:
        family_of = runtime().accounts.sessions.family_of
        return next((one for one in given if family_of(one) is not None), given[0])
    return given[0] if given else None


def family() -> str | None:
    """The session that the cookie belongs to. The rate limit counts by it."""
    given = token()
    return None if given is None else runtime().accounts.sessions.family_of(given)


def check_origin() -> None:
    """Refuse a request that no page of this server has sent. Raises Forbidden."""
    origin = request.headers.get("Origin")
    # Browsers send Sec-Fetch-Site over TLS and to localhost
    # (https://www.w3.org/TR/fetch-metadata/#sec-fetch-site-header). Unlike Host, proxies keep it.
    site = request.headers.get("Sec-Fetch-Site")
    good = _is_ours(origin) if site is None else site == "same-origin"
    if origin is None or not good:
        raise Forbidden("only a page of this server may use this route")


def _is_ours(origin: str | None) -> bool:
    # The scheme is not compared: behind a TLS proxy it may be unknown here.
    try:
        parts = urlsplit(origin or "")
        port = parts.port or _PORTS.get(parts.scheme)
        asked = urlsplit(f"{parts.scheme}://{request.host}")
        return parts.hostname is not None and (parts.hostname, port) == (
            asked.hostname,
            asked.port or _PORTS.get(parts.scheme),
        )
    except ValueError:
        return False


def keep(response: Response, refresh_token: str) -> None:
    """Put a refresh token into the cookie."""
    seconds = runtime().config.refresh_token_seconds
    _set(response, refresh_token, max_age=seconds)


def drop(response: Response) -> None:
    """Take the cookie away."""
    _set(response, "", max_age=0)


def _set(response: Response, value: str, max_age: int) -> None:
    behind_tls = request.scheme == "https" or request.headers.get("Origin", "").startswith("https:")
    response.set_cookie(
        COOKIE,
        value,
        max_age=max_age,
        path=PATH,
        secure=behind_tls,
        httponly=True,
        samesite="Strict",
    )
