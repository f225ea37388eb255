"""Names of tools and ids of tool calls that a server takes, for those that it refuses. Pure
functions: the same name always becomes the same one, so that call and result stay together."""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Mapping
from typing import Any

_LETTERS = string.digits + string.ascii_letters
_OTHER = re.compile(r"[^A-Za-z0-9_-]")


def short_id(given: str) -> str:
    """Nine letters and digits for an id."""
    number = int.from_bytes(_digest(given)[:8])
    letters = []
    for _ in range(9):
        number, rest = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[rest])
    return "".join(letters)


def takes_name(name: str, limit: int) -> bool:
    """Whether a tool may be called so: OpenAI's letters, digits, _ and -, up to the limit."""
    return len(name) <= limit and _OTHER.search(name) is None


def short_name(name: str, limit: int) -> str:
    """The beginning of a name or an id, and a hash of all of it: letters, digits, _ and -, as long
    as the limit."""
    return f"{_OTHER.sub('_', name[: limit - 13])}_{_digest(name).hex()[:12]}"


def name_in(tool: Any) -> str:
    """The name of the function in a tool, a tool call or a choice of a tool; "" if it has none."""
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else ""


def renamed(tool: Any, names: Mapping[str, str]) -> Any:
    """The same with the short name of its function; `tool` itself if that is not long."""
    if (name := name_in(tool)) not in names:
        return tool
    return {**tool, "function": {**tool["function"], "name": names[name]}}


def renamed_choice(choice: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The same for a choice of a tool, or of several
    (https://platform.openai.com/docs/api-reference/chat/create: allowed_tools)."""
    allowed = choice.get("allowed_tools")
    tools = allowed.get("tools") if isinstance(allowed, dict) else None
    if isinstance(allowed, dict) and isinstance(tools, list):
        tools = [renamed(tool, names) for tool in tools]
        return {**choice, "allowed_tools": {**allowed, "tools": tools}}
    chosen: dict[str, Any] = renamed(choice, names)
    return chosen


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
