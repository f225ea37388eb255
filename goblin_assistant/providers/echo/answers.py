"""What `echo` answers: a pure function of the request, so that tests and load tests can predict it.

Tokens: one for each word. A word is a run of characters without white space. Images and other parts
without text count 0.

* By default the answer says what it is and repeats the last user (or tool) message.
* Tools: `tool_choice` "required" calls the first tool, a named function that one. "auto" (the
  default when there are tools) calls every tool whose name is a word of the last user message.
  Arguments are made from the tool's JSON schema. After a tool's result the answer is text again.
* `response_format`: json_object gives `{"echo": "<the text>"}`, json_schema an instance of the
  schema.
* `max_tokens` / `max_completion_tokens` end the text after that many words (finish_reason
  "length"), `stop` before its first occurrence.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

from goblin_assistant.providers.base import InvalidRequest
from goblin_assistant.providers.openai.wire import encode

INTRODUCTION = (
    "I am echo, the offline provider of Goblin Assistant, not a language model. You said:"
)
FILLER = "goblin"
EMBEDDING_DIMENSIONS = 256
MAX_EMBEDDING_DIMENSIONS = 4096
MAX_CHOICES = 16
MAX_ANSWER_WORDS = 100_000
"""The longest answer, in words. Without a limit, a prompt of 20 MB repeated as words takes 400
MB."""
MAX_VECTOR_WORDS = 2_000
"""Words of an embeddings request that are read for its vectors, from the first on. Each costs a
microsecond or two."""
_PIECE = 65536
_SCHEMA_DEPTH = 8
_SCHEMA_NODES = 500
_WORDS = re.compile(r"\s*\S+")
_NAMES = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class EchoReply:
    """The text, as words with the white space before each, or tool calls."""

    words: Sequence[str]
    tool_calls: Sequence[tuple[str, str]] = ()  # name, arguments as JSON
    finish_reason: str = "stop"
    completion_tokens: int = 0

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.words)


def count_tokens(text: str) -> int:
    """The words of a text. Counted in pieces, because a list of all words of 20 MB takes 400 MB."""
    if len(text) <= _PIECE:
        return len(text.split())
    pieces = [text[start : start + _PIECE] for start in range(0, len(text), _PIECE)]
    split = sum(not (left[-1].isspace() or right[0].isspace()) for left, right in pairwise(pieces))
    return sum(len(piece.split()) for piece in pieces) - split


def prompt_tokens(body: Mapping[str, Any]) -> int:
    """The tokens of all messages."""
    return count_tokens(" ".join(map(_text, _messages(body))))


def answer(body: Mapping[str, Any], length: int | None = None) -> EchoReply:
    """The answer to a chat. `length`, in tokens, asks for filler of that length in place of the
    text. Raises InvalidRequest."""
    messages = _messages(body)
    if length is None and (calls := _tool_calls(body, messages)):
        tokens = sum(count_tokens(arguments) + 1 for _, arguments in calls)
        return EchoReply((), calls, "tool_calls", tokens)
    if length is not None:
        words: Sequence[str] = [FILLER, *[" " + FILLER] * (length - 1)] if length > 0 else []
        text = ""
    else:
        said = next((_text(m) for m in reversed(messages) if m.get("role") in ("user", "tool")), "")
        text = _formatted(body.get("response_format"), said) or f"{INTRODUCTION} {said}".rstrip()
        for stop in _stops(body):
            text = text.partition(stop)[0]
        words = [found[0] for found in islice(_WORDS.finditer(text), MAX_ANSWER_WORDS + 1)]
    limit = body.get("max_completion_tokens")
    if limit is None:
        limit = body.get("max_tokens")
    if length is None and (not isinstance(limit, int) or limit > MAX_ANSWER_WORDS):
        limit = MAX_ANSWER_WORDS
    if isinstance(limit, int) and not isinstance(limit, bool) and 0 <= limit < len(words):
        return EchoReply(words[:limit], (), "length", limit)
    return EchoReply(words, (), "stop", len(words))


def embeddings(body: Mapping[str, Any]) -> tuple[list[list[float] | str], int]:
    """Vectors for `input`, and its tokens. With `encoding_format` "base64" a vector is the base64
    of little-endian float32. Raises InvalidRequest.

    Each word has a direction, and a vector is their normalised sum. So texts that share words are
    near each other.
    """
    given = body.get("input")
    items: list[Any]
    if isinstance(given, str) or (
        isinstance(given, list) and given and all(isinstance(i, int) for i in given)
    ):
        items = [given]
    elif isinstance(given, list) and given:
        items = given
    else:
        raise InvalidRequest(
            "input: a text, a list of texts or a list of token lists",
            provider="echo",
            param="input",
        )
    dimensions = body.get("dimensions", EMBEDDING_DIMENSIONS)
    if (
        not isinstance(dimensions, int)
        or isinstance(dimensions, bool)
        or not 1 <= dimensions <= MAX_EMBEDDING_DIMENSIONS
    ):
        raise InvalidRequest(
            f"dimensions: 1 to {MAX_EMBEDDING_DIMENSIONS}", provider="echo", param="dimensions"
        )
    encode = body.get("encoding_format") == "base64"
    vectors: list[list[float] | str] = []
    tokens, left = 0, MAX_VECTOR_WORDS
    for item in items:
        if isinstance(item, str):
            words = item[: 20 * left].lower().split()
            tokens += count_tokens(item)
        elif isinstance(item, list) and all(isinstance(i, int) for i in item):
            words = [str(i) for i in item[:left]]
            tokens += len(item)
        else:
            raise InvalidRequest(
                "input: texts or token lists, not both or others", provider="echo", param="input"
            )
        vector = _vector(words[:left], dimensions)
        left = max(0, left - len(words))
        vectors.append(
            base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode() if encode else vector
        )
    return vectors, tokens


def _vector(words: Iterable[str], dimensions: int) -> list[float]:
    sums = [0.0] * dimensions
    for word in words:
        digest = hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=16).digest()
        for position in range(0, 16, 4):
            number = int.from_bytes(digest[position : position + 4], "big")
            sums[(number >> 1) % dimensions] += 1.0 if number & 1 else -1.0
    length = math.sqrt(sum(x * x for x in sums))
    return [x / length for x in sums] if length else [1.0, *sums[1:]]


def _messages(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise InvalidRequest("messages: a list of objects", provider="echo", param="messages")
    return messages


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return " ".join(
            p["text"] for p in content if isinstance(p, dict) and isinstance(p.get("text"), str)
        )
    return ""


def _stops(body: Mapping[str, Any]) -> list[str]:
    stop = body.get("stop")
    return [s for s in (stop if isinstance(stop, list) else [stop]) if isinstance(s, str) and s]


def _formatted(wanted: Any, said: str) -> str:
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "json_object":
        return encode({"echo": said}).decode()
    if kind == "json_schema" and isinstance(wanted.get("json_schema"), dict):
        return encode(instance_of(wanted["json_schema"].get("schema"))).decode()
    return ""


def _tool_calls(
    body: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    functions: dict[str, Any] = {}
    tools = body.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        function = tool.get("function") if isinstance(tool, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            functions[function["name"]] = function.get("parameters")
    choice = body.get("tool_choice", "auto")
    if not functions or choice == "none":
        return []
    if isinstance(choice, dict):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if name not in functions:
            raise InvalidRequest(
                "tool_choice names no tool of the request", provider="echo", param="tool_choice"
            )
        names = [name]
    elif choice == "required":
        names = [next(iter(functions))]
    else:
        last = messages[-1] if messages else {}
        said = set(_NAMES.findall(_text(last))) if last.get("role") == "user" else set()
        names = [name for name in functions if name in said]
        if body.get("parallel_tool_calls") is False:
            names = names[:1]
    return [(name, encode(instance_of(functions[name])).decode()) for name in names]


def instance_of(schema: Any) -> Any:
    """A value that fits a JSON schema: the first of an enum, the first of alternatives; below two
    levels only required properties.

    Patterns, formats and conditions are ignored. Depth and size are bounded, also for a schema that
    refers to itself.
    """
    return _Maker(schema).make(schema, 0)


class _Maker:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._left = _SCHEMA_NODES

    def make(self, schema: Any, depth: int) -> Any:
        self._left -= 1
        if not isinstance(schema, dict) or depth > _SCHEMA_DEPTH or self._left < 0:
            return FILLER if depth else {}
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference.startswith("#/"):
            target: Any = self._root
            for part in reference[2:].split("/"):
                target = target.get(part) if isinstance(target, dict) else None
            return self.make(target, depth + 1)
        for key in ("const", "default"):
            if key in schema:
                return schema[key]
        for key in ("enum", "anyOf", "oneOf", "allOf"):
            choices = schema.get(key)
            if isinstance(choices, list) and choices:
                return choices[0] if key == "enum" else self.make(choices[0], depth + 1)
        kind = schema.get("type")
        if isinstance(kind, list) and kind:
            kind = kind[0]
        if kind == "object" or (kind is None and (depth == 0 or "properties" in schema)):
            return self._object(schema, depth)
        if kind == "array":
            least = schema.get("minItems")
            count = min(least, 8) if isinstance(least, int) and least > 0 else 1
            return [self.make(schema.get("items"), depth + 1) for _ in range(count)]
        minimum = schema.get("minimum")
        number = minimum if isinstance(minimum, (int, float)) else 1
        return {"integer": math.ceil(number), "number": number, "boolean": True, "null": None}.get(
            str(kind), FILLER
        )

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            return {}
        required = schema.get("required")
        names = list(properties) if depth < 2 or not isinstance(required, list) else required
        return {
            name: self.make(properties.get(name), depth + 1)
            for name in names
            if isinstance(name, str)
        }
