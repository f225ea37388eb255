"""One chat as it is asked for: the request, the caller's defaults, and its form for each target."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from goblin_assistant.accounts.users import Principal
from goblin_assistant.dialects.table import DIALECTS, Translation
from goblin_assistant.errors import ValidationFailed
from goblin_assistant.providers.base import (
    Call,
    ChatRequest,
    ChatResponse,
    Dialect,
    ProviderError,
    region_of,
    tier_of,
    untranslatable,
)
from goblin_assistant.routing.targets import Target
from goblin_assistant.tracing.context import TraceContext
from goblin_assistant.tracing.spans import RequestSpans
from goblin_assistant.usage.estimates import PromptCount, count_prompt


def _at_once(settle: Callable[[], None]) -> None:
    settle()


def _not_begun() -> bool:
    return False


@dataclass(slots=True)
class Chat:
    """One request for a completion, embeddings or a count of tokens, of which only the shape was
    checked.

    `body` is the parsed request in `dialect`. `raw` is the client's bytes, or b"" once `body` was
    changed. `held_limit`: money or tokens are held for the limit in `body`. `client_gone` answers
    at once and from any thread. `begun` says whether the response's status, 200, was sent before
    the answer was there; if not, it is not sent any more without one. `started` is on
    time.perf_counter()'s clock. `defer` takes what has to wait for the answer's last byte.
    """

    principal: Principal
    body: dict[str, Any]
    raw: bytes
    correlation_id: str = ""
    trace: TraceContext | None = None
    spans: RequestSpans | None = None
    stream: bool = False
    dialect: Dialect = "openai"
    operation: str = "chat_completion"
    headers: Mapping[str, str] = field(default_factory=dict)
    client_gone: Callable[[], bool] | None = None
    held_limit: bool = False
    tags: str | None = None
    """For the usage record, in the form of usage/tags.py."""
    limit: tuple[int, int] | None = None
    """The caller's request limit and what is left of it, for `explain`."""
    started: float = field(default_factory=time.perf_counter)
    defer: Callable[[Callable[[], None]], None] = _at_once
    begun: Callable[[], bool] = _not_begun
    _prompt: PromptCount | None = field(default=None, init=False, repr=False)

    @property
    def prompt(self) -> PromptCount:
        """The count of the prompt, made once. Read it after `apply_defaults`."""
        if self._prompt is None:
            self._prompt = count_prompt(self.body)
        return self._prompt


@dataclass(slots=True)
class ChatResult:
    """A finished answer in the chat's dialect. `headers` says who answered, and the times."""

    body: bytes
    headers: dict[str, str]


def apply_defaults(chat: Chat, default_model: str) -> str:
    """Fill in what the request leaves out from the caller's settings; return the model's name.

    Raises ValidationFailed if neither the request nor a default names a model.
    """
    body, settings = chat.body, chat.principal.settings
    model = body.get("model")
    if not model:
        model = body["model"] = settings.get("model") or default_model
        if not model:
            raise ValidationFailed(
                "model: name one, there is no default here. GET /v1/models lists what you may use; "
                "PUT /settings/ sets your default, GOBLIN_DEFAULT_MODEL that of the instance",
                param="model",
            )
        chat.raw = b""
    if (
        settings
        and chat.operation == "chat_completion"
        and DIALECTS[chat.dialect].apply_defaults(body, settings)
    ):
        chat.raw = b""
    if chat.operation == "chat_completion":
        _without_no_limit(chat)
    return str(model)


def _without_no_limit(chat: Chat) -> None:
    """Leave out a limit of -1, which says that there is none. Most servers refuse it."""
    body = chat.body
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        if body.get(name) == -1:
            del body[name]
            chat.raw = b""


def exact_prompt_tokens(chat: Chat, target: Target) -> int | None:
    """The prompt's tokens as the target's provider will count them.

    None: it cannot tell beforehand, or will see a translation.
    """
    if chat.dialect not in target.provider.dialects:
        return None
    return target.provider.count_tokens(chat.body)


def requested_tier(body: Mapping[str, Any]) -> str:
    """The service tier that a request asks for. It may be charged for less, never for more."""
    return tier_of(body.get("service_tier")) or tier_of(body.get("speed"))


