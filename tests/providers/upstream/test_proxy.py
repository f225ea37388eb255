"""Calls through a proxy: CONNECT to a provider with TLS, whole addresses to one without. Deadlines
and clients that leave end these calls too, and a fault names the proxy."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from goblin_assistant.providers.base import (
    BadResponse,
    Call,
    CallCancelled,
    ConnectionFailed,
    ProviderError,
    Timeout,
)
from goblin_assistant.providers.upstream.client import Timeouts, UpstreamClient
from goblin_assistant.providers.upstream.deadlines import deadlines
from tests.conftest import wait_until
from tests.providers.upstream.test_tls import certificate, tls_url  # noqa: F401 -- fixtures
from tests.support.connect_proxy import ConnectProxy
from tests.support.fake_upstream import SILENCE, FakeUpstream, Gate, Reply, unused_url

SECONDS = 30
USER = "goblin:p%40ss-word@"
SENT = "Basic " + base64.b64encode(b"goblin:p@ss-word").decode()
EVENT = b'data: {"n": 1}\n\n'

Connect = Callable[..., UpstreamClient]


@pytest.fixture
def proxy() -> Iterator[ConnectProxy]:
    made = ConnectProxy()
    yield made
    made.close()


@pytest.fixture(params=["https", "http"])
def url(request: pytest.FixtureRequest) -> str:
    """The fake upstream's address, with TLS and without."""
    if request.param == "https":
        return str(request.getfixturevalue("tls_url"))
    upstream: FakeUpstream = request.getfixturevalue("fake_upstream")
    return upstream.url


@pytest.fixture
def connect(certificate: Path) -> Iterator[Connect]:  # noqa: F811 -- the fixture
    """`connect(url, proxy_url)`: a client whose timeouts never pass within a test."""
    made: list[UpstreamClient] = []

    def start(url: str, proxy: str | None, timeouts: Timeouts | None = None) -> UpstreamClient:
        times = timeouts or Timeouts(SECONDS, SECONDS, SECONDS)
        verify = str(certificate / "cert.pem")
        made.append(UpstreamClient("up", url, {}, times, 2, verify=verify, proxy=proxy))
        return made[-1]

    yield start
    for client in made:
        client.close()
    wait_until(lambda: deadlines.active() == 0, SECONDS)


def fault(client: UpstreamClient, call: Call | None = None) -> ProviderError:
    """The error of one chat; it names the proxy and shows no credential."""
    with pytest.raises(ProviderError) as raised:
        client.post("/chat", b"{}", call or Call())
    assert "proxy" in str(raised.value)
    assert "ss-word" not in str(raised.value)
    assert raised.value.provider == "up"
    return raised.value


def test_answers_and_streams_go_through_the_proxy(
    url: str, connect: Connect, proxy: ConnectProxy, fake_upstream: FakeUpstream
) -> None:
    client = connect(url + "/base", proxy.url(USER))
    fake_upstream.reply(
        Reply.json(200, {"ok": 1}), Reply.sse([EVENT]), Reply.json(200, {"data": []})
    )
    assert client.post("/chat", b'{"a":1}', Call()) == b'{"ok": 1}'
    assert b"".join(client.post_sse("/chat", b"{}", Call())) == EVENT
    assert client.get_json("/models", SECONDS) == {"data": []}
    assert [it.path for it in fake_upstream.requests] == [
        "/base/chat",
        "/base/chat",
        "/base/models",
    ]
    asked = proxy.asked[0]
    assert asked.headers["proxy-authorization"] == SENT
    host = url.partition("://")[2]
    if url.startswith("https:"):
        assert (asked.method, asked.target) == ("CONNECT", host)
        assert len(proxy.asked) == 1  # one tunnel carries them all
        assert "proxy-authorization" not in fake_upstream.requests[0].headers
    else:
        assert (asked.method, asked.target) == ("POST", f"{url}/base/chat")
        assert asked.headers["host"] == host
        assert len(proxy.asked) == 3


def test_a_tunnel_that_was_closed_while_idle_is_made_again(
    tls_url: str,  # noqa: F811 -- the fixture
    connect: Connect,
    proxy: ConnectProxy,
    fake_upstream: FakeUpstream,
) -> None:
    client = connect(tls_url, proxy.url())
    fake_upstream.default = Reply.json(200, {"ok": 1})
    for expected in (1, 2):
        assert client.post("/chat", b"{}", Call()) == b'{"ok": 1}'
        assert [it.method for it in proxy.asked] == ["CONNECT"] * expected
        proxy.die()


