"""Does the cost stay the same with more streams, client addresses or usage rows?

One function per experiment.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import native, servers
from benchmarks.compare import Settings, say
from benchmarks.native import Load
from benchmarks.results import Check, Spread, at_least, at_most, flat
from loadtest.run import find_multiple

Report = tuple[dict[str, Any], list[Check]]


def _load(
    settings: Settings, port: int, request: bytes, connections: int, seconds: float, *options: str
) -> Load:
    return native.finish_load(
        native.start_load(
            settings.cache,
            port,
            request,
            connections=connections,
            seconds=seconds,
            core=settings.load_core,
            options=options,
        )
    )


def _exact(value: float | None) -> Spread | None:
    return None if value is None else Spread(value, value, value)


def fast_streams(
    settings: Settings, *, streams: int = 256, interval_us: int = 10_000, chunks: int = 1000
) -> Report:
    """Measure the share of the direct chunk rate that many streams reach on one core."""
    once = ("-n", str(streams), "-r", "1000")
    figures: dict[str, Any] = {"streams": streams, "interval_ms": interval_us / 1000}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="goblin-bench-")))
        upstream = stack.enter_context(
            native.upstream(
                settings.cache, chunks=chunks, interval_us=interval_us, core=settings.load_core
            )
        )
        direct = _load(settings, upstream, servers.bare_requests()["stream"], streams, 600, *once)
        figures["direct"] = direct.events / direct.seconds
        for name in ("bare", "goblin"):
            threads = streams + 64
            server = (
                servers.bare("chat", upstream, folder, settings.server_core, threads=threads)
                if name == "bare"
                else servers.goblin(
                    upstream,
                    folder,
                    settings.server_core,
                    threads=threads,
                    GOBLIN_CHAT_SLOTS=str(streams + 8),
                )
            )
            with server:
                request = (
                    servers.bare_requests()
                    if name == "bare"
                    else servers.goblin_requests(servers.register(server.port))
                )["stream"]
                before = server.cpu_seconds()
                load = _load(settings, server.port, request, streams, 600, *once)
                figures[name] = load.events / load.seconds
                figures[f"{name}_cpu_us"] = (server.cpu_seconds() - before) / load.events * 1e6
                figures[f"{name}_clean"] = load.clean
    share = _exact(figures["goblin"] / figures["direct"] * 100) if figures["goblin_clean"] else None
    what = (
        f"{streams} streams, {interval_us / 1000:g} ms between chunks, one core: "
        "share of the direct chunk rate"
    )
    return figures, [at_least(what, share, 80.0, " %")]


def slow_streams(
    settings: Settings, *, streams: int = 500, tokens_per_second: int = 20, seconds: int = 20
) -> Report:
    """Measure many streams at a model's pace, with GET /health fifty times a second meanwhile.

    Figures: added time to first token, memory per stream.
    """
    interval_us = 1_000_000 // tokens_per_second
    figures: dict[str, Any] = {"streams": streams, "tokens_per_second": tokens_per_second}
    once = ("-n", str(streams), "-r", "2000")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="goblin-bench-")))
        upstream = stack.enter_context(
            native.upstream(
                settings.cache,
                chunks=tokens_per_second * seconds,
                interval_us=interval_us,
                core=settings.load_core,
            )
        )
        direct = _load(settings, upstream, servers.bare_requests()["stream"], streams, 600, *once)
        server = stack.enter_context(
            servers.goblin(
                upstream,
                folder,
                settings.server_core,
                threads=streams + 100,
                GOBLIN_CHAT_SLOTS=str(streams + 16),
            )
        )
        requests = servers.goblin_requests(servers.register(server.port))
        _load(settings, server.port, requests["chat"], 8, 1.0)
        idle = server.rss_bytes()
        began = server.cpu_seconds()
        running = native.start_load(
            settings.cache,
            server.port,
            requests["stream"],
            connections=streams,
            seconds=600,
            core=settings.load_core,
            options=once,
        )
        time.sleep(3)
        health = native.start_load(
            settings.cache, server.port, requests["health"], connections=1,
            seconds=max(1, seconds - 5), core=settings.load_core, options=("-p", "20000"),
        )  # fmt: skip
        peak = 0
        while running.poll() is None and health.poll() is None:
            peak = max(peak, server.rss_bytes())
            time.sleep(0.5)
        seen, load = native.finish_load(health), native.finish_load(running)
        figures |= {
            "completed": load.requests,
            "events": load.events,
            "direct_events": direct.events,
            "statuses": load.statuses,
            "health_p50_ms": seen.p50,
            "health_p95_ms": seen.p95,
            "health_p99_ms": seen.p99,
            "first_token_direct_p50_ms": direct.first_p50,
            "first_token_p50_ms": load.first_p50,
            "first_token_p95_ms": load.first_p95,
            "added_first_token_p50_ms": load.first_p50 - direct.first_p50,
            "memory_per_stream_kib": (peak - idle) / streams / 1024,
            "rss_mb": peak / 1e6,
            "cpu_us_per_event": (server.cpu_seconds() - began) / max(1, load.events) * 1e6,
            "rate_share": (load.events / load.seconds) / (direct.events / direct.seconds),
        }
    whole = f"{streams} streams of {tokens_per_second} tokens/s"
    checks = [
        at_least(f"{whole}: streams that completed", _exact(load.requests), streams, digits=0),
        at_most(f"{whole}: GET /health p95 meanwhile", _exact(seen.p95), 100.0, " ms", digits=1),
    ]
    return figures, checks


def _flatness(
    settings: Settings, variants: dict[str, Callable[[int], float]], rounds: int
) -> dict[str, Spread]:
    values: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(rounds):
        for name, once in variants.items():
            values[name].append(once(round_))
    return {name: Spread.of(found) for name, found in values.items()}


def addresses(
    settings: Settings, counts: tuple[int, ...] = (1, 100, 10_000, 100_000), rounds: int = 3
) -> Report:
    """CPU of GET /health, which is limited by address, with `counts` client addresses in turn."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="goblin-bench-")))
        server = stack.enter_context(
            servers.goblin(
                1,
                folder,
                settings.server_core,
                GOBLIN_TRUSTED_PROXY="127.0.0.1",
                GOBLIN_HEALTH_INTERVAL="3600",
            )
        )
        request = native.http_request("GET", "/health", {"X-Forwarded-For": native.ADDRESS_MARK})

        def once(count: int) -> Callable[[int], float]:
            offset = 0

            def measure(round_: int) -> float:
                nonlocal offset
                say(f"{count} addresses, round {round_ + 1}/{rounds}")
                if round_ == 0 and count > 1:  # all addresses are known before the measurement
                    _load(
                        settings, server.port, request, 32, 600, "-a", str(count), "-n", str(count)
                    )
                before = server.cpu_seconds()
                load = _load(
                    settings,
                    server.port,
                    request,
                    32,
                    settings.seconds,
                    "-a",
                    str(count),
                    "-o",
                    str(offset),
                )
                offset += load.requests
                return (server.cpu_seconds() - before) / load.requests * 1e6

            return measure

        spreads = _flatness(settings, {f"{count:,}": once(count) for count in counts}, rounds)
    figures = {name: spread.median for name, spread in spreads.items()}
    return figures, [
        flat(f"CPU per request, {counts[0]:,} to {counts[-1]:,} client addresses", spreads)
    ]


