"""Request and response shapes that several routes share: chat, embeddings, models, health, errors.

Shapes that are ours are strict and closed. The chat and embeddings requests are OpenAI's and open: fields that we do
not know pass through to the provider, fields that we know are checked, and `null` means "left out", as it does there
(https://platform.openai.com/docs/api-reference/chat/create).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    WrapValidator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError


class Strict(BaseModel):
    """A shape of ours: no coercion, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", defer_build=True)


class Query(BaseModel):
    """Parameters of a query string: they arrive as text, so numbers are converted; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", defer_build=True)


class Open(BaseModel):
    """A shape of somebody else's: known fields are checked without coercion, unknown ones left alone. The client's own
    body goes on, not the model: copying unknown fields into it would be work for nothing."""

    model_config = ConfigDict(
        strict=True,
        extra="ignore",
        allow_inf_nan=False,
        defer_build=True,
        json_schema_extra={"additionalProperties": True},
    )


ModelName = Annotated[
    str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")
]
"""Name of a model, `provider/model` or an alias. It is stored and logged: no control characters."""

# -- lists ----------------------------------------------------------------------------------------
MAX_MESSAGES = 100_000
"""Of one request, in every dialect: Anthropic's limit (https://platform.claude.com/docs/en/api/messages)."""
MAX_INPUTS = 2048
"""Texts of one embeddings request: OpenAI's limit (https://platform.openai.com/docs/api-reference/embeddings/create)."""
MAX_BIASES = 10_000
"""Entries of logit_bias; each wrong one is an error of its own."""
_PIECE = 1000


def in_pieces(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Check a list a thousand items at a time and return it as it came. Pydantic would hold a model of each item until
    the last one is checked, ten times the size of the body. More than MAX_MESSAGES objects are refused
    before any of them is looked at."""
    if type(value) is not list or len(value) <= _PIECE:
        validate(value)
        return value
    if type(value[0]) is dict and len(value) > MAX_MESSAGES:
        raise PydanticCustomError("too_long", f"at most {MAX_MESSAGES} items are accepted")  # type: ignore[arg-type]
    for start in range(0, len(value), _PIECE):
        try:
            validate(value[start : start + _PIECE])
        except ValidationError as error:
            raise _moved(error, start) from None
    return value


def _moved(error: ValidationError, start: int) -> ValidationError:
    # The same problems, with the positions that the items have in the whole list.
    problems: list[InitErrorDetails] = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        location = problem["loc"]
        if location and isinstance(location[0], int):
            location = (start + location[0], *location[1:])
        kind = PydanticCustomError(problem["type"], problem["msg"])
        problems.append({"type": kind, "loc": location, "input": None})
    return ValidationError.from_exception_data(error.title, problems)


def few_entries(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Refuse an object of more than MAX_BIASES entries before any of them is looked at."""
    if type(value) is dict and len(value) > MAX_BIASES:
        raise PydanticCustomError("too_long", f"at most {MAX_BIASES} entries are accepted")  # type: ignore[arg-type]
    return validate(value)


def few_inputs(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Refuse more than MAX_INPUTS texts before any of them is looked at; the tokens of one text are no texts."""
    if type(value) is list and len(value) > MAX_INPUTS and type(value[0]) is not int:
        raise PydanticCustomError("too_long", f"at most {MAX_INPUTS} inputs are accepted")  # type: ignore[arg-type]
    return validate(value)


Item = TypeVar("Item")
Items = Annotated[list[Item], Field(fail_fast=True), WrapValidator(in_pieces)]
"""A list of any length: the first wrong item ends the check."""


def typed(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Parts need a `type` that is text, and nothing else: seen here at a fifth of what their models cost."""
    if (
        type(value) is list
        and len(value) <= MAX_MESSAGES
        and all(type(part) is dict and type(part.get("type")) is str for part in value)
    ):
        return value
    return in_pieces(value, validate)


Parts = Annotated[list[Item], Field(fail_fast=True), WrapValidator(typed)]
"""A list of parts of content."""

# -- chat -----------------------------------------------------------------------------------------
Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


class ContentPart(Open):
    """A part of a message: `text`, `image_url`, `input_audio`, `file`, `refusal` ..., each with a field of its own."""

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
    """OpenAI's chat request. `model` may be left out: the user's default is taken, then the instance's."""

    messages: Annotated[
        list[ChatMessage],
        Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True),
        WrapValidator(in_pieces),
    ]
    model: ModelName | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
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


# -- answers (documentation only: a provider's bytes are passed on, not rebuilt) --------------------
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


class ModelItem(Open):
    """A model in OpenAI's shape; `owned_by` is the provider."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Open):
    """Models that the caller may ask for."""

    object: Literal["list"]
    data: list[ModelItem]


# -- health ---------------------------------------------------------------------------------------
ServiceStatus = Literal["healthy", "unhealthy", "unknown", "disabled"]


class HealthAnswer(Strict):
    """The process answers."""

    status: Literal["ok"]
    version: str


class ServiceReport(Strict):
    """The last check of one service. Times are RFC 3339 in UTC; null: never. `circuit` is there for providers."""

    status: ServiceStatus
    kind: Literal["dependency", "provider"]
    latency_ms: float | None
    last_check: str | None
    last_change: str | None
    error: str | None
    circuit: Literal["closed", "half_open", "open"] | None = None


class NamedServiceReport(ServiceReport):
    """The same, with the service's name."""

    service: str


class HealthReport(Strict):
    """All services. Degraded: something is unhealthy, but chats can be served; unknown: the first check is not done."""

    status: Literal["healthy", "degraded", "unhealthy", "unknown"]
    services: dict[str, ServiceReport]


class ServiceStatusAnswer(Strict):
    """The short answer about one service."""

    service: str
    status: ServiceStatus


class LiveAnswer(Strict):
    """The process is alive."""

    status: Literal["alive"]


class ReadyAnswer(Strict):
    """The instance may be sent requests."""

    status: Literal["ready"]


# -- errors ---------------------------------------------------------------------------------------
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
