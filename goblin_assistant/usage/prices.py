"""The price of a call, in whole micro-dollars.

Prices come from the pinned version of the genai-prices package, offline, unless goblin.toml
overrides them. An unknown price is `None`, never 0. `echo` is free unless goblin.toml prices it
(`[prices."echo/*"]`, for rehearsals).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from goblin_assistant.config.goblin_file import PriceRow
from goblin_assistant.providers.base import Usage
from goblin_assistant.providers.regional_prices import REGIONAL_ADDRESSES
from goblin_assistant.usage.rates import FREE, Rates, rates_from, rates_of

GENAI_PROVIDERS = {"gemini": "google", "vertex": "google", "xai": "x-ai", "bedrock": "aws"}
"""Our names -> those of genai-prices, where they differ. Similar names are not guessed."""

MAX_CACHED = 4096
"""(provider, model) pairs remembered at once: clients can invent models."""


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
        free: Collection[str] = ("echo", "fault"),
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
        percent = self._percent(provider, model)
        # A model from another provider's list (Azure's gpt-4o is OpenAI's) has no tiers.
        tiers = bool(found.price_variants) and any(found is model for model in known.models)
        if isinstance(found.prices, list) or tiers:
            return _Conditional(found, tiers, percent)
        rates = rates_of(found.prices)
        return rates.times(percent) if rates is not None and percent != 100 else rates

    def _percent(self, provider: str, model: str) -> int:
        """What the provider's address makes of its list price."""
        host = urlsplit(self._base_urls.get(provider, "")).hostname or ""
        for place in REGIONAL_ADDRESSES:
            if re.fullmatch(place.host, host) and re.match(place.models, model):
                return place.percent
        return 100

    def _override(self, name: str) -> Rates | None:
        if (exact := self._exact.get(name)) is not None:
            return exact
        return next((rates for prefix, rates in self._patterns if name.startswith(prefix)), None)

    def _genai_provider(self, name: str) -> Any:
        if name not in self._providers:
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

    __slots__ = ("_compiled", "_model", "_percent", "_tiers")

    def __init__(self, model: Any, tiers: bool, percent: int) -> None:
        self._model = model
        self._tiers = tiers
        self._percent = percent
        # By the identity of the price object, which the snapshot keeps alive.
        self._compiled: dict[int, Rates | None] = {}

    def at(self, now: datetime, tier: str = "") -> Rates | None:
        if tier and self._tiers:
            # Not cached: genai-prices makes a new object for every call. Rare.
            return self._compile(self._model.get_prices(now, {"service_tier": tier, "speed": tier}))
        price = self._model.get_prices(now)
        if id(price) not in self._compiled:
            self._compiled[id(price)] = self._compile(price)
        return self._compiled[id(price)]

    def _compile(self, price: Any) -> Rates | None:
        rates = rates_of(price)
        return rates.times(self._percent) if rates is not None and self._percent != 100 else rates


def _override(row: PriceRow) -> Rates:
    return rates_from(
        {
            0: {
                "input": row.input,
                "output": row.output,
                "cache_read": row.cached_input,
                "cache_write": row.cache_write,
            }
        }
    )
