"""Two turns with tools and reasoning: what each preset's server says first, and what a client of
each dialect sends back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from goblin_assistant.dialects.carried import Details
from goblin_assistant.providers.wire_form import ANY, MessageForm
from goblin_assistant.providers.wire_forms import WIRE_FORMS

THOUGHT = "They ask for the weather."
SAID = "Let me see."
SIGNED = {"google": {"thought_signature": "AbC+/=="}}
DETAILS = [{"type": "reasoning.encrypted", "data": "x+/=", "index": 0, "id": "r1"}]
SIGNATURE = "EqRkAbC+/=="
NAME = "get_weather"
SCHEMA = {"type": "object", "properties": {"day": {"type": "integer"}}}
RESULT = "Sunny."


def form_of(preset: str) -> MessageForm:
    """What the preset's server takes; that of a server that is not known for Anthropic's."""
    return WIRE_FORMS[preset].messages or ANY


def ids_of(preset: str) -> list[str]:
    """Ids of tool calls as this server makes them."""
    return ["abcDEF123", "ghiJKL456"] if form_of(preset).tool_call_ids else ["call_0", "call_1"]


def first_message(preset: str) -> dict[str, Any]:
    """The message of an OpenAI-compatible server: reasoning, a text, and two tool calls."""
    form = form_of(preset)
    message: dict[str, Any] = {"role": "assistant", "content": SAID}
    if form.reasoning_field == "thinking_parts":
        message["content"] = [
            {"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]},
            {"type": "text", "text": SAID},
        ]
    elif form.reasoning_field != "":
        message[form.reasoning_field or "reasoning_content"] = THOUGHT
    if preset == "openrouter":
        message["reasoning_details"] = DETAILS
    message["tool_calls"] = [
        {"id": call_id, "type": "function",
         "function": {"name": NAME, "arguments": json.dumps({"day": day})}}
        for day, call_id in enumerate(ids_of(preset))
    ]  # fmt: skip
    if form.thought_signatures:
        message["tool_calls"][0]["extra_content"] = SIGNED
    return message


def chat(message: dict[str, Any], usage: dict[str, Any]) -> dict[str, Any]:
    """A whole answer of such a server."""
    reason = "tool_calls" if message.get("tool_calls") else "stop"
    return {
        "id": "c", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
        "usage": usage,
    }  # fmt: skip


def deltas(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The same message piece by piece: reasoning, then text, then calls with halved arguments."""
    yield {"role": "assistant"}
    for name in ("reasoning_content", "reasoning", "reasoning_details"):
        value = message.get(name)
        if isinstance(value, str):
            yield {name: value[:5]}
            yield {name: value[5:]}
        elif value:
            yield {name: value}
    content = message["content"]
    for part in content if isinstance(content, list) else [content]:
        yield {"content": [part] if isinstance(part, dict) else part}
    for index, call in enumerate(message.get("tool_calls", ())):
        arguments = call["function"]["arguments"]
        begun = {**call, "index": index, "function": {**call["function"], "arguments": ""}}
        yield {"tool_calls": [begun]}
        for piece in (arguments[:4], arguments[4:]):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}


