"""What another provider thought, in thinking blocks: Anthropic's clients return their signatures
unread. Pure functions.

    reasoning_content, reasoning   a thinking block; its signature begins with SIGNATURE
    reasoning_details              OpenRouter's, within that signature

Tool calls carry what they want back in their ids (dialects/carried.py).
Source: https://api-docs.deepseek.com/guides/thinking_mode (reasoning_content has to come back
after a tool call).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from goblin_assistant.dialects.carried import packed, unpacked
from goblin_assistant.providers.anthropic.foreign import SIGNATURE


def signature_for(details: Any) -> str:
    """The signature of a thinking block that is not Anthropic's. `details`: OpenRouter's
    reasoning_details, if any."""
    return SIGNATURE + (packed({"reasoning_details": details}) if details else "")


def take_back(block: Mapping[str, Any], message: dict[str, Any], texts: list[str]) -> bool:
    """Put a thinking block that another provider thought into an assistant's message, and its text
    into `texts`. False: it is Anthropic's own, or redacted."""
    text, signature = block.get("thinking"), block.get("signature")
    if not isinstance(text, str) or not isinstance(signature, str):
        return False
    if signature and not signature.startswith(SIGNATURE):
        return False
    if text:
        texts.append(text)
    kept = unpacked(signature.removeprefix(SIGNATURE))
    if isinstance(kept, dict) and isinstance(kept.get("reasoning_details"), list):
        message.setdefault("reasoning_details", []).extend(kept["reasoning_details"])
    return True
