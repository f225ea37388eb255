"""What a chat takes before a provider is called.

In this order, and given back in reverse: its key's place, a chat slot, its key's tokens per minute,
its key's money. The cheap refusals come first. A chat that was admitted leaves a usage record,
however it ends; one that was refused before leaves none.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from goblin_assistant import metrics
from goblin_assistant.calls.access import ModelAccess
from goblin_assistant.calls.other_models import compacts, fallbacks, other_models
from goblin_assistant.calls.request import (
    Chat,
    apply_defaults,
    exact_prompt_tokens,
    may_hold_audio,
    requested_region,
    requested_tier,
)
from goblin_assistant.calls.settlement import Books, Settlement
from goblin_assistant.calls.tables import Tables
from goblin_assistant.errors import ClientGone
from goblin_assistant.providers.answer_limits import (
    LIMIT_FIELDS,
    choices,
    completion_limit,
    limit_in,
)
from goblin_assistant.providers.base import Call, CallCancelled
from goblin_assistant.rate_limits.own_limits import TokenHold
from goblin_assistant.rate_limits.policy import RateLimits
from goblin_assistant.routing.slots import ChatSlots, KeyConcurrency
from goblin_assistant.routing.targets import Target
from goblin_assistant.usage.checks import context_window
from goblin_assistant.usage.estimates import UNSEEN_TOKENS, max_completion_tokens
from goblin_assistant.usage.records import UsageEntry


class Admission:
    """Admits chats or refuses them. Shared by all threads.

    `timeout` is in seconds, for a whole call with the wait for its slot and all attempts.
    """

    def __init__(
        self,
        tables: Tables,
        books: Books,
        limits: RateLimits,
        slots: ChatSlots,
        *,
        access: ModelAccess,
        timeout: float,
    ) -> None:
        self._tables = tables
        self._books = books
        self._limits = limits
        self._slots = slots
        self._keys = KeyConcurrency()
        self._access = access
        self._timeout = timeout

    def admit(self, chat: Chat) -> Settlement:
        """Check a chat and take all but its money. Raises AppError, and then holds nothing."""
        principal = chat.principal
        requested = apply_defaults(chat, self._access.default_model)
        resolver, prices = self._tables.current
        targets = self._access.check(
            principal,
            requested,
            resolver.resolve(requested),
            named=resolver.is_name(requested),
        )
        if principal.allowed_models is not None:
            others = other_models(chat.body)
            self._access.check_others(principal, _as_written(chat, targets), others)
        tokens, budget = principal.smallest_tokens_per_minute, principal.monthly_budget_microusd
        if tokens is not None or budget is not None:
            self._limit_answer(chat, targets)
        deadline = time.monotonic() + self._timeout
        call = Call(chat.correlation_id, deadline, chat.client_gone, trace=chat.trace)
        settlement = Settlement(self._books, prices, chat, call, targets, requested)
        if chat.limit is not None:
            settlement.trace.add("limit", limit=chat.limit[0], remaining=chat.limit[1])
        try:
            self._take(settlement)
            if chat.spans is not None:
                chat.spans.expect_part()
        except BaseException as error:
            settlement.held.close()
            if isinstance(error, CallCancelled):
                metrics.client_disconnects_total.labels("waiting").inc()
                raise ClientGone("the client has gone") from None
            raise
        return settlement

    def _take(self, settlement: Settlement) -> None:
        chat, held = settlement.chat, settlement.held
        principal = chat.principal
        if principal.max_concurrency is not None:
            label = principal.shared_label
            self._keys.acquire(label, principal.max_concurrency)
            held.callback(self._keys.release, label)
        waited = self._slots.acquire(chat.client_gone)
        held.callback(self._slots.release)
        if waited:
            settlement.entry.queue_ms = round(waited * 1000)
            settlement.trace.add("slot", waited_ms=settlement.entry.queue_ms)
        if principal.smallest_tokens_per_minute is not None:
            tokens = _held_prompt_tokens(chat, settlement.targets)
            tokens += self._most_completion_tokens(chat, _own_fields(chat, settlement.targets))
            hold = self._limits.own.take_tokens(principal, tokens)
            held.callback(self._settle_tokens, hold, settlement.entry)

    def _settle_tokens(self, hold: TokenHold | None, entry: UsageEntry) -> None:
        self._limits.own.settle_tokens(hold, entry.prompt_tokens + entry.completion_tokens)

    def reserve(self, settlement: Settlement) -> None:
        """Hold the money of an admitted chat. Raises BudgetExceeded, PriceUnknown, Unavailable."""
        chat = settlement.chat
        if chat.principal.monthly_budget_microusd is None:
            return
        targets = settlement.targets
        own = _own_fields(chat, targets)
        summary = compacts(own)
        settlement.reservation = self._books.usage.reserve(
            settlement.entry.id,
            chat.principal,
            _candidates(chat, targets),
            _most_prompt_tokens(chat, targets) * (2 if summary else 1),
            # Anthropic sets no limit on a summary; one in its documentation has 3,500 tokens.
            self._most_completion_tokens(chat, own)
            + (self._books.usage.default_max_tokens if summary else 0),
            _dearest_tier(chat.body, own) if chat.operation == "chat_completion" else "",
            region=max(requested_region(chat, target) for target in targets),
            audio=may_hold_audio(chat),
            prices=settlement.prices,
        )

    def _limit_answer(self, chat: Chat, targets: Sequence[Target]) -> None:
        """Leave one limit in a request whose caller has a budget or tokens per minute: the largest
        that it has, else the default. It is held for the answer, and a row sends no other.

        Anthropic's dialect has one name, and requires it. The Responses API has one too.
        """
        if chat.operation != "chat_completion" or chat.dialect == "anthropic":
            return
        chat.held_limit = True
        body = chat.body
        newer = (
            body.get("max_tokens") is None
            and limit_in(body.get("max_completion_tokens")) is not None
        )
        name = "max_completion_tokens" if newer else "max_tokens"
        if chat.dialect == "responses":
            name = "max_output_tokens"
        given = completion_limit(body)
        # 0 is "no limit" to some servers.
        limit = max(1, given) if given is not None else self._default_limit(chat, targets)
        if type(body.get(name)) is int and body[name] == limit:
            present = [field for field in LIMIT_FIELDS if field in body]
            if len(present) == 1:
                return
        for field in LIMIT_FIELDS:
            body.pop(field, None)
        body[name] = limit
        chat.raw = b""

    def _default_limit(self, chat: Chat, targets: Sequence[Target]) -> int:
        limit, body = self._books.usage.default_max_tokens, chat.body
        most = chat.principal.smallest_tokens_per_minute
        if most is not None:
            room = most - _held_prompt_tokens(chat, targets) - chat.prompt.prediction
            limit = max(1, min(limit, room // choices(body)))
        return limit

    def _most_completion_tokens(self, chat: Chat, own: Mapping[str, Any]) -> int:
        # Embeddings have no answer in tokens, whatever their body says.
        if chat.operation != "chat_completion":
            return 0
        body, default = chat.body, self._books.usage.default_max_tokens
        limited = [one for one in fallbacks(own) if completion_limit(one) is not None]
        tried = (body, *limited)
        return max(max_completion_tokens(one, default) for one in tried) + chat.prompt.prediction


def _dearest_tier(body: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    return next(filter(None, map(requested_tier, (body, *fallbacks(own)))), "")


def _own_fields(chat: Chat, targets: Sequence[Target]) -> Mapping[str, Any]:
    """The request as far as a target gets it untranslated."""
    return chat.body if _as_written(chat, targets) else {}


def _as_written(chat: Chat, targets: Sequence[Target]) -> list[Target]:
    """The targets that get the request's own fields, because it is not translated for them."""
    return [target for target in targets if chat.dialect in target.provider.dialects]


def _candidates(chat: Chat, targets: Sequence[Target]) -> list[tuple[str, str]]:
    """Every (provider, model) that may answer."""
    found = [(target.provider.name, target.model) for target in targets]
    if others := other_models(chat.body):
        for target in _as_written(chat, targets):
            found.extend((target.provider.name, name) for name in others)
    return found


def _held_prompt_tokens(chat: Chat, targets: Sequence[Target]) -> int:
    return chat.prompt.held(_window(chat, targets))


def _window(chat: Chat, targets: Sequence[Target]) -> int:
    """The largest context window of the targets, looked up only where it bounds something."""
    if not chat.prompt.unseen:
        return UNSEEN_TOKENS
    return max(context_window(target.provider, target.model) or UNSEEN_TOKENS for target in targets)


def _most_prompt_tokens(chat: Chat, targets: Sequence[Target]) -> int:
    most = chat.prompt.most([target.model for target in targets], _window(chat, targets))
    if chat.operation != "chat_completion":
        return most
    counts = [exact_prompt_tokens(chat, target) for target in targets]
    exact = [count for count in counts if count is not None]
    if len(exact) == len(counts):
        return max(exact)
    return max([most, *exact])
