"""Translates a chat completion to a response, for providers without the Responses API.

Pure functions. The items are reasoning, then text or refusal, then tool calls.
Source: `openai.types.responses.Response` of the SDK, 3.54.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from goblin_assistant.dialects.completions import calls_in, finish_reason, reasoning_and_text
from goblin_assistant.dialects.responses.reasoning import Thoughts, asks_for_encrypted
from goblin_assistant.dialects.responses.response import (
    ResponseObject,
    call_id_of,
    call_item,
    custom_input,
    is_incomplete,
    item_id,
    message_item,
    text_part,
)
from goblin_assistant.dialects.responses.tools import CallName, names_of
from goblin_assistant.dialects.tool_calls import arguments_text
from goblin_assistant.providers.base import ChatResponse
from goblin_assistant.providers.json_answers import read
from goblin_assistant.providers.openai.wire import encode


def response_from_openai(response: ChatResponse, body: Mapping[str, Any]) -> bytes:
    """A chat completion as a response to the client's request `body`.

    Raises AttributeError, IndexError, KeyError, TypeError or ValueError if the body is not a
    completion.
    """
    completion = read(response.body)
    choice = (completion.get("choices") or [{}])[0]
    message = choice.get("message") or {}
    reason = finish_reason(choice.get("finish_reason"))
    status = "incomplete" if is_incomplete(reason) else "completed"
    output: list[dict[str, Any]] = []
    thoughts = Thoughts()
    thought, said = reasoning_and_text(message)
    thoughts.texts.append(thought)
    if thoughts.add_hidden(message) or thought:
        encrypted = asks_for_encrypted(body)
        output.append(thoughts.item(item_id("rs"), encrypted=encrypted))
    if content := _content(message, said, choice.get("logprobs")):
        output.append(message_item(item_id("msg"), content, status))
    names = names_of(body)
    for call in calls_in(message):
        function = call.get("function") or {}
        given = function.get("name") or ""
        name = names.get(given) or CallName(given)
        arguments = arguments_text(function.get("arguments")) or "{}"
        text = custom_input(arguments) if name.custom else arguments
        call_id = call_id_of(call.get("id"), call.get("extra_content"))
        kind = "ctc" if name.custom else "fc"
        output.append(call_item(item_id(kind), call_id, name, text, status))
    made = ResponseObject(body, completion, response.model)
    return encode(made.end(output, response.usage, reason))


def _content(message: Mapping[str, Any], said: str, logprobs: Any) -> list[dict[str, Any]]:
    content = []
    refusal = message.get("refusal")
    refused = isinstance(refusal, str) and refusal
    called = calls_in(message)
    if said or not (refused or called):  # an empty answer is still a message
        scored = logprobs.get("content") if isinstance(logprobs, dict) else None
        content.append(text_part(said, message.get("annotations"), scored))
    if refused:
        content.append({"type": "refusal", "refusal": refusal})
    return content