def requested_region(chat: Chat, target: Target) -> str:
    """The region that a chat asks of a target, if it has a price of its own. Only Anthropic's
    dialect has the field."""
    if chat.dialect != "anthropic" or chat.dialect not in target.provider.dialects:
        return ""
    return region_of(chat.body.get("inference_geo"))


def may_hold_audio(chat: Chat) -> bool:
    """Whether sounds may be in a chat's prompt or answer: they have prices of their own."""
    body, prompt = chat.body, chat.prompt
    asked = body.get("modalities")
    return bool(
        prompt.attachments
        or prompt.unseen
        or body.get("audio")
        or (isinstance(asked, list) and "audio" in asked)
    )


def translation_for(chat: Chat, target: Target) -> Translation | None:
    """How to talk to a target that does not speak the chat's dialect; None: it does."""
    if chat.dialect in target.provider.dialects:
        return None
    return DIALECTS[chat.dialect].translation


def name_as_sent(error: ProviderError, chat: Chat) -> None:
    """Have an error name the field that the client wrote, not the one that it was translated to."""
    sent, translation = error.param, DIALECTS[chat.dialect].translation
    if sent is None or sent in chat.body or translation is None:
        return
    names = translation.names.get(sent, ())
    written = next((name for name in names if name.partition(".")[0] in chat.body), None)
    if written is None:
        error.param = None
        return
    error.param = written.partition(".")[0]
    # Positions within it are others after a translation.
    place = re.match(rf"{re.escape(sent)}(?:\.\w+|\[\d+\])*", str(error))
    if place is not None:
        error.args = (written + str(error)[place.end() :],)


class TargetRequests:
    """The request as each target needs it; the client's own bytes where nothing has to change."""

    def __init__(self, chat: Chat, call: Call) -> None:
        self._chat = chat
        self._call = call
        self._translated: dict[bool, tuple[dict[str, Any], set[str]]] = {}
        """By whether the server reads cache marks: the request, and what it leaves out."""
        self._last: ChatRequest | None = None
        self._prepared: dict[str, ChatRequest] = {}

    @property
    def ignored(self) -> set[str]:
        """Names of what the last target's request leaves out."""
        return self._last.ignored if self._last is not None else set()

    def prepare(self, target: Target) -> None:
        """Make the request for one target. Raises BadRequest or InvalidRequest for a form that it
        cannot take."""
        if target.name in self._prepared:
            return
        request = self._for_target(target)
        if self._chat.operation != "embeddings":
            target.provider.prepare(request)
        self._prepared[target.name] = request

    def for_target(self, target: Target) -> ChatRequest:
        """The request for one attempt. Raises BadRequest for what cannot be translated."""
        request = self._prepared.pop(target.name, None)
        self._last = request if request is not None else self._for_target(target)
        return self._last

    def _for_target(self, target: Target) -> ChatRequest:
        chat = self._chat
        body, raw, dialect = chat.body, chat.raw or None, chat.dialect
        headers: dict[str, str] = {}
        ignored: set[str] = set()
        if (translation := translation_for(self._chat, target)) is not None:
            marks = target.provider.cache_marks
            if marks not in self._translated:
                left_out: set[str] = set()
                translated = translation.request(chat.body, left_out, cache_marks=marks)
                self._translated[marks] = translated, left_out
            body, left_out = self._translated[marks]
            raw, dialect, ignored = None, "openai", set(left_out)
        else:
            for name in DIALECTS[dialect].headers:
                if (value := chat.headers.get(name)) is not None:
                    headers[name] = value
        if body.get("model") != target.model:
            body, raw = {**body, "model": target.model}, None
        return ChatRequest(
            target.model,
            body,
            raw,
            chat.stream,
            dialect,
            self._call,
            headers,
            held_limit=chat.held_limit,
            ignored=ignored,
        )

    def answer(self, target: Target, response: ChatResponse) -> bytes:
        """The target's whole answer in the chat's dialect.

        Raises BadResponse, as `untranslatable`, for an answer that cannot be translated.
        """
        if (translation := translation_for(self._chat, target)) is None:
            return response.body
        try:
            return translation.answer(response, self._chat.body)
        except (
            AttributeError,
            IndexError,
            KeyError,
            RecursionError,
            TypeError,
            ValueError,
        ) as error:
            name = target.provider.name
            raise untranslatable(f"{name}'s answer cannot be translated", name) from error
