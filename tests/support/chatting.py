"""Somebody who chats on the page, and what a provider streams to them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from tests.conftest import Server, serving
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.real_server import start
from tests.support.signed_in import create_account

MODEL = "openai/gpt-4o"
DONE = b"data: [DONE]\n\n"
READS = "**/messages?start=*"
WRITES = "**/conversations/*/messages/*"
"""Requests for the messages of a conversation."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[FakeUpstream]:
    """One provider for all stories."""
    made = FakeUpstream()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, upstream: FakeUpstream) -> Iterator[Server]:
    """One server in front of it; each story has an account of its own."""
    with serving(tmp_path_factory.mktemp("chat")) as serve:
        yield start(serve, upstream, ["gpt-4o", "o3-mini"])


def enter(page: Page, email: str, model: str = MODEL) -> None:
    """Create an account and choose a model."""
    create_account(page, email)
    choose(page, model)


def choose(page: Page, model: str) -> None:
    """Choose a model, once the server has listed it."""
    expect(page.locator(f"option[value='{model}']")).to_have_count(1)
    page.get_by_label("Model").select_option(model)


def ask(page: Page, text: str) -> None:
    """Write and send by Enter."""
    page.get_by_label("Message").fill(text)
    page.get_by_label("Message").press("Enter")


def answer(page: Page, number: int = 0) -> Locator:
    """The answer of that number, from 0."""
    return page.get_by_role("article", name="Answer").nth(number)


def kept(page: Page, number: int = 0) -> None:
    """Wait until that answer is in the store."""
    expect(page.locator(".answer").nth(number)).to_have_attribute("data-kept", "")


def talk(page: Page, upstream: FakeUpstream, *turns: tuple[str, str]) -> None:
    """Ask each question, and wait until its answer is in the store."""
    for question, said in turns:
        number = page.locator(".answer").count()
        upstream.reply(Reply.sse(whole(said)))
        ask(page, question)
        kept(page, number)


def expect_articles(page: Page, *texts: str) -> None:
    """The messages that are shown."""
    expect(page.locator(".messages article .said")).to_have_text(list(texts))


def hold_first(held: list[Route]) -> Callable[[Route], None]:
    """Puts the first request into `held`; the others go on."""

    def holds(route: Route) -> None:
        if held:
            route.continue_()
        else:
            held.append(route)

    return holds


def fails_once(number: int) -> Callable[[Route], None]:
    """Answers the write of that number, from 1, by an error; the others go on."""
    seen: list[str] = []

    def answers(route: Route) -> None:
        seen.append(route.request.url)
        if len(seen) == number:
            route.fulfill(status=503, json={"error": "unavailable", "message": "away"})
        else:
            route.continue_()

    return answers


def event(**values: Any) -> bytes:
    """An event of OpenAI's stream."""
    base = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}
    return f"data: {json.dumps({**base, **values})}\n\n".encode()


def chunk(text: str, field: str = "content") -> bytes:
    """A piece of an answer; `field` may be reasoning_content."""
    return event(choices=[{"index": 0, "delta": {field: text}, "finish_reason": None}])


def whole(*texts: str, prompt: int = 12, completion: int = 34) -> list[bytes]:
    """A whole answer with its usage."""
    end = {"index": 0, "delta": {}, "finish_reason": "stop"}
    usage = {
        "prompt_tokens": prompt, "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }  # fmt: skip
    return [
        *(chunk(text) for text in texts),
        event(choices=[end]),
        event(choices=[], usage=usage),
        DONE,
    ]
