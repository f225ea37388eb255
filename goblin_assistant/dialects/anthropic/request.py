"""Anthropic's Messages dialect for clients, on providers that speak OpenAI's: the requests. Pure functions.

Answers are in dialects/anthropic/answer.py, streams in dialects/anthropic/stream.py.

    system                      a system message; a turn of role system stays where it is
    text, image, document       text, image_url, file (PDF) or text (plain text)
    tool_use                    tool_calls
    tool_result                 a tool message before the rest of its turn; `is_error` becomes the prefix "Error: ", images in it a user message
                                behind, because OpenAI's tool messages hold text only
    thinking, redacted_thinking left out: only Anthropic can read its own signatures
    tools, tool_choice          functions; auto, any -> required, tool -> named, none; disable_parallel_tool_use -> parallel_tool_calls: false
    max_tokens, stop_sequences, temperature, top_p, top_k, metadata.user_id, stream
                                max_tokens, stop, the same, the same, the same (the provider says if it knows it), user, stream
    thinking: enabled           reasoning_effort by the size of the budget; adaptive, disabled: nothing
    output_config               effort -> reasoning_effort, format -> response_format

What cannot be translated is refused by name, but for hints without influence on what an answer may be (IGNORED, TOOL_HINTS).
Sources: https://platform.claude.com/docs/en/api/messages, `anthropic.types` of the SDK, 2.12.0,
https://platform.openai.com/docs/api-reference/chat/create.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from goblin_assistant.dialects.anthropic.answer import response_from_openai
from goblin_assistant.dialects.anthropic.stream import StreamTranslator
from goblin_assistant.errors import BadRequest

__all__ = ["StreamTranslator", "request_to_openai", "response_from_openai"]

TRANSLATED = frozenset(
    {
        "model", "messages", "max_tokens", "system", "stream", "temperature", "top_p", "top_k", "stop_sequences", "tools", "tool_choice",
        "thinking", "output_config", "metadata",
    }
)  # fmt: skip

IGNORED = frozenset({"cache_control", "diagnostics", "inference_geo", "service_tier"})
"""Caching, diagnosis and where or how soon Anthropic computes: nothing that another provider could do differently."""

TOOL_HINTS = frozenset({"cache_control", "eager_input_streaming", "input_examples", "type"})

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "speed": ("standard",),
    "mcp_servers": ([],),
    "container": (),
}

EFFORTS: Mapping[str, str] = {
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "xhigh",
}

Part = dict[str, Any]


def request_to_openai(body: Mapping[str, Any]) -> dict[str, Any]:
    """The OpenAI chat request that means the same. Raises BadRequest naming what cannot be translated."""
    for name, value in body.items():
        if value is None or name in TRANSLATED or name in IGNORED or value in NEUTRAL.get(name, ()):
            continue
        raise BadRequest(
            f"{name} is known to Anthropic's models only; leave it out for this model", param=name
        )
    if body["max_tokens"] == 0:
        raise BadRequest(
            "max_tokens: 0 (filling the prompt cache) is known to Anthropic's models only",
            param="max_tokens",
        )
    request: dict[str, Any] = {
        "model": body.get("model"),
        "messages": _messages(body),
        "max_tokens": body["max_tokens"],
    }
    for name in ("stream", "temperature", "top_p", "top_k"):
        if body.get(name) is not None:
            request[name] = body[name]
    if stop := body.get("stop_sequences"):
        request["stop"] = stop
    user = (body.get("metadata") or {}).get("user_id")
    if user is not None:
        request["user"] = user
    _translate_tools(body, request)
    _translate_thinking(body, request)
    return request


# -- messages -------------------------------------------------------------------------------------
def _messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if body.get("system"):
        messages.append({"role": "system", "content": _plain(body["system"], "system")})
    for position, turn in enumerate(body["messages"]):
        where, content = f"messages[{position}]", turn["content"]
        if turn["role"] == "system":
            messages.append({"role": "system", "content": _plain(content, where)})
        elif isinstance(content, str):
            messages.append({"role": turn["role"], "content": content})
        elif turn["role"] == "user":
            messages += _user(content, where)
        else:
            messages.append(_assistant(content, where))
    return messages


def _user(blocks: Iterable[Mapping[str, Any]], where: str) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    parts: list[Part] = []
    for position, block in enumerate(blocks):
        if (
            block["type"] == "text" and type(text := block.get("text")) is str
        ):  # nearly all: no place to name
            if text:
                parts.append({"type": "text", "text": text})
            continue
        here = f"{where}.content[{position}]"
        if block["type"] == "tool_result":
            result, images = _tool_result(block, here)
            results.append(result)
            parts += images
        else:
            parts += _parts(block, here)
    if not parts:
        return results
    plain = len(parts) == 1 and parts[0]["type"] == "text"
    return [*results, {"role": "user", "content": parts[0]["text"] if plain else parts}]


def _assistant(blocks: Iterable[Mapping[str, Any]], where: str) -> dict[str, Any]:
    text: list[str] = []
    calls: list[dict[str, Any]] = []
    for position, block in enumerate(blocks):
        here = f"{where}.content[{position}]"
        kind = block["type"]
        if kind == "text":
            text.append(_text(block, here))
        elif kind == "tool_use":
            arguments = orjson.dumps(block.get("input") or {}).decode()
            name, call_id = _string(block, "name", here), _string(block, "id", here)
            calls.append(
                {
                    "id": call_id,
                    "type": "function",
                    "function": {"name": name, "arguments": arguments},
                }
            )
        elif kind not in ("thinking", "redacted_thinking"):
            raise _unknown(here)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(text) if text or not calls else None,
    }
    if calls:
        message["tool_calls"] = calls
    return message


def _tool_result(block: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[Part]]:
    content = block.get("content") or ""
    text: list[str] = []
    images: list[Part] = []
    for position, inner in enumerate(_blocks(content, where)):
        for part in _parts(inner, f"{where}.content[{position}]"):
            if part["type"] == "text":
                text.append(part["text"])
            else:
                images.append(part)
    said = "\n".join(text) or ("(see the attachment below)" if images else "")
    if block.get("is_error"):
        said = f"Error: {said}"
    return {
        "role": "tool",
        "tool_call_id": _string(block, "tool_use_id", where),
        "content": said,
    }, images


def _parts(block: Mapping[str, Any], where: str) -> list[Part]:
    kind = block.get("type")
    if kind == "text":
        text = _text(block, where)
        return [{"type": "text", "text": text}] if text else []
    source = block.get("source")
    if kind == "image" and isinstance(source, dict):
        return [{"type": "image_url", "image_url": {"url": _url(source, where)}}]
    if kind == "document" and isinstance(source, dict):
        return _document(block, source, where)
    raise _unknown(where)


def _document(block: Mapping[str, Any], source: Mapping[str, Any], where: str) -> list[Part]:
    kind, title = source.get("type"), block.get("title")
    if kind == "base64":
        return [
            {
                "type": "file",
                "file": {"filename": title or "document.pdf", "file_data": _url(source, where)},
            }
        ]
    if kind == "text":
        text = _string(source, "data", where)
        return [{"type": "text", "text": f"{title}\n\n{text}" if title else text}]
    if kind == "content":
        inner = _blocks(source.get("content"), where)
        return [
            part
            for position, item in enumerate(inner)
            for part in _parts(item, f"{where}.source.content[{position}]")
        ]
    raise BadRequest(
        f"{where}: this model takes a document's content, not its address or a file of Anthropic's",
        param="messages",
    )


def _blocks(content: Any, where: str) -> list[Mapping[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, list) and all(isinstance(item, dict) for item in content):
        return content
    raise BadRequest(f"{where}: content must be text or a list of blocks", param="messages")


def _url(source: Mapping[str, Any], where: str) -> str:
    kind = source.get("type")
    if kind == "url":
        return _string(source, "url", where)
    if kind == "base64":
        return (
            f"data:{_string(source, 'media_type', where)};base64,{_string(source, 'data', where)}"
        )
    raise BadRequest(
        f"{where}: a file of Anthropic's Files API is known to Anthropic's models only",
        param="messages",
    )


def _plain(content: str | list[Mapping[str, Any]], where: str) -> str:
    """A system prompt's text; blocks are paragraphs. One string, because not every server takes parts there."""
    if isinstance(content, str):
        return content
    return "\n\n".join(
        _text(block, f"{where}[{position}]") for position, block in enumerate(content)
    )


