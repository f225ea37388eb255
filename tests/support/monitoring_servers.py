"""Real Prometheus and Alertmanager on free ports."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import requests
import yaml

from tests.support.services import find_binary, free_port


class _Process:
    """A program with a readiness page."""

    ready = ""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def _run(self, *command: str) -> None:
        from tests.conftest import wait_until

        with (self.folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdout=output, stderr=subprocess.STDOUT
            )
        wait_until(self._up, 30, f"{command[0]} to be ready")

    def _up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "output").read_text()
        try:
            return requests.get(self.url + self.ready, timeout=2).status_code == 200
        except requests.RequestException:
            return False

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class PrometheusServer(_Process):
    """Prometheus. `start(config)` takes prometheus.yml as an object."""

    ready = "/-/ready"

    def start(self, config: dict[str, Any], *options: str) -> None:
        """Run with this configuration; data of before in the folder are kept."""
        path = self.folder / "prometheus.yml"
        path.write_text(yaml.safe_dump(config))
        self._run(
            find_binary("prometheus"),
            f"--config.file={path}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            *options,
        )

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query."""
        answer = requests.get(
            self.url + "/api/v1/query", params={"query": expression}, timeout=10
        ).json()
        assert answer["status"] == "success", (expression, answer)
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def rule_health(self) -> set[str]:
        """ok, err and unknown, as far as the rules have them."""
        groups = requests.get(self.url + "/api/v1/rules", timeout=60).json()["data"]["groups"]
        return {rule["health"] for group in groups for rule in group["rules"]}


class AlertmanagerServer(_Process):
    """Alertmanager, without a cluster."""

    ready = "/-/ready"

    def start(self, config: dict[str, Any]) -> None:
        """Run with this alertmanager.yml as an object."""
        path = self.folder / "alertmanager.yml"
        path.write_text(yaml.safe_dump(config))
        self._run(
            find_binary("prometheus-alertmanager"),
            f"--config.file={path}",
            f"--storage.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--cluster.listen-address=",
        )
