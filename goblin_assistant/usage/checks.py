"""Whether a provider's count can be true, and what is booked where it cannot.

A count is replaced by the estimate (usage/estimates.py, usage/delivered.py) when it

    is no count          a text, a negative number, a truth value, 5.5
    is 0 beside content  every prompt has tokens, and so has a text that was delivered
    is beyond the model  more than its context window (UNKNOWN_WINDOW if not known) for each answer

A report with a count that is none, or beyond the model, is doubtful: its other count holds only
where the estimate is smaller. So it can neither make a call free nor empty a budget. Each is
counted (`provider_usage_unusable_total`) and logged once a model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from goblin_assistant import metrics
from goblin_assistant.providers import Registry
from goblin_assistant.providers.base import Provider, Usage

logger = logging.getLogger("goblin_assistant.usage")

BELIEVED = 65_536
"""A count up to this is accepted without looking up the model's window."""
UNKNOWN_WINDOW = 2_000_000
"""The largest window in general use (Gemini 1.5 Pro, Grok 4 fast)."""
WARNED_MODELS = 1000


def is_plain(usage: Usage, *, answered: bool) -> bool:
    """Whether a report needs no check, as almost all do. `answered` is false for embeddings."""
    return is_only_beside(usage) or (
        not usage.absurd
        and 0 < usage.prompt_tokens <= BELIEVED
        and (0 < usage.completion_tokens <= BELIEVED or not answered)
    )


def credible_beside(usage: Usage) -> list[tuple[str, Usage]]:
    """What was generated beside the answer, as far as it can be true: up to the largest window in
    all. Without a limit of their own, these counts are no reason to doubt the answer's."""
    found, room = [], UNKNOWN_WINDOW
    for model, one in usage.beside:
        if (tokens := one.prompt_tokens + one.completion_tokens) <= room:
            found.append((model, one))
            room -= tokens
    return found


def is_only_beside(usage: Usage) -> bool:
    """Whether all was generated beside the answer: one that is only a summary has zero counts
    (https://docs.aws.amazon.com/bedrock/latest/userguide/claude-messages-compaction.html)."""
    return (
        usage.prompt_tokens == 0
        and usage.completion_tokens == 0
        and not usage.absurd
        and any(not model and one.completion_tokens for model, one in credible_beside(usage))
    )


class UsageChecks:
    """Checks the usage that providers report. Shared by all threads."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._warned: set[tuple[str, str]] = set()

    def checked(
        self,
        usage: Usage,
        provider: Provider,
        model: str,
        answers: int,
        estimate: Callable[[], Usage],
    ) -> Usage:
        """The usage with impossible counts replaced by the estimate.

        `answers` is how many were asked for, 0 for embeddings. `estimate` counts the prompt and the
        answer.
        """
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        most = BELIEVED
        if max(prompt, completion) > BELIEVED:
            most = max(BELIEVED, context_window(provider, model) or UNKNOWN_WINDOW)
        estimated = estimate()
        said = estimated.completion_tokens
        # When one count is wrong, the other is not believed below the estimate.
        doubtful = usage.absurd or prompt > most or completion > most * max(1, answers)
        least_prompt, least_said = (estimated.prompt_tokens, said) if doubtful else (0, 0)
        replaced = []
        if not least_prompt <= prompt <= most or (
            prompt == 0 and (completion or said or not answers)
        ):
            replaced.append("prompt_tokens")
            usage = replace(
                usage,
                prompt_tokens=estimated.prompt_tokens,
                cached_tokens=0,
                cache_write_tokens=0,
                cache_write_1h_tokens=0,
            )
        if not least_said <= completion <= most * max(1, answers) or (completion == 0 and said):
            replaced.append("completion_tokens")
            usage = replace(usage, completion_tokens=said, reasoning_tokens=0)
        if replaced:
            usage = replace(usage, source="estimated")
        if replaced or usage.absurd:
            self._report(provider.name, model, replaced)
        return usage

    def _report(self, provider: str, model: str, counts: list[str]) -> None:
        label = self._registry.label(provider, model)
        metrics.provider_usage_unusable_total.labels(provider, label).inc()
        if (provider, model) in self._warned or len(self._warned) >= WARNED_MODELS:
            return
        self._warned.add((provider, model))
        logger.warning(
            "usage_unusable", extra={"provider": provider, "model": model, "estimated": counts}
        )


def context_window(provider: Provider, model: str) -> int | None:
    """Tokens of a model's context window, None where it is unknown."""
    windows = (known.context_window for known in provider.models() if known.id == model)
    return next(windows, None)
