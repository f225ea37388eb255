"""What providers send that strict readers refuse: it passes through, and is translated."""

from __future__ import annotations

import json
from typing import Any

import pytest

from goblin_assistant.providers.openai.wire import encode
from goblin_assistant.schemas.json_bounds import read_text
from goblin_assistant.schemas.surrogates import PairJoiner
from tests.conftest import MakeApp
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.plain_and_claude import CHAT, HELLO, MESSAGES, Gateway
from tests.support.wire_bodies import anthropic_message, openai_chat, openai_events

BIG = 12345678901234567890123
BOM = b"\xef\xbb\xbf"
USAGE = '"usage" : {"prompt_tokens" : 20,"completion_tokens" : 900}'


@pytest.fixture
def gateway(make_app: MakeApp, fake_upstream: FakeUpstream) -> Gateway:
    return Gateway(make_app, fake_upstream)


def chat(content: str, more: str = "") -> bytes:
    """A chat completion with a content as it is written in JSON."""
    return (
        '{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,'
        f'"message":{{"role":"assistant","content":"{content}"}},"finish_reason":"stop"}}],'
        f"{more}{USAGE}}}"
    ).encode()


def chunk(content: str, more: str = "") -> bytes:
    """A chunk with a content as it is written in JSON."""
    return (
        'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"m","choices":'
        f'[{{"index":0,"delta":{{"content":"{content}"}},"finish_reason":null}}]{more}}}\n\n'
    ).encode()


LAST = (
    'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0'
    f',"delta":{{}},"finish_reason" : "stop"}}],{USAGE}}}\n\n'
).encode()
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(chat("a\\ud83d"), id="half a pair"),
        pytest.param(BOM + chat("a"), id="byte order mark"),
        pytest.param(chat("a", '"score":-Infinity,'), id="-Infinity"),
        pytest.param(chat("a", '"score":NaN,'), id="NaN"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_an_answer_that_orjson_refuses_is_passed_on_and_translated(
    gateway: Gateway, body: bytes, path: str
) -> None:
    answer = gateway.ask(path, "plain/m", Reply.plain(200, body))
    assert answer.status_code == 200
    if path == CHAT:
        assert answer.data == body
    else:
        assert json.loads(answer.data)["content"][0]["text"].startswith("a")
    assert gateway.booked() == (20, 900)


def test_half_a_pair_of_claudes_is_translated(gateway: Gateway) -> None:
    body = json.dumps(anthropic_message(text="a\ud83d")).encode()
    answer = gateway.ask(CHAT, "claude/m", Reply.plain(200, body))
    assert json.loads(answer.data)["choices"][0]["message"]["content"] == "a\ud83d"


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([BOM + chunk("hi"), LAST, DONE], id="byte order mark"),
        pytest.param([chunk("h"), chunk("i", ',"score":-Infinity'), LAST, DONE], id="-Infinity"),
        pytest.param([chunk("hi"), LAST, DONE], id="blanks before colons"),
    ],
)
@pytest.mark.parametrize("kind", ["text/event-stream", "application/json", "text/plain"])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_stream_is_known_by_its_first_bytes_and_counted(
    gateway: Gateway, events: list[bytes], kind: str, path: str
) -> None:
    answer = gateway.ask(path, "plain/m", Reply.sse(events, content_type=kind), stream=True)
    assert answer.status_code == 200
    assert answer.data.endswith(DONE if path == CHAT else b'{"type":"message_stop"}\n\n')
    assert gateway.booked() == (20, 900)
    assert len(gateway.asked()) == 1


def test_a_whole_answer_instead_of_a_stream_is_paid_for_and_not_asked_for_again(
    gateway: Gateway,
) -> None:
    answer = gateway.ask(CHAT, "plain/m", Reply.plain(200, chat("hi")), stream=True)
    assert answer.status_code == 502
    assert gateway.booked() == (20, 900)
    assert len(gateway.asked()) == 1


