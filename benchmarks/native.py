"""The two compiled programs of a measurement: a provider and a client of very low cost.

Their sources are upstream.c and loadgen.c. nginx and wrk could serve and request answers in one
piece. No packaged program sends event streams at a given pace, and times them, for a few
microseconds each.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).resolve().parent
ADDRESS_MARK = "@@@ADDRESS@@@@@"
"""In a request's header; loadgen replaces it with a different IPv4 address each time."""


Shape = Literal["providers", "lean"]
"""How the upstream answers: as OpenAI's API does (22 headers, chunked, several TCP segments, each
field), or with two headers and a Content-Length in one write."""


class NoCompiler(Exception):
    """There is no C compiler."""


def build(cache: Path) -> None:
    """Compile both programs into `cache`, unless they are newer than their source.

    Raises NoCompiler.
    """
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
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Whether a server accepts connections on the port."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def pinned(core: int | None, command: Iterable[str]) -> list[str]:
    """The command, pinned to one core; taskset is part of util-linux."""
    return [*(["taskset", "-c", str(core)] if core is not None else []), *command]


def scheduled(core: int | None, command: Iterable[str]) -> list[str]:
    """A server's command: with a core, pinned to it under SCHED_BATCH; else as the kernel likes.

    The product chooses SCHED_BATCH by itself on one core, so every server of a comparison has it.
    chrt is part of util-linux.
    """
    return [*(["chrt", "--batch", "0"] if core is not None else []), *pinned(core, command)]


@contextmanager
def upstream(
    cache: Path, *, chunks: int, interval_us: int, core: int | None, shape: Shape = "providers"
) -> Iterator[int]:
    """Run a provider; yields its port. Streams have `chunks` events, `interval_us` us apart."""
    port = free_port()
    process = subprocess.Popen(
        pinned(core, [str(cache / "upstream"), str(port), str(chunks), str(interval_us), shape])
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
class StreamCounts:
    """What a client saw of the streams that ended.

    `done` had [DONE] at their end. The rest are the fewest and the most of one stream; bytes are
    those of the connection, behind the headers.
    """

    count: int
    done: int
    events: tuple[int, int]
    bytes: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Load:
    """What a client measured. Percentiles in milliseconds.

    `seconds` is the length of the run, `events` the number of stream events, `statuses` counts
    answers by status code.
    """

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
    streams: StreamCounts

    @property
    def clean(self) -> bool:
        """Whether there were answers and all were successes."""
        return (
            self.failures == 0
            and all(code.startswith("2") for code in self.statuses)
            and self.requests > 0
        )


def parse_load(text: str) -> Load:
    """Parse loadgen's output."""
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
        streams=StreamCounts(
            count=raw["streams"]["count"],
            done=raw["streams"]["done"],
            events=tuple(raw["streams"]["events"]),
            bytes=tuple(raw["streams"]["bytes"]),
        ),
    )


def start_load(
    cache: Path,
    port: int,
    request: bytes | Sequence[bytes],
    *,
    connections: int,
    seconds: float,
    core: int | None,
    options: Iterable[str] = (),
) -> subprocess.Popen[bytes]:
    """Start a client; `finish_load` waits for it.

    Several requests are sent in turn. `options` are loadgen's.
    """
    if not isinstance(request, bytes):
        options = [*options, "-m", str(len(request))]
        request = b"".join(b"%d\n%s" % (len(one), one) for one in request)
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
    """Wait for a client and return its measurements."""
    output, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"loadgen ended with {process.returncode}")
    return parse_load(output.decode())


def http_request(
    method: str, path: str, headers: dict[str, str], body: bytes = b"", *, host: str = "127.0.0.1"
) -> bytes:
    """The bytes of a keep-alive request."""
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {host}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
