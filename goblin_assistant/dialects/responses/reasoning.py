"""Translates reasoning to an item of the Responses API, and back. Pure functions.

    reasoning_content, reasoning   the item's content: reasoning_text
    summaries of OpenRouter        the item's summary
    reasoning_details, thinking_blocks
                                   packed in `encrypted_content`, behind a prefix of our own
                                   (providers/openai/encrypted.py)

If the client asked for `encrypted_content` (`include`), it holds the text too. Such clients may
send back nothing else.
Sources: `openai.types.responses.ResponseReasoningItem` of the SDK, 3.54.0;
https://openrouter.ai/docs/use-cases/reasoning-tokens (reasoning_details).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from goblin_assistant.dialects.carried import Details, packed, unpacked
from goblin_assistant.providers.openai.encrypted import CARRIED

ENCRYPTED = "reasoning.encrypted_content"
"""The name in `include`."""


def asks_for_encrypted(body: Mapping[str, Any]) -> bool:
    """Whether a request asks for `encrypted_content`."""
    include = body.get("include")
    return isinstance(include, list) and ENCRYPTED in include


class Thoughts:
    """Collects the reasoning of one item, from one message or from many deltas."""

    __slots__ = ("blocks", "details", "texts")

    def __init__(self) -> None:
        self.texts: list[str] = []
        """Pieces of the reasoning text, in order."""
        self.details = Details()
        self.blocks: list[Any] = []

    def add_hidden(self, message: Mapping[str, Any]) -> bool:
        """Add the details and thinking blocks of a message or delta; return whether it has any."""
        details, blocks = message.get("reasoning_details"), message.get("thinking_blocks")
        self.details.add(details)
        if isinstance(blocks, list):
            self.blocks += blocks
        return bool(details or blocks)

    @property
    def summaries(self) -> list[str]:
        """The summaries among OpenRouter's details."""
        return [
            text
            for item in self.details.whole()
            if item.get("type") == "reasoning.summary"
            and isinstance(text := item.get("summary"), str)
        ]

    def item(self, item_id: str, *, encrypted: bool, status: str = "completed") -> dict[str, Any]:
        """The finished item."""
        text = "".join(self.texts)
        item: dict[str, Any] = {
            "id": item_id,
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": text} for text in self.summaries],
            "content": self._content(text),
            "status": status,
        }
        if hidden := self._hidden(text, encrypted=encrypted):
            item["encrypted_content"] = CARRIED + packed(hidden)
        return item

    def _content(self, text: str) -> list[dict[str, Any]]:
        # OpenRouter also sends a summary as text.
        shown = text and not self.summaries
        return [{"type": "reasoning_text", "text": text}] if shown else []

    def _hidden(self, text: str, *, encrypted: bool) -> dict[str, Any]:
        hidden: dict[str, Any] = {}
        if self.details:
            hidden["details"] = self.details.whole()
        if self.blocks:
            hidden["blocks"] = self.blocks
        if text and (encrypted or hidden):
            hidden["text"] = text
        return hidden


def take_back(item: Mapping[str, Any], message: dict[str, Any], texts: list[str]) -> bool:
    """Put an item's reasoning into an assistant's message, and its text into `texts`.

    Returns False if the item holds nothing that can be read here.
    """
    encrypted, content = item.get("encrypted_content"), item.get("content")
    if isinstance(encrypted, str) and encrypted:
        if not encrypted.startswith(CARRIED):
            return False
        hidden = unpacked(encrypted.removeprefix(CARRIED))
        if not isinstance(hidden, dict):
            return False
        for name, field in (("details", "reasoning_details"), ("blocks", "thinking_blocks")):
            if isinstance(kept := hidden.get(name), list):
                message.setdefault(field, []).extend(kept)
        text = hidden.get("text")
    else:
        parts = content if isinstance(content, list) else []
        text = "".join(
            part["text"]
            for part in parts
            if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
        if not text:
            return False
    if not isinstance(text, str) or not text:  # details without text
        return bool(message.get("reasoning_details") or message.get("thinking_blocks"))
    texts.append(text)
    return True
