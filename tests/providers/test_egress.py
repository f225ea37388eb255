"""Which proxy a provider is called through; its credentials are shown nowhere."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from goblin_assistant.config import Config, ConfigError, GoblinFile, ProviderRow
from goblin_assistant.providers import build_registry
from goblin_assistant.providers.base import ConnectionFailed
from goblin_assistant.providers.egress import proxy_of
from goblin_assistant.providers.presets import PRESETS
from goblin_assistant.providers.rows import rows_of
from tests.conftest import ROOT, Serve, wait_until
from tests.support.connect_proxy import ConnectProxy
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.wire_bodies import openai_chat

SECONDS = 30
SECRET = {"SECRET_KEY": "x" * 40}
ON = {"GOBLIN_PROVIDER_PROXY_FROM_ENV": "true"}
PROXY = "http://proxy.example:3128"
CREDENTIALS = "goblin:canary-p%40ss"
SHOWN_NOWHERE = ("canary-p", base64.b64encode(b"goblin:canary-p@ss").decode())


@pytest.fixture
def proxy() -> Iterator[ConnectProxy]:
    made = ConnectProxy(hosts={"api.one.test": "127.0.0.1", "api.two.test": "127.0.0.1"})
    yield made
    made.close()


def way(base_url: str, row_proxy: str | None = None, **environ: str) -> str | None:
    """The proxy of a row with this address."""
    config = Config.load({"file": GoblinFile()}, environ={**SECRET, **environ}, dotenv=Path("no"))
    return proxy_of(ProviderRow.model_validate({"base_url": base_url, "proxy": row_proxy}), config)


def test_the_environment_counts_only_when_it_may() -> None:
    environ = {"HTTPS_PROXY": PROXY, "HTTP_PROXY": PROXY, "ALL_PROXY": PROXY}
    assert way("https://api.openai.com/v1", **environ) is None
    assert way("https://api.openai.com/v1", **environ, **ON) == PROXY


def test_the_rows_own_proxy_counts_first_and_an_empty_one_is_the_direct_way() -> None:
    environ = {"HTTPS_PROXY": "http://other:1", **ON}
    assert way("https://api.openai.com/v1", PROXY, **environ) == PROXY
    assert way("https://api.openai.com/v1", "", **environ) is None
    assert way("http://127.0.0.1:11434/v1", PROXY) == PROXY


@pytest.mark.parametrize(
    ("variables", "base_url", "expected"),
    [
        ({"HTTPS_PROXY": "http://a:1", "HTTP_PROXY": "http://b:2"}, "https://x.org", "http://a:1"),
        ({"HTTPS_PROXY": "http://a:1", "HTTP_PROXY": "http://b:2"}, "http://x.org", "http://b:2"),
        ({"ALL_PROXY": "http://c:3"}, "https://x.org", "http://c:3"),
        ({"https_proxy": "http://d:4", "HTTPS_PROXY": "http://a:1"}, "https://x.org", "http://d:4"),
        ({"HTTPS_PROXY": "a:1"}, "https://x.org", "http://a:1"),
        ({"HTTPS_PROXY": ""}, "https://x.org", None),
        ({"HTTP_PROXY": "http://b:2"}, "https://x.org", None),
    ],
)
def test_the_variable_of_the_scheme_is_read(
    variables: dict[str, str], base_url: str, expected: str | None
) -> None:
    assert way(base_url, **variables, **ON) == expected


@pytest.mark.parametrize(
    ("no_proxy", "base_url", "direct"),
    [
        ("x.org", "https://x.org/v1", True),
        ("x.org", "https://api.x.org/v1", True),
        (".x.org", "https://api.x.org/v1", True),
        ("other.org, x.org", "https://x.org/v1", True),
        ("*", "https://x.org/v1", True),
        ("x.org", "https://xx.org/v1", False),
        ("10.0.0.0/8", "http://10.1.2.3:8000/v1", True),
        ("10.0.0.0/8", "http://11.1.2.3:8000/v1", False),
        ("x.org:8443", "https://x.org:8443/v1", True),
        ("x.org:8443", "https://x.org:8444/v1", False),
        ("fd00::1", "http://[fd00::1]:8000/v1", True),
        ("", "http://127.0.0.1:11434/v1", True),
        ("", "http://[::1]:11434/v1", True),
        ("", "http://localhost:11434/v1", True),
        ("", "https://x.org/v1", False),
    ],
)
def test_exceptions_and_this_machine_are_called_directly(
    no_proxy: str, base_url: str, direct: bool
) -> None:
    found = way(base_url, HTTPS_PROXY=PROXY, HTTP_PROXY=PROXY, NO_PROXY=no_proxy, **ON)
    assert (found is None) == direct


@pytest.mark.parametrize(
    "wrong", ["socks5://p:1", "https://p:1", "p:1", "http://", f"http://{CREDENTIALS}@p:1/path"]
)
def test_a_proxy_that_cannot_be_used_stops_the_start_without_its_password(
    wrong: str, tmp_path: Path
) -> None:
    toml = tmp_path / "goblin.toml"
    toml.write_text(f'[providers.up]\nbase_url = "http://x/v1"\nproxy = "{wrong}"\n')
    with pytest.raises(ConfigError) as raised:
        Config.load({}, environ={**SECRET, "GOBLIN_CONFIG_FILE": str(toml)}, dotenv=Path("no"))
    (problem,) = raised.value.problems
    assert "proxy" in problem
    assert "http://HOST:PORT" in problem
    assert "canary" not in problem


def test_a_proxy_of_the_environment_that_cannot_be_used_stops_the_start() -> None:
    environ = {"OPENAI_API_KEY": "k", "HTTPS_PROXY": f"socks5://{CREDENTIALS}@p:1", **ON, **SECRET}
    config = Config.load({"file": GoblinFile()}, environ=environ, dotenv=Path("no"))
    with pytest.raises(ConfigError) as raised:
        build_registry(config)
    (problem,) = raised.value.problems
    assert problem.startswith("[providers.openai]: the proxy of the environment: accepted: http://")
    assert "canary" not in problem


def test_every_preset_can_be_called_through_a_proxy() -> None:
    providers = {
        name: {"base_url": preset.base_url or "https://x.org", "api_key": "k", "proxy": PROXY}
        for name, preset in PRESETS.items()
    }
    file = GoblinFile.model_validate({"providers": providers})
    config = Config.load({"file": file}, environ=SECRET, dotenv=Path("no"))
    build_registry(config).close()
    for _, row in rows_of(config):
        assert isinstance(row, ProviderRow)
        assert proxy_of(row, config) == PROXY


def test_a_row_whose_address_is_its_kinds_own_goes_through_the_environments_proxy(
    proxy: ConnectProxy,
) -> None:
    providers = {"claude": {"kind": "anthropic", "api_key": "k"}}
    file = GoblinFile.model_validate({"providers": providers})
    environ = {**SECRET, **ON, "HTTPS_PROXY": proxy.url()}
    proxy.refusal = b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"
    registry = build_registry(Config.load({"file": file}, environ=environ, dotenv=Path("no")))
    try:
        with pytest.raises(ConnectionFailed, match="status 403"):
            registry.get("claude").check(SECONDS)
    finally:
        registry.close()
    assert [it.target for it in proxy.asked] == ["api.anthropic.com:443"]


def test_the_page_names_the_host_of_every_preset() -> None:
    page = (ROOT / "docs" / "providers.md").read_text()
    section = page.partition("## Egress")[2].partition("\n## ")[0]
    for name, preset in PRESETS.items():
        host = urlsplit(preset.base_url).hostname
        if host is not None and host != "127.0.0.1":
            assert f"| `{host}` | `{name}` |" in section
        else:
            assert f"`{name}`" in section


# -- a real server
def test_checks_and_chats_go_through_proxies_whose_credentials_are_shown_nowhere(
    serve: Serve, proxy: ConnectProxy, fake_upstream: FakeUpstream, tmp_path: Path
) -> None:
    url = proxy.url(CREDENTIALS + "@")
    toml = tmp_path / "goblin.toml"
    toml.write_text(
        f'[providers.one]\nbase_url = "http://api.one.test:{fake_upstream.port}/v1"\n'
        f'proxy = "{url}"\n'
        f'[providers.two]\nbase_url = "http://api.two.test:{fake_upstream.port}/v1"\n'
    )
    settings = {
        **ON,
        "HTTP_PROXY": url,
        "GOBLIN_CONFIG_FILE": str(toml),
        "GOBLIN_HEALTH_INTERVAL": "3600",
        "GOBLIN_RETRIES": "0",
        "LOG_LEVEL": "DEBUG",
    }
    # A chat, and a list of models without any.
    fake_upstream.default = Reply.json(200, {**openai_chat(), "data": []})
    server = serve(**settings)
    headers = server.register()
    wait_until(lambda: len(proxy.asked) == 2, SECONDS, "the checks of both providers")
    assert {it.target.split(":")[1] for it in proxy.asked} == {"//api.one.test", "//api.two.test"}
    answers = [
        requests.post(
            server.url + "/v1/chat/completions",
            json={"model": f"{name}/m", "messages": [{"role": "user", "content": "Hello"}]},
            headers=headers,
            timeout=SECONDS,
        )
        for name in ("one", "two")
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert [it.method for it in proxy.asked] == ["GET", "GET", "POST", "POST"]

    proxy.refusal = b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n"
    proxy.die()
    refused = requests.post(
        server.url + "/v1/chat/completions",
        json={"model": "one/m", "messages": [{"role": "user", "content": "Hello"}]},
        headers=headers,
        timeout=SECONDS,
    )
    assert refused.status_code == 502
    assert refused.json()["error"]["message"].startswith("the proxy for one refused")
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **SECRET, **settings}
    printed = subprocess.run(
        [sys.executable, "-m", "goblin_assistant", "config"],
        cwd=tmp_path, env=environment, capture_output=True, timeout=60, check=True,
    ).stdout.decode()  # fmt: skip
    assert "GOBLIN_PROVIDER_PROXY_FROM_ENV" in printed
    correlation_id = refused.headers["X-Correlation-ID"]
    server.wait_for_line("request_completed", SECONDS, correlation_id=correlation_id)
    everything = b"".join(server.output + server.errors).decode() + printed + refused.text
    for secret in SHOWN_NOWHERE:
        assert secret not in everything
