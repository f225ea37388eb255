"""OpenAI's messages as Anthropic's: system prompt, turns, tool calls and their results. Pure
functions. The parts of a message's content are in content.py.

    system, developer          anywhere: blocks of the top-level `system`, in their order
    user                       text, image_url (URL or data URL), file (PDF or text as data URL)
                               -> text, image, document
    assistant                  content, refusal -> text; tool_calls -> tool_use; thinking_blocks,
                               if the client sends them back
    tool                       tool_result in a user turn; adjacent ones (parallel calls) share one
    adjacent turns of a role   merged: the results of parallel calls must be in one message

Left out, because no answer depends on it: an image's `detail`, and what Anthropic refuses: text of
blanks only, and blanks at the end of a last turn of the assistant. A turn of the user that is blank
as a whole becomes EMPTY, so that the turns still alternate. `cache_control` on a part or message is
kept: clients of several gateways place Anthropic's cache marks with it. It stands on a tool_result,
not inside. Other fields of messages are named in `ignored`.
Sources: https://platform.claude.com/docs/en/api/messages and `anthropic.types.*_block_param` of the
SDK, 2.12.0; https://platform.openai.com/docs/api-reference/chat/create; for what Anthropic refuses
https://github.com/experientiallabs/experiential/pull/804 (a table of answers, read on 2026-11-27).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from goblin_assistant.providers.anthropic.call_ids import CallIds
from goblin_assistant.providers.anthropic.content import Block, blocks_of, invalid, marked
from goblin_assistant.providers.tool_results import behind_their_calls
from goblin_assistant.schemas.field_names import note_others, of_kind, says_something, shown
from goblin_assistant.schemas.json_bounds import (
    TooDeep,
    TooMuchStructure,
    check_depth,
    check_together,
    read_text,
)

EMPTY = "(empty message)"
"""For a turn of the user without content. Anthropic refuses it, and without it the assistant's own
last turn would be continued."""


def translate_messages(
    messages: Sequence[Mapping[str, Any]], ignored: set[str]
) -> tuple[list[Block], list[dict[str, Any]]]:
    """Anthropic's system blocks and turns. Raises InvalidRequest for what cannot be translated.
    `ignored` gets the names of what is left out."""
    _bound_arguments(messages)
    system: list[Block] = []
    turns: list[dict[str, Any]] = []
    ids = CallIds()
    for position, message in enumerate(behind_their_calls(messages)):
        role = message.get("role")
        if (
            len(message) == 2
            and role in ("user", "assistant")
            and type(text := message.get("content")) is str
            and text
            and not text.isspace()
        ):  # nearly every message: there is no place to name
            side, blocks = role, [{"type": "text", "text": text}]
        elif role in ("system", "developer"):
            _note_fields(message, ignored)
            system += _text_only(message, f"messages[{position}]")
            continue
        else:
            _note_fields(message, ignored)
            side, blocks = _turn(message, f"messages[{position}]", ids)
        if not blocks and side == "assistant":
            continue
        if turns and turns[-1]["role"] == side:
            turns[-1]["content"] += blocks
        else:
            turns.append({"role": side, "content": blocks})
    for turn in turns:
        turn["content"] = turn["content"] or [{"type": "text", "text": EMPTY}]
    if not turns:
        raise invalid("messages must hold at least one message of the user", "messages")
    if turns[-1]["role"] == "assistant":
        _strip_end(turns)
    return system, turns


def _strip_end(turns: list[dict[str, Any]]) -> None:
    """Anthropic refuses blanks at the end of a last turn of the assistant, which it continues."""
    blocks = turns[-1]["content"]
    if blocks[-1].get("type") != "text":
        return
    text = blocks[-1]["text"].rstrip()
    blocks[-1] = {**blocks[-1], "text": text}


_ASSISTANT = frozenset(
    {"role", "content", "tool_calls", "refusal", "thinking_blocks", "cache_control", "audio",
     "function_call"}
)  # fmt: skip
_FIELDS: Mapping[Any, frozenset[str]] = {
    "assistant": _ASSISTANT,
    "tool": frozenset({"role", "content", "tool_call_id", "cache_control"}),
}
_OTHER = frozenset({"role", "content", "cache_control"})
_THOUGHTS = frozenset({"reasoning_content", "reasoning"})
_PART_FIELDS: Mapping[str, tuple[str, ...]] = {
    "text": ("type", "text", "cache_control"),
    "refusal": ("type", "refusal", "cache_control"),
    "image_url": ("type", "image_url", "cache_control"),
    "file": ("type", "file", "cache_control"),
}


def _note_fields(message: Mapping[str, Any], ignored: set[str]) -> None:
    for call in message.get("tool_calls") or ():
        note_others(call, ("id", "type", "function", "index"), "messages.tool_calls", ignored)
        if isinstance(function := call.get("function"), dict):
            note_others(function, ("name", "arguments"), "messages.tool_calls", ignored)
    for name in message.keys() - _FIELDS.get(message.get("role"), _OTHER):
        if not says_something(message[name]) or (
            name in _THOUGHTS and message.get("thinking_blocks")
        ):
            continue
        ignored.add(shown("messages", name))
    content = message.get("content")
    for part in content if isinstance(content, list) else ():
        kind = part.get("type")
        if len(part) == 2 and kind == "text":
            continue
        note_others(part, of_kind(_PART_FIELDS, kind, ("type",)), "messages", ignored)
        inner = part.get(kind) if isinstance(kind, str) else None
        if isinstance(inner, dict):
            known = ("url",) if kind == "image_url" else ("file_data", "filename")
            note_others(inner, known, f"messages.{kind}", ignored)


def _turn(message: Mapping[str, Any], where: str, ids: CallIds) -> tuple[str, list[Block]]:
    role = message.get("role")
    if role == "user":
        return "user", blocks_of(message, where)
    if role == "assistant":
        return "assistant", _assistant(message, where, ids)
    if role == "tool":
        return "user", [_tool_result(message, where, ids)]
    raise invalid(
        f"{where} has a role that Anthropic's Messages API does not know: "
        "use tool in place of function",
        "messages",
    )


def _bound_arguments(messages: Sequence[Mapping[str, Any]]) -> None:
    texts: list[str] = []
    for message in messages:
        calls = message.get("tool_calls")
        if calls:
            functions = [call.get("function") for call in calls]
            texts += [
                text
                for function in functions
                if isinstance(function, dict) and isinstance(text := function.get("arguments"), str)
            ]
    try:
        check_together(texts)
    except TooMuchStructure:
        raise invalid("the arguments of the tool calls have too many values", "messages") from None


def _text_only(message: Mapping[str, Any], where: str) -> list[Block]:
    blocks = blocks_of(message, where)
    if any(block["type"] != "text" for block in blocks):
        raise invalid(f"{where}: a system message may hold text only", "messages")
    return blocks


def _assistant(message: Mapping[str, Any], where: str, ids: CallIds) -> list[Block]:
    blocks: list[Block] = []
    thoughts = message.get("thinking_blocks")
    for block in thoughts if isinstance(thoughts, list) else ():
        # Unchanged, with their signatures: thinking models need them before a tool call.
        if isinstance(block, dict) and block.get("type") in ("thinking", "redacted_thinking"):
            blocks.append(dict(block))
    blocks += blocks_of(message, where)
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal.strip():
        blocks.append({"type": "text", "text": refusal})
    if message.get("audio") or message.get("function_call"):
        raise invalid(
            f"{where}: audio and function_call have no counterpart in Anthropic's Messages API",
            "messages",
        )
    for position, call in enumerate(message.get("tool_calls") or ()):
        blocks.append(_tool_use(call, f"{where}.tool_calls[{position}]", ids))
    return blocks


def _tool_use(call: Mapping[str, Any], where: str, ids: CallIds) -> Block:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise invalid(f"{where} is not a function call", "messages")
    arguments = function.get("arguments") or "{}"
    try:
        value = read_text(arguments)
        check_depth(value, arguments.count("{") + arguments.count("["))
    except (TooDeep, RecursionError):
        raise invalid(f"{where}.function.arguments is nested too deeply", "messages") from None
    except AttributeError:
        raise invalid(f"{where}.function.arguments is not text", "messages") from None
    except ValueError:
        value = None
    if not isinstance(value, dict):
        # A model may write anything, or was cut off. `input` is an object.
        value = {} if arguments.strip() in ("", "null") else {"arguments": arguments}
    return {
        "type": "tool_use",
        "id": ids.of_call(call.get("id"), where),
        "name": function["name"],
        "input": value,
    }


def _tool_result(message: Mapping[str, Any], where: str, ids: CallIds) -> Block:
    block: Block = {
        "type": "tool_result",
        "tool_use_id": ids.of_result(message.get("tool_call_id"), where),
    }
    content = message.get("content")
    if isinstance(content, list):
        parts = blocks_of({"content": content}, where)
        for part in parts:  # a mark inside is refused: the last one stands for all
            if (mark := part.pop("cache_control", None)) is not None:
                block["cache_control"] = mark
        block["content"] = parts
    elif content:
        block["content"] = content
    return marked([block], message)[0]
