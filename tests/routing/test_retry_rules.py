"""What may be asked again: each row of the table, whole and streamed, in all dialects."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from goblin_assistant.config.goblin_file import GoblinFile
from goblin_assistant.providers.base import PROVIDER_ERRORS, Call, Reach, untranslatable
from goblin_assistant.providers.faults import UpstreamFailure, error_for
from goblin_assistant.providers.upstream.deadlines import Exchange
from goblin_assistant.providers.upstream.errors import Timeouts
from goblin_assistant.providers.upstream.event_stream import EventStream
from goblin_assistant.routing.retry_rules import (
    BROKEN,
    FAILED,
    NOT_REACHED,
    NOT_SERVED,
    PAID,
    REFUSED,
    RULES,
    SILENT,
    TOO_LONG,
    UNREAD,
    Rule,
    markdown,
    rule_of,
)
from goblin_assistant.usage.explain import records_of, story_of
from tests.conftest import MakeApp, register, wait_until
from tests.support.fake_upstream import CUT, SILENCE, FakeUpstream, Pause, Reply
from tests.support.wire_bodies import openai_chat, openai_events

DOCS = Path(__file__).resolve().parents[2] / "docs"
PATHS = {
    "openai": "/v1/chat/completions", "anthropic": "/v1/messages", "responses": "/v1/responses"
}  # fmt: skip
MOST_BYTES = 5000
"""How large an answer may be in these tests."""
COMMENT = b": OPENROUTER PROCESSING\n\n"


LASTING = [
    (301, "no", 502), (302, "no", 502), (307, "no", 502), (401, "no", 502), (402, "no", 503),
    (403, "no", 502), (404, "no", 404), (405, "no", 502), (406, "no", 502), (410, "no", 404),
    (412, "no", 502), (418, "no", 502), (429, "insufficient_quota", 503), (451, "no", 502),
    (499, "no", 502), (600, "no", 502),
]  # fmt: skip
"""Statuses, codes, and what the client gets, of answers that are no failures that pass."""


class Gateway:
    """An application with two providers on one server, and a third that cannot be reached."""

    def __init__(self, make_app: MakeApp, upstream: FakeUpstream, **first: Any) -> None:
        """`first` are further fields of the first provider's row."""
        with socket.create_server(("127.0.0.1", 0)) as closed:
            nobody = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        self.upstream = upstream
        upstream.default = Reply.json(200, {"data": [{"id": "m"}]})
        providers: dict[str, Any] = {
            name: {"base_url": f"{upstream.url}/{name}", "api_key": "k", "models": ["m", "m2"]}
            for name in ("first", "second")
        }
        providers["first"] |= first
        providers["nobody"] = {"base_url": nobody, "api_key": "k", "models": ["m"]}
        chains = {
            "both": ["first/m", "second/m"],
            "twins": ["first/m", "first/m2", "second/m"],
            "away": ["nobody/m", "second/m"],
        }
        self.app: Flask = make_app(
            breaker_min_calls=1000,
            file=GoblinFile.model_validate({"providers": providers, "chains": chains}),
            retries=1,
        )
        self.client = self.app.test_client()
        self.user = {"Authorization": f"Bearer {register(self.client)['access_token']}"}
        monitor = self.app.extensions["goblin"].monitor
        for name in providers:
            wait_until(lambda name=name: monitor.report(name)["last_check"])

    def ask(self, dialect: str, model: str, *replies: Reply, stream: bool) -> Any:
        """Ask with scripted replies."""
        self.upstream.reply(*replies)
        body: dict[str, Any] = {"model": model, "stream": stream}
        if dialect == "responses":
            body["input"] = "hi"
        else:
            body |= {"max_tokens": 10, "messages": [{"role": "user", "content": "hi"}]}
        answer = self.client.post(PATHS[dialect], json=body, headers=self.user, buffered=True)
        answer.close()
        return answer

    def asked(self) -> list[str]:
        """The providers that were sent chats, in order."""
        return [
            request.path.split("/")[1]
            for request in self.upstream.requests
            if request.method == "POST"
        ]

    def record(self, answer: Any) -> dict[str, Any]:
        """The usage record of an answer."""
        engine = self.app.extensions["goblin"].engine
        (found,) = records_of(engine, answer.headers["X-Correlation-ID"])
        return found


