"""Conversations that began with another provider, as agents keep them: odd ids of tool calls,
results in odd places, blank messages, arguments that are not JSON."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from goblin_assistant.dialects.anthropic.answer import response_from_openai
from goblin_assistant.dialects.anthropic.request import request_to_openai as from_messages
from goblin_assistant.dialects.anthropic.stream import StreamTranslator
from goblin_assistant.dialects.responses.request import request_to_openai as from_responses
from goblin_assistant.providers.anthropic.messages import EMPTY, translate_messages
from goblin_assistant.providers.base import ChatRequest, ChatResponse, Completed
from goblin_assistant.providers.openai.messages import MessageFitter
from goblin_assistant.providers.openai.quirks import Quirks
from goblin_assistant.providers.tool_results import behind_their_calls

Message = dict[str, Any]
USER: Message = {"role": "user", "content": "Weather?"}


def calls(*ids: str, arguments: str = "{}") -> Message:
    found = [
        {"id": call_id, "type": "function", "function": {"name": "f", "arguments": arguments}}
        for call_id in ids
    ]
    return {"role": "assistant", "content": None, "tool_calls": found}


def result(call_id: str, text: str = "Sunny.") -> Message:
    return {"role": "tool", "tool_call_id": call_id, "content": text}


def turns(*messages: Message) -> list[Message]:
    return translate_messages(messages, set())[1]


def ids_in(turn: Message) -> list[str]:
    return [block.get("id") or block["tool_use_id"] for block in turn["content"]]


# -- ids ------------------------------------------------------------------------------------------
def test_ids_that_collide_in_claudes_letters_stay_apart() -> None:
    _, called, answered = turns(USER, calls("f.a", "f:a", "f_a"), result("f:a"), result("f_a"),
                                result("f.a"))  # fmt: skip
    assert ids_in(called) == ["f_a", "f_a_2", "f_a_3"]
    assert ids_in(answered) == ["f_a_2", "f_a_3", "f_a"]


def test_a_server_that_counts_again_with_each_turn_gets_new_ids_for_each() -> None:
    turn = (calls("functions.f:0"), result("functions.f:0"))
    found = turns(USER, *turn, *turn, *turn)
    assert [ids_in(turn)[0] for turn in found[1::2]] == [
        "functions_f_0", "functions_f_0_2", "functions_f_0_3",
    ]  # fmt: skip
    assert [ids_in(turn) for turn in found[1::2]] == [ids_in(turn) for turn in found[2::2]]


def test_calls_of_one_id_are_answered_in_their_order() -> None:
    _, called, answered = turns(USER, calls("a", "a"), result("a", "1"), result("a", "2"))
    assert ids_in(called) == ids_in(answered) == ["a", "a_2"]
    assert [block["content"] for block in answered["content"]] == ["1", "2"]


def test_empty_ids_become_ids() -> None:
    _, called, answered = turns(USER, calls("", ""), result(""), result(""))
    assert ids_in(called) == ids_in(answered) == ["call", "call_2"]


@pytest.mark.parametrize("preset", ["openai", "mistral", "gemini"])
def test_empty_ids_become_ids_for_other_servers_too(preset: str) -> None:
    history = [USER, calls("", "known0000", ""), result(""), result("known0000"), result("")]
    fitter = MessageFitter(Quirks().message_form(preset))
    sent = fitter.fit(ChatRequest("m", {"messages": [*history, *history]})).request.body["messages"]
    called = [call["id"] for message in sent for call in message.get("tool_calls", ())]
    answered = [message["tool_call_id"] for message in sent if message["role"] == "tool"]
    assert called == answered
    assert all(called)
    assert len(set(called)) == 5


def test_the_same_history_gets_the_same_ids_when_it_has_grown() -> None:
    history = [USER, calls("x:1", "x.1"), result("x:1"), result("x.1")]
    more = [calls("x:1"), result("x:1")]
    assert turns(*history, *more)[:3] == turns(*history)


@pytest.mark.parametrize("streamed", [False, True])
def test_an_id_that_claude_refuses_is_carried_in_one_that_it_takes(streamed: bool) -> None:
    call = {"index": 0, "id": "functions.f:0", "function": {"name": "f", "arguments": "{}"}}
    choice = {"index": 0, "delta": {"tool_calls": [call]}, "message": {"tool_calls": [call]}}
    body = orjson.dumps({"choices": [choice]})
    if streamed:
        text = StreamTranslator("m").feed(b"data: " + body + b"\n\n")
        events = [json.loads(line[6:]) for line in text.splitlines() if line[:5] == b"data:"]
        block = events[1]["content_block"]
    else:
        block = json.loads(response_from_openai(ChatResponse(body, "m")))["content"][0]
    assert block["id"].replace("-", "").replace("_", "").isalnum()
    history = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [{**block, "input": {}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": block["id"], "content": "x"}]},
    ]  # fmt: skip
    back = from_messages({"max_tokens": 5, "messages": history}, set())["messages"]
    assert back[1]["tool_calls"][0]["id"] == back[2]["tool_call_id"] == "functions.f:0"
    assert "extra_content" not in back[1]["tool_calls"][0]


# -- places of results ----------------------------------------------------------------------------
MISPLACED = [USER, calls("a", "b"), result("b"), {"role": "user", "content": "Hurry."}, result("a")]


def test_results_stand_behind_their_calls() -> None:
    ordered = behind_their_calls(MISPLACED)
    assert list(ordered) == [*MISPLACED[:3], MISPLACED[4], MISPLACED[3]]
    assert behind_their_calls(ordered) is ordered
    lone = [USER, result("nobody's")]
    assert behind_their_calls(lone) is lone


def test_a_result_belongs_to_the_last_turn_with_its_id() -> None:
    said = {"role": "assistant", "content": "Done."}
    history = [USER, calls("a"), result("a", "1"), said, calls("a"), USER, result("a", "2")]
    assert list(behind_their_calls(history)) == [*history[:5], history[6], history[5]]


def test_claude_gets_all_results_before_the_rest_of_the_turn() -> None:
    _, called, answered = turns(*MISPLACED)
    assert [block["type"] for block in answered["content"]] == [
        "tool_result", "tool_result", "text",
    ]  # fmt: skip
    assert sorted(ids_in({"content": answered["content"][:2]})) == ids_in(called)


def test_results_in_several_turns_of_the_messages_api_follow_the_calls() -> None:
    blocks = [{"type": "tool_use", "id": call_id, "name": "f", "input": {}} for call_id in "ab"]
    shot = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
    history = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": blocks},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "b", "content": [shot]},
            {"type": "text", "text": "Hurry."}]},
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a"}]},
    ]  # fmt: skip
    sent = from_messages({"max_tokens": 5, "messages": history}, set())["messages"]
    assert [message["role"] for message in sent] == [
        "user", "assistant", "tool", "tool", "user", "system",
    ]  # fmt: skip
    assert [message["tool_call_id"] for message in sent[2:4]] == ["b", "a"]


def test_results_of_the_responses_api_follow_their_calls_wherever_they_stand() -> None:
    items: list[Message] = [
        {"role": "user", "content": "Hi"},
        *({"type": "function_call", "call_id": call_id, "name": "f", "arguments": "{}"}
          for call_id in "ab"),
        {"type": "function_call_output", "call_id": "b", "output": "2"},
        {"role": "user", "content": "Hurry."},
        {"type": "function_call_output", "call_id": "a", "output": "1"},
    ]  # fmt: skip
    sent = from_responses({"input": items}, set())["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "tool", "tool", "user"]


def test_mistral_hears_the_assistant_between_a_result_and_the_user() -> None:
    history = [USER, calls("abcDEF123"), result("abcDEF123"), USER, USER]
    form = Quirks().message_form("mistral")
    fitted = MessageFitter(form).fit(ChatRequest("m", {"messages": history})).request
    assert fitted.body["messages"] == [
        *history[:3], {"role": "assistant", "content": form.bridge}, *history[3:],
    ]  # fmt: skip
    plain = ChatRequest("m", {"messages": history[:3]})
    assert MessageFitter(form).fit(plain).request is plain


# -- blank messages and broken arguments ----------------------------------------------------------
@pytest.mark.parametrize(
    "blank", ["", " \n", None, [], [{"type": "text", "text": ""}], [{"type": "text", "text": " "}]]
)
def test_a_blank_message_of_the_user_breaks_no_conversation(blank: Any) -> None:
    nothing = {"role": "user", "content": blank}
    said = {"role": "assistant", "content": "Hello."}
    held = {"role": "user", "content": [{"type": "text", "text": EMPTY}]}
    assert turns(nothing) == [held]
    assert turns(USER, said, nothing)[-1] == held
    assert turns(nothing, said, USER)[0] == held
    # Beside others nothing has to stand in its place.
    assert turns(USER, nothing) == turns(nothing, USER) == turns(USER)
    assert turns(USER, calls("a"), result("a"), nothing) == turns(USER, calls("a"), result("a"))


@pytest.mark.parametrize("arguments", ['{"city": "Ce', "[1]", "Cebu", '"x"', "NaN"])
def test_arguments_that_a_model_wrote_wrongly_are_shown_as_they_were(arguments: str) -> None:
    _, called, _ = turns(USER, calls("a", arguments=arguments), result("a", "not JSON"))
    assert called["content"][0]["input"] == {"arguments": arguments}


# -- streams --------------------------------------------------------------------------------------
def test_text_among_the_pieces_of_a_call_waits_for_its_end() -> None:
    def piece(text: str, **more: Any) -> Message:
        function = {"arguments": text, **more}
        return {"tool_calls": [{"index": 0, "id": "a", "function": function}]}

    translator = StreamTranslator("m")
    written = b"".join(
        translator.feed(
            b"data: " + orjson.dumps({"choices": [{"index": 0, "delta": delta}]}) + b"\n\n"
        )
        for delta in (
            piece("", name="f"),
            {"content": "One "},
            piece('{"a":'),
            {"content": "moment."},
            {"reasoning_content": "Hm."},
            piece("1}"),
            {"content": "Done."},
        )
    ) + translator.finish(Completed("m", None, "tool_calls"))
    events = [json.loads(line[6:]) for line in written.splitlines() if line[:5] == b"data:"]
    said: list[list[str]] = []
    for event in events:
        if event["type"] == "content_block_start":
            said.append([event["content_block"]["type"], ""])
        elif event["type"] == "content_block_delta" and "signature" not in event["delta"]:
            said[-1][1] += next(text for name, text in event["delta"].items() if name != "type")
    assert said == [
        ["tool_use", '{"a":1}'], ["text", "One moment."], ["thinking", "Hm."], ["text", "Done."],
    ]  # fmt: skip
