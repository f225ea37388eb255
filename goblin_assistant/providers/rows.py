"""From configuration to complete provider rows: which are switched on, with which address, key and quirks.

A row is a preset (presets.py), overridden by the environment, overridden by `[providers.<name>]` in goblin.toml.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, SecretStr, ValidationError

from goblin_assistant.config import Config, ConfigError, ModelRow, ProviderRow
from goblin_assistant.providers.base import Model
from goblin_assistant.providers.presets import PRESETS, Preset
from goblin_assistant.providers.upstream.errors import Timeouts

Options = TypeVar("Options", bound=BaseModel)

SECRET_HEADERS = ("authorization", "key", "token", "secret", "cookie")
"""A row's own header with one of these in its name holds a credential: it is kept out of logs."""


# -- what from_row needs ------------------------------------------------------------------------
def api_key_of(row: ProviderRow, config: Config) -> str | None:
    """The key: the row's own, else the variable that it names."""
    if row.api_key is not None:
        return row.api_key.get_secret_value()
    return variable(config, row.api_key_env) if row.api_key_env else None


def timeouts_of(row: ProviderRow, config: Config) -> Timeouts:
    """The row's timeouts, where it has none the instance's."""
    return Timeouts(
        connect=row.timeout_connect or config.timeout_connect,
        first_token=row.timeout_first_token or config.timeout_first_token,
        idle=row.timeout_idle or config.timeout_idle,
    )


def declared_models(row: ProviderRow) -> list[Model] | None:
    """The models that the row lists; None when it lists none."""
    if row.models is None:
        return None
    return [
        Model(item.id, item.capabilities, item.context_window)
        if isinstance(item, ModelRow)
        else Model(item)
        for item in row.models
    ]


def options_of(name: str, row: ProviderRow, kind: type[Options]) -> Options:
    """The row's `options` as an object of `kind`. Raises ConfigError naming what is wrong and what is accepted."""
    try:
        return kind.model_validate(row.options)
    except ValidationError as error:
        accepted = ", ".join(sorted(kind.model_fields))
        raise ConfigError(
            [
                f"[providers.{name}] options.{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
                + (f"; accepted: {accepted}" if item["type"] == "extra_forbidden" else "")
                for item in error.errors()
            ]
        ) from None


def variable(config: Config, name: str) -> str | None:
    """A variable's value, from the settings where it is one (a test's override counts), else from the environment;
    None when empty."""
    fields: Mapping[str, Any] = {
        "OPENAI_API_KEY": config.openai_api_key,
        "OPENAI_BASE_URL": config.openai_base_url,
        "ANTHROPIC_API_KEY": config.anthropic_api_key,
        "ANTHROPIC_BASE_URL": config.anthropic_base_url,
    }
    value = fields[name] if name in fields else config.environ.get(name)
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    return value.strip() or None if value else None


# -- which rows there are -----------------------------------------------------------------------
def rows_of(config: Config) -> Iterator[tuple[str, ProviderRow | ConfigError]]:
    """Every row that is switched on, complete, in order of precedence: goblin.toml's order, then the presets'.

    A row that cannot be used comes as a ConfigError that says why.
    """
    for name, row in config.file.providers.items():
        if row.enabled:
            yield name, _complete(name, row, PRESETS.get(name), config)
    for name, preset in PRESETS.items():
        if name not in config.file.providers and _switched_on(preset, config):
            yield name, _complete(name, ProviderRow(), preset, config)


def _switched_on(preset: Preset, config: Config) -> bool:
    named = [preset.api_key_env] if preset.key_required else [preset.base_url_env]
    if preset.key_required and not preset.base_url:
        named.append(preset.base_url_env)  # Azure: a key without an address is of no use
    return all(variable(config, name) for name in named)


def _complete(
    name: str, row: ProviderRow, preset: Preset | None, config: Config
) -> ProviderRow | ConfigError:
    kind = row.kind or (preset.kind if preset else "openai_compatible")
    if preset is not None and row.kind not in (None, preset.kind):
        preset = None  # a row of another kind that happens to have a known name
    problems: list[str] = []
    base_url = row.base_url
    query = dict(row.query)
    options = dict(row.options)
    headers = dict(row.headers)
    key_env = row.api_key_env
    if preset is not None:
        base_url = (
            base_url
            or (variable(config, preset.base_url_env) if preset.base_url_env else None)
            or preset.base_url
            or None
        )
        from_environment = {key: variable(config, env) for key, env in preset.query_env.items()}
        query = {
            **preset.query,
            **{key: value for key, value in from_environment.items() if value},
            **query,
        }
        options = {**preset.options, **options}
        headers = {**preset.headers, **headers}
        key_env = key_env or preset.api_key_env or None
    if base_url is not None:
        base_url = base_url.rstrip("/")
        if not base_url.startswith(("http://", "https://")):
            problems.append(
                f"{preset.base_url_env if preset else name}: accepted: an http:// or https:// URL"
            )
        elif preset is not None and preset.suffix and base_url.count("/") == 2:
            base_url += preset.suffix
    complete = row.model_copy(
        update={
            "kind": kind,
            "base_url": base_url,
            "query": query,
            "options": options,
            "headers": headers,
            "api_key_env": key_env,
        }
    )
    if kind == "openai_compatible" and base_url is None:
        needed = f"base_url, or set {preset.base_url_env}" if preset is not None else "base_url"
        known = ", ".join(sorted(other for other, its in PRESETS.items() if its.base_url))
        problems.append(f"[providers.{name}]: needs {needed}; known without one: {known}")
    key = api_key_of(complete, config)
    if key is None and preset is not None and preset.key_required:
        problems.append(f"[providers.{name}]: has no key; set {key_env}, or enabled = false")
    elif key is None and row.api_key_env:
        problems.append(
            f"[providers.{name}]: api_key_env names {row.api_key_env}, which is not set"
        )
    if not all(
        text.isprintable() and text.isascii() for text in [key or "", *headers, *headers.values()]
    ):
        problems.append(
            f"[providers.{name}]: the key or a header holds characters that HTTP does not allow"
        )
    return ConfigError(problems) if problems else complete


def secrets_of(row: ProviderRow, config: Config) -> list[str]:
    """The credentials of a row, for the log's redaction."""
    found = [
        value
        for name, value in row.headers.items()
        if any(part in name.lower() for part in SECRET_HEADERS)
    ]
    if key := api_key_of(row, config):
        found.append(key)
    return found