def fine(stream: bool) -> Reply:
    return Reply.sse(openai_events()) if stream else Reply.json(200, openai_chat())


def silent(stream: bool) -> Reply:
    """The request is read, and nothing comes; in a stream after its head."""
    return Reply.sse([SILENCE]) if stream else Reply([SILENCE])


def broken(stream: bool) -> Reply:
    """An answer that breaks off before its first token."""
    if stream:
        return Reply.sse([b'data: {"id"', CUT])
    return Reply.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", b'{"id": "x"')


def half_a_status_line(stream: bool) -> Reply:
    return Reply.raw(b"HTTP/1.1 2")


def no_http(stream: bool) -> Reply:
    return Reply.raw(b"SSH-2.0-OpenSSH_9.2\r\n")


def no_object(stream: bool) -> Reply:
    """JSON that is no part of an answer."""
    return Reply.sse([b"data: 5\n\n"]) if stream else Reply.json(200, 5)


def too_large(stream: bool) -> Reply:
    """More than MOST_BYTES in one piece."""
    text = b"x" * (MOST_BYTES + 1)
    return Reply.sse([b'data: {"id": "' + text]) if stream else Reply.plain(200, text)


def failing(status: int, code: str = "no") -> Reply:
    return Reply.json(status, {"error": {"message": "no", "code": code}})


both_ways = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
all_dialects = pytest.mark.parametrize("dialect", list(PATHS))


@all_dialects
@both_ways
@pytest.mark.parametrize(
    "fault", [silent, broken, half_a_status_line, no_http, no_object, too_large]
)
def test_a_provider_that_may_be_generating_is_not_asked_again_but_the_next_one_is(
    make_app: MakeApp,
    fake_upstream: FakeUpstream,
    monkeypatch: pytest.MonkeyPatch,
    dialect: str,
    stream: bool,
    fault: Any,
) -> None:
    monkeypatch.setattr("goblin_assistant.providers.upstream.sse.MAX_EVENT_BYTES", MOST_BYTES)
    monkeypatch.setattr("goblin_assistant.providers.upstream.answers.MAX_ANSWER_BYTES", MOST_BYTES)
    gateway = Gateway(make_app, fake_upstream, timeout_first_token=0.5, timeout_answer=0.5)
    alone = gateway.ask(dialect, "first/m", fault(stream), stream=stream)
    assert alone.status_code == (504 if fault is silent else 502)
    assert gateway.asked() == ["first"]
    chained = gateway.ask(dialect, "twins", fault(stream), fine(stream), stream=stream)
    assert chained.status_code == 200
    assert gateway.asked()[1:] == ["first", "second"], "not even another model of the first"
    record = gateway.record(chained)
    failed = [event for event in json.loads(record["timeline"]) if event["event"] == "failed"]
    assert [event.get("may_bill") for event in failed] == [True]
    told = [moment.text for moment in story_of(record).moments]
    assert any("first failed" in text and "bill as well" in text for text in told)


@both_ways
@pytest.mark.parametrize("status", [408, 409, 425, 429, 498, 500, 502, 503, 504])
def test_a_failure_that_came_as_an_answer_is_asked_again(
    make_app: MakeApp, fake_upstream: FakeUpstream, status: int, stream: bool
) -> None:
    gateway = Gateway(make_app, fake_upstream)
    answer = gateway.ask("openai", "first/m", failing(status), fine(stream), stream=stream)
    assert answer.status_code == 200
    assert gateway.asked() == ["first", "first"]


@all_dialects
@both_ways
def test_an_answer_that_would_be_the_same_again_is_not_asked_for_again_but_the_next_one_is(
    make_app: MakeApp, fake_upstream: FakeUpstream, dialect: str, stream: bool
) -> None:
    gateway = Gateway(make_app, fake_upstream)
    for status, code, told in LASTING:
        fake_upstream.requests.clear()
        alone = gateway.ask(dialect, "first/m", failing(status, code), stream=stream)
        assert (alone.status_code, gateway.asked()) == (told, ["first"]), status
        chained = gateway.ask(dialect, "both", failing(status, code), fine(stream), stream=stream)
        assert chained.status_code == 200, status
        assert gateway.asked()[1:] == ["first", "second"], status
        assert "may_bill" not in gateway.record(chained)["timeline"], status


