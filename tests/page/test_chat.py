"""Stories of people who chat, in Chromium: asking, stopping, changing, keeping, the keyboard."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from tests.conftest import Serve, Server, wait_until
from tests.support.browser import person
from tests.support.chatting import answer, ask, choose, chunk, enter, kept, whole
from tests.support.fake_upstream import SILENCE, FakeUpstream, Gate, Reply

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)


def test_a_question_is_answered_kept_and_found_again(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "first@example.com")
        upstream.reply(Reply.sse(whole("They grow in the **forest**.")))
        ask(ada.page, "Where do mushrooms grow?")
        expect(answer(ada.page).locator("strong")).to_have_text("forest")
        kept(ada.page)
        ada.page.reload()
        expect(answer(ada.page).locator("strong")).to_have_text("forest")
        ada.page.get_by_role("link", name="New chat").click()
        expect(ada.page.get_by_text("What would you like to know?")).to_be_visible()
        ada.page.keyboard.press("Control+k")
        ada.page.keyboard.type("MUSHROOMS")
        ada.page.get_by_role("link", name="Where do").click()
        expect(answer(ada.page).locator("strong")).to_have_text("forest")
        ada.page.go_back()
        expect(ada.page.get_by_text("What would you like to know?")).to_be_visible()
        ada.page.go_forward()
        expect(answer(ada.page).locator("strong")).to_have_text("forest")


def test_an_answer_says_what_it_took_and_the_model_what_it_costs(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "facts@example.com")
        option = ada.page.locator("option[value='openai/gpt-4o']")
        expect(option).to_have_text("gpt-4o · $2.5 in, $10 out per million")
        upstream.reply(Reply.sse(whole("Yes.", prompt=1000, completion=500)))
        ask(ada.page, "Really?")
        facts = answer(ada.page).locator(".facts")
        expect(facts).to_contain_text("gpt-4o · by openai · 1,000 + 500 tokens · $0.0075 · first")
        copied = ada.page.get_by_role("button", name="Copy the correlation id")
        expect(copied).to_be_visible()
        kept(ada.page)
        ada.page.reload()
        expect(facts).to_contain_text("1,000 + 500 tokens · $0.0075 · first after")


def test_stop_closes_the_providers_connection_and_keeps_what_was_said(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "stop@example.com")
        upstream.reply(Reply.sse([chunk("Once upon a time"), SILENCE]))
        closed = upstream.closed_by_peer
        ask(ada.page, "Tell me a story")
        expect(answer(ada.page)).to_contain_text("Once upon a time")
        ada.page.keyboard.press("Escape")
        expect(answer(ada.page)).to_contain_text("Stopped.")
        wait_until(lambda: upstream.closed_by_peer > closed, what="a closed connection")
        kept(ada.page)
        ada.page.reload()
        expect(answer(ada.page)).to_contain_text("Once upon a time")
        expect(answer(ada.page)).to_contain_text("Stopped.")


def test_leaving_a_conversation_stops_its_answer(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "leaves@example.com")
        upstream.reply(Reply.sse([chunk("A long story"), SILENCE]))
        closed = upstream.closed_by_peer
        ask(ada.page, "Tell me a story")
        expect(answer(ada.page)).to_contain_text("A long story")
        expect(ada.page.get_by_role("link", name="Tell me a story")).to_be_visible()
        ada.page.get_by_role("link", name="New chat").click()
        expect(ada.page.get_by_text("What would you like to know?")).to_be_visible()
        wait_until(lambda: upstream.closed_by_peer > closed, what="a closed connection")
        assert ada.page.url.endswith("#/chat")


def test_an_edited_question_replaces_what_came_after_it(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "edits@example.com")
        upstream.reply(Reply.sse(whole("First answer")))
        ask(ada.page, "Frist question")
        kept(ada.page)
        upstream.reply(Reply.sse(whole("Second answer")))
        ask(ada.page, "Second question")
        kept(ada.page, 1)
        ada.page.get_by_role("button", name="Edit").first.click()
        field = ada.page.get_by_label("Edit the question")
        expect(field).to_be_focused()
        field.press("Escape")
        expect(answer(ada.page, 1)).to_contain_text("Second answer")
        ada.page.get_by_role("button", name="Edit").first.click()
        field.fill("First question")
        before = len(upstream.requests)
        upstream.reply(Reply.sse(whole("Better answer")))
        field.press("Enter")
        expect(answer(ada.page)).to_contain_text("Better answer")
        kept(ada.page)
        messages = upstream.requests[before].json()["messages"]
        assert [one["content"] for one in messages] == ["First question"]
        ada.page.reload()
        expect(answer(ada.page)).to_contain_text("Better answer")
        expect(ada.page.get_by_role("article")).to_have_count(2)


def test_another_answer_can_be_asked_for(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "again@example.com")
        upstream.reply(Reply.sse(whole("One")), Reply.sse(whole("Two")))
        ask(ada.page, "Say a number")
        kept(ada.page)
        ada.page.get_by_role("button", name="Ask again").click()
        expect(answer(ada.page).locator(".said")).to_have_text("Two")
        kept(ada.page)
        ada.page.reload()
        expect(answer(ada.page).locator(".said")).to_have_text("Two")
        expect(ada.page.get_by_role("article")).to_have_count(2)


def test_reasoning_is_folded(browser: Browser, server: Server, upstream: FakeUpstream) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "reasons@example.com")
        thought = chunk("Let me think", "reasoning_content")
        upstream.reply(Reply.sse([thought, *whole("Done thinking")]))
        ask(ada.page, "Think")
        expect(answer(ada.page)).to_contain_text("Done thinking")
        expect(ada.page.get_by_text("Let me think")).to_be_hidden()
        ada.page.get_by_text("Reasoning", exact=True).click()
        expect(ada.page.get_by_text("Let me think")).to_be_visible()


def test_finished_blocks_stay_while_the_tail_grows(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "grows@example.com")
        gate, last = Gate(), Gate()
        upstream.reply(
            Reply.sse(
                [chunk("# Title\n\nFirst para"), gate, chunk("graph.\n\n```python\nx = 1\n"),
                 last, *whole("```\n\nEnd.")]
            )
        )  # fmt: skip
        ask(ada.page, "Write")
        heading = answer(ada.page).locator("h1")
        expect(heading).to_have_text("Title")
        heading.evaluate("(one) => { one.marked = 1; }")
        expect(answer(ada.page).locator("p[dir]").first).to_have_text("First para")
        gate.opened.set()
        expect(answer(ada.page).locator("pre .hljs-number")).to_have_text("1")
        last.opened.set()
        expect(answer(ada.page)).to_contain_text("End.")
        assert heading.evaluate("(one) => one.marked") == 1


def test_images_are_pasted_and_dropped_where_the_model_sees(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "sees@example.com")
        bring(ada.page, "paste")
        bring(ada.page, "drop")
        expect(ada.page.locator(".thumb img")).to_have_count(2)
        ada.page.get_by_role("button", name="Remove image 2").click()
        expect(ada.page.locator(".thumb img")).to_have_count(1)
        before = len(upstream.requests)
        upstream.reply(Reply.sse(whole("A pixel")))
        ask(ada.page, "What is this?")
        kept(ada.page)
        (text, image) = upstream.requests[before].json()["messages"][0]["content"]
        assert text == {"type": "text", "text": "What is this?"}
        assert image["image_url"]["url"] == "data:image/png;base64," + encoded()
        ada.page.reload()
        expect(ada.page.get_by_alt_text("Image 1 of this message")).to_be_visible()
        choose(ada.page, "openai/o3-mini")
        bring(ada.page, "paste")
        expect(ada.page.get_by_text("This model takes no images.")).to_be_visible()
        expect(ada.page.get_by_role("button", name="Add images")).to_be_hidden()


def encoded() -> str:
    return base64.b64encode(PIXEL).decode()


def bring(page: Page, kind: str) -> None:
    page.get_by_label("Message").evaluate(
        """(field, [kind, image]) => {
          const bytes = Uint8Array.from(atob(image), (one) => one.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], "pixel.png", { type: "image/png" }));
          const options = { bubbles: true, cancelable: true };
          field.dispatchEvent(kind === "paste"
            ? new ClipboardEvent("paste", { ...options, clipboardData: transfer })
            : new DragEvent("drop", { ...options, dataTransfer: transfer }));
        }""",
        [kind, encoded()],
    )


def test_a_chat_has_settings_of_its_own(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "settings@example.com")
        ada.page.get_by_role("button", name="Settings of this chat").click()
        ada.page.get_by_label("System prompt").fill("Answer in rhymes")
        ada.page.get_by_label("Temperature").fill("0.4")
        ada.page.get_by_label("Maximum tokens of an answer").fill("99")
        ada.page.get_by_role("button", name="Save").click()
        expect(ada.page.get_by_role("dialog")).to_have_count(0)
        before = len(upstream.requests)
        upstream.reply(Reply.sse(whole("A rhyme")), Reply.sse(whole("Another")))
        ask(ada.page, "Hello")
        kept(ada.page)
        ada.page.reload()
        expect(answer(ada.page)).to_contain_text("A rhyme")
        ask(ada.page, "Once more")
        kept(ada.page, 1)
        for request in upstream.requests[before:]:
            body = request.json()
            assert body["messages"][0] == {"role": "system", "content": "Answer in rhymes"}
            assert body["temperature"] == 0.4
            assert 99 in (body.get("max_tokens"), body.get("max_completion_tokens"))


def test_a_conversation_is_renamed_exported_and_deleted(
    browser: Browser, server: Server, upstream: FakeUpstream, tmp_path: Path
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "exports@example.com")
        upstream.reply(Reply.sse(whole("An *answer*")))
        ask(ada.page, "A question")
        kept(ada.page)
        menu = ada.page.get_by_label("This conversation")
        menu.click()
        ada.page.get_by_role("button", name="Rename").click()
        ada.page.get_by_label("Title").fill("My notes")
        ada.page.get_by_role("button", name="Rename").click()
        expect(ada.page.get_by_role("link", name="My notes")).to_be_visible()
        expect(ada.page.get_by_role("heading", name="My notes")).to_be_visible()
        texts = {}
        for form in ("Markdown", "JSON"):
            menu.click()
            with ada.page.expect_download() as download:
                ada.page.get_by_role("button", name=f"Export as {form}").click()
            path = tmp_path / download.value.suggested_filename
            download.value.save_as(path)
            texts[path.name] = path.read_text()
        assert set(texts) == {"My notes.md", "My notes.json"}
        assert texts["My notes.md"] == (
            "# My notes\n\n## You\n\nA question\n\n## gpt-4o\n\nAn *answer*\n"
        )
        messages = json.loads(texts["My notes.json"])["messages"]
        assert [one["text"] for one in messages] == ["A question", "An *answer*"]
        menu.click()
        ada.page.get_by_role("button", name="Delete").click()
        ada.page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(ada.page.get_by_text("No conversations yet.")).to_be_visible()
        expect(ada.page.get_by_text("What would you like to know?")).to_be_visible()


def test_two_tabs_write_to_one_conversation_and_nothing_is_lost(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "tabs@example.com")
        upstream.reply(Reply.sse(whole("To the first tab")))
        ask(ada.page, "First tab")
        kept(ada.page)
        other = ada.new_tab()
        other.goto(ada.page.url)
        expect(answer(other)).to_contain_text("To the first tab")
        choose(other, "openai/gpt-4o")
        upstream.reply(Reply.sse(whole("To the second tab")))
        ask(other, "Second tab")
        kept(other, 1)
        # The first tab has heard of it, and goes on behind it.
        expect(answer(ada.page, 1)).to_contain_text("To the second tab")
        gate = Gate()
        upstream.reply(Reply.sse([chunk("Slow"), gate, *whole(" but sure")]))
        ask(ada.page, "Slow question")
        expect(answer(ada.page, 2)).to_contain_text("Slow")
        expect(answer(other, 1)).to_contain_text("To the second tab")
        upstream.reply(Reply.sse(whole("Meanwhile")))
        ask(other, "Fast question")
        expect(other.get_by_text("Meanwhile").first).to_be_visible()
        expect(other.locator(".answer[data-kept], .answer").last).to_contain_text("Meanwhile")
        gate.opened.set()
        for page in (ada.page, other):
            for text in ("Slow but sure", "Meanwhile"):
                expect(page.locator(".answer", has_text=text)).not_to_have_count(0)
        ada.page.reload()
        for text in ("Slow but sure", "Meanwhile"):
            expect(ada.page.locator(".answer", has_text=text)).not_to_have_count(0)


def test_everything_is_done_by_the_keyboard(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "keys@example.com")
        field = ada.page.get_by_label("Message")
        field.focus()
        ada.page.keyboard.type("One line")
        ada.page.keyboard.press("Shift+Enter")
        ada.page.keyboard.type("and another")
        expect(field).to_have_value("One line\nand another")
        upstream.reply(Reply.sse(whole("```\ncode\n```")))
        ada.page.keyboard.press("Enter")
        kept(ada.page)
        expect(field).to_be_focused()
        for name in ("Ask again", "Copy the answer", "Copy code", "Ask this again", "Edit"):
            button = ada.page.get_by_role("button", name=name, exact=True)
            for _ in range(12):
                if button.evaluate("(one) => one === document.activeElement"):
                    break
                ada.page.keyboard.press("Shift+Tab")
            expect(button).to_be_focused()
        ada.page.keyboard.press("Control+k")
        expect(ada.page.get_by_label("Search conversations")).to_be_focused()
        ada.page.keyboard.press("ArrowDown")
        expect(ada.page.get_by_role("link", name="One line")).to_be_focused()


def test_a_screen_reader_is_told_of_the_answer(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "hears@example.com")
        gate = Gate()
        upstream.reply(Reply.sse([gate, *whole("Hear, hear")]))
        ask(ada.page, "Speak")
        told = ada.page.get_by_role("status").and_(ada.page.locator("#announcements"))
        expect(told).to_have_text("Waiting for the answer")
        gate.opened.set()
        expect(told).to_have_text("Hear, hear")


def test_where_conversations_are_off_the_tab_keeps_them(browser: Browser, serve: Serve) -> None:
    server = serve(GOBLIN_CONVERSATIONS="false")
    with person(browser, server.url) as ada:
        enter(ada.page, "off@example.com", "echo/echo")
        ask(ada.page, "Hello there")
        kept(ada.page)
        expect(ada.page.get_by_role("link", name="Hello there")).to_be_visible()
        ada.page.get_by_role("link", name="New chat").click()
        expect(ada.page.get_by_text("What would you like to know?")).to_be_visible()
        ada.page.get_by_role("link", name="Hello there").click()
        expect(answer(ada.page)).to_contain_text("Hello there")
        ada.page.reload()
        expect(ada.page.get_by_text("No conversations yet.")).to_be_visible()
