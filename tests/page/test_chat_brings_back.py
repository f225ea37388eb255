"""Stories of asking anew, in Chromium: what was there stays until the new answer is whole."""

from __future__ import annotations

from playwright.sync_api import Browser, Page, Route, expect

from tests.conftest import Serve, Server, wait_until
from tests.support.browser import person
from tests.support.chatting import (
    MODEL,
    WRITES,
    answer,
    ask,
    choose,
    chunk,
    enter,
    expect_articles,
    hold_first,
    kept,
    talk,
    whole,
)
from tests.support.fake_upstream import CUT, SILENCE, FakeUpstream, Gate, Reply
from tests.support.real_server import start


def edit(page: Page, number: int, text: str) -> None:
    """Edit the question of that number and send it."""
    page.get_by_role("button", name="Edit", exact=True).nth(number).click()
    field = page.get_by_label("Edit the question")
    field.fill(text)
    field.press("Enter")


def test_an_answer_stays_in_the_store_until_another_one_is_whole(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "cut-again@example.com")
        talk(ada.page, upstream, ("Q1", "A1"), ("Q2", "A2"))
        upstream.reply(Reply.sse([chunk("Half of"), CUT]))
        ada.page.get_by_role("button", name="Ask again").last.click()
        expect(answer(ada.page, 1)).to_contain_text("The provider failed (openai): ")
        expect_articles(ada.page, "Q1", "A1", "Q2", "Half of")
        ada.page.reload()
        expect_articles(ada.page, "Q1", "A1", "Q2", "A2")


def test_the_earlier_answer_is_brought_back_after_one_that_broke_off(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "back@example.com")
        talk(ada.page, upstream, ("Q1", "A1"))
        upstream.reply(Reply.sse([chunk("Half of"), CUT]), Reply.sse([chunk("A third"), CUT]))
        ada.page.get_by_role("button", name="Ask again").click()
        expect_articles(ada.page, "Q1", "Half of")
        ada.page.get_by_role("button", name="Try again").click()
        expect_articles(ada.page, "Q1", "A third")
        ada.page.get_by_role("button", name="Bring back the earlier answer").click()
        expect_articles(ada.page, "Q1", "A1")
        expect(ada.page.get_by_label("Message")).to_be_focused()
        before = len(upstream.requests)
        talk(ada.page, upstream, ("Q2", "A2"))
        told = [one["content"] for one in upstream.requests[before].json()["messages"]]
        assert told == ["Q1", "A1", "Q2"]
        ada.page.reload()
        expect_articles(ada.page, "Q1", "A1", "Q2", "A2")


def test_a_whole_answer_after_a_broken_one_replaces_the_earlier_one(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "whole@example.com")
        talk(ada.page, upstream, ("Q1", "A1"))
        upstream.reply(Reply.sse([chunk("Half of"), CUT]), Reply.sse(whole("Better")))
        ada.page.get_by_role("button", name="Ask again").click()
        ada.page.get_by_role("button", name="Try again").click()
        expect_articles(ada.page, "Q1", "Better")
        kept(ada.page)
        expect(ada.page.get_by_role("button", name="Bring back")).to_have_count(0)
        ada.page.reload()
        expect_articles(ada.page, "Q1", "Better")


def test_a_next_question_goes_on_behind_the_answer_that_broke_off(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "goes-on@example.com")
        talk(ada.page, upstream, ("Q1", "A1"))
        upstream.reply(Reply.sse([chunk("Half of"), CUT]), Reply.sse(whole("The rest")))
        ada.page.get_by_role("button", name="Ask again").click()
        expect(ada.page.get_by_role("button", name="Bring back")).to_be_visible()
        ask(ada.page, "Go on")
        kept(ada.page, 1)
        expect(ada.page.get_by_role("button", name="Bring back")).to_have_count(0)
        ada.page.reload()
        expect_articles(ada.page, "Q1", "Half of", "Go on", "The rest")


def test_an_edited_question_that_fails_leaves_what_stood_behind_it(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "failed-edit@example.com")
        talk(ada.page, upstream, ("Q1", "A1"), ("Q2", "A2"))
        upstream.reply(Reply.json(500, {"error": {"message": "no"}}))
        edit(ada.page, 0, "Better question")
        expect_articles(ada.page, "Better question", "")
        back = ada.page.get_by_role("button", name="Bring back what was there")
        expect(back).to_be_visible()
        ada.page.reload()
        expect_articles(ada.page, "Q1", "A1", "Q2", "A2")
        choose(ada.page, MODEL)
        upstream.reply(Reply.json(500, {"error": {"message": "no"}}))
        edit(ada.page, 0, "Better question")
        back.click()
        expect_articles(ada.page, "Q1", "A1", "Q2", "A2")
        talk(ada.page, upstream, ("Q3", "A3"))
        ada.page.reload()
        expect_articles(ada.page, "Q1", "A1", "Q2", "A2", "Q3", "A3")


def test_an_edited_question_that_was_not_sent_is_back_in_the_field(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "offline-edit@example.com")
        talk(ada.page, upstream, ("Q1", "A1"), ("Q2", "A2"))
        ada.context.set_offline(True)
        edit(ada.page, 0, "Better question")
        expect(ada.page.get_by_text("Your message is back in the field.")).to_be_visible()
        expect(ada.page.get_by_label("Message")).to_have_value("Better question")
        expect_articles(ada.page, "Q1", "A1", "Q2", "A2")


