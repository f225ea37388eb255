"""Which browsers may call, and what their scripts may read."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from tests.conftest import MakeApp

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
