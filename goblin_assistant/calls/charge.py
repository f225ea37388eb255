"""What one chat is charged: what its providers reported, else an estimate.

An aborted chat is charged the tokens that the provider reported, but at least a quarter of the
bytes of the text that was delivered. Where nothing was reported, its prompt is estimated
(docs/usage.md).
"""

from __future__ import annotations

from dataclasses import replace

from goblin_assistant.calls.request import (
    Chat,
    exact_prompt_tokens,
    requested_region,
    requested_tier,
)
from goblin_assistant.providers.answer_limits import choices
from goblin_assistant.providers.base import ChatResponse, Progress, Usage
from goblin_assistant.routing.targets import Target
from goblin_assistant.usage.checks import UsageChecks, credible_beside, is_only_beside, is_plain
from goblin_assistant.usage.delivered import DeliveredText
from goblin_assistant.usage.estimates import estimate_completion_tokens, max_completion_tokens
from goblin_assistant.usage.prices import Prices
from goblin_assistant.usage.records import UsageEntry


class Charge:
    """The tokens of one chat and what they cost. Not shared between threads."""

    def __init__(self, chat: Chat, entry: UsageEntry, checks: UsageChecks, prices: Prices) -> None:
        self.target: Target | None = None
        self.delivered: DeliveredText | None = None
        """What the client was given of a stream."""
        self.progress: Progress | None = None
        """What the provider has reported so far."""
        self.usage: Usage | None = None
        self._chat = chat
        self._entry = entry
        self._checks = checks
        self._prices = prices
        self._answer = b""
        self._believed: tuple[Usage, Usage] | None = None
        """The last report that had to be checked, and what is believed of it."""
        self._attempts: list[tuple[Target, Usage]] = []  # failed ones that were paid for

    def trying(self, target: Target) -> None:
        """A provider is called. What a failed attempt before it reported stays charged."""
        failed, progress = self.target, self.progress
        if failed is not None and (self._answer or (progress and progress.usage is not None)):
            self._attempts.append((failed, self._usage_so_far()))
        self.progress, self._answer = None, b""
        self.target = target

    def answered(self, response: ChatResponse) -> None:
        """A provider has finished its answer."""
        self.progress = Progress(response.usage, final=True)
        self._answer = response.body

    @property
    def reported(self) -> bool:
        """Whether the provider has reported tokens, or finished its answer."""
        return bool(self._answer) or (self.progress is not None and self.progress.usage is not None)

    def whole(self, usage: Usage | None, answer: bytes) -> None:
        """Charge a whole answer. `answer` is its body where it was not streamed."""
        self._answer = answer
        progress = self.progress
        if usage is None:
            self.usage = self._estimate()
        elif progress is not None and progress.usage is not None and not progress.final:
            self.usage = self._usage_so_far()  # text followed the last report
        else:
            self.usage = self._checked(usage)

    def so_far(self) -> None:
        """Charge an answer without its end, unless the whole one is charged already."""
        if self.usage is None:
            self.usage = self._usage_so_far()

    def book(self) -> None:
        """Write tokens and cost into the entry."""
        entry, usage = self._entry, self.usage
        if usage is None:
            entry.token_source = "none"
            entry.cost_microusd = 0
            self._add_attempts()
            return
        entry.prompt_tokens = usage.prompt_tokens
        entry.completion_tokens = usage.completion_tokens
        entry.cached_tokens = usage.cached_tokens
        entry.cache_write_tokens = usage.cache_write_tokens
        entry.reasoning_tokens = usage.reasoning_tokens
        entry.token_source = usage.source
        self._add_beside(usage)
        entry.cost_microusd = self._price(usage, entry.model)
        self._add_attempts()

    def cost_so_far(self) -> int | None:
        """What `book` will write as the cost in micro-dollars if the last report is the end of the
        answer; None if there is none, or no price."""
        progress = self.progress
        if progress is None or progress.usage is None:
            return None
        cost = self._price(self._checked(progress.usage), progress.model or self._entry.model)
        return self._with_attempts(cost)

    def _price(self, usage: Usage, model: str) -> int | None:
        called = self.target.model if self.target is not None else None
        return self._price_at(self._entry.provider, model, usage, called)

    def _price_at(
        self, provider: str, model: str, usage: Usage, called: str | None = None
    ) -> int | None:
        cost = self._prices.cost_microusd(provider, model, usage, called)
        for name, beside in credible_beside(usage):
            more = self._prices.cost_microusd(
                provider, name or model, beside, None if name else called
            )
            if more:  # what is known counts, even beside an unknown price
                cost = (cost or 0) + more
        return cost

    def _with_attempts(self, own: int | None) -> int | None:
        """The cost with that of earlier attempts, each at the price of its own target."""
        for target, usage in self._attempts:
            cost = self._price_at(target.provider.name, target.model, usage)
            if cost:  # what is known counts, even beside an unknown price
                own = (own or 0) + cost
            elif cost is None and not own:
                own = None
        return own

    def _add_attempts(self) -> None:
        entry = self._entry
        entry.cost_microusd = self._with_attempts(entry.cost_microusd)
        for _, usage in self._attempts:
            self._add(usage)
            self._add_beside(usage)
            if entry.token_source != "estimated":
                entry.token_source = usage.source

    def _add(self, usage: Usage) -> None:
        entry = self._entry
        entry.prompt_tokens += usage.prompt_tokens
        entry.completion_tokens += usage.completion_tokens
        entry.cached_tokens += usage.cached_tokens
        entry.cache_write_tokens += usage.cache_write_tokens
        entry.reasoning_tokens += usage.reasoning_tokens

    def _add_beside(self, usage: Usage) -> None:
        for _, beside in credible_beside(usage):
            self._add(beside)

    def _checked(self, usage: Usage) -> Usage:
        answered = self._entry.operation == "chat_completion"
        if self.target is None or is_plain(usage, answered=answered):
            return usage
        if self._believed is not None and self._believed[0] is usage:
            return self._believed[1]  # counted and logged once
        answers = choices(self._chat.body) if answered else 0
        believed = self._checks.checked(
            usage, self.target.provider, self.target.model, answers, self._estimate
        )
        self._believed = usage, believed
        return believed

    def _usage_so_far(self) -> Usage:
        """The usage of an answer without its end: the last report, and at least what was
        delivered."""
        estimate = self._estimate()
        progress = self.progress
        if progress is None or progress.usage is None:
            return estimate
        reported = self._checked(progress.usage)
        if is_only_beside(reported):
            return reported
        if not progress.final and reported.completion_tokens < estimate.completion_tokens:
            reported = replace(
                reported, completion_tokens=estimate.completion_tokens, source="estimated"
            )
        return reported

    def _estimate(self) -> Usage:
        body, prompt = self._chat.body, None
        if self.target is not None and self._entry.operation == "chat_completion":
            prompt = exact_prompt_tokens(self._chat, self.target)
        return Usage(
            prompt_tokens=prompt if prompt is not None else self._chat.prompt.estimate,
            completion_tokens=self._estimate_completion(),
            source="estimated",
            tier=requested_tier(body),
            region=requested_region(self._chat, self.target) if self.target is not None else "",
        )

    def _estimate_completion(self) -> int:
        if self._entry.operation != "chat_completion":
            return 0
        delivered = self.delivered
        if delivered is None:
            return estimate_completion_tokens(self._answer) if self._answer else 0
        events = delivered.events
        # Events without text count as well, up to what the request allows. Text has no such bound:
        # a provider that wrote more than it was asked for is paid for it.
        return max(min(events, max_completion_tokens(self._chat.body, events)), delivered.tokens)
