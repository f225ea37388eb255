"""A real server in front of the fake upstream, and raw requests to it."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from typing import Any

from tests.conftest import Serve, Server, wait_until
from tests.support.fake_upstream import FakeUpstream, Reply

CHAT: dict[str, Any] = {
    "model": "openai/gpt-4o",
    "messages": [{"role": "user", "content": "Hello"}],
}
STREAM = {**CHAT, "stream": True}


def start(serve: Serve, upstream: FakeUpstream, models: Sequence[str] = (), **more: str) -> Server:
    """A server whose openai provider is the fake upstream, past its first health check.

    `models` are what the provider lists. Replies that are scripted later are for chats.
    """
    listed = json.dumps({"data": [{"id": name, "object": "model"} for name in models]}).encode()
    upstream.default = Reply.raw(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(listed), listed)
    )
    settings = {
        "OPENAI_API_KEY": "sk-canary-provider-key",
        "OPENAI_BASE_URL": upstream.url + "/v1",
        "GOBLIN_RETRIES": "0",
        "GOBLIN_HEALTH_INTERVAL": "3600",
        **more,
    }
    server = serve(**settings)
    wait_until(
        lambda: upstream.requests and upstream.open_connections == 0,
        what="the check of the provider",
    )
    upstream.requests.clear()
    return server


def raw(server: Server, data: bytes, timeout: float = 60.0) -> bytes:
    """All bytes that the server answers until it closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout) as connection:
        connection.sendall(data)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer
