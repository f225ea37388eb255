"""Failures that servers report with status 200, or in another server's form: each is told as what
it is, and is no success."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.conftest import MakeApp
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.plain_and_claude import CHAT, MESSAGES, Gateway
from tests.support.wire_bodies import anthropic_events, anthropic_message, openai_chat

DONE = b"data: [DONE]\n\n"
BEGUN = {
    "plain": [
        b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"hi"},"finish_reason":null}]}'
        b"\n\n"
    ],
    "claude": anthropic_events(done=False),
}
BUSY, LIMITED, BROKEN = "provider_overloaded", "provider_rate_limited", "provider_bad_response"


@pytest.fixture
def gateway(make_app: MakeApp, fake_upstream: FakeUpstream) -> Gateway:
    return Gateway(make_app, fake_upstream)


def event(value: Any) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()


def code_in(answer: Any) -> str:
    """The code of the error that the client is told, whole or at the end of a stream."""
    if answer.status_code != 200:
        error = answer.get_json()["error"]
    else:
        lines = [line[6:] for line in answer.data.splitlines() if line.startswith(b"data: {")]
        error = json.loads(lines[-1]).get("error") or {}
    return str(error.get("code"))


@pytest.mark.parametrize("row", ["plain", "claude"])
@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param({"type": "error", "error": {"type": "overloaded_error"}}, BUSY, id="claude"),
        pytest.param({"error": {"type": "overloaded_error"}}, BUSY, id="without a type"),
        pytest.param({"error": {"type": "server_error", "code": 503}}, BUSY, id="openai"),
        pytest.param({"error": {"message": "no", "code": "429"}}, LIMITED, id="digits"),
        pytest.param({"error": {"message": "no", "status_code": 429}}, LIMITED, id="status_code"),
        pytest.param([{"error": {"code": 429, "status": "X"}}], LIMITED, id="a list"),
        pytest.param({"object": "error", "message": "no", "code": 429}, LIMITED, id="flat"),
        pytest.param({"error": "overloaded"}, BUSY, id="a text"),
    ],
)
def test_an_error_is_what_it_says_in_any_form_of_an_answer(
    gateway: Gateway, row: str, body: Any, code: str
) -> None:
    replies = {
        "whole": Reply.json(200, body),
        "streamed": Reply.sse([event(body), DONE]),
        "JSON for a stream": Reply.json(200, body),
        "JSON called a stream": Reply.plain(
            200, json.dumps(body).encode(), "text/event-stream; charset=utf-8"
        ),
        "in the middle": Reply.sse([*BEGUN[row], event(body), DONE]),
    }
    for path in (CHAT, MESSAGES):
        for name, reply in replies.items():
            answer = gateway.ask(path, f"{row}/m", reply, stream=name != "whole")
            assert (answer.status_code == 200) is (name == "in the middle"), (path, name)
            assert code_in(answer) == code, (path, name, answer.data)


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_a_whole_message_of_claudes_instead_of_a_stream_is_paid_for(
    gateway: Gateway, kind: str
) -> None:
    body = json.dumps(anthropic_message(text="hi")).encode()
    for path in (CHAT, MESSAGES):
        before = len(gateway.asked())
        answer = gateway.ask(path, "claude/m", Reply.plain(200, body, kind), stream=True)
        assert answer.status_code == 502
        assert gateway.booked() == (12, 5)
        assert len(gateway.asked()) == before + 1


def test_a_whole_answer_that_is_called_a_stream_is_paid_for(gateway: Gateway) -> None:
    body = json.dumps(openai_chat()).encode()
    answer = gateway.ask(CHAT, "plain/m", Reply.plain(200, body, "text/event-stream"), stream=True)
    assert answer.status_code == 502
    assert gateway.booked() == (12, 5)


def test_a_stream_whose_first_bytes_come_one_by_one_is_a_stream(gateway: Gateway) -> None:
    choice = {"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}
    data = b"\xef\xbb\xbf" + event({"id": "c", "choices": [choice]}) + DONE
    for kind in ("text/event-stream", "application/json"):
        pieces = [data[at : at + 1] for at in range(12)] + [data[12:]]
        reply = Reply.sse(pieces, content_type=kind)
        answer = gateway.ask(CHAT, "plain/m", reply, stream=True)
        assert answer.data == data.removeprefix(b"\xef\xbb\xbf")


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param([], id="nothing"),
        pytest.param([{"id": "c", "choices": []}], id="no choice"),
        pytest.param([{"id": "c", "choices": None}], id="null"),
        pytest.param([{}], id="an empty object"),
    ],
)
def test_an_answer_without_a_choice_is_no_success(
    gateway: Gateway, path: str, chunks: list[Any]
) -> None:
    answer = gateway.ask(path, "plain/m", Reply.sse([*map(event, chunks), DONE]), stream=True)
    assert code_in(answer) == BROKEN
    assert DONE not in answer.data
    assert b"message_stop" not in answer.data
    for body in chunks:
        good = Reply.json(200, anthropic_message(text="hi"))
        answer = gateway.ask(path, "plain-first", Reply.json(200, body), good)
        assert answer.status_code == 200
        assert answer.headers["X-Goblin-Provider"] == "claude"


@pytest.mark.parametrize("reason", ["error", "insufficient_system_resource", "abort", "aborted"])
def test_an_answer_that_its_server_gave_up_is_no_success(gateway: Gateway, reason: str) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "par"}}
    body = {**openai_chat(), "choices": [{**choice, "finish_reason": reason}]}
    good = Reply.json(200, anthropic_message(text="hi"))
    ends = {"index": 0, "delta": {}, "finish_reason": reason}
    for path in (CHAT, MESSAGES):
        answer = gateway.ask(path, "plain-first", Reply.json(200, body), good)
        assert answer.headers["X-Goblin-Provider"] == "claude"
        events = [*BEGUN["plain"], event({"id": "c", "choices": [ends]}), DONE]
        answer = gateway.ask(path, "plain/m", Reply.sse(events), stream=True)
        assert code_in(answer) == BROKEN


ALIKE = {
    400: "invalid_request", 401: "provider_authentication_failed",
    403: "provider_authentication_failed", 404: "model_not_found", 408: "provider_timeout",
    409: BROKEN, 410: "model_not_found", 413: "invalid_request", 415: "invalid_request",
    422: "invalid_request", 425: BROKEN, 429: LIMITED, 500: BROKEN, 502: BROKEN, 503: BUSY,
    504: "provider_timeout", 529: BUSY,
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_status_means_the_same_in_rows_of_both_kinds(gateway: Gateway, stream: bool) -> None:
    body = {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}
    for path in (CHAT, MESSAGES):
        for status, code in ALIKE.items():
            for row in ("plain", "claude"):
                answer = gateway.ask(path, f"{row}/m", Reply.json(status, body), stream=stream)
                told = answer.get_json()["error"]
                found = told.get("code") or told["type"]
                assert found == code or path == MESSAGES, (status, row)
                assert (
                    answer.status_code
                    == gateway.ask(
                        path, "plain/m", Reply.json(status, body), stream=stream
                    ).status_code
                ), (status, row)
