"""A person's conversations on SQLite and PostgreSQL: order, search, revisions, room, retention."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, delete, event, func, select, update

from goblin_assistant.conversations.store import Conversations, Message
from goblin_assistant.database.models import (
    conversation_messages,
    conversations,
    now_ms,
    users,
)
from goblin_assistant.errors import Conflict, NoFreeSlot, NotFound
from tests.support.accounts_fixtures import PASSWORD, accounts, database_url, engine

__all__ = ["accounts", "database_url", "engine"]


def said(text: str, role: str = "user", attachments: tuple[str, ...] = ()) -> Message:
    return Message(role, text, list(attachments), {})


@pytest.fixture
def store(engine: Engine) -> Conversations:
    """Conversations with room for 10,000 bytes a person."""
    return Conversations(engine, 10_000)


@pytest.fixture
def ada(accounts: Any) -> int:
    """A user's id."""
    return int(accounts.create("ada@example.com", PASSWORD).id)


@pytest.fixture
def eve(accounts: Any) -> int:
    """Another user's."""
    return int(accounts.create("eve@example.com", PASSWORD).id)


def texts(store: Conversations, user_id: int, conversation_id: int) -> list[str]:
    found, next_start = store.messages(user_id, conversation_id)
    assert next_start is None
    return [row.text for row in found]


def test_messages_are_added_replaced_and_cut_off_from_a_position_on(
    store: Conversations, ada: int
) -> None:
    made = store.create(ada, "Goblins", {"temperature": 0.5})
    first = store.write(ada, made.id, 0, 0, [said("one"), said("two", "assistant")])
    assert (first.revision, first.messages) == (1, 2)
    more = store.write(ada, made.id, 2, 1, [said("three")])
    assert texts(store, ada, made.id) == ["one", "two", "three"]
    edited = store.write(ada, made.id, 1, more.revision, [said("another two", "assistant")])
    assert texts(store, ada, made.id) == ["one", "another two"]
    emptied = store.write(ada, made.id, 0, edited.revision, [])
    assert (emptied.messages, emptied.bytes) == (0, 0)
    assert store.get(ada, made.id).settings == {"temperature": 0.5}


def test_pages_of_messages_follow_each_other(store: Conversations, ada: int) -> None:
    made = store.create(ada, "", {})
    store.write(ada, made.id, 0, 0, [said(str(number)) for number in range(25)])
    pages = [store.messages(ada, made.id, start, 10) for start in (0, 10, 20)]
    assert [row.text for page, _ in pages for row in page] == [str(number) for number in range(25)]
    assert [next_start for _, next_start in pages] == [10, 20, None]


