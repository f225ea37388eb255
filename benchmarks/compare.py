"""Compares bare functions, the product and LiteLLM in interleaved rounds, with one upstream."""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import native, servers
from benchmarks.processes import Server
from benchmarks.results import Sample

STREAM_CHUNKS, STREAM_INTERVAL_US = 200, 10_000


@dataclass(frozen=True, slots=True)
class Settings:
    """How much to measure. `seconds` is the length of one sample."""

    cache: Path
    litellm_venv: Path | None
    with_litellm: bool = True
    rounds: int = 5
    seconds: float = 3.0
    stream_seconds: float = 3.0
    concurrencies: tuple[int, ...] = (1, 8, 32, 128)
    starts: int = 5
    server_core: int | None = 0
    load_core: int | None = 1
    kinds: frozenset[str] = frozenset({"chat", "echo", "stream", "health", "login"})


@dataclass(slots=True)
class Comparison:
    """The results. `figures`: cold starts in seconds, resident memory in MB, by server."""

    samples: list[Sample] = field(default_factory=list)
    figures: dict[str, Any] = field(
        default_factory=lambda: {"cold_start": {}, "rss": {}, "rss_idle": {}}
    )
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Task:
    """One measurement of each round. `name` is the server's name in the tables."""

    name: str
    server: Server
    kind: str
    request: bytes


def say(text: str) -> None:
    """Print progress on standard error."""
    print(text, file=sys.stderr, flush=True)


def measure(
    settings: Settings,
    task: Task,
    concurrency: int,
    round_: int,
    seconds: float,
    result: Comparison | None,
) -> None:
    """Take one sample. `result` is None while warming up."""
    task.server.resume()
    before = task.server.cpu_seconds()
    load = native.finish_load(
        native.start_load(
            settings.cache,
            task.server.port,
            task.request,
            connections=concurrency,
            seconds=seconds,
            core=settings.load_core,
        )
    )
    cpu = task.server.cpu_seconds() - before
    task.server.pause()
    if result is None:
        return
    if not load.clean:
        result.problems.append(
            f"{task.name} {task.kind} c={concurrency}: {load.failures} failures, "
            f"statuses {load.statuses}"
        )
    count = load.events if task.kind == "stream" else load.requests
    if count == 0:
        return
    result.samples.append(
        Sample(
            server=task.name,
            kind=task.kind,
            concurrency=concurrency,
            round=round_,
            cpu_us=cpu / count * 1e6,
            rate=count / load.seconds,
            p50=load.p50,
            p95=load.p95,
            first_p50=load.first_p50,
        )
    )


def cold_starts(settings: Settings, server: Server, count: int) -> list[float]:
    """Seconds from the start of the process to its first answer, `count` times.

    Caches of files and bytecode are warm.
    """
    times = []
    for _ in range(count):
        times.append(round(server.start(), 3))
        server.stop()
    return times


def run(settings: Settings) -> Comparison:
    """Run the whole comparison, about a quarter of an hour with the defaults."""
    result = Comparison()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="goblin-bench-")))
        upstream = stack.enter_context(
            native.upstream(
                settings.cache,
                chunks=STREAM_CHUNKS,
                interval_us=STREAM_INTERVAL_US,
                core=settings.load_core,
            )
        )
        core = settings.server_core
        started = [
            ("bare", servers.bare("chat", upstream, folder, core)),
            ("bare flask", servers.bare("flask", upstream, folder, core)),
            ("bare login", servers.bare("login", upstream, folder, core)),
            ("goblin", servers.goblin(upstream, folder, core)),
        ]
        if settings.with_litellm:
            venv = servers.litellm_venv(settings.cache, settings.litellm_venv)
            started.append(("litellm", servers.litellm(venv, upstream, folder, core)))
        by_name = dict(started)
        for name, server in started:
            say(f"cold start: {name}")
            result.figures["cold_start"][name] = cold_starts(
                settings, server, min(2, settings.starts) if name == "litellm" else settings.starts
            )
        for name, server in started:
            stack.enter_context(server)
            if name == "goblin":
                credentials = servers.register(server.port)
            result.figures["rss_idle"][name] = round(server.rss_bytes() / 1e6, 1)
            server.pause()
        tasks = _tasks(settings, by_name, credentials)
        say("warming up")
        for task in tasks:
            measure(settings, task, 8, 0, min(1.0, settings.seconds), None)
        for round_ in range(settings.rounds):
            for kind, concurrencies in _plan(settings):
                for concurrency in concurrencies:
                    for task in tasks:
                        if _group(task.kind) != kind or (
                            task.kind == "chat, API key" and concurrency != 32
                        ):
                            continue
                        progress = f"round {round_ + 1}/{settings.rounds}"
                        say(f"{progress}: {kind} c={concurrency} {task.name}")
                        seconds = settings.stream_seconds if kind == "stream" else settings.seconds
                        measure(settings, task, concurrency, round_, seconds, result)
        for name, server in started:
            server.resume()
            result.figures["rss"][name] = round(server.rss_bytes() / 1e6, 1)
    return result


def _group(kind: str) -> str:
    return "chat" if kind.startswith("chat") else kind


def _plan(settings: Settings) -> list[tuple[str, tuple[int, ...]]]:
    plan = [
        ("chat", settings.concurrencies),
        ("echo", (32,)),
        ("stream", settings.concurrencies),
        ("health", tuple(c for c in settings.concurrencies if c in (1, 32))),
        ("login", (8,)),
    ]
    return [(kind, concurrencies) for kind, concurrencies in plan if kind in settings.kinds]


def _tasks(
    settings: Settings, by_name: dict[str, Server], credentials: servers.Credentials
) -> list[Task]:
    bare, goblin = servers.bare_requests(), servers.goblin_requests(credentials)
    tasks = [
        Task("bare", by_name["bare"], "chat", bare["chat"]),
        Task("bare", by_name["bare"], "stream", bare["stream"]),
        Task("bare flask", by_name["bare flask"], "health", goblin["health"]),
        Task("bare login", by_name["bare login"], "login", goblin["login"]),
    ]
    tasks += [Task("goblin", by_name["goblin"], kind, request) for kind, request in goblin.items()]
    if "litellm" in by_name:
        tasks += [
            Task("litellm", by_name["litellm"], kind, request)
            for kind, request in servers.litellm_requests().items()
        ]
    order = {"bare": 0, "bare flask": 0, "bare login": 0, "goblin": 1, "litellm": 2}
    return sorted(
        (task for task in tasks if _group(task.kind) in settings.kinds),
        key=lambda task: order[task.name],
    )
