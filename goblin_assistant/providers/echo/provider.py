"""The embedded provider, without key, network or model. It repeats what it is told (answers.py),
and can be told to be slow or to fail (simulation.py). With it everything around a provider can be
tried and load tested for nothing.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson

from goblin_assistant.config import Config, ProviderRow
from goblin_assistant.providers.base import (
    ChatRequest,
    ChatResponse,
    Completed,
    InvalidRequest,
    Model,
    Provider,
    StreamEvent,
    Usage,
)
from goblin_assistant.providers.echo.answers import (
    MAX_CHOICES,
    EchoReply,
    answer,
    embeddings,
    prompt_tokens,
)
from goblin_assistant.providers.echo.simulation import (
    Simulation,
    SimulationOptions,
    wait,
    wait_until,
)
from goblin_assistant.providers.openai.wire import wants_usage
from goblin_assistant.providers.rows import declared_models, options_of

ECHO_MODEL = Model("echo", frozenset({"chat", "embeddings", "tools", "vision"}))


class EchoProvider(Provider):
    """Answers by itself. Shared by all threads."""

    def __init__(
        self,
        name: str = "echo",
        options: SimulationOptions | None = None,
        *,
        models: Sequence[Model] | None = None,
        max_concurrency: int | None = None,
    ) -> None:
        self.name = name
        self.max_concurrency = max_concurrency
        self._models = tuple(models) if models else (ECHO_MODEL,)
        self._simulation = Simulation(name, options)

    @classmethod
    def from_row(cls, name: str, row: ProviderRow, config: Config) -> EchoProvider:
        """The provider for a row of kind echo, with SimulationOptions. Raises ConfigError."""
        return cls(
            name,
            options_of(name, row, SimulationOptions),
            models=declared_models(row),
            max_concurrency=row.max_concurrency,
        )

    def models(self) -> Sequence[Model]:
        """`echo`, or the models that the row declares."""
        return self._models

    def count_tokens(self, body: Mapping[str, Any]) -> int | None:
        """The number of words in the messages (answers.py)."""
        return prompt_tokens(body) if isinstance(body.get("messages"), list) else None

    def check(self, timeout: float = 3.0) -> None:
        """Always succeeds: only calls have simulated faults."""

    def complete(self, request: ChatRequest) -> ChatResponse:
        """Answer in one piece."""
        plan = self._simulation.plan(stream=False)
        if plan.wait:
            wait(plan.wait, request.call, self.name)
        if plan.error is not None:
            raise plan.error
        made = answer(request.body, plan.length)
        if plan.pace:
            wait(plan.pace * made.completion_tokens, request.call, self.name)
        choices = _choices(request.body)
        usage = Usage(prompt_tokens(request.body), made.completion_tokens * choices)
        body = {
            "id": _id(request),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": request.model,
            "choices": [
                {
                    "index": index,
                    "message": _message(made),
                    "logprobs": None,
                    "finish_reason": made.finish_reason,
                }
                for index in range(choices)
            ],
            "usage": _usage(usage),
        }
        return ChatResponse(orjson.dumps(body), request.model, usage, made.finish_reason)

    def stream(self, request: ChatRequest) -> Iterator[StreamEvent]:
        """Answer word by word."""
        plan = self._simulation.plan(stream=True)
        if plan.wait:
            wait(plan.wait, request.call, self.name)
        if plan.error is not None and plan.cut_at is None:
            raise plan.error
        made = answer(request.body, plan.length)
        choices = _choices(request.body)
        usage = Usage(prompt_tokens(request.body), made.completion_tokens * choices)
        cut = int(len(made.words) * plan.cut_at) if plan.cut_at is not None else -1
        head = {
            "id": _id(request),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": request.model,
        }
        # The constant part of a chunk is encoded once, so that a load test measures the gateway and
        # not this provider.
        prefix = b"data: " + orjson.dumps(head)[:-1] + b',"choices":[{"index":'
        due = time.monotonic()
        for index in range(choices):
            opening = b"%b%d," % (prefix, index)
            yield (
                opening + b'"delta":{"role":"assistant","content":""},'
                b'"logprobs":null,"finish_reason":null}]}\n\n'
            )
            for position, word in enumerate(made.words):
                if plan.error is not None and position >= cut:
                    raise plan.error
                if plan.pace:
                    due += plan.pace
                    wait_until(due, request.call, self.name)
                yield b'%b"delta":{"content":%b},"logprobs":null,"finish_reason":null}]}\n\n' % (
                    opening,
                    orjson.dumps(word),
                )
            for event in _tool_call_deltas(made):
                yield b'%b"delta":%b,"logprobs":null,"finish_reason":null}]}\n\n' % (opening, event)
            if plan.error is not None:
                raise plan.error
            yield b'%b"delta":{},"logprobs":null,"finish_reason":%b}]}\n\n' % (
                opening,
                orjson.dumps(made.finish_reason),
            )
        request.progress.usage, request.progress.final = usage, True
        if wants_usage(request.body):
            yield (
                b"data: " + orjson.dumps({**head, "choices": [], "usage": _usage(usage)}) + b"\n\n"
            )
        yield Completed(request.model, usage, made.finish_reason)

    def embed(self, request: ChatRequest) -> ChatResponse:
        """Vectors that depend only on the words."""
        plan = self._simulation.plan(stream=False)
        if plan.wait:
            wait(plan.wait, request.call, self.name)
        if plan.error is not None:
            raise plan.error
        vectors, tokens = embeddings(request.body)
        body = {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": v}
                for index, v in enumerate(vectors)
            ],
            "model": request.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        return ChatResponse(orjson.dumps(body), request.model, Usage(tokens, 0))


def _id(request: ChatRequest) -> str:
    return f"chatcmpl-{request.call.correlation_id or secrets.token_hex(12)}"


def _choices(body: Mapping[str, Any]) -> int:
    n = body.get("n")
    if n is None:
        return 1
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= MAX_CHOICES:
        raise InvalidRequest(f"n: 1 to {MAX_CHOICES}", provider="echo", param="n")
    return n


def _message(made: EchoReply) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": made.text if not made.tool_calls else None,
        "refusal": None,
    }
    if made.tool_calls:
        message["tool_calls"] = [
            {
                "id": _call_id(position),
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }
            for position, (name, arguments) in enumerate(made.tool_calls)
        ]
    return message


def _tool_call_deltas(made: EchoReply) -> Iterator[bytes]:
    """Name first, then the arguments in two pieces, so that a client has to join them, as with real
    providers."""
    for position, (name, arguments) in enumerate(made.tool_calls):
        function = {"name": name, "arguments": ""}
        yield orjson.dumps(
            {
                "tool_calls": [
                    {
                        "index": position,
                        "id": _call_id(position),
                        "type": "function",
                        "function": function,
                    }
                ]
            }
        )
        half = len(arguments) // 2
        for piece in (arguments[:half], arguments[half:]):
            yield orjson.dumps(
                {"tool_calls": [{"index": position, "function": {"arguments": piece}}]}
            )


def _call_id(position: int) -> str:
    return f"call_echo_{position}"


def _usage(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
