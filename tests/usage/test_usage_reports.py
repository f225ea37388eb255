"""Reports of usage in unusual places and orders: what one of them said stays said."""

from __future__ import annotations

import json
from typing import Any

import pytest

from goblin_assistant.providers.anthropic.response import parse_usage as claudes_usage
from goblin_assistant.providers.base import Usage, later_usage
from tests.conftest import MakeApp
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.plain_and_claude import CHAT, MESSAGES, Gateway
from tests.support.usage_cases import counted, details
from tests.support.wire_bodies import anthropic_events, anthropic_message

DONE = b"data: [DONE]\n\n"
COUNTED = counted(100, 50, 150, **details(40, 20, 30))


@pytest.fixture
def gateway(make_app: MakeApp, fake_upstream: FakeUpstream) -> Gateway:
    return Gateway(make_app, fake_upstream)


def chunk(delta: Any = None, reason: str | None = None, more: Any = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason, **(more or {})}
    choices = [] if delta is None else [choice]
    return f"data: {json.dumps({'id': 'c', 'choices': choices, **fields})}\n\n".encode()


TEXT, STOP = chunk({"content": "hi"}), chunk({}, "stop")
PLAIN = counted(100, 50, 150)
NULLS = {**PLAIN, "prompt_tokens_details": None, "completion_tokens_details": None}


@pytest.mark.parametrize("path", [CHAT, MESSAGES])
@pytest.mark.parametrize(
    "events",
    [
        pytest.param([TEXT, chunk({}, "stop", usage=COUNTED), chunk(usage=PLAIN)], id="no parts"),
        pytest.param([TEXT, chunk({}, "stop", usage=COUNTED), chunk(usage=NULLS)], id="null parts"),
        pytest.param([TEXT, chunk({}, "stop", {"usage": COUNTED})], id="within the choice"),
        pytest.param([TEXT, STOP, chunk(usage=COUNTED).rstrip()], id="no end of the last line"),
    ],
)
def test_a_stream_is_booked_with_all_that_was_reported(
    gateway: Gateway, path: str, events: list[bytes]
) -> None:
    end = [DONE] if events[-1].endswith(b"\n") else []
    answer = gateway.ask(path, "plain/m", Reply.sse([*events, *end]), stream=True)
    assert answer.status_code == 200
    assert gateway.booked() == (100, 50)
    assert gateway.booked("cached_tokens", "cache_write_tokens", "reasoning_tokens") == (40, 20, 30)


def test_parts_that_grew_replace_those_before_them_and_none_take_nothing_back() -> None:
    first = Usage(100, 10, cached_tokens=40, reasoning_tokens=5)
    assert later_usage(first, Usage(100, 50, reasoning_tokens=30)) == Usage(
        100, 50, cached_tokens=40, reasoning_tokens=30
    )
    assert later_usage(first, Usage(100, 50, cached_tokens=60)) == Usage(
        100, 50, cached_tokens=60, reasoning_tokens=5
    )


def test_a_last_line_that_is_cut_is_never_passed_on(gateway: Gateway) -> None:
    for cut in (b'data: {"id":"c","choi', b"data: {}x", b"data: 5", b"da"):
        answer = gateway.ask(CHAT, "plain/m", Reply.sse([TEXT, STOP, cut]), stream=True)
        assert cut not in answer.data.splitlines()


def test_claudes_last_event_may_lack_the_end_of_its_line(gateway: Gateway) -> None:
    *events, last = anthropic_events(text="hi")
    for path in (CHAT, MESSAGES):
        answer = gateway.ask(path, "claude/m", Reply.sse([*events, last.rstrip()]), stream=True)
        assert b'"error"' not in answer.data
        assert gateway.booked("completed") == (1,)


def test_the_two_parts_of_a_written_cache_are_enough() -> None:
    parts = {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 100}
    given = {"input_tokens": 25, "cache_read_input_tokens": 75, "output_tokens": 1}
    expected = Usage(
        400, 1, cached_tokens=75, cache_write_tokens=300, cache_write_1h_tokens=100
    )  # fmt: skip
    assert claudes_usage({**given, "cache_creation": parts}) == expected
    whole = {**given, "cache_creation": parts, "cache_creation_input_tokens": 300}
    assert claudes_usage(whole) == expected


def openais(text: str) -> str:
    message = f'{{"role":"assistant","content":"{text}"}}'
    choice = f'{{"index":0,"message":{message},"finish_reason":"stop"}}'
    return f'{{"id":"c","choices":[{choice}],"score":NaN}}'


@pytest.mark.parametrize("row", ["plain", "claude"])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_a_text_that_only_some_readers_take_is_not_free(
    gateway: Gateway, row: str, path: str
) -> None:
    text = "word" * 100 + "\\ud83d"
    body = openais(text)
    if row == "claude":
        body = json.dumps({**anthropic_message(text="TEXT"), "usage": None}).replace("TEXT", text)
    answer = gateway.ask(path, f"{row}/m", Reply.plain(200, body.encode()))
    assert answer.status_code == 200
    assert 100 <= gateway.booked()[1] <= 102


