"""ops/proxy over HTTP/2, as browsers and most clients speak it behind TLS: by the program curl."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from goblin_assistant.config import Config
from goblin_assistant.web.body_limits import GENERAL_BYTES
from goblin_assistant.web.page_files import page_files
from goblin_assistant.web.security_headers import HSTS
from tests.conftest import wait_until
from tests.support.fake_upstream import Gate, Reply
from tests.support.proxies import Answer, Proxy
from tests.support.proxy_site import (
    SECONDS,
    SPELLINGS,
    STREAMED,
    Site,
    Stub,
    certificate,
    error_in_shape,
    kind,
    proxy,
    site,
    stub,
)
from tests.support.services import find_binary

__all__ = ["certificate", "kind", "proxy", "site", "stub"]

CUT = (18, 55, 56, 92)
"""curl's exit codes for a stream that ended before its body did."""
FINISHED = "%{http_version} %{response_code}\n"


def curl(proxy: Proxy, *options: str) -> list[str]:
    """The command for an HTTP/2 request to a proxy."""
    ca = str(proxy.certificate / "fullchain.pem")
    return [
        find_binary("curl"), "--silent", "--show-error", "--http2", "--cacert", ca,
        "--max-time", str(2 * SECONDS), *options,
    ]  # fmt: skip


class Http2:
    """Asks a proxy; answers are kept in files of `folder`."""

    def __init__(self, proxy: Proxy, folder: Path) -> None:
        self.proxy = proxy
        self._folder = folder

    def ask(
        self,
        method: str,
        path: str,
        *options: str,
        headers: dict[str, str] | None = None,
        sent: Path | None = None,
        cut: bool = False,
    ) -> Answer:
        """The answer to a request for exactly this path; `sent` becomes curl's input. `cut`: the
        end of the body may be missing."""
        head, body = self._folder / "head", self._folder / "body"
        body.write_bytes(b"")  # curl makes no file for an answer without a body
        lines = [f"{name}: {value}" for name, value in (headers or {}).items()]
        command = curl(
            self.proxy, "--request", method, "--dump-header", str(head), "--output", str(body),
            "--write-out", FINISHED, "--request-target", path, *options,
            *(part for line in lines for part in ("--header", line)), self.proxy.https,
        )  # fmt: skip
        with (sent or Path(os.devnull)).open("rb") as given:
            done = subprocess.run(
                command, stdin=given, capture_output=True, text=True, timeout=300, check=False
            )
        assert done.returncode in ((0, *CUT) if cut else (0,)), (path, done.stderr)
        version, status = done.stdout.split()
        assert version == "2", path
        found: dict[str, list[str]] = defaultdict(list)
        for line in head.read_text("latin-1").splitlines()[1:]:
            name, colon, value = line.partition(":")
            if colon:
                found[name.lower()].append(value.strip())
        return Answer(int(status), found, body.read_bytes())


@pytest.fixture
def http2(proxy: Proxy, tmp_path: Path) -> Http2:
    """The proxy as shipped, asked by HTTP/2."""
    return Http2(proxy, tmp_path)


def test_metrics_are_closed_over_http_2_however_they_are_written(
    stub: Stub, tmp_path: Path
) -> None:
    http2 = Http2(stub.proxy, tmp_path)
    assert http2.ask("GET", "/open").status == 200
    before = len(stub.arrived())
    for spelling in SPELLINGS:
        command = curl(
            stub.proxy, "--output", os.devnull, "--request-target", spelling, stub.proxy.https
        )
        # A proxy may also end the stream: nothing of it arrives then.
        subprocess.run(command, capture_output=True, timeout=300, check=False)
    assert http2.ask("GET", "/open-again").status == 200
    paths = [request.path for request in stub.arrived()[before:]]
    assert paths[-1] == "/open-again"
    assert [path for path in paths if "metrics" in path.lower()] == []