def test_a_pair_that_is_cut_over_two_deltas_is_joined(gateway: Gateway) -> None:
    events = [chunk("a\\ud83d"), chunk("\\ude00b"), chunk("c\\ud83d"), LAST, DONE]
    passed = gateway.ask(CHAT, "plain/m", Reply.sse(events), stream=True)
    assert passed.data.startswith(b"".join(events[:3]))
    answer = gateway.ask(MESSAGES, "plain/m", Reply.sse(events), stream=True)
    found = [json.loads(line[6:]) for line in answer.data.splitlines() if line.startswith(b"data:")]
    texts = [item["delta"]["text"] for item in found if item["type"] == "content_block_delta"]
    assert "".join(texts) == "a\U0001f600bc\ud83d"


def test_the_halves_of_a_pair_are_joined_and_others_stay() -> None:
    joiner = PairJoiner()
    texts = ["a\ud83d", "\ude00", "", "\ud83d", "x", "\ude00", "\ud83d"]
    joined = [*map(joiner.join, texts), joiner.rest(), joiner.rest()]
    assert joined == ["a", "\U0001f600", "", "", "\ud83dx", "\ude00", "", "\ud83d", ""]


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize("model", ["plain/m", "claude/m"])
def test_integers_beyond_64_bits_go_upstream_as_they_are(
    gateway: Gateway, path: str, model: str
) -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"id": BIG}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "ok"}
    arguments = json.dumps({"id": BIG})
    call = {"id": "toolu_1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    history: list[dict[str, Any]] = (
        [
            {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]},
        ]
        if path == MESSAGES
        else [
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "toolu_1", "content": "ok"},
        ]
    )  # fmt: skip
    reply = openai_chat() if model == "plain/m" else anthropic_message()
    answer = gateway.ask(path, model, Reply.json(200, reply), messages=[*HELLO, *history])
    assert answer.status_code == 200
    assert str(BIG).encode() in gateway.asked()[0].body


def test_integers_beyond_64_bits_come_back_as_they_are(gateway: Gateway) -> None:
    tools = [("f", {"id": BIG})]
    answer = gateway.ask(MESSAGES, "plain/m", Reply.json(200, openai_chat(tool_calls=tools)))
    assert json.loads(answer.data)["content"][0]["input"] == {"id": BIG}
    answer = gateway.ask(CHAT, "claude/m", Reply.json(200, anthropic_message(tool_calls=tools)))
    call = json.loads(answer.data)["choices"][0]["message"]["tool_calls"][0]
    assert json.loads(call["function"]["arguments"]) == {"id": BIG}


LONG = "-0.12345678901234567890123e-7"
"""More digits than a double has."""


def post_raw(gateway: Gateway, path: str, model: str, reply: bytes, body: dict[str, Any]) -> Any:
    """Ask with a body in which the text "<long>" is that number, and a reply as it is."""
    gateway.upstream.reply(Reply.plain(200, reply))
    text = json.dumps({"model": model, "max_tokens": 9, **body}).replace('"<long>"', LONG)
    kind = "application/json"
    return gateway.client.post(path, data=text, content_type=kind, headers=gateway.user)


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize("model", ["plain/m", "claude/m"])
def test_floats_of_many_digits_go_upstream_as_they_are(
    gateway: Gateway, path: str, model: str
) -> None:
    use = {"type": "tool_use", "id": "t", "name": "f", "input": {"x": "<long>", "y": 0.25}}
    arguments = f'{{"x": {LONG}, "y": 0.25}}'
    call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": arguments}}
    history: list[dict[str, Any]] = (
        [
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t"}]},
        ]
        if path == MESSAGES
        else [
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "t", "content": "ok"},
        ]
    )  # fmt: skip
    reply = json.dumps(openai_chat() if model == "plain/m" else anthropic_message()).encode()
    schema = {"type": "object", "properties": {"n": {"const": "<long>"}}}
    tool: dict[str, Any] = {"name": "f", "input_schema": schema}
    if path == CHAT:
        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    body = {"messages": [*HELLO, *history], "tools": [tool], "temperature": 0.30000000000000004}
    assert post_raw(gateway, path, model, reply, body).status_code == 200
    sent = gateway.asked()[0].body
    assert sent.count(LONG.encode()) == 2
    assert b"0.30000000000000004" in sent


