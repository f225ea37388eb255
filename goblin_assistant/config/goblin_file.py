"""The shape of goblin.toml: provider rows, aliases, chains, weighted groups, prices, limits."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_validator

from goblin_assistant.config.fields import Limit


def http_url(value: str | None) -> str | None:
    """The URL without its trailing slash; None for an empty one. ValueError unless http(s)."""
    if value is None or value == "":
        return None
    if not re.match(r"^https?://[^\s/?#]+", value):
        raise ValueError("accepted: an http:// or https:// URL")
    return value.rstrip("/")


Url = Annotated[str | None, AfterValidator(http_url)]


_PROXY = re.compile(r"http://(?:[^\s/?#@]+@)?(?:[^\s/?#@:\[\]]+|\[[\da-fA-F:.]+\])(?::\d+)?/?")


def proxy_url(value: SecretStr | None) -> SecretStr | None:
    """The URL of a proxy, "" or None. The ValueError does not quote it: it may hold a password."""
    text = value.get_secret_value() if value is not None else ""
    if text and not (text.isascii() and _PROXY.fullmatch(text)):
        raise ValueError("accepted: http://HOST:PORT or http://USER:PASSWORD@HOST:PORT")
    return value


ProxyUrl = Annotated[SecretStr | None, AfterValidator(proxy_url)]


class ModelRow(BaseModel):
    """A model of a provider row with its capabilities and its context window in tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
    id: str = Field(min_length=1)
    capabilities: frozenset[str] = frozenset({"chat"})
    context_window: int | None = Field(None, gt=0)


class ProviderRow(BaseModel):
    """`[providers.<name>]` in goblin.toml: a provider as data.

    Fields left out come from the built-in row of that name, if there is one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
    kind: str | None = Field(
        None,
        description="openai_compatible (default), anthropic, echo, faults, "
        "or the name of an installed entry point",
    )
    enabled: bool = True
    base_url: Url = None
    proxy: ProxyUrl = Field(
        None, description='http://HOST:PORT, the way to the provider; "" for the direct way'
    )
    api_key: SecretStr | None = Field(
        None, description="prefer api_key_env: files are copied, variables are not"
    )
    api_key_env: str | None = None
    models: list[str | ModelRow] | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    query: dict[str, str] = Field(default_factory=dict)
    max_concurrency: int | None = Field(None, ge=1)
    timeout_connect: float | None = Field(None, gt=0)
    timeout_first_token: float | None = Field(None, gt=0)
    timeout_comments: float | None = Field(None, gt=0)
    timeout_answer: float | None = Field(None, gt=0)
    timeout_idle: float | None = Field(None, gt=0)
    options: dict[str, Any] = Field(
        default_factory=dict, description="passed to the provider's class as it is"
    )


class WeightedTarget(BaseModel):
    """One of several targets that share an alias's traffic."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
    model: str
    weight: float = Field(gt=0)


class PriceRow(BaseModel):
    """US dollars per million tokens; overrides genai-prices for one `provider/model`."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
    input: Decimal = Field(ge=0, max_digits=30)
    output: Decimal = Field(ge=0, max_digits=30)
    cached_input: Decimal | None = Field(None, ge=0, max_digits=30)
    cache_write: Decimal | None = Field(None, ge=0, max_digits=30)


class LimitsTable(BaseModel):
    """`[limits]`: for limits whose variables (RATELIMIT_...) are not set."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
    auth: Limit | None = None
    chat: Limit | None = None
    health: Limit | None = None
    default: Limit | None = None
    login_account: Limit | None = None

    def settings(self) -> dict[str, str]:
        """What is given, by attribute of the settings."""
        given = self.model_dump(exclude_none=True)
        return {f"ratelimit_{name}": text for name, text in given.items()}


class GoblinFile(BaseModel):
    """The whole of goblin.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
    providers: dict[str, ProviderRow] = Field(default_factory=dict)
    aliases: dict[str, str] = Field(default_factory=dict)
    chains: dict[str, list[str]] = Field(default_factory=dict)
    weighted: dict[str, list[WeightedTarget]] = Field(default_factory=dict)
    prices: dict[str, PriceRow] = Field(default_factory=dict)
    limits: LimitsTable = Field(default_factory=LimitsTable)

    @field_validator("providers")
    @classmethod
    def _names(cls, value: dict[str, ProviderRow]) -> dict[str, ProviderRow]:
        for name in value:
            if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,63}", name):
                raise ValueError(
                    f"{name!r} is no provider name: lower case letters, digits, _ . -, at most 64"
                )
        return value

    @field_validator("chains")
    @classmethod
    def _not_empty(cls, value: dict[str, list[str]]) -> dict[str, list[str]]:
        for name, targets in value.items():
            if not targets:
                raise ValueError(f"chain {name!r} has no target")
        return value
