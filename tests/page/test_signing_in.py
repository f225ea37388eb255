"""Stories of people who sign in, in Chromium: reloads, two tabs, the end of a session."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, Page, expect

from tests.conftest import PASSWORD, Serve, Server, serving, wait_until
from tests.support.browser import Person, person
from tests.support.signed_in import create_account, end_session, ready, sign_in


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all stories; each has an account of its own."""
    with serving(tmp_path_factory.mktemp("page")) as start:
        yield start()


def expect_in(page: Page, email: str) -> None:
    expect(page.get_by_text(email)).to_be_visible()


def expect_out(page: Page) -> None:
    expect(page.get_by_role("button", name="Sign in", exact=True)).to_be_visible()


def cookie(someone: Person) -> dict[str, Any]:
    (found,) = [one for one in someone.context.cookies() if one["name"] == "goblin_session"]
    return dict(found)


def test_somebody_new_creates_an_account_and_leaves_again(browser: Browser, server: Server) -> None:
    with person(browser, server.url) as ada:
        create_account(ada.page, "ada@example.com")
        expect_in(ada.page, "ada@example.com")
        kept = cookie(ada)
        assert (kept["httpOnly"], kept["sameSite"], kept["path"]) == (
            True, "Strict", "/auth/session"
        )  # fmt: skip
        assert ada.page.evaluate("document.cookie") == ""
        ada.page.get_by_role("button", name="Sign out").click()
        expect_out(ada.page)
        assert "goblin_session" not in {one["name"] for one in ada.context.cookies()}
        ada.page.reload()
        expect_out(ada.page)


def test_no_token_is_in_the_browsers_storage(browser: Browser, server: Server) -> None:
    with person(browser, server.url) as ada:
        create_account(ada.page, "storage@example.com")
        expect_in(ada.page, "storage@example.com")
        stored = ada.page.evaluate(
            "JSON.stringify([Object.entries(localStorage), Object.entries(sessionStorage)])"
        )
        assert "gor_" not in stored
        assert "eyJ" not in stored


def test_a_wrong_password_is_said_and_does_not_lose_the_form(
    browser: Browser, server: Server
) -> None:
    server.register("wrong@example.com")
    with person(browser, server.url) as ada:
        sign_in(ada.page, "wrong@example.com", "not the password")
        expect(ada.page.get_by_role("alert")).to_contain_text("E-mail or password is wrong.")
        expect(ada.page.get_by_label("E-mail")).to_have_value("wrong@example.com")
        ada.page.get_by_label("Password").fill(PASSWORD)
        ada.page.keyboard.press("Enter")
        expect_in(ada.page, "wrong@example.com")


def test_a_server_that_is_busy_is_asked_again_and_one_that_is_away_longer_is_not(
    browser: Browser, server: Server
) -> None:
    with person(browser, server.url) as ada:
        waits = {"register": ["1", "1"], "login": ["1"]}

        def busy(route: Any) -> None:
            left = waits[route.request.url.rsplit("/", 1)[-1]]
            if not left:
                route.continue_()
                return
            body = {"error": "unavailable", "message": "too many logins at once"}
            route.fulfill(status=503, json=body, headers={"Retry-After": left.pop()})

        ada.page.route("**/auth/register", busy)
        ada.page.route("**/auth/login", busy)
        create_account(ada.page, "busy@example.com")
        expect_in(ada.page, "busy@example.com")
        assert waits == {"register": [], "login": []}
        ada.page.get_by_role("button", name="Sign out").click()
        waits["login"] = ["30"]
        sign_in(ada.page, "busy@example.com")
        expect(ada.page.get_by_role("alert")).to_contain_text("Try again in 30 seconds.")
        sign_in(ada.page, "busy@example.com")
        expect_in(ada.page, "busy@example.com")


def test_signing_out_without_a_connection_says_that_one_is_still_signed_in(
    browser: Browser, server: Server
) -> None:
    with person(browser, server.url) as ada:
        create_account(ada.page, "offline@example.com")
        expect_in(ada.page, "offline@example.com")
        leave = ada.page.get_by_role("button", name="Sign out")
        expect(leave).to_be_visible()
        ada.context.set_offline(True)
        leave.click()
        side = ada.page.get_by_role("complementary", name="Views")
        expect(side.get_by_role("alert")).to_contain_text("The server cannot be reached.")
        expect_in(ada.page, "offline@example.com")
        ada.context.set_offline(False)
        leave.click()
        expect_out(ada.page)


