"""Is a server's stream whole? Its figures count only if it is.

One stream is read here and compared with the upstream's own: its text and its end. The client of
a measurement counts the events and bytes of each stream, which must be those of that one.
"""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from http.client import HTTPResponse

from benchmarks.native import StreamCounts

BYTES_MAY_DIFFER = 0.1
"""Of a stream's bytes: the chunks' sizes, and identifiers that some servers make anew."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream that was read to its end. `done`: its last event is [DONE]."""

    events: int
    bytes: int
    done: bool
    text: str


def parse(body: bytes) -> Stream:
    """The events of a body of OpenAI's format."""
    events = [event for event in body.decode().split("\n\n") if event]
    data = [event.removeprefix("data: ") for event in events]
    text = ""
    for event in data:
        if event.startswith("{"):
            for choice in json.loads(event).get("choices", ()):
                text += choice["delta"].get("content") or ""
    return Stream(len(events), len(body), bool(data) and data[-1] == "[DONE]", text)


def read(port: int, request: bytes, *, timeout: float = 60.0) -> Stream:
    """Send one request and read its stream. Raises OSError or HTTPException."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        connection.sendall(request)
        response = HTTPResponse(connection, method="POST")
        response.begin()
        return parse(response.read())


def difference(seen: Stream, direct: Stream) -> str:
    """How a server's stream differs from the provider's; empty if it is whole."""
    if not seen.done:
        return f"it ends without [DONE] after {seen.events} events"
    if seen.text != direct.text:
        return f"its text has {len(seen.text)} characters, the provider's has {len(direct.text)}"
    return ""


def shortfall(counts: StreamCounts, whole: Stream) -> str:
    """What is wrong with a measurement's streams; empty if each is like `whole`."""
    if not counts.count:
        return "no stream ended"
    if counts.done < counts.count:
        return f"{counts.count - counts.done} of {counts.count} streams ended without [DONE]"
    if counts.events != (whole.events, whole.events):
        return f"streams of {counts.events[0]} to {counts.events[1]} events for {whole.events}"
    least, most = ((1 - BYTES_MAY_DIFFER) * whole.bytes, (1 + BYTES_MAY_DIFFER) * whole.bytes)
    if not least <= counts.bytes[0] <= counts.bytes[1] <= most:
        return f"streams of {counts.bytes[0]} to {counts.bytes[1]} bytes for {whole.bytes}"
    return ""
