"""Request and answer of POST /v1/responses, in OpenAI's shape.

Known fields are checked, and `null` means "left out". Unknown ones go unchanged to providers that
have the Responses API; for another provider they are refused by name. Source:
https://platform.openai.com/docs/api-reference/responses/create, `openai.types.responses` of the
SDK, 3.54.0.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, WrapValidator

from goblin_assistant.schemas.base import (
    MAX_MESSAGES,
    AnswerLimit,
    Items,
    ModelName,
    Open,
    Parts,
    in_pieces,
)

Role = Literal["user", "assistant", "system", "developer"]


class InputPart(Open):
    """A part of content: `input_text`, `input_image`, `input_file`, `output_text` ..., each with
    its own fields."""

    type: str


class InputItem(Open):
    """An item of the conversation: a message, a call, what a tool returned, reasoning ..., each
    with its own fields. Without `type` it is a message."""

    type: str | None = None
    role: Role | None = None
    content: str | Parts[InputPart] | None = None


class ResponsesRequest(Open):
    """OpenAI's request. Without `model` the user's default is used, then the instance's."""

    input: (
        str
        | Annotated[
            list[InputItem],
            Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True),
            WrapValidator(in_pieces),
        ]
        | None
    ) = None
    model: ModelName | None = None
    instructions: str | None = None
    stream: bool | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    max_output_tokens: AnswerLimit | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Items[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    include: Items[str] | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    background: bool | None = None
    previous_response_id: str | None = None
    truncation: str | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: str | None = None


class OutputItem(Open):
    """An item of the answer: `message`, `reasoning`, `function_call` ..."""

    type: str


class ResponseUsage(Open):
    """Tokens of one call."""

    input_tokens: int
    output_tokens: int
    total_tokens: int


class ResponseBody(Open):
    """OpenAI's response object. `usage` is null when the provider gave none."""

    id: str
    object: Literal["response"]
    status: str
    model: str
    output: list[OutputItem]
    usage: ResponseUsage | None = None
