"""ops/proxy: nginx and Traefik, as shipped, in front of real instances, keep the same promises.

Where one of them cannot, ops/proxy/README.md says so, and a test here shows what it does instead.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from goblin_assistant.commands.doctor import raw_http
from goblin_assistant.config import Config
from goblin_assistant.rate_limits.policy import PROVIDER_ROUTES
from goblin_assistant.web.body_limits import BYTES_BY_PREFIX, GENERAL_BYTES
from goblin_assistant.web.page_files import page_files
from goblin_assistant.web.security_headers import HSTS
from tests.conftest import ROOT, Serve, Server, serving, wait_until
from tests.support.fake_upstream import FakeUpstream, Gate, Pause, Reply
from tests.support.proxies import (
    PROXIES,
    PROXY,
    Answer,
    Proxy,
    TraefikProxy,
    read,
)
from tests.support.proxy_site import (
    CHAT,
    MODELS,
    SECONDS,
    SPELLINGS,
    STREAMED,
    WIDE,
    Site,
    Stub,
    certificate,
    error_in_shape,
    kind,
    past_their_checks,
    proxy,
    site,
    stub,
)
from tests.support.services import find_binary
from tests.support.wire_bodies import openai_chat, openai_events

__all__ = ["certificate", "kind", "proxy", "site", "stub"]

FORGED = {
    "X-Forwarded-For": "198.51.100.7",
    "X-Real-IP": "198.51.100.7",
    "Forwarded": "for=198.51.100.7;proto=http",
    "X-Forwarded-Proto": "http",
}
# One request a minute, and every time but that of chats is shorter than the test's stream.
STRICT: dict[str, dict[str, tuple[str, str]]] = {
    "nginx": {
        "rate": ("rate=50r/s", "rate=1r/m"),
        "burst": ("burst=100", "burst=3"),
        "header": ("client_header_timeout 15s", "client_header_timeout 1s"),
        "body": ("client_body_timeout 30s", "client_body_timeout 1s"),
        "read": ("proxy_read_timeout 60s", "proxy_read_timeout 1s"),
        "origin": (
            '# "https://www.yourdomain.com"    $http_origin',
            '"https://www.yourdomain.com" $http_origin',
        ),
    },
    "traefik": {
        "rate": ("average: 50", "average: 1\n        period: 1m"),
        "burst": ("burst: 100", "burst: 4"),
        "read": ("readTimeout: 130s", "readTimeout: 1s"),
        "idle": ("idleTimeout: 120s", "idleTimeout: 1s"),
        "upstream": ("idleConnTimeout: 60s", "idleConnTimeout: 1s"),
    },
}
BURST = 4
"""Requests of one address that STRICT lets through."""


# -- what stands behind and in front -----------------------------------------------------------
@pytest.fixture(scope="module")
def strict(
    kind: str, site: Site, certificate: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    """The proxy with a low limit on requests and short times."""
    folder = tmp_path_factory.mktemp("strict") / kind
    made = PROXIES[kind](folder, certificate, [server.port for server in site.instances])
    try:
        made.start(**STRICT[kind])
        yield made
    finally:
        made.stop()


# -- TLS
def test_plain_http_leads_to_https_and_keeps_the_method(proxy: Proxy) -> None:
    for method in ("GET", "POST"):
        address = urlsplit(proxy.http)
        lines = ("Content-Length: 0",) if method == "POST" else ()
        answer = raw_http.send(address, raw_http.head(method, "/health?x=1", address, *lines))
        assert answer.status in ((301, 308) if method == "GET" else (308,))
        assert re.search(rb"(?im)^location: https://127\.0\.0\.1(:\d+)?/health\?x=1\r", answer.data)


def test_only_tls_1_2_and_1_3_with_forward_secrecy_are_spoken(proxy: Proxy) -> None:
    def spoken(version: ssl.TLSVersion, ciphers: str) -> str | None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_ciphers(ciphers)
        if version is ssl.TLSVersion.TLSv1_1:
            with pytest.deprecated_call():
                context.minimum_version = context.maximum_version = version
        else:
            context.minimum_version = context.maximum_version = version
        with (
            socket.create_connection(("127.0.0.1", proxy.port), SECONDS) as plain,
            context.wrap_socket(plain) as connection,
        ):
            return connection.version()

    everything = "ALL:@SECLEVEL=0"
    assert spoken(ssl.TLSVersion.TLSv1_3, everything) == "TLSv1.3"
    assert spoken(ssl.TLSVersion.TLSv1_2, everything) == "TLSv1.2"
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        spoken(ssl.TLSVersion.TLSv1_1, everything)
    for ciphers in ("ECDHE+AES+SHA1:@SECLEVEL=0", "AES128-GCM-SHA256:@SECLEVEL=0"):  # CBC; RSA
        with pytest.raises(ssl.SSLError, match=r"(?i)handshake.failure"):
            spoken(ssl.TLSVersion.TLSv1_2, ciphers)


def test_hsts_is_on_every_answer_once(proxy: Proxy) -> None:
    for method, path, body, status in (
        ("GET", "/health/live", None, 200),
        ("GET", "/no-such-page", None, 404),
        ("GET", "/metrics", None, 404),
        ("GET", "/chat/models", None, 401),
        ("POST", "/auth/login", b"x" * (16 * 1024 + 1), 413),
    ):
        answer = proxy.ask(method, path, body)
        assert (answer.status, answer.header(HSTS[0])) == (status, HSTS[1]), (path, answer)


# -- /metrics
def test_metrics_are_closed_however_they_are_written(stub: Stub) -> None:
    address = urlsplit(stub.proxy.https)
    assert raw_http.send(address, raw_http.head("GET", "/open", address)).status == 200
    for spelling in SPELLINGS:
        before = len(stub.arrived())
        raw_http.send(address, raw_http.head("GET", spelling, address))
        for request in stub.arrived()[before:]:
            assert "metrics" not in request.path.lower(), (spelling, request.path)


def test_closed_metrics_are_404_in_our_shape(proxy: Proxy) -> None:
    for path in ("/metrics", "/metrics/", "/METRICS"):
        answer = proxy.ask("GET", path, headers={"X-Correlation-ID": "closed-1"})
        assert answer.status == 404
        error = error_in_shape(path, answer)
        assert (error["code"], error["correlation_id"]) == ("not_found", "closed-1")
        assert answer.header("x-correlation-id") == "closed-1"


# -- who is calling
def test_instances_get_the_true_address_and_nothing_that_was_made_up(stub: Stub) -> None:
    before = len(stub.arrived())
    # The second asks the proxy to drop the headers that it sets, as if they were the caller's.
    dropping = {"Connection": "close, X-Forwarded-For, X-Forwarded-Proto, X-Correlation-ID"}
    for headers in (FORGED, {**FORGED, **dropping}):
        assert stub.proxy.ask("GET", "/x", headers=headers, source="127.0.0.9").status == 200
    for request in stub.arrived()[before:]:
        assert request.headers["x-forwarded-for"] == "127.0.0.9"
        assert request.headers["x-forwarded-proto"] == "https"
        assert "198.51.100.7" not in str(request.headers)
    assert len(stub.arrived()) == before + 2


def test_limits_count_the_true_address(proxy: Proxy, kind: str, site: Site) -> None:
    client = {"nginx": "127.0.0.21", "traefik": "127.0.0.22"}[kind]
    spelled = {name.replace("-", "_"): value for name, value in FORGED.items()}
    settings = proxy.ask(
        "GET", "/settings/", headers={**FORGED, **spelled, **site.user}, source=client
    )
    assert json.loads(settings.body)["client_address"] == client

    def login(number: int, source: str) -> int:
        forged = {**FORGED, "X-Forwarded-For": f"203.0.113.{number}"}
        headers = {**forged, "Content-Type": "application/json"}
        account = f"nobody-{kind}-{number}@example.com"  # accounts have a limit of their own
        body = json.dumps({"email": account, "password": "wrong password"})
        return proxy.ask("POST", "/auth/login", body, headers, source=source).status

    # Ten a minute. A minute may end in between, so twice as many are tried.
    statuses = [login(number, client) for number in range(21)]
    assert set(statuses) == {401, 429}
    assert login(99, "127.0.0.23" if kind == "nginx" else "127.0.0.24") == 401


# -- correlation ids
def test_a_good_correlation_id_arrives_and_a_bad_one_is_replaced(proxy: Proxy, site: Site) -> None:
    good = f"caller-{proxy.kind}:1"
    answer = proxy.ask("GET", "/chat/models", headers={"X-Correlation-ID": good})
    assert answer.header("x-correlation-id") == good
    wait_until(lambda: site.log_lines(correlation_id=good), SECONDS, "the line of the request")
    for bad in ("two words", "x" * 129, 'quote"', "%0d%0aSet-Cookie: a=b", "ümlaut"):
        headers = {"X-Correlation-ID": bad.encode("latin-1")}
        answer = proxy.ask("GET", "/chat/models", headers=headers)  # type: ignore[arg-type]
        made = answer.header("x-correlation-id")
        assert made is not None
        assert re.fullmatch(r"[0-9a-f-]{32,36}", made)
        assert json.loads(answer.body)["correlation_id"] == made
        assert answer.header("set-cookie") is None


# -- bodies
def test_bodies_up_to_each_routes_limit_pass_and_larger_ones_are_413(proxy: Proxy) -> None:
    chat = int(Config.model_fields["max_body_bytes"].default)
    routes = {"/settings/": GENERAL_BYTES, "/v1/no-such-route": GENERAL_BYTES}
    routes |= {f"{prefix.rstrip('/')}/x": limit for prefix, limit in BYTES_BY_PREFIX}
    routes |= dict.fromkeys([*PROVIDER_ROUTES, "/chat/completions/"], chat)
    for path, limit in routes.items():
        assert announced(proxy, path, limit) != 413, path
        assert announced(proxy, path, limit + 1) == 413, path


def announced(proxy: Proxy, path: str, length: int) -> int:
    """The first status for the head of a request that announces a body."""
    address = urlsplit(proxy.https)
    lines = ("Content-Type: application/json", f"Content-Length: {length}", "Expect: 100-continue")
    return raw_http.send(address, raw_http.head("POST", path, address, *lines)).status


def test_a_chunked_body_ends_at_the_limit(proxy: Proxy, site: Site) -> None:
    piece = b"x" * 65536
    for path, pieces in (
        ("/settings/", 2),
        ("/v1/chat/completions", 321),
        ("/v1/messages", 321),
    ):
        answer = refused_while_sending(proxy, path, piece, pieces, site.user)
        assert answer.status == 413
        error = error_in_shape(path, answer)
        assert error.get("code", "payload_too_large") == "payload_too_large"
        assert error["correlation_id"] == answer.header("x-correlation-id")


def refused_while_sending(
    proxy: Proxy, path: str, piece: bytes, pieces: int, headers: dict[str, str]
) -> Answer:
    """The answer to a chunked body, which may come before its end."""
    connection = proxy.connection(timeout=SECONDS)
    try:
        connection.putrequest("POST", path)
        for name, value in {**headers, "Content-Type": "application/json"}.items():
            connection.putheader(name, value)
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        try:
            for _ in range(pieces):
                connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            connection.send(b"0\r\n\r\n")
        except OSError:
            pass  # the answer has come, and the rest is not wanted
        return read(connection.getresponse())
    finally:
        connection.close()


# -- streams
def test_events_arrive_while_the_provider_is_still_silent(proxy: Proxy, site: Site) -> None:
    for route in STREAMED:
        gate = Gate()
        site.upstream.reply(Reply.sse([route.first, gate, *route.others]))
        connection = proxy.connection(timeout=SECONDS)
        try:
            response = begin_stream(connection, route.path, route.body, site)
            # The provider has not been given the word yet. A comment would be the instance's own.
            assert not response.read1(65536).startswith((b":", b"event: ping")), route.path
            gate.opened.set()
            rest = response.read()
        finally:
            gate.opened.set()
            connection.close()
        assert rest.rstrip().endswith(route.end), (route.path, rest[-200:])


def begin_stream(connection: Any, path: str, body: dict[str, Any], site: Site) -> Any:
    headers = {**site.user, "Content-Type": "application/json"}
    connection.request("POST", path, json.dumps({**body, "stream": True}), headers)
    response = connection.getresponse()
    assert response.status == 200, response.read()
    assert response.headers["Content-Type"].startswith("text/event-stream")
    return response


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_hangs_up_ends_the_call_to_the_provider(
    proxy: Proxy, site: Site, streamed: bool
) -> None:
    upstream, gate = site.upstream, Gate()
    before, asked = upstream.closed_by_peer, len(upstream.requests)
    upstream.reply(Reply.sse([openai_events()[0], gate]) if streamed else Reply.raw(gate))
    connection = proxy.connection(timeout=SECONDS)
    try:
        if streamed:
            response = begin_stream(connection, "/v1/chat/completions", CHAT, site)
            assert response.read1(65536)
            response.close()
        else:
            headers = {**site.user, "Content-Type": "application/json"}
            connection.request("POST", "/v1/chat/completions", json.dumps(CHAT), headers)
            wait_until(lambda: len(upstream.requests) > asked, SECONDS, "the call")
    finally:
        connection.close()
    wait_until(lambda: upstream.closed_by_peer > before, SECONDS, "the end of the upstream call")


def test_a_long_stream_is_cut_by_no_other_time_than_that_of_chats(
    strict: Proxy, site: Site
) -> None:
    first, *others = openai_events()
    site.upstream.reply(Reply.sse([first, Pause(3), *others]))
    connection = strict.connection("127.0.0.31", SECONDS)
    try:
        response = begin_stream(connection, "/v1/chat/completions", CHAT, site)
        assert response.read().endswith(b"data: [DONE]\n\n")
    finally:
        connection.close()


# -- too much from one address
def test_one_address_is_limited_and_others_are_not(strict: Proxy) -> None:
    headers = {**FORGED, "X-Correlation-ID": "flood-1", "Origin": "https://www.yourdomain.com"}
    answers: list[Answer] = []
    while not answers or (answers[-1].status == 401 and len(answers) < 3 * BURST):
        answers.append(strict.ask("GET", "/v1/models", headers=headers, source="127.0.0.41"))
    assert len(answers) > BURST
    assert answers[-1].status == 429
    refused = answers[-1]
    assert int(refused.header("retry-after") or 0) >= 1
    assert refused.header(HSTS[0]) == HSTS[1]
    assert strict.ask("GET", "/v1/models", source="127.0.0.42").status == 401
    if strict.kind == "nginx":
        error = error_in_shape("/v1/models", refused)
        assert (error["code"], error["correlation_id"]) == ("rate_limit_exceeded", "flood-1")
        assert refused.header("access-control-allow-origin") == headers["Origin"]
    else:
        assert refused.body == b"Too Many Requests"


def test_the_pages_files_are_not_counted_with_the_rest(
    kind: str, site: Site, certificate: Path, tmp_path: Path
) -> None:
    """An office behind one address loads dozens of files for each person."""
    made = PROXIES[kind](tmp_path / kind, certificate, [server.port for server in site.instances])
    try:
        made.start(rate=STRICT[kind]["rate"], burst=STRICT[kind]["burst"])
        client = "127.0.0.51"
        page = made.ask("GET", "/", source=client, timeout=SECONDS)
        assert page.status == 200
        found = re.search(rb'"(/static/[0-9a-f]+)/', page.body)
        assert found
        paths = [f"{found[1].decode()}/{name}" for name in page_files().files]
        assert len(paths) > 5 * BURST
        answers = [made.ask("GET", path, source=client, timeout=SECONDS) for path in paths]
        assert Counter(answer.status for answer in answers) == {200: len(paths)}
        others = [made.ask("GET", "/v1/models", source=client) for _ in range(3 * BURST)]
        assert {answer.status for answer in others} == {401, 429}
    finally:
        made.stop()


# -- instances that die, drain and come back
@dataclass
class Pair:
    """A proxy in front of two instances of the test's own."""

    proxy: Proxy
    site: Site
    serve: Serve


