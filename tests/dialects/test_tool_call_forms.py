"""Tool calls as servers write them, in pieces and whole: none is lost in a translation."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goblin_assistant.dialects.anthropic import answer as anthropic_answer
from goblin_assistant.dialects.anthropic.stream import StreamTranslator as AnthropicStream
from goblin_assistant.dialects.responses import answer as responses_answer
from goblin_assistant.dialects.responses.stream import StreamTranslator as ResponsesStream
from goblin_assistant.dialects.tool_calls import ToolCall
from goblin_assistant.providers.anthropic.stream import Translator
from goblin_assistant.providers.base import BadResponse, ChatResponse, Completed

ONE, TWO = [("f", {"a": 1})], [("f", {"a": 1}), ("f", {"a": 2})]


def piece(arguments: Any, name: str | None = None, **more: Any) -> dict[str, Any]:
    function = {"arguments": arguments, **({"name": name} if name else {})}
    return {"index": 0, "type": "function", "function": function, **more}


def chunk(choice: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps({"id": "c", "choices": [{"index": 0, **choice}]}) + b"\n\n"


def deltas(*found: dict[str, Any]) -> list[bytes]:
    return [chunk({"delta": delta}) for delta in found]


def calls(*pieces: dict[str, Any]) -> list[bytes]:
    return deltas(*({"tool_calls": [item]} for item in pieces))


def events(translator: Any, blocks: list[bytes]) -> list[dict[str, Any]]:
    out = [*map(translator.feed, blocks), translator.finish(Completed("m", None, "stop"))]
    lines = b"".join(out).splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith(b"data: ")]


def of_anthropic(blocks: list[bytes]) -> list[tuple[str, Any]]:
    found: list[tuple[str, str]] = []
    for event in events(AnthropicStream("m"), blocks):
        if event["type"] == "content_block_start":
            found.append((event["content_block"]["name"], ""))
        elif event["type"] == "content_block_delta":
            found[-1] = (found[-1][0], found[-1][1] + event["delta"]["partial_json"])
    return [(name, json.loads(text or "{}")) for name, text in found]


def of_responses(blocks: list[bytes]) -> list[tuple[str, Any]]:
    *_, last = events(ResponsesStream("m", {}), blocks)
    return [(item["name"], json.loads(item["arguments"])) for item in last["response"]["output"]]


MESSAGE = {
    "role": "assistant",
    "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": '{"a":1}'}}],
}


@pytest.mark.parametrize("read", [of_anthropic, of_responses])
@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        pytest.param(calls(piece({"a": 1}, "f", id="a")), ONE, id="an object"),
        pytest.param(calls(piece(None, "f", id="a"), piece({"a": 1})), ONE, id="an object later"),
        pytest.param(calls(piece({}, "f", id="a")), [("f", {})], id="an empty object"),
        pytest.param(
            calls(piece("", "f", id="a"), piece('{"a":', id="b"), piece("1}", id="c")), ONE,
            id="another id with each piece",
        ),
        pytest.param(
            calls(piece('{"a":1}', "f", id="a"), piece('{"a":2}', "f", id="b")), TWO,
            id="one index for all",
        ),
        pytest.param(
            deltas(
                {"function_call": {"name": "f", "arguments": '{"a"'}},
                {"function_call": {"arguments": ":1}"}},
            ),
            ONE,
            id="the older form",
        ),
        pytest.param([chunk({"message": MESSAGE})], ONE, id="a whole message in a chunk"),
        pytest.param([chunk({"delta": {}, "message": MESSAGE})], ONE, id="beside a delta"),
    ],
)  # fmt: skip
def test_a_call_in_a_stream_arrives(read: Any, blocks: list[bytes], expected: Any) -> None:
    assert read(blocks) == expected


def answers(message: dict[str, Any]) -> list[list[tuple[str, Any]]]:
    """The calls of a whole answer, in both dialects."""
    body = json.dumps({"id": "c", "choices": [{"message": message, "finish_reason": "stop"}]})
    response = ChatResponse(body.encode(), "m")
    content = json.loads(anthropic_answer.response_from_openai(response))["content"]
    output = json.loads(responses_answer.response_from_openai(response, {}))["output"]
    return [
        [(block["name"], block["input"]) for block in content],
        [(item["name"], json.loads(item["arguments"])) for item in output],
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param({"a": 1}, {"a": 1}, id="an object"),
        pytest.param('{"a":"\\ud83d"}', {"a": "\ud83d"}, id="half a pair, escaped"),
        pytest.param('{"a":"\ud83d"}', {"a": "\ud83d"}, id="half a pair"),
        pytest.param(None, {}, id="null"),
    ],
)
def test_a_call_in_a_whole_answer_arrives(arguments: Any, expected: Any) -> None:
    function = {"name": "f", "arguments": arguments}
    for found in answers({"tool_calls": [{"id": "a", "function": function}]}):
        assert found == [("f", expected)]
    if arguments is not None:
        assert answers({"function_call": function}) == [[("f", expected)]] * 2


@pytest.mark.parametrize("text", ['{"a":1e400}', '{"a":NaN}', '{"a":', "[1]"])
def test_arguments_that_cannot_be_written_again_are_shown_as_they_were(text: str) -> None:
    body = {"choices": [{"message": {"tool_calls": [{"function": {"arguments": text}}]}}]}
    answer = anthropic_answer.response_from_openai(ChatResponse(orjson.dumps(body), "m"))
    assert json.loads(answer)["content"][0]["input"] == {"arguments": text}


VALUES = st.recursive(
    st.none() | st.integers() | st.text('a"{}[]\\', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('"}', max_size=2), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.text(max_size=3), VALUES), st.lists(st.integers(0, 60), max_size=6))
def test_arguments_are_complete_with_their_last_bracket(
    value: dict[str, Any], cuts: list[int]
) -> None:
    text = json.dumps(value)
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    call = ToolCall(0, "a")
    for start, end in pairwise(edges):
        assert not call.complete
        call.add(text[start:end])
    assert call.complete
    assert call.take() == call.text == text
    call.add(" ")
    assert (call.take(), call.complete) == (" ", True)


@pytest.mark.parametrize(
    ("reason", "stop_reason", "status"),
    [
        ("model_length", "max_tokens", "incomplete"),
        ("MAX_TOKENS", "max_tokens", "incomplete"),
        ("SAFETY", "refusal", "incomplete"),
        ("content_filter: PROHIBITED_CONTENT", "refusal", "incomplete"),
        ("eos", "end_turn", "completed"),
    ],
)
def test_other_servers_words_for_the_end_mean_the_same(
    reason: str, stop_reason: str, status: str
) -> None:
    choice = {"message": {"content": "x"}, "finish_reason": reason}
    response = ChatResponse(orjson.dumps({"choices": [choice]}), "m")
    whole = json.loads(anthropic_answer.response_from_openai(response))
    assert whole["stop_reason"] == stop_reason
    assert json.loads(responses_answer.response_from_openai(response, {}))["status"] == status
    blocks = [chunk({"delta": {"content": "x"}, "finish_reason": reason})]
    delta = events(AnthropicStream("m"), blocks)[-2]["delta"]
    assert delta["stop_reason"] == stop_reason
    assert events(ResponsesStream("m", {}), blocks)[-1]["response"]["status"] == status


def test_a_part_of_a_call_of_claudes_that_had_not_begun_breaks_the_stream() -> None:
    delta = {"type": "input_json_delta", "partial_json": "{}"}
    start = {"type": "content_block_start", "index": 0}
    searched = {**start, "content_block": {"type": "server_tool_use", "name": "web_search"}}
    moved = {"type": "content_block_delta", "index": 0, "delta": delta}
    translator = Translator("claude", include_usage=False)
    translator.feed(b"data: " + orjson.dumps(searched) + b"\n\n")
    translator.feed(b"data: " + orjson.dumps(moved) + b"\n\n")
    with pytest.raises(BadResponse):
        translator.feed(b"data: " + orjson.dumps({**moved, "index": 1}) + b"\n\n")
