"""Calls over TLS, with real certificates and nginx in front of the fake upstream. Deadlines and
clients that disconnect must end these calls too."""

from __future__ import annotations

import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from goblin_assistant.providers.base import Call, CallCancelled, ConnectionFailed, Timeout
from goblin_assistant.providers.upstream.client import Timeouts, UpstreamClient
from goblin_assistant.providers.upstream.connections import TrackedTLSConnection
from goblin_assistant.providers.upstream.deadlines import deadlines
from tests.conftest import wait_until
from tests.support.fake_upstream import SILENCE, FakeUpstream, Reply
from tests.support.services import Nginx, find_binary


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a self-signed cert.pem and its key.pem, for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        [
            find_binary("openssl"), "req", "-x509", "-newkey", "ec", "-nodes",
            "-pkeyopt", "ec_paramgen_curve:P-256",
            "-days", "2", "-subj", "/CN=upstream", "-addext", "subjectAltName=IP:127.0.0.1",
            "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )  # fmt: skip
    return folder


@pytest.fixture
def tls_url(nginx: Nginx, fake_upstream: FakeUpstream, certificate: Path) -> str:
    """The address of the fake upstream over TLS."""
    return serve_tls(nginx, fake_upstream, certificate)


def serve_tls(nginx: Nginx, fake_upstream: FakeUpstream, certificate: Path, more: str = "") -> str:
    """Run nginx, which passes bytes on as they come and disconnects when its client does. `more` is
    added to its configuration."""
    nginx.start(
        f"upstream fake {{ server {fake_upstream.url.removeprefix('http://')}; keepalive 4; }}\n"
        "server {\n"
        "  listen 127.0.0.1:{port} ssl;\n"
        f"  ssl_certificate {certificate}/cert.pem;\n  ssl_certificate_key {certificate}/key.pem;\n"
        f"  {more}\n"
        "  location / {\n"
        '    proxy_pass http://fake; proxy_http_version 1.1; proxy_set_header Connection "";\n'
        "    proxy_buffering off; proxy_request_buffering off; proxy_read_timeout 60s;\n"
        "    client_max_body_size 0;\n"
        "  }\n}\n"
    )
    return nginx.url.replace("http:", "https:")


def connect(url: str, certificate: Path, timeouts: Timeouts) -> UpstreamClient:
    return UpstreamClient("up", url, {}, timeouts, 2, verify=str(certificate / "cert.pem"))


@pytest.fixture
def client(
    tls_url: str, certificate: Path, fake_upstream: FakeUpstream
) -> Iterator[UpstreamClient]:
    """A client whose timeouts never pass within a test."""
    made = connect(tls_url, certificate, Timeouts(10, 30, 30))
    yield made
    made.close()
    wait_until(lambda: deadlines.active() == 0)


def test_answers_and_streams_share_one_connection(
    client: UpstreamClient, fake_upstream: FakeUpstream
) -> None:
    events = [b'data: {"n":%d}\n\n' % n for n in range(200)]
    fake_upstream.reply(
        Reply.plain(200, b"{}"), Reply.sse(events), Reply.plain(200, b"x" * 3_000_000)
    )
    assert client.post("/", b'{"a":1}', Call()) == b"{}"
    first = client._pool._get_conn()
    client._pool._put_conn(first)
    assert b"".join(client.post_sse("/", b"", Call())) == b"".join(events)
    assert client.post("/", b"y" * 3_000_000, Call()) == b"x" * 3_000_000
    assert client._pool._get_conn() is first
    assert first.sock is not None
    assert [len(request.body) for request in fake_upstream.requests] == [7, 0, 3_000_000]
    client._pool._put_conn(first)


@pytest.mark.parametrize(
    ("timeouts", "seconds", "message"),
    [
        (Timeouts(10, 0.3, 30), 30, "sent nothing within 0.3 s"),
        (Timeouts(10, 30, 30), 0.3, "did not finish before the request's deadline"),
    ],
)
def test_silence_before_an_answer_ends(
    tls_url: str,
    certificate: Path,
    fake_upstream: FakeUpstream,
    timeouts: Timeouts,
    seconds: float,
    message: str,
) -> None:
    fake_upstream.default = Reply.raw(SILENCE)
    client = connect(tls_url, certificate, timeouts)
    with pytest.raises(Timeout, match=message):
        client.post_sse("/", b"", Call(deadline=time.monotonic() + seconds))
    wait_until(lambda: fake_upstream.open_connections == 0)
    client.close()


@pytest.mark.parametrize(
    ("timeouts", "seconds", "message"),
    [
        (Timeouts(10, 30, 0.3), 30, "was silent for 0.3 s"),
        (Timeouts(10, 30, 30), 0.6, "did not finish before the request's deadline"),
    ],
)
def test_silence_in_the_middle_of_a_stream_ends(
    tls_url: str,
    certificate: Path,
    fake_upstream: FakeUpstream,
    timeouts: Timeouts,
    seconds: float,
    message: str,
) -> None:
    fake_upstream.default = Reply.sse([b"data: 1\n\n", SILENCE])
    client = connect(tls_url, certificate, timeouts)
    stream = client.post_sse("/", b"", Call(deadline=time.monotonic() + seconds))
    assert next(stream) == b"data: 1\n\n"
    with pytest.raises(Timeout, match=message):
        next(stream)
    wait_until(lambda: fake_upstream.open_connections == 0)
    client.close()


def test_a_client_that_leaves_ends_the_answer_and_the_stream(
    client: UpstreamClient, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.raw(SILENCE), Reply.sse([b"data: 1\n\n", SILENCE]))
    with pytest.raises(CallCancelled):
        client.post("/", b"", Call(client_gone=lambda: len(fake_upstream.requests) == 1))
    wait_until(lambda: fake_upstream.open_connections == 0)
    gone: list[bytes] = []
    stream = client.post_sse("/", b"", Call(client_gone=lambda: bool(gone)))
    gone.append(next(stream))
    with pytest.raises(CallCancelled):
        next(stream)
    wait_until(lambda: fake_upstream.open_connections == 0)


def test_a_connection_that_was_cut_is_not_used_again(
    client: UpstreamClient, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.reply(Reply.sse([b"data: 1\n\n", SILENCE]), Reply.plain(200, b"{}"))
    with pytest.raises(Timeout):
        list(client.post_sse("/", b"", Call(deadline=time.monotonic() + 0.6)))
    assert client.post("/", b"", Call()) == b"{}"


@pytest.mark.parametrize("size", [2, 300_000])
def test_a_connection_that_is_closed_as_a_request_goes_out_is_replaced(
    nginx: Nginx,
    fake_upstream: FakeUpstream,
    certificate: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
) -> None:
    url = serve_tls(nginx, fake_upstream, certificate, "keepalive_timeout 50ms;")
    fake_upstream.default = Reply.plain(200, b"{}")
    client = connect(url, certificate, Timeouts(10, 30, 30))
    assert client.post("/", b"", Call()) == b"{}"
    idle = client._pool._get_conn()
    client._pool._put_conn(idle)
    wait_until(lambda: bool(select.select([idle.sock], [], [], 0)[0]))
    # As if it were closed after the pool's check.
    monkeypatch.setattr(TrackedTLSConnection, "is_connected", True)
    second = deadlines.watch(Call())
    assert client._send("POST", "/", b"x" * size, second, None).whole() == b"{}"
    deadlines.release(second)
    assert second.fresh
    assert [len(request.body) for request in fake_upstream.requests] == [0, size]
    client.close()


def test_a_certificate_of_an_unknown_authority_is_refused(
    tls_url: str, fake_upstream: FakeUpstream
) -> None:
    client = UpstreamClient("up", tls_url, {}, Timeouts(10, 30, 30), 2)
    with pytest.raises(ConnectionFailed):
        client.post("/", b"", Call())
    assert fake_upstream.requests == []
    client.close()


def test_a_handshake_that_never_ends_is_a_timeout(
    fake_upstream: FakeUpstream, certificate: Path
) -> None:
    # The fake upstream takes the client's hello for half a request and waits for more.
    client = connect(
        fake_upstream.url.replace("http:", "https:"), certificate, Timeouts(0.3, 30, 30)
    )
    with pytest.raises(Timeout, match="could not be reached in time"):
        client.post("/", b"", Call())
    wait_until(lambda: fake_upstream.open_connections == 0)
    client.close()