@pytest.mark.parametrize("status", [407, 403, 502])
def test_a_proxy_that_refuses_is_named_with_its_status(
    tls_url: str,  # noqa: F811 -- the fixture
    connect: Connect,
    proxy: ConnectProxy,
    fake_upstream: FakeUpstream,
    status: int,
) -> None:
    proxy.refusal = b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status
    error = fault(connect(tls_url, proxy.url(USER)))
    assert type(error) is ConnectionFailed
    assert str(error).startswith(f"the proxy for up refused the connection with status {status}")
    assert fake_upstream.requests == []


def test_refused_credentials_are_the_proxys_without_tls_too(
    connect: Connect, proxy: ConnectProxy, fake_upstream: FakeUpstream
) -> None:
    proxy.refusal = b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n"
    error = fault(connect(fake_upstream.url, proxy.url(USER)))
    assert type(error) is ConnectionFailed
    assert "407" in str(error)


def test_a_proxy_that_is_not_there_is_named(url: str, connect: Connect) -> None:
    error = fault(connect(url, unused_url().replace("//", f"//{USER}")))
    assert type(error) is ConnectionFailed
    assert str(error) == "the proxy for up cannot be reached: no connection"
    error = fault(connect(url, f"http://{USER}proxy.invalid:3128"))
    assert str(error) == "the proxy for up cannot be found: its host name does not resolve"


def test_a_proxy_that_answers_nonsense_or_closes_is_named(
    tls_url: str,  # noqa: F811 -- the fixture
    connect: Connect,
    proxy: ConnectProxy,
) -> None:
    for refusal in (b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 abc\r\n\r\n"):
        proxy.refusal = refusal
        error = fault(connect(tls_url, proxy.url(USER)))
        assert type(error) is ConnectionFailed


def test_a_proxy_that_hangs_is_cut_by_the_time_to_connect(
    tls_url: str,  # noqa: F811 -- the fixture
    connect: Connect,
    proxy: ConnectProxy,
) -> None:
    proxy.refusal = b""
    error = fault(connect(tls_url, proxy.url(USER), Timeouts(0.2, SECONDS, SECONDS)))
    assert type(error) is Timeout
    wait_until(lambda: proxy.left == 1, SECONDS)


def test_a_client_that_leaves_ends_a_call_that_waits_for_the_proxy(
    tls_url: str,  # noqa: F811 -- the fixture
    connect: Connect,
    proxy: ConnectProxy,
) -> None:
    proxy.refusal = b""
    with pytest.raises(CallCancelled):
        connect(tls_url, proxy.url()).post(
            "/chat", b"{}", Call(client_gone=lambda: bool(proxy.asked))
        )
    wait_until(lambda: proxy.left == 1, SECONDS)


def test_a_client_that_leaves_ends_a_call_that_waits_for_the_provider(
    url: str, connect: Connect, proxy: ConnectProxy, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.raw(SILENCE))
    with pytest.raises(CallCancelled):
        connect(url, proxy.url()).post(
            "/chat", b"{}", Call(client_gone=lambda: bool(fake_upstream.requests))
        )
    wait_until(lambda: proxy.left == 1, SECONDS)


def test_a_proxy_that_dies_within_a_stream_is_in_the_fault(
    url: str, connect: Connect, proxy: ConnectProxy, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.sse([EVENT, Gate()]))
    events = iter(connect(url, proxy.url()).post_sse("/chat", b"{}", Call()))
    assert next(events) == EVENT
    proxy.die()
    with pytest.raises(BadResponse, match=r"^up's answer ended before its end \(through its proxy"):
        next(events)


def test_the_providers_certificate_is_checked_through_the_proxy(
    tls_url: str,  # noqa: F811 -- the fixture
    proxy: ConnectProxy,
    fake_upstream: FakeUpstream,
) -> None:
    client = UpstreamClient("up", tls_url, {}, Timeouts(), 2, proxy=proxy.url())
    try:
        error = fault(client)
    finally:
        client.close()
    assert str(error) == "up cannot be reached: TLS failed (through its proxy)"
    assert fake_upstream.requests == []
