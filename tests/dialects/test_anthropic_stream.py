"""OpenAI's streams as Anthropic's, read by Anthropic's own SDK."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import anthropic
import pytest

from goblin_assistant.dialects.anthropic.stream import StreamTranslator
from goblin_assistant.providers.base import BadResponse, Completed, Usage
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.wire_bodies import openai_events

DONE = Completed("gpt-4o", Usage(12, 5, cached_tokens=4, reasoning_tokens=2), "stop")


def chunk(delta: dict[str, Any], reason: str | None = None, **fields: Any) -> bytes:
    body = {
        "id": "chatcmpl-9",
        "object": "chat.completion.chunk",
        "model": "gpt-4o-x",
        "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
        **fields,
    }
    return f"data: {json.dumps(body)}\n\n".encode()


def call(index: int | None, arguments: str = "", **more: Any) -> bytes:
    function = {"arguments": arguments}
    if "name" in more:
        function["name"] = more.pop("name")
    place = {} if index is None else {"index": index}
    return chunk({"tool_calls": [{**place, "type": "function", "function": function, **more}]})


def translate(blocks: Sequence[bytes], completed: Completed = DONE) -> list[bytes]:
    translator = StreamTranslator("gpt-4o")
    return [*(translator.feed(block) for block in blocks), translator.finish(completed)]


def kinds(pieces: Sequence[bytes]) -> list[str]:
    return [
        line[7:] for line in b"".join(pieces).decode().splitlines() if line.startswith("event: ")
    ]


def data(pieces: Sequence[bytes]) -> list[dict[str, Any]]:
    return [
        json.loads(line[6:])
        for line in b"".join(pieces).decode().splitlines()
        if line.startswith("data: ")
    ]


def final_message(upstream: FakeUpstream, pieces: Sequence[bytes]) -> Any:
    """What the official SDK makes of a stream."""
    upstream.reply(Reply.sse([piece for piece in pieces if piece]))
    client = anthropic.Anthropic(api_key="k", base_url=upstream.url, max_retries=0)
    with client.messages.stream(
        model="m", max_tokens=10, messages=[{"role": "user", "content": "x"}]
    ) as stream:
        message = stream.get_final_message()
    client.close()
    return message


def test_a_text_stream(fake_upstream: FakeUpstream) -> None:
    pieces = translate(openai_events("Hello there, goblin.", done=False))
    assert kinds(pieces) == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    events = data(pieces)
    assert events[0]["message"]["content"] == []
    assert events[0]["message"]["model"] == "gpt-4o-2024-08-06"
    assert events[-2] == {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {
            "input_tokens": 8,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": 5,
            "output_tokens_details": {"thinking_tokens": 2},
        },
    }
    message = final_message(fake_upstream, pieces)
    assert message.content[0].text == "Hello there, goblin."
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (8, 5)


def test_reasoning_text_and_parallel_tool_calls(fake_upstream: FakeUpstream) -> None:
    blocks = [
        chunk({"role": "assistant", "reasoning_content": "Hm"}),
        chunk({"reasoning_content": "."}),
        chunk({"content": "See:"}) + call(0, id="a", name="f") + call(0, '{"x":'),
        call(0, "1}"),
        call(1, '{"y":2}', id="b", name="g"),
        call(2, id="c", name="h"),
        chunk({}, "tool_calls"),
        b"data: [DONE]\n\n",
    ]
    pieces = translate(blocks)
    message = final_message(fake_upstream, pieces)
    assert [(block.type) for block in message.content] == [
        "thinking",
        "text",
        "tool_use",
        "tool_use",
        "tool_use",
    ]
    assert message.content[0].thinking == "Hm."
    assert message.content[1].text == "See:"
    assert [(block.id, block.name, block.input) for block in message.content[2:]] == [
        ("a", "f", {"x": 1}),
        ("b", "g", {"y": 2}),
        ("c", "h", {}),
    ]
    assert message.stop_reason == "tool_use"


def test_blocks_open_and_close_one_after_the_other() -> None:
    pieces = translate(
        [call(0, "{}", id="a", name="f"), call(1, "{}", id="b", name="g"), chunk({"content": "x"})]
    )
    starts_and_stops = [
        (e["type"][14:], e["index"])
        for e in data(pieces)
        if e["type"] in ("content_block_start", "content_block_stop")
    ]
    assert starts_and_stops == [
        ("start", 0),
        ("stop", 0),
        ("start", 1),
        ("stop", 1),
        ("start", 2),
        ("stop", 2),
    ]


def test_calls_that_all_have_index_0_are_told_apart_by_their_ids() -> None:
    pieces = translate([call(0, "{}", id="a", name="f"), call(0, "{}", id="b", name="f")])
    assert [
        e["content_block"]["id"] for e in data(pieces) if e["type"] == "content_block_start"
    ] == ["a", "b"]


def test_a_call_without_id_gets_one_and_early_arguments_are_kept() -> None:
    events = data(translate([call(0, '{"x"'), call(0, ":1}", name="f")]))
    start = next(e for e in events if e["type"] == "content_block_start")
    assert start["content_block"]["id"].startswith("toolu_")
    assert [e["delta"]["partial_json"] for e in events if e["type"] == "content_block_delta"] == [
        '{"x":1}'
    ]


def calls_of(blocks: list[bytes]) -> list[tuple[str, str]]:
    """Name and joined arguments of each tool_use block; blocks must not overlap."""
    found: list[tuple[str, str]] = []
    open_block = None
    for event in data(translate(blocks)):
        if event["type"] == "content_block_start":
            assert open_block is None
            open_block = event["index"]
            found.append((event["content_block"].get("name", ""), ""))
        elif event["type"] == "content_block_delta":
            assert event["index"] == open_block
            name, text = found[-1]
            found[-1] = (name, text + event["delta"].get("partial_json", ""))
        elif event["type"] == "content_block_stop":
            open_block = None
    return found


def test_pieces_of_several_calls_are_joined_by_their_index() -> None:
    blocks = [
        call(0, id="a", name="f") + call(1, id="b", name="g"),
        call(0, '{"x":'),
        call(1, '{"y":'),
        call(0, "1}"),
        call(1, "2}"),
        call(2, "{}", id="c", name="h"),
    ]
    assert calls_of(blocks) == [("f", '{"x":1}'), ("g", '{"y":2}'), ("h", "{}")]


def test_calls_without_index_are_joined_by_id() -> None:
    blocks = [
        call(None, '{"x":', id="a", name="f"),
        call(None, '{"y":', id="b", name="g"),
        call(None, "1}", id="a"),
        call(None, "2}", id="b"),
    ]
    assert calls_of(blocks) == [("f", '{"x":1}'), ("g", '{"y":2}')]


def test_calls_without_index_and_id_are_told_apart_by_name() -> None:
    blocks = [
        call(None, '{"x":', name="f"),
        call(None, "1}"),
        call(None, '{"y":2}', name="g"),
        call(None, '{"y":3}', name="g"),
    ]
    assert calls_of(blocks) == [("f", '{"x":1}'), ("g", '{"y":2}'), ("g", '{"y":3}')]


def test_a_name_that_is_repeated_with_each_piece_is_one_call() -> None:
    blocks = [call(0, piece, name="f") for piece in ('{"x":', "1}", "")]
    assert calls_of(blocks) == [("f", '{"x":1}')]


def test_a_piece_of_a_call_that_was_complete_breaks_the_stream_instead_of_corrupting_it() -> None:
    translator = StreamTranslator("m")
    translator.feed(call(0, "{}", id="a", name="f"))
    translator.feed(call(1, "{}", id="b", name="g"))
    with pytest.raises(BadResponse):
        translator.feed(call(0, "}"))


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("length", "max_tokens"),
        ("content_filter", "refusal"),
        ("stop", "end_turn"),
        ("new", "end_turn"),
    ],
)
def test_finish_reasons(reason: str, expected: str) -> None:
    assert (
        data(translate([chunk({"content": "x"}), chunk({}, reason)]))[-2]["delta"]["stop_reason"]
        == expected
    )


def test_calls_that_end_with_stop_are_tool_use_all_the_same() -> None:
    assert (
        data(translate([call(0, "{}", id="a", name="f"), chunk({}, "stop")]))[-2]["delta"][
            "stop_reason"
        ]
        == "tool_use"
    )


def test_an_empty_stream_is_an_empty_message(fake_upstream: FakeUpstream) -> None:
    pieces = translate([], Completed("m", None, "stop"))
    assert kinds(pieces) == ["message_start", "message_delta", "message_stop"]
    message = final_message(fake_upstream, pieces)
    assert message.content == []
    assert message.usage.output_tokens == 0


def test_chunks_without_choices_and_comments_make_no_event() -> None:
    translator = StreamTranslator("m")
    translator.feed(chunk({"content": "x"}))
    for block in (
        b": ping\n\n",
        b"data: [DONE]\n\n",
        b'data: {"choices": [], "usage": {}}\n\n',
        b'data: {"choices": null}\n\n',
        b"data: 5\n\n",
    ):
        assert translator.feed(block) == b""
    with pytest.raises(BadResponse):
        translator.feed(b"data: {\n\n")


def test_crlf_and_several_events_in_a_block() -> None:
    block = (chunk({"content": "a"}) + chunk({"content": "b"})).replace(b"\n", b"\r\n")
    assert [
        e["delta"]["text"] for e in data(translate([block])) if e["type"] == "content_block_delta"
    ] == ["a", "b"]


def test_what_waited_for_a_call_is_said_before_the_error_of_a_stream_that_breaks() -> None:
    translator = StreamTranslator("m")
    pieces = [
        translator.feed(call(0, '{"a": ', id="a", name="f")),
        translator.feed(chunk({"content": "one "})),
        translator.feed(chunk({"content": "two"})),
        translator.fail(BadResponse("cut", provider="p"), "id"),
    ]
    events = data(pieces)
    said = [event["delta"].get("text") for event in events if "delta" in event]
    assert "".join(filter(None, said)) == "one two"
    assert events[-1]["type"] == "error"
    assert [event["index"] for event in events if event["type"] == "content_block_start"] == [0, 1]


def test_halves_of_a_letter_in_two_pieces_of_details_are_joined() -> None:
    translator = StreamTranslator("m")
    for half in ("\ud83d", "\ude00"):
        details = [{"type": "reasoning.text", "index": 0, "text": half}]
        translator.feed(chunk({"reasoning": "x", "reasoning_details": details}))
    assert b"signature_delta" in translator.feed(chunk({"content": "hi"}))
