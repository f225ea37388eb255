"""Estimates the tokens of a request for the count_tokens route. Pure functions.

Not used for money: estimates.py is faster and counts what billing needs. Clients compact a
conversation when this number is high. If it is too low, the conversation outgrows the model's
window. So the estimate should be between 1 and 1.5 times the count of OpenAI's tokenizer o200k.
tests/usage/corpus checks this.

Tokenizers split text into words, numbers, punctuation and whitespace, and split long words again.
PIECE does the same, and each piece counts as one token. The letters per piece depend on the script:
o200k has tokens for whole English words, but for hardly any Thai ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from goblin_assistant.providers.openai.wire import encode
from goblin_assistant.usage.attachments import ATTACHMENT_KINDS
from goblin_assistant.usage.estimates import count_prompt
from goblin_assistant.usage.images import IMAGE_KINDS

MESSAGE_TOKENS = 5
"""Role and separators of a message, in the chat templates of OpenAI and of open models."""
REPLY_TOKENS = 3

PIECE = re.compile(
    r"(?<=[0-9])[A-Za-z]{1,2}|[A-Za-z]{1,2}(?=[0-9])"  # hashes, ids
    r"|(?<=[a-z]{5})[a-z]{1,3}"  # the rest of a long word
    r"|[A-Z]?[a-z\u1e00-\u1eff]{1,5}"
    r"|[A-Z]{1,4}"
    r"|[0-9]{1,3}"
    r"|\n\s*"
    r"|[ \t]{2,}"
    r"|[!-/:-@\[-`{-~]{1,3}"
    r"|[\u00c0-\u024f][a-z\u1e00-\u1eff]{0,3}"  # Latin letters with marks
    r"|[\u0370-\u03ff\u1f00-\u1fff]{1,2}"  # Greek
    r"|[\u0400-\u052f]{1,3}"  # Cyrillic
    r"|[\u0590-\u05ff]{1,2}"  # Hebrew
    r"|[\u0600-\u06ff\u0750-\u077f]{1,3}"  # Arabic, Persian
    r"|[\u0900-\u0dff]{1,3}"  # Devanagari, Bengali, Tamil and their kin
    r"|[\u0530-\u058f\u10a0-\u10ff]{1,3}"  # Armenian, Georgian
    r"|[\u1000-\u109f]{1,2}"  # Burmese
    r"|[\u0e00-\u0e7f]{1,2}"  # Thai
    r"|[^\x00-\x7f]"
)
ENCODED = re.compile(r"(?=[^\W_]*[A-Z])[A-Za-z0-9+/]{40,}")
"""Base64 data: its letters do not form words."""
RARE = re.compile(
    r"[^\x00-\u06ff\u0900-\u0dff\u0e00-\u0e7f\u1000-\u10ff\u1e00-\u1fff\u2010-\u205f"
    r"\u3000-\u30ff\u4e00-\u9fff\uac00-\ud7af\uff00-\uffef]"
)
"""Characters that may need several tokens each: symbols, emoji, other scripts."""
RARE_TOKENS = 1
"""Added for each rare character, on top of the token of its piece."""
AT_ONCE = 65536
"""Characters in one regex call, during which no other thread runs."""
_SPECIAL = frozenset(IMAGE_KINDS) | frozenset(ATTACHMENT_KINDS)


def text_tokens(text: str) -> int:
    """The tokens of a text."""
    found = 0
    for start in range(0, len(text), AT_ONCE):
        part = text[start : start + AT_ONCE]
        found += len(PIECE.findall(part))
        found += sum(len(run) for run in ENCODED.findall(part)) // 5
        if not part.isascii():
            found += RARE_TOKENS * len(RARE.findall(part))
    return found + found // 16


def estimate_tokens(body: Mapping[str, Any]) -> int:
    """The tokens of a request in Anthropic's dialect."""
    messages = body["messages"]
    turns = [body["system"], *_contents(messages)] if body.get("system") else _contents(messages)
    tokens = REPLY_TOKENS + sum(_turn_tokens(content) for content in turns)
    if tools := body.get("tools"):
        tokens += MESSAGE_TOKENS + sum(MESSAGE_TOKENS + _json_tokens(tool) for tool in tools)
    prompt = count_prompt(body)
    return tokens + prompt.images + prompt.attachments


def _contents(messages: list[dict[str, Any]]) -> list[Any]:
    return [message["content"] for message in messages]


def _turn_tokens(content: Any) -> int:
    if isinstance(content, str):
        return MESSAGE_TOKENS + text_tokens(content)
    return MESSAGE_TOKENS + sum(_block_tokens(block) for block in content)


def _block_tokens(block: Mapping[str, Any]) -> int:
    kind, text = block.get("type"), block.get("text")
    if kind == "text" and isinstance(text, str):
        return 1 + text_tokens(text)
    if kind == "tool_result":
        content = block.get("content")
        return _turn_tokens(content) if isinstance(content, str | list) else MESSAGE_TOKENS
    if kind == "tool_use":
        return MESSAGE_TOKENS + _json_tokens(
            {"name": block.get("name"), "input": block.get("input")}
        )
    if kind in _SPECIAL:
        return _document_tokens(block)
    return _json_tokens(block)


def _json_tokens(value: Any) -> int:
    return text_tokens(encode(value).decode())


def _document_tokens(block: Mapping[str, Any]) -> int:
    """The tokens of a document's text. count_prompt counts images and other documents."""
    source = block.get("source")
    if not isinstance(source, dict) or source.get("type") not in ("text", "content"):
        return 0
    text, content = source.get("data"), source.get("content")
    if isinstance(text, str):
        return MESSAGE_TOKENS + text_tokens(text)
    return _turn_tokens(content) if isinstance(content, str | list) else 0
