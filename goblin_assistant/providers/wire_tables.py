"""The tables of docs/providers.md, made from wire_forms.py. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from goblin_assistant.providers.wire_form import MessageForm
from goblin_assistant.providers.wire_forms import WIRE_FORMS

_REASONING = {
    None: "as the client sends it",
    "": "left out",
    "thinking_parts": "in the content",
}


def message_table() -> str:
    """What each server takes in earlier turns."""
    rows = [
        (name, *_message_cells(form.messages), form.messages.source.told)
        for name, form in WIRE_FORMS.items()
        if form.messages is not None
    ]
    heads = (
        "preset",
        "reasoning",
        "left out as well",
        "names, roles, ids",
        "wanted back",
        "reference, read on",
    )
    return _table(heads, rows)


def usage_table() -> str:
    """How each server reports usage."""
    rows = []
    for name, form in WIRE_FORMS.items():
        usage = form.usage
        cells = (usage.streamed, usage.reasoning, usage.cache, usage.price)
        rows.append((name, *cells, usage.source.told))
    heads = ("preset", "in a stream", "reasoning", "cache", "price", "reference, read on")
    return _table(heads, rows)


def overflow_table() -> str:
    """How each server says that a prompt is too long."""
    rows = []
    for name, form in WIRE_FORMS.items():
        code = f"`{form.overflow.code}`" if form.overflow.code else ""
        rows.append((name, form.overflow.sentence, code, form.overflow.source.told))
    return _table(("preset", "sentence", "code", "reference, read on"), rows)


def _message_cells(form: MessageForm) -> tuple[str, str, str, str]:
    reasoning = _REASONING.get(form.reasoning_field, f"`{form.reasoning_field}`")
    refused = ", ".join(f"`{name}`" for name in form.refused_fields)
    limits = []
    if form.tool_name_limit is not None:
        limits.append(f"tools' names of at most {form.tool_name_limit} letters, digits, _, -")
    if not form.developer_role:
        limits.append("no role `developer`")
    if not form.names:
        limits.append("no `name` but a tool's")
    if form.id_limit is not None:
        limits.append(f"ids of at most {form.id_limit}")
    if form.tool_call_ids:
        limits.append(f"ids that match `{form.tool_call_ids}`")
    if form.bridge:
        limits.append("the assistant between a tool's result and the user")
    wanted = []
    if form.reasoning_required:
        wanted.append("reasoning after a tool call, empty at least")
    if form.thought_signatures:
        wanted.append("thought signatures of tool calls")
    if "reasoning_details" not in form.refused_fields and form.cache_marks:
        wanted.append("`reasoning_details`")
    return reasoning, refused, ", ".join(limits), ", ".join(wanted)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)
