"""CPU of a chat with trace context, and with spans that are sent to a collector.

    python -m benchmarks.traces                         # 20 rounds; about five minutes
    python -m benchmarks.traces --page                  # and write its section of docs/tracing.md
    python -m benchmarks.traces --trees BEFORE AFTER    # and two checkouts without trace context

The server has core 0 to itself; clients, provider and collector have core 1. Each round starts the
servers anew and measures them in short slices, in a new order each time, while the others are
paused. The ratio to its reference is taken within the round. The median over the rounds counts,
with the 95 % interval of benchmarks/pairs.py. A round in which a chat failed is measured again.

BEFORE and AFTER are checkouts of the last commit without trace context and of the first with it:
what a request costs that brings none, and no later change.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from benchmarks import fleet, machine, native, rows, servers
from benchmarks.page import paragraph, replace_section
from benchmarks.pairs import interval
from benchmarks.processes import Server
from benchmarks.results import markdown_table
from tests.support.otlp_collector import collecting

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "tracing.md"
APP_CORE, LOAD_CORE = 0, 1
CONNECTIONS = 32
WARM_UP_SECONDS = 0.4
SLICES = 3
TRIES = 3
PLAIN, BROUGHT, SENT = "no header, nothing sent", "traceparent and tracestate", "5 % of spans sent"
BEFORE, AFTER = "the product before trace context", "the product with it"
REFERENCE: Mapping[str, str] = {BROUGHT: PLAIN, SENT: PLAIN, AFTER: BEFORE}
TARGETS: Mapping[str, float] = {BROUGHT: 1.02, AFTER: 1.02, SENT: 1.05}
HEADERS = (
    b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n"
    b"tracestate: congo=t61rcWkgMzE,rojo=00f067aa0ba902b7\r\n"
)
OTLP = {
    "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
    "OTEL_TRACES_SAMPLER_ARG": "0.05",
    "OTEL_BSP_SCHEDULE_DELAY": "200",  # milliseconds: sent while its chats are measured
}


class ChatFailed(Exception):
    """An answer was no success."""


@dataclass(frozen=True, slots=True)
class Case:
    """A server, and what it is asked."""

    name: str
    server: Server
    request: bytes


Round = Mapping[str, float]
"""CPU in microseconds a chat, by the case's name."""


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: the median, and the ratio to its reference with its 95 % interval."""

    name: str
    cpu_us: float
    ratio: float
    low: float
    high: float
    rounds: int


def summary(rounds: Sequence[Round]) -> list[Row]:
    """The rows of the table."""
    found = []
    for name in rounds[0]:
        ratios = [one[name] / one[REFERENCE.get(name, name)] for one in rounds]
        cpu = statistics.median(one[name] for one in rounds)
        found.append(Row(name, cpu, statistics.median(ratios), *interval(ratios), len(rounds)))
    return found


def table(found: Sequence[Row]) -> str:
    """The rows as Markdown."""
    head = ("chat", "CPU, us", "against", "ratio", "95 % interval", "target", "")
    lines = []
    for row in found:
        compared: tuple[str, ...] = ("", "", "", "", "")
        if row.name in REFERENCE:
            compared = (
                REFERENCE[row.name],
                f"{row.ratio:.3f}",
                f"{row.low:.3f} to {row.high:.3f}",
                f"{TARGETS[row.name]:.2f}",
                verdict(row),
            )
        lines.append((row.name, f"{row.cpu_us:.0f}", *compared))
    return markdown_table(head, lines)


def verdict(row: Row) -> str:
    """Whether a row keeps to its target: the interval's end decides."""
    target = TARGETS[row.name]
    if row.high <= target:
        return "met"
    within = row.low <= target
    return ("met" if row.ratio <= target else "MISSED") + ", within the run's noise" * within


def section(found: Sequence[Row], facts: Mapping[str, str]) -> str:
    """The part of docs/tracing.md."""
    about = (
        f"`python -m benchmarks.traces --page` on {facts['cores']} cores of {facts['processor']}, "
        f"Python {facts['Python']}, {CONNECTIONS} connections, {found[0].rounds} rounds. The "
        "server has a core to itself; clients, provider and collector share the other one. A "
        "ratio is taken within a round; the median over the rounds counts."
    )
    return "\n\n".join((paragraph(about), table(found)))


@contextmanager
def collector() -> Iterator[str]:
    """An OTLP collector in a process of its own, on the clients' core; its address."""
    context = get_context("spawn")
    address: SimpleQueue[str] = context.SimpleQueue()
    process = context.Process(target=_collect, args=(address,), daemon=True)
    process.start()
    try:
        yield address.get()
    finally:
        process.terminate()
        process.join()


