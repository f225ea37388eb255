"""What `calls/` asks of the dialect that a client speaks: one row for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from goblin_assistant.dialects.anthropic import answer as anthropic_answer
from goblin_assistant.dialects.anthropic import defaults as anthropic_defaults
from goblin_assistant.dialects.anthropic import request as anthropic_request
from goblin_assistant.dialects.anthropic import stream as anthropic_stream
from goblin_assistant.dialects.openai import defaults as openai_defaults
from goblin_assistant.dialects.openai import stream as openai_stream
from goblin_assistant.dialects.responses import answer as responses_answer
from goblin_assistant.dialects.responses import defaults as responses_defaults
from goblin_assistant.dialects.responses import request as responses_request
from goblin_assistant.dialects.responses import stream as responses_stream
from goblin_assistant.dialects.responses import stream_failure
from goblin_assistant.errors import AppError
from goblin_assistant.providers.base import ChatResponse, Completed, Dialect, ProviderError
from goblin_assistant.providers.openai.wire import wants_usage


class StreamTranslator(Protocol):
    """Translates one stream of OpenAI's, or watches one that passes."""

    def feed(self, block: bytes) -> bytes:
        """The events for a block of whole events; b"" when it makes none."""

    def finish(self, completed: Completed) -> bytes:
        """The last events of a stream that is complete."""

    def fail(self, error: ProviderError | AppError, correlation_id: str) -> bytes:
        """The last events of a stream that broke."""


class TranslateRequest(Protocol):
    """Translates one request to OpenAI's."""

    def __call__(
        self, body: Mapping[str, Any], ignored: set[str], *, cache_marks: bool
    ) -> dict[str, Any]:
        """Adds the names of what it leaves out to `ignored`. `cache_marks`: the server reads
        Anthropic's."""


@dataclass(frozen=True, slots=True)
class Translation:
    """From a dialect to OpenAI's and back, for providers that do not speak it."""

    request: TranslateRequest
    answer: Callable[[ChatResponse, Mapping[str, Any]], bytes]
    """Takes the client's request as well."""
    stream: Callable[[str, Mapping[str, Any]], StreamTranslator]
    """Takes the model's name, and the client's request."""
    names: Mapping[str, tuple[str, ...]]
    """Fields of OpenAI's chat: what the client may have written instead, the usual one last."""


@dataclass(frozen=True, slots=True)
class ClientDialect:
    """A dialect that clients may speak. All functions are pure."""

    apply_defaults: Callable[[dict[str, Any], Mapping[str, Any]], bool]
    """Puts a user's settings into a body that leaves them out; says whether it changed."""
    error_event: Callable[[ProviderError | AppError, str], bytes]
    """The last event of a stream that broke; takes the correlation id."""
    end_mark: bytes = b""
    """What follows the last event of a complete stream."""
    keep_alive: bytes = openai_stream.KEEP_ALIVE
    """What a stream sends while it is silent. Clients ignore it."""
    headers: tuple[str, ...] = ()
    """The client's headers that say what its body means. A provider is shown no others."""
    translation: Translation | None = None
    """None: every provider speaks the dialect."""
    watcher: Callable[[], StreamTranslator] | None = None
    """For streams that pass: where the error event continues what went before it."""
    reports_usage: Callable[[Mapping[str, Any]], bool] = lambda body: True
    """Whether the stream that a request asks for reports its usage."""
    usage_path: tuple[str, ...] = ("usage",)
    """Where the usage stands in the event that reports it at the end."""


DIALECTS: Mapping[Dialect, ClientDialect] = {
    "openai": ClientDialect(
        apply_defaults=openai_defaults.apply_defaults,
        error_event=openai_stream.error_event,
        end_mark=openai_stream.END_MARK,
        reports_usage=wants_usage,
    ),
    "anthropic": ClientDialect(
        apply_defaults=anthropic_defaults.apply_defaults,
        error_event=anthropic_stream.error_event,
        keep_alive=anthropic_stream.KEEP_ALIVE,
        headers=("anthropic-version", "anthropic-beta"),
        translation=Translation(
            request=anthropic_request.request_to_openai,
            answer=lambda response, _: anthropic_answer.response_from_openai(response),
            stream=lambda model, _: anthropic_stream.StreamTranslator(model),
            names=anthropic_request.NAMES,
        ),
    ),
    "responses": ClientDialect(
        apply_defaults=responses_defaults.apply_defaults,
        error_event=stream_failure.error_event,
        translation=Translation(
            request=responses_request.request_to_openai,
            answer=responses_answer.response_from_openai,
            stream=responses_stream.StreamTranslator,
            names=responses_request.NAMES,
        ),
        watcher=stream_failure.PassedStream,
        usage_path=("response", "usage"),
    ),
}