def test_a_stopped_answer_is_kept_and_the_earlier_one_can_be_brought_back(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "stopped-again@example.com")
        talk(ada.page, upstream, ("Q1", "A1"))
        for _ in range(2):
            upstream.reply(Reply.sse([chunk("Half of"), SILENCE]))
            ada.page.get_by_role("button", name="Ask again").click()
            expect(answer(ada.page)).to_contain_text("Half of")
            ada.page.keyboard.press("Escape")
            kept(ada.page)
        ada.page.get_by_role("button", name="Bring back the earlier answer").click()
        expect_articles(ada.page, "Q1", "A1")
        expect(ada.page.get_by_text("Stopped.")).to_have_count(0)
        talk(ada.page, upstream, ("Q2", "A2"))
        ada.page.reload()
        expect_articles(ada.page, "Q1", "A1", "Q2", "A2")
        choose(ada.page, MODEL)
        upstream.reply(Reply.sse([chunk("A part"), SILENCE]))
        ada.page.get_by_role("button", name="Ask again").last.click()
        expect(answer(ada.page, 1)).to_contain_text("A part")
        ada.page.keyboard.press("Escape")
        kept(ada.page, 1)
        ada.page.reload()
        expect_articles(ada.page, "Q1", "A1", "Q2", "A part")
        expect(ada.page.get_by_role("button", name="Bring back")).to_have_count(0)


def test_a_next_question_goes_on_behind_the_last_of_several_attempts(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "attempts@example.com")
        talk(ada.page, upstream, ("Q1", "A1"))
        upstream.reply(Reply.sse([chunk("Half of"), SILENCE]))
        ada.page.get_by_role("button", name="Ask again").click()
        expect(answer(ada.page)).to_contain_text("Half of")
        ada.page.keyboard.press("Escape")
        kept(ada.page)
        upstream.reply(Reply.sse([chunk("A third"), CUT]), Reply.sse(whole("The rest")))
        ada.page.get_by_role("button", name="Ask again").click()
        expect(answer(ada.page)).to_contain_text("The provider failed")
        ask(ada.page, "Go on")
        kept(ada.page, 1)
        ada.page.reload()
        expect_articles(ada.page, "Q1", "A third", "Go on", "The rest")


def test_leaving_while_an_answer_comes_anew_leaves_the_earlier_one(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "leaves-again@example.com")
        talk(ada.page, upstream, ("Q1", "A1"))
        upstream.reply(Reply.sse([chunk("Half of"), SILENCE]))
        ada.page.get_by_role("button", name="Ask again").click()
        expect(answer(ada.page)).to_contain_text("Half of")
        ada.page.get_by_role("link", name="New chat").click()
        expect(ada.page.get_by_text("What would you like to know?")).to_be_visible()
        ada.page.get_by_role("link", name="Q1").click()
        expect_articles(ada.page, "Q1", "A1")


def test_where_the_tab_keeps_conversations_the_earlier_answer_stays_too(
    browser: Browser, serve: Serve, fake_upstream: FakeUpstream
) -> None:
    server = start(serve, fake_upstream, ["gpt-4o"], GOBLIN_CONVERSATIONS="false")
    with person(browser, server.url) as ada:
        enter(ada.page, "tab@example.com")
        talk(ada.page, fake_upstream, ("Q1", "A1"))
        fake_upstream.reply(Reply.sse([chunk("Half of"), CUT]))
        ada.page.get_by_role("button", name="Ask again").click()
        expect(ada.page.get_by_role("button", name="Bring back")).to_be_visible()
        expect_articles(ada.page, "Q1", "Half of")
        ada.page.get_by_role("link", name="New chat").click()
        ada.page.get_by_role("link", name="Q1").click()
        expect_articles(ada.page, "Q1", "A1")


def test_an_edit_stays_open_while_another_tab_writes(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "edits-on@example.com")
        talk(ada.page, upstream, ("Q1", "A1"))
        other = ada.new_tab()
        other.goto(ada.page.url)
        expect_articles(other, "Q1", "A1")
        choose(other, MODEL)
        ada.page.bring_to_front()
        ada.page.get_by_role("button", name="Edit", exact=True).click()
        field = ada.page.get_by_label("Edit the question")
        field.fill("Better quest")
        talk(other, upstream, ("Q2", "A2"))
        expect(answer(ada.page, 1)).to_contain_text("A2")
        expect(field).to_have_value("Better quest")
        ada.page.bring_to_front()
        expect(field).to_be_focused()
        ada.page.keyboard.type("ion")
        gate = Gate()
        upstream.reply(Reply.sse([gate, *whole("Better answer")]))
        ada.page.keyboard.press("Enter")
        expect(field).to_have_count(0)
        gate.opened.set()
        expect_articles(ada.page, "Better question", "Better answer")
        kept(ada.page)
        ada.page.reload()
        expect_articles(ada.page, "Better question", "Better answer")


def test_what_is_brought_back_while_the_attempt_is_written_is_in_the_store(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "hurry@example.com")
        talk(ada.page, upstream, ("Q1", "A1"))
        held: list[Route] = []
        ada.page.route(WRITES, hold_first(held))
        upstream.reply(Reply.sse([chunk("Half of"), SILENCE]))
        ada.page.get_by_role("button", name="Ask again").click()
        expect(answer(ada.page)).to_contain_text("Half of")
        ada.page.keyboard.press("Escape")
        ada.page.get_by_role("button", name="Bring back the earlier answer").click()
        wait_until(lambda: bool(ada.page.title() and held), what="the write")
        held[0].continue_()
        expect_articles(ada.page, "Q1", "A1")
        talk(ada.page, upstream, ("Q2", "A2"))
        ada.page.reload()
        expect_articles(ada.page, "Q1", "A1", "Q2", "A2")
