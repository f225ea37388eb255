"""Shapes of conversations."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints
from sqlalchemy import Row

from goblin_assistant.schemas.base import Query, Strict, rfc3339
from goblin_assistant.schemas.settings import SettingsIn

IMAGE = r"^data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}$"
CURSOR = r"^\d{1,15}-\d{1,18}$"


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold the character NUL, which PostgreSQL cannot keep")
    return text


Storable = Annotated[
    str, AfterValidator(_storable), Field(json_schema_extra={"pattern": r"^[^\u0000]*$"})
]
Short = Annotated[Storable, StringConstraints(max_length=255)]
Long = Annotated[Storable, StringConstraints(max_length=4_000_000)]
Title = Annotated[Storable, StringConstraints(max_length=200)]
Count = Annotated[int, Field(ge=0, le=9_007_199_254_740_991)]


class Details(Strict):
    """How an answer came about, and what it cost."""

    model: Short | None = None
    provider: Short | None = None
    correlation_id: Short | None = None
    attempts: Count | None = None
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    cost_usd: Short | None = None
    first_token_ms: Count | None = None
    duration_ms: Count | None = None
    finish_reason: Short | None = None
    error: Long | None = None
    reasoning: Long | None = None


class MessageIn(Strict):
    """One message to keep."""

    role: Literal["user", "assistant"]
    text: Long = ""
    attachments: Annotated[
        list[Annotated[str, StringConstraints(max_length=20_000_000, pattern=IMAGE)]],
        Field(max_length=20),
    ] = Field(default_factory=list, description="images, as data: addresses")
    details: Details = Field(default_factory=Details)


class MessageOut(MessageIn):
    """One message as it is kept."""

    position: int
    created_at: str


class MessagesIn(Strict):
    """The new end of a conversation."""

    revision: Count = Field(description="of the conversation as the caller has read it")
    messages: Annotated[list[MessageIn], Field(max_length=1000)]


class MessageList(Strict):
    """Messages; `next_start` is the position of the next page, null on the last."""

    messages: list[MessageOut]
    next_start: int | None


class ConversationIn(Strict):
    """A new conversation."""

    title: Title = ""
    settings: SettingsIn = Field(default_factory=SettingsIn)


class ConversationChange(Strict):
    """Changes; what is left out stays as it is."""

    title: Title | None = None
    settings: SettingsIn | None = None


class ConversationOut(Strict):
    """A conversation without its messages."""

    id: int
    title: str
    settings: SettingsIn
    revision: int
    messages: int = Field(description="how many it has")
    created_at: str
    updated_at: str


class ConversationList(Strict):
    """Conversations; `next_before` is the cursor of the next page, null on the last."""

    conversations: list[ConversationOut]
    next_before: str | None


class ConversationQuery(Query):
    """Which conversations."""

    search: Annotated[str, StringConstraints(max_length=200), AfterValidator(_storable)] = ""
    before: Annotated[str, StringConstraints(pattern=CURSOR)] | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50


class MessageQuery(Query):
    """Which messages."""

    start: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    limit: Annotated[int, Field(ge=1, le=1000)] = 1000


def cursor_in(text: str | None) -> tuple[int, int] | None:
    """The place in the list that a cursor means."""
    if text is None:
        return None
    updated_at, _, conversation_id = text.partition("-")
    return int(updated_at), int(conversation_id)


def conversation_out(row: Row[Any]) -> dict[str, Any]:
    """A conversation as the API shows it."""
    return {
        "id": row.id,
        "title": row.title,
        "settings": SettingsIn(**row.settings).model_dump(),
        "revision": row.revision,
        "messages": row.messages,
        "created_at": rfc3339(row.created_at, "milliseconds"),
        "updated_at": rfc3339(row.updated_at, "milliseconds"),
    }


def message_out(row: Row[Any]) -> dict[str, Any]:
    """A message as the API shows it."""
    return {
        "position": row.position,
        "role": row.role,
        "text": row.text,
        "attachments": row.attachments,
        "details": row.details,
        "created_at": rfc3339(row.created_at, "milliseconds"),
    }
