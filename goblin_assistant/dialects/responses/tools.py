"""Translates tools of the Responses API to functions of the chat API, and their names back.

Pure functions.

    function    a function
    namespace   each of its functions as `namespace__name`; the call has both names again. The
                first function gets the namespace's description
    custom      a function with one text argument, `input`; the call becomes a custom tool call. A
                grammar is described to the model; no other provider enforces it
    others      tools that OpenAI runs, or that only its models know: left out and named in
                `ignored`. Refused if `tool_choice` requires one, or if no other tool is left: the
                model would invent results

Sources: `openai.types.responses.Tool`, `ToolChoice` of the SDK, 3.54.0;
https://platform.openai.com/docs/guides/function-calling.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from goblin_assistant.errors import BadRequest
from goblin_assistant.schemas.field_names import note_others

_FUNCTION = ("parameters", "strict")
"""Fields of a function besides name and description. Other fields of a tool (allowed_callers,
async, defer_loading, output_schema) do not change the meaning of an answer: they are left out and
named in `ignored`."""

CUSTOM_PARAMETERS: Mapping[str, Any] = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}
"""The parameters of a custom tool that is sent as a function."""

_WORD = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_LONGEST_NAME = 128
"""Characters. A namespace's name is sent, and paid for, with each of its functions. Most providers
accept names of up to 64 characters, Anthropic up to 128."""


@dataclass(frozen=True, slots=True)
class CallName:
    """A tool's name as the client wrote it. `namespace` may be empty."""

    name: str
    namespace: str = ""
    custom: bool = False

    @property
    def flat(self) -> str:
        """The function's name for a provider."""
        return f"{self.namespace}__{self.name}" if self.namespace else self.name


def names_of(body: Mapping[str, Any]) -> dict[str, CallName]:
    """The client's name for each function's name, where they differ."""
    tools = body.get("tools")
    found = (name for name, *_ in _callable(tools) if name is not None) if tools else ()
    return {name.flat: name for name in found if name.namespace or name.custom}


def translate_tools(body: Mapping[str, Any], request: dict[str, Any], ignored: set[str]) -> None:
    """Put `tools` and `tool_choice` into the OpenAI request. Raises BadRequest."""
    tools, choice = body.get("tools"), body.get("tool_choice")
    if not tools:
        if choice not in (None, "auto", "none"):
            raise BadRequest("tool_choice: there are no tools to choose from", param="tool_choice")
        return
    allowed, choice = _choice(choice, ignored)
    functions: dict[str, dict[str, Any]] = {}
    # Only a namespace's first function gets its description: each copy would be paid for.
    described: set[tuple[str, str]] = set()
    left_out: list[tuple[str, Any]] = []
    for tool in tools:
        if tool.get("type") == "namespace":
            note_others(tool, ("type", "name", "description", "tools"), "tools", ignored)
    for name, tool, where, about in _callable(tools):
        if name is None:
            left_out.append((where, tool))
        elif name.flat in functions:
            raise BadRequest(f"{where}: two tools are called {name.flat}", param="tools")
        elif allowed is None or name.flat in allowed:
            space = (name.namespace, about)
            first = "" if space in described else about
            described.add(space)
            functions[name.flat] = _function(name, tool, where, first, ignored)
    for _, tool in left_out:
        ignored.add(f"tools.{_word(tool.get('type'))}")
    if not functions:
        if choice == "none":
            return
        raise _unavailable(*left_out[0]) if left_out else _none_allowed()
    request["tools"] = list(functions.values())
    if choice is not None:
        request["tool_choice"] = choice
    if body.get("parallel_tool_calls") is False:
        request["parallel_tool_calls"] = False


def _callable(
    tools: Sequence[Mapping[str, Any]],
) -> Iterator[tuple[CallName | None, Mapping[str, Any], str, str]]:
    """(name, tool, place, description of its namespace) of each tool. The name is None for tools
    that only OpenAI's models have."""
    for position, tool in enumerate(tools):
        where, kind = f"tools[{position}]", tool.get("type")
        if kind in ("function", "custom"):
            yield CallName(_name(tool, where), custom=kind == "custom"), tool, where, ""
        elif kind == "namespace":
            space, about = _name(tool, where), tool.get("description")
            for at, inner in enumerate(_list(tool.get("tools"), where)):
                here = f"{where}.tools[{at}]"
                if inner.get("type") not in ("function", "custom"):
                    yield None, inner, here, ""
                    continue
                name = CallName(_name(inner, here), space, inner["type"] == "custom")
                yield name, inner, here, about if isinstance(about, str) else ""
        else:
            yield None, tool, where, ""


