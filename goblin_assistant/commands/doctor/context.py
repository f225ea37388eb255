"""The input of the checks: the configuration and the command line's options."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from sqlalchemy import Engine

from goblin_assistant.commands.database import open_engine
from goblin_assistant.commands.doctor.raw_http import head, send
from goblin_assistant.commands.prometheus_api import Prometheus
from goblin_assistant.config import Config

_HERE = frozenset({"127.0.0.1", "::1", "localhost"})
_OURS = b"\r\nServer: goblin-assistant\r\n"

LOAD_TEST = Path(".make/loadtest-verdict.json")
"""Where the load test writes its verdict, relative to the checkout."""


@dataclass(slots=True)
class Context:
    """One run of doctor.

    `url` is the address of the instance or the proxy; `http_url` is the proxy without TLS. `key` is
    an API key for checks that need one. `ca_file` has the certificate authority, if it is not a
    public one. `clocks` collects (where, seconds ahead of this machine) from the checks.
    """

    config: Config
    url: str | None = None
    http_url: str | None = None
    key: str | None = None
    ca_file: Path | None = None
    stream_model: str | None = None
    load_test: Path = LOAD_TEST
    dotenv: Path = Path(".env")
    clocks: list[tuple[str, float]] = field(default_factory=list)

    @property
    def address(self) -> SplitResult:
        """The parts of `url`, which must be given."""
        assert self.url is not None
        return urlsplit(self.url)

    @property
    def through_proxy(self) -> bool:
        """Whether `url` belongs to a proxy. The server itself has no TLS and listens on its own
        port. Another instance on this machine has another port; its Server header shows it."""
        if self.url is None:
            return False
        if self.address.scheme == "https":
            return True
        return self.address.port != self.config.port and not self._is_instance_here()

    def _is_instance_here(self) -> bool:
        if self.address.hostname not in _HERE:
            return False
        try:
            answer = send(self.address, head("GET", "/health/live", self.address))
        except OSError:
            return False
        return _OURS in answer.data

    @property
    def verify(self) -> str | bool:
        """The `verify` argument of requests."""
        return str(self.ca_file) if self.ca_file is not None else True

    @property
    def prometheus(self) -> Prometheus | None:
        """The Prometheus of PROMETHEUS_URL."""
        address = self.config.prometheus_url
        return Prometheus(address) if address else None

    @contextmanager
    def database(self) -> Iterator[Engine]:
        """The configured database."""
        engine = open_engine(self.config)
        try:
            yield engine
        finally:
            engine.dispose()
