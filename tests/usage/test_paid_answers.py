"""An answer that a provider finished but that cannot be passed on is paid for. It is not asked for
again."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from flask import Flask

from goblin_assistant.config.goblin_file import GoblinFile
from tests.conftest import MakeApp, register, wait_until
from tests.support.books import rows
from tests.support.fake_upstream import FakeUpstream, Reply

MESSAGES = [{"role": "user", "content": "hi"}]
PRICE = 10


class Gateway:
    """An application with an OpenAI row, a second one, and an Anthropic row on one server."""

    def __init__(self, make_app: MakeApp, upstream: FakeUpstream) -> None:
        names = {"plain": {}, "second": {}, "claude": {"kind": "anthropic"}}
        self.upstream = upstream
        upstream.default = Reply.json(200, {"data": [{"id": "m"}]})
        self.app: Flask = make_app(
            breaker_min_calls=4,
            file=GoblinFile.model_validate(
                {
                    "providers": {
                        name: {
                            "base_url": f"{upstream.url}/{name}",
                            "api_key": "k",
                            "models": ["m"],
                            **row,
                        }
                        for name, row in names.items()
                    },
                    "chains": {"both": ["plain/m", "second/m"]},
                    "prices": {
                        "plain/*": {"input": PRICE, "output": PRICE},
                        "second/*": {"input": 2 * PRICE, "output": 2 * PRICE},
                        "claude/*": {"input": PRICE, "output": PRICE},
                    },
                }
            ),
        )
        self.client = self.app.test_client()
        self.user = {"Authorization": f"Bearer {register(self.client)['access_token']}"}
        monitor = self.app.extensions["goblin"].monitor
        for name in names:
            wait_until(lambda name=name: monitor.report(name)["last_check"])

    def ask(self, path: str, model: str, *replies: Reply, **fields: Any) -> Any:
        """Ask with scripted replies; the last one repeats."""
        for reply in replies[:-1]:
            self.upstream.reply(reply)
        self.upstream.default = replies[-1]
        body = {"model": model, "messages": MESSAGES, "max_tokens": 1000, **fields}
        answer = self.client.post(path, json=body, headers=self.user, buffered=True)
        answer.close()
        return answer

    def calls(self) -> int:
        """The chats that the server was sent."""
        return sum(request.method == "POST" for request in self.upstream.requests)

    def booked(self) -> tuple[Any, ...]:
        """Prompt, completion and cost of the last record."""
        runtime = self.app.extensions["goblin"]
        return rows(
            runtime.engine,
            "SELECT prompt_tokens, completion_tokens, cost_microusd FROM usage_records"
            " ORDER BY id DESC LIMIT 1",
        )[0]


@pytest.fixture
def gateway(make_app: MakeApp, fake_upstream: FakeUpstream) -> Gateway:
    return Gateway(make_app, fake_upstream)


def deep(levels: int) -> str:
    """An object nested in so many objects."""
    return '{"a":' * levels + "1" + "}" * levels


def whole(arguments: str = "{}", **fields: Any) -> Reply:
    """An OpenAI answer with a tool call: 20 prompt tokens, 900 completion tokens."""
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return Reply.json(
        200,
        {
            "id": "x", "object": "chat.completion", "created": 1, "model": "m",
            "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}],
            "usage": {"prompt_tokens": 20, "completion_tokens": 900, "total_tokens": 920},
            **fields,
        },
    )  # fmt: skip


def message(arguments: str, prompt: int = 20) -> Reply:
    """An Anthropic answer with a tool's input."""
    return Reply.plain(
        200,
        b'{"id":"m","type":"message","role":"assistant","model":"m","content":[{"type":"tool_use",'
        b'"id":"a","name":"f","input":%b}],"stop_reason":"tool_use","stop_sequence":null,"usage":'
        b'{"input_tokens":%d,"output_tokens":900}}' % (arguments.encode(), prompt),
    )


DEEP = deep(300)
TOO_DEEP = deep(985)
only_3_11 = pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="this Python writes what is nested so deeply"
)
MANY = '{"a":[' + "[]," * 270_000 + "[]]}"


