"""How many tokens a request may take, without the model's tokenizer. Pure functions.

Text counts in UTF-8 bytes: names and values of the whole body, except the fields that do not reach
the model (NOT_READ).

* `estimate_prompt_tokens`, for bills and rates: 4 bytes a token. English prose has 4.4 to 4.8 in
  the tokenizers of OpenAI (o200k) and Anthropic; the field names around it make up for it.
* `most_prompt_tokens`, for reservations: 3 bytes a token. Source code (3.3 to 3.8) and Chinese
  (about 4) stay below it; long runs of base64 and rare scripts may not.
* An image counts by its width and height (usage/images.py), only where it is a content part of a
  message. In a text or among a tool's arguments it counts as text.
* PDF documents and audio are 2,000 tokens, or a token for 16 characters of base64 if that is more:
  a scanned page has about 100 KB and 2,000 tokens. Other files count as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from goblin_assistant.providers.answer_limits import (
    CHOICE_FIELDS,
    LIMIT_FIELDS,
    choices,
    completion_limit,
)
from goblin_assistant.usage.delivered import FAIR_BYTES_PER_TOKEN, estimate_completion_tokens
from goblin_assistant.usage.images import DEAR_FACTOR, IMAGE_TOKENS, image_in, image_tokens

__all__ = [
    "ATTACHMENT_TOKENS", "IMAGE_TOKENS", "completion_limit", "estimate_completion_tokens",
    "estimate_prompt_tokens", "max_completion_tokens", "most_prompt_tokens", "prediction_tokens",
]  # fmt: skip

ATTACHMENT_TOKENS = 2000
ATTACHMENT_BYTES_PER_TOKEN = 16
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
_DATA = frozenset(
    {"file", "document", "input_audio", "input_file", "video_url", "audio_url", "file_url"}
)
_MARKS = frozenset({"type", "media_type", "detail", "format", "filename", "cache_control"})
_DATA_FIELDS = frozenset({"data", "url", "file_data", "file_id", "file_url"})
_SOUNDS = frozenset({"input_audio", "audio_url", "video_url"})


def estimate_prompt_tokens(body: Mapping[str, Any]) -> int:
    """An estimate of the tokens of a request's prompt, at least 1."""
    return _Prompt(FAIR_BYTES_PER_TOKEN, most=False).tokens(body)


def most_prompt_tokens(body: Mapping[str, Any], models: Sequence[str] = ()) -> int:
    """Tokens that a request's prompt will rarely exceed, for reservations.

    Never less than the estimate. `models` are those that may be called: some count an image many
    times as high.
    """
    dear = any("4o-mini" in model for model in models)
    return _Prompt(
        CAUTIOUS_BYTES_PER_TOKEN, most=True, image_factor=DEAR_FACTOR if dear else 1
    ).tokens(body)


def max_completion_tokens(body: Mapping[str, Any], default: int) -> int:
    """Tokens that all choices together may have; `default` is for each without a limit."""
    limit = completion_limit(body)
    return (default if limit is None else limit) * choices(body)


