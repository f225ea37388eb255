"""nginx and Traefik with the files of ops/proxy, where only names, ports and paths are changed.

Each change must occur as often as the file's first lines say, so that an operator who follows them
ends with the configuration that is tested.
"""

from __future__ import annotations

import http.client
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tests.support.services import find_binary, free_port

PROXY = Path(__file__).resolve().parents[2] / "ops" / "proxy"
NGINX_FILE = PROXY / "nginx" / "goblin-assistant.conf"
NAME = "api.yourdomain.com"
TLS_FOLDER = "/etc/goblin-assistant/tls"
STARTS = 5
"""How often a start is tried: another process may take a free port first."""
START_SECONDS = 30


def made_certificate(folder: Path) -> Path:
    """A folder with a self-signed fullchain.pem for 127.0.0.1 and its privkey.pem."""
    folder.mkdir()
    command = [
        find_binary("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt",
        "ec_paramgen_curve:prime256v1", "-nodes", "-days", "90", "-subj", "/CN=127.0.0.1",
        "-addext", "subjectAltName=IP:127.0.0.1",
        "-addext", "keyUsage=digitalSignature,keyCertSign",
        "-keyout", str(folder / "privkey.pem"), "-out", str(folder / "fullchain.pem"),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return folder


def replaced(text: str, changes: Mapping[str, tuple[str, int]]) -> str:
    """`text` with changes: from what to what, and how many places below the first comment."""
    head, body = _first_comment(text)
    for old, (new, places) in changes.items():
        assert body.count(old) == places, f"{old!r} is in {body.count(old)} places, not {places}"
        body = body.replace(old, new)
    return head + body


def _first_comment(text: str) -> tuple[str, str]:
    lines = text.splitlines(keepends=True)
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return "".join(lines[:end]), "".join(lines[end:])


@dataclass(frozen=True)
class Answer:
    """One answer; header names in lower case, values of repeated headers in one list."""

    status: int
    headers: Mapping[str, list[str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The only value of a header; None if there is none."""
        values = self.headers.get(name.lower(), [])
        assert len(values) <= 1, (name, values)
        return values[0] if values else None


class Proxy:
    """One proxy process. `https` and `http` are its addresses, `instances` the ports behind it."""

    kind: ClassVar[str]
    drain_settings: ClassVar[dict[str, str]] = {}
    """What the instances need so that one of them can be stopped without loss."""
    binary: ClassVar[tuple[str, ...]]

    def __init__(self, folder: Path, certificate: Path, instances: Sequence[int]) -> None:
        self.program = find_binary(*self.binary)
        self.folder = folder
        folder.mkdir()
        self.certificate = certificate
        self.instances = instances
        self.context = ssl.create_default_context(cafile=str(certificate / "fullchain.pem"))
        self.process: subprocess.Popen[bytes] | None = None
        self.port = self.plain_port = 0

    @property
    def https(self) -> str:
        """Its address."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def http(self) -> str:
        """Its address without TLS."""
        return f"http://127.0.0.1:{self.plain_port}"

    def start(self, **changes: tuple[str, str]) -> None:
        """Run with the shipped files and `changes` of the test's own: from what to what, once."""
        for _ in range(STARTS):
            self.port, self.plain_port = free_port(), free_port()
            command = self.configure({old: (new, 1) for old, new in changes.values()})
            log = self.folder / "output"
            with log.open("wb") as output:
                self.process = subprocess.Popen(
                    command, cwd=self.folder, stdout=output, stderr=subprocess.STDOUT
                )
            if self._came_up():
                return
            said = log.read_text()
            self.stop()
            assert "address already in use" in said.lower(), said
        raise AssertionError(f"no free port in {STARTS} tries")

    def configure(self, changes: dict[str, tuple[str, int]]) -> list[str]:
        """Write the files; the command that runs it."""
        raise NotImplementedError

    def _came_up(self) -> bool:
        assert self.process is not None
        end = time.monotonic() + START_SECONDS
        asked = 0
        while self.process.poll() is None and time.monotonic() < end:
            asked += 1  # from many addresses: a test may have set a low limit for one
            source = f"127.1.{asked // 250 % 250}.{asked % 250 + 1}"
            try:
                if self.ask("GET", "/health/live", source=source, timeout=5).status == 200:
                    return True
            except OSError:
                time.sleep(0.02)
        return False

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:  # it waits for a stream
                self.process.kill()
                self.process.wait()
            self.process = None

    # -- asking it
    def connection(
        self, source: str = "127.0.0.1", timeout: float = 30
    ) -> http.client.HTTPSConnection:
        """A connection from another loopback address. Close it."""
        return http.client.HTTPSConnection(
            "127.0.0.1", self.port, timeout=timeout, source_address=(source, 0),
            context=self.context,
        )  # fmt: skip

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        source: str = "127.0.0.1",
        timeout: float = 30,
    ) -> Answer:
        """One request over a connection of its own. A body that is an iterator is sent chunked."""
        connection = self.connection(source, timeout)
        try:
            connection.request(method, path, body, dict(headers or {}))
            return read(connection.getresponse())
        finally:
            connection.close()


def read(response: http.client.HTTPResponse) -> Answer:
    """The whole answer."""
    headers: dict[str, list[str]] = {}
    for name, value in response.getheaders():
        headers.setdefault(name.lower(), []).append(value)
    return Answer(response.status, headers, response.read())


class NginxProxy(Proxy):
    """nginx with ops/proxy/nginx/goblin-assistant.conf."""

    kind = "nginx"
    binary = ("nginx",)

    def configure(self, changes: dict[str, tuple[str, int]]) -> list[str]:
        """See Proxy. The file becomes part of the smallest http block."""
        text, names = self.named()
        text = replaced(
            text,
            {
                **names,
                TLS_FOLDER: (str(self.certificate), 2),
                # What only a test changes: ports, and the places of files.
                "    listen 80;\n    listen [::]:80;\n": (
                    f"    listen 127.0.0.1:{self.plain_port};\n", 1,
                ),
                "    listen 443 ssl http2;\n    listen [::]:443 ssl http2;\n": (
                    f"    listen 127.0.0.1:{self.port} ssl http2;\n", 1,
                ),
                **changes,
            },
        )  # fmt: skip
        temporary = "".join(
            f"{kind}_temp_path {self.folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        # pytest's folders are private to their owner, and nginx's workers would be nobody's.
        user = "user root;\n" if os.geteuid() == 0 else ""
        config = self.folder / "nginx.conf"
        config.write_text(
            f"{user}worker_processes 2;\npid {self.folder}/nginx.pid;\nerror_log stderr;\n"
            "events { worker_connections 1024; }\n"
            f"http {{\n{temporary}access_log off;\n{text}}}\n"
        )
        return [self.program, "-c", str(config), "-p", str(self.folder), "-g", "daemon off;"]

    def named(self) -> tuple[str, dict[str, tuple[str, int]]]:
        """The text of the file, and the changes that its first lines ask for."""
        line = "    server {} max_fails=2 fail_timeout=5s;\n"
        shipped = line.format("127.0.0.1:8001") + line.format("127.0.0.1:8002")
        return NGINX_FILE.read_text(), {
            shipped: ("".join(line.format(f"127.0.0.1:{port}") for port in self.instances), 1),
            NAME: ("127.0.0.1", 2),
            "/var/log/nginx/goblin-assistant.log": (str(self.folder / "access.log"), 1),
        }


class ComposedNginx(NginxProxy):
    """nginx with what ops/docker/nginx-names.sh makes of the same file, as in compose.yaml."""

    def named(self) -> tuple[str, dict[str, tuple[str, int]]]:
        """The script has put the names in."""
        made = self.folder / "made.conf"
        environment = {
            "PATH": os.environ["PATH"],
            "GOBLIN_NGINX_SOURCE": str(NGINX_FILE),
            "GOBLIN_NGINX_TARGET": str(made),
            "GOBLIN_DOMAIN": "127.0.0.1",
            "GOBLIN_BACKENDS": " ".join(f"127.0.0.1:{port}" for port in self.instances),
        }
        script = PROXY.parent / "docker" / "nginx-names.sh"
        subprocess.run([str(script)], env=environment, check=True, timeout=60)
        return made.read_text(), {}


class TraefikProxy(Proxy):
    """Traefik with the two files of ops/proxy/traefik."""

    kind = "traefik"
    drain_settings = {"GOBLIN_DRAIN_DELAY_SECONDS": "120"}
    binary = ("traefik", str(Path(sys.executable).parent))
    metrics_port = 0

    def configure(self, changes: dict[str, tuple[str, int]]) -> list[str]:
        """See Proxy. A change belongs to the file that has its text."""
        self.metrics_port = free_port()
        static = (PROXY / "traefik" / "traefik.yml").read_text()
        dynamic = (PROXY / "traefik" / "goblin-assistant.yml").read_text()
        line = "          - url: http://127.0.0.1:{}\n"
        own = self.folder / "goblin-assistant.yml"
        in_static = {old: change for old, change in changes.items() if old in static}
        in_dynamic = {old: change for old, change in changes.items() if old not in static}
        (self.folder / "traefik.yml").write_text(
            replaced(
                static,
                {
                    '":80"': (f'"127.0.0.1:{self.plain_port}"', 1),
                    '":443"': (f'"127.0.0.1:{self.port}"', 1),
                    '"127.0.0.1:8082"': (f'"127.0.0.1:{self.metrics_port}"', 1),
                    "/etc/traefik/goblin-assistant.yml": (str(own), 1),
                    **in_static,
                },
            )
        )
        shipped = line.format(8001) + line.format(8002)
        own.write_text(
            replaced(
                dynamic,
                {
                    shipped: ("".join(line.format(port) for port in self.instances), 1),
                    NAME: ("127.0.0.1", 3),
                    TLS_FOLDER: (str(self.certificate), 2),
                    **in_dynamic,
                },
            )
        )
        return [self.program, f"--configFile={self.folder / 'traefik.yml'}"]

    def servers_up(self) -> set[int]:
        """The ports of the instances that pass the health check, by Traefik's own metrics."""
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=10)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        finally:
            connection.close()
        return {
            port
            for port in self.instances
            for line in text.splitlines()
            if line.startswith("traefik_service_server_up{")
            and f'url="http://127.0.0.1:{port}"' in line
            and line.endswith(" 1")
        }


PROXIES: dict[str, type[Proxy]] = {proxy.kind: proxy for proxy in (NginxProxy, TraefikProxy)}
