"""Lines about what somebody outside sees: a real nginx, right and wrong, before a real server."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import requests

from goblin_assistant.commands.doctor import caller, outside
from goblin_assistant.commands.doctor.context import Context
from loadtest.run import server as running_server
from tests.commands.doctor.conftest import MakeContext, only, verdict
from tests.support.services import Nginx, find_binary, free_port

TOML = """\
[providers.sim]
kind = "echo"
options = { tokens_per_second = 20 }
"""
GOOD = """
    location ^~ /metrics { return 404; }
    add_header Strict-Transport-Security "max-age=31536000" always;
    client_max_body_size 20m;
    proxy_bind 127.0.0.3;
    proxy_set_header X-Forwarded-For $remote_addr;
"""
# What each wrong proxy does; everything else as GOOD does it.
WRONG = {
    "open metrics": ("location ^~ /metrics { return 404; }", ""),
    "no hsts": ('add_header Strict-Transport-Security "max-age=31536000" always;', ""),
    "short hsts": ("max-age=31536000", "max-age=60"),
    "hsts on answers only": (" always;", ";"),
    "small bodies": ("client_max_body_size 20m;", "client_max_body_size 1m;"),
    "any bodies": ("client_max_body_size 20m;", "client_max_body_size 0;"),
    "untrusted": ("proxy_bind 127.0.0.3;", "proxy_bind 127.0.0.4;"),
    "forged": ("X-Forwarded-For $remote_addr;", "X-Forwarded-For $http_x_forwarded_for;"),
    "buffering": ("proxy_bind", "proxy_ignore_headers X-Accel-Buffering; proxy_bind"),
}


def certificate(folder: Path, name: str, days: int) -> Path:
    """A self-signed certificate for 127.0.0.1, and its key beside it."""
    path = folder / f"{name}.pem"
    command = [
        find_binary("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt",
        "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(folder / f"{name}.key"),
        "-out", str(path), "-days", str(days), "-subj", "/CN=127.0.0.1",
        "-addext", "subjectAltName=IP:127.0.0.1",
        "-addext", "keyUsage=digitalSignature,keyCertSign",
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    return path


@dataclass
class Site:
    """One server behind several proxies, by name; `key` is a caller's."""

    server: str
    proxies: dict[str, str]
    certificates: dict[str, Path]
    key: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The server, and nginx with a listener for each proxy."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "goblin.toml").write_text(TOML)
    with running_server(
        GOBLIN_CONFIG_FILE=str(folder / "goblin.toml"),
        GOBLIN_DEFAULT_MODEL="echo/echo",
        GOBLIN_TRUSTED_PROXY="127.0.0.3",
    ) as server:
        nginx = Nginx(folder)
        blocks, proxies, certificates = [f"server {{ listen 127.0.0.1:{nginx.port}; }}"], {}, {}
        bodies = {"good": GOOD, **{name: GOOD.replace(*change) for name, change in WRONG.items()}}
        lasting = {"good": 90, "ten days": 10, "one day": 1}
        for name in [*bodies, "ten days", "one day"]:
            kept = name if name in lasting else "good"
            if kept not in certificates:
                certificates[kept] = certificate(folder, kept.replace(" ", "_"), lasting[kept])
            file, port = certificates[kept], free_port()
            proxies[name] = f"https://127.0.0.1:{port}"
            blocks.append(
                f"server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {file};"
                f" ssl_certificate_key {file.with_suffix('.key')}; {bodies.get(name, GOOD)}"
                f" location / {{ proxy_pass {server}; proxy_http_version 1.1; }} }}"
            )
        for name, answer in (("to https", "308 https://127.0.0.1$request_uri"), ("plain", "200")):
            port = free_port()
            proxies[name] = f"http://127.0.0.1:{port}"
            blocks.append(f"server {{ listen 127.0.0.1:{port}; return {answer}; }}")
        nginx.start("\n".join(blocks))
        try:
            yield Site(server, proxies, certificates, _key(server))
        finally:
            nginx.stop()


