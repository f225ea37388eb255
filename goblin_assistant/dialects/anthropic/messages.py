"""Anthropic's system prompt and turns as OpenAI's messages. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from goblin_assistant.dialects.anthropic.cache_marks import SYSTEM_GAP, Part, joined, keep_mark
from goblin_assistant.dialects.anthropic.carried import take_back
from goblin_assistant.dialects.carried import check_packed, packed_in_id, split_id
from goblin_assistant.errors import BadRequest
from goblin_assistant.providers.anthropic.foreign import SIGNATURE
from goblin_assistant.providers.openai.wire import encode
from goblin_assistant.providers.tool_results import behind_their_calls
from goblin_assistant.schemas.field_names import note_others, of_kind, says_something, shown
from goblin_assistant.schemas.json_bounds import TooMuchStructure


def messages_to_openai(body: Mapping[str, Any], ignored: set[str]) -> list[dict[str, Any]]:
    """The messages of a whole request. Raises BadRequest, which names the place. `ignored` gets the
    names of what is left out."""
    _bound(body["messages"])
    messages: list[dict[str, Any]] = []
    if body.get("system"):
        messages.append({"role": "system", "content": _plain(body["system"], "system", ignored)})
    for position, turn in enumerate(body["messages"]):
        content = turn["content"]
        if len(turn) > 2:
            note_others(turn, ("role", "content"), "messages", ignored)
        if type(content) is str and turn["role"] != "system":
            messages.append({"role": turn["role"], "content": content})
            continue
        where = f"messages[{position}]"
        if turn["role"] == "system":
            messages.append({"role": "system", "content": _plain(content, where, ignored)})
        elif turn["role"] == "user":
            messages += _user(content, where, ignored)
        else:
            messages.append(_assistant(content, where, ignored))
    return list(behind_their_calls(messages))


def _bound(turns: Iterable[Mapping[str, Any]]) -> None:
    packed = []
    for turn in turns:
        content = turn["content"]
        for block in content if turn["role"] == "assistant" and type(content) is list else ():
            signature = block.get("signature") if block["type"] == "thinking" else None
            if isinstance(signature, str) and signature.startswith(SIGNATURE):
                packed.append(signature.removeprefix(SIGNATURE))
            elif block["type"] == "tool_use":
                packed.append(packed_in_id(block.get("id")))
    try:
        check_packed(packed)
    except TooMuchStructure:
        raise BadRequest("messages: what is packed in them has too many values") from None


def _user(
    blocks: Iterable[Mapping[str, Any]], where: str, ignored: set[str]
) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    parts: list[Part] = []
    for position, block in enumerate(blocks):
        # Nearly every block: there is no place to name.
        if block["type"] == "text" and type(text := block.get("text")) is str:
            if text:
                parts.append({"type": "text", "text": text})
            if len(block) > 2:
                note_fields(block, ignored)
                keep_mark(block, parts[-1:] if text else [], ignored)
            continue
        here = f"{where}.content[{position}]"
        if block["type"] == "tool_result":
            result, images = _tool_result(block, here, ignored)
            results.append(result)
            parts += images
        else:
            made = _parts(block, here, ignored)
            keep_mark(block, made, ignored)
            parts += made
    if not parts:
        return results
    plain = len(parts) == 1 and parts[0].keys() == {"type", "text"}
    return [*results, {"role": "user", "content": parts[0]["text"] if plain else parts}]


def _assistant(
    blocks: Iterable[Mapping[str, Any]], where: str, ignored: set[str]
) -> dict[str, Any]:
    text: list[Part] = []
    calls: list[dict[str, Any]] = []
    extras: dict[str, Any] = {}
    thoughts: list[str] = []
    for position, block in enumerate(blocks):
        here = f"{where}.content[{position}]"
        kind = block["type"]
        made: list[Part] = []
        if kind == "text":
            made = [{"type": "text", "text": _text(block, here)}]
        elif kind == "tool_use":
            calls.append(_tool_call(block, here))
        elif kind in ("thinking", "redacted_thinking"):
            if take_back(block, extras, thoughts):
                note_fields(block, ignored)
            else:
                ignored.add(f"messages.{kind}")
            continue
        elif kind == "compaction" and isinstance(block.get("content"), str):
            # a summary in place of what was said before
            made = [{"type": "text", "text": block["content"]}]
        elif not _is_of_a_server(kind):
            raise _unknown(here)
        else:
            ignored.add(f"messages.{kind}")
            continue
        note_fields(block, ignored)
        keep_mark(block, made, ignored)
        text += made
    if thoughts:
        extras["reasoning_content"] = "".join(thoughts)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": joined(text, "") if text or not calls else None,
        **extras,
    }
    if calls:
        message["tool_calls"] = calls
    return message


def _tool_call(block: Mapping[str, Any], where: str) -> dict[str, Any]:
    name = _string(block, "name", where)
    call_id, extra = split_id(_string(block, "id", where))
    arguments = encode(block.get("input") or {}).decode()
    call = {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }
    if extra is not None:
        call["extra_content"] = extra
    return call


def _is_of_a_server(kind: Any) -> bool:
    """Whether a block tells of a tool that Anthropic ran. The text beside it has the outcome."""
    return isinstance(kind, str) and (
        kind in ("server_tool_use", "mcp_tool_use", "container_upload")
        or (kind.endswith("_tool_result") and kind != "tool_result")
    )


_ALWAYS = ("type", "cache_control")
_KNOWN_FIELDS: Mapping[str, tuple[str, ...]] = {
    "text": (*_ALWAYS, "text"),
    "image": (*_ALWAYS, "source"),
    "document": (*_ALWAYS, "source", "title"),
    "search_result": (*_ALWAYS, "source", "title", "content"),
    "tool_use": (*_ALWAYS, "id", "name", "input"),
    "tool_result": (*_ALWAYS, "tool_use_id", "content", "is_error"),
    "compaction": (*_ALWAYS, "content"),
    "thinking": (*_ALWAYS, "thinking", "signature"),
}
"""By the types of blocks."""


def note_fields(block: Mapping[str, Any], ignored: set[str]) -> None:
    """Name the fields of a block that have no counterpart: citations, callers."""
    for name in block.keys() - set(of_kind(_KNOWN_FIELDS, block.get("type"), _ALWAYS)):
        value = block[name]
        if says_something(value) and value not in ({"type": "direct"}, {"enabled": False}):
            ignored.add(shown("messages", name))


def _tool_result(
    block: Mapping[str, Any], where: str, ignored: set[str]
) -> tuple[dict[str, Any], list[Part]]:
    content = block.get("content") or ""
    text: list[str] = []
    images: list[Part] = []
    note_fields(block, ignored)
    for position, inner in enumerate(_blocks(content, where)):
        for part in _parts(inner, f"{where}.content[{position}]", ignored):
            if part["type"] == "text":
                text.append(part["text"])
            else:
                images.append(part)
    said = "\n".join(text) or ("(see the attachment below)" if images else "")
    if block.get("is_error"):
        said = f"Error: {said}"
    whole: Part = {"type": "text", "text": said}
    for marked in (*_blocks(content, where), block):
        keep_mark(marked, [whole], ignored)
    return {
        "role": "tool",
        "tool_call_id": split_id(_string(block, "tool_use_id", where))[0],
        "content": joined([whole], ""),
    }, images


def _parts(block: Mapping[str, Any], where: str, ignored: set[str]) -> list[Part]:
    kind = block.get("type")
    if kind == "search_result":
        return _search_result(block, where, ignored)
    if kind == "tool_reference" or _is_of_a_server(kind):
        ignored.add(f"messages.{kind}")
        return []
    note_fields(block, ignored)
    if kind == "text":
        text = _text(block, where)
        return [{"type": "text", "text": text}] if text else []
    source = block.get("source")
    if isinstance(source, dict):
        note_others(source, _SOURCE_FIELDS, "messages.source", ignored)
    if kind == "image" and isinstance(source, dict):
        return [{"type": "image_url", "image_url": {"url": _url(source, where)}}]
    if kind == "document" and isinstance(source, dict):
        return _document(block, source, where, ignored)
    raise _unknown(where)


_SOURCE_FIELDS = ("type", "url", "media_type", "data", "content")


def _search_result(block: Mapping[str, Any], where: str, ignored: set[str]) -> list[Part]:
    note_fields(block, ignored)
    head = f"{_string(block, 'title', where)}\n{_string(block, 'source', where)}"
    inner = _blocks(block.get("content"), where)
    text = "\n".join(_text(item, f"{where}.content[{at}]") for at, item in enumerate(inner))
    for item in inner:
        note_fields(item, ignored)
        keep_mark(item, (), ignored)
    return [{"type": "text", "text": f"{head}\n\n{text}"}]


def _document(
    block: Mapping[str, Any], source: Mapping[str, Any], where: str, ignored: set[str]
) -> list[Part]:
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
        parts: list[Part] = [{"type": "text", "text": title}] if isinstance(title, str) else []
        for position, item in enumerate(_blocks(source.get("content"), where)):
            made = _parts(item, f"{where}.source.content[{position}]", ignored)
            keep_mark(item, made, ignored)
            parts += made
        return parts
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


def _plain(
    content: str | list[Mapping[str, Any]], where: str, ignored: set[str]
) -> str | list[Part]:
    """A system prompt, as one string if it has no cache marks: some servers take no blocks."""
    if isinstance(content, str):
        return content
    parts: list[Part] = []
    for position, block in enumerate(content):
        note_fields(block, ignored)
        part: Part = {"type": "text", "text": _text(block, f"{where}[{position}]")}
        keep_mark(block, [part], ignored)
        parts.append(part)
    return joined(parts, SYSTEM_GAP)


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
        f"{where}: blocks of this type are not known in this API, or to Anthropic's models only",
        param="messages",
    )