@pytest.fixture
def pair(kind: str, site: Site, certificate: Path, tmp_path: Path) -> Iterator[Pair]:
    """With the database, the user and the key of `site`, and a provider of its own."""
    upstream = FakeUpstream(default=MODELS)
    try:
        with serving(tmp_path) as serve:
            drain = PROXIES[kind].drain_settings
            settings = {**site.settings, "OPENAI_BASE_URL": upstream.url + "/v1", **drain}
            instances = [serve(wait=False, **settings) for _ in range(2)]
            for server in instances:
                server.wait_until_up()
            past_their_checks(upstream)
            ports = [server.port for server in instances]
            made = PROXIES[kind](tmp_path / kind, certificate, ports)
            try:
                made.start(rate=WIDE[kind])
                own = Site(instances, upstream, site.user, site.key, settings)
                yield Pair(made, own, serve)
            finally:
                made.stop()
    finally:
        upstream.close()


@dataclass
class Load:
    """GETs, one after the other in each of four threads; `statuses` of their answers."""

    statuses: Counter[object]

    def more(self, count: int) -> None:
        """Wait until so many more have been answered with 200."""
        wanted = self.statuses[200] + count
        wait_until(lambda: self.statuses[200] >= wanted or len(self.statuses) > 1, SECONDS)


