"""The server that clients are tried against: two rows in front of one scripted provider."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import Server, serving, wait_until
from tests.support.fake_upstream import FakeUpstream, Reply


@contextmanager
def two_rows(
    folder: Path, more: str = "", **settings: str
) -> Iterator[tuple[Server, FakeUpstream]]:
    """A server and its provider. Row `up` has chats only, row `same` has the Responses API too;
    `more` is added to goblin.toml."""
    upstream = FakeUpstream()
    try:
        row = f'base_url = "{upstream.url}/v1"\nmodels = ["gpt-4o"]\n'
        same = 'options = { responses_path = "/responses" }\n'
        config = folder / "goblin.toml"
        config.write_text(f"[providers.up]\n{row}[providers.same]\n{row}{same}{more}")
        upstream.default = Reply.json(200, {"object": "list", "data": []})
        with serving(folder) as start:
            server = start(
                GOBLIN_CONFIG_FILE=str(config),
                GOBLIN_RETRIES="0",
                GOBLIN_HEALTH_INTERVAL="3600",
                GOBLIN_BREAKER_MIN_CALLS="1000",
                **settings,
            )
            wait_until(lambda: len(upstream.requests) == 2, what="the checks of the providers")
            yield server, upstream
    finally:
        upstream.close()
