"""Stories of long answers, in Chromium: what is out of sight is not drawn, and yet it is there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, expect

from tests.conftest import Server, wait_until
from tests.support.browser import Person, person
from tests.support.chatting import answer, ask, chunk, enter, kept, whole
from tests.support.fake_upstream import FakeUpstream, Gate, Reply

NUMBERS = range(200)
TEXTS = [f"This is line {number}.\n\n" for number in NUMBERS]
LINES = [text.strip() for number, text in enumerate(TEXTS) if number != 3]
TEXTS[3] = "```python\nx = 3\n```\n\n"


@contextmanager
def long_answer(
    browser: Browser, server: Server, upstream: FakeUpstream, email: str
) -> Iterator[tuple[Person, Gate]]:
    """Somebody who sees an answer of 200 blocks; the gate lets the last word come."""
    with person(browser, server.url) as ada:
        ada.context.grant_permissions(["clipboard-read", "clipboard-write"])
        enter(ada.page, email)
        more, gate = Gate(), Gate()
        lines = [chunk(text) for text in TEXTS]
        upstream.reply(Reply.sse([*lines, more, chunk("More to"), gate, *whole(" the end")]))
        ask(ada.page, "Write")
        expect(answer(ada.page)).to_contain_text("This is line 199.")
        more.opened.set()
        expect(answer(ada.page)).to_contain_text("More to")
        yield ada, gate
        more.opened.set()
        gate.opened.set()


def drawn(page: Page, text: str) -> bool:
    """Whether the browser draws this paragraph."""
    found: bool = page.get_by_text(text, exact=True).evaluate(
        "(one) => one.checkVisibility({ contentVisibilityAuto: true })"
    )
    return found


def test_while_an_answer_grows_what_is_out_of_sight_is_not_drawn_but_can_be_copied(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with long_answer(browser, server, upstream, "grows-long@example.com") as (ada, _):
        expect(ada.page.get_by_text("This is line 199.")).to_be_in_viewport()
        wait_until(lambda: not drawn(ada.page, "This is line 5."), what="a box that is not drawn")
        ada.page.evaluate("""() => {
          getSelection().selectAllChildren(document.querySelector(".answer .said"));
          document.execCommand("copy");
        }""")
        copied = ada.page.evaluate("() => navigator.clipboard.readText()")
        assert [text for text in LINES if text not in copied] == []
        ada.page.evaluate("() => getSelection().removeAllRanges()")
        assert ada.page.evaluate("() => window.find('This is line 5.')")
        ada.page.emulate_media(media="print")
        assert drawn(ada.page, "This is line 190.")


def test_a_screen_reader_knows_the_whole_of_an_answer_that_has_ended(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with long_answer(browser, server, upstream, "ended@example.com") as (ada, gate):
        gate.opened.set()
        kept(ada.page)
        session = ada.context.new_cdp_session(ada.page)

        def unknown() -> list[str]:
            tree = session.send("Accessibility.getFullAXTree")["nodes"]
            told = {node.get("name", {}).get("value") for node in tree}
            return [text for text in LINES if text not in told]

        wait_until(lambda: unknown() == [], what="all lines")
        shown = answer(ada.page).inner_text()
        assert [text for text in LINES if text not in shown] == []


def test_the_code_of_a_finished_block_is_copied(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with long_answer(browser, server, upstream, "copies@example.com") as (ada, _):
        button = ada.page.get_by_role("button", name="Copy code")
        button.click()
        expect(ada.page.locator("#announcements")).to_have_text("Copied")
        assert ada.page.evaluate("() => navigator.clipboard.readText()") == "x = 3\n"


def test_whoever_reads_further_up_stays_there_while_an_answer_grows(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with long_answer(browser, server, upstream, "reads@example.com") as (ada, gate):
        line = ada.page.get_by_text("This is line 50.", exact=True)
        line.scroll_into_view_if_needed()
        expect(line).to_be_in_viewport()
        before = line.bounding_box()
        gate.opened.set()
        kept(ada.page)
        expect(line).to_be_in_viewport()
        assert line.bounding_box() == before


def test_a_long_table_with_a_link_at_its_foot_is_shown_and_kept(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    table = "| a | b |\n|---|---|\n" + "| cell | cell |\n" * 1500
    with person(browser, server.url) as ada:
        enter(ada.page, "long-table@example.com")
        said = f"Hello *you*\n\n{table}\n[1]: https://a.example\n\nThe end"
        upstream.reply(Reply.sse(whole(table, "\n[1]: https://a.example\n\nThe end")))
        ask(ada.page, "Write")
        kept(ada.page)
        upstream.reply(Reply.sse(whole(said)))
        ask(ada.page, "Once more")
        kept(ada.page, 1)
        for _ in range(2):
            expect(answer(ada.page, 0)).to_contain_text("The end")
            expect(answer(ada.page, 1)).to_contain_text("Hello you")
            expect(answer(ada.page, 1)).to_contain_text("The end")
            ada.page.reload()


def test_a_long_line_in_a_list_is_shown_and_kept(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "long-item@example.com")
        upstream.reply(Reply.sse(whole("- one\n  " + "x" * 20_001 + "\n- two")))
        ask(ada.page, "Write")
        kept(ada.page)
        for _ in range(2):
            expect(answer(ada.page).get_by_role("listitem")).to_have_count(2)
            ada.page.reload()


def test_scrolling_up_by_small_steps_is_not_undone_by_an_answer_that_grows(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "scrolls@example.com")
        gate = Gate()
        upstream.reply(
            Reply.sse(
                [*map(chunk, TEXTS), gate, *(chunk("w\n\n") for _ in range(30)), *whole("The end")]
            )
        )
        ask(ada.page, "Write")
        line = ada.page.get_by_text("This is line 199.", exact=True)
        expect(line).to_be_in_viewport()
        ada.page.evaluate("""() => new Promise((done) => {
          const scroll = document.querySelector(".scroll");
          scroll.addEventListener("scroll", done, { once: true });
          scroll.scrollTop -= 30;
        })""")
        gate.opened.set()
        kept(ada.page)
        expect(ada.page.locator(".answer").get_by_text("The end")).not_to_be_in_viewport()
        expect(line).to_be_in_viewport()