# -- clients ------------------------------------------------------------------------------------
class OpenAIClient:
    """A client of OpenAI's chat API that sends back the message that it got."""

    path = "/v1/chat/completions"

    def first(self, model: str) -> dict[str, Any]:
        """The first request."""
        function = {"name": NAME, "parameters": SCHEMA}
        return {
            "model": model, "max_tokens": 5000,
            "messages": [{"role": "user", "content": "Weather?"}],
            "tools": [{"type": "function", "function": function}],
        }  # fmt: skip

    def whole(self, answer: dict[str, Any]) -> Any:
        """The turn in a whole answer."""
        return answer["choices"][0]["message"]

    def joined(self, events: list[dict[str, Any]]) -> Any:
        """The turn in a stream."""
        message: dict[str, Any] = {"role": "assistant", "content": ""}
        calls: list[dict[str, Any]] = []
        details = Details()
        for event in events:
            for choice in event.get("choices", ()):
                for name, value in choice["delta"].items():
                    if name == "tool_calls":
                        for piece in value:
                            self._call(calls, piece)
                    elif name == "reasoning_details":
                        details.add(value)
                    elif isinstance(value, list):
                        given = message.get(name)
                        message[name] = (given if isinstance(given, list) else []) + value
                    elif isinstance(value, str) and name != "role":
                        message[name] = message.get(name, "") + value
        if details:
            message["reasoning_details"] = details.whole()
        return {**message, "tool_calls": calls}

    def _call(self, calls: list[dict[str, Any]], piece: dict[str, Any]) -> None:
        if piece["index"] == len(calls):
            calls.append({key: value for key, value in piece.items() if key != "index"})
        else:
            calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]

    def second(self, model: str, turn: Any) -> dict[str, Any]:
        """The second request: the same with the turn and the tools' results."""
        body = self.first(model)
        results = [
            {"role": "tool", "tool_call_id": call["id"], "content": RESULT}
            for call in turn["tool_calls"]
        ]
        body["messages"] += [turn, *results]
        return body


class AnthropicClient:
    """A client of the Messages API that sends back the blocks that it got."""

    path = "/v1/messages"

    def first(self, model: str) -> dict[str, Any]:
        """The first request."""
        return {
            "model": model, "max_tokens": 5000,
            "messages": [{"role": "user", "content": "Weather?"}],
            "tools": [{"name": NAME, "input_schema": SCHEMA}],
        }  # fmt: skip

    def whole(self, answer: dict[str, Any]) -> Any:
        """The turn in a whole answer."""
        return answer["content"]

    def joined(self, events: list[dict[str, Any]]) -> Any:
        """The turn in a stream."""
        blocks: list[dict[str, Any]] = []
        for event in events:
            if event["type"] == "content_block_start":
                blocks.append(dict(event["content_block"]))
            elif event["type"] == "content_block_delta":
                delta, block = event["delta"], blocks[event["index"]]
                if delta["type"] == "input_json_delta":
                    block["json"] = block.get("json", "") + delta["partial_json"]
                elif delta["type"] == "signature_delta":
                    block["signature"] = delta["signature"]
                else:
                    kind = delta["type"].removesuffix("_delta")
                    block[kind] = block.get(kind, "") + delta[kind]
        for block in blocks:
            if block["type"] == "tool_use":
                block["input"] = json.loads(block.pop("json"))
        return blocks

    def second(self, model: str, turn: Any) -> dict[str, Any]:
        """The second request."""
        body = self.first(model)
        results = [
            {"type": "tool_result", "tool_use_id": block["id"], "content": RESULT}
            for block in turn
            if block["type"] == "tool_use"
        ]
        body["messages"] += [
            {"role": "assistant", "content": turn},
            {"role": "user", "content": results},
        ]
        return body


class ResponsesClient:
    """A client of the Responses API that sends back the items that it got."""

    path = "/v1/responses"

    def first(self, model: str) -> dict[str, Any]:
        """The first request."""
        return {
            "model": model, "max_output_tokens": 5000, "store": False,
            "include": ["reasoning.encrypted_content"],
            "input": [{"role": "user", "content": "Weather?"}],
            "tools": [{"type": "function", "name": NAME, "parameters": SCHEMA}],
        }  # fmt: skip

    def whole(self, answer: dict[str, Any]) -> Any:
        """The turn in a whole answer."""
        return answer["output"]

    def joined(self, events: list[dict[str, Any]]) -> Any:
        """The turn in a stream."""
        return events[-1]["response"]["output"]

    def second(self, model: str, turn: Any) -> dict[str, Any]:
        """The second request."""
        body = self.first(model)
        results = [
            {"type": "function_call_output", "call_id": item["call_id"], "output": RESULT}
            for item in turn
            if item["type"] == "function_call"
        ]
        body["input"] += [*turn, *results]
        return body


Client = OpenAIClient | AnthropicClient | ResponsesClient
CLIENTS: dict[str, Client] = {
    "openai": OpenAIClient(), "anthropic": AnthropicClient(), "responses": ResponsesClient()
}  # fmt: skip
