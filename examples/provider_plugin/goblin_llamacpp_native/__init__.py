"""llama.cpp's native completion endpoint as a provider: an example with its own dialect.

Translation is pure (`build_request`, `parse_response`, `parse_event`). `UpstreamClient` handles
connections, timeouts, faults and clients that disconnect. Source of the format:
https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from goblin_assistant.config import Config, ConfigError, ProviderRow
from goblin_assistant.providers.base import (
    ChatRequest,
    ChatResponse,
    Completed,
    InvalidRequest,
    Model,
    Provider,
    StreamEvent,
    Usage,
    broken,
)
from goblin_assistant.providers.rows import timeouts_of
from goblin_assistant.providers.upstream import Timeouts, UpstreamClient

ROLES = {"system": "System", "user": "User", "assistant": "Assistant"}
OPTIONS = ("temperature", "top_p", "seed", "stop")


class LlamaCppNativeProvider(Provider):
    """A llama.cpp server, called through its native endpoint."""

    def __init__(
        self, name: str, base_url: str, timeouts: Timeouts | None = None, pool_size: int = 64
    ) -> None:
        self.name = name
        self._client = UpstreamClient(name, base_url, {}, timeouts or Timeouts(), pool_size)

    @classmethod
    def from_row(cls, name: str, row: ProviderRow, config: Config) -> LlamaCppNativeProvider:
        """Build the provider from its row; the entry point's class must have this method."""
        if row.base_url is None:
            raise ConfigError(
                [f"[providers.{name}]: needs base_url, for example http://127.0.0.1:8080"]
            )
        return cls(name, row.base_url, timeouts_of(row, config), config.threads)

    def models(self) -> Sequence[Model]:
        """The one model that the server has loaded."""
        return (Model("llama"),)

    def check(self, timeout: float = 3.0) -> None:
        """GET /health, which is free."""
        self._client.get_json("/health", timeout)

    def complete(self, request: ChatRequest) -> ChatResponse:
        """Answer in one piece."""
        body = json.dumps(build_request(self.name, request.body, stream=False)).encode()
        answer = self._client.post("/completion", body, request.call, fields=request.body)
        return parse_response(self.name, request.model, answer)

    def stream(self, request: ChatRequest) -> Iterator[StreamEvent]:
        """Answer in pieces."""
        body = json.dumps(build_request(self.name, request.body, stream=True)).encode()
        events = self._client.post_sse("/completion", body, request.call, fields=request.body)
        try:
            for block in events:  # whole events, one or more
                for event in block.replace(b"\r\n", b"\n").split(b"\n\n"):
                    if event.startswith(b"data:"):
                        chunk, completed = parse_event(self.name, request.model, event[5:])
                        yield chunk
                        if completed is not None:
                            events.finish()
                            yield completed
                            return
        finally:
            events.close()
        raise broken(f"{self.name}'s stream ended before its end", self.name)

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()


def build_request(name: str, body: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
    """Translate OpenAI's request to llama.cpp's. Raises InvalidRequest if it cannot."""
    if body.get("tools"):
        raise InvalidRequest(f"{name} does not offer tools", provider=name, param="tools")
    lines = []
    for message in body["messages"]:
        content = message.get("content")
        if not isinstance(content, str) or message.get("role") not in ROLES:
            raise InvalidRequest(f"{name} takes texts only", provider=name, param="messages")
        lines.append(f"{ROLES[message['role']]}: {content}")
    request = {"prompt": "\n".join([*lines, "Assistant:"]), "stream": stream}
    request |= {option: body[option] for option in OPTIONS if body.get(option) is not None}
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    return {**request, "n_predict": limit} if limit is not None else request


def parse_response(name: str, model: str, data: bytes) -> ChatResponse:
    """Translate llama.cpp's answer to OpenAI's."""
    answer = _object(name, data)
    usage, reason = _usage(answer), _reason(answer)
    body = {
        "id": "chatcmpl-llama",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": answer["content"]},
                "finish_reason": reason,
            }
        ],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        },
    }
    return ChatResponse(json.dumps(body).encode(), model, usage, reason)


def parse_event(name: str, model: str, data: bytes) -> tuple[bytes, Completed | None]:
    """Translate an event to an OpenAI chunk; Completed with the last event, otherwise None."""
    event = _object(name, data)
    reason = _reason(event) if event.get("stop") else None
    chunk = {
        "id": "chatcmpl-llama",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "delta": {"content": event["content"]}, "finish_reason": reason}],
    }
    completed = Completed(model, _usage(event), reason) if reason else None
    return f"data: {json.dumps(chunk)}\n\n".encode(), completed


def _object(name: str, data: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(data)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict) or not isinstance(parsed.get("content"), str):
        raise broken(f"{name}'s answer is no completion", name)
    return parsed


def _usage(answer: Mapping[str, Any]) -> Usage:
    return Usage(int(answer.get("tokens_evaluated", 0)), int(answer.get("tokens_predicted", 0)))


def _reason(answer: Mapping[str, Any]) -> str:
    return "length" if answer.get("stop_type") == "limit" else "stop"
