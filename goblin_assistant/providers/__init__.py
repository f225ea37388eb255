"""The providers of one instance: built in, configured rows, installed plug-ins.

`echo` is first, so that no other provider's catalogue can take its name. Then come the rows of
goblin.toml in their order, then those that the environment switches on. A model that several
providers have belongs to the first; `provider/model` is unambiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points

from goblin_assistant.config import FAULT_ROW, Config, ConfigError, ProviderRow
from goblin_assistant.logs.json_logging import register_secrets
from goblin_assistant.metrics import OTHER_MODEL
from goblin_assistant.providers.base import Model, Provider
from goblin_assistant.providers.rows import rows_of, secrets_of

ENTRY_POINTS = "goblin_assistant.providers"
"""The group of entry points for plug-ins. The name is a row's `kind`; the object is a class with
`from_row(name, row, config) -> Provider`."""

_BUILT_IN = {
    "openai_compatible": "goblin_assistant.providers.openai.provider:OpenAICompatibleProvider",
    "anthropic": "goblin_assistant.providers.anthropic.provider:AnthropicProvider",
    "echo": "goblin_assistant.providers.echo.provider:EchoProvider",
    "faults": "goblin_assistant.providers.echo.rehearsals:FaultProvider",
}

Factory = Callable[[str, ProviderRow, Config], Provider]


class Registry:
    """The providers by name, and their models. Shared by all threads."""

    def __init__(self, providers: dict[str, Provider]) -> None:
        self.providers = providers
        self._ids: dict[str, tuple[object, frozenset[str]]] = {}

    def get(self, name: str) -> Provider:
        """The provider of that name. Raises KeyError."""
        return self.providers[name]

    def models(self) -> list[tuple[str, Model]]:
        """Every known model with its provider's name."""
        return [
            (name, model)
            for name, provider in self.providers.items()
            for model in provider.models()
        ]

    def find(self, model: str) -> list[tuple[Provider, str]]:
        """The providers of `model`, each with its own id for it: the one that `provider/model`
        names, else all whose catalogue has the whole id. [] if there is none."""
        name, slash, rest = model.partition("/")
        if (
            slash
            and rest
            and (provider := self.providers.get(name)) is not None
            and provider.serves(rest)
        ):
            return [(provider, rest)]
        return [
            (provider, model)
            for name, provider in self.providers.items()
            if model in self._catalogue(name, provider)
        ]

    def label(self, provider: str, model: str) -> str:
        """The model as a metric's label: its id if it is in the provider's catalogue, else
        "other"."""
        known = self.providers.get(provider)
        return (
            model
            if known is not None and model in self._catalogue(provider, known)
            else OTHER_MODEL
        )

    def close(self) -> None:
        """Release all connections."""
        for provider in self.providers.values():
            provider.close()

    def _catalogue(self, name: str, provider: Provider) -> frozenset[str]:
        models = provider.models()
        cached = self._ids.get(name)
        if cached is None or cached[0] is not models:
            cached = self._ids[name] = (models, frozenset(model.id for model in models))
        return cached[1]


def build_registry(config: Config) -> Registry:
    """Make every provider that is switched on, without I/O. Raises ConfigError with all
    problems."""
    providers: dict[str, Provider] = {}
    problems: list[str] = []
    rows: list[tuple[str, ProviderRow | ConfigError]] = list(rows_of(config))
    if config.echo_enabled and "echo" not in config.file.providers:
        rows.append(("echo", ProviderRow(kind="echo")))
    if config.offers_faults:
        rows.append((FAULT_ROW, ProviderRow(kind="faults")))
    rows.sort(key=lambda item: item[0] != "echo")
    for name, row in rows:
        try:
            if isinstance(row, ConfigError):
                raise row
            register_secrets(secrets_of(row, config))
            provider = _factory(name, row.kind or "openai_compatible")(name, row, config)
            if not isinstance(provider, Provider):
                raise ConfigError(
                    [
                        f"[providers.{name}] kind = {row.kind!r}: "
                        "its from_row() did not return a Provider"
                    ]
                )
            providers[name] = provider
        except ConfigError as error:
            problems += error.problems
    if problems:
        for provider in providers.values():
            provider.close()
        raise ConfigError(problems)
    return Registry(providers)


def _factory(name: str, kind: str) -> Factory:
    if kind in _BUILT_IN:
        module, _, attribute = _BUILT_IN[kind].partition(":")
        built_in: Factory = getattr(import_module(module), attribute).from_row
        return built_in
    installed = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if kind not in installed:
        accepted = ", ".join(sorted([*_BUILT_IN, *installed]))
        raise ConfigError(
            [
                f"[providers.{name}] kind = {kind!r}: there is none of that name; "
                f"accepted: {accepted}"
            ]
        )
    try:
        plugged: Factory = installed[kind].load().from_row
    except Exception as error:  # whatever an import raises is reported in one line
        raise ConfigError(
            [
                f"[providers.{name}] kind = {kind!r}: its package cannot be loaded "
                f"({type(error).__name__}: {error})"
            ]
        ) from error
    return plugged
