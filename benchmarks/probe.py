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


class _Asked:
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
        self._open: dict[int, _Asked] = {}  # in the order in which they were due
        self._times: list[float] = []
        self._late: list[float] = []
        self._reasons: Counter[str] = Counter()

    def run(self) -> Reading:
        """Takes `samples` times 10 ms, and the time-out at most."""
        began = time.monotonic() + START_SECONDS
        asked = 0
        while asked < self._samples or self._open:
            now = time.monotonic()
            while asked < self._samples and began + asked * INTERVAL_SECONDS <= now:
                due = began + asked * INTERVAL_SECONDS
                self._late.append(now - due)
                self._ask(due)
                asked += 1
            self._expire(now)
            wakes = [next(iter(self._open.values())).due + TIMEOUT_SECONDS] if self._open else []
            if asked < self._samples:
                wakes.append(began + asked * INTERVAL_SECONDS)
            if wakes:
                self._wait(max(0.0, min(wakes) - time.monotonic()))
        self._poller.close()
        return self._reading()

    def _ask(self, due: float) -> None:
        connection = socket.socket()
        connection.setblocking(False)
        asked = _Asked(due, connection)
        self._open[connection.fileno()] = asked
        self._poller.register(connection, select.EPOLLOUT)
        failed = connection.connect_ex(self._address)
        if failed not in (0, errno.EINPROGRESS):
            self._end(asked, os.strerror(failed))

    def _wait(self, seconds: float) -> None:
        # select() takes microseconds; epoll's own time-out is in whole milliseconds.
        if not select.select([self._poller.fileno()], [], [], seconds)[0]:
            return
        for descriptor, _ in self._poller.poll(0):
            asked = self._open.get(descriptor)
            if asked is not None:
                try:
                    self._move(asked)
                except BlockingIOError:
                    continue
                except OSError as error:
                    self._end(asked, error.strerror or type(error).__name__)

    def _move(self, asked: _Asked) -> None:
        if not asked.sent:
            asked.connection.sendall(self._request)
            asked.sent = True
            self._poller.modify(asked.connection, select.EPOLLIN)
            return
        data = asked.connection.recv(65536)
        asked.received += data
        head, blank, body = asked.received.partition(b"\r\n\r\n")
        if blank and len(body) >= _content_length(head):
            status = head[9:12].decode("latin-1")
            self._end(asked, "" if status == "200" else f"status {status}")
        elif not data:
            self._end(asked, "closed without an answer")

    def _expire(self, now: float) -> None:
        while self._open:
            oldest = next(iter(self._open.values()))
            if now < oldest.due + TIMEOUT_SECONDS:
                return
            self._end(oldest, "no answer in time")

    def _end(self, asked: _Asked, failure: str) -> None:
        del self._open[asked.connection.fileno()]
        asked.connection.close()
        if failure:
            self._reasons[failure] += 1
        self._times.append(TIMEOUT_SECONDS if failure else time.monotonic() - asked.due)

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
        pass  # the reading tells
    gc.disable()
    port, samples = (int(argument) for argument in sys.argv[1:])
    print(json.dumps(asdict(Probe(port, samples).run())))


if __name__ == "__main__":
    main()
