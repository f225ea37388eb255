"""Stories of people who look at the state of the server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import requests
from playwright.sync_api import Browser, Page, expect

from tests.conftest import Serve, wait_until
from tests.support.fake_upstream import SILENCE, FakeUpstream, Reply
from tests.support.real_server import CHAT, STREAM, start
from tests.support.signed_in import signed_in


def overall(page: Page, text: str) -> None:
    """Wait until the first line says it."""
    expect(page.locator(".overall")).to_contain_text(text)


def refreshed(page: Page, what: str, row: str = "openai") -> None:
    """Ask again until the row says it: the server looks once a second, the page every ten."""

    def said() -> bool:
        page.get_by_role("button", name="Refresh").click()
        return what in page.get_by_role("row", name=row).inner_text()

    wait_until(said, 60, what)


def test_a_provider_that_breaks_is_shown_and_comes_back(
    browser: Browser, serve: Serve, fake_upstream: FakeUpstream
) -> None:
    server = start(serve, fake_upstream, ["gpt-4o"], GOBLIN_HEALTH_INTERVAL="1")
    server.register("watch@example.com")
    with signed_in(browser, server, "watch@example.com", "status") as ada:
        overall(ada.page, "Everything works.")
        row = ada.page.get_by_role("row", name="openai")
        expect(row).to_contain_text("works")
        expect(row).to_contain_text("Chats go to it.")
        fake_upstream.reset_on_accept = True
        refreshed(ada.page, "does not work")
        expect(row).to_contain_text("The last check failed: openai")
        overall(ada.page, "Chats that do not need it go on")
        expect(ada.page.get_by_role("row", name="echo")).to_contain_text("works")
        fake_upstream.reset_on_accept = False
        refreshed(ada.page, "It answers.")
        overall(ada.page, "Everything works.")


def test_the_page_asks_again_by_itself(
    browser: Browser, serve: Serve, fake_upstream: FakeUpstream
) -> None:
    server = start(serve, fake_upstream, ["gpt-4o"], GOBLIN_HEALTH_INTERVAL="1")
    server.register("idle@example.com")
    with signed_in(browser, server, "idle@example.com", "status") as ada:
        overall(ada.page, "Everything works.")
        fake_upstream.reset_on_accept = True
        expect(ada.page.get_by_role("row", name="openai")).to_contain_text("does not work")
        expect(ada.page.get_by_role("status")).to_contain_text("Chats that do not need it go on")


def test_an_open_circuit_breaker_and_taken_places_are_said_in_words(
    browser: Browser, serve: Serve, fake_upstream: FakeUpstream
) -> None:
    server = start(
        serve,
        fake_upstream,
        ["gpt-4o"],
        GOBLIN_CHAT_SLOTS="2",
        GOBLIN_CHATS_WAITING="0",
        GOBLIN_BREAKER_OPEN_SECONDS="600",
        GOBLIN_BREAKER_WINDOW="600",
    )
    headers = server.register("breaker@example.com")
    url = server.url + "/v1/chat/completions"
    with signed_in(browser, server, "breaker@example.com", "status") as ada:
        expect(ada.page.get_by_text("0 of 2 chat slots are taken.")).to_be_visible()
        fake_upstream.reply(Reply.sse([SILENCE]))
        with ThreadPoolExecutor(1) as pool:
            # It waits for its first token until the provider's silence ends.
            chat = pool.submit(requests.post, url, json=STREAM, headers=headers, timeout=120)
            try:
                refreshed_text(ada.page, "1 of 2 chat slots are taken.")
            finally:
                fake_upstream.release()
            chat.result(120)
        refreshed_text(ada.page, "0 of 2 chat slots are taken.")
        for _ in range(40):
            fake_upstream.reply(Reply.json(500, {"error": {"message": "broken"}}))
            requests.post(url, json=CHAT, headers=headers, timeout=60)
            report = requests.get(server.url + "/health/all", timeout=60).json()
            if report["services"]["openai"]["circuit"] == "open":
                break
        refreshed(ada.page, "no chat goes to it for a while")


def refreshed_text(page: Page, text: str) -> None:
    """Ask again until the page says it."""

    def said() -> bool:
        page.get_by_role("button", name="Refresh").click()
        return page.get_by_text(text).count() > 0

    wait_until(said, 60, text)


def test_who_may_not_see_the_state_is_told_why(browser: Browser, serve: Serve) -> None:
    server = serve(RATELIMIT_ENABLED="true", RATELIMIT_HEALTH="20 per hour")
    server.register("curious@example.com")
    with signed_in(browser, server, "curious@example.com", "status") as ada:
        overall(ada.page, "Everything works.")
        alert = ada.page.get_by_role("alert")

        def is_refused() -> bool:
            ada.page.get_by_role("button", name="Refresh").click()
            return alert.count() > 0

        wait_until(is_refused, 60, "a refusal")
        refused = requests.get(server.url + "/health/all", timeout=60)
        assert refused.status_code == 429
        said = refused.json()["message"].split(";")[0]
        expect(alert).to_contain_text(said[1:])
        expect(alert.locator("code")).to_have_count(1)
        expect(ada.page.get_by_text("cannot be shown here")).to_be_visible()


def test_a_database_that_is_away_is_said(browser: Browser, serve: Serve) -> None:
    server = serve()
    server.register("nodb@example.com")
    with signed_in(browser, server, "nodb@example.com", "status") as ada:
        overall(ada.page, "Everything works.")
        report = requests.get(server.url + "/health/all", timeout=60).json()
        report["status"] = report["services"]["database"]["status"] = "unhealthy"
        report["services"]["database"]["error"] = "connection failed"
        body = {"error": "unavailable", "message": "the database is unhealthy", **report}
        ada.page.route("**/health/all", lambda route: route.fulfill(status=503, json=body))
        ada.page.get_by_role("button", name="Refresh").click()
        overall(ada.page, "The database does not answer")
        row = ada.page.get_by_role("row", name="database")
        expect(row).to_contain_text("does not work")
        expect(row).to_contain_text("connection failed")
