"""The conditions of always_answering.py: each load, and the check that it arrived.

A load runs until it is cancelled. It sets `tally.ready` when sampling may begin. Short loads are
repeated for the whole sampling.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import psutil

from benchmarks import servers
from benchmarks.crowd import Mode, Provider, Tally, open_silent, reset, send
from benchmarks.native import http_request
from tests.support.nasty_bodies import MESSAGES, NASTY, NASTY_WHOLE, Make, inside
from tests.support.services import PostgresServer, RedisServer

LOGINS = 250
CHATS = 300
HANGING_CLIENTS = 100
HALF_SENT = 1000
READERS = 200
SENDERS = 4
SENDER_PAUSE_SECONDS = 0.05
PIPELINED = 100
PAUSE_SECONDS = 30.0
CHAT_EVERY, LIST_EVERY, LOGIN_EVERY = 0.05, 0.1, 0.5
SLOTS = 56
"""Of a server with its default of 64 threads."""

ONE_CONNECTION = {"Connection": "close"}


@dataclass(frozen=True, slots=True)
class LoadContext:
    """What a load uses. `keys` are API keys of one account, `token` is its access token."""

    port: int
    token: str
    keys: Sequence[str]
    provider: Provider
    body_bytes: int
    service: PostgresServer | RedisServer | None = None

    def chat(self, *, stream: bool, key: int = 0, extra: Mapping[str, str] | None = None) -> bytes:
        """A chat by API key."""
        by_key = {"Authorization": f"Bearer {self.keys[key]}", **ONE_CONNECTION, **(extra or {})}
        body = servers.chat_body("bench/bench", stream=stream)
        return http_request("POST", "/v1/chat/completions", by_key, body)

    def login(self) -> bytes:
        """A login with the right password."""
        body = json.dumps({"email": servers.EMAIL, "password": servers.PASSWORD}).encode()
        return http_request("POST", "/auth/login", ONE_CONNECTION, body)

    def key_list(self) -> bytes:
        """A request that reads the database each time."""
        headers = {"Authorization": f"Bearer {self.token}", **ONE_CONNECTION}
        return http_request("GET", "/auth/keys", headers)


Load = Callable[[LoadContext, Tally], Coroutine[Any, Any, None]]
Check = Callable[[LoadContext, Tally], list[str]]
"""How a load differed from what it should have been; empty: it was right."""


@dataclass(frozen=True, slots=True)
class Condition:
    """`name` is for --only, `title` for the table. `samples` is the least that a full run takes."""

    name: str
    title: str
    load: Load
    check: Check
    mode: Mode = "quick"
    service: Literal["", "postgres", "redis"] = ""
    samples: int = 1000
    keys: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)


def _expect(**expectations: bool) -> list[str]:
    return [f"not {name.replace('_', ' ')}" for name, holds in expectations.items() if not holds]


async def idle(context: LoadContext, tally: Tally) -> None:
    """No load."""
    tally.ready.set()
    await asyncio.Event().wait()


def nothing_expected(context: LoadContext, tally: Tally) -> list[str]:
    """Nothing to check."""
    return []


async def _waves(port: int, tally: Tally, kind: str, request: bytes, count: int) -> None:
    """`count` requests at once, and again when all have their answers."""
    while True:
        wave = [asyncio.ensure_future(send(port, request, kind, tally)) for _ in range(count)]
        await asyncio.sleep(0.2)
        tally.ready.set()
        await asyncio.gather(*wave)


async def logins(context: LoadContext, tally: Tally) -> None:
    """250 logins at once."""
    await _waves(context.port, tally, "login", context.login(), LOGINS)


def logins_arrived(context: LoadContext, tally: Tally) -> list[str]:
    """All requests of a wave were open at once."""
    return _expect(all_logins_at_once=tally.most_open["login"] >= LOGINS)


async def chats(context: LoadContext, tally: Tally) -> None:
    """300 streams of three seconds at once."""
    await _waves(context.port, tally, "chat", context.chat(stream=True), CHATS)


def chats_arrived(context: LoadContext, tally: Tally) -> list[str]:
    """All requests of a wave were open at once, and every slot was taken."""
    return _expect(
        all_chats_at_once=tally.most_open["chat"] >= CHATS,
        every_slot_taken=context.provider.most_active >= SLOTS,
    )


async def hanging_provider(context: LoadContext, tally: Tally) -> None:
    """100 clients that repeat half a second after a refusal."""

    async def client() -> None:
        while True:
            await send(context.port, context.chat(stream=False), "chat", tally)
            await asyncio.sleep(0.5)

    clients = [asyncio.ensure_future(client()) for _ in range(HANGING_CLIENTS)]
    await asyncio.sleep(2)
    tally.ready.set()
    await asyncio.gather(*clients)


def provider_hung(context: LoadContext, tally: Tally) -> list[str]:
    """Calls hung in the provider, which answered none."""
    return _expect(
        every_slot_taken=context.provider.most_active >= SLOTS,
        no_chat_answered=tally.total("chat", "200") == 0,
    )


async def half_sent(context: LoadContext, tally: Tally) -> None:
    """1,000 connections: half stop within their headers, half within their body."""
    head = b"POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    body = head + b'Content-Length: 1000\r\n\r\n{"email": "'
    await _hold(context, tally, "half-sent", [head if n % 2 else body for n in range(HALF_SENT)])


async def _hold(context: LoadContext, tally: Tally, kind: str, requests: Sequence[bytes]) -> None:
    """Open a connection for each request and read nothing; replace those that are refused."""
    held: list[socket.socket | None] = [None] * len(requests)
    try:
        while True:
            for number, request in enumerate(requests):
                connection = held[number]
                if connection is not None and _closed(connection):
                    tally.count(kind, "refused or closed", 0)
                    connection.close()
                    held[number] = connection = None
                if connection is None:
                    held[number] = await _opened(context.port, request, kind, tally)
            now_open = len(requests) - held.count(None)
            tally.most_open[kind] = max(tally.most_open[kind], now_open)
            await asyncio.sleep(1)
            tally.ready.set()
    finally:
        for connection in filter(None, held):
            tally.count(kind, "open at the end", 0)
            reset(connection)


async def _opened(port: int, request: bytes, kind: str, tally: Tally) -> socket.socket | None:
    try:
        return await asyncio.wait_for(open_silent(port, request), 5)
    except (OSError, TimeoutError) as error:
        tally.count(kind, f"not opened ({type(error).__name__})", 0)
        return None


def _closed(connection: socket.socket) -> bool:
    """Whether the server has closed it or answered with an error. The buffer is not read."""
    try:
        seen = connection.recv(16, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return not seen or not seen.startswith(b"HTTP/1.1 200")


def connections_held(kind: str, count: int) -> Check:
    """Check that so many connections were opened."""

    def check(context: LoadContext, tally: Tally) -> list[str]:
        return _expect(**{f"{count}_connections_opened": tally.most_open[kind] >= count})

    return check


async def stalled_streams(context: LoadContext, tally: Tally) -> None:
    """200 clients request an endless stream and do not read it."""
    request = context.chat(stream=True)
    await _hold(context, tally, "reader", [request] * READERS)


def streams_stalled(context: LoadContext, tally: Tally) -> list[str]:
    """All connections were opened, and every slot was taken."""
    return [
        *connections_held("reader", READERS)(context, tally),
        *_expect(every_slot_taken=context.provider.most_active >= SLOTS),
    ]


async def stalled_documents(context: LoadContext, tally: Tally) -> None:
    """200 clients without credentials request a large document a hundred times and do not read."""
    request = http_request("GET", "/openapi.json", {}) * PIPELINED
    await _hold(context, tally, "reader", [request] * READERS)


async def service_stopped(context: LoadContext, tally: Tally) -> None:
    """Chats, lists of keys and logins at a steady rate; after three seconds the service stops."""
    assert context.service is not None
    numbers = itertools.cycle(range(len(context.keys)))
    counter = itertools.count()

    def chat() -> bytes:
        extra = {"Idempotency-Key": f"bench-{next(counter)}"}
        return context.chat(stream=False, key=next(numbers), extra=extra)

    steady = [
        asyncio.ensure_future(_steady(context.port, tally, "chat", chat, CHAT_EVERY)),
        asyncio.ensure_future(_steady(context.port, tally, "keys", context.key_list, LIST_EVERY)),
        asyncio.ensure_future(_steady(context.port, tally, "login", context.login, LOGIN_EVERY)),
    ]
    try:
        await asyncio.sleep(3)
        _signal(context.service, signal.SIGSTOP)
        tally.ready.set()
        await asyncio.sleep(PAUSE_SECONDS)
        _signal(context.service, signal.SIGCONT)
        await asyncio.gather(*steady)
    finally:
        _signal(context.service, signal.SIGCONT)


async def _steady(
    port: int,
    tally: Tally,
    kind: str,
    make: Callable[[], bytes],
    every: float,
) -> None:
    """One request after each interval, whether earlier ones were answered or not."""
    running = set()
    while True:
        task = asyncio.ensure_future(send(port, make(), kind, tally))
        running.add(task)
        task.add_done_callback(running.discard)
        await asyncio.sleep(every)


def _signal(service: PostgresServer | RedisServer, number: signal.Signals) -> None:
    """Send a signal to a service and all its processes: each connection of PostgreSQL has one."""
    assert service.process is not None
    parent = psutil.Process(service.process.pid)
    for process in [parent, *parent.children(recursive=True)]:
        process.send_signal(number)


def service_was_loaded(context: LoadContext, tally: Tally) -> list[str]:
    """The load continued while the service was stopped: at least half of it was sent."""
    seconds = time.monotonic() - tally.began
    begun = {kind: tally.total(kind) + tally.open[kind] for kind in ("chat", "keys", "login")}
    return _expect(
        all_chats_sent=begun["chat"] >= 0.5 * seconds / CHAT_EVERY,
        all_lists_sent=begun["keys"] >= 0.5 * seconds / LIST_EVERY,
        all_logins_sent=begun["login"] >= 0.5 * seconds / LOGIN_EVERY,
    )


def nasty(make: Make, *, login: bool) -> Load:
    """Four clients that repeat one body: with a key to chat, without to login."""

    async def load(context: LoadContext, tally: Tally) -> None:
        path = "/auth/login" if login else "/v1/chat/completions"
        by_key = {} if login else {"Authorization": f"Bearer {context.keys[0]}"}
        request = http_request("POST", path, {**by_key, **ONE_CONNECTION}, make(context.body_bytes))

        async def client() -> None:
            while True:
                await send(context.port, request, "body", tally)
                await asyncio.sleep(SENDER_PAUSE_SECONDS)  # refused at once, it would be a flood

        clients = [asyncio.ensure_future(client()) for _ in range(SENDERS)]
        await asyncio.sleep(0.5)
        tally.ready.set()
        await asyncio.gather(*clients)

    return load


def bodies_arrived(context: LoadContext, tally: Tally) -> list[str]:
    """Four bodies were open at once."""
    return _expect(four_bodies_at_once=tally.most_open["body"] >= SENDERS)


def _nasty_conditions() -> list[Condition]:
    """Each body for the chat route; one for login, which refuses it by its length alone."""
    values = {name: _as_body(make, "messages") for name, make in NASTY.items()}
    return [
        _nasty_condition("login", "empty objects", _as_body(NASTY["empty objects"], "email")),
        *(_nasty_condition("chat", name, make) for name, make in {**values, **NASTY_WHOLE}.items()),
    ]


def _nasty_condition(route: str, name: str, make: Make) -> Condition:
    return Condition(
        f"nasty-{route}-{name.replace(' ', '-').replace(',', '')}",
        f"{SENDERS} at once to {'/auth/login' if route == 'login' else 'chat'}: {name}",
        nasty(make, login=route == "login"),
        bodies_arrived,
    )


def _as_body(make: Make, field: str) -> Make:
    """A nasty value where it costs most: a chat's messages, a login's e-mail address."""
    others = {"messages": MESSAGES} if field == "messages" else {}
    return lambda size: inside(field, make(size), **others)


IDLE = Condition("idle", "idle server", idle, nothing_expected)
PAUSED = int(PAUSE_SECONDS * 100)

CONDITIONS = [
    IDLE,
    Condition("logins", f"{LOGINS} logins at once", logins, logins_arrived),
    Condition("chats", f"{CHATS} chats at once, {SLOTS} slots", chats, chats_arrived, mode="slow"),
    Condition(
        "postgres", "PostgreSQL stopped for 30 s", service_stopped, service_was_loaded,
        service="postgres", samples=PAUSED, keys=20,
    ),
    Condition(
        "redis", "Redis stopped for 30 s", service_stopped, service_was_loaded,
        service="redis", samples=PAUSED, keys=20,
    ),
    Condition("provider", "a provider that hangs", hanging_provider, provider_hung, mode="hang"),
    Condition(
        "half-sent", f"{HALF_SENT:,} half-sent requests", half_sent,
        connections_held("half-sent", HALF_SENT),
    ),
    Condition(
        "stalled-streams", f"{READERS} readers of a stream stall", stalled_streams,
        streams_stalled, mode="pour",
    ),
    Condition(
        "stalled-documents", f"{READERS} readers of a document stall, no credentials",
        stalled_documents, connections_held("reader", READERS),
    ),
    *_nasty_conditions(),
]  # fmt: skip