def _key(server: str, models: list[str] | None = None) -> str:
    email = f"doctor{len(models or ())}@goblin.dev"
    account = {"email": email, "password": "correct horse battery staple"}
    requests.post(server + "/auth/register", json=account, timeout=30).raise_for_status()
    tokens = requests.post(server + "/auth/login", json=account, timeout=30).json()
    made = requests.post(
        server + "/auth/keys",
        json={"name": "doctor", "allowed_models": models},
        headers={"Authorization": f"Bearer {tokens['access_token']}"},
        timeout=30,
    )
    made.raise_for_status()
    return str(made.json()["key"])


@pytest.fixture
def through(site: Site, context: MakeContext) -> Any:
    """`through("good")`: a context that looks through that proxy, as a caller who trusts it."""

    def make(name: str, **more: Any) -> Context:
        kept = site.certificates.get(name, site.certificates["good"])
        values = {"url": site.proxies[name], "ca_file": kept, "key": site.key, **more}
        return context(**values)

    return make


def test_answers_passes_when_the_instance_is_ready(through: Any) -> None:
    made = through("good")
    assert verdict(outside.answers(made)) == "ok"
    assert abs(made.clocks[0][1]) < 2


def test_answers_fails_when_nobody_is_there_or_ready(context: MakeContext, site: Site) -> None:
    assert verdict(outside.answers(context(url=f"http://127.0.0.1:{free_port()}"))) == "failure"
    made = context(url=site.proxies["plain"] + "/no")
    assert verdict(outside.answers(made)) == "ok", "a 200 is what it looks for"
    made = context(url=site.server + "/nowhere")
    assert "404" in only(outside.answers(made)).message


class _LastYear(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def date_time_string(self, timestamp: float | None = None) -> str:
        return "Fri, 27 Nov 2020 00:00:00 GMT"

    def log_message(self, *_: Any) -> None:
        pass


def test_answers_passes_on_a_clock_that_is_wrong_for_the_line_about_clocks(
    context: MakeContext,
) -> None:
    from goblin_assistant.commands.doctor import machine

    with HTTPServer(("127.0.0.1", 0), _LastYear) as server:
        Thread(target=server.handle_request, daemon=True).start()
        made = context(url=f"http://127.0.0.1:{server.server_port}")
        assert verdict(outside.answers(made)) == "ok"
    assert verdict(machine.clock(made)) == "failure"


def test_certificate_passes_when_it_is_trusted_and_lasts(through: Any) -> None:
    assert verdict(outside.certificate(through("good"))) == "ok"


@pytest.mark.parametrize(("name", "expected"), [("ten days", "warning"), ("one day", "failure")])
def test_certificate_fails_when_it_ends_soon(through: Any, name: str, expected: str) -> None:
    assert verdict(outside.certificate(through(name))) == expected


def test_certificate_fails_when_it_is_not_trusted_or_absent(
    through: Any, context: MakeContext, site: Site
) -> None:
    found = only(outside.certificate(through("good", ca_file=None)))
    assert found.verdict == "failure"
    assert "self-signed" in found.message
    plain = site.proxies["plain"].replace("http:", "https:")
    assert verdict(outside.certificate(context(url=plain))) == "failure"
    assert verdict(outside.certificate(context(url="http://api.goblin.dev"))) == "failure"


def test_redirect_passes_when_plain_http_leads_to_https(through: Any, site: Site) -> None:
    made = through("good", http_url=site.proxies["to https"])
    assert verdict(outside.redirect(made)) == "ok"
    made = through("good", http_url=f"http://127.0.0.1:{free_port()}")
    assert verdict(outside.redirect(made)) == "ok", "a closed port leads nobody astray"


def test_redirect_fails_when_plain_http_answers(through: Any, site: Site) -> None:
    made = through("good", http_url=site.proxies["plain"])
    assert verdict(outside.redirect(made)) == "failure"


def test_hsts_passes_on_answers_and_refusals(through: Any) -> None:
    assert verdict(outside.hsts(through("good"))) == "ok"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("no hsts", "failure"), ("hsts on answers only", "failure"), ("short hsts", "warning")],
)
def test_hsts_fails_when_it_is_missing_or_short(through: Any, name: str, expected: str) -> None:
    assert verdict(outside.hsts(through(name))) == expected


