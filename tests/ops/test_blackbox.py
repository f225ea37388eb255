"""The blackbox exporter with ops' module: health checks from outside, through a proxy with TLS."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml

from tests.conftest import Serve, wait_until
from tests.support.alert_rules import PROMETHEUS
from tests.support.services import Nginx, find_binary, free_port

PROXY = """
server {
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {folder}/certificate.pem;
    ssl_certificate_key {folder}/key.pem;
    location / { proxy_pass http://127.0.0.1:UPSTREAM; }
}
"""


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[str]:
    """The URL of a blackbox exporter with our module, which accepts any certificate."""
    config = yaml.safe_load((PROMETHEUS / "blackbox.yml").read_text())
    http = config["modules"]["goblin_assistant"]["http"]
    http["tls_config"] = {"insecure_skip_verify": True}
    (tmp_path / "blackbox.yml").write_text(json.dumps(config))
    port = free_port()
    process = subprocess.Popen(
        [
            find_binary("prometheus-blackbox-exporter"),
            f"--config.file={tmp_path / 'blackbox.yml'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=error",
        ]
    )
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        try:
            return requests.get(url + "/-/healthy", timeout=2).status_code == 200
        except requests.RequestException:
            return False

    try:
        wait_until(ready, 30, "the blackbox exporter")
        yield url
    finally:
        process.terminate()
        process.wait(30)


def probe(exporter: str, target: str) -> dict[str, float]:
    answer = requests.get(
        exporter + "/probe", params={"module": "goblin_assistant", "target": target}, timeout=30
    )
    pairs = re.findall(r"^(probe_\w+) (\S+)$", answer.text, re.M)
    return {name: float(value) for name, value in pairs}


def test_a_probe_passes_through_the_proxy_and_fails_without_an_instance(
    exporter: str, nginx: Nginx, serve: Serve
) -> None:
    subprocess.run(
        [
            *(find_binary("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes"),
            *("-days", "30", "-subj", "/CN=127.0.0.1"),
            *("-keyout", str(nginx.folder / "key.pem")),
            *("-out", str(nginx.folder / "certificate.pem")),
        ],
        check=True,
        capture_output=True,
    )
    server = serve()
    nginx.start(PROXY.replace("UPSTREAM", str(server.port)))
    target = f"https://127.0.0.1:{nginx.port}/health"
    found = probe(exporter, target)
    assert found["probe_success"] == 1
    assert found["probe_http_status_code"] == 200
    assert found["probe_ssl_earliest_cert_expiry"] > 0
    assert "probe_duration_seconds" in found
    # Without TLS the module fails, however well the instance is.
    assert probe(exporter, server.url + "/health")["probe_success"] == 0
    server.stop()
    found = probe(exporter, target)
    assert found["probe_success"] == 0
    assert found["probe_http_status_code"] == 502
