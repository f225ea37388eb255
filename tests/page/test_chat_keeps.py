"""Stories of chats whose reading, writing or asking again fails, in Chromium: nothing is lost."""

from __future__ import annotations

from playwright.sync_api import Browser, Route, expect

from tests.conftest import Serve, Server, wait_until
from tests.support.browser import person
from tests.support.chatting import (
    MODEL,
    READS,
    WRITES,
    answer,
    ask,
    choose,
    chunk,
    enter,
    expect_articles,
    fails_once,
    hold_first,
    kept,
    talk,
    whole,
)
from tests.support.fake_upstream import SILENCE, FakeUpstream, Reply


def test_a_question_after_a_read_that_failed_goes_back_into_the_field(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "unread@example.com")
        talk(ada.page, upstream, ("Q1", "A1"), ("Q2", "A2"))
        refusal = {"error": "rate_limit_exceeded", "message": "too many reads"}
        ada.page.route(READS, lambda route: route.fulfill(status=429, json=refusal))
        ada.page.reload()
        expect(ada.page.get_by_text("Too many reads.")).to_be_visible()
        ada.page.unroute(READS)
        choose(ada.page, MODEL)
        ask(ada.page, "Q3")
        expect(ada.page.get_by_text("The chat is not open yet.")).to_be_visible()
        expect(ada.page.get_by_label("Message")).to_have_value("Q3")
        ada.page.get_by_role("button", name="Try again").click()
        expect_articles(ada.page, "Q1", "A1", "Q2", "A2")
        choose(ada.page, MODEL)
        upstream.reply(Reply.sse(whole("A3")))
        ada.page.get_by_label("Message").press("Enter")
        kept(ada.page, 2)
        ada.page.reload()
        expect_articles(ada.page, "Q1", "A1", "Q2", "A2", "Q3", "A3")


def test_a_question_while_the_conversation_is_read_waits_for_it(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "reading@example.com")
        talk(ada.page, upstream, ("Q1", "A1"))
        held: list[Route] = []
        ada.page.route(READS, hold_first(held))
        ada.page.reload()
        choose(ada.page, MODEL)
        upstream.reply(Reply.sse(whole("A2")))
        ask(ada.page, "Q2")
        expect(ada.page.get_by_role("button", name="Stop")).to_be_visible()
        wait_until(lambda: bool(ada.page.title() and held), what="the read of the messages")
        held[0].continue_()
        kept(ada.page, 1)
        expect_articles(ada.page, "Q1", "A1", "Q2", "A2")
        ada.page.reload()
        expect_articles(ada.page, "Q1", "A1", "Q2", "A2")


def test_an_answer_that_could_not_be_kept_is_kept_with_the_next_one(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "unkept@example.com")
        ada.page.route(WRITES, fails_once(2))
        upstream.reply(Reply.sse(whole("A1")))
        ask(ada.page, "Q1")
        expect(answer(ada.page)).to_contain_text("Not kept: away")
        upstream.reply(Reply.sse(whole("A2")))
        ask(ada.page, "Q2")
        kept(ada.page, 1)
        expect(ada.page.get_by_text("Not kept")).to_have_count(0)
        ada.page.reload()
        expect_articles(ada.page, "Q1", "A1", "Q2", "A2")


def test_an_edited_question_that_could_not_be_kept_is_kept_with_the_next_one(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "unkept-edit@example.com")
        talk(ada.page, upstream, ("Q1", "A1"), ("Q2", "A2"))
        ada.page.route(WRITES, fails_once(1))
        ada.page.get_by_role("button", name="Edit").first.click()
        field = ada.page.get_by_label("Edit the question")
        field.fill("Better question")
        upstream.reply(Reply.sse(whole("Better answer")))
        field.press("Enter")
        expect_articles(ada.page, "Better question", "Better answer")
        expect(answer(ada.page)).to_contain_text("Not kept: away")
        talk(ada.page, upstream, ("Q3", "A3"))
        ada.page.reload()
        expect_articles(ada.page, "Better question", "Better answer", "Q3", "A3")


