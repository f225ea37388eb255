"""Stories of people who change their defaults and their password, and end sessions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser, Page, expect

from tests.conftest import PASSWORD, Server, serving
from tests.support.browser import person
from tests.support.signed_in import ready, sign_in, signed_in

NEW_PASSWORD = "another horse battery staple"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all stories; each has an account of its own."""
    with serving(tmp_path_factory.mktemp("settings")) as start:
        yield start()


def settings_of(server: Server, headers: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(
        server.url + "/settings/", headers=headers, timeout=60
    ).json()
    return found


def is_out(page: Page) -> None:
    expect(page.get_by_role("button", name="Sign in", exact=True)).to_be_visible()


def test_defaults_are_saved_and_shown_again(browser: Browser, server: Server) -> None:
    headers = server.register("defaults@example.com")
    with signed_in(browser, server, "defaults@example.com", "settings") as ada:
        page = ada.page
        page.get_by_label("Model").select_option("echo")
        page.get_by_label("Temperature").fill("0.3")
        page.get_by_label("Maximum tokens").fill("500")
        page.get_by_label("System prompt").fill("Answer briefly.")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_text("Saved. It applies from your next chat on.")).to_be_visible()
        kept = settings_of(server, headers)
        assert {name: kept[name] for name in ("model", "temperature", "max_tokens")} == {
            "model": "echo", "temperature": 0.3, "max_tokens": 500
        }  # fmt: skip
        assert kept["system_prompt"] == "Answer briefly."
        page.reload()
        expect(page.get_by_label("Temperature")).to_have_value("0.3")
        expect(page.get_by_label("System prompt")).to_have_value("Answer briefly.")
        expect(page.get_by_label("Model")).to_have_value("echo")
        page.get_by_label("Temperature").fill("")
        page.get_by_label("Model").select_option("")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_text("Saved.")).to_be_visible()
        kept = settings_of(server, headers)
        assert (kept["model"], kept["temperature"], kept["max_tokens"]) == (None, None, 500)


def test_a_new_password_ends_the_other_sessions_and_this_one_goes_on(
    browser: Browser, server: Server
) -> None:
    headers = server.register("password@example.com")
    requests.post(server.url + "/auth/keys", json={"name": "k"}, headers=headers, timeout=60)
    with (
        signed_in(browser, server, "password@example.com", "settings") as here,
        signed_in(browser, server, "password@example.com", "keys") as there,
    ):
        page = here.page
        tried: list[str] = []
        page.on("request", lambda one: tried.append(one.url))
        page.get_by_label("Current password").fill("wrong")
        page.get_by_label("New password").fill(NEW_PASSWORD)
        page.get_by_role("button", name="Change the password").click()
        alert = page.get_by_role("alert")
        expect(alert).to_contain_text("The current password is wrong.")
        expect(alert.locator("code")).to_have_count(1)
        # Wrong passwords are counted: one try is one request.
        assert [url for url in tried if url.endswith("/auth/password")] == [
            server.url + "/auth/password"
        ]
        page.get_by_label("Current password").fill(PASSWORD)
        page.get_by_role("button", name="Change the password").click()
        expect(
            page.get_by_text("The password is changed. 1 API key goes on working.").first
        ).to_be_visible()
        expect(page.get_by_role("row", name="This browser")).to_be_visible()
        expect(page.get_by_role("button", name="End session")).to_have_count(0)
        there.page.get_by_role("link", name="Settings").click()
        is_out(there.page)
        expect(there.page.get_by_text("Your session has ended")).to_be_visible()
        page.reload()
        expect(page.get_by_role("heading", level=1, name="Settings")).to_be_visible()
        sign_in(there.page, "password@example.com", NEW_PASSWORD)
        expect(there.page.get_by_role("heading", level=1, name="Settings")).to_be_visible()


