"""Compares bare functions, the product and LiteLLM in interleaved rounds, with one upstream."""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import fleet, native, rows, servers, streams
from benchmarks.fleet import STREAM_CHUNKS, STREAM_INTERVAL_US, Request, Settings
from benchmarks.processes import Server
from benchmarks.results import Sample

__all__ = ["STREAM_CHUNKS", "STREAM_INTERVAL_US", "Comparison", "Settings", "Task", "measure"]


@dataclass(slots=True)
class Comparison:
    """The results. `figures`: cold starts in seconds, resident memory in MB, scheduling and number
    of threads, by server."""

    samples: list[Sample] = field(default_factory=list)
    figures: dict[str, Any] = field(
        default_factory=lambda: {
            "cold_start": {},
            "rss": {},
            "rss_idle": {},
            "scheduling": {},
            "threads": {},
        }
    )
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Task:
    """One measurement of each round.

    `name` is the server's name in the tables. Streams are checked against `stream`, where given.
    `load_core` is the client's core.
    """

    name: str
    server: Server
    kind: str
    request: Request
    stream: streams.Stream | None = None
    load_core: int | None = 1


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
    """Take one sample. `result` is None while warming up.

    Without a sample, but with a problem, when an answer failed or a stream was not whole.
    """
    task.server.resume()
    before = task.server.cpu_seconds()
    load = native.finish_load(
        native.start_load(
            settings.cache,
            task.server.port,
            task.request,
            connections=concurrency,
            seconds=seconds,
            core=task.load_core,
        )
    )
    cpu = task.server.cpu_seconds() - before
    task.server.pause()
    if result is None:
        return
    if problem := _problem(task, load):
        result.problems.append(f"{task.name}, {task.kind}, {concurrency} connections: {problem}")
        return
    count = load.events if task.kind == "stream" else load.requests
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


def _problem(task: Task, load: native.Load) -> str:
    if not load.clean:
        return f"{load.failures} failures, statuses {load.statuses}"
    if task.kind == "stream" and not load.events:
        return "no event of a stream"
    if task.stream is not None:
        return streams.shortfall(load.streams, task.stream)
    return ""


def cold_starts(members: dict[str, Server], count: int) -> dict[str, list[float]]:
    """Seconds from the start of the process to its first answer, `count` times, in turn.

    Caches of files and bytecode are warm. LiteLLM takes many seconds and is started twice at most.
    """
    times: dict[str, list[float]] = {name: [] for name in members}
    for number in range(count):
        for name, server in members.items():
            if name == "litellm" and number >= 2:
                continue
            times[name].append(round(server.start(), 3))
            server.stop()
    return times


def run(settings: Settings) -> Comparison:
    """Run the whole comparison, about ten minutes with the defaults."""
    result = Comparison()
    with_postgres = fleet.has_postgres()
    if not with_postgres and "postgres" in settings.kinds:
        result.problems.append("PostgreSQL is not installed; its rows were not measured")
    chosen = rows.chosen(
        settings.kinds, with_litellm=settings.with_litellm, with_postgres=with_postgres
    )
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="goblin-bench-")))
        prepared = fleet.prepare(settings, chosen, stack, folder)
        say("cold starts")
        result.figures["cold_start"] = cold_starts(
            {name: one for name, one in prepared.members.items() if "," not in name},
            settings.starts,
        )
        _start(prepared, chosen, stack, result)
        tasks = _tasks(settings, prepared, chosen, result)
        say("warming up")
        for task in tasks.values():
            measure(settings, task, 8, 0, min(1.0, settings.seconds), None)
        for round_ in range(settings.rounds):
            for row, level in rows.in_order(chosen):
                if row not in tasks:
                    continue
                say(f"round {round_ + 1}/{settings.rounds}: {row.server}, {row.kind}, {level}")
                seconds = settings.stream_seconds if row.group == "stream" else settings.seconds
                measure(settings, tasks[row], level, round_, seconds, result)
        for name, server in prepared.members.items():
            server.resume()
            result.figures["rss"][name] = round(server.rss_bytes() / 1e6, 1)
            result.figures["threads"][name] = server.threads()
            result.figures["scheduling"][name] = server.scheduling()
    return result


def _start(
    prepared: fleet.Fleet, chosen: tuple[rows.Row, ...], stack: ExitStack, result: Comparison
) -> None:
    for name, server in prepared.members.items():
        say(f"starting {name}")
        stack.enter_context(server)
        kinds = {row.request or row.kind for row in chosen if row.process == name}
        prepared.requests[name] = fleet.requests_of(name, server.port, kinds)
        result.figures["rss_idle"][name] = round(server.rss_bytes() / 1e6, 1)
        server.pause()


def _tasks(
    settings: Settings,
    prepared: fleet.Fleet,
    chosen: tuple[rows.Row, ...],
    result: Comparison,
) -> dict[rows.Row, Task]:
    """What each row does. A row whose stream is not the upstream's is left out, with a problem."""
    direct = streams.read(prepared.upstream, servers.bare_requests()["stream"])
    tasks = {}
    for row in chosen:
        server = prepared.members[row.process]
        request = prepared.requests[row.process].get(row.request or row.kind)
        if request is None:  # the bare Flask view and login take the product's
            request = prepared.requests["goblin"][row.kind]
        whole = None
        if row.group == "stream" and isinstance(request, bytes):
            server.resume()
            whole = streams.read(server.port, request)
            server.pause()
            if wrong := streams.difference(whole, direct):
                result.problems.append(f"{row.server}: its stream is not whole: {wrong}")
                continue
        core = None if row.group == "unpinned" else settings.load_core
        tasks[row] = Task(row.server, server, row.kind, request, whole, core)
    return tasks
