"""Many clients and a provider for always_answering.py, in asyncio in one thread, at little cost.

The load must not take CPU that the server needs. So answers are not parsed: a result is the status
and the time to the first bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, Literal

CLIENT_TIMEOUT_SECONDS = 60.0
PIECE = 256 * 1024


class Tally:
    """The results of one condition's clients, by kind of request: statuses and times."""

    def __init__(self) -> None:
        self.statuses: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.times: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        self.open: Counter[str] = Counter()
        self.most_open: Counter[str] = Counter()
        self.began = time.monotonic()
        self.ready = threading.Event()
        """The load has arrived: sampling may begin."""

    def count(self, kind: str, status: str, seconds: float) -> None:
        """One request of a kind has ended."""
        self.statuses[kind][status] += 1
        self.times[kind, status].append(seconds)

    def enter(self, kind: str) -> None:
        """One more of a kind is under way."""
        self.open[kind] += 1
        self.most_open[kind] = max(self.most_open[kind], self.open[kind])

    def leave(self, kind: str) -> None:
        """One fewer of a kind is under way."""
        self.open[kind] -= 1

    def total(self, kind: str, status: str = "") -> int:
        """Requests of a kind that have ended, with this status if given."""
        found = self.statuses[kind]
        return found[status] if status else found.total()

    def text(self) -> str:
        """`chat: 200 x 56 (3.1 s), 503 x 244 (0.5 s)`, with the median time of each."""
        parts = []
        for kind, statuses in self.statuses.items():
            shown = []
            for status, count in sorted(statuses.items()):
                times = sorted(self.times[kind, status])
                median = times[len(times) // 2]
                shown.append(f"{status} x {count}" + (f" ({median:.2f} s)" if median else ""))
            parts.append(f"{kind}: {', '.join(shown)}" if shown else f"{kind}: none ended")
        return "; ".join(parts)


class Crowd:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._providers: list[Provider] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="crowd", daemon=True)
        self._thread.start()

    def begin(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        """Run it in the loop; `end` stops it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def end(self, running: Future[None]) -> None:
        """Cancel work and wait for its end. Raises its error, if any."""
        running.cancel()
        with contextlib.suppress(CancelledError):
            running.result(10)
        asyncio.run_coroutine_threadsafe(_quiet(), self._loop).result(30)

    def close(self) -> None:
        """Stop every load and provider, and the thread."""
        asyncio.run_coroutine_threadsafe(_quiet(), self._loop).result(30)
        for provider in self._providers:
            self._loop.call_soon_threadsafe(provider.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def provider(self) -> Provider:
        """A provider in this loop."""
        provider = Provider()
        self._providers.append(provider)
        asyncio.run_coroutine_threadsafe(provider.start(), self._loop).result(10)
        return provider


async def _quiet() -> None:
    """Cancel the remains of a load: its clients and the provider's conversations."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


async def send(port: int, request: bytes, kind: str, tally: Tally) -> str:
    """Send a request, read its answer to the end and count it; the status or the error."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    tally.enter(kind)
    try:
        async with asyncio.timeout(CLIENT_TIMEOUT_SECONDS):
            status = await _exchange(port, request)
    except TimeoutError:
        status = "no answer"
    except OSError as error:
        status = type(error).__name__
    finally:
        tally.leave(kind)
    tally.count(kind, status, loop.time() - began)
    return status


async def _exchange(port: int, request: bytes) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sending = asyncio.ensure_future(_send(writer, request))
    try:
        # A server may refuse before it has read everything, so the answer is read meanwhile.
        head = await reader.read(4096)
        while await reader.read(PIECE):
            pass
    finally:
        writer.transport.abort()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    return head[9:12].decode("latin-1") if head.startswith(b"HTTP/1.") else "closed"


async def _send(writer: asyncio.StreamWriter, request: bytes) -> None:
    for start in range(0, len(request), PIECE):
        if writer.is_closing():
            return
        writer.write(request[start : start + PIECE])
        await writer.drain()


async def open_silent(port: int, data: bytes) -> socket.socket:
    """A connection with a small buffer on which `data` has been sent and nothing will be read."""
    loop = asyncio.get_running_loop()
    connection = socket.socket()
    try:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(connection, ("127.0.0.1", port))
        await loop.sock_sendall(connection, data)
    except BaseException:
        connection.close()
        raise
    return connection


def reset(connection: socket.socket) -> None:
    """Close with RST, so that thousands leave no connection in TIME_WAIT behind."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


Mode = Literal["quick", "slow", "hang", "pour"]


class Provider:
    """An OpenAI-compatible provider. Its model list always answers; its chats follow `mode`:

    quick   one answer, at once
    slow    a stream of 30 events over three seconds
    hang    not a byte
    pour    a stream without end, as fast as it is read
    """

    def __init__(self) -> None:
        self.mode: Mode = "quick"
        self.port = 0
        self.chats = 0
        self.active = 0
        self.most_active = 0

    async def start(self) -> None:
        """Listen."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        self._server = server

    def close(self) -> None:
        """Stop listening. Call it in the loop's thread."""
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                if head.startswith(b"POST"):
                    self.chats += 1
                    self.active += 1
                    self.most_active = max(self.most_active, self.active)
                    try:
                        await self._chat(reader, writer)
                    finally:
                        self.active -= 1
                else:
                    writer.write(_whole(MODELS))
                    await writer.drain()
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # the client has gone, or the load is over
        finally:
            writer.transport.abort()

    async def _chat(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "quick":
            writer.write(_whole(ANSWER))
        elif self.mode == "hang":
            await reader.read(1)  # until the caller gives up
        else:
            writer.write(STREAM_HEAD)
            if self.mode == "slow":
                for _ in range(30):
                    writer.write(_chunk(_event("token ")))
                    await asyncio.sleep(0.1)
            else:
                flood = _chunk(_event("token " * 2000))
                while True:
                    writer.write(flood)
                    await writer.drain()
            writer.write(_chunk(LAST) + b"0\r\n\r\n")
        await writer.drain()


def _whole(body: bytes) -> bytes:
    head = f"{_HEAD}application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(text: str) -> bytes:
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
    return b"data: " + json.dumps({**_COMMON, "choices": [choice]}).encode() + b"\n\n"


_COMMON = {"id": "c1", "object": "chat.completion.chunk", "created": 1700000000, "model": "bench"}
_USAGE = {"prompt_tokens": 12, "completion_tokens": 30, "total_tokens": 42}
_MESSAGE = {"role": "assistant", "content": "The quick brown fox."}
_CHOICE = {"index": 0, "message": _MESSAGE, "finish_reason": "stop"}
_END = {"index": 0, "delta": {}, "finish_reason": "stop"}
_HEAD = "HTTP/1.1 200 OK\r\nContent-Type: "
STREAM_HEAD = f"{_HEAD}text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
MODELS = b'{"object":"list","data":[{"id":"bench","object":"model"}]}'
_WHOLE = {**_COMMON, "object": "chat.completion", "choices": [_CHOICE], "usage": _USAGE}
ANSWER = json.dumps(_WHOLE).encode()
LAST = (
    b"data: " + json.dumps({**_COMMON, "choices": [_END]}).encode() + b"\n\n"
    b"data: " + json.dumps({**_COMMON, "choices": [], "usage": _USAGE}).encode() + b"\n\n"
    b"data: [DONE]\n\n"
)