def under_load(proxy: Proxy, within: Callable[[Load], None]) -> Counter[object]:
    """Run `within` while threads ask; the statuses of all answers, errors by their class."""
    load = Load(Counter())
    done = threading.Event()

    def ask(_: int) -> None:
        while not done.is_set():
            try:
                load.statuses[proxy.ask("GET", "/health", timeout=SECONDS).status] += 1
            except OSError as error:
                load.statuses[type(error).__name__] += 1

    with ThreadPoolExecutor(4) as threads:
        for number in range(4):
            threads.submit(ask, number)
        try:
            within(load)
        finally:
            done.set()
    return load.statuses


def chat(proxy: Proxy, site: Site, words: str) -> Answer:
    """One chat with these words."""
    body = {**CHAT, "messages": [{"role": "user", "content": words}]}
    headers = {**site.user, "Content-Type": "application/json"}
    return proxy.ask("POST", "/v1/chat/completions", json.dumps(body), headers, timeout=60)


def test_killed_instances_lose_no_read_and_repeat_no_chat(pair: Pair) -> None:
    proxy, site, upstream = pair.proxy, pair.site, pair.site.upstream
    dying, living = site.instances
    gates = [Gate() for _ in range(8)]
    whole = Reply.json(200, openai_chat())
    for gate in gates:
        upstream.reply(Reply([gate, *whole.steps]))

    with ThreadPoolExecutor(8) as threads:
        chats = [threads.submit(chat, proxy, site, f"chat {number}") for number in range(8)]
        try:
            wait_until(lambda: len(upstream.requests) == 8, SECONDS, "all chats at the provider")

            def kill(load: Load) -> None:
                load.more(50)
                dying.process.kill()
                dying.process.wait()
                load.more(100)

            statuses = under_load(proxy, kill)
        finally:
            for gate in gates:
                gate.opened.set()
        answers = [future.result() for future in chats]
    assert set(statuses) == {200}, statuses
    lost = [answer for answer in answers if answer.status != 200]
    assert 0 < len(lost) < 8
    asked = Counter(request.json()["messages"][0]["content"] for request in upstream.requests)
    assert asked == Counter({f"chat {number}": 1 for number in range(8)})
    for answer in lost:
        assert answer.header(HSTS[0]) == HSTS[1]
        assert_unavailable(proxy, "/v1/chat/completions", answer)

    living.process.kill()
    living.process.wait()
    with kept_free(dying.port), kept_free(living.port):
        answer = proxy.ask("POST", "/v1/messages", "{}", {"X-Correlation-ID": "none-left"})
        assert_unavailable(proxy, "/v1/messages", answer)
        assert answer.header(HSTS[0]) == HSTS[1]
        assert proxy.ask("GET", "/health/live", timeout=60).status in (502, 503)
        # One comes back on its port, and the proxy finds it by itself.
        pair.serve(**site.settings, GOBLIN_PORT=str(dying.port))
        wait_until(lambda: proxy.ask("GET", "/health/live").status == 200, SECONDS)


