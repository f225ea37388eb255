"""A picture of each view of the page, light, dark and on a phone, with made-up people and figures.

    python -m tests.page.pictures docs/images        # or: make pictures

The provider is scripted, so that a chat looks like one. Look at each picture before you commit it.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
from playwright.sync_api import Page, sync_playwright
from sqlalchemy import create_engine, text

from goblin_assistant.database.engine import engine_options
from goblin_assistant.database.models import now_ms
from goblin_assistant.usage.records import first_id_at, journal_line
from tests.conftest import Server, serving, wait_until
from tests.support.books import entry, open_store
from tests.support.browser import MILLISECONDS, person
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.services import find_binary, free_port
from tests.support.signed_in import ready, sign_in
from tests.support.wire_bodies import openai_events

EMAIL = "ada@example.com"
DAY_MS = 86_400_000
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1200, "height": 760}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1200, "height": 760}, "color_scheme": "dark"},
    "phone": {
        "viewport": {"width": 390, "height": 780},
        "color_scheme": "light",
        "has_touch": True,
        "is_mobile": True,
    },
}
VIEWS = ("door", "chat", "keys", "usage", "status", "settings")
QUESTION = "How do I count the words of a file in Python?"
ANSWER = """Read the file, split it, and let a `Counter` do the rest:

```python
from collections import Counter
from pathlib import Path

words = Path("story.txt").read_text().lower().split()
for word, count in Counter(words).most_common(3):
    print(f"{count:5} {word}")
```

| word | count |
|---|---|
| the | 312 |
| goblin | 87 |

