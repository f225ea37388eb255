"""How OpenAI-compatible servers differ: the `options` of a row."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from goblin_assistant.providers.wire_form import ANY, MessageForm
from goblin_assistant.providers.wire_forms import WIRE_FORMS


def _known_form(name: str) -> str:
    known = sorted(name for name, form in WIRE_FORMS.items() if form.messages is not None)
    if name and name not in known:
        raise ValueError(f"accepted: {', '.join(known)}")
    return name


def _blank(value: Any) -> Any:
    return None if value == "" else value  # TOML has no null


class Quirks(BaseModel):
    """`options` of a row. Paths may hold `{model}`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    stream_options: bool = Field(
        True,
        description="false: the server refuses stream_options; a client's own are left out too",
    )
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = Field(
        None, description="the one name of the limit that it knows"
    )
    max_tokens_models: str = Field(
        ".*",
        description=(
            "regular expression: the models (from their first letter) that max_tokens_field is for"
        ),
    )
    auth_header: str = "Authorization"
    auth_prefix: str = "Bearer "
    chat_path: str = "/chat/completions"
    embeddings_path: Annotated[str | None, BeforeValidator(_blank)] = "/embeddings"
    responses_path: Annotated[str | None, BeforeValidator(_blank)] = Field(
        None,
        description=(
            "where the server has the Responses API; empty: it has none, and requests to it are "
            "translated to chats"
        ),
    )
    models_path: Annotated[str | None, BeforeValidator(_blank)] = Field(
        "/models", description="empty: the server has no list of models"
    )
    learn_models: bool = Field(True, description="false: GET models is a check only")
    model_id_prefix: str = Field("", description="what the list writes before each id")
    drop_fields: tuple[str, ...] = Field(
        (), description="request fields that the server refuses; left out"
    )
    drop_message_fields: tuple[str, ...] | None = Field(
        None,
        description=(
            "fields of earlier assistant messages and their tool calls that the server refuses; "
            "left out. None: those of the wire form"
        ),
    )
    tool_call_ids: str | None = Field(
        None,
        description=(
            "regular expression: the ids of tool calls that the server takes; others are sent as "
            "nine letters and digits made of them. Empty: any. None: those of the wire form"
        ),
    )
    wire_form: Annotated[str, AfterValidator(_known_form)] = Field(
        "",
        description=(
            "name of a known provider whose form of messages the server has, such as deepseek for "
            "one that needs reasoning_content back"
        ),
    )
    ca_bundle: str | None = Field(
        None, description="path of the CA certificates that the server's own is checked against"
    )

    def message_form(self, row: str) -> MessageForm:
        """What a row with these options takes in messages: its wire form's, but for the options."""
        known = WIRE_FORMS.get(self.wire_form or row)
        form = known.messages if known is not None and known.messages is not None else ANY
        if self.drop_message_fields is not None:
            form = replace(form, refused_fields=self.drop_message_fields)
        if self.tool_call_ids is not None:
            form = replace(form, tool_call_ids=self.tool_call_ids)
        return form