def test_a_page_and_the_export_hold_a_few_megabytes_at_a_time(
    engine: Engine, ada: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goblin_assistant.conversations.store.PAGE_BYTES", 2_500)
    store = Conversations(engine, 100_000)
    made = store.create(ada, "", {})
    sizes = [1_000, 1_000, 1_000, 9_000, 1_000]  # the large one is a page of its own
    store.write(ada, made.id, 0, 0, [said("x" * size) for size in sizes])
    pages: list[list[int]] = []
    start: int | None = 0
    while start is not None:
        found, start = store.messages(ada, made.id, start)
        pages.append([row.position for row in found])
    assert pages == [[0, 1], [2], [3], [4]]
    asked: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
    ((_, messages),) = store.export(ada)
    asked.clear()
    assert next(messages).position == 0
    first = len(asked)
    assert [row.position for row in messages] == [1, 2, 3, 4]
    assert len(asked) > first  # the others were read when they were wanted


def test_the_id_of_a_deleted_conversation_is_not_given_again(
    store: Conversations, ada: int
) -> None:
    gone = store.create(ada, "private", {}).id
    store.delete(ada, gone)
    assert store.create(ada, "another", {}).id > gone


def test_of_two_tabs_the_second_is_told_to_read_again(store: Conversations, ada: int) -> None:
    made = store.create(ada, "", {})
    store.write(ada, made.id, 0, 0, [said("of the first tab")])
    with pytest.raises(Conflict, match="read it again"):
        store.write(ada, made.id, 0, 0, [said("of the second tab")])
    assert texts(store, ada, made.id) == ["of the first tab"]


def test_a_position_beyond_the_end_is_refused(store: Conversations, ada: int) -> None:
    made = store.create(ada, "", {})
    with pytest.raises(Conflict):
        store.write(ada, made.id, 1, 0, [said("with a hole before it")])
    assert store.get(ada, made.id).revision == 0


def test_of_eight_writes_at_once_one_wins(store: Conversations, ada: int) -> None:
    made = store.create(ada, "", {})
    together = threading.Barrier(8, timeout=60)
    results: list[str] = []

    def write(number: int) -> None:
        together.wait()
        try:
            store.write(ada, made.id, 0, 0, [said(str(number))])
            results.append(str(number))
        except Conflict:
            results.append("refused")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 8
    (winner,) = [result for result in results if result != "refused"]
    assert texts(store, ada, made.id) == [winner]


def test_the_list_has_the_latest_first_in_pages_without_gaps(
    store: Conversations, engine: Engine, ada: int
) -> None:
    made = [store.create(ada, str(number), {}).id for number in range(7)]
    with engine.begin() as connection:  # some at the same millisecond
        for at, one in enumerate(made):
            connection.execute(
                update(conversations)
                .where(conversations.c.id == one)
                .values(updated_at=1000 + at // 3)
            )
    seen: list[int] = []
    before = None
    while page := store.latest(ada, before=before, limit=2):
        seen += [row.id for row in page]
        before = (page[-1].updated_at, page[-1].id)
    assert seen == list(reversed(made))


def test_search_finds_titles_and_texts_without_case_and_takes_signs_as_they_are(
    store: Conversations, ada: int, eve: int
) -> None:
    titled = store.create(ada, "Recipes for MUSHROOMS", {}).id
    inside = store.create(ada, "Other", {}).id
    store.write(ada, inside, 0, 0, [said("where do mushrooms grow? 100% in caves")])
    hers = store.create(eve, "mushrooms of Eve", {}).id
    assert hers
    assert {row.id for row in store.latest(ada, "mushrooms")} == {titled, inside}
    assert [row.id for row in store.latest(ada, "100%")] == [inside]
    assert store.latest(ada, "100_") == []
    assert store.latest(ada, "'; DROP TABLE users; --") == []


def test_nobody_reaches_the_conversation_of_another(
    store: Conversations, ada: int, eve: int
) -> None:
    made = store.create(ada, "private", {}).id
    store.write(ada, made, 0, 0, [said("secret")])
    for reach in (
        lambda: store.get(eve, made),
        lambda: store.messages(eve, made),
        lambda: store.change(eve, made, title="mine"),
        lambda: store.write(eve, made, 0, 1, []),
        lambda: store.delete(eve, made),
    ):
        with pytest.raises(NotFound):
            reach()
    store.delete_all(eve)
    assert store.latest(eve) == []
    assert list(store.export(eve)) == []
    assert texts(store, ada, made) == ["secret"]


def rows(engine: Engine) -> tuple[int, int]:
    """How many conversations and messages there are."""
    with engine.connect() as connection:
        return (
            connection.execute(select(func.count()).select_from(conversations)).scalar_one(),
            connection.execute(
                select(func.count()).select_from(conversation_messages)
            ).scalar_one(),
        )


def test_deleting_takes_the_messages_along(
    store: Conversations, engine: Engine, ada: int, eve: int
) -> None:
    for user in (ada, ada, eve):
        made = store.create(user, "", {})
        store.write(user, made.id, 0, 0, [said("hello")])
    store.delete(ada, made.id) if made.user_id == ada else store.delete(eve, made.id)
    assert rows(engine) == (2, 2)
    store.delete_all(ada)
    assert rows(engine) == (0, 0)


def test_with_the_account_its_conversations_go(
    store: Conversations, engine: Engine, ada: int
) -> None:
    made = store.create(ada, "", {})
    store.write(ada, made.id, 0, 0, [said("hello")])
    with engine.begin() as connection:
        connection.execute(delete(users).where(users.c.id == ada))
    assert rows(engine) == (0, 0)


def test_a_person_may_keep_so_much_and_is_told(store: Conversations, ada: int, eve: int) -> None:
    made = store.create(ada, "", {})
    kept = store.write(ada, made.id, 0, 0, [said("x" * 9_000)])
    other = store.create(ada, "", {})
    with pytest.raises(Conflict, match="delete some"):
        store.write(ada, other.id, 0, 0, [said("y" * 2_000)])
    assert store.get(ada, other.id).messages == 0
    store.write(eve, store.create(eve, "", {}).id, 0, 0, [said("z" * 9_000)])
    store.write(ada, made.id, 0, kept.revision, [said("short")])
    assert store.write(ada, other.id, 0, 0, [said("y" * 2_000)]).messages == 1


def test_the_export_holds_everything_in_order(store: Conversations, ada: int) -> None:
    for title in ("one", "two", "three"):
        made = store.create(ada, title, {})
        store.write(ada, made.id, 0, 0, [said(f"{title} {number}") for number in range(3)])
    whole = [(row.title, [m.text for m in messages]) for row, messages in store.export(ada)]
    assert whole == [
        (title, [f"{title} {number}" for number in range(3)]) for title in ("one", "two", "three")
    ]


def test_retention_deletes_what_nobody_has_written_to_for_so_long(
    store: Conversations, engine: Engine, ada: int
) -> None:
    old, young = store.create(ada, "old", {}).id, store.create(ada, "young", {}).id
    store.write(ada, old, 0, 0, [said("old")])
    with engine.begin() as connection:
        connection.execute(
            update(conversations)
            .where(conversations.c.id == old)
            .values(updated_at=now_ms() - 31 * 86_400_000)
        )
    store.prune(30)
    assert [row.id for row in store.latest(ada)] == [young]
    assert rows(engine) == (1, 0)


def test_two_search_at_a_time_and_a_third_is_told_to_wait(
    store: Conversations, engine: Engine, ada: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("goblin_assistant.conversations.store.SEARCH_WAIT_SECONDS", 0.05)
    store.create(ada, "Goblins", {})
    held, begun, go = threading.Semaphore(2), threading.Semaphore(0), threading.Event()

    @event.listens_for(engine, "before_cursor_execute")
    def hold(*_: Any) -> None:
        if held.acquire(blocking=False):
            begun.release()
            assert go.wait(60)

    with ThreadPoolExecutor(2) as pool:
        try:
            searches = [pool.submit(store.latest, ada, "goblin") for _ in range(2)]
            assert all(begun.acquire(timeout=60) for _ in searches)
            with pytest.raises(NoFreeSlot) as refused:
                store.latest(ada, "goblin")
            assert refused.value.retry_after == 1.0
            assert len(store.latest(ada)) == 1  # a list without a search waits for nobody
        finally:
            go.set()
        assert [len(one.result(60)) for one in searches] == [1, 1]
    assert len(store.latest(ada, "goblin")) == 1
