"""The two compiled programs that a measurement needs: a provider and a client that cost next to nothing (upstream.c,
loadgen.c).

nginx and wrk would do for answers in one piece; nothing packaged sends event streams at a given pace and times them
for a few microseconds each.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ADDRESS_MARK = "@@@ADDRESS@@@@@"
"""In a request's header: loadgen puts another IPv4 address there each time."""


class NoCompiler(Exception):
    """A C compiler is needed."""


def build(cache: Path) -> None:
    """Compile both programs into `cache`, unless they are there and newer than their source. Raises NoCompiler."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise NoCompiler(
            "the benchmarks need a C compiler (apt-get install gcc libc6-dev), or CC=/path/to/one"
        )
    cache.mkdir(parents=True, exist_ok=True)
    for name in ("upstream", "loadgen"):
        source, program = HERE / f"{name}.c", cache / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            subprocess.run([compiler, "-O2", "-o", str(program), str(source)], check=True)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def pinned(core: int | None, command: Iterable[str]) -> list[str]:
    """The command on one core; taskset is part of util-linux."""
    return [*(["taskset", "-c", str(core)] if core is not None else []), *command]


@contextmanager
def upstream(cache: Path, *, chunks: int, interval_us: int, core: int | None) -> Iterator[int]:
    """A running provider; its port. Streams have `chunks` events, `interval_us` microseconds apart."""
    port = free_port()
    process = subprocess.Popen(
        pinned(core, [str(cache / "upstream"), str(port), str(chunks), str(interval_us)])
    )
    try:
        end = time.monotonic() + 5
        while not listens(port):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the upstream did not start")
            time.sleep(0.01)
        yield port
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True, slots=True)
class Load:
    """What a client saw. Times in milliseconds, `seconds` the whole run, `events` of streams, `statuses` by code."""

    requests: int
    failures: int
    seconds: float
    events: int
    statuses: dict[str, int]
    p50: float
    p95: float
    p99: float
    first_p50: float
    first_p95: float

    @property
    def clean(self) -> bool:
        """Nothing failed and every answer was a success."""
        return (
            self.failures == 0
            and all(code.startswith("2") for code in self.statuses)
            and self.requests > 0
        )


def parse_load(text: str) -> Load:
    """Of loadgen's output."""
    raw: dict[str, Any] = json.loads(text)
    latency, first = raw["latency"], raw["first"]
    return Load(
        requests=raw["requests"],
        failures=raw["failures"] + raw["unfinished"],
        seconds=raw["elapsed"],
        events=raw["events"],
        statuses=raw["statuses"],
        p50=latency["p50"] / 1000,
        p95=latency["p95"] / 1000,
        p99=latency["p99"] / 1000,
        first_p50=first["p50"] / 1000,
        first_p95=first["p95"] / 1000,
    )


def start_load(
    cache: Path,
    port: int,
    request: bytes,
    *,
    connections: int,
    seconds: float,
    core: int | None,
    options: Iterable[str] = (),
) -> subprocess.Popen[bytes]:
    """A client at work; `finish_load` waits for it. `options` are loadgen's."""
    process = subprocess.Popen(
        pinned(core, [str(cache / "loadgen"), str(port), str(connections), str(seconds), *options]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(request)
    process.stdin.close()
    process.stdin = None
    return process


def finish_load(process: subprocess.Popen[bytes]) -> Load:
    """Wait for a client."""
    output, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"loadgen ended with {process.returncode}")
    return parse_load(output.decode())


def http_request(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    """A request as it goes over the wire, keep-alive."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: 127.0.0.1",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
