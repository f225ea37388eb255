"""Bodies that are cheap to send and expensive to read get a small 4xx in the shape of the route's
dialect, never a 5xx. The routes come from the URL map, so that a new one is tried as well."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient

from goblin_assistant.web.body_limits import BodyLimits
from tests.conftest import MakeApp, Serve, Server, register
from tests.support.nasty_bodies import HONEST, MESSAGES, NASTY, NASTY_WHOLE, inside
from tests.web.test_bad_input import error_of, routes

SIZE = 50_000
WRITING = ("POST", "PUT", "PATCH", "DELETE")
MAX_ANSWER = 4096
OTHERS = {"messages": MESSAGES, "max_tokens": b"5", "input": b'"hello"'}
ACCEPTED = {  # as the value of an unknown field of a chat, which goes to the provider untouched
    name
    for name in NASTY
    if name
    not in {
        "a thousand levels", "deep lists", "deep objects", "deep and open", "an open string",
        "lone surrogates",
        "invalid UTF-8", "UTF-8 that is too long", "commas", "colons", "NaN",
        "numbers of 4,300 digits",
    }
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A route that writes, the names of the fields that it knows, and the bytes that its body may
    have."""

    method: str
    path: str
    fields: tuple[str, ...]
    needs_credentials: bool
    is_open: bool
    limit: int

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def size(self) -> int:
        """Bytes of a body that is not refused by its length alone."""
        return min(SIZE, self.limit * 9 // 10)


def targets(app: Flask) -> list[Target]:
    """Every route that takes a body."""
    found = []
    limits = BodyLimits(app.extensions["goblin"].config.max_body_bytes)
    adapter = app.url_map.bind("localhost")
    for method, path in routes(app):
        if method in WRITING:
            endpoint, _ = adapter.match(path, method)
            view = app.view_functions[endpoint]
            shape = getattr(view, "_spec", {}).get("body")
            fields = tuple(shape.model_fields) if shape is not None else ()
            is_open = shape is not None and shape.model_config.get("extra") != "forbid"
            needs_credentials = getattr(view, "auth_rule", None) is not None
            limit = limits.of(method, path)
            found.append(Target(method, path, fields, needs_credentials, is_open, limit))
    return found


@pytest.fixture(autouse=True)
def frozen() -> Iterator[None]:
    """Exempt pytest's objects from garbage collection, as the server does with its own at the
    start."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def app(make_app: MakeApp) -> Iterator[Flask]:
    root = logging.getLogger()
    level = root.level
    yield make_app(log_level="ERROR", count_tokens="estimate")  # a count has an answer for echo
    root.setLevel(level)  # the level is the process's, and other tests look for warnings


@pytest.fixture
def admin(app: Flask) -> dict[str, str]:
    headers = {"Authorization": f"Bearer {register(app.test_client())['access_token']}"}
    app.extensions["goblin"].accounts.set_role(1, "admin")  # the only user there is
    return headers


def send(client: FlaskClient, target: Target, body: bytes, headers: dict[str, str]) -> Any:
    return client.open(
        target.path,
        method=target.method,
        data=body,
        headers={**headers, "Content-Type": "application/json"},
    )


def assert_refused(target: Target, answer: Any, statuses: tuple[int, ...]) -> None:
    place = f"{target.name}: {answer.status_code} {answer.data[:300]!r}"
    assert answer.status_code in statuses, place
    assert len(answer.data) <= MAX_ANSWER, place
    assert error_of(target.path, answer.get_json()), place


def assert_unread(target: Target, answer: Any) -> None:
    """The answer of a route that reads no body: what was to be deleted is gone or never was, or the
    route is only for the page."""
    if answer.status_code != 204:
        assert_refused(target, answer, (403, 404))


def test_every_route_that_writes_is_found(app: Flask) -> None:
    names = {target.name for target in targets(app)}
    assert {
        "POST /auth/login",
        "POST /v1/messages",
        "PUT /settings/",
        "PATCH /admin/keys/999999",
    } <= names
    documented = {
        f"{method.upper()} {path}"
        for path, item in app.test_client().get("/openapi.json").get_json()["paths"].items()
        for method, operation in item.items()
        if "requestBody" in operation
    }
    with_body = {target.name for target in targets(app) if target.fields}
    assert len(with_body) == len(documented) > 15


@pytest.mark.parametrize("kind", NASTY)
def test_a_nasty_value_is_refused_in_every_field_of_every_route(
    app: Flask, admin: dict[str, str], kind: str
) -> None:
    client = app.test_client()
    for target in targets(app):
        value = NASTY[kind](target.size)
        for field in (*target.fields[:2], "unknown"):
            body = inside(field, value, **OTHERS if target.is_open else {})
            if target.needs_credentials:
                assert_refused(target, send(client, target, body, {}), (401,))
            if not target.fields:
                assert_unread(target, send(client, target, body, admin))
                continue
            answer = send(client, target, body, admin)
            if target.is_open and answer.status_code == 200:
                assert field in ("unknown", "input", "messages"), f"{target.name}: {field}"
                assert field != "unknown" or kind in ACCEPTED, f"{target.name}: {kind}"
                assert field == "unknown" or kind in LEGITIMATE, f"{target.name}: {field}: {kind}"
            else:
                assert_refused(target, answer, (400, 413, 422))


LEGITIMATE = {
    "digits", "numbers", "a long string", "escapes", "escaped letters", "backslashes", "NUL",
    "messages of a letter",
    "parts of a letter", "tool calls", "blanks between", "a string whose letters take four bytes",
    "arguments of empty lists",
}  # fmt: skip
"""Valid chats and embeddings requests that are expensive for their size."""


@pytest.mark.parametrize("kind", NASTY_WHOLE)
def test_a_nasty_body_is_refused_by_every_route(
    app: Flask, admin: dict[str, str], kind: str
) -> None:
    client = app.test_client()
    for target in targets(app):
        body = NASTY_WHOLE[kind](target.size)
        if target.needs_credentials:
            assert_refused(target, send(client, target, body, {}), (401,))
        answer = send(client, target, body, admin)
        if target.fields:
            assert_refused(target, answer, (400, 413))
        else:
            assert_unread(target, answer)


@pytest.mark.parametrize("signed_in", [False, True])
def test_a_body_beyond_its_routes_limit_is_refused_by_its_length(
    app: Flask, admin: dict[str, str], signed_in: bool
) -> None:
    small = [target for target in targets(app) if target.limit < SIZE * 10]
    assert len(small) >= 15
    for target in small:
        body = b" " * (target.limit + 1)
        answer = send(app.test_client(), target, body, admin if signed_in else {})
        assert_refused(target, answer, (413,))


def peak_kb(server: Server) -> int:
    """The most memory that the process has had."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def test_a_real_server_takes_them_all_in_little_memory(serve: Serve) -> None:
    server = serve()
    token = server.register()
    before = peak_kb(server)
    session = requests.Session()
    for kind, make in {**NASTY, **NASTY_WHOLE}.items():
        value = make(1_000_000)
        for path, field, headers, allowed in (
            ("/auth/login", "email", {}, {400, 413}),
            ("/v1/chat/completions", "messages", {}, {401}),
            ("/v1/chat/completions", "messages", token, {200, 400}),
            ("/v1/messages", "messages", token, {200, 400}),
        ):
            body = value if kind in NASTY_WHOLE else inside(field, value, max_tokens=b"5")
            answer = session.post(server.url + path, data=body, headers=headers, timeout=60)
            assert answer.status_code in allowed, (
                f"{path}: {kind}: {answer.status_code} {answer.text[:300]}"
            )
            assert answer.status_code == 200 or len(answer.content) <= MAX_ANSWER, f"{path}: {kind}"
    assert session.get(server.url + "/health/live", timeout=60).status_code == 200
    assert peak_kb(server) - before < 100_000


@pytest.mark.parametrize("kind", HONEST)
def test_what_people_send_passes(app: Flask, admin: dict[str, str], kind: str) -> None:
    answer = app.test_client().post(
        "/v1/chat/completions",
        data=HONEST[kind](3_000_000),
        headers={**admin, "Content-Type": "application/json"},
    )
    assert answer.status_code == 200, answer.data[:300]