@both_ways
def test_a_connection_closed_unread_is_asked_again(
    make_app: MakeApp, fake_upstream: FakeUpstream, stream: bool
) -> None:
    gateway = Gateway(make_app, fake_upstream)
    answer = gateway.ask("openai", "first/m", Reply.raw(), fine(stream), stream=stream)
    assert answer.status_code == 200
    assert gateway.asked() == ["first", "first"]


@all_dialects
@both_ways
def test_a_provider_that_cannot_be_reached_gives_way_to_the_next(
    make_app: MakeApp, fake_upstream: FakeUpstream, dialect: str, stream: bool
) -> None:
    gateway = Gateway(make_app, fake_upstream)
    assert gateway.ask(dialect, "away", fine(stream), stream=stream).status_code == 200
    assert gateway.asked() == ["second"]


@pytest.mark.parametrize(("waited", "means"), [(50.0, "first_token"), (95.0, "comments")])
def test_a_comment_begins_the_limit_of_the_first_token_again_up_to_its_own(
    waited: float, means: str
) -> None:
    now = time.monotonic()
    exchange = Exchange(Call())
    exchange.sent_at, exchange.limit = now - waited, now + 1
    limits = []
    pieces = iter([COMMENT, b"data: {}\n\n"])

    class Response:
        """One that tells the limit while it is read."""

        headers: Mapping[str, str] = {}

        def read1(self, amount: int, decode: bool) -> bytes:
            limits.append((exchange.limit, exchange.limit_means))
            return next(pieces)

        def close(self) -> None: ...

        def release_conn(self) -> None: ...

    response: Any = Response()
    stream = EventStream("p", Timeouts(first_token=20, comments=100), response, exchange)
    assert next(stream) == b"data: {}\n\n"
    stream.close()
    (first, _), (second, meant) = limits
    assert first == now + 1
    assert meant == means
    most = exchange.sent_at + 100
    assert second == most if means == "comments" else now + 20 <= second < most


def test_comments_alone_end_at_a_limit_of_their_own(
    make_app: MakeApp, fake_upstream: FakeUpstream
) -> None:
    gateway = Gateway(make_app, fake_upstream, timeout_first_token=20.0, timeout_comments=0.5)
    endless = Reply.sse([COMMENT, Pause(0.05)] * 1200)
    answer = gateway.ask("openai", "first/m", endless, stream=True)
    assert answer.status_code == 504
    assert "only comments" in answer.get_json()["error"]["message"]
    assert gateway.asked() == ["first"]


@pytest.mark.parametrize(("status", "code"), [(402, None), (429, "insufficient_quota")])
def test_without_credit_nothing_is_asked_again_however_long_a_pause_may_be(
    status: int, code: str | None
) -> None:
    assert rule_of(error_for(UpstreamFailure("p", status, {}, b""), code=code)) is NOT_SERVED


@pytest.mark.parametrize("kind", PROVIDER_ERRORS, ids=lambda kind: kind.__name__)
def test_every_failure_has_a_rule(kind: Any) -> None:
    found = {rule_of(at(kind, reach)) for reach in Reach}
    found.add(rule_of(untranslatable("no", "p")))
    assert found <= set(RULES)


def at(kind: Any, reach: Reach) -> Any:
    error = kind("no")
    error.reach = reach
    return error


def test_only_what_may_be_generating_may_bill_and_is_never_asked_again() -> None:
    assert {rule for rule in RULES if rule.may_bill} == {SILENT, BROKEN}
    assert {rule for rule in RULES if rule.same} == {NOT_REACHED, UNREAD, FAILED}
    assert {rule for rule in RULES if not rule.further} == {REFUSED}
    others: set[Rule] = {TOO_LONG, NOT_SERVED, PAID}
    assert not any(rule.same or rule.may_bill for rule in others)


def test_the_documentation_has_the_table() -> None:
    assert markdown() in (DOCS / "routing.md").read_text()
