"""complete() and stream(): choose, call, record. No Flask in here.

What a chat takes, in this order, and gives back in the reverse order: its key's place, a chat slot, its key's tokens per minute, its key's money.
The cheap refusals come first. A chat that got a slot leaves a usage record, whatever becomes of it.
"""

from __future__ import annotations

import fnmatch
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from goblin_assistant import anthropic_messages, metrics
from goblin_assistant.accounts import Principal
from goblin_assistant.chat_run import ModelLabels, Run, counted, requested_tier
from goblin_assistant.config import Config
from goblin_assistant.errors import AppError, ClientGone, Forbidden, anthropic_body, openai_body
from goblin_assistant.limit_policy import RateLimits
from goblin_assistant.models import now_ms
from goblin_assistant.providers import Registry
from goblin_assistant.providers.base import (
    BadResponse,
    Call,
    CallCancelled,
    ChatRequest,
    ChatResponse,
    Completed,
    Dialect,
    ProviderError,
    StreamEvent,
)
from goblin_assistant.routing import Outcome, Router, Target, Trace
from goblin_assistant.slots import ChatSlots, KeyConcurrency
from goblin_assistant.usage import (
    UsageEntry,
    UsageStore,
    estimate_completion_tokens,
    estimate_prompt_tokens,
    max_completion_tokens,
    most_prompt_tokens,
    new_record_id,
)

logger = logging.getLogger("goblin_assistant.chat")

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
    started: float = field(default_factory=time.perf_counter)
    defer: Callable[[Callable[[], None]], None] = _at_once


@dataclass(slots=True)
class ChatResult:
    """A finished answer in the chat's dialect. `headers` says who answered and where the time went."""

    body: bytes
    headers: dict[str, str]


class ChatStream:
    """A streamed answer: iterate once, then `close()`; both are safe in any order and number.

    The first piece is there already when the object is: whatever fails before has raised. What fails later becomes an error event in the stream.
    `on_incomplete` is told the error's class name when the stream does not reach its end by our or the provider's fault.
    """

    def __init__(
        self,
        chat: Chat,
        run: Run,
        outcome: Outcome[tuple[StreamEvent, Iterator[StreamEvent]]],
        router: Router,
        translator: anthropic_messages.StreamTranslator | None,
        is_draining: Callable[[], bool],
    ) -> None:
        self.headers: dict[str, str] = {}
        self.on_incomplete: Callable[[str], None] | None = None
        self._chat = chat
        self._run = run
        self._outcome = outcome
        self._router = router
        self._translator = translator
        self._is_draining = is_draining
        self._pieces = self._generate()
        self._began = time.perf_counter()

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def _generate(self) -> Iterator[bytes]:
        run = self._run
        event, events = self._outcome.value
        completed: Completed | None = None
        translator = self._translator
        try:
            while True:
                if type(event) is bytes:
                    run.content_events += event.count(b"data:")
                    yield event if translator is None else translator.feed(event)
                else:
                    assert isinstance(event, Completed)
                    completed = event
                    break
                try:
                    event = next(events)
                except StopIteration:
                    raise BadResponse(
                        "the provider's stream ended before its end", provider=run.entry.provider
                    ) from None
            if completed.model:
                run.entry.model = completed.model
            self._end_provider_time()
            run.succeeded(completed.usage)
            if translator is not None:
                yield translator.finish(completed)
            elif self._chat.dialect == "openai":
                yield b"data: [DONE]\n\n"
        except ProviderError as error:
            error.provider = error.provider or run.entry.provider
            self._end_provider_time()
            self._router.failed_midway(error, self._outcome.target, run.trace)
            run.failed(error)
            reason = "timeout" if error.status == 504 else "provider"
            metrics.stream_incomplete_total.labels(reason).inc()
            if self.on_incomplete is not None:
                self.on_incomplete(type(error).__name__)
            yield self._error_event(error)
        except (CallCancelled, GeneratorExit) as error:
            if completed is None:  # else only the end mark was not read: the answer is whole
                self._end_provider_time()
                self._cut()
            if isinstance(error, GeneratorExit):
                raise
        except Exception as error:
            # A bug of ours: the status has gone out already, so the client is told inside the stream.
            logger.exception("stream_failed")
            self._end_provider_time()
            failure = AppError("the stream broke off; the correlation id leads to the cause in the log")
            run.failed(failure)
            metrics.stream_incomplete_total.labels("provider").inc()
            if self.on_incomplete is not None:
                self.on_incomplete(type(error).__name__)
            yield self._error_event(failure)

    def _end_provider_time(self) -> None:
        self._run.trace.provider_seconds += time.perf_counter() - self._began

    def _cut(self) -> None:
        reason = "shutdown" if self._is_draining() else "client"
        metrics.stream_incomplete_total.labels(reason).inc()
        self._run.cut(reason, "streaming")

    def _error_event(self, error: ProviderError | AppError) -> bytes:
        correlation_id = self._chat.correlation_id
        if self._chat.dialect == "anthropic":
            return b"event: error\ndata: " + orjson.dumps(anthropic_body(error, correlation_id)) + b"\n\n"
        # No [DONE] behind it: an SDK raises for the error event, and a client that counts on [DONE] sees that it is missing.
        return b"data: " + orjson.dumps(openai_body(error, correlation_id)) + b"\n\n"

    def close(self) -> None:
        """End the stream wherever it is, close the provider's connection and settle the books."""
        self._pieces.close()  # type: ignore[attr-defined]
        _, events = self._outcome.value
        close = getattr(events, "close", None)
        if close is not None:
            close()
        if self._run.answered_at is None:
            # Closed before the first piece was asked for: the generator never began, so its own handling never ran.
            self._cut()
        self._run.settle()


