"""Stores conversations and their messages in the database.

Each conversation belongs to one user. For everybody else it does not exist (NotFound).

Messages are numbered from 0. A write replaces everything from one position on. This one operation
adds an answer, regenerates it, or sends an edited question. Each write names the revision that it
has read. If two tabs write, the second gets Conflict and must read again.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine, Row, delete, func, insert, or_, select, tuple_, update

from goblin_assistant.accounts.api_keys import MAX_ID
from goblin_assistant.database.engine import insert_row
from goblin_assistant.database.models import (
    conversation_messages,
    conversations,
    now_ms,
)
from goblin_assistant.database.pool import begin, connect
from goblin_assistant.errors import Conflict, NoFreeSlot, NotFound

logger = logging.getLogger("goblin_assistant.conversations")

MOST_CONVERSATIONS = 10_000
MOST_MESSAGES = 5_000
DAY_MS = 86_400_000
SEARCHES = 2
"""Searches at a time in one instance. To search 100 MB takes SQLite tens of seconds."""
SEARCH_WAIT_SECONDS = 2.0
PAGE_BYTES = 4 * 1024 * 1024
"""The part of a conversation that is in memory at once. A single larger message is also held."""

_mine = conversations.c
_of = conversation_messages.c


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `attachments` are images as data: URLs. `details` describe how an answer was
    made, such as its model and cost."""

    role: str
    text: str
    attachments: list[str]
    details: dict[str, Any]

    @property
    def size(self) -> int:
        """Bytes, as they count against what a user may keep."""
        details = len(json.dumps(self.details))  # as the database keeps it
        return len(self.text.encode()) + sum(map(len, self.attachments)) + details