def test_metrics_passes_when_every_spelling_is_closed(through: Any) -> None:
    assert verdict(outside.metrics(through("good"))) == "ok"


def test_metrics_fails_when_a_proxy_lets_it_through(through: Any) -> None:
    found = only(outside.metrics(through("open metrics")))
    assert found.verdict == "failure"
    assert "/metrics, " in found.message


def test_metrics_passes_on_the_instance_itself(context: MakeContext, site: Site) -> None:
    port = int(site.server.rpartition(":")[2])
    assert verdict(outside.metrics(context(url=site.server, port=port))) == "ok"


def test_metrics_takes_an_instance_on_another_port_for_no_proxy(
    context: MakeContext, site: Site
) -> None:
    made = context(url=site.server)
    assert not made.through_proxy
    assert verdict(outside.metrics(made)) == "ok"
    assert context(url=site.proxies["plain"]).through_proxy
    assert context(url=f"http://127.0.0.1:{free_port()}").through_proxy, "nobody says who it is"


def test_metrics_fails_on_an_instance_that_refuses(context: MakeContext) -> None:
    with running_server(GOBLIN_METRICS_TOKEN="a-token-of-its-own-0123") as server:
        port = int(server.rpartition(":")[2])
        assert verdict(outside.metrics(context(url=server, port=port))) == "failure"
        made = context(url=server, port=port, metrics_token="a-token-of-its-own-0123")
        assert verdict(outside.metrics(made)) == "ok"


def test_body_limits_passes_when_proxy_and_server_agree(through: Any) -> None:
    assert verdict(outside.body_limits(through("good"))) == "ok"


@pytest.mark.parametrize(
    ("name", "expected"), [("small bodies", "failure"), ("any bodies", "warning")]
)
def test_body_limits_fails_when_the_proxy_has_another(
    through: Any, name: str, expected: str
) -> None:
    assert verdict(outside.body_limits(through(name))) == expected


def test_client_address_passes_when_the_server_sees_the_callers(through: Any) -> None:
    found = only(caller.client_address(through("good")))
    assert found.verdict == "ok"
    assert "127.0.0.1" in found.message


@pytest.mark.parametrize(
    ("name", "said"), [("untrusted", "GOBLIN_TRUSTED_PROXY=127.0.0.4"), ("forged", "outermost")]
)
def test_client_address_fails_when_it_is_the_proxys_or_forged(
    through: Any, name: str, said: str
) -> None:
    found = only(caller.client_address(through(name)))
    assert found.verdict == "failure"
    assert said in found.fix


def test_client_address_fails_without_a_good_key(through: Any) -> None:
    assert verdict(caller.client_address(through("good", key=None))) == "warning"
    assert verdict(caller.client_address(through("good", key="gbl_wrong"))) == "failure"


def test_streaming_passes_when_events_arrive_one_by_one(through: Any) -> None:
    assert verdict(caller.streaming(through("good", stream_model="sim/echo"))) == "ok"


def test_streaming_fails_when_the_proxy_holds_events_back(through: Any) -> None:
    found = only(caller.streaming(through("buffering", stream_model="sim/echo")))
    assert found.verdict == "failure"
    assert "proxy_buffering off" in found.fix


def test_streaming_fails_when_it_cannot_be_measured(through: Any) -> None:
    fast = only(caller.streaming(through("good")))
    assert (fast.verdict, "too fast to tell" in fast.message) == ("warning", True)
    unknown = only(caller.streaming(through("good", stream_model="no/such")))
    assert (unknown.verdict, "--model no/such" in unknown.fix) == ("failure", True)
    assert verdict(caller.streaming(through("good", key=None))) == "warning"


def test_streaming_warns_when_there_is_only_an_echo_that_the_key_may_not_use(
    through: Any, site: Site
) -> None:
    context = through("good", key=_key(site.server, models=["sim/echo"]))
    found = only(caller.streaming(context))
    assert (found.verdict, "[providers.sim]" in found.fix) == ("warning", True)
    assert found.message == "not tried: this key may not use echo/echo"