def prediction_tokens(body: Mapping[str, Any]) -> int:
    """The most tokens that a predicted output costs: its unused part is billed like an answer.

    https://platform.openai.com/docs/guides/predicted-outputs
    """
    predicted = body.get("prediction")
    return -(-text_length(predicted) // CAUTIOUS_BYTES_PER_TOKEN) if predicted is not None else 0


class _Prompt:
    """One count of a body, as an estimate or as an upper bound."""

    def __init__(self, bytes_per_token: int, *, most: bool, image_factor: int = 1) -> None:
        self._bytes_per_token = bytes_per_token
        self._most = most
        self._image_factor = image_factor
        self._fixed = 0
        self._size = 0

    def tokens(self, body: Mapping[str, Any]) -> int:
        """All of a request."""
        self._fixed = REPLY_TOKENS if "messages" in body else 0
        for name, value in body.items():
            if name in NOT_READ:
                continue
            if name in _CONTENT and isinstance(value, list):
                self._contents(value)
            elif name == "metadata" and isinstance(value, Mapping):
                self._text([inner for key, inner in value.items() if key != "user_id"])
            elif isinstance(value, str | Mapping | list):
                self._text(value)
        return max(1, self._fixed - (-self._size // self._bytes_per_token))

    def _contents(self, items: list[Any]) -> None:
        """Count messages or content parts: the places where images may be."""
        if _are_numbers(items):
            self._size += FAIR_BYTES_PER_TOKEN * len(items)
            return
        pending: list[Any] = list(items)
        while pending:
            item = pending.pop()
            if not isinstance(item, Mapping):
                self._text(item)
                continue
            kind = item.get("type")
            rest: Mapping[str, Any] = item
            if (image := image_in(item)) is not None:
                name, value = image
                self._fixed += image_tokens(value, most=self._most) * self._image_factor
                inner = item[name]
                rest = {k: v for k, v in item.items() if k != name and not _is_mark(k, v)}
                if isinstance(inner, Mapping):
                    self._text(
                        [v for k, v in inner.items() if v is not value and not _is_mark(k, v)]
                    )
            elif isinstance(kind, str) and kind in _DATA:
                self._attachment(item, kind, pending)
                continue
            for key, value in rest.items():
                # A message's content, a tool's result: lists of parts themselves.
                if key == "content" and isinstance(value, list):
                    self._size += len(key)
                    pending.extend(value)
                else:
                    self._size += len(key)
                    self._text(value)

    def _attachment(self, part: Mapping[str, Any], kind: str, pending: list[Any]) -> None:
        """Count a document, a sound or a film: its data by length, the rest as text."""
        source = part.get("source")
        if isinstance(source, Mapping) and source.get("type") in ("text", "content"):
            # Anthropic: {"type": "document", "source": {"type": "text" | "content", ...}}
            content = source.get("content")
            if isinstance(content, list):
                pending.extend(content)
                source = {key: value for key, value in source.items() if key != "content"}
            self._text([{**part, "source": source}])
            return
        data, texts = 0, []
        for name, value in part.items():
            inner = value if isinstance(value, Mapping) else {name: value}
            for key, text in inner.items():
                if key in _DATA_FIELDS and _is_binary(text, kind):
                    data += len(text)
                elif not _is_mark(key, text):
                    texts.append(text)
        self._text(texts)
        self._fixed += max(ATTACHMENT_TOKENS, -(-data // ATTACHMENT_BYTES_PER_TOKEN))

    def _text(self, item: Any) -> None:
        size = 0
        # Not recursive: a client may nest its tools deeper than Python's recursion limit.
        pending: list[Any] = [item]
        while pending:
            value = pending.pop()
            if isinstance(value, str):
                size += _size(value)
            elif isinstance(value, Mapping):
                size += sum(map(_size, value.keys()))
                pending.extend(value.values())
            elif isinstance(value, list):
                if _are_numbers(value):
                    size += FAIR_BYTES_PER_TOKEN * len(value)
                else:
                    pending.extend(value)
            elif value is not None:
                size += FAIR_BYTES_PER_TOKEN  # a number, a truth value, an id of a token
        self._size += size


def _is_mark(name: str, value: Any) -> bool:
    """Whether a field names an image or file or says how to read it: not shown to the model."""
    return name in _MARKS and (
        name == "cache_control" or (isinstance(value, str) and len(value) <= 64)
    )


_BINARY = ("JVBERi0", "data:application/pdf;base64,", "data:audio/", "data:video/", "data:image/")


def _is_binary(text: Any, kind: str) -> bool:
    return isinstance(text, str) and (
        kind in _SOUNDS or text.startswith(_BINARY) or len(text) <= 64
    )


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def text_length(item: Any) -> int:
    """UTF-8 bytes of all text values in parsed JSON, without its field names."""
    length = 0
    pending: list[Any] = [item]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            length += _size(value)
        elif isinstance(value, Mapping):
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
    return length


def _are_numbers(items: list[Any]) -> bool:
    """Ids of tokens, as an embeddings request may have them by the hundred thousand."""
    return set(map(type, items)) <= {int, float}
