"""Does a login's duration reveal whether an account exists? What do many logins cost others?

    python -m benchmarks.login_timing [--samples 300] [--rounds 5] [--concurrency 32]

Two measurements on a real server (SQLite, default password threads, very high limits):

1. Wrong password and unknown address, in random order on one connection. Prints quantiles of both,
   the overlap of their distributions (1: the same, 0: one request tells them apart) and how often
   an unknown address took longer than a wrong password (0.5: chance).
2. Waves of simultaneous logins. Prints the peak of resident memory above idle, and the times of
   GET /health meanwhile.

The exit code is 1 when the overlap is below 0.8, memory grows by 150 MiB or more, or the p95 of
/health reaches 100 ms (the guide's target).
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.native import free_port
from benchmarks.processes import Server

ROOT = Path(__file__).resolve().parent.parent
EMAIL, PASSWORD = "bench@example.com", "correct horse battery staple"
HUGE = "100000000 per minute"
MIB = 2**20


def server(folder: Path) -> Server:
    """The product with default settings, except for very high limits."""
    port = free_port()
    settings = {
        "PYTHONPATH": str(ROOT), "GOBLIN_ENV": "development", "GOBLIN_PORT": str(port),
        "RATELIMIT_AUTH": HUGE, "RATELIMIT_LOGIN_ACCOUNT": HUGE, "RATELIMIT_HEALTH": HUGE,
    }  # fmt: skip
    command = [sys.executable, "-m", "goblin_assistant", "serve"]
    return Server(
        "goblin",
        command,
        port=port,
        ready_path="/health/live",
        folder=folder,
        core=None,
        env=settings,
    )


def post(
    connection: http.client.HTTPConnection, path: str, body: dict[str, str]
) -> tuple[int, float]:
    """Send a POST; return its status and milliseconds."""
    payload = json.dumps(body)
    began = time.perf_counter()
    connection.request("POST", path, payload, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    return answer.status, (time.perf_counter() - began) * 1000


def quantile(values: list[float], q: float) -> float:
    """The q-quantile, by rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def overlap(first: list[float], second: list[float], bins: int = 20) -> float:
    """The shared area of two histograms; 1 when they are the same.

    Their edges are the quantiles of both samples together.
    """
    both = sorted(first + second)
    edges = [both[len(both) * number // bins] for number in range(1, bins)]

    def shares(values: list[float]) -> list[float]:
        counts = [0] * bins
        for value in values:
            counts[sum(value >= edge for edge in edges)] += 1
        return [count / len(values) for count in counts]

    return sum(min(a, b) for a, b in zip(shares(first), shares(second), strict=True))


def longer(first: list[float], second: list[float]) -> float:
    """How often a value of `first` is above one of `second`; 0.5 by chance."""
    wins = sum((a > b) + (a == b) / 2 for a in first for b in second)
    return wins / (len(first) * len(second))


def compare(port: int, samples: int) -> bool:
    """Run measurement 1; return whether it passes."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    times: dict[str, list[float]] = {"unknown address": [], "wrong password": []}
    order = [name for name in times for _ in range(samples)]
    random.Random(7).shuffle(order)
    for number, name in enumerate(order):
        email = EMAIL if name == "wrong password" else f"nobody{number}@example.com"
        status, milliseconds = post(
            connection, "/auth/login", {"email": email, "password": "not the password"}
        )
        assert status == 401, status
        times[name].append(milliseconds)
    connection.close()
    print(
        f"{'':<16}{'p5':>9}{'median':>9}{'mean':>9}{'p95':>9}   ms, {samples} each, in random order"
    )
    for name, values in times.items():
        figures = (
            quantile(values, 0.05),
            statistics.median(values),
            statistics.fmean(values),
            quantile(values, 0.95),
        )
        print(f"{name:<16}" + "".join(f"{figure:9.2f}" for figure in figures))
    # Two samples of the same distribution: the baseline for the figures above.
    mixed = times["unknown address"] + times["wrong password"]
    random.Random(8).shuffle(mixed)
    same = overlap(mixed[:samples], mixed[samples:])
    unknown, wrong = times["unknown address"], times["wrong password"]
    shared = overlap(unknown, wrong)
    print(f"overlap {shared:.3f} (a sample against itself, shuffled: {same:.3f})")
    print(
        f"an unknown address takes longer in {longer(unknown, wrong):.1%} of pairs (chance: 50 %)"
    )
    return shared >= 0.8


def waves(running: Server, idle: int, rounds: int, concurrency: int) -> bool:
    """Run measurement 2; return whether it passes.

    `idle` is the memory in bytes before the first password was hashed.
    """
    peak, health, waits = idle, list[float](), list[float]()
    done = threading.Event()

    def watch_memory() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, running.rss_bytes())

    def watch_health() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", running.port)
        while not done.is_set():
            began = time.perf_counter()
            connection.request("GET", "/health")
            assert connection.getresponse().read()
            health.append((time.perf_counter() - began) * 1000)
            done.wait(0.01)
        connection.close()

    def login(_: int) -> tuple[int, float]:
        connection = http.client.HTTPConnection("127.0.0.1", running.port)
        found = post(connection, "/auth/login", {"email": EMAIL, "password": PASSWORD})
        connection.close()
        return found

    watchers = [threading.Thread(target=watch) for watch in (watch_memory, watch_health)]
    for watcher in watchers:
        watcher.start()
    statuses: set[int] = set()
    began = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as pool:
        for _ in range(rounds):
            for status, milliseconds in pool.map(login, range(concurrency)):
                statuses.add(status)
                waits.append(milliseconds)
    seconds = time.perf_counter() - began
    done.set()
    for watcher in watchers:
        watcher.join()
    assert statuses == {200}, statuses
    grown = (peak - idle) / MIB
    after = (running.rss_bytes() - idle) / MIB
    print(f"\n{rounds} waves of {concurrency} logins at once: {len(waits) / seconds:.0f} logins/s")
    median, p95 = statistics.median(waits), quantile(waits, 0.95)
    print(f"login           median {median:6.0f} ms   p95 {p95:6.0f} ms")
    median, p95 = statistics.median(health), quantile(health, 0.95)
    print(f"/health         median {median:6.1f} ms   p95 {p95:6.1f} ms   meanwhile")
    print(
        f"memory          idle {idle / MIB:.0f} MiB   peak +{grown:.0f} MiB"
        f"   afterwards +{after:.0f} MiB"
    )
    return grown < 150 and quantile(health, 0.95) < 100


def main() -> int:
    """Run both measurements; return the exit code."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--samples", type=int, default=300)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--concurrency", type=int, default=32)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as name, server(Path(name)) as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port)
        for _ in range(20):  # warm up: the first requests of a process import and compile
            connection.request("GET", "/health")
            connection.getresponse().read()
        idle = running.rss_bytes()
        status, _ = post(connection, "/auth/register", {"email": EMAIL, "password": PASSWORD})
        assert status == 201, status
        connection.close()
        calm = waves(running, idle, chosen.rounds, chosen.concurrency)
        print()
        alike = compare(running.port, chosen.samples)
    print(
        f"\nmemory and health: {'pass' if calm else 'FAIL'}   timing: {'pass' if alike else 'FAIL'}"
    )
    return 0 if calm and alike else 1


if __name__ == "__main__":
    sys.exit(main())