@contextmanager
def kept_free(port: int) -> Iterator[None]:
    """Nobody who looks for a free port takes this one; a server that asks for it still can."""
    with socket.socket() as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        place.bind(("127.0.0.1", port))
        yield


def assert_unavailable(proxy: Proxy, path: str, answer: Answer) -> None:
    """503 in our shape from nginx; Traefik has only a text."""
    if proxy.kind == "nginx":
        assert answer.status == 503
        assert answer.header("retry-after") == "5"
        error = error_in_shape(path, answer)
        assert error["code"] == "unavailable"
        assert error["correlation_id"] == answer.header("x-correlation-id")
    else:
        assert answer.status in (502, 503), answer
        assert answer.body in (b"Bad Gateway", b"no available server\n", b"Service Unavailable")


def test_a_draining_instance_ends_its_streams_and_gets_nothing_new(pair: Pair) -> None:
    proxy, site, upstream = pair.proxy, pair.site, pair.site.upstream
    first, *others = openai_events()
    gate = Gate()
    upstream.reply(Reply.sse([first, gate, *others]))
    connection = proxy.connection(timeout=60)
    try:
        headers = {**site.user, "Content-Type": "application/json"}
        body = json.dumps({**CHAT, "stream": True})
        connection.request("POST", "/v1/chat/completions", body, headers)
        response = connection.getresponse()
        assert response.read1(65536)
        busy = next(server for server in site.instances if chats_at(server) == 1)
        (other,) = (server for server in site.instances if server is not busy)
        busy.process.send_signal(signal.SIGTERM)
        if isinstance(proxy, TraefikProxy):
            wait_until(lambda: proxy.servers_up() == {other.port}, SECONDS, "the check to fail")
        else:
            wait_until(lambda: not listens(busy.port), SECONDS, "the listener to be closed")
        for number in range(10):
            assert chat(proxy, site, f"late {number}").status == 200
        gate.opened.set()
        assert response.read().endswith(b"data: [DONE]\n\n")
    finally:
        gate.opened.set()
        connection.close()
    for server, expected in ((busy, 1), (other, 10)):
        wait_until(lambda s=server, e=expected: chats_logged(s) == e, SECONDS, "lines of chats")


