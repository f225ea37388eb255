"""The messages of a chat in the form that one server takes: fields, ids, names. Pure functions.

A conversation may have begun with another provider, and clients send back what that one wrote. Some
servers refuse what they do not know, others need their own reasoning back: providers/wire_forms.py
says so. What is left out is named, unless it is empty. The client's own bytes are sent where
nothing has to change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from goblin_assistant.providers.base import ChatRequest
from goblin_assistant.providers.openai.cache_marks import GONE, unmark, unmarked_fields
from goblin_assistant.providers.openai.short_names import (
    name_in,
    renamed,
    renamed_choice,
    short_id,
    short_name,
    takes_name,
)
from goblin_assistant.providers.openai.wire import encode
from goblin_assistant.providers.tool_results import with_bridges, with_ids
from goblin_assistant.providers.wire_form import MessageForm

REASONING = ("reasoning_content", "reasoning")
UNSIGNED = {"google": {"thought_signature": "skip_thought_signature_validator"}}
"""For a call that Gemini did not make, or whose signature was lost
(https://ai.google.dev/gemini-api/docs/thought-signatures)."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A request in the server's form, and the long names of its tools by their short ones, both as
    they stand in JSON."""

    request: ChatRequest
    names: Mapping[bytes, bytes]

    def restore(self, data: bytes) -> bytes:
        """An answer, or a piece of one, with the tools' own names."""
        # The short name holds a hash, so that it stands for nothing else.
        for short, long in self.names.items():
            data = data.replace(short, long)
        return data


class MessageFitter:
    """Fits chats to a server of this form. Shared by all threads."""

    def __init__(self, form: MessageForm) -> None:
        self._form = form
        self._refused = frozenset(form.refused_fields)
        self._field = "" if form.reasoning_field in self._refused else form.reasoning_field
        self._may_change = [b"assistant", b"cache_control", b"\\u00"]
        if not form.developer_role:
            self._may_change.append(b"developer")
        if not form.names:
            self._may_change.append(b'"name"')
        self._takes_id = re.compile(form.tool_call_ids).fullmatch if form.tool_call_ids else None

    def fit(self, request: ChatRequest) -> Fitted:
        """The request as the server takes it; `request` itself where nothing has to change."""
        body, ignored = request.body, request.ignored
        messages = body.get("messages")
        if not isinstance(messages, list):  # embeddings
            return Fitted(request, {})
        names = self._long_names(body)
        changes: dict[str, Any] = {}
        # Most chats have one turn, or none with anything to look at but names of tools. A search in
        # the client's bytes is cheaper than a look at each message. A backslash: a name may be
        # written with escapes.
        raw = request.raw
        if raw is None or any(word in raw for word in self._may_change):
            fitted = [
                self._message(message, ignored) if isinstance(message, dict) else message
                for message in with_ids(messages)
            ]
            if any(new is not old for new, old in zip(fitted, messages, strict=True)):
                changes["messages"] = fitted
            if self._form.bridge and (bridged := with_bridges(fitted, self._form.bridge)):
                changes["messages"] = bridged
            if not self._form.cache_control:
                changes |= unmarked_fields(body, ignored)
        if names:
            tools = changes.get("tools", body["tools"])
            changes["tools"] = [renamed(tool, names) for tool in tools]
            choice = body.get("tool_choice")
            if isinstance(choice, dict):
                changes["tool_choice"] = renamed_choice(choice, names)
        if not changes:
            return Fitted(request, {})
        kept = {name: value for name, value in {**body, **changes}.items() if value is not GONE}
        changed = replace(request, body=kept, raw=None)
        return Fitted(changed, {encode(short): encode(long) for long, short in names.items()})

    # -- names and ids ------------------------------------------------------------------------
    def _long_names(self, body: Mapping[str, Any]) -> dict[str, str]:
        """Long name -> short name, of the request's tools."""
        limit = self._form.tool_name_limit
        tools = body.get("tools")
        if limit is None or not isinstance(tools, list):
            return {}
        names = (name_in(tool) for tool in tools)
        return {name: short_name(name, limit) for name in names if not takes_name(name, limit)}

    def _fit_id(self, call_id: str) -> str:
        if self._takes_id is not None and not self._takes_id(call_id):
            return short_id(call_id)
        limit = self._form.id_limit
        return call_id if limit is None or len(call_id) <= limit else short_name(call_id, limit)

    # -- messages -----------------------------------------------------------------------------
    def _message(self, message: dict[str, Any], ignored: set[str]) -> dict[str, Any]:
        role = message.get("role")
        changes: dict[str, Any] = {}
        removed: set[str] = set()
        if role == "assistant":
            if "refusal" in self._refused:
                message = _with_refusal_said(message)
            removed = _left_out(message, self._refused, "messages.", ignored)
            self._reasoning(message, changes, removed, ignored)
            self._calls(message, changes, ignored)
        elif role == "tool":
            call_id = message.get("tool_call_id")
            if isinstance(call_id, str) and (fitted := self._fit_id(call_id)) != call_id:
                changes["tool_call_id"] = fitted
            limit, name = self._form.tool_name_limit, message.get("name")
            if limit is not None and isinstance(name, str) and not takes_name(name, limit):
                changes["name"] = short_name(name, limit)
        elif role == "developer" and not self._form.developer_role:
            changes["role"] = "system"
        if role != "tool" and not self._form.names and "name" in message:
            removed.add("name")
            if message["name"]:
                ignored.add("messages.name")
        if not self._form.cache_control:
            unmark(message, changes, removed, ignored)
        if not changes and not removed:
            return message
        return {
            **{name: value for name, value in message.items() if name not in removed},
            **changes,
        }

    def _reasoning(
        self,
        message: Mapping[str, Any],
        changes: dict[str, Any],
        removed: set[str],
        ignored: set[str],
    ) -> None:
        """Put reasoning under the server's own name for it, or leave it out."""
        field = self._field
        if field is None:
            return
        given = next((name for name in REASONING if isinstance(message.get(name), str)), None)
        text = message[given] if given is not None else ""
        required = self._form.reasoning_required and bool(message.get("tool_calls"))
        if field == "" or (not text and not required):
            wanted: Any = None
        elif field == "thinking_parts":
            wanted = None
            said = message.get("content")
            if isinstance(said, str) or said is None:
                thought = {"type": "thinking", "thinking": [{"type": "text", "text": text}]}
                changes["content"] = [thought, *([{"type": "text", "text": said}] if said else [])]
        else:
            wanted = text
        if wanted is not None and message.get(field) != wanted:
            changes[field] = wanted
        for name in REASONING:
            if name in message and name != (field if wanted is not None else ""):
                removed.add(name)
        if text and field == "":
            ignored.add(f"messages.{given}")

    def _calls(
        self, message: Mapping[str, Any], changes: dict[str, Any], ignored: set[str]
    ) -> None:
        calls = message.get("tool_calls")
        if not isinstance(calls, list) or not calls:
            return
        fitted = []
        for position, call in enumerate(calls):
            if not isinstance(call, dict):
                return
            fitted.append(self._call(call, ignored, first=position == 0))
        if any(new is not old for new, old in zip(fitted, calls, strict=True)):
            changes["tool_calls"] = fitted

    def _call(self, call: dict[str, Any], ignored: set[str], *, first: bool) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        call_id = call.get("id")
        if isinstance(call_id, str) and (fitted := self._fit_id(call_id)) != call_id:
            changes["id"] = fitted
        limit, name = self._form.tool_name_limit, name_in(call)
        if limit is not None and not takes_name(name, limit):
            changes["function"] = {**call["function"], "name": short_name(name, limit)}
        if self._form.thought_signatures and first and not call.get("extra_content"):
            changes["extra_content"] = UNSIGNED
        removed = _left_out(call, self._refused, "messages.tool_calls.", ignored)
        if not changes and not removed:
            return call
        return {**{key: value for key, value in call.items() if key not in removed}, **changes}


def _with_refusal_said(message: dict[str, Any]) -> dict[str, Any]:
    """A message whose refusal is text, for a server that has no other place for it."""
    said, refusal = message.get("content"), message.get("refusal")
    if isinstance(said, list) and any(map(_is_refusal, said)):
        said = [
            {"type": "text", "text": part.get("refusal")} if _is_refusal(part) else part
            for part in said
        ]
    if isinstance(refusal, str) and refusal:
        if isinstance(said, list):
            said = [*said, {"type": "text", "text": refusal}]
        else:
            said = f"{said}\n\n{refusal}" if said else refusal
    elif said is message.get("content"):
        return message
    return {**message, "content": said, "refusal": None}


def _is_refusal(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "refusal"


def _left_out(
    given: Mapping[str, Any], refused: frozenset[str], place: str, ignored: set[str]
) -> set[str]:
    """The fields that the server refuses. Those that say something are named in `ignored`."""
    if refused.isdisjoint(given):
        return set()
    found = refused & given.keys()
    ignored.update(place + name for name in found if given[name])
    return set(found)


def restored(events: Iterator[Any], fitted: Fitted) -> Iterator[Any]:
    """A stream's events with the tools' own names."""
    try:
        for event in events:
            yield fitted.restore(event) if type(event) is bytes else event
    finally:
        events.close()  # type: ignore[attr-defined]
