"""What is known of the models that a caller may ask for: context window, abilities, list price."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from goblin_assistant.accounts.users import Principal
from goblin_assistant.calls.access import ModelAccess
from goblin_assistant.errors import UnknownModel
from goblin_assistant.providers import Registry
from goblin_assistant.providers.base import Model
from goblin_assistant.routing.targets import Resolver
from goblin_assistant.usage.prices import Prices

OWN = "goblin-assistant"
"""The owner of aliases, chains and weighted groups."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A name that a caller may ask for. `owner` is the provider.

    `model` is the provider's model that answers, the first of a chain, or that with the largest
    weight of a group; None: not in its provider's catalogue yet. `provider` serves it.
    """

    name: str
    owner: str
    provider: str
    model: Model | None


class Catalogue:
    """The models of one instance."""

    def __init__(self, registry: Registry, resolver: Resolver, access: ModelAccess) -> None:
        self._registry = registry
        self._resolver = resolver
        self._access = access

    def offers(self, caller: Principal) -> list[Offer]:
        """All that the caller may use: providers' models, then the names of goblin.toml."""
        offers = [
            Offer(f"{provider}/{model.id}", provider, provider, model)
            for provider, model in self._registry.models()
            if self._access.lists_model(caller, provider, model.id)
        ]
        offers += [
            self._named(name)
            for name in self._resolver.names()
            if self._access.lists_name(caller, name, self._resolver)
        ]
        return offers

    def offer(self, caller: Principal, name: str) -> Offer | None:
        """One, by a name of `offers` or by a bare model id; None: the caller is told of none.

        A provider/model that is in no catalogue can be called, but not described.
        """
        resolver, access = self._resolver, self._access
        if resolver.is_name(name) and access.lists_name(caller, name, resolver):
            return self._named(name)
        for provider, model_id in self._registry.find(name):
            known = self._known(provider.name, model_id)
            if known is not None and access.lists_model(caller, provider.name, model_id):
                return Offer(name, provider.name, provider.name, known)
        return None

    def _named(self, name: str) -> Offer:
        try:
            target = self._resolver.likeliest(name)
        except UnknownModel:
            return Offer(name, OWN, "", None)
        provider = target.provider.name
        return Offer(name, OWN, provider, self._known(provider, target.model))

    def _known(self, provider: str, model_id: str) -> Model | None:
        return next(self._matching(provider, model_id), None)

    def _matching(self, provider: str, model_id: str) -> Iterator[Model]:
        return (one for one in self._registry.get(provider).models() if one.id == model_id)


def list_price(prices: Prices, offer: Offer) -> dict[str, str] | None:
    """Dollars per million tokens, as decimal text: `{"input", "output"}`; None: unknown."""
    if offer.model is None:
        return None
    rates = prices.rates(offer.provider, offer.model.id)
    return rates.per_million() if rates is not None else None
