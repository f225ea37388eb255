"""Stories of chats that fail, in Chromium: providers, limits, budgets, sessions, connections."""

from __future__ import annotations

import requests
from playwright.sync_api import Browser, expect

from tests.conftest import Serve, Server, wait_until
from tests.support.browser import person
from tests.support.chatting import (
    MODEL,
    answer,
    ask,
    choose,
    chunk,
    enter,
    kept,
    whole,
)
from tests.support.fake_upstream import CUT, SILENCE, FakeUpstream, Gate, Reply
from tests.support.real_server import STREAM, start
from tests.support.signed_in import end_session, sign_in


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


def test_a_budget_that_is_spent_is_said(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    headers = server.register("spent@example.com")
    spec = {"name": "spent", "monthly_budget_usd": "0.01"}
    made = requests.post(server.url + "/auth/keys", json=spec, headers=headers, timeout=60).json()
    key = {"Authorization": f"Bearer {made['key']}"}
    # What gpt-4o takes for this is the whole budget.
    upstream.reply(Reply.sse(whole("Dear", prompt=1000, completion=750)))
    chat = {**STREAM, "max_tokens": 500}
    first = requests.post(server.url + "/v1/chat/completions", json=chat, headers=key, timeout=60)
    assert first.status_code == 200
    assert b"[DONE]" in first.content
    with person(browser, server.url) as ada:
        sign_in(ada.page, "spent@example.com")
        choose(ada.page, MODEL)
        # A session has no budget; only what an API key sends is refused for one.
        ada.page.route(
            "**/v1/chat/completions",
            lambda route: route.continue_(headers={**route.request.headers, **lower(key)}),
        )
        with ada.page.expect_response("**/chat/completions") as response:
            ask(ada.page, "Hello")
        assert response.value.status == 402
        said = response.value.json()["error"]["message"]
        expect(answer(ada.page).get_by_role("alert")).to_contain_text("A limit is reached: " + said)
        expect(ada.page.get_by_role("button", name="Try again")).to_be_enabled()


def lower(headers: dict[str, str]) -> dict[str, str]:
    """Headers as the browser names them."""
    return {name.lower(): value for name, value in headers.items()}


def test_a_server_without_a_free_slot_says_so_and_trying_again_helps(
    browser: Browser, serve: Serve, fake_upstream: FakeUpstream
) -> None:
    busy = start(
        serve,
        fake_upstream,
        ["gpt-4o"],
        GOBLIN_CHAT_SLOTS="1",
        GOBLIN_CHAT_SLOT_WAIT_SECONDS="0.1",
    )
    headers = busy.register("slot@example.com")
    with person(browser, busy.url) as ada:
        sign_in(ada.page, "slot@example.com")
        choose(ada.page, MODEL)
        fake_upstream.reply(Reply.sse([chunk("It takes"), SILENCE]))
        with requests.post(
            busy.url + "/v1/chat/completions",
            json=STREAM,
            headers=headers,
            stream=True,
            timeout=60,
        ) as hanging:
            assert hanging.status_code == 200
            with ada.page.expect_response("**/chat/completions") as response:
                ask(ada.page, "Hello")
            assert response.value.status == 503
            said = response.value.json()["error"]["message"]
            expect(answer(ada.page)).to_contain_text(f"This server failed: {said}")
        wait_until(lambda: busy.metrics()["chat_slots_in_use"] == 0, what="a free slot")
        fake_upstream.reply(Reply.sse(whole("Now")))
        ada.page.get_by_role("button", name="Try again", exact=True).click()
        expect(answer(ada.page)).to_contain_text("Now")


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


def test_an_answer_that_came_while_the_session_ended_is_kept_after_signing_in(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "ends-midway@example.com")
        gate = Gate()
        upstream.reply(Reply.sse([chunk("Half of"), gate, *whole(" it")]))
        ask(ada.page, "Hello")
        expect(answer(ada.page)).to_contain_text("Half of")
        end_session(server, "ends-midway@example.com")
        gate.opened.set()
        expect(ada.page.get_by_text("Your session has ended")).to_be_visible()
        sign_in(ada.page, "ends-midway@example.com")
        expect(answer(ada.page)).to_contain_text("Half of it")
        ada.page.reload()
        expect(answer(ada.page)).to_contain_text("Half of it")
