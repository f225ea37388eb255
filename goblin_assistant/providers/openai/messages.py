"""The messages of a chat in the form that one server takes: fields, ids, names. Pure functions.

A conversation may have begun with another provider, and clients send back what that one wrote. Some
servers refuse what they do not know, others need their own reasoning back (forms.py). The client's
own bytes are sent where nothing has to change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from goblin_assistant.providers.base import ChatRequest
from goblin_assistant.providers.openai.forms import WireForm

REASONING = ("reasoning_content", "reasoning")
UNSIGNED = {"google": {"thought_signature": "skip_thought_signature_validator"}}
"""For a call that Gemini did not make, or whose signature was lost
(https://ai.google.dev/gemini-api/docs/thought-signatures)."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A request in the server's form, and the long names of its tools by their short ones."""

    request: ChatRequest
    names: Mapping[str, str]

    def restore(self, data: bytes) -> bytes:
        """An answer, or a piece of one, with the tools' own names."""
        # The short name holds a hash, so that it stands for nothing else.
        for short, long in self.names.items():
            data = data.replace(f'"{short}"'.encode(), f'"{long}"'.encode())
        return data


class MessageFitter:
    """Fits chats to a server of this form. Shared by all threads."""

    def __init__(self, form: WireForm) -> None:
        self._form = form

    def fit(self, request: ChatRequest) -> Fitted:
        """The request as the server takes it; `request` itself where nothing has to change."""
        body, ignored = request.body, request.ignored
        messages = body.get("messages")
        if not isinstance(messages, list):  # embeddings
            return Fitted(request, {})
        names = self._long_names(body)
        changes: dict[str, Any] = {}
        # Most chats have one turn, or none with anything to look at.
        if request.raw is None or b"assistant" in request.raw or b"cache_control" in request.raw:
            fitted = [self._message(message, names, ignored) for message in messages]
            if any(new is not old for new, old in zip(fitted, messages, strict=True)):
                changes["messages"] = fitted
        if names:
            changes["tools"] = [_renamed_tool(tool, names) for tool in body["tools"]]
            choice = body.get("tool_choice")
            if isinstance(choice, dict):
                changes["tool_choice"] = _renamed_tool(choice, names)
        if not changes:
            return Fitted(request, {})
        changed = replace(request, body={**body, **changes}, raw=None)
        return Fitted(changed, {short: long for long, short in names.items()})

    # -- names --------------------------------------------------------------------------------
    def _long_names(self, body: Mapping[str, Any]) -> dict[str, str]:
        """Long name -> short name."""
        limit = self._form.tool_name_limit
        tools = body.get("tools")
        if limit is None or not isinstance(tools, list):
            return {}
        names = (_name_in(tool) for tool in tools)
        return {name: _short(name, limit) for name in names if name and len(name) > limit}

    # -- messages -----------------------------------------------------------------------------
    def _message(
        self, message: Mapping[str, Any], names: Mapping[str, str], ignored: set[str]
    ) -> Mapping[str, Any]:
        role = message.get("role")
        changes: dict[str, Any] = {}
        removed: list[str] = []
        if role == "assistant":
            self._reasoning(message, changes, removed, ignored)
            self._calls(message, names, changes, ignored)
        elif role == "tool":
            call_id = message.get("tool_call_id")
            if isinstance(call_id, str) and (fitted := self._fit_id(call_id)) != call_id:
                changes["tool_call_id"] = fitted
        if not self._form.cache_control:
            _without_marks(message, changes, ignored)
        if not changes and not removed:
            return message
        return {
            **{name: value for name, value in message.items() if name not in removed},
            **changes,
        }

    def _fit_id(self, call_id: str) -> str:
        limit = self._form.id_limit
        return call_id if limit is None or len(call_id) <= limit else _short(call_id, limit)

    def _reasoning(
        self,
        message: Mapping[str, Any],
        changes: dict[str, Any],
        removed: list[str],
        ignored: set[str],
    ) -> None:
        """Put reasoning under the server's own name for it, or leave it out."""
        form = self._form
        if not form.reasoning_details and "reasoning_details" in message:
            removed.append("reasoning_details")
            ignored.add("messages.reasoning_details")
        field = form.reasoning_field
        if field is None:
            return
        given = next((name for name in REASONING if isinstance(message.get(name), str)), None)
        text = message[given] if given is not None else ""
        required = form.reasoning_required and bool(message.get("tool_calls"))
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
                removed.append(name)
        if text and field == "":
            ignored.add(f"messages.{given}")

    def _calls(
        self,
        message: Mapping[str, Any],
        names: Mapping[str, str],
        changes: dict[str, Any],
        ignored: set[str],
    ) -> None:
        calls = message.get("tool_calls")
        if not isinstance(calls, list) or not calls:
            return
        fitted = []
        for position, call in enumerate(calls):
            if not isinstance(call, dict):
                return
            fitted.append(self._call(call, names, ignored, first=position == 0))
        if any(new is not old for new, old in zip(fitted, calls, strict=True)):
            changes["tool_calls"] = fitted

    def _call(
        self, call: dict[str, Any], names: Mapping[str, str], ignored: set[str], *, first: bool
    ) -> dict[str, Any]:
        changes: dict[str, Any] = {}
        call_id = call.get("id")
        if isinstance(call_id, str):
            changes["id"] = self._fit_id(call_id)
        if (name := _name_in(call)) in names:
            changes["function"] = {**call["function"], "name": names[name]}
        if self._form.thought_signatures and first and not call.get("extra_content"):
            changes["extra_content"] = UNSIGNED
        # Only Google's models know it. Of a server that is not known, it may be the form.
        drops = "extra_content" in call and self._form.reasoning_field is not None
        drops = drops and not self._form.thought_signatures
        if drops:
            ignored.add("messages.tool_calls.extra_content")
        elif all(call.get(key) == value for key, value in changes.items()):
            return call
        kept = {key: value for key, value in call.items() if not drops or key != "extra_content"}
        return {**kept, **changes}


def _without_marks(message: Mapping[str, Any], changes: dict[str, Any], ignored: set[str]) -> None:
    content = message.get("content")
    if not isinstance(content, list):
        return
    marked = [isinstance(part, dict) and "cache_control" in part for part in content]
    if any(marked):
        ignored.add("messages.cache_control")
        changes["content"] = [
            {key: value for key, value in part.items() if key != "cache_control"} if has else part
            for part, has in zip(content, marked, strict=True)
        ]


def _name_in(tool: Any) -> str:
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else ""


def _renamed_tool(tool: Any, names: Mapping[str, str]) -> Any:
    if (name := _name_in(tool)) not in names:
        return tool
    return {**tool, "function": {**tool["function"], "name": names[name]}}


def _short(name: str, limit: int) -> str:
    """The beginning of a name and a hash of all of it, as long as the limit."""
    digest = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:12]
    return f"{name[: limit - 13]}_{digest}"


def restored(events: Iterator[Any], fitted: Fitted) -> Iterator[Any]:
    """A stream's events with the tools' own names."""
    try:
        for event in events:
            yield fitted.restore(event) if type(event) is bytes else event
    finally:
        events.close()  # type: ignore[attr-defined]
