"""Stories of one person with several devices and tabs, in Chromium: nobody's messages are lost."""

from __future__ import annotations

from playwright.sync_api import Browser, Route, expect

from tests.conftest import Server
from tests.support.browser import person
from tests.support.chatting import (
    MODEL,
    READS,
    WRITES,
    answer,
    ask,
    choose,
    enter,
    expect_articles,
    fails_once,
    kept,
    talk,
    whole,
)
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.signed_in import sign_in


def test_what_another_device_wrote_stays_when_the_model_is_changed(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "devices@example.com")
        talk(ada.page, upstream, ("Q1", "A1"))
        with person(browser, ada.page.url) as phone:
            sign_in(phone.page, "devices@example.com")
            expect_articles(phone.page, "Q1", "A1")
            choose(phone.page, MODEL)
            talk(phone.page, upstream, ("Q2", "A2"))
        choose(ada.page, "openai/o3-mini")
        talk(ada.page, upstream, ("Q3", "A3"))
        ada.page.reload()
        expect_articles(ada.page, "Q1", "A1", "Q2", "A2", "Q3", "A3")


def test_what_another_device_wrote_stays_when_the_conversation_is_renamed(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "devices2@example.com")
        talk(ada.page, upstream, ("Q1", "A1"))
        with person(browser, ada.page.url) as phone:
            sign_in(phone.page, "devices2@example.com")
            expect_articles(phone.page, "Q1", "A1")
            choose(phone.page, MODEL)
            talk(phone.page, upstream, ("Q2", "A2"))
        ada.page.get_by_label("This conversation").click()
        ada.page.get_by_role("button", name="Rename").click()
        ada.page.get_by_label("Title").fill("Other")
        ada.page.get_by_label("Title").press("Enter")
        expect(ada.page.get_by_role("heading", level=1)).to_have_text("Other")
        talk(ada.page, upstream, ("Q3", "A3"))
        ada.page.reload()
        expect_articles(ada.page, "Q1", "A1", "Q2", "A2", "Q3", "A3")


def test_what_could_not_be_put_behind_another_devices_messages_comes_with_the_next(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "appendfails@example.com")
        talk(ada.page, upstream, ("Q1", "A1"))
        with person(browser, ada.page.url) as phone:
            sign_in(phone.page, "appendfails@example.com")
            expect_articles(phone.page, "Q1", "A1")
            choose(phone.page, MODEL)
            talk(phone.page, upstream, ("Q2", "A2"))
        ada.page.route(WRITES, fails_once(3))
        upstream.reply(Reply.sse(whole("A3")))
        ask(ada.page, "Q3")
        expect(answer(ada.page, 1)).to_contain_text("Not kept")
        upstream.reply(Reply.sse(whole("A4")))
        ask(ada.page, "Q4")
        expect(ada.page.locator(".answer").last.locator(".said")).to_have_text("A4")
        expect(ada.page.locator(".answer").last).to_have_attribute("data-kept", "")
        ada.page.reload()
        expect_articles(ada.page, "Q1", "A1", "Q2", "A2", "Q3", "A3", "Q4", "A4")


def test_what_the_store_has_although_the_reply_was_lost_is_not_written_twice(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "lostresponse@example.com")
        talk(ada.page, upstream, ("Q1", "A1"))
        seen: list[str] = []

        def lose(route: Route) -> None:
            seen.append(route.request.url)
            if len(seen) == 2:
                route.fetch()
                route.abort()
            else:
                route.continue_()

        ada.page.route(WRITES, lose)
        upstream.reply(Reply.sse(whole("A2")))
        ask(ada.page, "Q2")
        expect(answer(ada.page, 1)).to_contain_text("Not kept")
        talk(ada.page, upstream, ("Q3", "A3"))
        ada.page.reload()
        expect_articles(ada.page, "Q1", "A1", "Q2", "A2", "Q3", "A3")


def test_an_answer_that_is_not_kept_stays_when_another_tab_writes(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "unkepttab@example.com")
        talk(ada.page, upstream, ("Q1", "A1"))
        other = ada.new_tab()
        other.goto(ada.page.url)
        expect_articles(other, "Q1", "A1")
        choose(other, MODEL)
        ada.page.route(WRITES, fails_once(2))
        upstream.reply(Reply.sse(whole("A2")))
        ask(ada.page, "Q2")
        expect(answer(ada.page, 1)).to_contain_text("Not kept")
        expect_articles(other, "Q1", "A1", "Q2")
        upstream.reply(Reply.sse(whole("A3")))
        with ada.page.expect_response(READS):
            ask(other, "Q3")
            kept(other, 1)
        talk(ada.page, upstream, ("Q4", "A4"))
        ada.page.reload()
        expect_articles(ada.page, "Q1", "A1", "Q2", "Q3", "A3", "A2", "Q4", "A4")