- `split()` cuts at **any** white space.
- Punctuation stays on its word: strip it if you mind.
"""
OTHERS = ("Mushrooms of the northern woods", "A letter to the landlord", "Why is the sky blue?")
KEYS: tuple[dict[str, Any], ...] = (
    {"name": "build server", "monthly_budget_usd": "25.00", "requests_per_minute": 30},
    {"name": "support bot", "allowed_models": ["openai/gpt-4o-mini"], "max_concurrency": 4},
    {"name": "old laptop"},
    {"name": "notebook", "expires_in": 30 * 86_400, "tokens_per_minute": 50_000},
)
MODELS = (("openai", "gpt-4o", 9000), ("openai", "gpt-4o-mini", 1500), ("local", "llama3.2", 0))


@contextmanager
def stage(folder: Path) -> Iterator[Server]:
    """A server with two providers, one of which is away, and a user who has used it for a month."""
    upstream = FakeUpstream()
    listed = {"data": [{"id": name, "object": "model"} for name in ("gpt-4o", "gpt-4o-mini")]}
    upstream.default = Reply.json(200, listed)
    toml = folder / "goblin.toml"
    toml.write_text(
        f'[providers.local]\nbase_url = "http://127.0.0.1:{free_port()}/v1"\n'
        'models = ["llama3.2"]\n'
    )
    try:
        with serving(folder) as start:
            server = start(
                GOBLIN_CONFIG_FILE=str(toml), OPENAI_API_KEY="sk-none",
                OPENAI_BASE_URL=upstream.url + "/v1", GOBLIN_HEALTH_INTERVAL="3600",
            )  # fmt: skip
            wait_until(lambda: "unknown" not in health(server), what="the first checks")
            furnish(folder, server, server.register(EMAIL))
            usage = {"prompt_tokens": 17, "completion_tokens": 152, "total_tokens": 169}
            answer = openai_events(ANSWER, usage=usage, model="gpt-4o")
            upstream.reply(*[Reply.sse(answer) for _ in LOOKS])
            yield server
    finally:
        upstream.close()


def health(server: Server) -> str:
    """The health report as text."""
    return requests.get(server.url + "/health/all", timeout=60).text


def furnish(folder: Path, server: Server, headers: dict[str, str]) -> None:
    """Keys, older conversations, and a month of usage."""
    keys = []
    for spec in KEYS:
        made = requests.post(server.url + "/auth/keys", json=spec, headers=headers, timeout=60)
        keys.append(made.json()["id"])
    revoked = requests.delete(f"{server.url}/auth/keys/{keys[2]}", headers=headers, timeout=60)
    assert revoked.status_code == 204
    for title in OTHERS:
        requests.post(
            server.url + "/conversations", json={"title": title}, headers=headers, timeout=60
        )
    requests.put(
        server.url + "/settings/",
        json={"model": "openai/gpt-4o", "system_prompt": "Answer briefly, in plain words."},
        headers=headers,
        timeout=60,
    )
    url = f"sqlite:///{folder / 'server0' / 'instance' / 'goblin.db'}"
    engine = create_engine(url, **engine_options(url, 2))
    with open_store(engine, folder / "journal") as store:
        store.import_records(journal_line(one) for one in a_month(keys))
    with engine.begin() as connection:
        for key_id, minutes in ((keys[0], 4), (keys[1], 190)):
            connection.execute(
                text("UPDATE api_keys SET last_used_at = :at WHERE id = :id"),
                {"at": now_ms() - minutes * 60_000, "id": key_id},
            )
    engine.dispose()


def a_month(keys: list[int]) -> Iterator[Any]:
    """Usage records of thirty days, the same each time."""
    dice = random.Random(7)
    number = 0
    for day in range(1, 31):
        weekend = time.gmtime(now_ms() / 1000 - day * 86_400).tm_wday >= 5
        for provider, model, cost in MODELS:
            for _ in range(dice.randint(1, 5) if weekend else dice.randint(8, 22)):
                number += 1
                prompt = dice.randint(200, 3000)
                yield entry(
                    id=first_id_at(now_ms() - day * DAY_MS)[:26] + f"{number:06x}",
                    provider=provider,
                    model=model,
                    key_id=dice.choice([keys[0], keys[1], None]),
                    prompt_tokens=prompt,
                    completion_tokens=dice.randint(50, 900),
                    cost_microusd=cost * prompt // 1000,
                    completed=dice.random() > 0.01,
                )


def show(page: Page, server: Server, view: str) -> None:
    """Open a view and wait until it is whole."""
    page.goto(f"{server.url}/#/{view}")
    ready(page, view)
    if view == "chat":
        asked = page.get_by_role("link", name=QUESTION)
        if asked.count() == 0:
            page.get_by_label("Message").fill(QUESTION)
            page.get_by_label("Message").press("Enter")
        else:
            page.evaluate("(to) => { location.hash = to; }", asked.get_attribute("href"))
        page.get_by_role("button", name="Ask again").wait_for()
        page.locator(".scroll").evaluate("(one) => { one.scrollTop = 0; }")
    if view == "usage":
        page.locator(".plot canvas").nth(2).wait_for()
    page.mouse.move(0, 0)
    page.evaluate("document.fonts.ready")
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def take(into: Path) -> list[Path]:
    """All pictures; their paths."""
    into.mkdir(parents=True, exist_ok=True)
    made = []
    with (
        tempfile.TemporaryDirectory(prefix="goblin-pictures-") as folder,
        stage(Path(folder)) as server,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(
            executable_path=find_binary("chromium"), args=["--no-sandbox"]
        )
        for look, options in LOOKS.items():
            with person(browser, server.url, **options) as ada:
                for view in VIEWS:
                    if view == "door":
                        ada.page.get_by_label("E-mail").wait_for(timeout=MILLISECONDS)
                    else:
                        show(ada.page, server, view)
                    path = into / f"{view}-{look}.png"
                    ada.page.screenshot(path=path, caret="hide", animations="disabled")
                    made.append(path)
                    if view == "door":
                        sign_in(ada.page, EMAIL)
                        ready(ada.page)
        browser.close()
    return made


def main() -> None:
    """Take them all."""
    parser = argparse.ArgumentParser(prog="python -m tests.page.pictures", description=__doc__)
    parser.add_argument("folder", type=Path)
    print(json.dumps([str(path) for path in take(parser.parse_args().folder)], indent=1))


if __name__ == "__main__":
    main()
