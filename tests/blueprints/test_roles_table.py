"""Every route against every kind of caller. Each route needs a row, and each row a route.

A row says what each caller gets: 401, 403, 404, or `ok`: let in, whatever the answer is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import update

from goblin_assistant.accounts.api_keys import KeySpec
from goblin_assistant.accounts.users import Accounts
from goblin_assistant.database.models import api_keys, now_ms
from tests.conftest import PASSWORD, MakeApp

CALLERS = (
    "anonymous", "user", "other", "admin", "key", "admin_key", "plain_key_of_admin",
    "scopeless_key", "revoked_key", "expired_key", "disabled",
)  # fmt: skip
"""
- user: the owner of what the paths name; other: another user
- key: the user's, with the scopes chat and embeddings
- admin_key: an admin's, with the scope admin; plain_key_of_admin: an admin's, without it
- scopeless_key: the user's, with the scope embeddings only (chat for /v1/embeddings)
- disabled: the access token of a disabled user
"""

OUT = dict.fromkeys(("anonymous", "revoked_key", "expired_key", "disabled"), 401)
KEYS = ("key", "admin_key", "plain_key_of_admin", "scopeless_key")

PUBLIC: dict[str, int | str] = dict.fromkeys(CALLERS, "ok")
NOT_FROM_THE_PAGE: dict[str, int | str] = dict.fromkeys(CALLERS, 403)
SIGNED_IN: dict[str, int | str] = {**PUBLIC, **OUT}
CHAT: dict[str, int | str] = {**SIGNED_IN, "scopeless_key": 403, "admin_key": 403}
PERSON: dict[str, int | str] = {**SIGNED_IN, **dict.fromkeys(KEYS, 403)}
OWN_THING: dict[str, int | str] = {**PERSON, "other": 404, "admin": 404}
ADMIN: dict[str, int | str] = {
    **dict.fromkeys(CALLERS, 403),
    **OUT,
    "admin": "ok",
    "admin_key": "ok",
}

MESSAGES = {"messages": [{"role": "user", "content": "hello"}]}


@dataclass(frozen=True)
class Row:
    """One route: what each caller gets, and a request to find out.

    `{key}`, `{conversation}` and `{user}` in `path` are the user's.
    """

    expected: dict[str, int | str]
    body: dict[str, Any] | None = None
    path: str | None = None


TABLE: dict[tuple[str, str], Row] = {
    # -- accounts
    ("POST", "/auth/register"): Row(PUBLIC, {"email": "new@example.com", "password": PASSWORD}),
    ("POST", "/auth/login"): Row(PUBLIC, {"email": "user@example.com", "password": PASSWORD}),
    ("POST", "/auth/refresh"): Row(PUBLIC, {}),  # a wrong token would be a 401 about the body
    ("POST", "/auth/logout"): Row(PERSON, {"refresh_token": "gor_unknown"}),
    ("POST", "/auth/password"): Row(PERSON, {}),
    ("GET", "/auth/me"): Row(PERSON),
    ("GET", "/auth/sessions"): Row(PERSON),
    # Ending a session would end the access tokens that the next callers use.
    ("DELETE", "/auth/sessions/<session_id>"): Row(
        {**PERSON, "user": 404, "other": 404, "admin": 404}, path="/auth/sessions/unknown"
    ),
    ("GET", "/auth/keys"): Row(PERSON),
    ("POST", "/auth/keys"): Row(PERSON, {"name": "new"}),
    ("POST", "/auth/keys/<int:key_id>/rotate"): Row(OWN_THING, {}, "/auth/keys/{key}/rotate"),
    ("DELETE", "/auth/keys/<int:key_id>"): Row(OWN_THING, path="/auth/keys/{key}"),
    # -- chat
    ("POST", "/chat/completions"): Row(CHAT, MESSAGES),
    ("POST", "/v1/chat/completions"): Row(CHAT, MESSAGES),
    ("POST", "/v1/responses"): Row(CHAT, {"model": "echo", "input": "hello"}),
    ("POST", "/v1/messages"): Row(CHAT, {"model": "echo", "max_tokens": 5, **MESSAGES}),
    ("POST", "/v1/messages/count_tokens"): Row(CHAT, {"model": "echo", **MESSAGES}),
    ("POST", "/v1/embeddings"): Row(CHAT, {"model": "echo", "input": "hello"}),
    ("GET", "/chat/models"): Row(SIGNED_IN),
    ("GET", "/v1/models"): Row(SIGNED_IN),
    ("GET", "/v1/models/<path:model_id>"): Row(SIGNED_IN, path="/v1/models/echo"),
    # -- settings and usage
    ("GET", "/settings/"): Row(SIGNED_IN),
    ("PUT", "/settings/"): Row(CHAT, {}),
    ("GET", "/usage"): Row(SIGNED_IN),
    # -- conversations
    ("GET", "/conversations"): Row(PERSON),
    ("POST", "/conversations"): Row(PERSON, {}),
    ("DELETE", "/conversations"): Row(PERSON),
    ("GET", "/conversations/export"): Row(PERSON),
    ("GET", "/conversations/<int:conversation_id>"): Row(
        OWN_THING, path="/conversations/{conversation}"
    ),
    ("PATCH", "/conversations/<int:conversation_id>"): Row(
        OWN_THING, {}, "/conversations/{conversation}"
    ),
    ("DELETE", "/conversations/<int:conversation_id>"): Row(
        OWN_THING, path="/conversations/{conversation}"
    ),
    ("GET", "/conversations/<int:conversation_id>/messages"): Row(
        OWN_THING, path="/conversations/{conversation}/messages"
    ),
    ("PUT", "/conversations/<int:conversation_id>/messages/<int:position>"): Row(
        OWN_THING,
        {"revision": 0, "messages": [{"role": "user", "text": "hello"}]},
        "/conversations/{conversation}/messages/0",
    ),
    # -- health, metrics, documentation
    ("GET", "/health"): Row(PUBLIC),
    ("GET", "/health/all"): Row(PUBLIC),
    ("GET", "/health/live"): Row(PUBLIC),
    ("GET", "/health/ready"): Row(PUBLIC),
    ("GET", "/health/<service>"): Row(PUBLIC, path="/health/database"),
    ("GET", "/health/<service>/status"): Row(PUBLIC, path="/health/database/status"),
    ("GET", "/metrics"): Row(PUBLIC),
    ("GET", "/openapi.json"): Row(PUBLIC),
    ("GET", "/docs"): Row(PUBLIC),
    ("GET", "/docs/rapidoc.js"): Row(PUBLIC),
    # -- the page; its cookie's routes refuse what does not come from it
    ("POST", "/auth/session"): Row(NOT_FROM_THE_PAGE, {}),
    ("DELETE", "/auth/session"): Row(NOT_FROM_THE_PAGE),
    ("GET", "/"): Row(PUBLIC),
    ("GET", "/static/<files_hash>/<path:name>"): Row(PUBLIC, path="/static/0/main.js"),
    # -- admin
    ("GET", "/admin/users"): Row(ADMIN),
    ("POST", "/admin/users"): Row(ADMIN, {"email": "made@example.com", "password": PASSWORD}),
    ("GET", "/admin/users/<int:user_id>"): Row(ADMIN, path="/admin/users/{user}"),
    ("PATCH", "/admin/users/<int:user_id>"): Row(ADMIN, {}, "/admin/users/{user}"),
    ("GET", "/admin/users/<int:user_id>/keys"): Row(ADMIN, path="/admin/users/{user}/keys"),
    ("POST", "/admin/users/<int:user_id>/keys"): Row(
        ADMIN, {"name": "new"}, "/admin/users/{user}/keys"
    ),
    ("GET", "/admin/keys/<int:key_id>"): Row(ADMIN, path="/admin/keys/{key}"),
    ("PATCH", "/admin/keys/<int:key_id>"): Row(ADMIN, {}, "/admin/keys/{key}"),
    ("POST", "/admin/keys/<int:key_id>/rotate"): Row(ADMIN, {}, "/admin/keys/{key}/rotate"),
    ("DELETE", "/admin/keys/<int:key_id>"): Row(ADMIN, path="/admin/keys/{key}"),
    ("GET", "/admin/limits"): Row(ADMIN),
}


class World:
    """An application with one caller of each kind, for the whole table."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.client: FlaskClient = app.test_client()
        self.client.get("/health")
        self.conversations = app.extensions["goblin"].conversations
        self.accounts: Accounts = app.extensions["goblin"].accounts
        users = {
            name: self.accounts.create(
                f"{name}@example.com", PASSWORD, "admin" if name == "admin" else "user"
            )
            for name in ("user", "other", "admin", "disabled")
        }
        self.user_id = users["user"].id
        self.credentials: dict[str, str | None] = {"anonymous": None}
        for name, user in users.items():
            self.credentials[name] = self.accounts.tokens.issue(user.id, user.token_version)
        admin_id = users["admin"].id
        for name, owner, scopes in (
            ("key", self.user_id, ["chat", "embeddings"]),
            ("revoked_key", self.user_id, ["chat", "embeddings"]),
            ("expired_key", self.user_id, ["chat", "embeddings"]),
            ("admin_key", admin_id, ["admin"]),
            ("plain_key_of_admin", admin_id, ["chat", "embeddings"]),
            ("embeddings_key", self.user_id, ["embeddings"]),
            ("chat_key", self.user_id, ["chat"]),
        ):
            made = self.accounts.keys.create(owner, KeySpec(name=name, scopes=scopes))
            self.credentials[name] = made.secret
            if name == "revoked_key":
                self.accounts.keys.revoke(made.row.id)
            if name == "expired_key":
                with app.extensions["goblin"].engine.begin() as connection:
                    expired = (
                        update(api_keys)
                        .where(api_keys.c.id == made.row.id)
                        .values(expires_at=now_ms() - 1)
                    )
                    connection.execute(expired)
        self.accounts.disable(users["disabled"].id)

    def ask(self, method: str, rule: str, row: Row, caller: str) -> int:
        """The status of a caller's request."""
        if caller == "scopeless_key":
            caller = "chat_key" if rule == "/v1/embeddings" else "embeddings_key"
        thing = self.accounts.keys.create(self.user_id, KeySpec(name="thing"))
        conversation = self.conversations.create(self.user_id, "", {}).id
        path = (row.path or rule).format(
            key=thing.row.id, user=self.user_id, conversation=conversation
        )
        credential = self.credentials[caller]
        headers = {} if credential is None else {"Authorization": f"Bearer {credential}"}
        answer = self.client.open(path, method=method, json=row.body, headers=headers)
        self.accounts.keys.revoke(thing.row.id)
        return answer.status_code


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """See World."""
    from goblin_assistant import create_app
    from goblin_assistant.config import Config
    from tests.conftest import close_app

    folder = tmp_path_factory.mktemp("roles")
    values = {
        "env": "development",
        "instance_dir": folder,
        "ratelimit_enabled": False,
        "health_interval": 3600,
        "count_tokens": "estimate",
    }
    app = create_app(Config.load(values, environ={}, dotenv=folder / "absent.env"))
    app.config.update(TESTING=True, PROPAGATE_EXCEPTIONS=False)
    yield World(app)
    close_app(app)


def routes(app: Flask) -> set[tuple[str, str]]:
    """Every (method, rule) of the application."""
    return {
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }


def test_every_route_has_a_row_and_every_row_a_route(make_app: MakeApp) -> None:
    found = routes(make_app())
    assert not found - set(TABLE), "new routes: add a row that says who may call them"
    assert not set(TABLE) - found, "rows without a route"


def test_every_row_says_what_every_caller_gets() -> None:
    for place, row in TABLE.items():
        assert set(row.expected) == set(CALLERS), place


@pytest.mark.parametrize(("method", "rule"), sorted(TABLE), ids=lambda value: value)
def test_every_caller_gets_what_the_table_says(world: World, method: str, rule: str) -> None:
    row = TABLE[method, rule]
    wrong = []
    for caller in CALLERS:
        status = world.ask(method, rule, row, caller)
        expected = row.expected[caller]
        good = status not in (401, 403, 404) if expected == "ok" else status == expected
        # Readiness may be 503 before the first check.
        if not good or (status >= 500 and rule != "/health/ready"):
            wrong.append(f"{caller}: {status}, not {expected}")
    assert not wrong, f"{method} {rule}: {wrong}"