@pytest.mark.parametrize(
    ("path", "model", "reply"),
    [
        pytest.param("/v1/messages", "plain/m", whole(TOO_DEEP), id="arguments", marks=only_3_11),
        pytest.param("/v1/messages", "plain/m", whole(MANY), id="many-values"),
        pytest.param("/v1/messages", "plain/m", whole(choices=["x"]), id="no-completion"),
        pytest.param(
            "/v1/chat/completions", "claude/m", message(TOO_DEEP), id="input", marks=only_3_11
        ),
        pytest.param("/v1/chat/completions", "claude/m", message(deep(20_000)), id="unparseable"),
    ],
)
def test_an_answer_that_cannot_be_passed_on_is_paid_for_once_and_opens_no_breaker(
    gateway: Gateway, path: str, model: str, reply: Reply
) -> None:
    answer = gateway.ask(path, model, reply)
    assert answer.status_code == 502
    assert gateway.calls() == 1
    assert gateway.booked() == (20, 900, 920 * PRICE)
    for _ in range(8):
        assert gateway.ask(path, model, reply).status_code == 502
    circuits = gateway.app.extensions["goblin"].router.circuits()
    assert circuits[model.split("/")[0]] == "closed"


@pytest.mark.parametrize(
    ("path", "model", "reply"),
    [
        ("/v1/messages", "plain/m", whole(DEEP)),
        ("/v1/chat/completions", "claude/m", message(DEEP)),
    ],
)
def test_arguments_of_three_hundred_levels_are_translated(
    gateway: Gateway, path: str, model: str, reply: Reply
) -> None:
    answer = gateway.ask(path, model, reply)
    assert answer.status_code == 200
    assert gateway.booked() == (20, 900, 920 * PRICE)
    if path == "/v1/messages":
        assert json.loads(answer.data)["content"][0]["input"] == json.loads(DEEP)
    else:
        call = json.loads(answer.data)["choices"][0]["message"]["tool_calls"][0]
        assert json.loads(call["function"]["arguments"]) == json.loads(DEEP)


@pytest.mark.parametrize("levels", [300, 985])
def test_a_large_count_beside_deep_arguments_is_booked(gateway: Gateway, levels: int) -> None:
    answer = gateway.ask("/v1/messages", "claude/m", message(deep(levels), 180_000))
    assert answer.status_code == 200
    assert gateway.booked() == (180_000, 900, 180_900 * PRICE)


def test_usage_beside_an_error_is_booked_for_each_attempt(gateway: Gateway) -> None:
    usage = {"prompt_tokens": 20, "completion_tokens": 900}
    failed = Reply.json(200, {"error": {"message": "x", "code": 502}, "usage": usage})
    assert gateway.ask("/v1/chat/completions", "plain/m", failed).status_code == 502
    calls = gateway.calls()
    assert calls > 1
    assert gateway.booked() == (20 * calls, 900 * calls, 920 * calls * PRICE)


@only_3_11
def test_a_failed_attempt_is_added_at_its_own_price(gateway: Gateway) -> None:
    answer = gateway.ask("/v1/messages", "both", whole(TOO_DEEP), whole())
    assert answer.status_code == 200
    assert gateway.calls() == 2
    assert gateway.booked() == (40, 1800, 920 * PRICE + 920 * 2 * PRICE)


def test_usage_beside_an_error_in_a_stream_is_booked(gateway: Gateway) -> None:
    usage = {"prompt_tokens": 20, "completion_tokens": 900}
    first = {"id": "x", "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]}
    events = [first, {"error": {"message": "x"}, "usage": usage}]
    reply = Reply.sse([b"data: %b\n\n" % json.dumps(event).encode() for event in events])
    gateway.ask("/v1/chat/completions", "plain/m", reply, stream=True)
    assert gateway.booked() == (20, 900, 920 * PRICE)


def test_a_stream_that_cannot_be_translated_is_booked_and_opens_no_breaker(
    gateway: Gateway,
) -> None:
    usage = {"prompt_tokens": 20, "completion_tokens": 900}

    def piece(index: int, name: str | None) -> dict[str, Any]:
        function = {"arguments": "{}", **({"name": name} if name else {})}
        call = {"index": index, "function": function}
        delta = {"tool_calls": [call]}
        return {"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": None}],
                "usage": usage}  # fmt: skip

    events = [piece(0, "f"), piece(1, "g"), piece(0, None)]
    reply = Reply.sse([b"data: %b\n\n" % json.dumps(event).encode() for event in events])
    for _ in range(8):
        answer = gateway.ask("/v1/messages", "plain/m", reply, stream=True)
        assert b"event: error" in answer.data
    assert gateway.booked() == (20, 900, 920 * PRICE)
    assert gateway.app.extensions["goblin"].router.circuits()["plain"] == "closed"


def test_deep_arguments_of_an_earlier_call_are_refused_as_a_deep_body_is(gateway: Gateway) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": TOO_DEEP}}
    earlier = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "a", "content": "1"}
    answer = gateway.ask(
        "/v1/chat/completions", "claude/m", message("{}"), messages=[*MESSAGES, earlier, result]
    )
    assert answer.status_code == 400
    assert "nested too deeply" in answer.json["error"]["message"]
    assert gateway.calls() == 0
