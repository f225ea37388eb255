"""What a chat leaves behind when its response has been closed."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient

from goblin_assistant.calls.request import Chat
from tests.conftest import wait_until


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Only reference counts free objects."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.usefixtures("no_collector")
def test_a_chat_is_freed_without_the_garbage_collector(
    client: FlaskClient, auth_headers: dict[str, str], stream: bool
) -> None:
    """A circle of references keeps 10 to 40 KB of each chat until the collector comes by."""
    body = {
        "model": "echo/echo",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": stream,
    }
    with client.post("/v1/chat/completions", json=body, headers=auth_headers) as answer:
        assert answer.status_code == 200
        assert b"hello" in answer.data
    # The thread that writes the usage record has it for a moment.
    wait_until(lambda: not any(type(thing) is Chat for thing in gc.get_objects()))
