"""What the shapes of several routes share.

Our own shapes are strict and closed. Those of OpenAI and Anthropic are open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar, overload

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    WrapValidator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError, PydanticKnownError

Precision = Literal["seconds", "milliseconds"]


class Strict(BaseModel):
    """A shape of ours: no coercion, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", defer_build=True)


class Query(BaseModel):
    """Parameters of a query string. Numbers are converted from text; unknown names are refused."""

    model_config = ConfigDict(extra="forbid", defer_build=True)


class Open(BaseModel):
    """A shape of a provider's API: known fields are checked without coercion, unknown ones are
    ignored.

    The client's own body is passed on, not the model, so the model need not keep unknown fields.
    """

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
"""The name of a model, `provider/model` or an alias. Without control characters, because it is
stored and logged."""


@overload
def rfc3339(milliseconds: int, precision: Precision = "seconds") -> str: ...
@overload
def rfc3339(milliseconds: int | None, precision: Precision = "seconds") -> str | None: ...
def rfc3339(milliseconds: int | None, precision: Precision = "seconds") -> str | None:
    """A time in RFC 3339, UTC: `2030-01-31T12:00:00Z`. `milliseconds` are since 1970."""
    if milliseconds is None:
        return None
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.replace(tzinfo=None).isoformat(timespec=precision) + "Z"


# -- lists ----------------------------------------------------------------------------------------
MAX_MESSAGES = 100_000
"""Messages of one request, in every dialect: Anthropic's limit
(https://platform.claude.com/docs/en/api/messages)."""
MAX_INPUTS = 2048
"""Texts of one embeddings request: OpenAI's limit
(https://platform.openai.com/docs/api-reference/embeddings/create)."""
MAX_BIASES = 10_000
"""Entries of logit_bias. Bounded, because each wrong entry makes an error."""
_PIECE = 1000


def in_pieces(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Validate a list a thousand items at a time, and return it unchanged.

    Pydantic would keep a model of every item until the last is checked: ten times the size of the
    body. More than MAX_MESSAGES objects are refused before any is checked.
    """
    if type(value) is not list or len(value) <= _PIECE:
        validate(value)
        return value
    if type(value[0]) is dict and len(value) > MAX_MESSAGES:
        raise PydanticCustomError(  # type: ignore[arg-type]
            "too_long", f"at most {MAX_MESSAGES} items are accepted"
        )
    for start in range(0, len(value), _PIECE):
        try:
            validate(value[start : start + _PIECE])
        except ValidationError as error:
            raise _moved(error, start) from None
    return value


def messages_of(roles: Iterable[str]) -> WrapValidator:
    """Validates messages as `in_pieces` does, a thousand at a time. A piece whose messages all have
    a role and a text, and nothing else, is checked here: this costs a fifth of the models."""
    known = frozenset(roles)

    def plain(messages: list[Any]) -> bool:
        return all(
            type(message) is dict
            and len(message) == 2
            and type(message.get("content")) is str
            and type(role := message.get("role")) is str
            and role in known
            for message in messages
        )

    def validate_all(value: Any, validate: Callable[[Any], Any]) -> Any:
        def validate_piece(piece: Any) -> None:
            if type(piece) is not list or not piece or not plain(piece):
                validate(piece)

        return in_pieces(value, validate_piece)

    return WrapValidator(validate_all)


def _moved(error: ValidationError, start: int) -> ValidationError:
    # The same problems, with positions in the whole list.
    problems: list[InitErrorDetails] = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        location = problem["loc"]
        if location and isinstance(location[0], int):
            location = (start + location[0], *location[1:])
        kind = PydanticCustomError(problem["type"], problem["msg"])
        problems.append({"type": kind, "loc": location, "input": None})
    return ValidationError.from_exception_data(error.title, problems)


def few_entries(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Refuse an object of more than MAX_BIASES entries before any is checked."""
    if type(value) is dict and len(value) > MAX_BIASES:
        raise PydanticCustomError(  # type: ignore[arg-type]
            "too_long", f"at most {MAX_BIASES} entries are accepted"
        )
    return validate(value)


def few_inputs(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Refuse more than MAX_INPUTS texts before any is checked. A list of integers is one text's
    tokens."""
    if type(value) is list and len(value) > MAX_INPUTS and type(value[0]) is not int:
        raise PydanticCustomError(  # type: ignore[arg-type]
            "too_long", f"at most {MAX_INPUTS} inputs are accepted"
        )
    return validate(value)


Item = TypeVar("Item")
Items = Annotated[list[Item], Field(fail_fast=True), WrapValidator(in_pieces)]
"""A list of any length: the first wrong item ends the check."""


def typed(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Check here that each part has a `type` that is text: this costs a fifth of the models."""
    if (
        type(value) is list
        and len(value) <= MAX_MESSAGES
        and all(type(part) is dict and type(part.get("type")) is str for part in value)
    ):
        return value
    return in_pieces(value, validate)


Parts = Annotated[list[Item], Field(fail_fast=True), WrapValidator(typed)]
"""A list of parts of content."""


def _no_zero(limit: int) -> int:
    if limit == 0:
        raise PydanticKnownError("greater_than_equal", {"ge": 1})
    return limit


AnswerLimit = Annotated[
    int, Field(ge=-1, json_schema_extra={"not": {"enum": [0]}}), AfterValidator(_no_zero)
]
"""-1 is no limit: llama.cpp and LM Studio have it so, and their clients send it."""


class Page(Query):
    """Which page of a list."""

    after: Annotated[int, Field(ge=0, le=9_007_199_254_740_991)] = 0
    limit: Annotated[int, Field(ge=1, le=200)] = 100
