"""Instances that a test starts, breaks and diagnoses with the commands of a runbook."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import requests

from tests.conftest import ROOT, Server, wait_until
from tests.support.runbooks import PAGES, Block, blocks, site_block
from tests.support.services import find_binary, free_port

JOURNAL_REMOTE = ("/lib/systemd", "/usr/lib/systemd")
"""Where Debian has systemd-journal-remote, which is not on PATH."""
PATIENCE = 120.0
"""Seconds to wait for a state; the machine may be busy."""


class Machine:
    """What an operator has in the shell: the product's command, and a journal of the instances."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.programs = folder / "bin"
        self.programs.mkdir()
        self._program("goblin-assistant", f'"{sys.executable}" -m goblin_assistant')
        self._program("journalctl", f'{find_binary("journalctl")} --directory="$JOURNAL"')

    def _program(self, name: str, command: str) -> None:
        path = self.programs / name
        path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        path.chmod(0o755)

    def journal(self, name: str, lines: Sequence[bytes]) -> Path:
        """A journal with these lines as systemd keeps a unit's standard output."""
        remote = find_binary("systemd-journal-remote", *JOURNAL_REMOTE)
        folder = self.folder / f"{name}.journal"
        folder.mkdir(exist_ok=True)
        fields = b"_MACHINE_ID=%b\n_BOOT_ID=%b\n_SYSTEMD_UNIT=goblin-assistant@8001.service" % (
            (b"0123456789abcdef" * 2,) * 2
        )
        start = int(time.time() * 1_000_000) - 1_000_000
        # The format: https://systemd.io/JOURNAL_EXPORT_FORMATS/
        entries = b"".join(
            b"__REALTIME_TIMESTAMP=%d\n__MONOTONIC_TIMESTAMP=%d\n%b\nPRIORITY=6\nMESSAGE=%b\n\n"
            % (start + number, number + 1, fields, line.rstrip(b"\n"))
            for number, line in enumerate(lines)
        )
        (folder / "system.journal").unlink(missing_ok=True)
        subprocess.run(
            [remote, "-o", str(folder / "system.journal"), "-"],
            input=entries,
            capture_output=True,
            check=True,
            timeout=60,
        )
        return folder


class Watched:
    """One instance in its own folder, scraped under a job of its own."""

    def __init__(self, job: str, machine: Machine, stack: ExitStack, **env: str) -> None:
        self.job = job
        self.machine = machine
        self.stack = stack
        self.folder = machine.folder / job
        self.folder.mkdir()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.extra = env
        self.wrapper: list[str] = []
        """A command in front of the server's and the operator's."""
        self.module = "goblin_assistant"
        """What is started: `python -m MODULE serve`."""
        self.servers: list[Server] = []

    @property
    def env(self) -> dict[str, str]:
        """The settings, of the server and of the operator's shell."""
        return {
            "PATH": f"{self.machine.programs}:{os.environ['PATH']}",
            "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "GOBLIN_ENV": "development",
            "GOBLIN_INSTANCE_DIR": str(self.folder / "instance"),
            "GOBLIN_HEALTH_INTERVAL": "1",
            "GOBLIN_RETRIES": "0",
            "RATELIMIT_ENABLED": "false",
            "GOBLIN_PORT": str(self.port),
            **self.extra,
        }

    def start(self) -> None:
        """Start it (again), and wait until it answers."""
        process = subprocess.Popen(
            [*self.wrapper, sys.executable, "-m", self.module, "serve"],
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        server = Server(process, self.port)
        self.servers.append(server)
        self.stack.callback(end, server)
        wait_until(lambda: self._answers(server), PATIENCE, f"{self.job} to start")

    def _answers(self, server: Server) -> bool:
        assert server.process.poll() is None, b"".join(server.output + server.errors)
        try:
            return requests.get(self.url + "/health/live", timeout=5).status_code == 200
        except requests.RequestException:
            return False

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.servers[-1].stop(signal.SIGKILL)

    def lines(self) -> list[bytes]:
        """The log so far."""
        return [line for server in self.servers for line in list(server.output)]

    def missing(self, alert: str, prometheus: str, **env: str) -> dict[str, list[str]]:
        """What the blocks of a runbook do not show: of each block the lines that are missing, and
        its output. A block that reads the log is run with a file and with a journal."""
        log = self.folder / "log"
        log.write_bytes(b"".join(self.lines()))
        found: dict[str, list[str]] = {}
        for block in blocks(PAGES[alert]):
            ways = [str(log)]
            if "logs |" in block.commands:
                ways.append("journald")
                env = {**env, "JOURNAL": str(self.machine.journal(self.job, self.lines()))}
            for way in ways:
                if missing := self._missing(alert, block, PROMETHEUS=prometheus, LOGS=way, **env):
                    found[f"{way}: {block.commands}"] = missing
        return found

    def _missing(self, alert: str, block: Block, **env: str) -> list[str]:
        done = subprocess.run(
            [*self.wrapper, "bash", "-c", site_block(PAGES[alert]) + block.commands],
            cwd=self.folder,
            env={**self.env, "INSTANCES": self.url, **env},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        output = done.stdout + done.stderr
        # Prometheus knows of other tests' instances too.
        own = [line for line in output.splitlines() if "job=" not in line or self._own(line)]
        missing = block.missing("\n".join(own))
        return [*missing, "in:", *own] if missing else []

    def _own(self, line: str) -> bool:
        return f"job={self.job}" in line or "job=goblin-assistant-probe" in line


def end(server: Server) -> None:
    """Kill it if it runs, and close its pipes."""
    if server.process.poll() is None:
        server.process.kill()
    server.wait()
    for pipe in (server.process.stdout, server.process.stderr):
        assert pipe is not None
        pipe.close()


def scraped(instances: Sequence[Watched]) -> list[dict[str, Any]]:
    """Scrape configurations, a job for each instance."""
    return [
        {"job_name": one.job, "static_configs": [{"targets": [f"127.0.0.1:{one.port}"]}]}
        for one in instances
    ]
