"""Every server that speaks OpenAI's chat API: one class, a row of data for each, and the client's bytes passed through.

What is unknown passes untouched, in both directions. The request is encoded anew only where something in it has to
change: the model's name, `stream_options.include_usage` (so that every stream is counted), the name of the token
limit. Sources: https://platform.openai.com/docs/api-reference/chat/create, .../embeddings/create, .../models/list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import quote

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from goblin_assistant.config import Config, ProviderRow
from goblin_assistant.providers.answer_limits import LIMIT_FIELDS, completion_limit
from goblin_assistant.providers.base import (
    AuthenticationFailed,
    BadResponse,
    ChatRequest,
    ChatResponse,
    Model,
    Provider,
    ProviderError,
    StreamEvent,
)
from goblin_assistant.providers.json_answers import parse_answer
from goblin_assistant.providers.openai.stream import StreamObserver
from goblin_assistant.providers.openai.wire import (
    classify,
    encode,
    error_object,
    stream_error,
    usage_in,
)
from goblin_assistant.providers.presets import PRESETS
from goblin_assistant.providers.rows import api_key_of, declared_models, options_of, timeouts_of
from goblin_assistant.providers.upstream.client import Timeouts, UpstreamClient
from goblin_assistant.providers.upstream.sse import single_events

MAX_LEARNED_MODELS = 2000

_NOT_CHAT = re.compile(
    r"(^|[-_/.])(whisper|tts|dall-e|moderation|transcribe|realtime|sora|image|davinci|babbage)([-_/.]|$)"
)
_WINDOWS = (
    "context_length",
    "context_window",
    "max_model_len",
    "max_context_length",
)  # OpenRouter and Together, Groq, vLLM, Mistral


def _blank(value: Any) -> Any:
    return None if value == "" else value  # TOML has no null


class Quirks(BaseModel):
    """How a server differs: `options` of a row. Paths may hold {model}."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    stream_options: bool = Field(
        True,
        description="false: the server refuses stream_options; a client's own are left out too",
    )
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = Field(
        None, description="the one name of the limit that it knows"
    )
    max_tokens_models: str = Field(
        ".*",
        description="regular expression: the models (from their first letter) that max_tokens_field is for",
    )
    auth_header: str = "Authorization"
    auth_prefix: str = "Bearer "
    chat_path: str = "/chat/completions"
    embeddings_path: Annotated[str | None, BeforeValidator(_blank)] = "/embeddings"
    models_path: Annotated[str | None, BeforeValidator(_blank)] = Field(
        "/models", description="empty: the server has no list of models"
    )
    learn_models: bool = Field(True, description="false: GET models is a check only")
    model_id_prefix: str = Field("", description="what the list writes before each id")
    drop_fields: tuple[str, ...] = Field(
        (), description="request fields that the server refuses; left out"
    )
    ca_bundle: str | None = Field(
        None, description="path of the CA certificates that the server's own is checked against"
    )