def flood(settings: Settings, total: int = 500_000) -> Report:
    """Resident memory while `total` distinct addresses send a request each."""
    marks: dict[str, float] = {}
    step = max(1, total // 10)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="goblin-bench-")))
        server = stack.enter_context(
            servers.goblin(
                1,
                folder,
                settings.server_core,
                GOBLIN_TRUSTED_PROXY="127.0.0.1",
                GOBLIN_HEALTH_INTERVAL="3600",
            )
        )
        request = native.http_request("GET", "/health", {"X-Forwarded-For": native.ADDRESS_MARK})
        _load(settings, server.port, request, 32, 2.0, "-a", "1")
        marks["0"] = server.rss_bytes() / 1e6
        for done in range(step, total + 1, step):
            say(f"{done:,} of {total:,} addresses")
            _load(
                settings,
                server.port,
                request,
                32,
                3600,
                "-a",
                str(total + 1),
                "-o",
                str(done - step),
                "-n",
                str(step),
            )
            marks[f"{done:,}"] = server.rss_bytes() / 1e6
    values = list(marks.values())
    late_growth = values[-1] - values[len(values) // 2]
    shown = ", ".join(f"{name}: {value:.0f} MB" for name, value in marks.items())
    outcome = "met" if late_growth <= 2.0 else "MISSED"
    check = Check(
        f"memory while {total:,} addresses pass by",
        shown,
        "no growth in the second half (2 MB)",
        outcome,  # type: ignore[arg-type]
    )
    return dict(marks), [check]


def usage_rows(settings: Settings, rows: int = 1_000_000, rounds: int = 5) -> Report:
    """CPU of a chat on an empty database and on one with `rows` usage records."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="goblin-bench-")))
        upstream = stack.enter_context(
            native.upstream(settings.cache, chunks=10, interval_us=1000, core=settings.load_core)
        )
        variants: dict[str, Callable[[int], float]] = {}
        running = []
        for label, count in (("0 rows", 0), (f"{rows:,} rows", rows)):
            server = servers.goblin(
                upstream,
                folder,
                settings.server_core,
                name=f"goblin-{count}",
                GOBLIN_USAGE_RETENTION_DAYS="0",
            )
            server.start()
            request = servers.goblin_requests(servers.register(server.port))["chat"]
            server.stop()
            if count:
                say(f"writing {count:,} usage records")
                fill(folder / f"goblin-{count}" / "instance" / "goblin.db", count)
            stack.enter_context(server)
            _load(settings, server.port, request, 8, 1.0)
            server.pause()
            running.append(server)

            def measure(
                round_: int, server: Any = server, request: bytes = request, label: str = label
            ) -> float:
                say(f"{label}, round {round_ + 1}/{rounds}")
                server.resume()
                before = server.cpu_seconds()
                load = _load(settings, server.port, request, 32, settings.seconds)
                cpu = (server.cpu_seconds() - before) / load.requests * 1e6
                server.pause()
                return float(cpu)

            variants[label] = measure
        spreads = _flatness(settings, variants, rounds)
        for server in running:
            server.resume()
    figures = {name: spread.median for name, spread in spreads.items()}
    return figures, [flat(f"CPU per chat, 0 to {rows:,} usage records", spreads)]


def fill(database: Path, count: int, batch: int = 50_000) -> None:
    """Write `count` usage records, 60 ms apart, directly into SQLite."""
    connection = sqlite3.connect(database)
    # name -> (cid, name, type, notnull, default, pk)
    columns = {row[1]: row for row in connection.execute("PRAGMA table_info(usage_records)")}
    template: dict[str, Any] = {
        "user_id": 1, "operation": "chat_completion", "provider": "bench",
        "model_requested": "bench/bench", "model": "bench", "prompt_tokens": 12,
        "completion_tokens": 10, "token_source": "provider",
        "cost_microusd": 32, "duration_ms": 900, "status_code": 200, "attempts": 1, "completed": 1,
    }  # fmt: skip
    for name, (_, _, kind, required, _, _) in columns.items():
        if name not in template and required:
            template[name] = 0 if "CHAR" not in kind and "TEXT" not in kind else ""
    names = list({**template, "id": 0, "created_at": 0, "correlation_id": 0})
    statement = (
        f"INSERT INTO usage_records ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
    )
    start = int(time.time() * 1000) - count * 60
    for first in range(0, count, batch):
        rows = []
        for index in range(first, min(count, first + batch)):
            at = start + index * 60
            row = {
                **template,
                "id": f"{at:012x}{uuid.uuid4().hex[:20]}",
                "created_at": at,
                "correlation_id": str(uuid.uuid4()),
            }
            rows.append(tuple(row[name] for name in names))
        with connection:
            connection.executemany(statement, rows)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()


def guide_targets(settings: Settings) -> Report:
    """Find the highest multiple of the guide's rates that holds on a server of its own."""
    found, tried = find_multiple(20, say)
    figures: dict[str, Any] = {"highest multiple that holds": found}
    for multiple, verdict in sorted(tried.items()):
        for row in verdict.get("targets", []):
            shown = f"{row['rate']}/s, p95 {row['p95_ms']} ms, {row['result']}"
            figures[f"{multiple:g} x {row['title']}"] = shown
    what = (
        "the guide's targets, all at once, on two cores: highest multiple of the rates that holds"
    )
    return figures, [at_least(what, _exact(found), 1.0, "x", digits=2)]


EXPERIMENTS: dict[str, Callable[[Settings], Report]] = {
    "fast_streams": fast_streams,
    "slow_streams": slow_streams,
    "addresses": addresses,
    "flood": flood,
    "usage_rows": usage_rows,
    "loadtest": guide_targets,
}
QUICK: dict[str, Callable[[Settings], Report]] = {
    "fast_streams": lambda settings: fast_streams(settings, streams=64, chunks=200),
    "slow_streams": lambda settings: slow_streams(settings, streams=100, seconds=8),
    "addresses": lambda settings: addresses(settings, (1, 5_000), 2),
    "flood": lambda settings: flood(settings, 110_000),
    "usage_rows": lambda settings: usage_rows(settings, 50_000, 2),
}


def describe(figures: dict[str, Any]) -> str:
    """An experiment's figures in one line."""
    return json.dumps({k: round(v, 2) if isinstance(v, float) else v for k, v in figures.items()})