def chats_at(server: Server) -> float:
    return sum(
        value
        for name, value in server.metrics().items()
        if name.startswith("http_requests_in_progress") and "/chat/completions" in name
    )


def chats_logged(server: Server) -> int:
    lines = server.log_lines("request_completed")
    return sum(line["path"] == "/v1/chat/completions" for line in lines)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(SECONDS)
        return probe.connect_ex(("127.0.0.1", port)) == 0


# -- as an operator sees it
def test_doctor_finds_all_well_from_outside(proxy: Proxy, site: Site, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "goblin_assistant", "doctor", "--json", "--url", proxy.https,
        "--http-url", proxy.http, "--key", site.key,
        "--ca-file", str(proxy.certificate / "fullchain.pem"),
    ]  # fmt: skip
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "GOBLIN_ENV": "development",
        "GOBLIN_INSTANCE_DIR": str(tmp_path),
        **site.settings,
    }
    subjects = ("TLS", "redirect", "HSTS", "bodies", "client address", "streams")
    seen: dict[str, tuple[str, str]] = {}

    def all_well() -> bool:
        # Doctor has short limits of its own, which a busy machine may miss once.
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, timeout=240, check=False
        )
        for found in json.loads(done.stdout)["findings"]:
            if found["subject"] in ("ready", "metrics", *subjects):
                seen[found["subject"]] = (found["verdict"], found["message"])
        return {verdict for verdict, _ in seen.values()} == {"ok"}

    wait_until(all_well, 2 * SECONDS, "all lines of doctor to be ok")
    assert len(seen) == len(subjects) + 2


def test_the_linter_of_nginx_finds_nothing() -> None:
    program = find_binary("gixy", str(Path(sys.executable).parent))
    done = subprocess.run(
        [program, str(PROXY / "nginx" / "goblin-assistant.conf")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout, done.stdout


def test_the_table_of_promises_names_tests_that_exist() -> None:
    table = (PROXY / "README.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", table))
    files = Path(__file__).parent.glob("test_proxies*.py")
    made = {
        name for file in files for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)
    }
    assert named == made - {"test_the_table_of_promises_names_tests_that_exist"}
