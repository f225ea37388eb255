"""The tokens that a provider reports, and what sets their price: tier and region. How each server
reports them: wire_forms.py.

base.py has these names too: plug-ins import them from there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal


@dataclass(slots=True)
class Usage:
    """Tokens of one call. `prompt_tokens` includes cached ones, as in OpenAI's usage object;
    `completion_tokens` includes reasoning ones. `cache_write_1h_tokens` is the part of
    `cache_write_tokens` that is kept for an hour, which costs more. The audio tokens are parts of
    the prompt and of the completion. `tier` is the service tier that was charged; empty: the
    standard one. `region` is the one that was charged, of providers that report it. `source` says
    who counted. `absurd`: the provider reported something that is not a count. `beside`: what the
    provider generated beside the answer and left out of these counts, each with its model, "" for
    that of the answer."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    source: Literal["provider", "estimated"] = "provider"
    cache_write_1h_tokens: int = 0
    audio_prompt_tokens: int = 0
    audio_completion_tokens: int = 0
    tier: str = ""
    region: str = ""
    absurd: bool = field(default=False, compare=False)
    beside: tuple[tuple[str, Usage], ...] = ()


def token_count(value: Any) -> int | None:
    """A count of tokens that a provider reports; None if it is not one.

    100.0 is 100: some languages have only one type of number. Huge and negative numbers are
    refused, because they would spoil sums and budgets.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return (
        value
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40
        else None
    )


def later_usage(known: Usage | None, usage: Usage) -> Usage:
    """The usage of a stream after one more report. Counts are totals: a smaller one does not take
    back what was reported before, and a report without parts (cached, reasoning) those of the one
    before it."""
    if known is None:
        return usage
    if usage.prompt_tokens < known.prompt_tokens or _lacks(usage, known, _OF_PROMPT):
        usage = _with_parts(usage, known, "prompt_tokens", _OF_PROMPT)
    if usage.completion_tokens < known.completion_tokens or _lacks(usage, known, _OF_COMPLETION):
        usage = _with_parts(usage, known, "completion_tokens", _OF_COMPLETION)
    return _with_terms(known, usage)


_OF_PROMPT = (
    "cached_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "audio_prompt_tokens",
)
_OF_COMPLETION = ("reasoning_tokens", "audio_completion_tokens")
"""The parts of each count."""


def _lacks(usage: Usage, known: Usage, parts: tuple[str, ...]) -> bool:
    return not any(getattr(usage, name) for name in parts) and any(
        getattr(known, name) for name in parts
    )


def _with_parts(usage: Usage, known: Usage, total: str, parts: tuple[str, ...]) -> Usage:
    """The usage with the parts of an earlier one, and its total if that is larger."""
    kept: dict[str, Any] = {name: getattr(known, name) for name in parts}
    kept[total] = max(getattr(usage, total), getattr(known, total))
    return replace(usage, **kept)


def _with_terms(known: Usage, usage: Usage) -> Usage:
    """A report without a tier, a region or what was generated beside the answer does not take back
    the one before it."""
    if known.beside and not usage.beside:
        usage = replace(usage, beside=known.beside)
    if (known.tier and not usage.tier) or (known.region and not usage.region):
        return replace(usage, tier=usage.tier or known.tier, region=usage.region or known.region)
    return usage


@dataclass(slots=True)
class Progress:
    """What a provider has reported of its answer so far: the last counts, if any. `final`: they
    came at the end of the answer, with a count of it, and no text has followed. `model`: the one
    that answers, by its own name; empty where the provider has not said it."""

    usage: Usage | None = None
    final: bool = False
    model: str = ""


TIERS = frozenset({"flex", "priority", "fast"})
"""Service tiers with their own prices: `service_tier` of OpenAI and Google, Anthropic's `speed`."""


def tier_of(value: Any) -> str:
    """The tier in a request or an answer; empty for the standard one (`default`, `auto`, none)."""
    return value if isinstance(value, str) and value in TIERS else ""


REGIONS = frozenset({"us"})
"""Regions with prices of their own: `inference_geo` of Anthropic."""


def region_of(value: Any) -> str:
    """The region in a request or an answer; empty for one without a price of its own."""
    return value if isinstance(value, str) and value in REGIONS else ""