def test_a_reload_keeps_one_signed_in_and_uses_the_token_up(
    browser: Browser, server: Server
) -> None:
    with person(browser, server.url) as ada:
        create_account(ada.page, "reload@example.com")
        expect_in(ada.page, "reload@example.com")
        before = cookie(ada)["value"]
        ada.page.reload()
        expect_in(ada.page, "reload@example.com")
        assert cookie(ada)["value"] != before


def test_a_reload_whose_answer_was_lost_does_not_log_out(browser: Browser, server: Server) -> None:
    with person(browser, server.url) as ada:
        create_account(ada.page, "lost@example.com")
        expect_in(ada.page, "lost@example.com")
        lost = []

        def lose(route: Any) -> None:
            # The server has used the token; the browser never learns the next one.
            answer = requests.post(
                route.request.url,
                data=route.request.post_data,
                headers={**route.request.all_headers(), "accept-encoding": "identity"},
                timeout=60,
            )
            lost.append(answer.status_code)
            route.abort()

        ada.page.route("**/auth/session", lose)
        ada.page.reload()
        expect(ada.page.get_by_role("button", name="Try again")).to_be_visible()
        assert lost == [200]
        ada.page.unroute("**/auth/session")
        ada.page.get_by_role("button", name="Try again").click()
        expect_in(ada.page, "lost@example.com")


def test_six_tabs_that_open_at_once_all_stay_signed_in(browser: Browser, server: Server) -> None:
    with person(browser, server.url) as ada:
        create_account(ada.page, "tabs@example.com")
        expect_in(ada.page, "tabs@example.com")
        tabs = [ada.new_tab() for _ in range(5)]
        for tab in tabs:
            tab.goto(server.url, wait_until="commit")
        ada.page.reload(wait_until="commit")
        for tab in [ada.page, *tabs]:
            expect_in(tab, "tabs@example.com")


def test_signing_out_in_one_tab_signs_out_in_the_other(browser: Browser, server: Server) -> None:
    with person(browser, server.url) as ada:
        create_account(ada.page, "both@example.com")
        expect_in(ada.page, "both@example.com")
        other = ada.new_tab()
        other.goto(server.url)
        expect_in(other, "both@example.com")
        ada.page.get_by_role("button", name="Sign out").click()
        expect_out(other)


def test_a_session_that_the_server_has_ended_leads_to_the_door_and_says_so(
    browser: Browser, server: Server
) -> None:
    with person(browser, server.url) as ada:
        create_account(ada.page, "ended@example.com")
        expect_in(ada.page, "ended@example.com")
        end_session(server, "ended@example.com")
        module = "document.querySelector('script[type=module]').src.replace('main', 'session')"
        ada.page.evaluate(f"import({module}).then((m) => m.renew()).catch(() => null)")
        expect(ada.page.get_by_text("Your session has ended")).to_be_visible()
        sign_in(ada.page, "ended@example.com")
        expect_in(ada.page, "ended@example.com")


def test_where_registration_is_closed_the_page_says_who_makes_accounts(
    browser: Browser, serve: Serve
) -> None:
    closed = serve(GOBLIN_REGISTRATION="closed")
    with person(browser, closed.url) as ada:
        expect(ada.page.get_by_text("Accounts are created by the operator.")).to_be_visible()
        expect(ada.page.get_by_role("button", name="Create an account")).to_have_count(0)


def test_an_access_token_is_renewed_before_it_ends(browser: Browser, serve: Serve) -> None:
    # 60 s is the shortest life; the page renews after half of it at the earliest.
    brief = serve(GOBLIN_ACCESS_TOKEN_SECONDS="60")
    with person(browser, brief.url) as ada:
        ada.page.clock.install()
        ada.page.goto(brief.url)
        create_account(ada.page, "brief@example.com")
        expect_in(ada.page, "brief@example.com")
        before = cookie(ada)["value"]
        ada.page.clock.run_for(31_000)
        wait_until(lambda: cookie(ada)["value"] != before, what="a renewed cookie")
        expect_in(ada.page, "brief@example.com")


def test_a_clock_that_is_set_anew_does_not_matter(browser: Browser, server: Server) -> None:
    server.register("clock@example.com")
    with person(browser, f"{server.url}/#/keys") as ada:
        sign_in(ada.page, "clock@example.com")
        ready(ada.page, "keys")
        renewed: list[str] = []
        ada.page.on(
            "request",
            lambda one: renewed.append(one.url) if one.url.endswith("/auth/session") else None,
        )
        ada.page.evaluate("""() => {
          const real = Date.now;
          Date.now = () => real() + 86_400_000;
        }""")
        for name, view in (("Settings", "settings"), ("API keys", "keys")):
            ada.page.get_by_role("link", name=name).click()
            ready(ada.page, view)
        expect(ada.page.get_by_text("You have no key that works.")).to_be_visible()
        assert renewed == []
