"""Who is calling: a bearer token or an API key becomes a Principal, once per request.

`Authorization: Bearer <access token or API key>`, or `x-api-key: <API key>` as Anthropic's SDK
sends it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from flask import g, request

from goblin_assistant.accounts.principals import Principal
from goblin_assistant.accounts.tokens import KEY_PREFIX, REFRESH_PREFIX
from goblin_assistant.errors import AppError, AuthFailure, Forbidden, Unauthorized
from goblin_assistant.runtime import runtime
from goblin_assistant.web.request_info import request_info

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

P = ParamSpec("P")
R = TypeVar("R")


def identify() -> Principal | None:
    """The caller; None without good credentials. Limits ask first, so that a bad credential is
    counted before it is refused."""
    return _caller()[0]


def current_principal() -> Principal:
    """The caller of a route behind `require_auth`."""
    principal = _caller()[0]
    assert principal is not None
    return principal


def _caller() -> tuple[Principal | None, AppError | None]:
    """The caller, and why a credential is not good. Looked up once for each request."""
    known: tuple[Principal | None, AppError | None] | None = g.get("caller")
    if known is None:
        try:
            principal = _authenticate(request.environ)
        except AppError as error:
            known = (None, error)
        else:
            known = (principal, None)
            if principal is not None:
                request_info().principal = principal.label
        g.caller = known
    return known


def require_auth(
    scope: str | None = None, *, admin: bool = False, keys: bool = True
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Refuse requests without good credentials (401), and without the scope or the admin role
    (403).

    `keys=False` refuses API keys too (403).
    """

    def decorate(view: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            principal, error = _caller()
            if principal is None:
                raise error or Unauthorized(
                    "send a credential: Authorization: Bearer <access token or API key>",
                    reason=None,
                )
            if not keys and principal.key_id is not None:
                raise Forbidden("an API key may not do this; log in and use the access token")
            if scope is not None and scope not in principal.scopes:
                raise Forbidden(f"this credential lacks the scope {scope!r}")
            if admin and not principal.is_admin:
                raise Forbidden("only an admin may do this")
            return view(*args, **kwargs)

        guarded.__dict__["auth_rule"] = (scope, admin, keys)  # for the OpenAPI document
        return guarded

    return decorate


def _authenticate(environ: WSGIEnvironment) -> Principal | None:
    header = environ.get("HTTP_AUTHORIZATION")
    if header is not None:
        kind, _, credential = header.partition(" ")
        credential = credential.strip()
        if kind.lower() != "bearer" or not credential:
            raise Unauthorized(
                "Authorization must be: Bearer <access token or API key>",
                reason=AuthFailure.BAD_TOKEN,
            )
    else:
        credential = environ.get("HTTP_X_API_KEY", "").strip()
        if not credential:
            return None
        if not credential.startswith(KEY_PREFIX):
            raise _no_key(credential)
    accounts = runtime().accounts
    if credential.startswith(KEY_PREFIX):
        return accounts.principals.of_key(credential)
    if credential.count(".") != 2:  # a JWT has three parts (RFC 7519, section 3)
        raise _no_key(credential)
    return accounts.principals.of_token(accounts.tokens.check(credential))


def _no_key(credential: str) -> Unauthorized:
    """Why a credential that stands where a key is expected is none."""
    if credential.startswith(REFRESH_PREFIX):
        return Unauthorized(
            "this is a refresh token; POST /auth/refresh gives an access token for it",
            reason=AuthFailure.BAD_TOKEN,
        )
    if credential.startswith("eyJ") and credential.count(".") == 2:  # a JWT, in x-api-key
        return Unauthorized(
            "x-api-key takes an API key; send an access token as Authorization: Bearer",
            reason=AuthFailure.BAD_TOKEN,
        )
    return Unauthorized(
        f"the API key is not valid: keys of this server begin with {KEY_PREFIX}",
        reason=AuthFailure.BAD_KEY,
    )
