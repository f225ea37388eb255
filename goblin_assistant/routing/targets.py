"""From a model's name to its targets.

A name is an alias, a weighted group, a chain, or a provider's own model. The first three are tables
of goblin.toml and may name each other.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from goblin_assistant.config import ConfigError, GoblinFile
from goblin_assistant.config.goblin_file import WeightedTarget
from goblin_assistant.errors import UnknownModel
from goblin_assistant.providers import Registry
from goblin_assistant.providers.base import Provider

Order = Callable[[Sequence[WeightedTarget]], list[WeightedTarget]]
"""In which order the rows of a weighted group are tried."""


@dataclass(frozen=True, slots=True)
class Target:
    """One provider and its own name for the model."""

    provider: Provider
    model: str

    @property
    def name(self) -> str:
        """`provider/model`."""
        return f"{self.provider.name}/{self.model}"


class Resolver:
    """Resolves model names by goblin.toml's tables and the providers' catalogues."""

    def __init__(self, file: GoblinFile, registry: Registry) -> None:
        self._file = file
        self._registry = registry

    def names(self) -> list[str]:
        """Aliases, chains and weighted groups: the names that are not a provider's own."""
        return sorted({*self._file.aliases, *self._file.chains, *self._file.weighted})

    def is_name(self, model: str) -> bool:
        """Whether goblin.toml has the name as an alias, chain or weighted group."""
        file = self._file
        return model in file.aliases or model in file.weighted or model in file.chains

    def resolve(self, model: str) -> list[Target]:
        """The targets of a model, in the order in which they are tried. Raises UnknownModel."""
        return self._found(model, _drawn)

    def likeliest(self, model: str) -> Target:
        """The target that describes a model: of a weighted group that with the largest weight.
        Raises UnknownModel."""
        return self._found(model, _by_weight)[0]

    def _found(self, model: str, order: Order) -> list[Target]:
        targets = self._resolve(model, order)
        if not targets:
            raise UnknownModel(
                f"model {model!r} is not served here; GET /v1/models lists what is", param="model"
            )
        return targets

    def _resolve(self, model: str, order: Order) -> list[Target]:
        file = self._file
        if model in file.aliases:
            return self._resolve(file.aliases[model], order)
        if model in file.weighted:
            rows = order(file.weighted[model])
            return _unique([target for row in rows for target in self._resolve(row.model, order)])
        if model in file.chains:
            return _unique(
                [target for name in file.chains[model] for target in self._resolve(name, order)]
            )
        found = self._registry.find(model)
        return [Target(*found[0])] if found else []


def _drawn(rows: Sequence[WeightedTarget]) -> list[WeightedTarget]:
    # Weighted sampling without replacement (Efraimidis and Spirakis, 2006): the first is drawn by
    # weight, the others are its fallbacks.
    return sorted(rows, key=lambda row: random.random() ** (1.0 / row.weight), reverse=True)


def _by_weight(rows: Sequence[WeightedTarget]) -> list[WeightedTarget]:
    return sorted(rows, key=lambda row: row.weight, reverse=True)


def _unique(targets: list[Target]) -> list[Target]:
    return list({target.name: target for target in targets}.values())


def check_routes(file: GoblinFile, registry: Registry) -> None:
    """Raise ConfigError for a name that is used twice, leads nowhere, or leads in a circle."""
    edges, problems = _edges(file)
    for name in edges:
        problems += _walk(name, (), edges, registry)
    if problems:
        raise ConfigError(sorted(set(problems)))


def _edges(file: GoblinFile) -> tuple[dict[str, list[str]], list[str]]:
    """What each name of the tables leads to, and the names that are used twice."""
    tables: dict[str, Mapping[str, Any]] = {
        "aliases": file.aliases,
        "chains": file.chains,
        "weighted": file.weighted,
    }
    edges: dict[str, list[str]] = {}
    problems = []
    for kind, table in tables.items():
        for name, value in table.items():
            if name in edges:
                problems.append(f"goblin.toml [{kind}] {name!r}: the name is used twice")
            items = [value] if isinstance(value, str) else value
            edges[name] = [item if isinstance(item, str) else item.model for item in items]
    return edges, problems


def _walk(
    name: str, path: tuple[str, ...], edges: Mapping[str, list[str]], registry: Registry
) -> Iterator[str]:
    """What is wrong with everything that `name` leads to. `path` is how it was reached."""
    if name in path:
        yield "goblin.toml: " + " -> ".join((*path, name)) + " goes in a circle"
    elif name in edges:
        for further in edges[name]:
            yield from _walk(further, (*path, name), edges, registry)
    elif not registry.find(name):
        provider, slash, _ = name.partition("/")
        if not slash:
            yield f"goblin.toml {path[0]!r}: no provider serves {name!r}; write provider/model"
        elif provider not in registry.providers:
            yield f"goblin.toml {path[0]!r}: there is no provider {provider!r} for {name!r}"
