"""A person's own conversations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
from apiflask import APIBlueprint
from flask import Response

from goblin_assistant.conversations.store import Message
from goblin_assistant.runtime import runtime
from goblin_assistant.schemas.conversations import (
    ConversationChange,
    ConversationIn,
    ConversationList,
    ConversationOut,
    ConversationQuery,
    MessageList,
    MessageQuery,
    MessagesIn,
    conversation_out,
    cursor_in,
    message_out,
)
from goblin_assistant.web.auth import current_principal, require_auth
from goblin_assistant.web.openapi import describe

bp = APIBlueprint("conversations", __name__, url_prefix="/conversations", tag="Conversations")


@bp.get("")
@require_auth(keys=False)
@bp.input(ConversationQuery, location="query", arg_name="query")
@describe("List or search conversations", answer=ConversationList)
def list_conversations(query: ConversationQuery) -> dict[str, Any]:
    """The caller's, the latest first. `search` looks in titles and messages, without case."""
    rows = runtime().conversations.latest(
        current_principal().user_id, query.search, cursor_in(query.before), query.limit
    )
    last = rows[-1] if len(rows) == query.limit else None
    return {
        "conversations": [conversation_out(row) for row in rows],
        "next_before": None if last is None else f"{last.updated_at}-{last.id}",
    }


@bp.post("")
@require_auth(keys=False)
@bp.input(ConversationIn, arg_name="body")
@describe("Begin a conversation", answer=ConversationOut, status=201, errors=(409, 413, 415))
def create(body: ConversationIn) -> tuple[dict[str, Any], int]:
    """Without messages."""
    settings = body.settings.model_dump(exclude_none=True)
    made = runtime().conversations.create(current_principal().user_id, body.title, settings)
    return conversation_out(made), 201


@bp.delete("")
@describe("Delete all conversations", status=204)
@require_auth(keys=False)
def delete_all() -> Response:
    """All of the caller's, with their messages, for good."""
    runtime().conversations.delete_all(current_principal().user_id)
    return Response(status=204)


@bp.get("/export")
@describe("Export all conversations", text=("application/x-ndjson",))
@require_auth(keys=False)
def export() -> Response:
    """All of the caller's with all messages: a line of JSON for each conversation."""
    found = runtime().conversations.export(current_principal().user_id)

    def lines() -> Iterator[bytes]:
        for row, messages in found:
            # `messages` is the number of them in a list, and here they are themselves.
            head = conversation_out(row)
            del head["messages"]
            yield orjson.dumps(head)[:-1] + b',"messages":['
            for at, message in enumerate(messages):
                yield (b"," if at else b"") + orjson.dumps(message_out(message))
            yield b"]}\n"

    response = Response(lines(), content_type="application/x-ndjson")
    response.headers["Content-Disposition"] = 'attachment; filename="conversations.ndjson"'
    return response


@bp.get("/<int:conversation_id>")
@describe("One conversation", answer=ConversationOut, errors=(404,))
@require_auth(keys=False)
def get(conversation_id: int) -> dict[str, Any]:
    """Without its messages. Another person's is a 404."""
    found = runtime().conversations.get(current_principal().user_id, conversation_id)
    return conversation_out(found)


@bp.patch("/<int:conversation_id>")
@require_auth(keys=False)
@bp.input(ConversationChange, arg_name="body")
@describe("Rename a conversation", answer=ConversationOut, errors=(404, 413, 415))
def change(conversation_id: int, body: ConversationChange) -> dict[str, Any]:
    """Changes its title or its settings."""
    values: dict[str, Any] = {}
    if body.title is not None:
        values["title"] = body.title
    if body.settings is not None:
        values["settings"] = body.settings.model_dump(exclude_none=True)
    changed = runtime().conversations.change(current_principal().user_id, conversation_id, **values)
    return conversation_out(changed)


@bp.delete("/<int:conversation_id>")
@describe("Delete a conversation", status=204, errors=(404,))
@require_auth(keys=False)
def delete(conversation_id: int) -> Response:
    """With its messages, for good."""
    runtime().conversations.delete(current_principal().user_id, conversation_id)
    return Response(status=204)


@bp.get("/<int:conversation_id>/messages")
@require_auth(keys=False)
@bp.input(MessageQuery, location="query", arg_name="query")
@describe("The messages of a conversation", answer=MessageList, errors=(404,))
def messages(conversation_id: int, query: MessageQuery) -> dict[str, Any]:
    """In their order, from the position `start` on."""
    rows, next_start = runtime().conversations.messages(
        current_principal().user_id, conversation_id, query.start, query.limit
    )
    return {
        "messages": [message_out(row) for row in rows],
        "next_start": next_start,
    }


@bp.put("/<int:conversation_id>/messages/<int:position>")
@require_auth(keys=False)
@bp.input(MessagesIn, arg_name="body")
@describe("Write messages from a position on", answer=ConversationOut, errors=(404, 409, 413, 415))
def write(conversation_id: int, position: int, body: MessagesIn) -> dict[str, Any]:
    """Replaces everything from this position on by these messages. 409 when the conversation has
    changed since `revision`."""
    changed = runtime().conversations.write(
        current_principal().user_id,
        conversation_id,
        position,
        body.revision,
        [
            Message(one.role, one.text, one.attachments, one.details.model_dump(exclude_none=True))
            for one in body.messages
        ],
    )
    return conversation_out(changed)
