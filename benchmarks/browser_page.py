"""The page's chat under load, in Chromium: `python -m benchmarks.browser_page`.

1. A provider streams 1,000 tokens a second for 60 s. The time between two frames at the end is
   compared with that at the start; so is the growth of the heap, after collections, with the length
   of the text. An answer of one second comes first: the page's code is loaded then.
2. Conversations of 50 and of 500 messages are opened, five times each.

Needs Chromium and the `dev` extra. Prints its figures; asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import requests
from playwright.sync_api import CDPSession, Page, expect, sync_playwright

from tests.conftest import PASSWORD, Server, serving, wait_until
from tests.support.chatting import answer, ask, choose, event
from tests.support.services import find_binary
from tests.support.signed_in import sign_in

PARAGRAPH = (
    "## Part {n}\n\nThe **quick** brown fox jumps over the lazy dog, and `code` stands in between; "
    "a [link](https://example.com/) too. It goes on for a while, as answers do, without an end in "
    "sight, until it comes.\n\n- one\n- two *three*\n\n```python\nfor each in range({n}):\n"
    "    print(each)\n```\n\n"
)
WATCH = """() => {
  window.frames = [];
  let before = performance.now();
  const next = (now) => { window.frames.push([now, now - before]); before = now;
    requestAnimationFrame(next); };
  requestAnimationFrame(next);
}"""
EMAIL = "bench@example.com"


class Provider:
    """Streams `rate` tokens a second for `seconds`; every connection is a chat or a list."""

    def __init__(self, rate: int, seconds: int) -> None:
        self.rate, self.seconds = rate, seconds
        self.text = ""
        self.ended = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(65536)
            if head.startswith(b"GET"):
                body = json.dumps({"data": [{"id": "gpt-4o"}]}).encode()
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
                    b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
                )
                return
            connection.sendall(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
            )
            self._stream(connection)

    def _stream(self, connection: socket.socket) -> None:
        total = self.rate * self.seconds
        words = "".join(PARAGRAPH.format(n=n) for n in range(total // 40)).split(" ")
        began, sent = time.monotonic(), 0
        while sent < total:
            due = min(total, int((time.monotonic() - began) * self.rate))
            pieces = [f"{word} " for word in words[sent:due]]
            self.text += "".join(pieces)
            connection.sendall(b"".join(_chunk(piece) for piece in pieces))
            sent = due
            time.sleep(0.005)
        end = event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
        connection.sendall(end + b"data: [DONE]\n\n")
        self.ended.set()


def _chunk(text: str) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": None}])


def heap(session: CDPSession) -> int:
    """Bytes of JavaScript after a collection."""
    session.send("HeapProfiler.collectGarbage")
    metrics = session.send("Performance.getMetrics")["metrics"]
    return int(next(row["value"] for row in metrics if row["name"] == "JSHeapUsedSize"))


def stream(page: Page, provider: Provider) -> dict[str, Any]:
    """One long answer: frames at the start and at the end, and the heap."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable")
    whole, provider.seconds = provider.seconds, 1
    _answered(page, provider, 1)
    provider.seconds, provider.text = whole, ""
    before = heap(session)
    page.evaluate(WATCH)
    _answered(page, provider, 2)
    frames = page.evaluate("() => window.frames")
    page.evaluate("() => { window.frames = []; }")
    first, last = frames[0][0], frames[-1][0]
    window = min(10_000, (last - first) / 4)
    start = [length for at, length in frames if first + 1000 < at < first + 1000 + window]
    end = [length for at, length in frames if last - 1000 - window < at < last - 1000]
    after = heap(session)
    return {
        "characters": len(provider.text),
        "shown": len(answer(page, 1).text_content() or ""),
        "frame_ms_start": _spread(start),
        "frame_ms_end": _spread(end),
        "heap_growth_per_character": round((after - before) / len(provider.text), 2),
    }


def _answered(page: Page, provider: Provider, number: int) -> None:
    """Ask, and wait until the answer of this number, from 1, has ended."""
    provider.ended.clear()
    ask(page, "Go on")
    # Not before the provider has ended: each look for the button reads all of the page, for
    # hundreds of milliseconds at the end, in the thread whose frames are measured.
    assert provider.ended.wait(provider.seconds + 60), "the provider has not ended"
    again = page.get_by_role("button", name="Ask again")
    expect(again).to_have_count(number, timeout=60_000)


def _spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "frames": len(ordered),
        "mean": round(statistics.mean(ordered), 1),
        "p50": round(ordered[len(ordered) // 2], 1),
        "p95": round(ordered[int(len(ordered) * 0.95)], 1),
    }


def opening(page: Page, server: Server, headers: dict[str, str]) -> dict[str, Any]:
    """Milliseconds from the click until the last message of a conversation is shown."""
    found: dict[str, Any] = {}
    for size in (50, 500):
        made = requests.post(
            f"{server.url}/conversations", json={"title": f"of {size}"}, headers=headers, timeout=60
        ).json()
        messages = [
            {"role": role, "text": PARAGRAPH.format(n=number)}
            for number in range(size // 2)
            for role in ("user", "assistant")
        ]
        messages[-1]["text"] = f"the last of {size}"
        requests.put(
            f"{server.url}/conversations/{made['id']}/messages/0",
            json={"revision": made["revision"], "messages": messages},
            headers=headers,
            timeout=60,
        ).raise_for_status()
        times = []
        for _ in range(5):
            page.evaluate("() => { location.hash = '#/chat'; }")
            expect(page.locator(".hello")).to_be_visible()
            began = time.monotonic()
            page.evaluate("(id) => { location.hash = `#/chat/${id}`; }", made["id"])
            expect(page.get_by_text(f"the last of {size}", exact=True)).to_be_visible()
            times.append((time.monotonic() - began) * 1000)
        found[f"open_{size}_ms"] = round(statistics.median(times))
    return found


def main() -> None:
    """Run both and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--rate", type=int, default=1000, help="tokens a second")
    options = parser.parse_args()
    provider = Provider(options.rate, options.seconds)
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder)) as serve,
        sync_playwright() as playwright,
    ):
        server = serve(OPENAI_API_KEY="sk-bench", OPENAI_BASE_URL=provider.url)
        headers = server.register(EMAIL)
        wait_until(lambda: b"gpt-4o" in _models(server, headers), 60, "the provider's models")
        browser = playwright.chromium.launch(
            executable_path=find_binary("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page()
        page.goto(server.url)
        sign_in(page, EMAIL, PASSWORD)
        choose(page, "openai/gpt-4o")
        result = {**stream(page, provider), **opening(page, server, headers)}
        browser.close()
        provider.close()
    print(json.dumps(result, indent=2))


def _models(server: Server, headers: dict[str, str]) -> bytes:
    return requests.get(server.url + "/v1/models", headers=headers, timeout=60).content


if __name__ == "__main__":
    main()