def _function(
    name: CallName, tool: Mapping[str, Any], where: str, about: str, ignored: set[str]
) -> dict[str, Any]:
    description, callers = tool.get("description"), tool.get("allowed_callers")
    if callers == ["direct"]:
        callers = None
    texts = [text for text in (about, description) if isinstance(text, str) and text]
    function: dict[str, Any] = {"name": name.flat}
    if name.custom:
        function["parameters"] = CUSTOM_PARAMETERS
        if grammar := _grammar(tool.get("format")):
            texts.append(grammar)
            ignored.add("tools.format")
    else:
        schema = tool.get("parameters")
        if schema is not None and not isinstance(schema, dict):
            raise BadRequest(f"{where}.parameters must be a schema", param="tools")
        function["parameters"] = schema or {"type": "object", "properties": {}}
        if tool.get("strict") is True:
            function["strict"] = True
    own = ("type", "name", "description", *(("format",) if name.custom else _FUNCTION))
    note_others({**tool, "allowed_callers": callers}, own, "tools", ignored)
    if texts:
        function["description"] = "\n\n".join(texts)
    return {"type": "function", "function": function}


def _grammar(form: Any) -> str:
    if not isinstance(form, dict) or form.get("type") != "grammar":
        return ""
    return f"The input is a text of this grammar ({form.get('syntax')}):\n{form.get('definition')}"


_CHOICE = ("type", "name", "namespace")


# -- the choice -----------------------------------------------------------------------------------
def _choice(choice: Any, ignored: set[str]) -> tuple[set[str] | None, Any]:
    """(the functions that are allowed or None for all, OpenAI's tool_choice)."""
    if choice is None or choice in ("auto", "none", "required"):
        return None, choice
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind is not None:
        known = ("type", "mode", "tools") if kind == "allowed_tools" else _CHOICE
        note_others(choice, known, "tool_choice", ignored)
    if kind in ("function", "custom"):
        name = _chosen(choice)
        return None, {"type": "function", "function": {"name": name}}
    if kind == "allowed_tools":
        mode = choice.get("mode")
        if mode not in ("auto", "required"):
            raise BadRequest("tool_choice.mode: accepted: auto, required", param="tool_choice")
        allowed = set()
        for tool in _list(choice.get("tools"), "tool_choice"):
            note_others(tool, _CHOICE, "tool_choice.tools", ignored)
            if tool.get("type") in ("function", "custom"):
                allowed.add(_chosen(tool))
            else:
                ignored.add(f"tool_choice.{_word(tool.get('type'))}")
        return allowed, mode
    if kind is None:
        raise BadRequest(
            "tool_choice: accepted: auto, none, required, or an object with a type",
            param="tool_choice",
        )
    raise _unavailable("tool_choice", choice)


def _chosen(choice: Mapping[str, Any]) -> str:
    space = choice.get("namespace")
    return CallName(_name(choice, "tool_choice"), space if isinstance(space, str) else "").flat


# -- what is wrong --------------------------------------------------------------------------------
def _name(tool: Mapping[str, Any], where: str) -> str:
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        chats = isinstance(tool.get("function"), dict)  # the form of OpenAI's chat API
        hint = "; in this API, the fields of `function` stand in its place" if chats else ""
        raise BadRequest(f"{where}: needs a name{hint}", param=where.split("[")[0])
    if len(name) > _LONGEST_NAME:
        raise BadRequest(
            f"{where}: a name has at most {_LONGEST_NAME} characters", param=where.split("[")[0]
        )
    return name


def _list(items: Any, where: str) -> list[Mapping[str, Any]]:
    if isinstance(items, list) and all(isinstance(item, dict) for item in items):
        return items
    raise BadRequest(f"{where}.tools must be a list of tools", param=where.split("[")[0])


def _word(kind: Any) -> str:
    return kind if isinstance(kind, str) and _WORD.fullmatch(kind) else "?"


def _unavailable(where: str, tool: Mapping[str, Any]) -> BadRequest:
    return BadRequest(
        f"{where} ({_word(tool.get('type'))}): tools that OpenAI runs or defines are known to its "
        "models only",
        param=where.split("[")[0],
    )


def _none_allowed() -> BadRequest:
    return BadRequest("tool_choice: none of the tools is allowed", param="tool_choice")