class OpenAICompatibleProvider(Provider):
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
    ) -> None:
        """`models` is the whole catalogue, declared; without it `check()` learns one, and `fallback_models` serve
        until then."""
        self.name = name
        self.max_concurrency = max_concurrency
        self._quirks = quirks = quirks or Quirks()
        self._declared = models is not None
        self._models = tuple(models if models is not None else fallback_models)
        self._renames = re.compile(quirks.max_tokens_models) if quirks.max_tokens_field else None
        self._static_chat = quirks.chat_path if "{model}" not in quirks.chat_path else None
        credentials = {quirks.auth_header: quirks.auth_prefix + api_key} if api_key else {}
        self._client = UpstreamClient(
            name,
            base_url,
            {**credentials, **(headers or {})},
            timeouts or Timeouts(),
            pool_size,
            query,
            classify=classify,
            verify=quirks.ca_bundle or True,
        )

    @classmethod
    def from_row(cls, name: str, row: ProviderRow, config: Config) -> OpenAICompatibleProvider:
        """From a row that has been completed by its preset. Raises ConfigError."""
        declared = declared_models(row)
        return cls(
            name,
            row.base_url or "",
            api_key=api_key_of(row, config),
            quirks=options_of(name, row, Quirks),
            models=declared,
            fallback_models=[_learned(item) for item in PRESETS[name].models]
            if name in PRESETS
            else (),
            headers=row.headers,
            query=row.query,
            timeouts=timeouts_of(row, config),
            pool_size=config.threads,
            max_concurrency=row.max_concurrency,
        )

    # -- catalogue ----------------------------------------------------------------------------
    def models(self) -> Sequence[Model]:
        """Declared, learned by the last check, or the preset's."""
        return self._models

    def serves(self, model: str) -> bool:
        """Any model unless the row declares which: the server knows best."""
        return bool(model) and (
            not self._declared or any(known.id == model for known in self._models)
        )

    def check(self, timeout: float = 3.0) -> None:
        """GET the list of models, which is free everywhere, and learn it."""
        path = self._quirks.models_path
        if path is None:
            try:
                self._client.get_json("/", timeout)
            except AuthenticationFailed:
                raise
            except ProviderError as error:
                # Any answer below 500, also one that is not JSON, proves that the server is there.
                if error.upstream_status is not None and error.upstream_status >= 500:
                    raise
                if error.upstream_status is None and not isinstance(error, BadResponse):
                    raise
            return
        listed = self._client.get_json(path, timeout)
        rows = listed.get("data") if isinstance(listed, dict) else listed  # Together: a bare list
        if not isinstance(rows, list):
            raise BadResponse(
                f"{self.name} did not answer with a list of models", provider=self.name
            )
        if self._declared or not self._quirks.learn_models:
            return
        found: dict[str, Model] = {}
        for row in rows[:MAX_LEARNED_MODELS]:
            if isinstance(row, dict) and isinstance(row.get("id"), str):
                model = _learned(row["id"].removeprefix(self._quirks.model_id_prefix), row)
                if 0 < len(model.id) <= 200 and model.id.isprintable() and model.capabilities:
                    found[model.id] = model
        if tuple(found.values()) != self._models:
            self._models = tuple(found.values())

    # -- calls --------------------------------------------------------------------------------
    def complete(self, request: ChatRequest) -> ChatResponse:
        """POST the chat; the answer's bytes go to the client as they came."""
        body = self._encode(request, stream=False)
        data = self._client.post(self._chat_path(request), body, request.call, fields=request.body)
        parsed = self._parse(data, request, "choices")
        choices = parsed["choices"]
        first = choices[0] if choices and isinstance(choices[0], dict) else {}
        reason = first.get("finish_reason")
        model = parsed.get("model")
        return ChatResponse(
            data,
            model if isinstance(model, str) else request.model,
            usage_in(parsed),
            reason if isinstance(reason, str) else None,
        )

    def stream(self, request: ChatRequest) -> Iterator[StreamEvent]:
        """POST the chat; the answer's events go on as they come."""
        body = self._encode(request, stream=True)
        options = request.body.get("stream_options")
        asked = isinstance(options, dict) and options.get("include_usage") is True
        observer = StreamObserver(
            self.name, request.body, drop_usage=not asked, progress=request.progress
        )
        feed = observer.feed
        events = self._client.post_sse(
            self._chat_path(request), body, request.call, fields=request.body
        )
        try:
            for block in events:
                if observer.plain(block):
                    yield block
                    continue
                for event in single_events(block):
                    if passed := feed(event):
                        yield passed
                    if observer.done:
                        break
                if observer.done:
                    events.finish()
                    break
            completed = observer.completed()
        finally:
            events.close()
        if not completed.model:
            completed.model = request.model
        yield completed

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
            data, model if isinstance(model, str) else request.model, usage_in(parsed)
        )

    def close(self) -> None:
        """Close idle connections."""
        self._client.close()

    # -- translation --------------------------------------------------------------------------
    def _chat_path(self, request: ChatRequest) -> str:
        return self._static_chat or _at(self._quirks.chat_path, request.model)

    def _encode(self, request: ChatRequest, *, stream: bool | None) -> bytes:
        """The request as bytes: the client's own unless something has to change. `stream` None: the operation has no
        such field."""
        source = request.body
        changes: dict[str, Any] = {}
        removed: list[str] = [name for name in self._quirks.drop_fields if name in source]
        if source.get("model") != request.model:
            changes["model"] = request.model
        if stream is not None:
            if bool(source.get("stream")) is not stream:
                changes["stream"] = stream
            options = source.get("stream_options")
            if not self._quirks.stream_options:
                if options is not None:
                    removed.append("stream_options")
            elif stream and not (
                isinstance(options, dict) and options.get("include_usage") is True
            ):
                changes["stream_options"] = (
                    {**options, "include_usage": True}
                    if isinstance(options, dict)
                    else {"include_usage": True}
                )
            self._one_limit(request, changes, removed)
        if not changes and not removed:
            return request.raw if request.raw is not None else encode(source)
        merged = {**source, **changes}
        for name in removed:
            merged.pop(name, None)
        return encode(merged)

    def _one_limit(self, request: ChatRequest, changes: dict[str, Any], removed: list[str]) -> None:
        """Of several limits only one is sent: the one that the model takes by the row, else the
        older name, which every server knows. Its own value, where it has one: no more than what was
        reserved for the request."""
        source = request.body
        present = [name for name in LIMIT_FIELDS if name in source]
        if not present:
            return
        wanted: str | None = self._quirks.max_tokens_field
        if wanted is None or self._renames is None or not self._renames.match(request.model):
            if len(present) == 1:
                return
            given = [name for name in present if source[name] is not None]
            wanted = "max_tokens" if "max_tokens" in given or not given else given[0]
        if source.get(wanted) is None and (limit := completion_limit(source)) is not None:
            changes[wanted] = limit
        removed.extend(name for name in present if name != wanted)

    def _parse(self, data: bytes, request: ChatRequest, key: str) -> dict[str, Any]:
        parsed = parse_answer(self.name, data)
        if isinstance(parsed, dict):
            if isinstance(parsed.get(key), list):
                return parsed
            if error := error_object(
                parsed
            ):  # some servers say 200 to it (OpenRouter, when the model's own server failed)
                raise stream_error(self.name, error, request.body)
        raise BadResponse(f"{self.name}'s answer is not what was asked for", provider=self.name)


def _at(path: str, model: str) -> str:
    return path.replace("{model}", quote(model, safe=""))


def _learned(model_id: str, row: Mapping[str, Any] | None = None) -> Model:
    """A model of which little more than the name is known. No capabilities: neither for chat nor embeddings."""
    lowered = model_id.lower()
    capabilities: frozenset[str] = frozenset({"chat"})
    if "embed" in lowered:
        capabilities = frozenset({"embeddings"})
    elif _NOT_CHAT.search(lowered):
        capabilities = frozenset()
    window = (
        next((row[name] for name in _WINDOWS if isinstance(row.get(name), int)), None)
        if row
        else None
    )
    return Model(model_id, capabilities, window)
