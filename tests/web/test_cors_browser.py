"""A page of another origin, in Chromium, reads every error that a browser can bring about, with its
id: the code of each row of docs/errors.md but those of ELSEWHERE, and 431."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.conftest import PASSWORD, ROOT, Server, serving
from tests.support.browser import MILLISECONDS, browser

__all__ = ["browser"]

ELSEWHERE = {
    "client_closed_request": "nobody is there to read it",
    "internal_error": "only a bug brings it about; it is answered as the others are",
    "resource_not_found": "only of a thread that Anthropic has forgotten",
    "unavailable": "only without the database: tests/database/test_hangs.py",
}
"""Codes that no browser brings about here."""

CALL = """
async ([url, method, headers, body, size]) => {
  const sent = size ? "x".repeat(size) : body;
  const answer = await fetch(url, {method, headers, body: sent === "" ? undefined : sent});
  return {status: answer.status, text: await answer.text(),
          correlation: answer.headers.get("X-Correlation-ID"),
          request: answer.headers.get("request-id"),
          seconds: answer.headers.get("Retry-After")};
}
"""
TOGETHER = f"(calls) => Promise.all(calls.map({CALL.strip()}))"


class Blank(BaseHTTPRequestHandler):
    """An empty page."""

    def do_GET(self) -> None:
        body = b"<!doctype html><title>other</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@contextmanager
def other_origin() -> Iterator[str]:
    """The address of a server of another origin."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Blank)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join(30)
        server.server_close()


@dataclass
class Elsewhere:
    """The page of another origin, and what it read."""

    page: Page
    server: Server
    token: str
    read: set[str] = field(default_factory=set)

    def call(
        self, path: str, body: str = "", *, method: str = "POST", size: int = 0, **headers: str
    ) -> list[Any]:
        """One call, for CALL."""
        given = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        sent = {name: value for name, value in given.items() if value}
        return [self.server.url + path, method, sent, body, size]

    def ask(self, path: str, body: str = "", **how: Any) -> dict[str, Any]:
        """The answer as the page read it."""
        call = self.call(path, body, **how)
        return self.check(self.page.evaluate(CALL, call), path)

    def check(self, answer: dict[str, Any], path: str) -> dict[str, Any]:
        """An error has a code and its id, in the body and where a script reads it."""
        if answer["status"] < 400:
            return answer
        found = re.search(r'"(?:code|error)":"([a-z_]+)"', answer["text"].replace('": ', '":'))
        assert found is not None, answer
        assert answer["correlation"], answer
        assert answer["correlation"] in answer["text"]
        if path.startswith("/v1/messages"):
            assert answer["request"] == answer["correlation"]
        if answer["status"] in (429, 503):
            assert int(answer["seconds"]) >= 1
        self.read.add(found[1])
        return {**answer, "code": found[1]}


@pytest.fixture(scope="module")
def elsewhere(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Page, Server, Server, Server]]:
    """A page of another origin, an instance that lets it call, one with registration closed, and
    one with a single slot."""
    folder = tmp_path_factory.mktemp("cors")
    config = folder / "goblin.toml"
    config.write_text(
        '[providers.down]\nbase_url = "http://127.0.0.1:9/v1"\nmodels = ["m"]\n'
        '[prices."echo/*"]\ninput = 1\noutput = 1\n'
    )
    with other_origin() as origin, serving(folder) as start:
        shared = {"CORS_ORIGINS": origin, "GOBLIN_CONFIG_FILE": str(config)}
        server = start(
            **shared, GOBLIN_RETRIES="0", GOBLIN_BREAKER_MIN_CALLS="2",
            GOBLIN_BREAKER_OPEN_SECONDS="600", GOBLIN_MAX_BODY_BYTES="100000",
            RATELIMIT_ENABLED="true", RATELIMIT_CHAT="1000 per minute",
            RATELIMIT_AUTH="1000 per minute",
        )  # fmt: skip
        strict = start(**shared, GOBLIN_REGISTRATION="closed")
        narrow = start(**shared, GOBLIN_CHAT_SLOTS="1", GOBLIN_CHAT_SLOT_WAIT_SECONDS="0.1")
        context = browser.new_context()
        context.set_default_timeout(MILLISECONDS)
        page = context.new_page()
        page.goto(origin)
        yield page, server, strict, narrow
        context.close()


def codes_of_the_page() -> set[str]:
    page = (ROOT / "docs" / "errors.md").read_text()
    rows = re.findall(r"^\| \d{3} \| `([a-z_]+)` \|", page, re.M)
    assert len(rows) > 25
    return set(rows)


