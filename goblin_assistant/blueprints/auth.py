"""The caller's account and API keys."""

from __future__ import annotations

from typing import Any

from apiflask import APIBlueprint
from flask import Response, request

from goblin_assistant.accounts.api_keys import KeySpec
from goblin_assistant.accounts.emails import canonical
from goblin_assistant.database.key_limits import KEY_LIMITS
from goblin_assistant.database.models import now_ms
from goblin_assistant.errors import Forbidden, RegistrationClosed
from goblin_assistant.rate_limits.own_limits import OwnLimits
from goblin_assistant.runtime import runtime
from goblin_assistant.schemas.accounts import (
    Credentials,
    LogoutIn,
    PasswordChanged,
    PasswordIn,
    RefreshIn,
    SessionList,
    Tokens,
    UserOut,
    user_out,
)
from goblin_assistant.schemas.base import Page, rfc3339
from goblin_assistant.schemas.keys import (
    KeyIn,
    KeyLimits,
    KeyList,
    KeyOut,
    NewKeyOut,
    RotateIn,
    key_out,
)
from goblin_assistant.schemas.limits import limits_in
from goblin_assistant.web.auth import current_principal, require_auth
from goblin_assistant.web.openapi import describe

bp = APIBlueprint("auth", __name__, url_prefix="/auth", tag="Accounts")


@bp.post("/register")
@bp.input(Credentials, arg_name="body")
@describe("Create an account", answer=UserOut, status=201, errors=(403, 409, 413, 415))
def register(body: Credentials) -> tuple[dict[str, Any], int]:
    """Open in development; closed in production unless GOBLIN_REGISTRATION=open."""
    parts = runtime()
    if not parts.config.registration_open:
        raise RegistrationClosed("registration is closed here; ask the operator for an account")
    return user_out(parts.accounts.create(body.email, body.password)), 201


@bp.post("/login")
@bp.input(Credentials, arg_name="body")
@describe("Log in", answer=Tokens, errors=(401, 413, 415, 503))
def login(body: Credentials) -> dict[str, Any]:
    """A wrong password and an unknown address get the same answer, after the same time."""
    parts = runtime()
    # Every spelling of an address shares its attempts.
    email = canonical(body.email)
    # The place comes first: a login without one does not count as a failed attempt.
    with parts.accounts.passwords.place():
        parts.rate_limits.login_attempt(email, request.remote_addr)
        pair = parts.accounts.sessions.login(email, body.password)
        parts.rate_limits.login_succeeded(email)
    return pair.as_dict()


@bp.post("/refresh")
@bp.input(RefreshIn, arg_name="body")
@describe("Refresh the tokens", answer=Tokens, errors=(401, 413, 415))
def refresh(body: RefreshIn) -> dict[str, Any]:
    """A refresh token is valid once. A second use ends its session, for every holder of one of its
    tokens."""
    return runtime().accounts.sessions.refresh(body.refresh_token).as_dict()


@bp.post("/logout")
@require_auth(keys=False)
@bp.input(LogoutIn, arg_name="body")
@describe("Log out", status=204, errors=(413, 415))
def logout(body: LogoutIn) -> Response:
    """Ends the session of `refresh_token`. `{}` ends all of the caller's sessions and access
    tokens."""
    runtime().accounts.sessions.logout(current_principal().user_id, body.refresh_token)
    return Response(status=204)


@bp.post("/password")
@require_auth(keys=False)
@bp.input(PasswordIn, arg_name="body")
@describe("Change the password", answer=PasswordChanged, errors=(413, 415, 503))
def password(body: PasswordIn) -> dict[str, Any]:
    """Ends every session of the caller and starts a new one. API keys go on working, `api_keys`
    says how many; `revoke_keys: true` revokes them. Attempts count as logins: a stolen access token
    does not help to guess the password."""
    parts = runtime()
    user = parts.accounts.get(current_principal().user_id)
    parts.rate_limits.login_attempt(user.email, request.remote_addr)
    pair = parts.accounts.sessions.change_password(
        user.id, body.current_password, body.new_password
    )
    parts.rate_limits.login_succeeded(user.email)
    keys = parts.accounts.keys
    if body.revoke_keys:
        keys.revoke_all(user.id)
    return {**pair.as_dict(), "api_keys": keys.count_live(user.id)}


@bp.get("/me")
@describe("The caller's account", answer=UserOut)
@require_auth(keys=False)
def me() -> dict[str, Any]:
    """The user whom the access token belongs to."""
    return user_out(runtime().accounts.get(current_principal().user_id))