@pytest.mark.parametrize(
    "text",
    [
        '{"a":12345678901234567890123}',
        '{"a":[12345.12345678901234567]}',
        '{"a":-0.12345678901234567890e-5,"b":1.5}',
        "[12345678901234567890.5]",
        '{"a":0.30000000000000004}',
        '{"a":123456789012345678,"b":"12345678901234567890.5"}',
    ],
)
def test_a_number_is_written_as_it_was_read(text: str) -> None:
    assert encode(read_text(text)) == text.encode()


def test_floats_of_many_digits_come_back_as_they_are(gateway: Gateway) -> None:
    written = json.dumps(anthropic_message(tool_calls=[("f", {"x": "<long>"})]))
    reply = written.replace('"<long>"', LONG).encode()
    answer = post_raw(gateway, CHAT, "claude/m", reply, {"messages": HELLO})
    (call,) = json.loads(answer.data)["choices"][0]["message"]["tool_calls"]
    assert call["function"]["arguments"] == f'{{"x":{LONG}}}'
    reply = json.dumps(openai_chat()).encode()
    text = json.loads(reply)
    text["choices"][0]["message"]["tool_calls"] = [
        {"id": "t", "type": "function", "function": {"name": "f", "arguments": f'{{"x":{LONG}}}'}}
    ]
    answer = post_raw(gateway, MESSAGES, "plain/m", json.dumps(text).encode(), {"messages": HELLO})
    assert b'"input":{"x":%b}' % LONG.encode() in answer.data


# -- failures with status 200, and targets that cannot take a request -----------------------------
FAILED_CHOICE = {
    "index": 0, "message": {"role": "assistant", "content": ""}, "finish_reason": "error",
    "error": {"code": 502, "message": "Provider returned error"},
}  # fmt: skip


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize(
    "fault",
    ["a choice with an error", "an error beside choices", "no answer before the end"],
)
def test_an_error_inside_an_answer_with_status_200_is_the_providers(
    gateway: Gateway, path: str, stream: bool, fault: str
) -> None:
    body = {**openai_chat(), "choices": [FAILED_CHOICE]}
    if fault == "an error beside choices":
        body = {**openai_chat(), "choices": [], "error": {"code": 502, "message": "no"}}
    events = [f"data: {json.dumps(body)}\n\n".encode(), DONE]
    if fault == "no answer before the end":
        body, events = {"error": {"message": "no"}}, [DONE]
    bad = Reply.sse(events) if stream else Reply.json(200, body)
    assert gateway.ask(path, "plain/m", bad, stream=stream).status_code == 502
    good = Reply.json(200, anthropic_message())
    if not stream:
        assert gateway.ask(path, "plain-first", bad, good).status_code == 200


def test_an_error_in_the_middle_of_a_stream_has_no_clean_end(gateway: Gateway) -> None:
    failed = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
    event = b"data: " + json.dumps({"choices": [failed]}).encode() + b"\n\n"
    answer = gateway.ask(CHAT, "plain/m", Reply.sse([chunk("hi"), event, DONE]), stream=True)
    assert b"[DONE]" not in answer.data
    assert b'"provider_bad_response"' in answer.data


DOWN = Reply.json(503, {"error": {"message": "busy"}}, headers={"Retry-After": "7"})


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("path", "chain", "fields"),
    [
        # logprobs on Claude, a container on others
        (CHAT, "plain-first", {"n": 2}),
        (MESSAGES, "claude-first", {"container": "container_1"}),
    ],
)
def test_a_passing_failure_is_told_where_the_next_target_cannot_take_the_request(
    gateway: Gateway, path: str, chain: str, fields: dict[str, Any], stream: bool
) -> None:
    answer = gateway.ask(path, chain, DOWN, stream=stream, **fields)
    assert answer.status_code == 503, answer.data
    assert answer.headers["Retry-After"] == "7"
    assert len(gateway.asked()) == 1


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_first_target_that_cannot_take_the_request_is_passed_over(
    gateway: Gateway, stream: bool
) -> None:
    reply = Reply.sse(openai_events()) if stream else Reply.json(200, openai_chat())
    answer = gateway.ask(CHAT, "claude-first", reply, stream=stream, n=2)
    assert answer.status_code == 200
    assert answer.headers["X-Goblin-Provider"] == "plain"
    assert answer.headers["X-Goblin-Attempts"] == "1"
    alone = gateway.ask(CHAT, "claude/m", stream=stream, n=2)
    assert alone.status_code == 400