ITERATIONS = [
    {"type": "compaction", "input_tokens": 180_000, "output_tokens": 3_500,
     "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0},
    {"type": "message", "input_tokens": 23_000, "output_tokens": 1_000,
     "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0},
    {"type": "advisor_message", "model": "advisor", "input_tokens": 24_000, "output_tokens": 1_500,
     "cache_read_input_tokens": 4_000, "cache_creation_input_tokens": 0},
    {"type": "advisor_message", "model": "unknown", "input_tokens": 2**39, "output_tokens": 1},
    {"type": "other", "input_tokens": 5, "output_tokens": 5}, "nonsense", None,
]  # fmt: skip
"""The first two: https://platform.claude.com/docs/en/build-with-claude/compaction."""
TOTALS = {"input_tokens": 23_000, "output_tokens": 1_000, "iterations": ITERATIONS}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("path", [CHAT, MESSAGES])
def test_what_claude_generates_beside_its_answer_is_booked_at_its_models_price(
    make_app: MakeApp, fake_upstream: FakeUpstream, path: str, stream: bool
) -> None:
    rates = {"claude/m": {"input": 3, "output": 15}, "claude/advisor": {"input": 5, "output": 25}}
    gateway = Gateway(make_app, fake_upstream, prices=rates)
    if stream:
        *begun, _, end = anthropic_events(
            text="hi", usage={"input_tokens": 23_000, "output_tokens": 1}, model="m"
        )
        last = {
            "type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": TOTALS,
        }  # fmt: skip
        reply = Reply.sse([*begun, f"data: {json.dumps(last)}\n\n".encode(), end])
    else:
        reply = Reply.json(200, anthropic_message(text="hi", usage=TOTALS, model="m"))
    answer = gateway.ask(path, "claude/m", reply, stream=stream)
    assert answer.status_code == 200, answer.text
    assert gateway.booked() == (23_000 + 180_000 + 28_000, 1_000 + 3_500 + 1_500)
    cost = 203_000 * 3 + 4_500 * 15 + 28_000 * 5 + 1_500 * 25
    assert gateway.booked("cached_tokens", "cost_microusd", "token_source") == (
        4_000, cost, "provider"
    )  # fmt: skip
    if stream and path == MESSAGES:
        told = [json.loads(line[6:]) for line in answer.data.splitlines() if line[:5] == b"data:"]
        costs = [one["usage"]["cost_usd"] for one in told if one["type"] == "message_delta"]
        assert costs == [str(cost / 1e6)]
    if not stream:
        assert answer.headers["X-Goblin-Prompt-Tokens"] == "231000"


def test_summaries_without_end_are_booked_up_to_the_largest_window(gateway: Gateway) -> None:
    summary = {"type": "compaction", "input_tokens": 900_000, "output_tokens": 1_000}
    usage = {"input_tokens": 10, "output_tokens": 2, "iterations": [summary] * 1000}
    reply = Reply.json(200, anthropic_message(text="hi", usage=usage, model="m"))
    assert gateway.ask(MESSAGES, "claude/m", reply).status_code == 200
    assert gateway.booked() == (10 + 2 * 900_000, 2 + 2 * 1_000)


def test_a_later_report_without_iterations_takes_none_back() -> None:
    first = claudes_usage(TOTALS)
    assert first is not None
    assert [name for name, _ in first.beside] == ["", "advisor", "unknown"]
    assert later_usage(first, Usage(23_000, 1_200)).beside == first.beside


SUMMARY = {
    "input_tokens": 0, "output_tokens": 0,
    "iterations": [{"type": "compaction", "input_tokens": 180_000, "output_tokens": 3_500}],
}  # fmt: skip
"""https://docs.aws.amazon.com/bedrock/latest/userguide/claude-messages-compaction.html"""


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_an_answer_that_is_only_a_summary_is_booked_once(gateway: Gateway, stream: bool) -> None:
    said = "word " * 500
    if stream:
        *begun, _, end = anthropic_events(text=said, usage={"input_tokens": 0, "output_tokens": 0})
        last = {"type": "message_delta", "delta": {"stop_reason": "compaction"}, "usage": SUMMARY}
        reply = Reply.sse([*begun, f"data: {json.dumps(last)}\n\n".encode(), end])
    else:
        reply = Reply.json(200, anthropic_message(text=said, usage=SUMMARY))
    assert gateway.ask(MESSAGES, "claude/m", reply, stream=stream).status_code == 200
    assert gateway.booked() == (180_000, 3_500)
    assert gateway.booked("token_source") == ("provider",)


DECLINED = {"type": "message", "model": "m", "input_tokens": 535, "output_tokens": 120}
SERVED = {"type": "fallback_message", "model": "n", "input_tokens": 412, "output_tokens": 264}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("begun_tokens", [0, 120])
def test_a_model_that_declines_after_it_began_is_booked_at_its_price(
    make_app: MakeApp, fake_upstream: FakeUpstream, begun_tokens: int, stream: bool
) -> None:
    rates = {"claude/m": {"input": 10, "output": 50}, "claude/n": {"input": 5, "output": 25}}
    gateway = Gateway(make_app, fake_upstream, prices=rates)
    iterations = [{**DECLINED, "output_tokens": begun_tokens}, SERVED]
    usage = {"input_tokens": 412, "output_tokens": 264, "iterations": iterations}
    if stream:  # message_start names the model that declined later
        *begun, _, end = anthropic_events(
            text="hi", usage={"input_tokens": 535, "output_tokens": 1}, model="m"
        )
        last = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}
        reply = Reply.sse([*begun, f"data: {json.dumps(last)}\n\n".encode(), end])
    else:
        reply = Reply.json(200, anthropic_message(text="hi", usage=usage, model="n"))
    assert gateway.ask(MESSAGES, "claude/m", reply, stream=stream).status_code == 200
    more = 535 if begun_tokens else 0
    assert gateway.booked() == (412 + more, 264 + begun_tokens)
    cost = 412 * 5 + 264 * 25 + more * 10 + begun_tokens * 50
    assert gateway.booked("cost_microusd") == (cost,)
