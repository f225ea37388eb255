"""How many tokens a request may take, without the model's tokenizer. Pure functions.

Text counts in UTF-8 bytes: names and values of the whole body, except the fields that do not reach
the model (NOT_READ).

* `estimate_prompt_tokens`, for bills and rates: 4 bytes a token. English prose has 4.4 to 4.8 in
  the tokenizers of OpenAI (o200k) and Anthropic; the field names around it make up for it.
* `most_prompt_tokens`, for reservations: 3 bytes a token. Source code (3.3 to 3.8) and Chinese
  (about 4) stay below it; long runs of base64 and rare scripts may not.
* An image counts by its width and height (usage/images.py), only where it is a content part of a
  message. In a text or among a tool's arguments it counts as text.
* Documents, sounds and films: usage/attachments.py.
* Reservations, of money and of tokens per minute, assume more for documents (usage/documents.py),
  and UNSEEN_TOKENS for each document by URL or file id and for each tool that runs at the provider.
  Together these are at most the model's context window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from goblin_assistant.providers.answer_limits import (
    CHOICE_FIELDS,
    LIMIT_FIELDS,
    choices,
    completion_limit,
)
from goblin_assistant.usage.attachments import (
    ATTACHMENT_KINDS,
    ATTACHMENT_TOKENS,
    Attachments,
    is_mark,
)
from goblin_assistant.usage.delivered import FAIR_BYTES_PER_TOKEN, estimate_completion_tokens
from goblin_assistant.usage.documents import UNSEEN_TOKENS
from goblin_assistant.usage.images import (
    DEAR_FACTOR,
    IMAGE_KINDS,
    IMAGE_TOKENS,
    MEASURED_IMAGES,
    image_in,
    image_size,
    image_tokens,
)

__all__ = [
    "ATTACHMENT_TOKENS", "IMAGE_TOKENS", "UNSEEN_TOKENS", "PromptCount", "completion_limit",
    "count_prompt", "estimate_completion_tokens", "estimate_prompt_tokens",
    "max_completion_tokens", "most_prompt_tokens",
]  # fmt: skip

CAUTIOUS_BYTES_PER_TOKEN = 3
REPLY_TOKENS = 3
"""<|start|>assistant<|message|> before each answer: OpenAI's cookbook, "How to count tokens"."""

NOT_READ = frozenset({
    "model", "stream", "stream_options", "user", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "service_tier", "speed", "logit_bias", "reasoning_effort",
    "verbosity", "modalities", "anthropic_version", "encoding_format", "tool_choice",
    *LIMIT_FIELDS, *CHOICE_FIELDS,
})  # fmt: skip
"""Fields that no provider shows to the model. Top-level numbers and booleans do not count."""

_CONTENT = ("messages", "input", "system")
_LISTS = ("content", "output")
_SPECIAL = frozenset(IMAGE_KINDS) | frozenset(ATTACHMENT_KINDS)
_SHORT = 8
"""In a list of so few items, to look whether all are numbers costs more than to count each."""
_SERVER_SIDE = ("mcp_servers", "web_search_options", "plugins")
_CLIENT_TOOLS = (
    "function", "custom", "bash_", "text_editor_", "computer_", "memory_", "tool_search",
    "namespace", "local_shell", "apply_patch",
)  # fmt: skip
"""Tools that run at the client, by the start of their type. Others may read the internet."""
_NUMBERS = frozenset({int, float})


