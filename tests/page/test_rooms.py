"""Stories about the frame around the views: the way between them, the keyboard, a phone."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
import requests
from playwright.sync_api import Browser, Page, expect

from tests.conftest import Server, serving, wait_until
from tests.support.browser import person
from tests.support.signed_in import ready, sign_in, signed_in

VIEWS = {
    "keys": "API keys", "usage": "Usage", "status": "Status", "settings": "Settings",
}  # fmt: skip
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all stories; each has an account of its own."""
    with serving(tmp_path_factory.mktemp("rooms")) as start:
        yield start()


def heading(page: Page, name: str) -> None:
    expect(page.get_by_role("heading", level=1, name=name)).to_be_visible()
    expect(page).to_have_title(f"{name} · Goblin Assistant")


def go(page: Page, name: str) -> None:
    page.get_by_role("navigation", name="Views").get_by_role("link", name=name).click()


def test_views_are_reached_by_links_and_by_back_and_forward(
    browser: Browser, server: Server
) -> None:
    server.register("ways@example.com")
    with signed_in(browser, server, "ways@example.com") as ada:
        for name in ("Usage", "Status", "Settings"):
            go(ada.page, name)
            heading(ada.page, name)
            link = ada.page.get_by_role("link", name=name)
            expect(link).to_have_attribute("aria-current", "page")
            expect(ada.page.get_by_role("heading", level=1)).to_be_focused()
        ada.page.go_back()
        heading(ada.page, "Status")
        ada.page.go_back()
        heading(ada.page, "Usage")
        ada.page.go_forward()
        heading(ada.page, "Status")
        go(ada.page, "Chat")
        expect(ada.page.get_by_label("Message")).to_be_focused()
        assert ada.page.title() == "Chat · Goblin Assistant"


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_survives_a_reload_and_a_new_sign_in(
    browser: Browser, server: Server, view: str
) -> None:
    server.register(f"reload-{view}@example.com")
    with signed_in(browser, server, f"reload-{view}@example.com", view) as ada:
        heading(ada.page, VIEWS[view])
        ada.page.reload()
        heading(ada.page, VIEWS[view])
        ada.page.get_by_role("button", name="Sign out").click()
        sign_in(ada.page, f"reload-{view}@example.com")
        heading(ada.page, VIEWS[view])


def test_an_address_that_there_is_not_leads_to_the_chat(browser: Browser, server: Server) -> None:
    server.register("nowhere@example.com")
    with signed_in(browser, server, "nowhere@example.com", "nothing/here") as ada:
        expect(ada.page.get_by_label("Message")).to_be_visible()
        assert ada.page.url == f"{server.url}/#/chat"


def test_a_view_is_loaded_when_it_is_opened(browser: Browser, server: Server) -> None:
    server.register("loads@example.com")
    with signed_in(browser, server, "loads@example.com", "status") as ada:
        asked: list[str] = []
        ada.page.on("request", lambda request: asked.append(urlsplit(request.url).path))
        ada.page.reload()
        heading(ada.page, "Status")
        assert not [path for path in asked if "/chat/" in path or "/uplot/" in path]
        go(ada.page, "Usage")
        heading(ada.page, "Usage")
        assert [path for path in asked if path.endswith("/vendor/uplot/uPlot.esm.js")]
        assert not [path for path in asked if path.endswith("/chat/view.js")]


def test_a_view_that_cannot_be_loaded_says_so_and_is_tried_again(
    browser: Browser, server: Server
) -> None:
    server.register("broken@example.com")
    with signed_in(browser, server, "broken@example.com") as ada:
        ada.page.route("**/status/view.js", lambda route: route.abort())
        go(ada.page, "Status")
        expect(ada.page.get_by_role("alert")).to_contain_text("could not be loaded")
        ada.page.unroute("**/status/view.js")
        ada.page.get_by_role("button", name="Try again").click()
        heading(ada.page, "Status")


def test_by_the_keyboard_alone_a_key_is_made_and_another_view_opened(
    browser: Browser, server: Server
) -> None:
    server.register("keyboard@example.com")
    with signed_in(browser, server, "keyboard@example.com", "status") as ada:
        keyboard = ada.page.keyboard
        tab_to(ada.page, "Skip to the content")
        tab_to(ada.page, "API keys")
        keyboard.press("Enter")
        heading(ada.page, "API keys")
        ready(ada.page, "keys")
        tab_to(ada.page, "New key")
        keyboard.press("Enter")
        expect(ada.page.get_by_label("Name")).to_be_focused()
        keyboard.type("by hand")
        keyboard.press("Enter")
        expect(ada.page.get_by_label("Key", exact=True)).to_be_focused()
        keyboard.press("Escape")
        expect(ada.page.get_by_role("dialog")).to_have_count(0)
        expect(ada.page.get_by_role("button", name="New key")).to_be_focused()
        expect(ada.page.get_by_role("row", name="by hand")).to_be_visible()
        tab_to(ada.page, "Revoke by hand")
        keyboard.press("Enter")
        tab_to(ada.page, "Revoke key")
        keyboard.press("Enter")
        expect(ada.page.get_by_text("Revoked and expired keys (1)")).to_be_visible()


def tab_to(page: Page, name: str) -> None:
    """Press Tab until what has this name has the focus."""
    for _ in range(40):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            "document.activeElement.getAttribute('aria-label') ?? document.activeElement.innerText"
        )
        if focused == name:
            return
    raise AssertionError(f"Tab does not lead to {name!r}")


def test_on_a_phone_the_ways_are_behind_a_menu(browser: Browser, server: Server) -> None:
    server.register("phone@example.com")
    with signed_in(browser, server, "phone@example.com", viewport=PHONE) as ada:
        menu = ada.page.get_by_role("button", name="Menu")
        way = ada.page.get_by_role("link", name="Status")
        expect(way).to_have_count(0)  # it is out of the keyboard's and the reader's way
        menu.click()
        expect(way).to_be_visible()
        expect(menu).to_have_attribute("aria-expanded", "true")
        ada.page.keyboard.press("Escape")
        expect(way).to_have_count(0)
        expect(menu).to_be_focused()
        menu.click()
        way.click()
        heading(ada.page, "Status")
        expect(way).to_have_count(0)


def test_no_view_is_wider_than_a_phone(browser: Browser, server: Server) -> None:
    headers = server.register("narrow@example.com")
    make_key(server, headers, "a key with quite a long name that does not fit into one line at all")
    with signed_in(browser, server, "narrow@example.com", viewport=PHONE) as ada:
        for view in ("chat", *VIEWS):
            ada.page.goto(f"{server.url}/#/{view}")
            ready(ada.page, view)
            widths = ada.page.evaluate(
                "[document.documentElement, document.querySelector('#room')]"
                ".map((one) => one.scrollWidth)"
            )
            assert max(widths) <= PHONE["width"], view


def make_key(server: Server, headers: dict[str, str], name: str) -> None:
    made = requests.post(
        server.url + "/auth/keys", json={"name": name}, headers=headers, timeout=60
    )
    assert made.status_code == 201


def test_the_page_follows_the_colour_scheme(browser: Browser, server: Server) -> None:
    with person(browser, server.url, color_scheme="light") as ada:
        ground = "getComputedStyle(document.documentElement).backgroundColor"
        light = ada.page.evaluate(ground)
        ada.page.emulate_media(color_scheme="dark")
        wait_until(lambda: ada.page.evaluate(ground) != light, what="another background")
