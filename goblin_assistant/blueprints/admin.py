"""Routes for admins: users, the keys of others, the limits in force."""

from __future__ import annotations

from typing import Any

from apiflask import APIBlueprint
from flask import Response

from goblin_assistant.blueprints.auth import limits_of, spec_of
from goblin_assistant.database.key_limits import KEY_LIMITS, USER_LIMITS
from goblin_assistant.errors import Conflict
from goblin_assistant.metrics import REGISTRY
from goblin_assistant.runtime import runtime
from goblin_assistant.schemas.accounts import (
    LimitsOut,
    NewUser,
    UserChange,
    UserList,
    UserOut,
    user_out,
)
from goblin_assistant.schemas.base import Page
from goblin_assistant.schemas.keys import (
    KeyChange,
    KeyIn,
    KeyList,
    KeyOut,
    NewKeyOut,
    RotateIn,
    key_out,
)
from goblin_assistant.schemas.limits import limits_in
from goblin_assistant.web.auth import current_principal, require_auth
from goblin_assistant.web.openapi import describe

bp = APIBlueprint("admin", __name__, url_prefix="/admin", tag="Admin")


@bp.get("/users")
@require_auth(admin=True)
@bp.input(Page, location="query", arg_name="page")
@describe("List users", answer=UserList)
def list_users(page: Page) -> dict[str, Any]:
    """The oldest first."""
    rows = runtime().accounts.list(limit=page.limit, after=page.after)
    return {
        "users": [user_out(row) for row in rows],
        "next_after": rows[-1].id if len(rows) == page.limit else None,
    }


@bp.post("/users")
@require_auth(admin=True)
@bp.input(NewUser, arg_name="body")
@describe("Create a user", answer=UserOut, status=201, errors=(409, 413, 415, 503))
def create_user(body: NewUser) -> tuple[dict[str, Any], int]:
    """Works also while registration is closed."""
    return user_out(runtime().accounts.create(body.email, body.password, body.role)), 201


@bp.get("/users/<int:user_id>")
@describe("One user", answer=UserOut, errors=(404,))
@require_auth(admin=True)
def get_user(user_id: int) -> dict[str, Any]:
    """An account by its id."""
    return user_out(runtime().accounts.get(user_id))


@bp.patch("/users/<int:user_id>")
@require_auth(admin=True)
@bp.input(UserChange, arg_name="body")
@describe("Change a user", answer=UserOut, errors=(404, 409, 413, 415, 503))
def change_user(user_id: int, body: UserChange) -> dict[str, Any]:
    """Disable, enable, change the role, set a password or limits. Disabling a user or setting a
    password ends all of the user's sessions. API keys go on working after a new password;
    `revoke_keys: true` revokes them. Limits count from the next request on, for all of the
    user's keys together; null removes one."""
    accounts = runtime().accounts
    if user_id == current_principal().user_id and (body.disabled or body.role == "user"):
        raise Conflict(
            "you would lock yourself out; let another admin do it, or use the command line"
        )
    user = accounts.get(user_id)
    if body.role is not None:
        user = accounts.set_role(user_id, body.role)
    if body.password is not None:
        user = accounts.reset_password(user_id, body.password)
    if body.revoke_keys:
        accounts.keys.revoke_all(user_id)
    if body.disabled is not None:
        user = accounts.disable(user_id) if body.disabled else accounts.enable(user_id)
    given = [limit for limit in USER_LIMITS if limit.api_name in body.model_fields_set]
    if given:
        user = accounts.set_limits(user_id, limits_in(body, given))
    return user_out(user)


@bp.get("/users/<int:user_id>/keys")
@require_auth(admin=True)
@bp.input(Page, location="query", arg_name="page")
@describe("List a user's API keys", answer=KeyList, errors=(404,))
def list_user_keys(user_id: int, page: Page) -> dict[str, Any]:
    """Without their secrets."""
    accounts = runtime().accounts
    accounts.get(user_id)
    rows = accounts.keys.list(user_id, limit=page.limit, after=page.after)
    return {
        "keys": [key_out(row) for row in rows],
        "next_after": rows[-1].id if len(rows) == page.limit else None,
    }


@bp.post("/users/<int:user_id>/keys")
@require_auth(admin=True)
@bp.input(KeyIn, arg_name="body")
@describe("Create an API key for a user", answer=NewKeyOut, status=201, errors=(404, 409, 413, 415))
def create_user_key(user_id: int, body: KeyIn) -> tuple[dict[str, Any], int]:
    """The answer is the only place where the secret is shown."""
    made = runtime().accounts.keys.create(user_id, spec_of(body))
    return {**key_out(made.row), "key": made.secret}, 201


@bp.get("/keys/<int:key_id>")
@describe("One API key", answer=KeyOut, errors=(404,))
@require_auth(admin=True)
def get_key(key_id: int) -> dict[str, Any]:
    """Any user's key, without its secret."""
    return key_out(runtime().accounts.keys.get(key_id))


@bp.patch("/keys/<int:key_id>")
@require_auth(admin=True)
@bp.input(KeyChange, arg_name="body")
@describe("Change an API key's limits", answer=KeyOut, errors=(404, 413, 415))
def change_key(key_id: int, body: KeyChange) -> dict[str, Any]:
    """Fields that are left out stay as they are; null removes a limit. The change counts from the
    key's next request on."""
    given = body.model_fields_set
    given = given | {limit.name for limit in KEY_LIMITS if limit.api_name in given}
    every = {**limits_of(body), "name": body.name, "scopes": body.scopes}
    changes = {name: value for name, value in every.items() if name in given}
    changes = {
        name: value
        for name, value in changes.items()
        if not (name in ("name", "scopes") and value is None)
    }
    return key_out(runtime().accounts.keys.change(key_id, changes))


@bp.post("/keys/<int:key_id>/rotate")
@require_auth(admin=True)
@bp.input(RotateIn, arg_name="body")
@describe("Rotate any API key", answer=NewKeyOut, status=201, errors=(404, 409, 413, 415))
def rotate_any_key(key_id: int, body: RotateIn) -> tuple[dict[str, Any], int]:
    """A new key with the same limits for the same user."""
    made = runtime().accounts.keys.rotate(key_id, None, body.grace_seconds)
    return {**key_out(made.row), "key": made.secret}, 201


@bp.delete("/keys/<int:key_id>")
@describe("Revoke any API key", status=204, errors=(404,))
@require_auth(admin=True)
def revoke_any_key(key_id: int) -> Response:
    """It is refused from the next request on."""
    runtime().accounts.keys.revoke(key_id)
    return Response(status=204)


@bp.get("/limits")
@describe("The limits in force", answer=LimitsOut)
@require_auth(admin=True)
def limits() -> dict[str, Any]:
    """Request limits by group, and where they are counted. `degraded` is true while that storage
    fails."""
    parts = runtime()
    config = parts.config
    return {
        "enabled": config.ratelimit_enabled,
        "storage": config.limits_uri.split("://", 1)[0],
        "degraded": bool(REGISTRY.get_sample_value("rate_limiter_degraded")),
        "groups": {
            "auth": config.ratelimit_auth,
            "chat": config.ratelimit_chat,
            "health": config.ratelimit_health,
            "general": config.ratelimit_default,
            "login_account": config.ratelimit_login_account,
        },
        "chat_slots": parts.chat.slots.limit,
        "threads": config.threads,
    }
