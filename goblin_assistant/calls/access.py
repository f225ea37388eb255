"""Which models a caller may use.

An API key may have a list of models. The embedded provider `echo` is for trying things: in
production it answers only keys whose list names it, and it is never the default. A customer would
take the repeated words for a model's answer.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

from goblin_assistant.accounts.users import Principal
from goblin_assistant.config import Config
from goblin_assistant.errors import Forbidden, UnknownModel
from goblin_assistant.routing.targets import Resolver, Target

EMBEDDED = "echo"


class ModelAccess:
    """The rules of one instance. Shared by all threads.

    `default_model` is for chats that name none; "" if there is none.
    """

    def __init__(self, config: Config) -> None:
        has_echo = config.echo_enabled or EMBEDDED in config.file.providers
        of_development = EMBEDDED if has_echo and not config.production else ""
        self.default_model = config.default_model or of_development
        self._echo_by_name = config.echo_by_name

    def check(
        self, principal: Principal, requested: str, targets: list[Target], *, named: bool
    ) -> list[Target]:
        """The targets that the caller may use. Raises Forbidden if it may not use the model.

        `named`: goblin.toml has the name as an alias, chain or weighted group.
        """
        targets = self.without_echo(principal, requested, targets)
        allowed = principal.allowed_models
        if allowed is None:
            return targets
        if not (named and may_use(allowed, requested)) and not _covers(allowed, targets):
            names = ", ".join(sorted(allowed))
            raise Forbidden(
                f"this API key may not use model {requested!r}; it may use: {names}", param="model"
            )
        return targets

    def check_others(
        self, principal: Principal, targets: Iterable[Target], names: Iterable[str]
    ) -> None:
        """Raise Forbidden if the caller may not use one of the models that its request names
        beside `model` (other_models.py). `targets` are those that will read them."""
        allowed = principal.allowed_models
        if allowed is None:
            return
        for name in names:
            for target in targets:
                if not may_use_model(allowed, target.provider.name, name):
                    raise Forbidden(
                        f"this API key may not use model {name[:255]!r} of "
                        f"{target.provider.name}, which the request names beside its own; it may "
                        f"use: {', '.join(sorted(allowed))}",
                        param="model",
                    )

    def without_echo(
        self, principal: Principal, requested: str, targets: list[Target]
    ) -> list[Target]:
        """The targets without `echo`, if the caller may not use it. Raises Forbidden if none is
        left."""
        if not self._echo_by_name:
            return targets
        others = [target for target in targets if target.provider.name != EMBEDDED]
        if len(others) == len(targets) or _names_echo(principal):
            return targets
        if others:
            return others
        raise Forbidden(
            f"model {requested!r}: in production the embedded provider echo answers only API keys "
            "whose model list names it. Choose another model (GET /v1/models), or let the operator "
            "make a key: goblin-assistant keys create EMAIL --name NAME --model echo",
            param="model",
        )

    def lists_model(self, principal: Principal, provider: str, model: str) -> bool:
        """Whether a provider's model stands in the caller's list of models."""
        allowed = principal.allowed_models
        return self.lists_provider(principal, provider) and (
            allowed is None or may_use_model(allowed, provider, model)
        )

    def lists_provider(self, principal: Principal, provider: str) -> bool:
        """Whether the caller is told of a provider."""
        return provider != EMBEDDED or not self._echo_by_name or _names_echo(principal)

    def lists_name(self, principal: Principal, name: str, resolver: Resolver) -> bool:
        """Whether the caller is told of an alias, chain or weighted group: whether `check` lets it
        use the name."""
        allowed = principal.allowed_models
        if allowed is None and not self._echo_by_name:
            return True
        try:
            self.check(principal, name, resolver.resolve(name), named=True)
        except UnknownModel:  # not in its provider's catalogue yet
            return allowed is None or may_use(allowed, name)
        except Forbidden:
            return False
        return True


def _names_echo(principal: Principal) -> bool:
    """Whether the caller's list has `echo` by its name: `*` covers every model and names none."""
    allowed = principal.allowed_models
    return allowed is not None and any(
        name == EMBEDDED or name.startswith(EMBEDDED + "/") for name in allowed
    )


def _covers(allowed: Iterable[str], targets: Iterable[Target]) -> bool:
    """Whether a list of models has everything behind a name. An alias that it does not name may be
    used if it has."""
    return all(may_use_model(allowed, target.provider.name, target.model) for target in targets)


def may_use(allowed: Iterable[str], name: str) -> bool:
    """Whether an API key's list of models (`openai/gpt-4o`, `openai/*`) covers a name."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in allowed)


def may_use_model(allowed: Iterable[str], provider: str, model: str) -> bool:
    """Whether an API key's list covers a provider's model. Names are compared whole: `openai/*` is
    the provider openai, not another one's model `openai/gpt-4o`. A name without a provider
    (`gpt-4o`) is that model of any, and `*` is every model."""
    for pattern in allowed:
        owner, slash, name = pattern.partition("/")
        if slash:
            if may_use([owner], provider) and may_use([name], model):
                return True
        elif pattern == "*" or ("/" not in model and may_use([pattern], model)):
            return True
    return False
