"""Shapes of chat, embeddings and models.

The requests are OpenAI's and open: fields that we do not know pass through to the provider, fields
that we know are checked, and `null` means "left out", as it does there
(https://platform.openai.com/docs/api-reference/chat/create).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, StringConstraints, WrapValidator

from goblin_assistant.schemas.base import (
    MAX_MESSAGES,
    AnswerLimit,
    Items,
    ModelName,
    Open,
    Parts,
    few_entries,
    few_inputs,
    in_pieces,
    messages_of,
)

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


class ContentPart(Open):
    """A part of a message: `text`, `image_url`, `input_audio`, `file`, `refusal` ..., each with
    its own field."""

    type: str


class ChatMessage(Open):
    """A message of the conversation. `content` may be null or absent beside `tool_calls`."""

    role: Role
    content: str | Parts[ContentPart] | None = None
    name: str | None = None
    tool_calls: Items[dict[str, Any]] | None = None
    tool_call_id: str | None = None


class StreamOptions(Open):
    """`include_usage` asks for a last chunk with the token counts."""

    include_usage: bool | None = None


class ChatCompletionRequest(Open):
    """OpenAI's chat request. Without `model` the user's default is used, then the instance's."""

    messages: Annotated[
        list[ChatMessage],
        Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True),
        messages_of(get_args(Role)),
    ]
    model: ModelName | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: AnswerLimit | None = None
    max_completion_tokens: AnswerLimit | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    stop: str | Items[str] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: int | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    logit_bias: Annotated[dict[str, float], WrapValidator(few_entries)] | None = None
    tools: Items[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None
    user: str | None = None


class EmbeddingsRequest(Open):
    """OpenAI's embeddings request: text, texts, tokens, or lists of tokens."""

    input: Annotated[
        Annotated[str, StringConstraints(min_length=1)]
        | Annotated[list[str], Field(min_length=1, fail_fast=True), WrapValidator(in_pieces)]
        | Annotated[list[int], Field(min_length=1, fail_fast=True), WrapValidator(in_pieces)]
        | Annotated[
            list[
                Annotated[list[int], Field(min_length=1, fail_fast=True), WrapValidator(in_pieces)]
            ],
            Field(min_length=1, fail_fast=True),
            WrapValidator(in_pieces),
        ],
        WrapValidator(few_inputs),
    ]
    model: ModelName | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    user: str | None = None


# -- answers: only for the document, because a provider's bytes are passed on ---------------------
class TokenUsage(Open):
    """Tokens of one call."""

    prompt_tokens: int
    completion_tokens: int | None = None
    total_tokens: int


class ChatChoice(Open):
    """One of the answers."""

    index: int
    message: dict[str, Any]
    finish_reason: str | None = None


class ChatCompletion(Open):
    """OpenAI's chat completion object. `usage` is absent when the provider gave none."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: TokenUsage | None = None


class EmbeddingItem(Open):
    """One vector, or its bytes in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(Open):
    """OpenAI's list of embeddings."""

    object: Literal["list"]
    data: list[EmbeddingItem]
    model: str
    usage: TokenUsage | None = None


class ModelPrice(Open):
    """A list price in dollars per million tokens, as decimal text, without special tariffs."""

    input: str = Field(examples=["2.5"])
    output: str = Field(examples=["10"])


class ModelItem(Open):
    """A model in OpenAI's shape; `owned_by` is the provider. What follows it is ours, and null
    where it is unknown."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_window: int | None = Field(description="in tokens")
    capabilities: list[str] | None = Field(examples=[["chat", "tools", "vision"]])
    price_per_million: ModelPrice | None


class ModelList(Open):
    """Models that the caller may ask for."""

    object: Literal["list"]
    data: list[ModelItem]
