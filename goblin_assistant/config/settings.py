"""One typed, documented, validated configuration.

Sources, strongest first: arguments, environment, `.env` (`NAME_FILE` names a file with the value of
NAME), `goblin.toml` (provider rows, aliases,
chains, prices, limits), defaults. `ConfigError` reports everything wrong at once, by the setting's
name, with what is accepted. The settings are in instance.py, server.py and calls.py; `.env.example`
and docs/configuration.md are generated from them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote

from pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    model_validator,
)

from goblin_assistant.config import sources
from goblin_assistant.config.checks import problems_of
from goblin_assistant.config.derived import DerivedValues
from goblin_assistant.config.goblin_file import GoblinFile
from goblin_assistant.config.redis_address import is_sentinel, sentinel_address

__all__ = ["Config", "ConfigError"]

FAULT_ROW = "fault"
"""The provider of fault models where goblin.toml has no row of that name."""
REDACTED = "**********"


class ConfigError(Exception):
    """The configuration cannot be used. `problems` has a line for each thing that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(
            "configuration is not valid:\n" + "\n".join(f"  - {problem}" for problem in problems)
        )
        self.problems = problems


class Config(DerivedValues):
    """The settings. `env_name()` gives the variable of an attribute."""

    model_config = ConfigDict(defer_build=False)

    file: GoblinFile = Field(
        default_factory=GoblinFile, description="contents of goblin.toml", exclude=True
    )

    # Private, so that no printout shows it.
    _environ: dict[str, str] = PrivateAttr(default_factory=dict)
    _sources: dict[str, Any] = PrivateAttr(default_factory=dict)

    @property
    def environ(self) -> Mapping[str, str]:
        """Every variable of the environment and `.env`, as read at start.

        Provider rows name variables of their own. Holds secrets: never print it.
        """
        return self._environ

    def _loaded_from(self, variables: dict[str, str], given: dict[str, Any]) -> Config:
        self._environ, self._sources = variables, given
        return self

    @classmethod
    def load(
        cls,
        overrides: dict[str, Any] | None = None,
        *,
        environ: dict[str, str] | None = None,
        dotenv: Path | None = None,
    ) -> Config:
        """Read every source and validate, or raise ConfigError with all problems.

        `overrides` maps attribute names or variable names to values (tests). `environ` replaces
        os.environ, `dotenv` the file `.env`.
        """
        names = {cls.env_name(name): name for name in cls.model_fields if name != "file"}
        variables, unread = sources.read_variables(environ, dotenv, names)
        values, problems = sources.choose(variables, overrides or {}, names)
        problems = unread + problems
        problems += sources.add_goblin_file(values)
        sources.add_development_secret(values)
        config = cls._build(values, problems)
        if config is None or problems:
            raise ConfigError(problems)
        sources_given = {"overrides": overrides, "environ": environ, "dotenv": dotenv}
        return config._loaded_from(variables, sources_given)

    def load_again(self) -> Config:
        """The configuration that the same sources give now. Raises ConfigError."""
        return type(self).load(**self._sources)

    @classmethod
    def _build(cls, values: dict[str, Any], problems: list[str]) -> Config | None:
        # With a wrong field pydantic does not run the checks across fields. So the second pass
        # leaves the wrong fields out, and reports what the checks find.
        for _ in range(2):
            try:
                return cls(**values)
            except _Problems as error:
                problems += error.problems
                return None
            except ValidationError as error:
                problems += _describe(error, cls)
                wrong = {str(item["loc"][0]) for item in error.errors()}
                wrong |= {name for name in values if cls.env_name(name) in wrong}
                values = {name: value for name, value in values.items() if name not in wrong}
        return None

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if problems := problems_of(self, echo_by_name=self.echo_by_name):
            raise _Problems(problems)
        return self

    @property
    def echo_by_name(self) -> bool:
        """Whether the embedded `echo` answers only keys whose model list names it: in production.
        A row of that name in goblin.toml is the operator's own provider."""
        return self.production and "echo" not in self.file.providers

    @property
    def offers_faults(self) -> bool:
        """Whether the models of FAULT_ROW are there without a row in goblin.toml."""
        wanted = not self.production if self.fault_models is None else self.fault_models
        return wanted and FAULT_ROW not in self.file.providers

    def rehearses(self, provider: str) -> bool:
        """Whether what fails at this provider fails on purpose."""
        row = self.file.providers.get(provider)
        return row.kind == "faults" if row else provider == FAULT_ROW and self.offers_faults

    def secret_values(self) -> list[str]:
        """Every secret in clear, for redaction: of settings, URLs and provider rows."""
        values = [value.get_secret_value() for _, value in self if isinstance(value, SecretStr)]
        urls = [value for _, value in self if isinstance(value, str) and "://" in value]
        for row in self.file.providers.values():
            values += [row.api_key.get_secret_value()] if row.api_key else []
            values += [self._environ.get(row.api_key_env, "")] if row.api_key_env else []
            urls += [row.base_url] if row.base_url else []
            urls += [row.proxy.get_secret_value()] if row.proxy else []
            # A header or a query may hold a key or an API version. A key is longer.
            values += [
                value for value in (*row.headers.values(), *row.query.values()) if len(value) >= 16
            ]
        values += [
            text
            for url in urls
            if is_sentinel(url)
            for text in (sentinel_address(url).password, sentinel_address(url).sentinel_password)
            if text
        ]
        for name, value in self._environ.items():  # OpenTelemetry's headers: name=value,name=value
            if name.startswith("OTEL_EXPORTER_") and name.endswith("_HEADERS"):
                values += [unquote(one.partition("=")[2].strip()) for one in value.split(",")]
        for url in urls:
            if match := re.search(r"://[^/@\s:]*:([^/@\s]+)@", url):
                values += [match.group(1), unquote(match.group(1))]
        return [value for value in values if value]

    @classmethod
    def env_name(cls, field: str) -> str:
        """The variable of an attribute."""
        return str(cls.model_fields[field].validation_alias or field.upper())

    def __repr__(self) -> str:
        # Redacted: URLs hold passwords, and tracebacks hold representations.
        return f"Config({self.redacted()})"

    __str__ = __repr__

    def redacted(self) -> dict[str, Any]:
        """Every setting by its variable name, secrets and passwords in URLs replaced."""
        result: dict[str, Any] = {}
        for name in type(self).model_fields:
            if name == "file":
                continue
            value = getattr(self, name)
            if isinstance(value, SecretStr):
                value = REDACTED
            elif isinstance(value, Path):
                value = str(value)
            elif isinstance(value, str):
                value = re.sub(r"(://[^/@\s]*:)[^/@\s]*@", rf"\1{REDACTED}@", value)
                value = re.sub(r"(://.*[?&]sentinel_password=)[^&]+", rf"\1{REDACTED}", value)
            result[self.env_name(name)] = value
        return result


class _Problems(Exception):
    # Not a ValueError: pydantic would make one message of its own of all problems.
    def __init__(self, problems: list[str]) -> None:
        self.problems = problems


def _describe(error: ValidationError, cls: type[Config]) -> list[str]:
    lines = []
    for item in error.errors(include_input=True):
        field = str(item["loc"][0])
        env = cls.env_name(field) if field in cls.model_fields else field
        value = item.get("input")
        info = cls.model_fields.get(field)
        secret = info is not None and "SecretStr" in str(info.annotation)
        shown = "" if secret or isinstance(value, dict) or "://" in str(value) else f"={value}"
        lines.append(f"{env}{shown}: {item['msg'].removeprefix('Value error, ')}")
    return lines
