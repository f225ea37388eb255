"""How many tokens a request may take, before (or without) anybody who counts them. Pure functions.

The rule, when the provider cannot count: text is counted in UTF-8 bytes, names and values of all fields that reach
the model (messages, tools, response format).
* `estimate_prompt_tokens`, for bills and rates: 4 bytes a token. English prose has 4.4 to 4.8 bytes a token in the
  tokenizers of OpenAI (o200k) and
  Anthropic; the field names around it make up for the difference.
* `most_prompt_tokens`, for reservations: 3 bytes a token. Source code (3.3 to 3.8) and Chinese (about 4 bytes, 1.3
  characters) stay below it; long runs of
  digits, base64 and rare scripts may not.
* An image is 1,600 tokens, whatever its size: Anthropic's most for a standard image (width x height / 750, scaled
  down to 1.15 megapixels), above OpenAI's 1,105
  at high detail and Gemini's 258 a tile.
* Documents and audio are 2,000 tokens or a token for 16 characters of base64, whichever is more: a scanned page has
  about 100 KB and 2,000 tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

IMAGE_TOKENS = 1600
ATTACHMENT_TOKENS = 2000
ATTACHMENT_BYTES_PER_TOKEN = 16
FAIR_BYTES_PER_TOKEN = 4
CAUTIOUS_BYTES_PER_TOKEN = 3
REPLY_TOKENS = 3  # every answer is primed with <|start|>assistant<|message|>: OpenAI's cookbook, "How to count tokens"

_FIELDS = ("messages", "system", "tools", "functions", "response_format", "output_config", "input", "prompt")
_IMAGES = frozenset({"image", "image_url", "input_image"})
_ATTACHMENTS = frozenset({"file", "document", "input_audio", "input_file", "video_url", "audio_url", "file_url"})


def estimate_prompt_tokens(body: Mapping[str, Any]) -> int:
    """Tokens of a request's prompt, as near as can be told without the model's tokenizer. At least 1."""
    return _tokens(body, FAIR_BYTES_PER_TOKEN)


def most_prompt_tokens(body: Mapping[str, Any]) -> int:
    """Tokens that a request's prompt will hardly exceed: what money is reserved for. Never less than the estimate."""
    return _tokens(body, CAUTIOUS_BYTES_PER_TOKEN)


def estimate_completion_tokens(answer: bytes) -> int:
    """Tokens of an answer whose provider did not count, by the bytes of its texts and tool calls. OpenAI or
    Anthropic."""
    try:
        parsed = orjson.loads(answer)
    except orjson.JSONDecodeError:
        return 0
    if not isinstance(parsed, Mapping):
        return 0
    choices = parsed.get("choices")
    messages = [c.get("message") for c in choices if isinstance(c, Mapping)] if isinstance(choices, list) else []
    return -(-_text_length([messages, parsed.get("content")]) // FAIR_BYTES_PER_TOKEN)


def max_completion_tokens(body: Mapping[str, Any], default: int) -> int:
    """Tokens that the answers may have, all choices together; `default` for one that has no limit."""
    limit = body.get("max_completion_tokens")
    if limit is None:
        limit = body.get("max_tokens")
    each = _positive(limit, default)
    return each * _positive(body.get("n"), 1)


def _positive(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else default


def _tokens(body: Mapping[str, Any], bytes_per_token: int) -> int:
    size = 0
    fixed = REPLY_TOKENS if "messages" in body else 0
    # A stack of its own: how deep a client nests its tools is not a matter of Python's recursion limit.
    pending: list[Any] = [body[name] for name in _FIELDS if name in body]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            if item.startswith("data:") and len(item) > 64:
                fixed += IMAGE_TOKENS if item.startswith("data:image/") else _attachment(len(item))
            else:
                size += _size(item)
        elif isinstance(item, Mapping):
            kind = item.get("type")
            if isinstance(kind, str) and kind in _IMAGES and not _is_schema(item):
                fixed += IMAGE_TOKENS
            elif isinstance(kind, str) and kind in _ATTACHMENTS and not _is_plain_text(item):
                fixed += _attachment(_text_length(item))
            else:
                size += sum(map(len, item.keys()))
                pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
        elif item is not None:
            size += FAIR_BYTES_PER_TOKEN  # a number, a truth value, an id of a token
    return max(1, fixed - (-size // bytes_per_token))


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _attachment(characters: int) -> int:
    return max(ATTACHMENT_TOKENS, -(-characters // ATTACHMENT_BYTES_PER_TOKEN))


def _is_schema(item: Mapping[str, Any]) -> bool:
    return "properties" in item


def _is_plain_text(item: Mapping[str, Any]) -> bool:
    # Anthropic: {"type": "document", "source": {"type": "text" | "content", ...}}
    source = item.get("source")
    return isinstance(source, Mapping) and source.get("type") in ("text", "content")


def _text_length(item: Any) -> int:
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