# -- sessions -------------------------------------------------------------------------------------
MOST_SESSIONS = 100
"""How many are listed. A program that logs in again and again has thousands."""


@bp.get("/sessions")
@describe("List the caller's sessions", answer=SessionList)
@require_auth(keys=False)
def list_sessions() -> dict[str, Any]:
    """Those that go on: each login that was not ended and did not expire."""
    found, total = runtime().accounts.sessions.latest(current_principal().user_id, MOST_SESSIONS)
    shown = [
        {
            "id": one.id,
            "started_at": rfc3339(one.started_at),
            "renewed_at": rfc3339(one.renewed_at),
            "expires_at": rfc3339(one.expires_at),
        }
        for one in found
    ]
    return {"sessions": shown, "total": total}


@bp.delete("/sessions/<session_id>")
@describe("End a session", status=204, errors=(404,))
@require_auth(keys=False)
def end_session(session_id: str) -> Response:
    """At once, wherever it is used. Every access token of the caller ends with it: the other
    sessions refresh theirs. `POST /auth/logout` with `{}` ends all."""
    runtime().accounts.sessions.end_one(current_principal().user_id, session_id)
    return Response(status=204)


# -- API keys -------------------------------------------------------------------------------------
@bp.get("/keys")
@require_auth(keys=False)
@bp.input(Page, location="query", arg_name="page")
@describe("List the caller's API keys", answer=KeyList, tag="API keys")
def list_keys(page: Page) -> dict[str, Any]:
    """Without their secrets. Revoked and expired keys are listed too."""
    rows = runtime().accounts.keys.list(
        current_principal().user_id, limit=page.limit, after=page.after
    )
    return {
        "keys": [key_out(row) for row in rows],
        "next_after": rows[-1].id if len(rows) == page.limit else None,
    }


@bp.post("/keys")
@require_auth(keys=False)
@bp.input(KeyIn, arg_name="body")
@describe(
    "Create an API key", answer=NewKeyOut, status=201, errors=(403, 409, 413, 415), tag="API keys"
)
def create_key(body: KeyIn) -> tuple[dict[str, Any], int]:
    """The answer is the only place where the secret is shown. A key's own requests_per_minute may
    narrow the instance's limit; only an admin may widen it."""
    parts = runtime()
    principal = current_principal()
    if not principal.is_admin:
        _check_narrow(body, parts.rate_limits.own)
    made = parts.accounts.keys.create(principal.user_id, spec_of(body))
    return {**key_out(made.row), "key": made.secret}, 201


@bp.post("/keys/<int:key_id>/rotate")
@require_auth(keys=False)
@bp.input(RotateIn, arg_name="body")
@describe(
    "Rotate an API key", answer=NewKeyOut, status=201, errors=(404, 409, 413, 415), tag="API keys"
)
def rotate_key(key_id: int, body: RotateIn) -> tuple[dict[str, Any], int]:
    """A new key with the same limits. The old one stays valid for `grace_seconds`."""
    made = runtime().accounts.keys.rotate(key_id, current_principal().user_id, body.grace_seconds)
    return {**key_out(made.row), "key": made.secret}, 201


@bp.delete("/keys/<int:key_id>")
@describe("Revoke an API key", status=204, errors=(404,), tag="API keys")
@require_auth(keys=False)
def revoke_key(key_id: int) -> Response:
    """It is refused from the next request on."""
    runtime().accounts.keys.revoke(key_id, current_principal().user_id)
    return Response(status=204)


def _check_narrow(body: KeyIn, instance: OwnLimits) -> None:
    for limit in KEY_LIMITS:
        value = getattr(body, limit.api_name)
        if value is None or limit.instance_limit is None:
            continue
        widest = getattr(instance, limit.instance_limit)
        if value > widest:
            raise Forbidden(
                f"{limit.api_name}: at most {widest}, the limit of this instance; "
                "an admin can allow more"
            )


def spec_of(body: KeyIn) -> KeySpec:
    """The key that a request asks for."""
    return KeySpec(name=body.name, scopes=body.scopes, **_with_expiry(body))


def limits_of(body: KeyLimits) -> dict[str, Any]:
    """The limits of a request as the tables hold them."""
    return {
        "allowed_models": body.allowed_models,
        **limits_in(body),
        "expires_at": None if body.expires_at is None else int(body.expires_at.timestamp() * 1000),
    }


def _with_expiry(body: KeyIn) -> dict[str, Any]:
    limits = limits_of(body)
    if body.expires_in is not None:
        limits["expires_at"] = now_ms() + body.expires_in * 1000
    return limits


__all__ = ["KeyOut", "bp", "limits_of", "spec_of"]
