"""How an OpenAI stream ends: with `[DONE]`, or with an error event.

Source: https://platform.openai.com/docs/api-reference/chat/streaming.
"""

from __future__ import annotations

import orjson

from goblin_assistant.dialects.error_bodies import openai_body
from goblin_assistant.errors import AppError
from goblin_assistant.providers.base import ProviderError

END_MARK = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keepalive\n\n"
"""A comment (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""


def error_event(error: ProviderError | AppError, correlation_id: str) -> bytes:
    """The last event of a stream that broke.

    No END_MARK follows. An SDK raises for the event; a client that waits for the mark misses it.
    """
    return b"data: " + orjson.dumps(openai_body(error, correlation_id)) + b"\n\n"