def _text(block: Mapping[str, Any], where: str) -> str:
    return _string(block, "text", where)


def _string(value: Mapping[str, Any], name: str, where: str) -> str:
    found = value.get(name)
    if not isinstance(found, str):
        raise BadRequest(
            f"{where}.{name} must be text",
            param="system" if where.startswith("system") else "messages",
        )
    return found


def _unknown(where: str) -> BadRequest:
    return BadRequest(
        f"{where}: this type of block is known to Anthropic's models only", param="messages"
    )


# -- tools and thinking ---------------------------------------------------------------------------
def _translate_tools(body: Mapping[str, Any], request: dict[str, Any]) -> None:
    tools = body.get("tools")
    if not tools:
        return
    request["tools"] = [_tool(tool, f"tools[{position}]") for position, tool in enumerate(tools)]
    choice = body.get("tool_choice")
    if choice is None:
        return
    kind = choice.get("type")
    if kind == "tool":
        name = choice.get("name")
        if not isinstance(name, str):
            raise BadRequest("tool_choice.name must be text", param="tool_choice")
        request["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif isinstance(kind, str) and kind in ("auto", "any", "none"):
        request["tool_choice"] = "required" if kind == "any" else kind
    else:
        raise BadRequest("tool_choice.type: accepted: auto, any, tool, none", param="tool_choice")
    if choice.get("disable_parallel_tool_use"):
        request["parallel_tool_calls"] = False


def _tool(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    if tool.get("type") not in (None, "custom"):
        raise BadRequest(
            f"{where}: tools that Anthropic runs or defines are known to its models only",
            param="tools",
        )
    name, schema = tool.get("name"), tool.get("input_schema")
    if not isinstance(name, str) or not isinstance(schema, dict):
        raise BadRequest(f"{where}: a tool needs a name and an input_schema", param="tools")
    function: dict[str, Any] = {"name": name, "parameters": schema}
    for key, value in tool.items():
        if key in ("description", "strict"):
            function[key] = value
        elif (
            key not in TOOL_HINTS
            and key not in ("name", "input_schema")
            and value not in (None, False, ["direct"])
        ):
            raise BadRequest(f"{where}.{key} is known to Anthropic's models only", param="tools")
    return {"type": "function", "function": function}


def _translate_thinking(body: Mapping[str, Any], request: dict[str, Any]) -> None:
    thinking, output = body.get("thinking") or {}, body.get("output_config") or {}
    effort = output.get("effort")
    if effort is not None:
        if not isinstance(effort, str) or effort not in EFFORTS:
            raise BadRequest(
                f"output_config.effort: accepted: {', '.join(EFFORTS)}", param="output_config"
            )
        request["reasoning_effort"] = EFFORTS[effort]
    elif thinking.get("type") == "enabled":
        budget = thinking.get("budget_tokens")
        if not isinstance(budget, int):
            raise BadRequest("thinking.budget_tokens must be a whole number", param="thinking")
        request["reasoning_effort"] = (
            "low" if budget <= 4096 else "medium" if budget <= 16384 else "high"
        )
    wanted = output.get("format")
    if wanted is not None:
        schema = (
            wanted.get("schema")
            if isinstance(wanted, dict) and wanted.get("type") == "json_schema"
            else None
        )
        if not isinstance(schema, dict):
            raise BadRequest(
                "output_config.format: accepted: json_schema with a schema", param="output_config"
            )
        request["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        }
