"""Translates the input items of a Responses request to chat messages. Pure functions.

    instructions, system, developer   system messages. Those at the start are joined into one: some
                                      servers accept only one
    user: input_text, input_image, input_file, input_audio
                                      text, image_url, file, input_audio
    assistant's message, function_call, custom_tool_call, reasoning
                                      adjacent items become one assistant message
    function_call_output, custom_tool_call_output
                                      a tool message, which can hold only text. Images and files
                                      follow in a user message after the last tool message
    items of tools that OpenAI runs   left out and named in `ignored`
    compaction                        refused: only the provider that made it can read it

Source: `openai.types.responses.ResponseInputItem` of the SDK, 3.54.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from goblin_assistant.dialects.carried import check_packed, packed_in_id, split_id
from goblin_assistant.dialects.responses.reasoning import take_back
from goblin_assistant.dialects.responses.tools import CallName
from goblin_assistant.errors import BadRequest
from goblin_assistant.providers.openai.encrypted import CARRIED
from goblin_assistant.providers.openai.wire import encode
from goblin_assistant.providers.tool_results import behind_their_calls
from goblin_assistant.schemas.field_names import note_others, of_kind
from goblin_assistant.schemas.json_bounds import TooMuchStructure

Part = dict[str, Any]

LEFT_OUT = frozenset(
    {
        "apply_patch_call", "apply_patch_call_output", "code_interpreter_call", "computer_call",
        "computer_call_output", "file_search_call", "image_generation_call", "local_shell_call",
        "local_shell_call_output", "mcp_approval_request", "mcp_approval_response", "mcp_call",
        "mcp_list_tools", "program", "program_output", "shell_call", "shell_call_output",
        "tool_search_call", "tool_search_output", "web_search_call",
    }
)  # fmt: skip
"""Items of tools that OpenAI runs or defines. Their results are also in the text beside them."""

_ITEM_FIELDS: Mapping[str, tuple[str, ...]] = {
    "message": ("type", "id", "status", "role", "content"),
    "function_call": ("type", "id", "status", "call_id", "name", "namespace", "arguments"),
    "custom_tool_call": ("type", "id", "status", "call_id", "name", "namespace", "input"),
    "function_call_output": ("type", "id", "status", "call_id", "output"),
    "custom_tool_call_output": ("type", "id", "status", "call_id", "output"),
    "reasoning": ("type", "id", "status", "summary", "content", "encrypted_content"),
}
"""The fields that are read, and those that may be ignored: nothing is stored, so ids and status
mean nothing here."""
_PART_FIELDS: Mapping[str, tuple[str, ...]] = {
    "input_text": ("type", "text"),
    "output_text": ("type", "text"),
    "text": ("type", "text"),
    "refusal": ("type", "refusal"),
    "input_image": ("type", "image_url", "detail"),
    "input_file": ("type", "file_data", "filename"),
    "input_audio": ("type", "input_audio"),
}


def messages_of(body: Mapping[str, Any], ignored: set[str]) -> list[dict[str, Any]]:
    """The messages of a whole request. Adds the names of what is left out to `ignored`.

    Raises BadRequest, which names the item.
    """
    given = body.get("input")
    history = _History(ignored)
    if instructions := body.get("instructions"):
        history.system(instructions)
    if isinstance(given, str):
        history.messages.append({"role": "user", "content": given})
        return history.messages
    items = given or []
    _bound(items)
    for position, item in enumerate(items):
        history.add(item, f"input[{position}]")
    return history.finished()


def _bound(items: list[Mapping[str, Any]]) -> None:
    packed = []
    for item in items:
        content = item.get("encrypted_content")
        if isinstance(content, str) and content.startswith(CARRIED):
            packed.append(content.removeprefix(CARRIED))
        packed.append(packed_in_id(item.get("call_id")))
    try:
        check_packed(packed)
    except TooMuchStructure:
        raise BadRequest("input: what is packed in it has too many values", param="input") from None


class _History:
    """Builds the list of messages.

    An assistant's turn stays open until an item of another kind arrives. Images and files that
    tools returned wait until the last tool result.
    """

    def __init__(self, ignored: set[str]) -> None:
        self.messages: list[dict[str, Any]] = []
        self._ignored = ignored
        self._turn: dict[str, Any] | None = None
        # Joined once at the end: appending to a string copies all of it.
        self._first: list[str] = []  # of the system message at the start
        self._said: list[str] = []  # by the assistant in this turn
        self._thought: list[str] = []
        self._attached: list[Part] = []

    def add(self, item: Mapping[str, Any], where: str) -> None:
        """Add one item of the input."""
        kind = item.get("type") or "message"
        if known := of_kind(_ITEM_FIELDS, kind, ()):
            note_others(item, known, "input", self._ignored)
        if kind == "message":
            self._message(item, where)
        elif kind in ("function_call", "custom_tool_call"):
            self._call(item, where, custom=kind == "custom_tool_call")
        elif kind in ("function_call_output", "custom_tool_call_output"):
            self._result(item, where)
        elif kind == "reasoning":
            if not take_back(item, self._open(), self._thought):
                self._ignored.add("input.reasoning")
        elif isinstance(kind, str) and kind in LEFT_OUT:
            self._ignored.add(f"input.{kind}")
        else:
            raise BadRequest(
                f"{where}: this type of item is known to OpenAI's models only", param="input"
            )

    def system(self, text: str) -> None:
        """Add to the system message at the start, or add one later in the conversation."""
        self._close()
        if self._first and len(self.messages) == 1:
            self._first.append(text)
            return
        if not self.messages:
            self._first.append(text)
        self.messages.append({"role": "system", "content": text})

    def finished(self) -> list[dict[str, Any]]:
        """All messages."""
        self._close()
        if len(self._first) > 1:
            self.messages[0]["content"] = "\n\n".join(self._first)
        return list(behind_their_calls(self.messages))

    def _message(self, item: Mapping[str, Any], where: str) -> None:
        role, content = item.get("role"), item.get("content")
        if role in ("system", "developer"):
            self.system(self._text(content, where))
        elif role == "assistant":
            self._open()
            self._said.append(self._text(content, where))
        elif role == "user":
            self._close()
            self.messages.append({"role": "user", "content": self._shown(content, where)})
        else:
            raise BadRequest(
                f"{where}.role: accepted: user, assistant, system, developer", param="input"
            )

    def _call(self, item: Mapping[str, Any], where: str, *, custom: bool) -> None:
        space = item.get("namespace")
        name = CallName(_string(item, "name", where), space if isinstance(space, str) else "")
        call_id, extra = split_id(_string(item, "call_id", where))
        arguments = (
            encode({"input": _string(item, "input", where)}).decode()
            if custom
            else _string(item, "arguments", where)
        )
        call: dict[str, Any] = {
            "id": call_id,
            "type": "function",
            "function": {"name": name.flat, "arguments": arguments or "{}"},
        }
        if extra is not None:
            call["extra_content"] = extra
        self._open().setdefault("tool_calls", []).append(call)

    def _result(self, item: Mapping[str, Any], where: str) -> None:
        self._close_turn()
        output = item.get("output")
        parts = self._parts(output, f"{where}.output")
        texts = [part["text"] for part in parts if part["type"] == "text"]
        others = [part for part in parts if part["type"] != "text"]
        self._attached += others
        said = "\n".join(texts) or ("(see the attachment below)" if others else "")
        call_id = split_id(_string(item, "call_id", where))[0]
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": said})

    # -- turns ------------------------------------------------------------------------------------
    def _open(self) -> dict[str, Any]:
        if self._turn is None:
            self._close()
            self._turn = {"role": "assistant", "content": None}
        return self._turn

    def _close_turn(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None and self._said:
            turn["content"] = "\n\n".join([text for text in self._said if text])
        if turn is not None and self._thought:
            turn["reasoning_content"] = "".join(self._thought)
        self._said, self._thought = [], []
        # Servers reject a message that has only reasoning.
        if turn is not None and (turn["content"] is not None or turn.get("tool_calls")):
            self.messages.append(turn)

    def _close(self) -> None:
        self._close_turn()
        if self._attached:
            self.messages.append({"role": "user", "content": self._attached})
            self._attached = []

    # -- content ----------------------------------------------------------------------------------
    def _shown(self, content: Any, where: str) -> Any:
        parts = self._parts(content, where)
        plain = len(parts) == 1 and parts[0]["type"] == "text"
        return parts[0]["text"] if plain else parts

    def _text(self, content: Any, where: str) -> str:
        if isinstance(content, str):
            return content
        parts = self._parts(content, where)
        if any(part["type"] != "text" for part in parts):
            raise BadRequest(f"{where}: only a user's message may hold files", param="input")
        return "\n\n".join(part["text"] for part in parts)

    def _parts(self, content: Any, where: str) -> list[Part]:
        if isinstance(content, str):
            return [{"type": "text", "text": content}]
        if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
            raise BadRequest(f"{where}: content must be text or a list of parts", param="input")
        return [
            self._part(part, f"{where}.content[{position}]")
            for position, part in enumerate(content)
        ]

    def _part(self, part: Mapping[str, Any], where: str) -> Part:
        kind = part.get("type")
        note_others(part, of_kind(_PART_FIELDS, kind, ("type",)), "input", self._ignored)
        if kind in ("input_text", "output_text", "text"):
            return {"type": "text", "text": _string(part, "text", where)}
        if kind == "refusal":
            return {"type": "text", "text": _string(part, "refusal", where)}
        if kind == "input_image":
            return _image(part, where)
        if kind == "input_file":
            return _file(part, where)
        if kind == "input_audio" and isinstance(part.get("input_audio"), dict):
            return {"type": "input_audio", "input_audio": part["input_audio"]}
        raise BadRequest(
            f"{where}: this type of content is known to OpenAI's models only", param="input"
        )


def _image(part: Mapping[str, Any], where: str) -> Part:
    if part.get("image_url") is None:
        raise BadRequest(
            f"{where}: this model takes an image's address or data, not a file of OpenAI's",
            param="input",
        )
    image = {"url": _string(part, "image_url", where)}
    detail = part.get("detail")
    if detail in ("low", "high"):
        image["detail"] = detail
    elif detail == "original":  # the chat API has no "original"
        image["detail"] = "high"
    return {"type": "image_url", "image_url": image}


def _file(part: Mapping[str, Any], where: str) -> Part:
    if part.get("file_data") is None:
        raise BadRequest(
            f"{where}: this model takes a file's content, not its address or a file of OpenAI's",
            param="input",
        )
    name = part.get("filename")
    return {
        "type": "file",
        "file": {
            "filename": name if isinstance(name, str) and name else "document.pdf",
            "file_data": _string(part, "file_data", where),
        },
    }


def _string(value: Mapping[str, Any], name: str, where: str) -> str:
    found = value.get(name)
    if not isinstance(found, str):
        raise BadRequest(f"{where}.{name} must be text", param="input")
    return found
