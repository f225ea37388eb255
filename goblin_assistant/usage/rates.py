"""Rates of one model, and the cost of a call by them.

Dollars per million tokens are micro-dollars per token. They are kept as integers over a power of
ten, so that a cost is exact until its one rounding: **up, to the next whole micro-dollar**. So no
paid call is free, a budget is never exceeded by rounding, and a million calls are at most one
dollar above the provider's sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from goblin_assistant.providers.base import Usage
from goblin_assistant.providers.regional_prices import REGION_PERCENT


@dataclass(frozen=True, slots=True)
class Band:
    """Rates for calls with more than `above` prompt tokens.

    Integers: micro-dollars per token (`per_call`: per call) times `Rates.scale`. None: unknown.
    Where there is no own price, cached and written prompt tokens cost as much as other prompt
    tokens, and reasoning tokens as much as other completion tokens. Audio tokens too.
    """

    above: int
    prompt: int | None
    completion: int | None
    cached: int | None
    cache_write: int | None
    cache_write_1h: int | None
    reasoning: int | None
    per_call: int = 0
    audio: int | None = None
    audio_answer: int | None = None


@dataclass(frozen=True, slots=True)
class Rates:
    """The price of one model.

    `bands` are in order of `above`. The last that fits holds for all tokens of a call, as in
    providers' long-context prices.
    """

    scale: int
    bands: tuple[Band, ...]

    def cost_microusd(self, usage: Usage) -> int | None:
        """Whole micro-dollars, rounded up; None when tokens without a price were used."""
        total = self._cost(usage)
        if total is None or not usage.region:
            return None if total is None else -(-total // self.scale)
        return -(-total * REGION_PERCENT[usage.region] // (self.scale * 100))

    def _cost(self, usage: Usage) -> int | None:
        """The cost in micro-dollars times `scale`."""
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        band = self.bands[0]
        for further in self.bands[1:]:
            if prompt > further.above:
                band = further
        total = band.per_call
        if prompt:
            if (
                band.prompt is None
                or band.cached is None
                or band.cache_write is None
                or band.cache_write_1h is None
            ):
                return None
            # Where a provider's parts exceed its total, the total is believed.
            cached = min(usage.cached_tokens, prompt)
            written = min(usage.cache_write_tokens, prompt - cached)
            written_1h = min(usage.cache_write_1h_tokens, written)
            total += (
                (prompt - cached - written) * band.prompt
                + cached * band.cached
                + (written - written_1h) * band.cache_write
                + written_1h * band.cache_write_1h
            )
            if usage.audio_prompt_tokens and band.audio is not None:
                heard = min(usage.audio_prompt_tokens, prompt - cached - written)
                total += heard * (band.audio - band.prompt)
        if completion:
            if band.completion is None or band.reasoning is None:
                return None
            reasoning = min(usage.reasoning_tokens, completion)
            total += (completion - reasoning) * band.completion + reasoning * band.reasoning
            if usage.audio_completion_tokens and band.audio_answer is not None:
                spoken = min(usage.audio_completion_tokens, completion - reasoning)
                total += spoken * (band.audio_answer - band.completion)
        return total

    def per_million(self) -> dict[str, str] | None:
        """The list price in dollars per million tokens, as decimal text: `{"input", "output"}` of
        a short prompt. None where one of them is unknown."""
        band = self.bands[0]
        if band.prompt is None or band.completion is None:
            return None
        return {
            "input": _dollars(band.prompt, self.scale),
            "output": _dollars(band.completion, self.scale),
        }

    def times(self, percent: int) -> Rates:
        """These rates at so many percent."""

        def part(rate: int | None) -> int | None:
            return None if rate is None else rate * percent

        bands = (
            Band(
                band.above,
                part(band.prompt),
                part(band.completion),
                part(band.cached),
                part(band.cache_write),
                part(band.cache_write_1h),
                part(band.reasoning),
                band.per_call * percent,
                part(band.audio),
                part(band.audio_answer),
            )
            for band in self.bands
        )
        return Rates(self.scale * 100, tuple(bands))

    def most_microusd(
        self, prompt_tokens: int, completion_tokens: int, *, audio: bool = False
    ) -> int | None:
        """The most that a call of so many tokens can cost, in micro-dollars; None: unknown.

        Tokens may be cached, written or reasoning ones, and with `audio` those of sounds.
        """
        most = 0
        for number, band in enumerate(self.bands):
            if number and prompt_tokens <= band.above:
                break
            if (prompt_tokens and band.prompt is None) or (
                completion_tokens and band.completion is None
            ):
                return None
            dearest_prompt = max(
                rate or 0
                for rate in (band.prompt, band.cached, band.cache_write, band.cache_write_1h)
            )
            dearest_completion = max(band.completion or 0, band.reasoning or 0)
            if audio:
                dearest_prompt = max(dearest_prompt, band.audio or 0)
                dearest_completion = max(dearest_completion, band.audio_answer or 0)
            total = (
                band.per_call
                + prompt_tokens * dearest_prompt
                + completion_tokens * dearest_completion
            )
            most = max(most, -(-total // self.scale))
        return most


FREE = Rates(1, (Band(0, 0, 0, 0, 0, 0, 0),))


_UNITS = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "output_reasoning_mtok": "reasoning",
    "input_audio_mtok": "audio",
    "output_audio_mtok": "audio_answer",
    "requests_kcount": "per_call",
}


def rates_of(price: Any) -> Rates | None:
    """A genai_prices ModelPrice as Rates.

    Units that a chat's usage does not report (searches, hours) are left out: docs/usage.md.
    """
    from genai_prices.types import TieredPrices

    values = {
        ours: value for key, ours in _UNITS.items() if (value := getattr(price, key)) is not None
    }
    if not {"input", "output"} & set(values):
        return None
    starts = {0} | {
        tier.start
        for value in values.values()
        if isinstance(value, TieredPrices)
        for tier in value.tiers
    }
    bands: dict[int, dict[str, Decimal | None]] = {}
    for start in sorted(starts):
        bands[start] = {}
        for name, value in values.items():
            if isinstance(value, TieredPrices):
                fitting = [tier.price for tier in value.tiers if tier.start <= start and start]
                bands[start][name] = fitting[-1] if fitting else value.base
            else:
                bands[start][name] = value
    return rates_from(bands)


def rates_from(bands: Mapping[int, Mapping[str, Decimal | None]]) -> Rates:
    """Rates from dollars per million tokens (`per_call`: per thousand calls).

    The keys of `bands` are the numbers of prompt tokens above which they hold.
    """
    given = [value for band in bands.values() for value in band.values() if value is not None]
    places = max([0, *(-int(value.as_tuple().exponent) for value in given)])
    scale = 10**places

    def whole(value: Decimal | None) -> int | None:
        # By its digits: exact whatever the precision of the decimal context.
        if value is None:
            return None
        digits, exponent = value.as_tuple().digits, int(value.as_tuple().exponent)
        return int("".join(map(str, digits)) or "0") * int(10 ** (places + exponent))

    compiled = []
    for above, band in sorted(bands.items()):
        rate = {name: whole(value) for name, value in band.items()}
        prompt, completion = rate.get("input"), rate.get("output")
        written = _first(rate.get("cache_write"), prompt)
        compiled.append(
            Band(
                above=above,
                prompt=prompt,
                completion=completion,
                cached=_first(rate.get("cache_read"), prompt),
                cache_write=written,
                cache_write_1h=_first(rate.get("cache_write_1h"), written),
                reasoning=_first(rate.get("reasoning"), completion),
                # A dollar per 1,000 calls is 1,000 micro-dollars per call.
                per_call=(rate.get("per_call") or 0) * 1000,
                audio=rate.get("audio"),
                audio_answer=rate.get("audio_answer"),
            )
        )
    return Rates(scale, tuple(compiled))


def _dollars(rate: int, scale: int) -> str:
    # Micro-dollars per token are dollars per million tokens.
    text = format(Decimal(rate) / Decimal(scale), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _first(value: int | None, otherwise: int | None) -> int | None:
    return value if value is not None else otherwise
