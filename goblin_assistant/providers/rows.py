"""From configuration to complete provider rows: which are switched on, with which address, key and
quirks.

A preset (presets.py) gives the defaults. The environment overrides it, and `[providers.<name>]` in
goblin.toml overrides both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypedDict, TypeVar

from pydantic import BaseModel, SecretStr, ValidationError

from goblin_assistant.config import Config, ConfigError, ModelRow, ProviderRow
from goblin_assistant.providers.base import Model
from goblin_assistant.providers.egress import credentials_of, proxy_of, proxy_problems
from goblin_assistant.providers.presets import NO_PRESET, PRESETS, Preset
from goblin_assistant.providers.upstream.errors import Timeouts

Options = TypeVar("Options", bound=BaseModel)

SECRET_HEADERS = ("authorization", "key", "token", "secret", "cookie")
"""A header with one of these in its name holds a credential, which is kept out of logs."""


# -- what from_row needs ------------------------------------------------------------------------
def api_key_of(row: ProviderRow, config: Config) -> str | None:
    """The key: the row's own, else the variable that it names."""
    if row.api_key is not None:
        return row.api_key.get_secret_value()
    return variable(config, row.api_key_env) if row.api_key_env else None


def timeouts_of(row: ProviderRow, config: Config) -> Timeouts:
    """The row's timeouts; those of the instance where it has none."""
    return Timeouts(
        connect=row.timeout_connect or config.timeout_connect,
        first_token=row.timeout_first_token or config.timeout_first_token,
        idle=row.timeout_idle or config.timeout_idle,
        answer=row.timeout_answer or config.longest_answer,
        comments=row.timeout_comments or config.longest_comments,
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


class RowArguments(TypedDict):
    """The arguments that every provider behind HTTP takes from its row."""

    api_key: str | None
    models: list[Model] | None
    headers: Mapping[str, str]
    query: Mapping[str, str]
    timeouts: Timeouts
    pool_size: int
    max_concurrency: int | None
    proxy: str | None


def arguments_of(row: ProviderRow, config: Config) -> RowArguments:
    """These arguments, from a row that has been completed by its preset."""
    return {
        "api_key": api_key_of(row, config),
        "models": declared_models(row),
        "headers": row.headers,
        "query": row.query,
        "timeouts": timeouts_of(row, config),
        "pool_size": config.threads,
        "max_concurrency": row.max_concurrency,
        "proxy": proxy_of(row, config),
    }


def options_of(name: str, row: ProviderRow, kind: type[Options]) -> Options:
    """The row's `options` as an object of `kind`. Raises ConfigError with what is accepted."""
    try:
        return kind.model_validate(row.options)
    except ValidationError as error:
        accepted = ", ".join(sorted(kind.model_fields))
        problems = []
        for item in error.errors():
            path = ".".join(str(part) for part in item["loc"])
            hint = f"; accepted: {accepted}" if item["type"] == "extra_forbidden" else ""
            problems.append(f"[providers.{name}] options.{path}: {item['msg']}{hint}")
        raise ConfigError(problems) from None


def variable(config: Config, name: str) -> str | None:
    """The value of a variable; None when empty. A variable that is also a setting is read from the
    settings, because they can be overridden."""
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
    """Every row that is switched on, complete, in order of precedence: first those of goblin.toml,
    then the presets. A row that cannot be used is a ConfigError with the reason."""
    for name, row in config.file.providers.items():
        if row.enabled:
            yield name, _complete(name, row, PRESETS.get(name, NO_PRESET), config)
    for name, preset in PRESETS.items():
        if name not in config.file.providers and _switched_on(preset, config):
            yield name, _complete(name, ProviderRow(), preset, config)


def _switched_on(preset: Preset, config: Config) -> bool:
    named = [preset.api_key_env] if preset.key_required else [preset.base_url_env]
    if preset.key_required and not preset.base_url:
        named.append(preset.base_url_env)  # Azure has an address for each account
    return all(variable(config, name) for name in named)


def _complete(
    name: str, row: ProviderRow, preset: Preset, config: Config
) -> ProviderRow | ConfigError:
    kind = row.kind or preset.kind
    if kind != preset.kind:
        preset = NO_PRESET  # the row has a well-known name, but is of another kind
    complete = row.model_copy(
        update={
            "kind": kind,
            "base_url": _base_url(row, preset, config),
            "query": {**preset.query, **_query_from_environment(preset, config), **row.query},
            "options": {**preset.options, **row.options},
            "headers": {**preset.headers, **row.headers},
            "api_key_env": row.api_key_env or preset.api_key_env or None,
        }
    )
    problems = [
        *_address_problems(name, complete, preset),
        *_key_problems(name, row, complete, preset, config),
        *proxy_problems(name, complete, config),
    ]
    return ConfigError(problems) if problems else complete


def _base_url(row: ProviderRow, preset: Preset, config: Config) -> str | None:
    from_environment = variable(config, preset.base_url_env) if preset.base_url_env else None
    base_url = (row.base_url or from_environment or preset.base_url).rstrip("/")
    has_no_path = base_url.count("/") == 2
    return (base_url + preset.suffix if has_no_path else base_url) or None


def _query_from_environment(preset: Preset, config: Config) -> dict[str, str]:
    values = {key: variable(config, env) for key, env in preset.query_env.items()}
    return {key: value for key, value in values.items() if value}


def _address_problems(name: str, complete: ProviderRow, preset: Preset) -> Iterator[str]:
    if complete.base_url is None:
        if complete.kind == "openai_compatible":
            needed = "base_url"
            if preset.base_url_env:
                needed += f", or set {preset.base_url_env}"
            known = ", ".join(sorted(other for other, its in PRESETS.items() if its.base_url))
            yield f"[providers.{name}]: needs {needed}; known without one: {known}"
    elif not complete.base_url.startswith(("http://", "https://")):
        yield f"{preset.base_url_env or name}: accepted: an http:// or https:// URL"


def _key_problems(
    name: str, row: ProviderRow, complete: ProviderRow, preset: Preset, config: Config
) -> Iterator[str]:
    key = api_key_of(complete, config)
    if key is None and preset.key_required:
        yield f"[providers.{name}]: has no key; set {complete.api_key_env}, or enabled = false"
    elif key is None and row.api_key_env:
        yield f"[providers.{name}]: api_key_env names {row.api_key_env}, which is not set"
    sent = [key or "", *complete.headers, *complete.headers.values()]
    if not all(text.isprintable() and text.isascii() for text in sent):
        yield f"[providers.{name}]: the key or a header holds characters that HTTP does not allow"


def secrets_of(row: ProviderRow, config: Config) -> list[str]:
    """The credentials of a row, for the log's redaction."""
    found = [
        value
        for name, value in row.headers.items()
        if any(part in name.lower() for part in SECRET_HEADERS)
    ]
    if key := api_key_of(row, config):
        found.append(key)
    if proxy := proxy_of(row, config):
        found += credentials_of(proxy)
    return found