def _collect(address: SimpleQueue[str]) -> None:
    os.sched_setaffinity(0, {LOAD_CORE})
    with collecting() as found:
        address.put(found.url)
        threading.Event().wait()  # until it is terminated


@contextmanager
def started(upstream: int, endpoint: str, trees: Mapping[str, Path]) -> Iterator[list[Case]]:
    """Every server, paused, with its request."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="goblin-traces-")))

        def start(name: str, **settings: str) -> Case:
            server = servers.goblin(upstream, folder, APP_CORE, name=name, **settings)
            stack.enter_context(server)
            request = fleet.requests_of("goblin", server.port, [rows.KEY])[rows.KEY]
            assert isinstance(request, bytes)
            server.pause()
            return Case(name, server, request)

        plain = start(PLAIN)
        head, _, body = plain.request.partition(b"\r\n\r\n")
        brought = Case(BROUGHT, plain.server, head + b"\r\n" + HEADERS + b"\r\n" + body)
        sent = start(SENT, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, **OTLP)
        others = [start(name, PYTHONPATH=str(tree)) for name, tree in trees.items()]
        yield [plain, brought, sent, *others]


def one_round(cache: Path, cases: Sequence[Case], seconds: float) -> Round:
    """Measure every case. Raises ChatFailed."""
    order = list(cases)
    spent = dict.fromkeys((case.name for case in cases), 0.0)
    chats = dict.fromkeys(spent, 0)
    for case in order:
        _slice(cache, case, WARM_UP_SECONDS)
    for _ in range(SLICES):
        random.shuffle(order)  # who always follows the same other one finds the same caches
        for case in order:
            cpu, count = _slice(cache, case, seconds / SLICES)
            spent[case.name] += cpu
            chats[case.name] += count
    return {name: spent[name] / chats[name] * 1e6 for name in spent}


def _slice(cache: Path, case: Case, seconds: float) -> tuple[float, int]:
    case.server.resume()
    before = case.server.cpu_seconds()
    load = native.finish_load(
        native.start_load(
            cache,
            case.server.port,
            case.request,
            connections=CONNECTIONS,
            seconds=seconds,
            core=LOAD_CORE,
        )
    )
    cpu = case.server.cpu_seconds() - before
    case.server.pause()
    if not load.clean:
        raise ChatFailed(f"{case.name}: {load.failures} failures, statuses {load.statuses}")
    return cpu, load.requests


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.traces",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.2, help="for each case")
    parser.add_argument("--trees", type=Path, nargs=2, metavar=("BEFORE", "AFTER"))
    parser.add_argument("--page", action="store_true", help="write docs/tracing.md's section")
    parser.add_argument("--cache", type=Path, default=ROOT / ".make" / "bench")
    return parser.parse_args()


def main() -> int:
    """Measure, print the table, and write the page if asked to."""
    options = arguments()
    cache = options.cache.resolve()
    native.build(cache)
    trees = dict(
        zip((BEFORE, AFTER), (tree.resolve() for tree in options.trees or ()), strict=False)
    )
    rounds: list[Round] = []
    with (
        collector() as endpoint,
        native.upstream(
            cache,
            chunks=fleet.STREAM_CHUNKS,
            interval_us=fleet.STREAM_INTERVAL_US,
            core=LOAD_CORE,
        ) as upstream,
    ):
        while len(rounds) < options.rounds:
            rounds.append(_tried(cache, upstream, endpoint, trees, options.seconds))
            shown = ", ".join(f"{name}: {us:.0f}" for name, us in rounds[-1].items())
            print(f"{len(rounds)}. {shown} us", file=sys.stderr, flush=True)
            found = summary(rounds)  # after each, so that a run that is stopped has written
            if options.page and len(rounds) >= 2:
                replace_section(PAGE, "traces", section(found, machine.describe()))
    print(table(found))
    return 0


def _tried(
    cache: Path, upstream: int, endpoint: str, trees: Mapping[str, Path], seconds: float
) -> Round:
    for attempt in range(TRIES):
        with started(upstream, endpoint, trees) as cases:
            try:
                return one_round(cache, cases, seconds)
            except ChatFailed as error:
                if attempt == TRIES - 1:
                    raise
                print(f"measured again: {error}", file=sys.stderr, flush=True)
    raise AssertionError("not reached")


if __name__ == "__main__":
    sys.exit(main())