def test_ids_refusals_and_hsts_are_the_same_over_http_2(http2: Http2) -> None:
    closed = http2.ask("GET", "/metrics", headers={"X-Correlation-ID": "closed-2"})
    assert closed.status == 404
    error = error_in_shape("/metrics", closed)
    assert (error["code"], error["correlation_id"]) == ("not_found", "closed-2")
    assert closed.header(HSTS[0]) == HSTS[1]
    kept = http2.ask("GET", "/chat/models", headers={"X-Correlation-ID": "caller-2"})
    assert (kept.status, kept.header("x-correlation-id")) == (401, "caller-2")
    replaced = http2.ask("GET", "/chat/models", headers={"X-Correlation-ID": "two words"})
    made = replaced.header("x-correlation-id")
    assert made
    assert re.fullmatch(r"[0-9a-f-]{32,36}", made)
    assert json.loads(replaced.body)["correlation_id"] == made


@pytest.mark.parametrize("announced", [True, False], ids=["with a length", "without a length"])
def test_bodies_end_at_the_limits_over_http_2(
    http2: Http2, site: Site, tmp_path: Path, announced: bool
) -> None:
    large = tmp_path / "large"
    chat = int(Config.model_fields["max_body_bytes"].default)
    headers = {**site.user, "Content-Type": "application/json", "Expect": ""}
    # Traefik has no limits: an instance refuses, and Traefik then ends the stream, sometimes before
    # the refusal's text has arrived.
    cut = http2.proxy.kind == "traefik"
    routes = {"/settings/": GENERAL_BYTES} | ({} if cut else {"/v1/responses": chat})
    for path, limit in routes.items():
        large.write_bytes(b" " * (limit + 1))
        how = ("--data-binary", f"@{large}") if announced else ("--upload-file", "-")
        answer = http2.ask("POST", path, *how, headers=headers, sent=large, cut=True)
        assert answer.status == 413, path
        if not cut and len(answer.body) == int(answer.header("content-length") or -1):
            assert error_in_shape(path, answer)["code"] == "payload_too_large"


@contextmanager
def streaming(proxy: Proxy, site: Site, path: str, body: dict[str, Any]) -> Iterator[Any]:
    """curl's output while it reads a stream. It is ended when the block is left."""
    command = curl(
        proxy, "--no-buffer", "--data", json.dumps({**body, "stream": True}),
        "--header", f"Authorization: {site.user['Authorization']}",
        "--header", "Content-Type: application/json", proxy.https + path,
    )  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        try:
            yield process.stdout
        finally:
            process.kill()


def test_events_arrive_over_http_2_while_the_provider_is_silent(proxy: Proxy, site: Site) -> None:
    for route in STREAMED:
        gate = Gate()
        site.upstream.reply(Reply.sse([route.first, gate, *route.others]))
        try:
            with streaming(proxy, site, route.path, route.body) as output:
                # The provider has not been given the word yet. A comment would be the instance's.
                begin = output.readline()
                assert begin.startswith((b"data: {", b"event: ")), (route.path, begin)
                assert begin != b"event: ping\n"
                gate.opened.set()
                rest = output.read()
        finally:
            gate.opened.set()
        assert rest.rstrip().endswith(route.end), (route.path, rest[-200:])


def test_who_leaves_a_stream_over_http_2_ends_the_call_to_the_provider(
    proxy: Proxy, site: Site
) -> None:
    upstream, gate = site.upstream, Gate()
    before = upstream.closed_by_peer
    route = STREAMED[0]
    upstream.reply(Reply.sse([route.first, gate]))
    with streaming(proxy, site, route.path, route.body) as output:
        assert output.readline()
    wait_until(lambda: upstream.closed_by_peer > before, SECONDS, "the end of the upstream call")


def test_the_whole_page_comes_over_one_http_2_connection(http2: Http2, tmp_path: Path) -> None:
    page = http2.ask("GET", "/")
    found = re.search(rb'"(/static/[0-9a-f]+)/', page.body)
    assert found
    folder = found[1].decode()
    names = list(page_files().files)
    assert len(names) > 20
    targets = [
        part
        for number, name in enumerate(names)
        for part in ("--output", str(tmp_path / str(number)), f"{http2.proxy.https}{folder}/{name}")
    ]
    command = curl(
        http2.proxy, "--parallel", "--parallel-max", "50",
        "--write-out", "%{http_version} %{response_code} %{num_connects}\n", *targets,
    )  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[:2] for line in lines] == [["2", "200"]] * len(names)
    assert sum(int(line[2]) for line in lines) == 1
    for number, name in enumerate(names):
        assert (tmp_path / str(number)).read_bytes() == page_files().files[name].plain