def test_asking_again_in_vain_leaves_the_answer_that_was_there(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "vain@example.com")
        talk(ada.page, upstream, ("Q1", "A1"), ("Q2", "A2"))
        ada.page.reload()
        expect_articles(ada.page, "Q1", "A1", "Q2", "A2")
        choose(ada.page, MODEL)
        written: list[int] = []
        ada.page.on(
            "response",
            lambda one: written.append(one.status) if one.request.method == "PUT" else None,
        )
        upstream.reply(Reply.json(500, {"error": {"message": "no"}}))
        ada.page.get_by_role("button", name="Ask again").first.click()
        expect(ada.page.locator(".composer-said")).to_contain_text("The provider failed")
        expect_articles(ada.page, "Q1", "A1", "Q2", "A2")
        ada.page.reload()
        expect_articles(ada.page, "Q1", "A1", "Q2", "A2")
        assert written == []
        choose(ada.page, MODEL)
        upstream.reply(Reply.sse(whole("Another")))
        ada.page.get_by_role("button", name="Ask again").last.click()
        expect_articles(ada.page, "Q1", "A1", "Q2", "Another")
        kept(ada.page, 1)
        ada.page.reload()
        expect_articles(ada.page, "Q1", "A1", "Q2", "Another")
        assert set(written) == {200}


def test_letters_that_the_database_does_not_take_do_not_lose_the_chat(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "letters@example.com")
        # The title ends after 80 letters, and the last of them is two units of UTF-16.
        question = "a" * 79 + "\U0001f600 and more"
        talk(ada.page, upstream, (question, "before\0after"))
        ada.page.reload()
        expect_articles(ada.page, question, "before\ufffdafter")
        title = "a" * 79 + "\U0001f600"
        expect(ada.page.get_by_role("heading", level=1)).to_have_text(title)


def test_where_conversations_are_off_the_next_person_finds_none_in_the_tab(
    browser: Browser, serve: Serve
) -> None:
    server = serve(GOBLIN_CONVERSATIONS="false")
    with person(browser, server.url) as tab:
        enter(tab.page, "first@example.com", "echo/echo")
        ask(tab.page, "A private matter")
        kept(tab.page)
        tab.page.get_by_role("button", name="Sign out").click()
        enter(tab.page, "second@example.com", "echo/echo")
        expect(tab.page.get_by_text("There is no such conversation.")).to_be_visible()
        expect(tab.page.get_by_text("No conversations yet.")).to_be_visible()
        expect(tab.page.get_by_text("A private matter")).to_have_count(0)


def test_deleting_while_an_answer_comes_waits_for_its_last_write(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "deletes@example.com")
        upstream.reply(Reply.sse([chunk("Half of"), SILENCE]))
        ask(ada.page, "Q1")
        expect(answer(ada.page)).to_contain_text("Half of")
        held: list[Route] = []
        ada.page.route(WRITES, hold_first(held))
        ada.page.get_by_label("This conversation").click()
        ada.page.get_by_role("button", name="Delete").click()
        ada.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        wait_until(lambda: bool(ada.page.title() and held), what="the write of the answer")
        with ada.page.expect_response(WRITES) as written:
            held[0].continue_()
        assert written.value.status == 200
        expect(ada.page.get_by_text("What would you like to know?")).to_be_visible()
        expect(ada.page.get_by_text("No conversations yet.")).to_be_visible()


def test_coming_back_while_the_answer_that_was_left_is_written_shows_it(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "goesback@example.com")
        talk(ada.page, upstream, ("Q1", "A1"))
        ada.page.get_by_role("link", name="New chat").click()
        expect(ada.page.get_by_text("What would you like to know?")).to_be_visible()
        ada.page.go_back()
        expect_articles(ada.page, "Q1", "A1")
        choose(ada.page, MODEL)
        upstream.reply(Reply.sse([chunk("Half of"), SILENCE]))
        ask(ada.page, "Q2")
        expect(answer(ada.page, 1)).to_contain_text("Half of")
        held: list[Route] = []
        ada.page.route(WRITES, hold_first(held))
        ada.page.go_forward()
        expect(ada.page.get_by_text("What would you like to know?")).to_be_visible()
        ada.page.go_back()
        wait_until(lambda: bool(ada.page.title() and held), what="the write")
        expect(ada.page.get_by_text("Q2").last).to_be_visible()
        held[0].continue_()
        expect_articles(ada.page, "Q1", "A1", "Q2", "Half of")
