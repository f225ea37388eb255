"""Junk on any route gets a 4xx in the shape of its dialect, never a 5xx. It adds no metric
series."""

from __future__ import annotations

import json
import random
import re
import string
from typing import Any

import pytest
import requests
from flask import Flask
from flask.testing import FlaskClient

from goblin_assistant.runtime import Runtime
from goblin_assistant.web.openapi import UNLIMITED
from tests.conftest import MakeApp, Serve, register

JUNK: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "application/json"),
    "half an object": (b'{"messages": [', "application/json"),
    "null": (b"null", "application/json"),
    "a list": (b"[1, 2, 3]", "application/json"),
    "a number": (b"1", "application/json"),
    "an empty object": (b"{}", "application/json"),
    "no UTF-8": (b'{"email": "\xff\xfe"}', "application/json"),
    "UTF-16": ('{"email": "a"}'.encode("utf-16"), "application/json"),
    "NaN": (b'{"messages": NaN}', "application/json"),
    "Infinity": (b'{"temperature": Infinity}', "application/json"),
    "deep lists": (b"[" * 100_000 + b"]" * 100_000, "application/json"),
    "deep objects": (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "application/json"),
    "400 levels": (b'{"messages": ' + b"[" * 400 + b"]" * 400 + b"}", "application/json"),
    "a key twice": (b'{"email": "a@b.c", "email": "d@e.f"}', "application/json"),
    "lone surrogate": (b'{"email": "\\ud800@example.com", "password": "x"}', "application/json"),
    "NUL": (b'{"email": "a\\u0000@example.com", "name": "\\u0000", "model": "\\u0000"}',
    "application/json"),
    "wrong types": (b'{"email": [], "password": {}, "messages": 1, "model": true, "name": 1}',
    "application/json"),
    "unknown fields": (b'{"no_such_field": 1}', "application/json"),
    "huge number": (b'{"max_tokens": 1' + b"0" * 400 + b"}", "application/json"),
    "beyond 64 bits": (b'{"max_tokens": 99999999999999999999, "messages": [{"role": "user"}]}',
    "application/json"),
    "a form": (b"email=a&password=b", "application/x-www-form-urlencoded"),
    "text": (b'{"email": "a"}', "text/plain"),
    "XML": (b"<a/>", "application/xml"),
    "multipart without boundary": (b"--x", "multipart/form-data"),
    "odd type": (b"{}", "application/json; charset=\xff; x"),
}  # fmt: skip


def error_of(path: str, body: Any) -> str:
    """The error's code. Fails when the body is not in the dialect of the path."""
    if path.startswith("/v1/messages"):
        assert body["type"] == "error"
        assert body["request_id"]
        return str(body["error"]["type"])
    if path.startswith("/v1"):
        assert {"message", "type", "code", "param"} <= set(body["error"])
        return str(body["error"]["code"])
    assert body["correlation_id"]
    assert body["message"]
    return str(body["error"])


def routes(app: Flask) -> list[tuple[str, str]]:
    """Every (method, path) with plausible arguments."""
    found = []
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<int:[^>]+>", "999999", rule.rule)
        path = re.sub(r"<[^>]+>", "nothing", path)
        found += [
            (method, path) for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
        ]
    return found


@pytest.mark.parametrize("kind", JUNK)
def test_a_junk_body_is_a_4xx_on_every_route_that_takes_one(make_app: MakeApp, kind: str) -> None:
    app = make_app()
    client = app.test_client()
    headers = {"Authorization": f"Bearer {register(client)['access_token']}"}
    parts: Runtime = app.extensions["goblin"]
    parts.accounts.set_role(1, "admin")  # the only user there is
    body, content_type = JUNK[kind]
    for method, path in routes(app):
        if method in ("GET", "DELETE") or path == "/auth/logout":
            continue
        answer = client.open(
            path, method=method, data=body, headers={**headers, "Content-Type": content_type}
        )
        place = f"{method} {path}: {answer.status_code} {answer.get_data(as_text=True)[:300]}"
        assert answer.status_code < 500, place
        if answer.status_code >= 400:
            assert error_of(path, answer.get_json()), place
            assert answer.headers["X-Correlation-ID"], place
        elif kind not in ("an empty object", "odd type"):
            raise AssertionError(place)


