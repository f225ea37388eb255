"""What another provider thought, in thinking blocks: Anthropic's clients return their signatures
unread. Pure functions.

    reasoning_content, reasoning   a thinking block; its signature begins with SIGNATURE
    reasoning_details              OpenRouter's, within that signature

Tool calls carry what they want back in their ids (dialects/carried.py), and an id that Anthropic
would refuse is carried in another one: the conversation may go on there.
Source: https://api-docs.deepseek.com/guides/thinking_mode (reasoning_content has to come back
after a tool call).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any

from goblin_assistant.dialects.carried import OWN_ID, joined_id, packed, unpacked
from goblin_assistant.providers.anthropic.foreign import SIGNATURE

_IN_IDS = re.compile(r"[a-zA-Z0-9_-]+")


def tool_use_id(given: Any, extra: Any) -> str:
    """The id of a tool_use block for a call of another provider. `extra`: its extra_content."""
    if not isinstance(given, str) or not given:
        return joined_id(f"toolu_{uuid.uuid4().hex}", extra)
    if _IN_IDS.fullmatch(given):
        return joined_id(given, extra)
    # Kimi's `functions.bash:0` comes back to Kimi as it was. Ours is unlike any other call's.
    kept = extra if isinstance(extra, dict) else {}
    return joined_id(f"toolu_{uuid.uuid4().hex}", {**kept, OWN_ID: given})


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
