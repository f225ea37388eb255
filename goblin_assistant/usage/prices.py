"""What a call costs, in whole micro-dollars.

Prices come from the pinned version of the genai-prices package, offline, unless goblin.toml
overrides them. Dollars per million tokens are micro-dollars per token. They are kept as integers
over a power of ten, so that a cost is exact until its one rounding: **up, to the next whole
micro-dollar**. So no paid call is free, a budget is never exceeded by rounding, and a million calls
are at most one dollar above the provider's sum.

An unknown price is `None`, never 0. `echo` is free unless goblin.toml prices it
(`[prices."echo/*"]`, for rehearsals).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from goblin_assistant.config.goblin_file import PriceRow
from goblin_assistant.providers.base import Usage

GENAI_PROVIDERS = {"gemini": "google", "vertex": "google", "xai": "x-ai", "bedrock": "aws"}
"""Our names -> those of genai-prices, where they differ. Similar names are not guessed."""

MAX_CACHED = 4096
"""(provider, model) pairs remembered at once: clients can invent models."""


@dataclass(frozen=True, slots=True)
class Band:
    """Rates for calls with more than `above` prompt tokens.

    Integers: micro-dollars per token (`per_call`: per call) times `Rates.scale`. None: unknown.
    Where there is no own price, cached and written prompt tokens cost as much as other prompt
    tokens, and reasoning tokens as much as other completion tokens.
    """

    above: int
    prompt: int | None
    completion: int | None
    cached: int | None
    cache_write: int | None
    cache_write_1h: int | None
    reasoning: int | None
    per_call: int = 0


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
        if completion:
            if band.completion is None or band.reasoning is None:
                return None
            reasoning = min(usage.reasoning_tokens, completion)
            total += (completion - reasoning) * band.completion + reasoning * band.reasoning
        return -(-total // self.scale)

    def most_microusd(self, prompt_tokens: int, completion_tokens: int) -> int | None:
        """The most that a call of so many tokens can cost, in micro-dollars; None: unknown.

        Tokens may be cached, written or reasoning ones.
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
            total = (
                band.per_call
                + prompt_tokens * dearest_prompt
                + completion_tokens * dearest_completion
            )
            most = max(most, -(-total // self.scale))
        return most


FREE = Rates(1, (Band(0, 0, 0, 0, 0, 0, 0),))


class Prices:
    """Prices by our provider names.

    `overrides` are goblin.toml's `[prices]`, by `provider/model` or `provider/*`.
    `base_urls` are the addresses of providers, by which those with other names are recognised
    (`[providers.my-openai] base_url = "https://api.openai.com/v1"`). `clock` gives the time of a
    call: some prices depend on the date or the hour.
    """

    def __init__(
        self,
        overrides: Mapping[str, PriceRow],
        base_urls: Mapping[str, str] | None = None,
        *,
        free: Collection[str] = ("echo",),
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._exact = {
            name: _override(row) for name, row in overrides.items() if not name.endswith("*")
        }
        patterns = [
            (name[:-1], _override(row)) for name, row in overrides.items() if name.endswith("*")
        ]
        self._patterns = sorted(patterns, key=lambda item: -len(item[0]))
        self._base_urls = dict(base_urls or {})
        self._free = frozenset(free)
        self._clock = clock
        self._providers: dict[str, Any] = {}  # our name -> genai_prices.types.Provider | None
        self._found: dict[tuple[str, str], Rates | _Conditional | None] = {}

    def rates(self, provider: str, model: str, tier: str = "") -> Rates | None:
        """The model's price now, in a service tier (providers.base.TIERS); None: unknown."""
        key = (provider, model)
        try:
            found = self._found[key]
        except KeyError:
            if len(self._found) >= MAX_CACHED:
                self._found.clear()
            found = self._found[key] = self._find(provider, model)
        return found.at(self._clock(), tier) if isinstance(found, _Conditional) else found

    def overridden(self, provider: str, model: str) -> bool:
        """Whether goblin.toml gives the price."""
        return self._override(f"{provider}/{model}") is not None

    def cost_microusd(
        self, provider: str, model: str, usage: Usage, target: str | None = None
    ) -> int | None:
        """What a call cost, in whole micro-dollars; None: unknown.

        `model` is the one that answered (`gpt-4o-2024-08-06`), `target` the requested name
        (`gpt-4o` or a deployment). Both are looked up in goblin.toml first, then in genai-prices.
        """
        if target and target != model and not self.overridden(provider, model):
            if self.overridden(provider, target):
                model = target
            else:
                rates = self.rates(provider, model, usage.tier) or self.rates(
                    provider, target, usage.tier
                )
                return rates.cost_microusd(usage) if rates is not None else None
        rates = self.rates(provider, model, usage.tier)
        return rates.cost_microusd(usage) if rates is not None else None

    def _find(self, provider: str, model: str) -> Rates | _Conditional | None:
        override = self._override(f"{provider}/{model}")
        if override is not None:
            return override
        if provider in self._free:
            return FREE
        known = self._genai_provider(provider)
        if known is None:
            return None
        from genai_prices.data_snapshot import get_snapshot

        # Not DataSnapshot.find_provider_model: it caches every name without bound.
        found = known.find_model(
            model.removeprefix("models/"), all_providers=get_snapshot().providers
        )
        if found is None or not found.prices:
            return None
        # A model from another provider's list (Azure's gpt-4o is OpenAI's) has no tiers.
        tiers = bool(found.price_variants) and any(found is model for model in known.models)
        if isinstance(found.prices, list) or tiers:
            return _Conditional(found, tiers)
        return _compile(found.prices)

    def _override(self, name: str) -> Rates | None:
        if (exact := self._exact.get(name)) is not None:
            return exact
        return next((rates for prefix, rates in self._patterns if name.startswith(prefix)), None)

    def _genai_provider(self, name: str) -> Any:
        if name not in self._providers:
            import re

            # Imported for the first price: 1.6 MB that an instance with echo alone never needs.
            from genai_prices.data_snapshot import get_snapshot

            wanted = GENAI_PROVIDERS.get(name, name)
            every = get_snapshot().providers
            found: Any = next((p for p in every if p.id == wanted), None)
            if found is None and (url := self._base_urls.get(name)):
                found = next((p for p in every if re.match(p.api_pattern, url)), None)
            self._providers[name] = found
        return self._providers[name]


class _Conditional:
    """A price that depends on the time (introductory, off-peak) or on the service tier."""

    __slots__ = ("_compiled", "_model", "_tiers")

    def __init__(self, model: Any, tiers: bool) -> None:
        self._model = model
        self._tiers = tiers
        # By the identity of the price object, which the snapshot keeps alive.
        self._compiled: dict[int, Rates | None] = {}

    def at(self, now: datetime, tier: str = "") -> Rates | None:
        if tier and self._tiers:
            # Not cached: genai-prices makes a new object for every call. Rare.
            return _compile(self._model.get_prices(now, {"service_tier": tier, "speed": tier}))
        price = self._model.get_prices(now)
        if id(price) not in self._compiled:
            self._compiled[id(price)] = _compile(price)
        return self._compiled[id(price)]


def _override(row: PriceRow) -> Rates:
    return _rates(
        {
            0: {
                "input": row.input,
                "output": row.output,
                "cache_read": row.cached_input,
                "cache_write": row.cache_write,
            }
        }
    )


_UNITS = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "output_reasoning_mtok": "reasoning",
    "requests_kcount": "per_call",
}


def _compile(price: Any) -> Rates | None:
    """A genai_prices ModelPrice as Rates.

    Units that a chat's usage does not report (audio, searches) are left out: docs/usage.md.
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
    return _rates(bands)


def _rates(bands: Mapping[int, Mapping[str, Decimal | None]]) -> Rates:
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
            )
        )
    return Rates(scale, tuple(compiled))


def _first(value: int | None, otherwise: int | None) -> int | None:
    return value if value is not None else otherwise
