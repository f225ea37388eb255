"""Every server that speaks OpenAI's chat API: one class, and a row of data for each server.

Fields that we do not know pass untouched in both directions. request.py says when a request is
encoded anew. Sources: https://platform.openai.com/docs/api-reference/chat/create,
.../embeddings/create, .../models/list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from goblin_assistant.config import Config, ProviderRow
from goblin_assistant.providers.base import (
    AuthenticationFailed,
    BadResponse,
    ChatRequest,
    ChatResponse,
    Model,
    ProviderError,
    StreamEvent,
    broken,
)
from goblin_assistant.providers.json_answers import parse_answer
from goblin_assistant.providers.openai.messages import MessageFitter, restored
from goblin_assistant.providers.openai.models import learned, model_of
from goblin_assistant.providers.openai.quirks import Quirks
from goblin_assistant.providers.openai.request import RequestEncoder
from goblin_assistant.providers.openai.responses import ResponsesWire
from goblin_assistant.providers.openai.responses_stream import ResponsesObserver
from goblin_assistant.providers.openai.stream import StreamObserver
from goblin_assistant.providers.openai.wire import (
    choice_error,
    classify,
    error_object,
    parse_usage,
    stream_error,
    usage_in,
    wants_usage,
)
from goblin_assistant.providers.presets import PRESETS
from goblin_assistant.providers.remote import Observer, RemoteProvider
from goblin_assistant.providers.rows import arguments_of, options_of
from goblin_assistant.providers.upstream.client import UpstreamClient
from goblin_assistant.providers.upstream.errors import Timeouts
from goblin_assistant.providers.upstream.event_stream import EventStream


class OpenAICompatibleProvider(RemoteProvider):
    """A server with OpenAI's chat API. Shared by all threads."""

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        api_key: str | None = None,
        quirks: Quirks | None = None,
        models: Sequence[Model] | None = None,
        fallback_models: Sequence[Model] = (),
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, str] | None = None,
        timeouts: Timeouts | None = None,
        pool_size: int = 64,
        max_concurrency: int | None = None,
        proxy: str | None = None,
    ) -> None:
        """See RemoteProvider for the two lists of models."""
        self._quirks = quirks = quirks or Quirks()
        self._encode = RequestEncoder(quirks).encode
        form = quirks.message_form(name)
        self.cache_marks = form.cache_marks
        self._fit = MessageFitter(form).fit
        self._responses = ResponsesWire(name, quirks.drop_fields)
        if quirks.responses_path is not None:
            self.dialects = frozenset({"openai", "responses"})
        self._static_chat = quirks.chat_path if "{model}" not in quirks.chat_path else None
        credentials = {quirks.auth_header: quirks.auth_prefix + api_key} if api_key else {}
        client = UpstreamClient(
            name,
            base_url,
            {**credentials, **(headers or {})},
            timeouts or Timeouts(),
            pool_size,
            query,
            classify=classify,
            proxy=proxy,
            verify=quirks.ca_bundle or True,
        )
        super().__init__(
            name,
            client,
            models=models,
            fallback_models=fallback_models,
            max_concurrency=max_concurrency,
        )

    @classmethod
    def from_row(cls, name: str, row: ProviderRow, config: Config) -> OpenAICompatibleProvider:
        """The provider for a row that its preset has completed. Raises ConfigError."""
        known = PRESETS[name].models if name in PRESETS else ()
        return cls(
            name,
            row.base_url or "",
            quirks=options_of(name, row, Quirks),
            fallback_models=[model_of(item) for item in known],
            **arguments_of(row, config),
        )

    # -- catalogue ----------------------------------------------------------------------------
    def check(self, timeout: float = 3.0) -> None:
        """GET the list of models, which costs nothing, and learn it."""
        path = self._quirks.models_path
        if path is None:
            try:
                self._client.get_json("/", timeout)
            except AuthenticationFailed:
                raise
            except ProviderError as error:
                # Any answer below 500 proves that the server is up, even if it is not JSON.
                if error.upstream_status is not None and error.upstream_status >= 500:
                    raise
                if error.upstream_status is None and not isinstance(error, BadResponse):
                    raise
            return
        listed = self._client.get_json(path, timeout)
        rows = listed.get("data") if isinstance(listed, dict) else listed  # Together: a bare list
        rows = self._listed(rows)
        if not self._declared and self._quirks.learn_models:
            self._learn(learned(rows, self._quirks.model_id_prefix))

    # -- calls --------------------------------------------------------------------------------
    def prepare(self, request: ChatRequest) -> None:
        """Encode a request of the Responses API: it may be one that this server cannot take."""
        if request.dialect == "responses":
            request.prepared = self._responses.encode(request, stream=request.stream)

    def complete(self, request: ChatRequest) -> ChatResponse:
        """POST the chat. The answer's bytes are the response's body."""
        if request.dialect == "responses":
            data = self._post_response(request)
            return self._responses.answer(data, request)
        fitted = self._fit(request)
        body = self._encode(fitted.request, stream=False)
        data = self._client.post(self._chat_path(request), body, request.call, fields=request.body)
        parsed = self._parse(data, request, "choices")
        if fitted.names:
            data = fitted.restore(data)
        choices = parsed["choices"]
        first = choices[0] if choices and isinstance(choices[0], dict) else {}
        reason = first.get("finish_reason")
        model = parsed.get("model")
        return ChatResponse(
            data,
            model if isinstance(model, str) else request.model,
            request.progress.usage,
            reason if isinstance(reason, str) else None,
        )

    def stream(self, request: ChatRequest) -> Iterator[StreamEvent]:
        """As every provider, with the tools' own names."""
        if request.dialect == "responses":
            return super().stream(request)
        fitted = self._fit(request)
        events = super().stream(fitted.request)
        return restored(events, fitted) if fitted.names else events

    def _post_response(self, request: ChatRequest) -> bytes:
        body = request.prepared or self._responses.encode(request, stream=False)
        path = self._responses_path(request)
        return self._client.post(path, body, request.call, fields=request.body)

    def _responses_path(self, request: ChatRequest) -> str:
        return _at(self._quirks.responses_path or "", request.model)

    def _open_response(self, request: ChatRequest) -> tuple[EventStream, Observer]:
        body = request.prepared or self._responses.encode(request, stream=True)
        wire = self._responses
        observer = ResponsesObserver(self.name, request.body, wire.mark, request.progress)
        path = self._responses_path(request)
        try:
            events = self._client.post_sse(path, body, request.call, fields=request.body)
        except BadResponse as error:
            if error.answer:  # paid for, if it reports usage; or an error with status 200
                wire.parse(error.answer, request)
            raise
        return events, observer

    def _open_stream(self, request: ChatRequest) -> tuple[EventStream, Observer]:
        if request.dialect == "responses":
            return self._open_response(request)
        body = self._encode(request, stream=True)
        observer = StreamObserver(
            self.name,
            request.body,
            drop_usage=not wants_usage(request.body),
            progress=request.progress,
        )
        try:
            events = self._client.post_sse(
                self._chat_path(request), body, request.call, fields=request.body
            )
        except BadResponse as error:
            if error.answer:  # paid for, if it reports usage; or an error with status 200
                self._parse(error.answer, request, "choices")
            raise
        return events, observer

    def embed(self, request: ChatRequest) -> ChatResponse:
        """POST /embeddings."""
        path = self._quirks.embeddings_path
        if path is None:
            return super().embed(request)
        body = self._encode(request, stream=None)
        data = self._client.post(_at(path, request.model), body, request.call, fields=request.body)
        parsed = self._parse(data, request, "data")
        model = parsed.get("model")
        return ChatResponse(
            data, model if isinstance(model, str) else request.model, request.progress.usage
        )

    # -- translation --------------------------------------------------------------------------
    def _chat_path(self, request: ChatRequest) -> str:
        return self._static_chat or _at(self._quirks.chat_path, request.model)

    def _parse(self, data: bytes, request: ChatRequest, key: str) -> dict[str, Any]:
        parsed = parse_answer(self.name, data, request.progress, parse_usage)
        if isinstance(parsed, dict):
            request.progress.usage = usage_in(parsed)
            # Some servers send errors with status 200: OpenRouter, when the model's server failed.
            items = parsed.get(key)
            if parsed.get("error") or not isinstance(items, list):
                error = error_object(parsed)
            else:
                error = choice_error(items)
            if error is not None:
                raise stream_error(self.name, error, request.body)
            if isinstance(items, list) and (items or key != "choices"):
                return parsed
        elif (error := error_object(parsed)) is not None:  # Gemini's are in a list
            raise stream_error(self.name, error, request.body)
        raise broken(f"{self.name}'s answer is not what was asked for", self.name)


def _at(path: str, model: str) -> str:
    return path.replace("{model}", quote(model, safe=""))
