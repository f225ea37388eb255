"""A plug-in that was written for version 0.1 works unchanged.

fixtures/plugin_of_0_1.py is a copy of the example plug-in of that version. It is not edited: it
imports what plug-ins import, `goblin_assistant.providers.http` among it.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from goblin_assistant.config import Config, ProviderRow
from goblin_assistant.providers.base import Provider
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.provider_wires import TEXT, collect, request, whole
from tests.support.wire_bodies import llama_answer, llama_events

PLUGIN = Path(__file__).parent / "fixtures" / "plugin_of_0_1.py"


@pytest.fixture
def provider(fake_upstream: FakeUpstream) -> Iterator[Provider]:
    """The old plug-in's provider, made from a row and pointed at the test's upstream."""
    spec = importlib.util.spec_from_file_location("plugin_of_0_1", PLUGIN)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    row = ProviderRow(kind="llamacpp_native", base_url=fake_upstream.url)
    config = Config.load(environ={"SECRET_KEY": "x" * 40})
    made: Provider = module.LlamaCppNativeProvider.from_row("local", row, config)
    yield made
    made.close()


def test_the_copy_imports_the_upstream_client_by_its_old_name() -> None:
    assert "from goblin_assistant.providers.http import Timeouts, UpstreamClient" in (
        PLUGIN.read_text()
    )


def test_an_old_plug_in_answers_in_one_piece(
    provider: Provider, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.json(200, llama_answer(TEXT)))
    response = provider.complete(request("llama"))
    assert whole(response.body) == (TEXT, [])
    assert response.usage is not None
    assert (response.usage.prompt_tokens, response.usage.completion_tokens) == (12, 5)
    assert "prompt" in json.loads(fake_upstream.requests[0].body)


def test_an_old_plug_in_streams(provider: Provider, fake_upstream: FakeUpstream) -> None:
    fake_upstream.reply(Reply.sse(llama_events(TEXT)))
    text, calls, completed = collect(list(provider.stream(request("llama", stream=True))))
    assert (text, calls, completed.finish_reason) == (TEXT, [], "stop")


def test_an_old_plug_in_checks_its_server(provider: Provider, fake_upstream: FakeUpstream) -> None:
    fake_upstream.reply(Reply.json(200, {"status": "ok"}))
    provider.check()
    assert fake_upstream.requests[0].path == "/health"
