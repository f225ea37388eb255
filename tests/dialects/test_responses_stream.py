"""OpenAI's streams as events of the Responses API, read by OpenAI's own SDK."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import openai
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goblin_assistant.dialects.responses.answer import response_from_openai
from goblin_assistant.dialects.responses.stream import StreamTranslator
from goblin_assistant.dialects.responses.stream_failure import PassedStream, error_event
from goblin_assistant.errors import InternalError
from goblin_assistant.providers.base import ChatResponse, Completed, Usage
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.response_bodies import response_events
from tests.support.wire_bodies import openai_chat, openai_events

DONE = Completed("gpt-4o", Usage(12, 5, cached_tokens=4, reasoning_tokens=2), "stop")
CRM = {"type": "namespace", "name": "crm", "description": "", "tools": [
    {"type": "function", "name": "find"}, {"type": "custom", "name": "note"}]}  # fmt: skip


def chunk(delta: dict[str, Any], reason: str | None = None, **fields: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason, **fields}
    body = {"id": "chatcmpl-9", "object": "chat.completion.chunk", "model": "gpt-4o-x",
            "created": 1764000000, "choices": [choice]}  # fmt: skip
    return f"data: {json.dumps(body)}\n\n".encode()


def called(name: str | None, arguments: str = "", **more: Any) -> bytes:
    function = {"arguments": arguments} | ({"name": name} if name else {})
    return chunk({"tool_calls": [{"type": "function", "function": function, **more}]})


def translate(
    blocks: Sequence[bytes], completed: Completed = DONE, **body: Any
) -> list[dict[str, Any]]:
    translator = StreamTranslator("gpt-4o", {"input": "Hello", **body})
    pieces = [*(translator.feed(block) for block in blocks), translator.finish(completed)]
    return read(b"".join(pieces))


def read(stream: bytes) -> list[dict[str, Any]]:
    """The events; fails where the name of one, or its number, is wrong."""
    found = []
    for number, block in enumerate(stream.split(b"\n\n")[:-1]):
        name, data = block.split(b"\n", 1)
        event = json.loads(data.removeprefix(b"data: "))
        assert name == b"event: " + event["type"].encode()
        assert event["sequence_number"] == number
        found.append(event)
    return found


def kinds(events: Sequence[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_the_events_of_a_text() -> None:
    events = translate(openai_events("Hello there."))
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(event["delta"] for event in deltas) == "Hello there."
    assert all(event["logprobs"] == [] for event in deltas)
    assert kinds(events) == [
        "created", "in_progress", "output_item.added", "content_part.added",
        *["output_text.delta"] * len(deltas),
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    response = events[-1]["response"]
    assert events[0]["response"]["status"] == "in_progress"
    assert response["status"] == "completed"
    assert response["output"][0]["content"][0]["text"] == "Hello there."
    assert response["usage"]["input_tokens_details"]["cached_tokens"] == 4
    assert len({event["response"]["id"] for event in events if "response" in event}) == 1


def test_reasoning_then_text_then_refusal() -> None:
    events = translate(
        [
            chunk({"reasoning_content": "I "}),
            chunk({"reasoning_content": "think."}),
            chunk({"content": "Well, "}),
            chunk({"refusal": "no."}),
        ]
    )
    thought, said = events[-1]["response"]["output"]
    assert thought["content"] == [{"type": "reasoning_text", "text": "I think."}]
    assert [part["type"] for part in said["content"]] == ["output_text", "refusal"]
    assert said["content"][1]["refusal"] == "no."
    assert "reasoning_text.delta" in kinds(events)
    assert "refusal.done" in kinds(events)


def test_summaries_are_summary_parts() -> None:
    detail = {"type": "reasoning.summary", "index": 0}
    events = translate(
        [
            chunk({"reasoning": "In ", "reasoning_details": [{**detail, "summary": "In "}]}),
            chunk({"reasoning": "short.", "reasoning_details": [{**detail, "summary": "short."}]}),
            chunk({"content": "x"}),
        ]
    )
    item = events[-1]["response"]["output"][0]
    assert item["summary"] == [{"type": "summary_text", "text": "In short."}]
    assert kinds(events)[3:8] == [
        "reasoning_summary_part.added", "reasoning_summary_text.delta",
        "reasoning_summary_text.delta", "reasoning_summary_text.done",
        "reasoning_summary_part.done",
    ]  # fmt: skip


def test_calls_that_are_mixed_stay_apart() -> None:
    events = translate(
        [
            called("one", '{"a":', index=0, id="call_a"),
            called("two", "", index=1, id="call_b"),
            called(None, "1}", index=0),
            called(None, '{"b":2}', index=1),
        ]
    )
    found = [
        (item["call_id"], item["name"], item["arguments"])
        for item in events[-1]["response"]["output"]
    ]
    assert found == [("call_a", "one", '{"a":1}'), ("call_b", "two", '{"b":2}')]
    for index, (_, _, arguments) in enumerate(found):
        deltas = [
            event["delta"]
            for event in events
            if event["type"].endswith("arguments.delta") and event["output_index"] == index
        ]
        assert "".join(deltas) == arguments


def test_a_call_without_arguments_has_an_empty_object() -> None:
    events = translate([called("now", "", index=0, id="call_a")])
    assert events[-1]["response"]["output"][0]["arguments"] == "{}"
    assert [event["delta"] for event in events if "delta" in event] == ["{}"]


def test_names_come_back_in_their_namespace_and_kind() -> None:
    events = translate(
        [
            called("crm__find", '{"id":1}', index=0, id="call_a"),
            called("crm__note", '{"input":"a \\"no', index=1, id="call_b"),
            called(None, 'te\\""}', index=1),
        ],
        tools=[CRM],
    )
    find, note = events[-1]["response"]["output"]
    assert (find["type"], find["name"], find["namespace"]) == ("function_call", "find", "crm")
    assert (note["type"], note["name"], note["input"]) == (
        "custom_tool_call", "note", 'a "note"',
    )  # fmt: skip
    assert kinds(events).count("custom_tool_call_input.done") == 1


@pytest.mark.parametrize(
    ("reason", "why"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_an_answer_that_was_cut_is_incomplete(reason: str, why: str) -> None:
    events = translate([chunk({"content": "x"}), chunk({}, reason)])
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["incomplete_details"] == {"reason": why}
    assert events[-1]["response"]["output"][0]["status"] == "incomplete"


def test_an_answer_of_nothing_is_an_empty_message() -> None:
    events = translate([])
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == ""


def test_a_surrogate_pair_that_was_cut_is_joined() -> None:
    events = translate([chunk({"content": "a\ud83d"}), chunk({"content": "\ude00b"})])
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "a\U0001f600b"
    assert [event["delta"] for event in events if "delta" in event] == ["a", "\U0001f600b"]


def test_citations_and_probabilities() -> None:
    cited = {"start_index": 0, "end_index": 1, "url": "https://example.com", "title": "E"}
    scored = [{"token": "x", "logprob": -0.1, "bytes": [120], "top_logprobs": []}]
    events = translate(
        [
            chunk({"content": "x"}, logprobs={"content": scored}),
            chunk({"annotations": [{"type": "url_citation", "url_citation": cited}]}),
        ]
    )
    part = events[-1]["response"]["output"][0]["content"][0]
    assert part["annotations"] == [{"type": "url_citation", **cited}]
    assert part["logprobs"] == scored
    assert "output_text.annotation.added" in kinds(events)


# -- streams that break ---------------------------------------------------------------------------
def test_a_translated_stream_that_breaks_fails_with_what_has_come() -> None:
    translator = StreamTranslator("gpt-4o", {"input": "Hello"})
    begun = b"".join(map(translator.feed, openai_events("Hello there.")[:3]))
    events = read(begun + translator.fail(InternalError("broken"), "id-1"))
    failed, error = events[-2:]
    assert failed["type"] == "response.failed"
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"]["message"] == "broken"
    assert failed["response"]["output"][0]["status"] == "incomplete"
    assert failed["response"]["id"] == events[0]["response"]["id"]
    assert (error["type"], error["message"]) == ("error", "broken")
    assert error["error"]["correlation_id"] == "id-1"


def test_a_stream_that_breaks_before_its_first_event_begins_and_fails() -> None:
    translator = StreamTranslator("gpt-4o", {"input": "Hello"})
    events = read(translator.fail(InternalError("broken"), "id-1"))
    assert kinds(events) == ["created", "in_progress", "failed", "error"]


def test_a_stream_that_passes_and_breaks_fails_in_its_own_terms() -> None:
    stream = PassedStream()
    passed = b"".join(map(stream.feed, [b"".join(response_events()[:2]), *response_events()[2:5]]))
    events = read(passed + stream.fail(InternalError("broken"), "id-1"))
    assert kinds(events)[-2:] == ["failed", "error"]
    assert events[-2]["response"]["id"] == events[0]["response"]["id"] == "resp_1"


def test_a_stream_of_which_nothing_is_known_fails_too() -> None:
    assert kinds(read(error_event(InternalError("broken"), "id-1"))) == ["failed", "error"]


# -- OpenAI's SDK ---------------------------------------------------------------------------------
def final_response(upstream: FakeUpstream, events: Sequence[dict[str, Any]]) -> Any:
    """What the official SDK makes of a stream."""
    upstream.reply(
        Reply.sse([f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in events])
    )
    with (
        openai.OpenAI(api_key="x", base_url=upstream.url + "/v1", max_retries=0) as client,
        client.responses.stream(model="gpt-4o", input="Hello") as stream,
    ):
        return stream.get_final_response()


def test_the_sdk_reads_text_and_calls(fake_upstream: FakeUpstream) -> None:
    events = translate(
        [
            chunk({"reasoning_content": "I think."}),
            chunk({"content": "Let me look."}),
            called("one", '{"a":1}', index=0, id="call_a"),
            called("two", "", index=1, id="call_b"),
            chunk({"content": "And?"}),
        ]
    )
    final = final_response(fake_upstream, events)
    assert final.output_text == "Let me look.And?"
    assert [item.type for item in final.output] == [
        "reasoning", "message", "function_call", "function_call", "message",
    ]  # fmt: skip


DELTAS = st.lists(
    st.one_of(
        st.builds(lambda text: {"content": text}, st.text(max_size=5)),
        st.builds(lambda text: {"reasoning_content": text}, st.text(max_size=5)),
        st.builds(lambda text: {"refusal": text}, st.text(max_size=5)),
        st.builds(
            lambda index, text: {
                "tool_calls": [
                    {"index": index, "id": f"c{index}",
                     "function": {"name": f"f{index}", "arguments": text}}
                ]
            },
            st.integers(0, 2),
            st.text(alphabet="ab1", max_size=4),
        ),
    ),
    max_size=12,
)  # fmt: skip


@given(deltas=DELTAS)
def test_the_events_of_any_stream_add_up_to_its_response(deltas: list[dict[str, Any]]) -> None:
    events = translate([chunk(delta) for delta in deltas])
    response = events[-1]["response"]
    for index, item in enumerate(response["output"]):
        own = [event for event in events if event.get("output_index") == index]
        assert own[0]["type"] == "response.output_item.added"
        assert own[-1]["type"] == "response.output_item.done"
        assert own[-1]["item"] == item
        written = "".join(event.get("delta", "") for event in own)
        parts = item.get("content") or [{"text": item.get("arguments", "")}]
        assert written == "".join(part.get("text", part.get("refusal", "")) for part in parts)
    said = "".join(delta.get("content", "") for delta in deltas)
    texts = [
        part.get("text", "")
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
    ]
    assert "".join(texts) == said


def test_a_stream_says_what_the_whole_answer_says() -> None:
    calls = [("crm__find", {"id": 1}), ("other", {})]
    body = {"input": "Hello", "tools": [CRM]}
    completion = openai_chat(None, calls)
    whole = orjson.loads(
        response_from_openai(ChatResponse(orjson.dumps(completion), "m", DONE.usage), body)
    )
    streamed = translate(openai_events(tool_calls=calls), tools=[CRM])[-1]["response"]
    for made in (whole, streamed):
        del made["completed_at"]
        for item in made["output"]:
            del item["id"]
    assert streamed == whole