@dataclass(frozen=True, slots=True)
class PromptCount:
    """What a walk over a request has found. `unseen` is the most tokens of its documents and of
    what the provider fetches itself."""

    text_bytes: int
    frame: int
    images: int
    most_images: int
    attachments: int
    unseen: int
    prediction: int
    """The most tokens that a predicted output costs: its unused part is billed like an answer.

    https://platform.openai.com/docs/guides/predicted-outputs
    """

    @property
    def estimate(self) -> int:
        """For bills, at least 1."""
        return self._sum(FAIR_BYTES_PER_TOKEN, self.images + self.attachments)

    def held(self, window: int = UNSEEN_TOKENS) -> int:
        """For tokens per minute. `window` is the model's context window."""
        return self._sum(FAIR_BYTES_PER_TOKEN, self.images + self._attached(window))

    def most(self, models: Sequence[str] = (), window: int = UNSEEN_TOKENS) -> int:
        """For reservations: tokens that the prompt will rarely exceed.

        Never less than the estimate. `models` are those that may be called: some count an image
        many times as high.
        """
        factor = DEAR_FACTOR if any("4o-mini" in model for model in models) else 1
        return self._sum(
            CAUTIOUS_BYTES_PER_TOKEN, self.most_images * factor + self._attached(window)
        )

    def _attached(self, window: int) -> int:
        return max(self.attachments, min(self.unseen, window))

    def _sum(self, bytes_per_token: int, others: int) -> int:
        return max(1, self.frame + others - (-self.text_bytes // bytes_per_token))


def count_prompt(body: Mapping[str, Any]) -> PromptCount:
    """Count a request once, for all that is derived from it."""
    return _Prompt().count(body)


def estimate_prompt_tokens(body: Mapping[str, Any]) -> int:
    """An estimate of the tokens of a request's prompt, at least 1."""
    return count_prompt(body).estimate


def most_prompt_tokens(
    body: Mapping[str, Any], models: Sequence[str] = (), window: int = UNSEEN_TOKENS
) -> int:
    """Tokens that a request's prompt will rarely exceed, for reservations."""
    return count_prompt(body).most(models, window)


def max_completion_tokens(body: Mapping[str, Any], default: int) -> int:
    """Tokens that all choices together may have; `default` is for each without a limit."""
    limit = completion_limit(body)
    return (default if limit is None else limit) * choices(body)


class _Prompt:
    """One walk over a body. JSON's own types are compared by `type(x) is`, which is many times as
    fast here as isinstance with the abstract classes."""

    def __init__(self) -> None:
        self._size = 0
        self._images = 0
        self._most_images = 0
        self._measured = 0
        self._attachments = Attachments()

    def count(self, body: Mapping[str, Any]) -> PromptCount:
        """All of a request."""
        for name, value in body.items():
            if name in NOT_READ:
                continue
            if name in _CONTENT and type(value) is list:
                self._contents(value)
            elif name == "metadata" and type(value) is dict:
                self._text([inner for key, inner in value.items() if key != "user_id"])
            elif type(value) in (str, dict, list):
                self._text(value)
        predicted = body.get("prediction")
        return PromptCount(
            text_bytes=self._size,
            frame=REPLY_TOKENS if "messages" in body else 0,
            images=self._images,
            most_images=self._most_images,
            attachments=self._attachments.tokens,
            unseen=self._attachments.most + UNSEEN_TOKENS * _server_tools(body),
            prediction=(
                -(-text_length(predicted) // CAUTIOUS_BYTES_PER_TOKEN)
                if predicted is not None
                else 0
            ),
        )

    def _contents(self, items: list[Any]) -> None:
        """Count messages or content parts: the places where images may be."""
        if _are_numbers(items):
            self._size += FAIR_BYTES_PER_TOKEN * len(items)
            return
        size = 0
        pending: list[Any] = list(items)
        while pending:
            item = pending.pop()
            if type(item) is not dict:
                self._text(item)
                continue
            if len(item) == 2:  # nearly every item: a message of a text, or a part of a text
                name, shown = ("role", "content") if "content" in item else ("type", "text")
                label, text = item.get(name), item.get(shown)
                if type(label) is str and type(text) is str and label not in _SPECIAL:
                    size += len(name) + len(shown)
                    size += len(label) if label.isascii() else _size(label)
                    size += len(text) if text.isascii() else _size(text)
                    continue
            kind = item.get("type")
            if type(kind) is str:
                if kind in IMAGE_KINDS and (image := image_in(item)) is not None:
                    self._image(item, *image)
                    continue
                if kind in ATTACHMENT_KINDS:
                    self._attachment(item, kind, pending)
                    continue
            for key, value in item.items():
                size += len(key)
                if type(value) is str:
                    size += len(value) if value.isascii() else _size(value)
                elif key in _LISTS and type(value) is list:
                    # A message's content, a tool's result: lists of parts themselves.
                    pending.extend(value)
                elif value is not None:
                    self._text(value)
        self._size += size

    def _image(self, part: Mapping[str, Any], name: str, value: str) -> None:
        size = image_size(value) if self._measured < MEASURED_IMAGES else None
        self._measured += 1
        self._images += image_tokens(size, most=False)
        self._most_images += image_tokens(size, most=True)
        for key, field in part.items():
            if key == name:
                if type(field) is dict:
                    for inner, text in field.items():
                        if text is not value and not is_mark(inner, text):
                            self._text(text)
            elif not is_mark(key, field):
                self._size += len(key)
                self._text(field)

    def _attachment(self, part: Mapping[str, Any], kind: str, pending: list[Any]) -> None:
        """Count a document, a sound or a film: its data by length, the rest as text."""
        source = part.get("source")
        if type(source) is dict and source.get("type") in ("text", "content"):
            # Anthropic: {"type": "document", "source": {"type": "text" | "content", ...}}
            content = source.get("content")
            if type(content) is list:
                pending.extend(content)
                source = {key: value for key, value in source.items() if key != "content"}
            self._text([{**part, "source": source}])
            return
        for text in self._attachments.add(part, kind):
            self._text(text)

    def _text(self, item: Any) -> None:
        if type(item) is str:
            self._size += _size(item)
            return
        size = 0
        # Not recursive: a client may nest its tools deeper than Python's recursion limit.
        pending: list[Any] = [item]
        while pending:
            value = pending.pop()
            kind = type(value)
            if kind is str:
                size += len(value) if value.isascii() else _size(value)
            elif kind is dict:
                for key in value:
                    size += len(key) if key.isascii() else _size(key)
                pending += value.values()
            elif kind is list:
                if len(value) > _SHORT and _are_numbers(value):
                    size += FAIR_BYTES_PER_TOKEN * len(value)
                else:
                    pending += value
            elif value is not None:
                size += FAIR_BYTES_PER_TOKEN  # a number, a truth value, an id of a token
        self._size += size


def _server_tools(body: Mapping[str, Any]) -> int:
    """How many tools run at the provider. What they find is part of the prompt."""
    tools = body.get("tools")
    found = sum(1 for name in _SERVER_SIDE if body.get(name) not in (None, [], False))
    for tool in tools if type(tools) is list else ():
        kind = tool.get("type") if type(tool) is dict else None
        if type(kind) is str and not kind.startswith(_CLIENT_TOOLS):
            found += 1
    return found


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def text_length(item: Any) -> int:
    """UTF-8 bytes of all text values in parsed JSON, without its field names."""
    length = 0
    pending: list[Any] = [item]
    while pending:
        value = pending.pop()
        kind = type(value)
        if kind is str:
            length += _size(value)
        elif kind is dict:
            pending += value.values()
        elif kind is list:
            pending += value
    return length


def _are_numbers(items: list[Any]) -> bool:
    """Ids of tokens, as an embeddings request may have them by the hundred thousand."""
    if items and type(items[0]) not in (int, float):
        return False
    return set(map(type, items)) <= _NUMBERS