class ChatService:
    """Everything between a checked request and its answer. Shared by all threads."""

    def __init__(
        self,
        config: Config,
        registry: Registry,
        router: Router,
        usage: UsageStore,
        limits: RateLimits,
        is_draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self.router = router
        self.slots = ChatSlots(config.slots, config.chat_slot_wait_seconds)
        self._registry = registry
        self._usage = usage
        self._limits = limits
        self._timeout = config.timeout_total
        self.default_model = config.default_model or "echo"
        self._keys = KeyConcurrency()
        self._labels = ModelLabels()
        self._is_draining = is_draining
        for reason in ("client", "provider", "timeout", "shutdown"):
            metrics.stream_incomplete_total.labels(reason)
        for phase in ("waiting", "before_first_token", "streaming"):
            metrics.client_disconnects_total.labels(phase)
        for name in registry.providers:
            for model in [*(m.id for m in registry.get(name).models()), metrics.OTHER_MODEL]:
                self._labels.of(name, registry.label(name, model))

    def complete(self, chat: Chat) -> ChatResult:
        """Answer in one piece. Raises AppError or ProviderError."""
        run, targets, call = self._begin(chat)
        requests = _Requests(chat, call)

        def attempt(target: Target) -> ChatResponse:
            run.trying(target)
            request = requests.for_target(target)
            if chat.operation == "embeddings":
                return target.provider.embed(request)
            return target.provider.complete(request)

        outcome = self._attempt(chat, run, targets, attempt, call, phase="waiting")
        response = outcome.value
        if response.model:
            run.entry.model = response.model
        if response.usage is None and chat.operation == "chat_completion":
            run.content_events = estimate_completion_tokens(response.body)
        run.succeeded(response.usage)
        body = response.body
        if requests.translated_for(outcome.target):
            body = anthropic_messages.response_from_openai(response)
        chat.defer(run.settle)
        return ChatResult(body, self._headers(run, outcome.target))

    def stream(self, chat: Chat) -> ChatStream:
        """Answer in pieces. Raises AppError or ProviderError for whatever fails before the first one."""
        run, targets, call = self._begin(chat)
        run.entry.stream = True
        requests = _Requests(chat, call)

        def attempt(target: Target) -> tuple[StreamEvent, Iterator[StreamEvent]]:
            run.trying(target)
            events = target.provider.stream(requests.for_target(target))
            try:
                return next(events), events
            except StopIteration:
                raise BadResponse("the provider's stream was empty", provider=target.provider.name) from None

        outcome = self._attempt(chat, run, targets, attempt, call, phase="before_first_token")
        run.entry.first_token_ms = round((time.perf_counter() - chat.started) * 1000)
        run.trace.add("first_token", provider=outcome.target.provider.name)
        translator = None
        if requests.translated_for(outcome.target):
            translator = anthropic_messages.StreamTranslator(run.entry.model)
        stream = ChatStream(chat, run, outcome, self.router, translator, self._is_draining)
        stream.headers = self._headers(run, outcome.target)
        return stream

    # -- parts --------------------------------------------------------------------------------
    def _begin(self, chat: Chat) -> tuple[Run, list[Target], Call]:
        principal = chat.principal
        requested = self._apply_defaults(chat)
        targets = self.router.resolve(requested)
        self._check_allowed(principal, requested, targets)

        trace = Trace(chat.started)
        entry = UsageEntry(
            id=new_record_id(),
            created_at=now_ms(),
            correlation_id=chat.correlation_id,
            user_id=principal.user_id,
            key_id=principal.key_id,
            operation=chat.operation,
            model_requested=requested[:255],
        )
        run = Run(
            entry,
            trace,
            chat.body,
            chat.dialect,
            usage=self._usage,
            registry=self._registry,
            limits=self._limits,
            labels=self._labels,
        )
        call = Call(chat.correlation_id, time.monotonic() + self._timeout, chat.client_gone)
        taken: list[Callable[[], None]] = []
        try:
            if principal.max_concurrency is not None:
                label = principal.label
                self._keys.acquire(label, principal.max_concurrency)
                taken.append(lambda: self._keys.release(label))
            waited = self.slots.acquire(chat.client_gone)
            taken.append(self.slots.release)
            if waited:
                entry.queue_ms = round(waited * 1000)
                trace.add("slot", waited_ms=entry.queue_ms)
            if principal.tokens_per_minute is not None:
                estimate = estimate_prompt_tokens(chat.body) + (_max_tokens(chat) or 0)
                run.token_hold = self._limits.take_tokens(principal, estimate)
        except CallCancelled:
            _release(taken)
            metrics.client_disconnects_total.labels("waiting").inc()
            raise ClientGone("the client has gone") from None
        except BaseException:
            _release(taken)
            raise
        for release in taken:
            run.hold(release)
        if principal.monthly_budget_microusd is not None:
            try:
                run.reservation = self._usage.reserve(
                    entry.id,
                    principal,
                    [(target.provider.name, target.model) for target in targets],
                    _most_prompt_tokens(chat, targets),
                    self._most_completion_tokens(chat),
                    requested_tier(chat.body),
                )
            except AppError as error:
                run.failed(error)
                chat.defer(run.settle)
                raise
            except BaseException:
                run.settle()
                raise
        return run, targets, call

    def _attempt(
        self, chat: Chat, run: Run, targets: list[Target], attempt: Callable[[Target], Any], call: Call, *, phase: str
    ) -> Outcome[Any]:
        try:
            outcome = self.router.run(targets, attempt, call, run.trace)
        except CallCancelled:
            run.cut("shutdown" if self._is_draining() else "client", phase)
            chat.defer(run.settle)
            raise ClientGone("the client has gone") from None
        except (ProviderError, AppError) as error:
            if isinstance(error, ProviderError) and not error.provider:
                error.provider = run.entry.provider or targets[-1].provider.name
            run.failed(error)
            chat.defer(run.settle)
            raise
        except BaseException as error:
            run.failed(AppError(type(error).__name__))
            run.settle()
            raise
        run.reached(outcome)
        return outcome

    def _apply_defaults(self, chat: Chat) -> str:
        """Fill in what the request leaves out from the caller's settings; return the model's name."""
        body, settings = chat.body, chat.principal.settings
        model = body.get("model")
        if not model:
            model = settings.get("model") or self.default_model
            body["model"] = model
            chat.raw = b""
        if not settings or chat.operation != "chat_completion":
            return str(model)
        # Not in Anthropic's dialect: since its API version 2026-10-21 a temperature makes a request invalid, and a setting must not.
        if settings.get("temperature") is not None and body.get("temperature") is None and chat.dialect != "anthropic":
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
            elif not any(message.get("role") in ("system", "developer") for message in body["messages"]):
                body["messages"] = [{"role": "system", "content": prompt}, *body["messages"]]
                chat.raw = b""
        return str(model)

    def _most_completion_tokens(self, chat: Chat) -> int:
        if chat.operation == "embeddings":
            return 0
        return max_completion_tokens(chat.body, self._usage.default_max_tokens)

    @staticmethod
    def _check_allowed(principal: Principal, requested: str, targets: list[Target]) -> None:
        allowed = principal.allowed_models
        if allowed is None:
            return

        # An alias may be allowed by its own name, or because everything behind it is.
        if not may_use(allowed, requested) and not all(
            may_use(allowed, target.name) or may_use(allowed, target.model) for target in targets
        ):
            raise Forbidden(
                f"this API key may not use model {requested!r}; it may use: {', '.join(sorted(allowed))}", param="model"
            )

    @staticmethod
    def _headers(run: Run, target: Target) -> dict[str, str]:
        elapsed = (time.perf_counter() - run.trace.started) * 1000
        provider = run.trace.provider_seconds * 1000
        queue = run.entry.queue_ms
        timing = (
            f"queue;dur={queue}, overhead;dur={max(0.0, elapsed - provider - queue):.2f}, provider;dur={provider:.2f}"
        )
        if run.entry.first_token_ms is not None:
            timing += f", first_token;dur={run.entry.first_token_ms}"
        return {
            "Server-Timing": timing,
            "X-Goblin-Provider": target.provider.name,
            "X-Goblin-Attempts": str(run.trace.attempts),
        }


class _Requests:
    """The request as each target needs it; the client's own bytes where nothing has to change."""

    def __init__(self, chat: Chat, call: Call) -> None:
        self._chat = chat
        self._call = call
        self._translated: dict[str, Any] | None = None

    def translated_for(self, target: Target) -> bool:
        """Whether the target does not speak the chat's dialect."""
        return self._chat.dialect not in target.provider.dialects

    def for_target(self, target: Target) -> ChatRequest:
        """Build the request for one target."""
        chat = self._chat
        body, raw, dialect = chat.body, chat.raw or None, chat.dialect
        if self.translated_for(target):
            if self._translated is None:
                self._translated = anthropic_messages.request_to_openai(chat.body)
            body, raw, dialect = self._translated, None, "openai"
        if body.get("model") != target.model:
            body, raw = {**body, "model": target.model}, None
        headers: dict[str, str] = {}
        if dialect == "anthropic":
            headers = {name: value for name in DIALECT_HEADERS if (value := chat.headers.get(name)) is not None}
        return ChatRequest(target.model, body, raw, chat.stream, dialect, self._call, headers)


def may_use(allowed: Iterable[str], name: str) -> bool:
    """Whether an API key's list of models (`openai/gpt-4o`, `openai/*`) covers a name."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in allowed)


def _release(taken: list[Callable[[], None]]) -> None:
    for release in reversed(taken):
        release()


def _most_prompt_tokens(chat: Chat, targets: list[Target]) -> int:
    # Exact where every provider that may be asked can count beforehand.
    counts = [counted(target, chat.body, chat.dialect) for target in targets]
    return max((count if count is not None else most_prompt_tokens(chat.body)) for count in counts)


def _max_tokens(chat: Chat) -> int | None:
    body = chat.body
    if chat.dialect == "anthropic":
        return int(body["max_tokens"])
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if limit is None:
        return None
    return int(limit) * int(body.get("n") or 1)
