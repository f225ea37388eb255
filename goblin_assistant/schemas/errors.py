"""Shapes of errors: native, OpenAI's, Anthropic's."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from goblin_assistant.schemas.base import Open, Strict


class FieldProblem(Strict):
    """A field that is wrong, and what is accepted; never its value."""

    field: str
    message: str


class ErrorBody(Open):
    """What native routes answer when they fail."""

    error: str = Field(
        description="snake_case code, see docs/errors.md", examples=["rate_limit_exceeded"]
    )
    message: str
    correlation_id: str
    source: Literal["client", "limit", "gateway", "provider"]
    retry_after: int | None = Field(None, description="whole seconds; on 429 and 503", ge=1)
    provider: str | None = Field(None, description="which provider failed")
    param: str | None = Field(None, description="the field at fault")
    fields: list[FieldProblem] | None = Field(
        None, description="fields at fault, at most ten, on validation_failed"
    )


class OpenAIErrorDetail(Open):
    """The inside of OpenAI's error object."""

    message: str
    type: str
    code: str | None
    param: str | None
    source: Literal["client", "limit", "gateway", "provider"]
    correlation_id: str


class OpenAIErrorBody(Open):
    """What /v1 answers when it fails: what an OpenAI SDK parses."""

    error: OpenAIErrorDetail


class AnthropicErrorDetail(Open):
    """The inside of Anthropic's error object."""

    type: str
    message: str


class AnthropicErrorBody(Open):
    """What /v1/messages answers when it fails: what an Anthropic SDK parses."""

    type: Literal["error"]
    error: AnthropicErrorDetail
    request_id: str
