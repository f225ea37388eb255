"""Shapes of a user's chat defaults."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints

from goblin_assistant.schemas.base import ModelName, Strict


class SettingsIn(Strict):
    """The defaults of a user's chats; null or left out: none."""

    model: ModelName | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    system_prompt: Annotated[str, StringConstraints(max_length=32_768)] | None = None


class ProviderOut(Strict):
    """A provider and the models known of it."""

    name: str
    models: list[str]


class SettingsOut(SettingsIn):
    """The defaults, and what may be chosen."""

    model_config = ConfigDict(strict=True, extra="forbid")
    default_model: str | None = Field(
        description="the instance's, used when `model` is null; null: a chat has to name its model"
    )
    providers: list[ProviderOut]
    aliases: list[str]
    client_address: str = Field(
        description="the address of this request as the server sees it; limits go by it"
    )
