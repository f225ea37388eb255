"""Requests and answers of POST /v1/messages and /v1/messages/count_tokens, in Anthropic's shape.

Known fields are checked. Unknown ones go to Anthropic unchanged; for another provider they are
refused by name. Source: https://platform.claude.com/docs/en/api/messages, `anthropic.types` of the
SDK, 2.12.0.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from goblin_assistant.schemas.base import MAX_MESSAGES, Items, ModelName, Open, Parts, messages_of

Role = Literal["user", "assistant", "system"]


class InputBlock(Open):
    """A block of content: `text`, `image`, `document`, `tool_use`, `tool_result`, `thinking` ...,
    each with its own fields."""

    type: str


class InputMessage(Open):
    """A turn of the conversation."""

    role: Role
    content: str | Parts[InputBlock]


class Metadata(Open):
    """`user_id` is an opaque name of the end user."""

    user_id: str | None = None


class CountTokensRequest(Open):
    """What makes up a prompt. Without `model` the user's default is used, then the instance's."""

    messages: Annotated[
        list[InputMessage],
        Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True),
        messages_of(get_args(Role)),
    ]
    model: ModelName | None = None
    system: str | Parts[InputBlock] | None = None
    tools: Items[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None


class TokenCount(Open):
    """The tokens of a prompt."""

    input_tokens: int


class MessagesRequest(CountTokensRequest):
    """Anthropic's request. Without `model` the user's default is used, then the instance's."""

    max_tokens: Annotated[int, Field(ge=0, le=2**31)]
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=1)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    stop_sequences: Items[str] | None = None
    metadata: Metadata | None = None


class OutputBlock(Open):
    """A block of the answer: `text`, `thinking`, `tool_use`."""

    type: str


class MessageUsage(Open):
    """Tokens of one call. Those of the prompt are the sum of three fields."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class Message(Open):
    """Anthropic's message object."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[OutputBlock]
    stop_reason: str | None
    stop_sequence: str | None
    usage: MessageUsage