@pytest.mark.parametrize(
    "query",
    [
        "limit=x",
        "%00",
        "a=%ff",
        "=",
        "limit=-1",
        "limit=99999999999999999999",
        "%F0%28",
        "x[]=1&x[]=2",
    ],
)
def test_a_junk_query_is_never_a_5xx(make_app: MakeApp, query: str) -> None:
    app = make_app()
    client = app.test_client()
    headers = {"Authorization": f"Bearer {register(client)['access_token']}"}
    for method, path in routes(app):
        if method == "GET":
            answer = client.get(f"{path}?{query}", headers=headers)
            assert answer.status_code < 500 or path == "/health/ready", (
                f"{path}: {answer.get_data(as_text=True)}"
            )


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "Bearer a.b.c"},
        {"Authorization": "Bearer " + "x" * 7000},
        {"Authorization": "Bearer gob_\xff\xfe"},
        {"Authorization": "\x7f"},
        {"x-api-key": ""},
        {"x-api-key": "gob_" + "0" * 4000},
    ],
    ids=lambda headers: repr(headers)[:40],
)
def test_a_junk_credential_is_a_401_on_every_route_that_needs_one(
    client: FlaskClient, headers: dict[str, str]
) -> None:
    document = client.get("/openapi.json").get_json()
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if operation.get("security"):
                answer = client.open(
                    re.sub(r"\{[^}]+\}", "1", path), method=method.upper(), headers=headers, json={}
                )
                assert answer.status_code == 401, f"{method} {path}: {answer.status_code}"
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")
                error_of(path, answer.get_json())


@pytest.mark.parametrize("method", ["PATCH", "DELETE", "TRACE", "PROPFIND", "BREW"])
def test_a_wrong_method_is_a_405_with_allow_or_a_404(app: Flask, method: str) -> None:
    client = app.test_client()
    for path in (
        "/chat/completions",
        "/v1/chat/completions",
        "/health",
        "/auth/login",
        "/metrics",
        "/openapi.json",
    ):
        answer = client.open(path, method=method)
        assert answer.status_code == 405, f"{method} {path}"
        assert answer.headers["Allow"]
        error_of(path, answer.get_json())


def test_a_body_beyond_the_limit_is_a_413_on_every_route(make_app: MakeApp) -> None:
    app = make_app(max_body_bytes=2048)
    client = app.test_client()
    headers = {"Authorization": f"Bearer {register(client)['access_token']}"}
    body = json.dumps({"messages": [{"role": "user", "content": "x" * 4000}]}).encode()
    for method, path in routes(app):
        if method in ("POST", "PUT", "PATCH") and path != "/auth/logout":
            answer = client.open(
                path,
                method=method,
                data=body,
                headers={**headers, "Content-Type": "application/json"},
            )
            # A route that takes no body does not read it. A route for admins refuses the caller
            # first.
            assert answer.status_code in (413, 403, 404, 200), (
                f"{method} {path}: {answer.status_code}"
            )
            if answer.status_code == 413:
                error_of(path, answer.get_json())


def test_ten_thousand_junk_requests_leave_no_new_series_no_5xx_and_only_json_lines(
    serve: Serve,
) -> None:
    server = serve()
    headers = server.register()
    chance = random.Random(20261123)
    session = requests.Session()

    def word(size: int) -> str:
        return "".join(
            chance.choice(string.ascii_letters + string.digits + "-_.~%!$&'()*+,;=:@/")
            for _ in range(size)
        )

    def one() -> int:
        kind = chance.randrange(4)
        if kind == 0:
            return session.get(
                f"{server.url}/{word(chance.randint(1, 60))}", timeout=10, allow_redirects=False
            ).status_code
        if kind == 1:
            method = "".join(
                chance.choice(string.ascii_uppercase) for _ in range(chance.randint(3, 12))
            )
            return session.request(method, f"{server.url}/health", timeout=60).status_code
        if kind == 2:
            odd = (
                "".join(
                    chance.choice(string.printable[:95]) for _ in range(chance.randint(1, 200))
                ).strip()
                or "x"
            )
            return session.get(
                f"{server.url}/health", headers={"X-Correlation-ID": odd}, timeout=10
            ).status_code
        body = {"model": word(20), "messages": [{"role": "user", "content": "x"}]}
        return session.post(
            f"{server.url}/chat/completions", json=body, headers=headers, timeout=10
        ).status_code

    def series() -> set[str]:
        return {re.sub(r'le="[^"]*"', "", name) for name in server.metrics()}

    statuses = {one() for _ in range(400)}
    before = series()
    statuses |= {one() for _ in range(9_600)}
    assert not {status for status in statuses if status >= 500}
    new = series() - before
    assert len(new) < 20, sorted(new)
    assert server.log_lines("request_completed")
    assert not server.log_lines("unhandled_exception")


def test_the_exempt_routes_are_the_ones_that_are_documented_as_such(app: Flask) -> None:
    known = {rule.rule for rule in app.url_map.iter_rules()}
    assert known >= UNLIMITED
