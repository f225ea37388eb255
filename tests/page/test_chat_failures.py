"""Stories of chats that fail, in Chromium: providers, limits, budgets, sessions, connections."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from tests.conftest import Serve, Server
from tests.support.browser import browser, person
from tests.support.chatting import answer, ask, choose, chunk, enter, kept, server, upstream, whole
from tests.support.fake_upstream import CUT, SILENCE, FakeUpstream, Reply
from tests.support.real_server import start
from tests.support.signed_in import end_session, sign_in

__all__ = ["browser", "server", "upstream"]

expect.set_options(timeout=60_000)


def test_a_providers_failure_is_said_with_who_failed_and_trying_again_helps(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "fails@example.com")
        upstream.reply(Reply.json(500, {"error": {"message": "no"}}))
        ask(ada.page, "Hello")
        expect(answer(ada.page)).to_contain_text("The provider failed (openai): ")
        expect(ada.page.get_by_role("button", name="Copy the correlation id")).to_be_visible()
        kept(ada.page)
        ada.page.reload()
        expect(answer(ada.page)).to_contain_text("The provider failed (openai): ")
        choose(ada.page, "openai/gpt-4o")
        upstream.reply(Reply.sse(whole("Better now")))
        ada.page.get_by_role("button", name="Try again").click()
        expect(answer(ada.page)).to_contain_text("Better now")
        expect(ada.page.get_by_text("The provider failed")).to_have_count(0)


def test_a_stream_that_the_provider_cuts_keeps_what_came_and_says_so(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "cut@example.com")
        upstream.reply(Reply.sse([chunk("Half an ans"), CUT]))
        ask(ada.page, "Hello")
        expect(answer(ada.page)).to_contain_text("Half an ans")
        expect(answer(ada.page)).to_contain_text("The provider failed (openai): ")
        expect(ada.page.get_by_role("button", name="Try again")).to_be_enabled()


def test_a_provider_that_is_busy_says_when_and_trying_again_waits_until_then(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "busy@example.com")
        ada.page.clock.install()
        busy = Reply.json(429, {"error": {"message": "slow down"}}, {"Retry-After": "30"})
        upstream.reply(busy)
        with ada.page.expect_response("**/chat/completions") as response:
            ask(ada.page, "Hello")
        assert response.value.status == 503
        retry = ada.page.get_by_role("button", name="Try again")
        expect(retry).to_be_disabled()
        expect(retry).to_contain_text("Try again in ")
        ada.page.clock.run_for(31_000)
        expect(retry).to_be_enabled()
        upstream.reply(Reply.sse(whole("Now")))
        retry.click()
        ada.page.clock.run_for(1_000)
        expect(answer(ada.page)).to_contain_text("Now")


def test_a_limit_is_said_and_counts_down(browser: Browser, serve: Serve) -> None:
    limited = serve(RATELIMIT_ENABLED="true", RATELIMIT_CHAT="1 per hour")
    with person(browser, limited.url) as ada:
        enter(ada.page, "limited@example.com", "echo/echo")
        ask(ada.page, "Hello")
        kept(ada.page)
        with ada.page.expect_response("**/chat/completions") as response:
            ask(ada.page, "Once more")
        assert response.value.status == 429
        expect(answer(ada.page, 1)).to_contain_text("A limit is reached: ")
        expect(ada.page.get_by_role("button", name="Try again in ")).to_be_disabled()


@pytest.mark.parametrize(
    ("status", "error", "who"),
    [
        (402, {"message": "the budget is spent", "code": "budget_exceeded", "source": "limit"},
         "A limit is reached: the budget is spent."),
        (503, {"message": "all slots are taken", "code": "overloaded", "source": "gateway"},
         "This server failed: all slots are taken."),
    ],
)  # fmt: skip
def test_an_error_is_shown_as_the_server_says_it(
    browser: Browser, server: Server, status: int, error: dict[str, str], who: str
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, f"status{status}@example.com")
        ada.page.route(
            "**/v1/chat/completions",
            lambda route: route.fulfill(status=status, json={"error": error}),
        )
        ask(ada.page, "Hello")
        expect(answer(ada.page).get_by_role("alert")).to_have_text(who)
        expect(ada.page.get_by_role("button", name="Try again")).to_be_enabled()


def test_a_session_that_ends_while_one_writes_loses_nothing(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "expires@example.com")
        ada.page.get_by_label("Message").fill("A long thought")
        end_session(server, "expires@example.com")
        ada.page.get_by_label("Message").press("Enter")
        expect(ada.page.get_by_text("Your session has ended")).to_be_visible()
        sign_in(ada.page, "expires@example.com")
        expect(ada.page.get_by_label("Message")).to_have_value("A long thought")
        choose(ada.page, "openai/gpt-4o")
        upstream.reply(Reply.sse(whole("Welcome back")))
        ada.page.get_by_label("Message").press("Enter")
        expect(answer(ada.page)).to_contain_text("Welcome back")


def test_a_draft_survives_a_reload_and_a_lost_connection_and_is_gone_after_signing_out(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "draft@example.com")
        field = ada.page.get_by_label("Message")
        field.fill("half a thou")
        ada.page.reload()
        expect(field).to_have_value("half a thou")
        choose(ada.page, "openai/gpt-4o")
        ada.context.set_offline(True)
        field.press("Enter")
        expect(ada.page.get_by_text("Your message is back in the field.")).to_be_visible()
        expect(field).to_have_value("half a thou")
        ada.context.set_offline(False)
        upstream.reply(Reply.sse(whole("Whole")))
        field.press("Enter")
        expect(answer(ada.page)).to_contain_text("Whole")
        expect(field).to_have_value("")
        field.fill("a secret")
        ada.page.get_by_role("button", name="Sign out").click()
        expect(ada.page.get_by_label("E-mail")).to_be_visible()
        assert "a secret" not in ada.page.evaluate("JSON.stringify(sessionStorage)")


def test_a_connection_that_is_lost_in_mid_answer_keeps_what_came(
    browser: Browser, serve: Serve, fake_upstream: FakeUpstream
) -> None:
    dying = start(serve, fake_upstream, ["gpt-4o"])
    with person(browser, dying.url) as ada:
        enter(ada.page, "dies@example.com")
        fake_upstream.reply(Reply.sse([chunk("Almost th"), *[chunk(".")] * 3, SILENCE]))
        ask(ada.page, "Hello")
        expect(answer(ada.page)).to_contain_text("Almost th...")
        dying.process.kill()
        expect(answer(ada.page)).to_contain_text("The connection failed")
        expect(answer(ada.page)).to_contain_text("Almost th...")
        expect(answer(ada.page)).to_contain_text("Not kept")
