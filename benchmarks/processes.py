"""A server under measurement: one core, CPU time and memory from the kernel, paused for others."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

import psutil

from benchmarks.native import scheduled

_POLICIES = {os.SCHED_OTHER: "the default policy", os.SCHED_BATCH: "SCHED_BATCH"}

SETTLE_SECONDS = 0.2
"""How long a server goes on after its last answer before it is paused."""


class ServerFailed(Exception):
    """The server ended or never answered. The message has the end of its output."""


class Server:
    """A process and its children. Its output goes to a file, because a server's cost includes its
    log.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        port: int,
        ready_path: str,
        folder: Path,
        core: int | None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.port = port
        self._command = scheduled(core, command)
        self._ready = ready_path
        self._folder = folder
        self._env = dict(env or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self, timeout: float = 180.0) -> float:
        """Start and wait for the first 200; the seconds that took."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._output = (self._folder / "output.log").open("wb")
        began = time.perf_counter()
        self._process = subprocess.Popen(
            self._command,
            cwd=self._folder,
            env={"PATH": os.environ["PATH"], "HOME": str(self._folder), **self._env},
            stdout=self._output,
            stderr=subprocess.STDOUT,
        )
        end = began + timeout
        while not self._answers():
            if self._process.poll() is not None or time.perf_counter() > end:
                self.stop()
                raise ServerFailed(f"{self.name} did not answer:\n{self.output_end()}")
            time.sleep(0.002)
        return time.perf_counter() - began

    def _answers(self) -> bool:
        # A plain socket: an HTTP library would add its retries to a cold start.
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                connection.sendall(
                    f"GET {self._ready} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
                )
                return connection.recv(64).startswith(b"HTTP/1.1 200")
        except OSError:
            return False

    def output_end(self) -> str:
        """The end of its output."""
        path = self._folder / "output.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def _family(self) -> list[psutil.Process]:
        assert self._process is not None
        parent = psutil.Process(self._process.pid)
        return [parent, *parent.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """User and system time so far, with children, also ended ones."""
        total = 0.0
        for process in self._family():
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
        return total

    def rss_bytes(self) -> int:
        """Resident memory now, with children."""
        return sum(int(process.memory_info().rss) for process in self._family())

    def reset_peak(self) -> None:
        """Forget the peak of resident memory of the process itself."""
        assert self._process is not None
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")  # proc(5)

    def peak_bytes(self) -> int:
        """The most resident memory of the process itself since then."""
        assert self._process is not None
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return 1024 * int(
            next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]
        )

    def threads(self) -> int:
        """Threads now."""
        return sum(process.num_threads() for process in self._family())

    def scheduling(self) -> str:
        """Policy and cores of its threads: `SCHED_BATCH on core 0`."""
        found = set()
        for process in self._family():
            for thread in process.threads():
                policy = _POLICIES.get(os.sched_getscheduler(thread.id), "another policy")
                cores = ", ".join(map(str, sorted(os.sched_getaffinity(thread.id))))
                found.add(f"{policy} on core {cores}")
        return "; ".join(sorted(found))

    def pause(self) -> None:
        """Pause it, after the transaction that follows its last answers: a database ends one that
        is left open, and the server would take that for an outage."""
        time.sleep(SETTLE_SECONDS)
        for process in self._family():
            process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue it."""
        for process in self._family():
            process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it and its children at once; `stop` must still be called."""
        for process in self._family():
            process.kill()

    def stop(self) -> None:
        """End it and its children."""
        if self._process is None:
            return
        try:
            family = self._family()
        except psutil.NoSuchProcess:
            family = []
        for process in family:
            try:
                process.send_signal(signal.SIGCONT)
                process.terminate()
            except psutil.NoSuchProcess:
                pass
        _, alive = psutil.wait_procs(family, timeout=10)
        for process in alive:
            process.kill()
        self._process.wait()
        self._process = None
        if self._output is not None:
            self._output.close()
            self._output = None
