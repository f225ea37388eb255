"""Which browsers may call, and what their scripts may read."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from goblin_assistant.config.goblin_file import GoblinFile
from tests.conftest import MakeApp, register

ORIGIN = "https://app.example.com"


@pytest.fixture
def client(make_app: MakeApp) -> FlaskClient:
    return make_app(cors_origins=[ORIGIN, "http://[::1]:3000"]).test_client()


def preflight(client: FlaskClient, origin: str, path: str = "/chat/completions") -> dict[str, str]:
    answer = client.options(
        path,
        headers={
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
        },
    )
    assert answer.status_code == 200
    return dict(answer.headers)


@pytest.mark.parametrize("origin", [ORIGIN, "http://[::1]:3000"])
def test_a_configured_origin_may_call_and_read_our_headers(
    client: FlaskClient, origin: str
) -> None:
    headers = client.get("/health", headers={"Origin": origin}).headers
    assert headers["Access-Control-Allow-Origin"] == origin
    exposed = headers["Access-Control-Expose-Headers"]
    for name in ("X-Correlation-ID", "Retry-After", "X-RateLimit-Remaining", "Server-Timing"):
        assert name in exposed
    for name in ("Allow", "Accept-Encoding", "WWW-Authenticate"):  # docs/errors.md points at them
        assert name in exposed
    for name in ("Link", "Content-Disposition"):  # the next page of an export, and its name
        assert name in exposed
    assert "Origin" in headers["Vary"]
    assert "Access-Control-Allow-Credentials" not in headers


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.com.evil.net",
        "https://evil.net",
        "https://evilapp.example.com",
        "https://appXexample.com",
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://app.example.com\nhttps://evil.net",
        "null",
    ],
)
def test_an_origin_that_only_resembles_a_configured_one_may_not(
    client: FlaskClient, origin: str
) -> None:
    if "\n" in origin:
        origin = origin.replace("\n", " ")
    assert (
        "Access-Control-Allow-Origin"
        not in client.get("/health", headers={"Origin": origin}).headers
    )
    assert "Access-Control-Allow-Origin" not in preflight(client, origin)


def test_errors_carry_the_cors_headers_too(client: FlaskClient) -> None:
    for path in ("/nothing", "/settings/", "/v1/models"):
        answer = client.get(path, headers={"Origin": ORIGIN})
        assert answer.status_code in (401, 404)
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert answer.headers.get_all("Access-Control-Allow-Origin") == [ORIGIN]


def test_a_preflight_is_answered_without_credentials_and_cached(client: FlaskClient) -> None:
    headers = preflight(client, ORIGIN)
    assert headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "POST" in headers["Access-Control-Allow-Methods"]
    assert {"authorization", "content-type", "idempotency-key"} <= set(
        headers["Access-Control-Allow-Headers"].split(", ")
    )
    assert headers["Access-Control-Max-Age"] == "600"


def test_a_preflight_for_no_route_is_answered_so_that_its_404_can_be_read(
    client: FlaskClient,
) -> None:
    asked = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET"}
    answer = client.options("/nothing", headers=asked)
    assert answer.status_code == 204
    assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
    stranger = client.options("/nothing", headers={**asked, "Origin": "https://evil.net"})
    assert "Access-Control-Allow-Origin" not in stranger.headers
    assert client.options("/nothing").status_code == 404
    assert client.get("/nothing", headers={"Origin": ORIGIN}).status_code == 404


def test_preflights_are_never_limited(make_app: MakeApp) -> None:
    client = make_app(
        cors_origins=[ORIGIN],
        ratelimit_enabled=True,
        ratelimit_chat="2 per minute",
        ratelimit_auth="2 per minute",
    ).test_client()
    for path in ("/chat/completions", "/auth/login", "/settings/"):
        for _ in range(5):
            assert preflight(client, ORIGIN, path)["Access-Control-Allow-Origin"] == ORIGIN


def test_without_configured_origins_nobody_may_call(make_app: MakeApp) -> None:
    headers = make_app().test_client().get("/health", headers={"Origin": ORIGIN}).headers
    assert "Access-Control-Allow-Origin" not in headers


def test_a_wildcard_in_development_is_sent_as_a_wildcard(make_app: MakeApp) -> None:
    headers = (
        make_app(cors_origins=["*"])
        .test_client()
        .get("/health", headers={"Origin": ORIGIN})
        .headers
    )
    assert headers["Access-Control-Allow-Origin"] == "*"


SAFELISTED = {"cache-control", "content-language", "content-length", "content-type", "expires"}
"""Scripts read them anyway: Fetch, "CORS-safelisted response-header name"."""
FOR_BROWSERS = {
    "access-control-allow-origin", "access-control-expose-headers", "vary", "referrer-policy",
    "content-security-policy", "strict-transport-security", "x-content-type-options",
    "x-frame-options", "content-encoding", "x-accel-buffering", "set-cookie", "date", "server",
    "connection", "transfer-encoding", "etag",
}  # fmt: skip
"""For the browser or the proxy, not for a script."""


def test_a_script_reads_every_header_that_is_meant_for_it(make_app: MakeApp) -> None:
    app = make_app(
        cors_origins=[ORIGIN], ratelimit_enabled=True, ratelimit_chat="9 per day",
        file=GoblinFile.model_validate({"prices": {"echo/*": {"input": 1, "output": 1}}}),
    )  # fmt: skip
    client = app.test_client()
    user = {"Authorization": f"Bearer {register(client)['access_token']}", "Origin": ORIGIN}
    chat = {"model": "echo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
    once = {"Idempotency-Key": "k"}
    calls: list[tuple[str, str, dict[str, Any], dict[str, str]]] = [
        ("POST", "/v1/chat/completions", chat, once),
        ("POST", "/v1/chat/completions", chat, once),
        ("POST", "/v1/chat/completions", {**chat, "stream": True}, {}),
        ("POST", "/v1/messages", {**chat, "speed": "fast"}, {}),
        ("POST", "/v1/responses", {"model": "echo", "input": "hi"}, {}),
        ("POST", "/v1/embeddings", {"model": "echo", "input": "hi"}, {}),
        ("POST", "/v1/chat/completions", chat, {"Content-Encoding": "br"}),
        ("POST", "/v1/messages/count_tokens", chat, {}),
        *[("POST", "/v1/messages", chat, {})] * 4,
        ("DELETE", "/v1/models", {}, {}),
        ("GET", "/v1/models", {}, {"Authorization": "Bearer gob_x"}),
        ("GET", "/usage?format=csv&group_by=model&limit=1", {}, {}),
        ("GET", "/conversations/export", {}, {}),
        ("GET", "/health", {}, {}),
        ("GET", "/openapi.json", {}, {}),
    ]
    seen: dict[str, str] = {}
    statuses = set()
    for method, path, body, more in calls:
        given = {**user, **more}
        answer = client.open(path, method=method, json=body or None, headers=given, buffered=True)
        statuses.add(answer.status_code)
        exposed = answer.headers["Access-Control-Expose-Headers"].lower().split(", ")
        left = {name.lower() for name, _ in answer.headers} - {*exposed, *SAFELISTED, *FOR_BROWSERS}
        assert not left, (path, answer.status_code, left)
        seen |= dict.fromkeys((name.lower() for name, _ in answer.headers), path)
    assert {200, 401, 404, 405, 415, 429} <= statuses, statuses
    for name in (
        "x-goblin-ignored", "x-goblin-cost", "idempotent-replayed", "retry-after", "allow",
        "accept-encoding", "www-authenticate", "request-id", "server-timing",
        "content-disposition", "x-ratelimit-remaining",
    ):  # fmt: skip
        assert name in seen, name
