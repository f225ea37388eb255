"""One chat as it is asked for: the request, the caller's defaults filled in, and its form for each target."""

from __future__ import annotations

import fnmatch
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from goblin_assistant.accounts.users import Principal
from goblin_assistant.dialects.anthropic import request
from goblin_assistant.errors import Forbidden
from goblin_assistant.providers.base import BadResponse, Call, ChatRequest, ChatResponse, Dialect
from goblin_assistant.routing.targets import Target

DIALECT_HEADERS = ("anthropic-version", "anthropic-beta")
"""The client's headers that say what its body means; the only ones that a provider is shown."""


def _at_once(settle: Callable[[], None]) -> None:
    settle()


@dataclass(slots=True)
class Chat:
    """One request for a completion (or embeddings), checked for shape, not yet for sense.

    `body` is the parsed request in `dialect` and `raw` the client's bytes. `client_gone` answers at once, from any thread. `started` is on
    time.perf_counter()'s clock. `defer` is given what must wait until the last byte of the answer has gone.
    """

    principal: Principal
    body: dict[str, Any]
    raw: bytes
    correlation_id: str = ""
    stream: bool = False
    dialect: Dialect = "openai"
    operation: str = "chat_completion"
    headers: Mapping[str, str] = field(default_factory=dict)
    client_gone: Callable[[], bool] | None = None
    limit: tuple[int, int] | None = None
    """The caller's request limit and what is left of it, for `explain`."""
    started: float = field(default_factory=time.perf_counter)
    defer: Callable[[Callable[[], None]], None] = _at_once


@dataclass(slots=True)
class ChatResult:
    """A finished answer in the chat's dialect. `headers` says who answered and where the time went."""

    body: bytes
    headers: dict[str, str]


def apply_defaults(chat: Chat, default_model: str) -> str:
    """Fill in what the request leaves out from the caller's settings; return the model's name."""
    body, settings = chat.body, chat.principal.settings
    model = body.get("model")
    if not model:
        model = settings.get("model") or default_model
        body["model"] = model
        chat.raw = b""
    if not settings or chat.operation != "chat_completion":
        return str(model)
    # Not in Anthropic's dialect: since its API version 2026-10-21 a temperature makes a request invalid, and a setting must not.
    if (
        settings.get("temperature") is not None
        and body.get("temperature") is None
        and chat.dialect != "anthropic"
    ):
        body["temperature"] = settings["temperature"]
        chat.raw = b""
    if (
        settings.get("max_tokens") is not None
        and body.get("max_tokens") is None
        and body.get("max_completion_tokens") is None
    ):
        body["max_tokens"] = settings["max_tokens"]
        chat.raw = b""
    prompt = settings.get("system_prompt")
    if prompt:
        if chat.dialect == "anthropic":
            if not body.get("system"):
                body["system"] = prompt
                chat.raw = b""
        elif not any(
            message.get("role") in ("system", "developer") for message in body["messages"]
        ):
            body["messages"] = [{"role": "system", "content": prompt}, *body["messages"]]
            chat.raw = b""
    return str(model)


def check_allowed(principal: Principal, requested: str, targets: list[Target]) -> None:
    """Raise Forbidden for a model outside the API key's list."""
    allowed = principal.allowed_models
    if allowed is None:
        return

    # An alias may be allowed by its own name, or because everything behind it is.
    if not may_use(allowed, requested) and not all(
        may_use(allowed, target.name) or may_use(allowed, target.model) for target in targets
    ):
        raise Forbidden(
            f"this API key may not use model {requested!r}; it may use: {', '.join(sorted(allowed))}",
            param="model",
        )


def may_use(allowed: Iterable[str], name: str) -> bool:
    """Whether an API key's list of models (`openai/gpt-4o`, `openai/*`) covers a name."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in allowed)


class TargetRequests:
    """The request as each target needs it; the client's own bytes where nothing has to change."""

    def __init__(self, chat: Chat, call: Call) -> None:
        self._chat = chat
        self._call = call
        self._translated: dict[str, Any] | None = None

    def translated_for(self, target: Target) -> bool:
        """Whether the target does not speak the chat's dialect."""
        return self._chat.dialect not in target.provider.dialects

    def answer(self, target: Target, response: ChatResponse) -> bytes:
        """The target's whole answer in the chat's dialect. Raises BadResponse when it cannot be translated."""
        if not self.translated_for(target):
            return response.body
        try:
            return request.response_from_openai(response)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise BadResponse(
                f"{target.provider.name}'s answer is no chat completion",
                provider=target.provider.name,
            ) from error

    def for_target(self, target: Target) -> ChatRequest:
        """Build the request for one target."""
        chat = self._chat
        body, raw, dialect = chat.body, chat.raw or None, chat.dialect
        if self.translated_for(target):
            if self._translated is None:
                self._translated = request.request_to_openai(chat.body)
            body, raw, dialect = self._translated, None, "openai"
        if body.get("model") != target.model:
            body, raw = {**body, "model": target.model}, None
        headers: dict[str, str] = {}
        if dialect == "anthropic":
            headers = {
                name: value
                for name in DIALECT_HEADERS
                if (value := chat.headers.get(name)) is not None
            }
        return ChatRequest(target.model, body, raw, chat.stream, dialect, self._call, headers)