def test_a_session_that_is_ended_in_one_browser_ends_in_the_other(
    browser: Browser, server: Server
) -> None:
    server.register("sessions@example.com")
    with (
        signed_in(browser, server, "sessions@example.com", "settings") as here,
        signed_in(browser, server, "sessions@example.com", "keys") as there,
    ):
        here.page.reload()
        ready(here.page)
        rows = here.page.get_by_role("region", name="Sessions").locator("tbody tr")
        # That of the registration, which nobody uses, and those of the two browsers.
        expect(rows).to_have_count(3)
        expect(here.page.get_by_role("row", name="This browser")).to_have_count(1)
        others = here.page.get_by_role("button", name="End session")
        while others.count() > 0:
            left = others.count()
            others.first.click()
            expect(others).to_have_count(left - 1)
        there.page.get_by_role("link", name="Usage").click()
        is_out(there.page)
        expect(there.page.get_by_text("Your session has ended")).to_be_visible()
        here.page.reload()
        expect(here.page.get_by_role("row", name="This browser")).to_be_visible()


def test_a_session_that_is_ended_in_one_tab_ends_in_the_other(
    browser: Browser, server: Server
) -> None:
    server.register("tabs@example.com")
    with signed_in(browser, server, "tabs@example.com", "settings") as ada:
        other = ada.new_tab()
        other.goto(f"{server.url}/#/status")
        expect(other.get_by_role("heading", level=1, name="Status")).to_be_visible()
        ada.page.get_by_role("button", name="End this session").click()
        is_out(ada.page)
        is_out(other)


def test_the_end_of_all_sessions_is_asked_and_signs_out_everywhere(
    browser: Browser, server: Server
) -> None:
    headers = server.register("all@example.com")
    with (
        signed_in(browser, server, "all@example.com", "settings") as here,
        signed_in(browser, server, "all@example.com", "keys") as there,
    ):
        here.page.get_by_role("button", name="End all sessions").click()
        dialog = here.page.get_by_role("dialog")
        dialog.get_by_role("button", name="Cancel").click()
        assert requests.get(
            server.url + "/auth/me", headers=headers, timeout=60
        ).status_code == 200  # fmt: skip
        here.page.get_by_role("button", name="End all sessions").click()
        dialog.get_by_role("button", name="End all sessions").click()
        is_out(here.page)
        there.page.get_by_role("link", name="Settings").click()
        is_out(there.page)
        refused = requests.get(server.url + "/auth/me", headers=headers, timeout=60)
        assert refused.status_code == 401


def test_the_end_of_all_sessions_without_a_connection_is_said_and_tried_again(
    browser: Browser, server: Server
) -> None:
    server.register("cut-off@example.com")
    with signed_in(browser, server, "cut-off@example.com", "settings") as ada:
        ada.page.get_by_role("button", name="End all sessions").click()
        dialog = ada.page.get_by_role("dialog")
        ada.context.set_offline(True)
        dialog.get_by_role("button", name="End all sessions").click()
        expect(dialog.get_by_role("alert")).to_contain_text("The server cannot be reached.")
        ada.context.set_offline(False)
        # The sessions end; that the cookie cannot be taken away any more makes no difference.
        ada.page.route(
            "**/auth/session",
            lambda route: route.abort() if route.request.method == "DELETE" else route.continue_(),
        )
        dialog.get_by_role("button", name="End all sessions").click()
        is_out(ada.page)
        expect(ada.page.locator("#announcements")).to_have_text("All sessions have ended")


def test_after_signing_out_the_rooms_are_gone(browser: Browser, server: Server) -> None:
    server.register("gone@example.com")
    with person(browser, f"{server.url}/#/status") as ada:
        sign_in(ada.page, "gone@example.com")
        ready(ada.page)
        ada.page.get_by_role("button", name="Sign out").click()
        is_out(ada.page)
        ada.page.goto(f"{server.url}/#/keys")
        is_out(ada.page)
        expect(ada.page.get_by_role("navigation")).to_have_count(0)
