"""Anthropic's Messages API. Requests in OpenAI's dialect are translated; in Anthropic's own dialect
the bytes pass through.

The API's version: the `anthropic-version` and `anthropic-beta` of a client that speaks Anthropic's
dialect are passed on, because they define what its body means. A translated request has version
2023-06-01. Version 2026-10-21 refuses temperature and top_p for every model, but OpenAI clients
send them and older models take them (https://platform.claude.com/docs/en/api/migration-2026-10-21).
Sources: https://platform.claude.com/docs/en/api/overview, .../api/versioning, .../api/models-list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from goblin_assistant.config import Config, ConfigError, ProviderRow
from goblin_assistant.providers.answer_limits import LIMIT_FIELDS
from goblin_assistant.providers.anthropic.errors import classify
from goblin_assistant.providers.anthropic.foreign import (
    FOREIGN_SIGNATURE,
    without_foreign_thinking,
)
from goblin_assistant.providers.anthropic.models import CATALOGUE, Traits, learned, traits_of
from goblin_assistant.providers.anthropic.observer import StreamObserver
from goblin_assistant.providers.anthropic.request import build_request
from goblin_assistant.providers.anthropic.response import (
    check_count,
    finish_reason,
    parse_message,
    to_openai,
)
from goblin_assistant.providers.anthropic.stream import Translator
from goblin_assistant.providers.base import (
    BadResponse,
    ChatRequest,
    ChatResponse,
    InvalidRequest,
    Model,
    ModelNotFound,
    StreamEvent,
    untranslatable,
)
from goblin_assistant.providers.openai.messages import Fitted, MessageFitter, restored
from goblin_assistant.providers.openai.wire import encode, wants_usage
from goblin_assistant.providers.remote import RemoteProvider
from goblin_assistant.providers.rows import arguments_of, options_of
from goblin_assistant.providers.upstream.client import UpstreamClient
from goblin_assistant.providers.upstream.errors import Timeouts
from goblin_assistant.providers.upstream.event_stream import EventStream
from goblin_assistant.providers.wire_form import MessageForm, Source

BASE_URL = "https://api.anthropic.com"
API_VERSION = "2023-06-01"
MESSAGES = "/v1/messages"
COUNT_TOKENS = "/v1/messages/count_tokens"

FORWARDED_HEADERS: Mapping[str, re.Pattern[str]] = {
    "anthropic-version": re.compile(r"\d{4}-\d{2}-\d{2}"),
    "anthropic-beta": re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,; -]{0,1023}"),
}
"""The client's headers that are passed on, and their format. Headers that name an account or
workspace are not: both are the operator's."""


_NAMES = MessageFitter(
    MessageForm(
        Source("https://platform.claude.com/docs/en/api/messages: ^[a-zA-Z0-9_-]{1,128}$"),
        refused_fields=(),
        tool_name_limit=128,
        developer_role=True,
    )
)
"""What the translation does not fit itself: tools' names."""