class Conversations:
    """The conversations of all users. Shared by all threads."""

    def __init__(self, engine: Engine, most_bytes: int) -> None:
        """`most_bytes` is the total size that one user may keep."""
        self._engine = engine
        self._most_bytes = most_bytes
        self._searches = threading.BoundedSemaphore(SEARCHES)

    def latest(
        self,
        user_id: int,
        search: str = "",
        before: tuple[int, int] | None = None,
        limit: int = 50,
    ) -> list[Row[Any]]:
        """A page of the user's conversations, latest first.

        `before` is (`updated_at`, `id`) of the last one on the previous page. `search` is looked
        for in titles and texts, ignoring case. It reads all of them, so only SEARCHES run at a
        time; raises NoFreeSlot after SEARCH_WAIT_SECONDS.
        """
        wanted = select(conversations).where(_mine.user_id == user_id)
        if before is not None:
            wanted = wanted.where(tuple_(_mine.updated_at, _mine.id) < tuple_(*before))
        if search:
            inside = select(_of.conversation_id).where(
                _of.conversation_id == _mine.id, _of.text.icontains(search, autoescape=True)
            )
            found = _mine.title.icontains(search, autoescape=True)
            wanted = wanted.where(or_(found, inside.exists()))
        wanted = wanted.order_by(_mine.updated_at.desc(), _mine.id.desc()).limit(limit)
        with self._turn() if search else nullcontext(), connect(self._engine) as connection:
            return list(connection.execute(wanted).all())

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._searches.acquire(timeout=SEARCH_WAIT_SECONDS):
            raise NoFreeSlot("too many searches at once; try again shortly", retry_after=1.0)
        try:
            yield
        finally:
            self._searches.release()

    def create(self, user_id: int, title: str, settings: dict[str, Any]) -> Row[Any]:
        """Create a conversation without messages. Raises Conflict if the user has too many."""
        with begin(self._engine) as connection:
            count = select(func.count()).where(_mine.user_id == user_id)
            if connection.execute(count).scalar_one() >= MOST_CONVERSATIONS:
                raise Conflict(f"there are {MOST_CONVERSATIONS} conversations; delete some")
            values = {"title": title, "settings": settings, "updated_at": now_ms()}
            made = insert_row(connection, conversations, user_id=user_id, **values)
            return _find(connection, user_id, made)

    def get(self, user_id: int, conversation_id: int) -> Row[Any]:
        """The conversation. Raises NotFound."""
        with connect(self._engine) as connection:
            return _find(connection, user_id, conversation_id)

    def change(self, user_id: int, conversation_id: int, **values: Any) -> Row[Any]:
        """Change title or settings. The conversation keeps its place in the list."""
        with begin(self._engine) as connection:
            _find(connection, user_id, conversation_id)
            if values:
                connection.execute(
                    update(conversations).where(_mine.id == conversation_id).values(**values)
                )
            return _find(connection, user_id, conversation_id)

    def delete(self, user_id: int, conversation_id: int) -> None:
        """Delete a conversation and its messages."""
        with begin(self._engine) as connection:
            _find(connection, user_id, conversation_id)
            connection.execute(delete(conversations).where(_mine.id == conversation_id))
        logger.info("conversation_deleted", extra={"user_id": user_id})

    def delete_all(self, user_id: int) -> None:
        """Delete all conversations of a user."""
        with begin(self._engine) as connection:
            connection.execute(delete(conversations).where(_mine.user_id == user_id))
        logger.info("conversations_deleted", extra={"user_id": user_id})

    def messages(
        self, user_id: int, conversation_id: int, start: int = 0, limit: int = 1000
    ) -> tuple[list[Row[Any]], int | None]:
        """Messages from a position on, at most PAGE_BYTES, and the position of the next page; None
        at the end."""
        with connect(self._engine) as connection:
            found = _find(connection, user_id, conversation_id)
            rows = _messages(connection, conversation_id, start, limit)
        after = rows[-1].position + 1 if rows else found.messages
        return rows, after if after < found.messages else None

    def write(
        self,
        user_id: int,
        conversation_id: int,
        position: int,
        revision: int,
        messages: Sequence[Message],
    ) -> Row[Any]:
        """Replace the messages from `position` on by `messages`.

        Raises Conflict if the conversation has changed since `revision`, or if the user would keep
        too much.
        """
        with begin(self._engine) as connection:
            found = _find(connection, user_id, conversation_id)
            taken = connection.execute(
                update(conversations)
                .where(_mine.id == conversation_id, _mine.revision == revision)
                .values(revision=revision + 1)
            )
            if taken.rowcount != 1 or position > found.messages:
                raise Conflict("the conversation has changed; read it again")
            if position + len(messages) > MOST_MESSAGES:
                raise Conflict(f"the conversation has {MOST_MESSAGES} messages; begin a new one")
            here = _of.conversation_id == conversation_id
            connection.execute(delete(conversation_messages).where(here, _of.position >= position))
            left = select(func.coalesce(func.sum(_of.bytes), 0)).where(here)
            kept = connection.execute(left).scalar_one()
            size = int(kept) + sum(message.size for message in messages)
            self._check_room(connection, user_id, conversation_id, size)
            if messages:
                connection.execute(
                    insert(conversation_messages),
                    [
                        _values(conversation_id, position + at, message)
                        for at, message in enumerate(messages)
                    ],
                )
            connection.execute(
                update(conversations)
                .where(_mine.id == conversation_id)
                .values(messages=position + len(messages), bytes=size, updated_at=now_ms())
            )
            return _find(connection, user_id, conversation_id)

    def export(self, user_id: int) -> Iterator[tuple[Row[Any], Iterator[Row[Any]]]]:
        """Every conversation with all its messages, oldest first. Holds PAGE_BYTES at a time, and
        no database connection while the caller sends them."""
        after = 0
        while True:
            following = (
                select(conversations)
                .where(_mine.user_id == user_id, _mine.id > after)
                .order_by(_mine.id)
                .limit(1)
            )
            with connect(self._engine) as connection:
                found = connection.execute(following).one_or_none()
                if found is None:
                    return
            yield found, self._messages_of(found.id)
            after = found.id

    def _messages_of(self, conversation_id: int) -> Iterator[Row[Any]]:
        start = 0
        while True:
            with connect(self._engine) as connection:
                rows = _messages(connection, conversation_id, start, MOST_MESSAGES)
            if not rows:
                return
            yield from rows
            start = rows[-1].position + 1

    def prune(self, days: int) -> None:
        """Delete conversations without a write for so many days."""
        with begin(self._engine) as connection:
            gone = connection.execute(
                delete(conversations).where(_mine.updated_at < now_ms() - days * DAY_MS)
            )
        if gone.rowcount:
            logger.info("conversations_pruned", extra={"count": gone.rowcount})

    def _check_room(
        self, connection: Connection, user_id: int, conversation_id: int, size: int
    ) -> None:
        others = select(func.coalesce(func.sum(_mine.bytes), 0)).where(
            _mine.user_id == user_id, _mine.id != conversation_id
        )
        if int(connection.execute(others).scalar_one()) + size > self._most_bytes:
            raise Conflict(
                f"your conversations may take {self._most_bytes} bytes; delete some, "
                "or those with images"
            )


def _find(connection: Connection, user_id: int, conversation_id: int) -> Row[Any]:
    found = None
    if conversation_id <= MAX_ID:
        found = connection.execute(
            select(conversations).where(_mine.id == conversation_id, _mine.user_id == user_id)
        ).one_or_none()
    if found is None:
        raise NotFound("there is no such conversation")
    return found


def _messages(
    connection: Connection, conversation_id: int, start: int, limit: int
) -> list[Row[Any]]:
    here = _of.conversation_id == conversation_id
    sizes = (
        select(_of.position, _of.bytes)
        .where(here, _of.position >= start)
        .order_by(_of.position)
        .limit(limit)
    )
    end, total = start - 1, 0
    for position, size in connection.execute(sizes).all():
        total += size
        if total > PAGE_BYTES and end >= start:
            break
        end = position
    wanted = select(conversation_messages).where(here, _of.position.between(start, end))
    return list(connection.execute(wanted.order_by(_of.position)).all())


def _values(conversation_id: int, position: int, message: Message) -> dict[str, Any]:
    return {
        "conversation_id": conversation_id,
        "position": position,
        "role": message.role,
        "text": message.text,
        "attachments": message.attachments,
        "details": message.details,
        "bytes": message.size,
        "created_at": now_ms(),
    }
