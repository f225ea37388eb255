"""Every failure has its dialect's shape and its headers, and reveals no internals."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from apiflask import APIFlask
from flask.testing import FlaskClient

from goblin_assistant import errors
from goblin_assistant.config import Config
from goblin_assistant.extensions import cors, cors_options
from goblin_assistant.providers.base import PROVIDER_ERRORS, ModelNotFound, Timeout
from goblin_assistant.schemas.base import Query, Strict
from goblin_assistant.web import error_handlers, security_headers
from goblin_assistant.web.request_info import ENVIRON_KEY, RequestInfo


class Thing(Strict):
    """A body."""

    name: str
    size: int = 1


class Page(Query):
    """A query string."""

    limit: int = 10


RAISED: dict[str, Exception] = {}


@pytest.fixture
def client() -> Iterator[FlaskClient]:
    """An application whose routes all fail."""
    app = APIFlask("goblin_assistant", spec_path=None, docs_path=None)
    app.config["MAX_CONTENT_LENGTH"] = 2000
    config = Config.load(
        {"env": "development", "cors_origins": ["https://app.example.com"]}, environ={}
    )
    security_headers.init_app(app)
    cors.init_app(app, **cors_options(config.cors_origins))
    error_handlers.init_app(app)

    def fail(name: str) -> str:
        raise RAISED[name]

    for prefix in ("", "/v1", "/v1/messages"):
        app.add_url_rule(f"{prefix}/fail/<name>", f"fail{prefix.replace('/', '_')}", fail)

    @app.post("/things")
    @app.input(Thing)
    def things(json_data: Thing) -> dict[str, Any]:
        return json_data.model_dump()

    @app.get("/pages/")
    @app.input(Page, location="query")
    def pages(query_data: Page) -> dict[str, Any]:
        return query_data.model_dump()

    app.testing = True
    with app.test_client() as test_client:
        yield test_client
    RAISED.clear()


def fail_with(client: FlaskClient, error: Exception, prefix: str = "") -> Any:
    RAISED["x"] = error
    return client.get(f"{prefix}/fail/x")


@pytest.mark.parametrize("kind", errors.APP_ERRORS)
def test_every_error_of_ours_has_its_status_code_and_shape(
    client: FlaskClient, kind: type[errors.AppError]
) -> None:
    answer = fail_with(client, kind("what to do next", retry_after=6.2))
    assert answer.status_code == kind.status
    assert answer.content_type == "application/json"
    body = answer.get_json()
    assert body["error"] == kind.code
    assert body["message"] == "what to do next"
    assert body["source"] == kind.source
    assert body["correlation_id"]
    limited = kind.status in (429, 503)
    assert body.get("retry_after") == (7 if limited else None)
    assert answer.headers.get("Retry-After") == ("7" if limited else None)
    assert ("WWW-Authenticate" in answer.headers) == (kind.status == 401)


@pytest.mark.parametrize("kind", PROVIDER_ERRORS)
def test_every_provider_error_says_that_it_came_from_the_provider(
    client: FlaskClient, kind: type[Any]
) -> None:
    answer = fail_with(client, kind("it said no", provider="openai", param="messages"))
    body = answer.get_json()
    assert answer.status_code == kind.status
    assert body["error"] == kind.code
    assert body["source"] == "provider"
    assert body["provider"] == "openai"
    assert body["param"] == "messages"
    assert ("Retry-After" in answer.headers) == (kind.status == 503)


def test_v1_speaks_openais_dialect_and_v1_messages_anthropics(client: FlaskClient) -> None:
    error = errors.RateLimitExceeded("Rate limit exceeded: 30 per 1 minute", retry_after=3)
    openai = fail_with(client, error, "/v1").get_json()["error"]
    assert openai["type"] == "rate_limit_error"
    assert openai["code"] == "rate_limit_exceeded"
    assert openai["retry_after"] == 3
    assert set(openai) >= {"message", "type", "code", "param"}
    anthropic = fail_with(client, error, "/v1/messages").get_json()
    assert anthropic["type"] == "error"
    assert anthropic["error"]["type"] == "rate_limit_error"
    assert anthropic["request_id"]


@pytest.mark.parametrize("prefix", ["", "/v1", "/v1/messages"])
def test_a_bug_is_a_500_that_tells_nothing_and_is_logged_once_with_its_stack(
    client: FlaskClient,
    prefix: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging.getLogger("goblin_assistant"), "propagate", True)
    with caplog.at_level(logging.ERROR):
        answer = fail_with(client, RuntimeError("SELECT secret FROM CANARY"), prefix)
    assert answer.status_code == 500
    assert "CANARY" not in answer.get_data(as_text=True)
    assert "internal_error" in answer.get_data(as_text=True)
    records = [record for record in caplog.records if record.message == "unhandled_exception"]
    assert len(records) == 1
    assert records[0].exc_info is not None
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("bug"), "RuntimeError"),
        (errors.NoFreeSlot("full"), "OverloadedHere"),
        (Timeout("slow", provider="p"), "Timeout"),
        (errors.NotFound("no"), None),
        (ModelNotFound("no", provider="p"), None),
    ],
)
def test_a_5xx_is_noted_by_the_name_of_its_cause_and_a_4xx_is_not(
    client: FlaskClient, error: Exception, expected: str | None
) -> None:
    info = RequestInfo()
    RAISED["x"] = error
    client.get("/fail/x", environ_overrides={ENVIRON_KEY: info})
    assert info.error_type == expected


def test_unknown_routes_and_methods_are_answered_in_our_shape(client: FlaskClient) -> None:
    absent = client.get("/nothing/here")
    assert (absent.status_code, absent.get_json()["error"]) == (404, "not_found")
    wrong = client.delete("/things")
    assert (wrong.status_code, wrong.get_json()["error"]) == (405, "method_not_allowed")
    assert "POST" in wrong.headers["Allow"]
    odd = client.open("/things", method="BREW")
    assert odd.status_code == 405
    assert client.get("/v1/nothing").get_json()["error"]["type"] == "invalid_request_error"
    assert client.get("/v1/messages/nothing").get_json()["error"]["type"] == "not_found_error"


def test_a_trailing_slash_or_its_absence_is_no_redirect_and_two_slashes_are_no_route(
    client: FlaskClient,
) -> None:
    assert client.get("/pages").status_code == 200
    assert client.get("/pages/").status_code == 200
    assert client.post("/things/", json={"name": "a"}).status_code == 200
    assert client.get("//pages").status_code == 404


def test_head_and_options_are_answered_without_a_body(client: FlaskClient) -> None:
    head = client.head("/pages")
    assert (head.status_code, head.data) == (200, b"")
    head = client.head("/nothing")
    assert (head.status_code, head.data) == (404, b"")
    options = client.options("/things")
    assert options.status_code == 200
    assert "POST" in options.headers["Allow"]


def test_a_failed_validation_names_the_fields_and_never_their_values(client: FlaskClient) -> None:
    answer = client.post("/things", json={"size": "CANARY", "other": "CANARY"})
    body = answer.get_json()
    assert answer.status_code == 400
    assert body["error"] == "validation_failed"
    assert {problem["field"] for problem in body["fields"]} == {"name", "size", "other"}
    assert "CANARY" not in answer.get_data(as_text=True)


def test_a_wrong_query_parameter_is_a_400(client: FlaskClient) -> None:
    assert client.get("/pages?limit=3").get_json() == {"limit": 3}
    for query in ("limit=x", "limit=", "unknown=1"):
        answer = client.get(f"/pages?{query}")
        assert (answer.status_code, answer.get_json()["error"]) == (400, "validation_failed")


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"null", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b'{"name": "a", "name": "b"}', "application/json", 400),
        (b'{"name": "a\\u0000"}', "application/json", 400),
        (b'{"name": "\\ud800"}', "application/json", 400),
        (b'{"name": "a", "size": NaN}', "application/json", 400),
        (b'{"name": "a", "size": 123456789012345678901234567890}', "application/json", 400),
        (b"[" * 1500, "application/json", 400),
        (b"name=a", "application/x-www-form-urlencoded", 415),
        (b'{"name": "a"}', "text/plain", 415),
        (b'{"name": "a"}', "application/json; charset=utf-8", 200),
        (b'{"name": "a"}', "application/vnd.api+json", 200),
        (b'{"name": "a"}', "", 200),
        (b'{"name": "' + b"a" * 3000 + b'"}', "application/json", 413),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_body_is_one_json_object_or_a_clear_4xx(
    client: FlaskClient, body: bytes, content_type: str, status: int
) -> None:
    answer = client.post(
        "/things", data=body, headers={"Content-Type": content_type} if content_type else {}
    )
    assert answer.status_code == status, answer.get_data(as_text=True)
    if status != 200:
        assert answer.get_json()["message"]


def test_every_response_carries_the_security_headers(client: FlaskClient) -> None:
    for answer in (
        client.get("/pages"),
        client.get("/nothing"),
        client.options("/things"),
        fail_with(client, RuntimeError()),
    ):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == "no-store"
        assert "Strict-Transport-Security" not in answer.headers
    tls = client.get("/pages", base_url="https://api.example.com")
    assert tls.headers["Strict-Transport-Security"].startswith("max-age=31536000")


def test_a_status_that_only_the_framework_gives_has_our_shape(client: FlaskClient) -> None:
    from werkzeug.exceptions import ExpectationFailed, RequestTimeout, ServiceUnavailable

    for error, code in (
        (ExpectationFailed(), "expectation_failed"),
        (RequestTimeout(), "request_timeout"),
    ):
        answer = fail_with(client, error)
        assert (answer.status_code, answer.get_json()["error"]) == (error.code, code)
    answer = fail_with(client, ServiceUnavailable())
    assert answer.get_json()["retry_after"] == 1


def test_the_answer_to_an_error_is_json_whatever_its_text(client: FlaskClient) -> None:
    answer = fail_with(client, errors.BadRequest('quotes " and \u2028 and é'))
    assert json.loads(answer.data)["message"] == 'quotes " and \u2028 and é'