class Options(BaseModel):
    """`options` of a row of this kind."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    max_tokens: Annotated[
        int | None,
        Field(ge=1, description="longest answer where a client sets none; default: the model's"),
    ] = None
    drop_sampling: Annotated[
        bool,
        Field(
            description=(
                "true: leave out sampling that a model refuses, instead of refusing the request"
            )
        ),
    ] = False
    bearer: Annotated[
        bool,
        Field(description="true: send the key as Authorization: Bearer, as some gateways want it"),
    ] = False


class AnthropicProvider(RemoteProvider):
    """Anthropic, or a server that speaks its dialect. Shared by all threads."""

    dialects = frozenset({"openai", "anthropic"})
    counts_prompts = True

    def __init__(
        self,
        name: str,
        base_url: str = BASE_URL,
        *,
        api_key: str | None = None,
        options: Options | None = None,
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
        self._options = options or Options()
        self._traits: dict[str, Traits] = {}
        own = {"anthropic-version": API_VERSION}
        if api_key:
            own.update(
                {"authorization": f"Bearer {api_key}"}
                if self._options.bearer
                else {"x-api-key": api_key}
            )
        for header, value in (headers or {}).items():
            own[header.lower() if header.lower() in own else header] = value
        # The list has 20 items by default and 1,000 at most. A row's own query comes instead.
        self._list = "/v1/models" if query else "/v1/models?limit=1000"
        client = UpstreamClient(
            name,
            base_url.rstrip("/").removesuffix("/v1"),
            own,
            timeouts or Timeouts(),
            pool_size,
            query,
            classify=classify,
            proxy=proxy,
        )
        super().__init__(
            name,
            client,
            models=models,
            fallback_models=fallback_models,
            max_concurrency=max_concurrency,
        )

    @classmethod
    def from_row(cls, name: str, row: ProviderRow, config: Config) -> AnthropicProvider:
        """The provider for a row that its preset has completed. Raises ConfigError."""
        base_url = row.base_url or BASE_URL
        # With its address: NO_PROXY goes by it.
        arguments = arguments_of(row.model_copy(update={"base_url": base_url}), config)
        if arguments["api_key"] is None and base_url == BASE_URL:
            raise ConfigError(
                [
                    f"[providers.{name}]: has no key; "
                    "set api_key_env and that variable, or enabled = false"
                ]
            )
        return cls(
            name,
            base_url,
            options=options_of(name, row, Options),
            fallback_models=CATALOGUE if name == "anthropic" or base_url == BASE_URL else (),
            **arguments,
        )

    # -- catalogue ----------------------------------------------------------------------------
    def check(self, timeout: float = 3.0) -> None:
        """GET the list of models, which costs nothing, and learn it."""
        try:
            listed = self._client.get_json(self._list, timeout)
        except ModelNotFound:
            return  # a server of the same dialect without a list: it is up and accepts the key
        rows = self._listed(listed.get("data") if isinstance(listed, dict) else None)
        found = [
            item for row in rows if isinstance(row, dict) and (item := learned(row)) is not None
        ]
        self._traits = {model.id: traits for model, traits in found}
        models = tuple(model for model, _ in found)
        if models and not self._declared:
            self._learn(models)

    # -- calls --------------------------------------------------------------------------------
    def prepare(self, request: ChatRequest) -> None:
        """Translate the request, or check the headers of one that passes."""
        request.prepared = self._prepare(request, stream=request.stream)

    def complete(self, request: ChatRequest) -> ChatResponse:
        """POST the message. In Anthropic's dialect the answer's bytes are the response's body."""
        prepared = request.prepared or self._prepare(request, stream=False)
        body, headers, fitted = prepared
        data = self._client.post(MESSAGES, body, request.call, headers=headers)
        message = parse_message(self.name, data, request.progress)
        usage = request.progress.usage
        model = message.get("model")
        if not isinstance(model, str) or not model:
            model = request.model
        if request.dialect == "openai":
            try:
                data = fitted.restore(encode(to_openai(message, usage, model)))
            except RecursionError:
                raise untranslatable(
                    f"{self.name}'s answer is nested too deeply", self.name
                ) from None
        return ChatResponse(data, model, usage, finish_reason(message.get("stop_reason")))

    def stream(self, request: ChatRequest) -> Iterator[StreamEvent]:
        """As every provider, with the tools' own names."""
        if request.prepared is None:
            request.prepared = self._prepare(request, stream=True)
        fitted: Fitted = request.prepared[2]
        events = super().stream(request)
        return restored(events, fitted) if fitted.names else events

    def count_prompt(self, request: ChatRequest) -> bytes:
        """POST the request to the server's own count, which costs nothing
        (https://platform.claude.com/docs/en/api/messages-count-tokens)."""
        body, headers, _ = request.prepared or self._prepare(request, stream=False)
        data = self._client.post(COUNT_TOKENS, body, request.call, headers=headers)
        check_count(self.name, data)
        return data

    def _open_stream(self, request: ChatRequest) -> tuple[EventStream, StreamObserver]:
        body, headers, _ = request.prepared
        observer = (
            Translator(self.name, request.progress, include_usage=wants_usage(request.body))
            if request.dialect == "openai"
            else StreamObserver(self.name, request.progress)
        )
        try:
            events = self._client.post_sse(MESSAGES, body, request.call, headers=headers)
        except BadResponse as error:
            if error.answer:  # paid for, if it reports usage; or an error with status 200
                parse_message(self.name, error.answer, request.progress)
            raise
        return events, observer

    # -- translation --------------------------------------------------------------------------
    def _prepare(
        self, request: ChatRequest, *, stream: bool
    ) -> tuple[bytes, dict[str, str] | None, Fitted]:
        """The request's bytes, the client's headers, and its tools' names."""
        if request.dialect == "openai":
            fitted = _NAMES.fit(request)
            translated = build_request(
                fitted.request.body,
                request.model,
                self._traits_of(request.model),
                max_tokens=self._options.max_tokens,
                drop_sampling=self._options.drop_sampling,
                ignored=request.ignored,
            )
            if stream:
                translated["stream"] = True
            return encode(translated), None, fitted
        source, fitted = request.body, Fitted(request, {})
        changes: dict[str, Any] = {}
        if source.get("model") != request.model:
            changes["model"] = request.model
        if bool(source.get("stream")) is not stream:
            changes["stream"] = stream
        headers = self._forwarded(request.headers)
        # Limits under other names mean nothing here. A server of the same dialect must not read one
        # as max_tokens.
        others = [name for name in LIMIT_FIELDS if name != "max_tokens" and name in source]
        if foreign := bool(others):
            source = {name: value for name, value in source.items() if name not in others}
        if request.raw is None or FOREIGN_SIGNATURE in request.raw:
            source = without_foreign_thinking(source)
            foreign = foreign or source is not request.body
        if changes or foreign or request.raw is None:
            return encode({**source, **changes}), headers, fitted
        return request.raw, headers, fitted

    def _forwarded(self, headers: Mapping[str, str]) -> dict[str, str]:
        forwarded: dict[str, str] = {}
        for name, pattern in FORWARDED_HEADERS.items():
            value = headers.get(name)
            if not value:  # a client may write an empty list of betas
                continue
            if name == "anthropic-version":
                value = _one_of(value)
            if pattern.fullmatch(value) is None:
                raise InvalidRequest(f"the header {name} is not valid", provider=self.name)
            forwarded[name] = value
        return forwarded

    def _traits_of(self, model: str) -> Traits:
        return self._traits.get(model) or traits_of(model)


def _one_of(value: str) -> str:
    """A header's value once, where it was sent several times: WSGI joins them. A client and a proxy
    in front of it both set the version (RFC 9110, section 5.3, leaves equal ones to the
    recipient)."""
    first, *others = [item.strip() for item in value.split(",")]
    return first if all(item == first for item in others) else value
