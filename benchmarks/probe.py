"""The probe of always_answering.py: a process that asks /health/live on a schedule.

    python -m benchmarks.probe PORT SAMPLES

One request is due every 10 ms, whether or not earlier ones were answered. Each has its own
connection, as a kubelet's probe does. Times count from when a request was due: a probe that waits
for a slow answer would leave out the samples due meanwhile ("coordinated omission"). The reading
also says how late the probe sent its requests, which tells a busy machine from a slow server. There
is one thread and no blocking call, so that no answer waits for another.
"""

from __future__ import annotations

import errno
import gc
import json
import math
import os
import select
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

INTERVAL_SECONDS = 0.01
TIMEOUT_SECONDS = 5.0
NICENESS = -10
PATH = "/health/live"
START_SECONDS = 0.1
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Reading:
    """The reading of a probe, in milliseconds. A failure counts as the time-out."""

    samples: int
    failures: int
    reasons: dict[str, int]
    p50: float
    p99: float
    max: float
    late_p99: float
    late_max: float
    niceness: int


class _Pending:
    """A request that waits for its answer."""

    def __init__(self, due: float, connection: socket.socket) -> None:
        self.due = due
        self.connection = connection
        self.received = b""
        self.sent = False


class Probe:
    """Sends so many requests; `run` returns the reading."""

    def __init__(self, port: int, samples: int) -> None:
        self._address = ("127.0.0.1", port)
        host = f"127.0.0.1:{port}"
        self._request = f"GET {PATH} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        self._samples = samples
        self._poller = select.epoll()
        self._open: dict[int, _Pending] = {}  # in the order in which they were due
        self._times: list[float] = []
        self._late: list[float] = []
        self._reasons: Counter[str] = Counter()

    def run(self) -> Reading:
        """Takes `samples` times 10 ms, and the time-out at most."""
        start = time.monotonic() + START_SECONDS
        sent = 0
        while sent < self._samples or self._open:
            now = time.monotonic()
            while sent < self._samples and start + sent * INTERVAL_SECONDS <= now:
                due = start + sent * INTERVAL_SECONDS
                self._late.append(now - due)
                self._connect(due)
                sent += 1
            self._expire(now)
            wakes = [next(iter(self._open.values())).due + TIMEOUT_SECONDS] if self._open else []
            if sent < self._samples:
                wakes.append(start + sent * INTERVAL_SECONDS)
            if wakes:
                self._wait(max(0.0, min(wakes) - time.monotonic()))
        self._poller.close()
        return self._reading()

    def _connect(self, due: float) -> None:
        connection = socket.socket()
        connection.setblocking(False)
        pending = _Pending(due, connection)
        self._open[connection.fileno()] = pending
        self._poller.register(connection, select.EPOLLOUT)
        failed = connection.connect_ex(self._address)
        if failed not in (0, errno.EINPROGRESS):
            self._end(pending, os.strerror(failed))

    def _wait(self, seconds: float) -> None:
        # select() takes microseconds; epoll's own time-out is in whole milliseconds.
        if not select.select([self._poller.fileno()], [], [], seconds)[0]:
            return
        for descriptor, _ in self._poller.poll(0):
            pending = self._open.get(descriptor)
            if pending is not None:
                try:
                    self._advance(pending)
                except BlockingIOError:
                    continue
                except OSError as error:
                    self._end(pending, error.strerror or type(error).__name__)

    def _advance(self, pending: _Pending) -> None:
        if not pending.sent:
            pending.connection.sendall(self._request)
            pending.sent = True
            self._poller.modify(pending.connection, select.EPOLLIN)
            return
        data = pending.connection.recv(65536)
        pending.received += data
        head, blank, body = pending.received.partition(b"\r\n\r\n")
        if blank and len(body) >= _content_length(head):
            status = head[9:12].decode("latin-1")
            self._end(pending, "" if status == "200" else f"status {status}")
        elif not data:
            self._end(pending, "closed without an answer")

    def _expire(self, now: float) -> None:
        while self._open:
            oldest = next(iter(self._open.values()))
            if now < oldest.due + TIMEOUT_SECONDS:
                return
            self._end(oldest, "no answer in time")

    def _end(self, pending: _Pending, failure: str) -> None:
        del self._open[pending.connection.fileno()]
        pending.connection.close()
        if failure:
            self._reasons[failure] += 1
        self._times.append(TIMEOUT_SECONDS if failure else time.monotonic() - pending.due)

    def _reading(self) -> Reading:
        return Reading(
            samples=len(self._times),
            failures=sum(self._reasons.values()),
            reasons=dict(self._reasons),
            p50=percentile(self._times, 50) * 1000,
            p99=percentile(self._times, 99) * 1000,
            max=max(self._times) * 1000,
            late_p99=percentile(self._late, 99) * 1000,
            late_max=max(self._late) * 1000,
            niceness=os.nice(0),
        )


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that is at least as large as so many percent of the values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def start(port: int, samples: int) -> subprocess.Popen[bytes]:
    """A probe in its own process; `finish` waits for it."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.probe", str(port), str(samples)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )


def finish(process: subprocess.Popen[bytes]) -> Reading:
    """The reading of a probe. Raises RuntimeError if it ended without one."""
    output, _ = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"the probe ended with {process.returncode}")
    return Reading(**json.loads(output))


def main() -> None:
    """The process."""
    try:
        os.nice(NICENESS)
    except PermissionError:
        pass  # the reading has it as niceness
    gc.disable()
    port, samples = (int(argument) for argument in sys.argv[1:])
    print(json.dumps(asdict(Probe(port, samples).run())))


if __name__ == "__main__":
    main()