def key_in(answer: dict[str, Any]) -> str:
    """The API key of an answer, which has its prefix too."""
    return max(re.findall(r'"(gob_[^"]+)"', answer["text"]), key=len)


HELLO = '{"model": "%s", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}'
REHEARSED = [
    "bad_request", "context_length", "content_filter", "unauthorized", "model_not_found",
    "rate_limited", "server_error", "overloaded", "slow_headers", "reset",
]  # fmt: skip
PATHS = ["/chat/completions", "/v1/chat/completions", "/v1/messages"]


def test_a_page_of_another_origin_reads_every_error_and_its_id(
    elsewhere: tuple[Page, Server, Server, Server],
) -> None:
    page, server, strict, narrow = elsewhere
    account = f'{{"email": "ada@example.com", "password": "{PASSWORD}"}}'
    there = Elsewhere(page, server, server.register()["Authorization"].removeprefix("Bearer "))

    # What this product answers.
    for path in PATHS:
        assert there.ask(path, "[]")["code"] == "invalid_request"
        assert there.ask(path, "{}")["code"] == "validation_failed"
        assert there.ask(path, HELLO % "echo", Authorization="")["code"] == "unauthorized"
        assert there.ask(path, HELLO % "nobody/m")["code"] == "model_not_found"
        assert there.ask(path, "x", Content_Type="text/plain")["status"] == 415
        assert there.ask(path, size=120_000)["status"] == 413
        assert there.ask(path, method="DELETE")["status"] == 405
        for fault in REHEARSED:
            assert there.ask(path, HELLO % f"fault/{fault}")["status"] >= 400
    assert there.ask("/auth/login", size=20_000)["code"] == "payload_too_large"
    assert there.ask("/admin/users", method="GET")["code"] == "forbidden"
    assert there.ask("/nothing", method="GET")["code"] == "not_found"
    # What makes the head too long comes before its Origin in Chromium.
    long = there.ask("/health", method="GET", X_Long="y" * 70_000)
    assert long["code"] == "request_header_fields_too_large"
    counted = there.ask("/v1/messages/count_tokens", HELLO % "echo")
    assert counted["code"] == "token_count_unavailable"
    for _ in range(60):  # a busy machine may not hash the password in time
        if (code := there.ask("/auth/register", account)["code"]) != "overloaded":
            break
    assert code == "conflict"
    closed = Elsewhere(page, strict, there.token, there.read)
    assert closed.ask("/auth/register", account)["code"] == "registration_closed"

    key = {"Idempotency_Key": "browser-1"}
    assert there.ask(PATHS[1], HELLO % "echo", **key)["status"] == 200
    again = there.ask(PATHS[1], (HELLO % "echo").replace("hello", "other"), **key)
    assert again["code"] == "idempotency_key_reused"

    # Limits of a key.
    made = there.ask("/auth/keys", '{"name": "poor", "monthly_budget_usd": "0.000001"}')
    there.token = key_in(made)
    assert there.ask(PATHS[0], HELLO % "echo")["code"] == "budget_exceeded"
    assert there.ask(PATHS[2], HELLO % "down/m")["code"] == "price_unknown"
    there.token = server.register("eve@example.com")["Authorization"].removeprefix("Bearer ")
    made = there.ask("/auth/keys", '{"name": "slow", "requests_per_minute": 1}')
    user, there.token = there.token, key_in(made)
    for _ in range(5):  # the minute may end between two
        there.ask(PATHS[1], HELLO % "echo")
        limited = there.ask(PATHS[1], HELLO % "echo")
        if limited["status"] == 429:
            break
    assert limited["code"] == "rate_limit_exceeded"
    there.token = user

    # A provider that is down, until its breaker opens; and more chats than slots.
    codes = [there.ask(PATHS[2], HELLO % "down/m")["code"] for _ in range(4)]
    assert codes[-1] == "provider_unavailable"
    token = narrow.register()["Authorization"].removeprefix("Bearer ")
    there = Elsewhere(page, narrow, token, there.read)
    calls = [there.call(PATHS[0], HELLO % "fault/slow_first_token") for _ in range(3)]
    for _ in range(5):  # a busy machine may send them one after the other
        answers = [there.check(one, PATHS[0]) for one in page.evaluate(TOGETHER, calls)]
        if "overloaded" in {one.get("code") for one in answers}:
            break
    assert "overloaded" in there.read

    assert codes_of_the_page() - there.read == ELSEWHERE.keys()
