"""CPU of a chat with one, two and three instances that share one PostgreSQL and one Redis.

    python -m benchmarks.instances                      # 20 rounds; about six minutes
    python -m benchmarks.instances --page               # and write its section of docs/scaling.md

The measured instance has core 0 to itself. The other instances, the clients, the provider,
PostgreSQL and Redis are on core 1. The figure is the CPU of the measured instance, so it shows what
sharing costs it: contended rows, longer waits, a busier PostgreSQL and Redis.

Each round starts three instances anew, and measures with one, two and three of them under load in a
new order. Each has as many clients, however many instances there are. All clients use one key. The
ratio to one instance is taken within the round; the median over the rounds counts, with the 95 %
interval of benchmarks/pairs.py. A round in which a chat failed is measured again.

`--results FILE` collects rounds, so that twenty can come from several short runs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import fleet, installation, machine, native, rows, servers
from benchmarks.page import paragraph, replace_section
from benchmarks.pairs import interval
from benchmarks.processes import Server
from benchmarks.results import markdown_table
from tests.support.services import RedisServer

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "scaling.md"
MOST = 3
TARGET = 1.15
"""For two instances, as a multiple of one's."""
APP_CORE, LOAD_CORE = 0, 1
WARM_UP_SECONDS = 0.4
CONNECTIONS = 8
TRIES = 5
KINDS = {rows.KEY: "no limits", rows.LIMITED: "budget and limits"}


class ChatFailed(Exception):
    """An answer was no success."""


@dataclass(frozen=True, slots=True)
class Round:
    """CPU in microseconds a chat, by the number of instances under load."""

    kind: str
    cpu: dict[int, float]


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: the median, and the ratio to one instance with its 95 % interval."""

    kind: str
    instances: int
    cpu_us: float
    ratio: float
    low: float
    high: float
    pairs: int


def summary(rounds: Sequence[Round]) -> list[Row]:
    """The rows of the table, by kind and number of instances."""
    found = []
    for kind in dict.fromkeys(one.kind for one in rounds):
        mine = [one for one in rounds if one.kind == kind]
        for count in sorted(mine[0].cpu):
            ratios = [one.cpu[count] / one.cpu[1] for one in mine]
            low, high = interval(ratios)
            cpu = statistics.median(one.cpu[count] for one in mine)
            found.append(Row(kind, count, cpu, statistics.median(ratios), low, high, len(mine)))
    return found


def table(found: Sequence[Row]) -> str:
    """The rows as Markdown."""
    head = ("key", "instances", "CPU a chat, us", "against one", "95 % interval", "rounds")
    lines = []
    for row in found:
        ratio, between = f"{row.ratio:.3f}", f"{row.low:.3f} to {row.high:.3f}"
        compared = ("1", "") if row.instances == 1 else (ratio, between)
        figures = (str(row.instances), f"{row.cpu_us:.0f}", *compared, str(row.pairs))
        lines.append((KINDS[row.kind], *figures))
    return markdown_table(head, lines)


def verdict(row: Row) -> str:
    """Whether two instances keep to the target: the interval's end decides."""
    if row.high <= TARGET:
        return "met"
    within = row.low <= TARGET
    return ("met" if row.ratio <= TARGET else "MISSED") + ", within the run's noise" * within


def targets(found: Sequence[Row]) -> str:
    """A sentence for each kind of key."""
    return " ".join(
        f"Target for two instances, {KINDS[row.kind]}: at most {TARGET} times one's CPU: "
        f"**{verdict(row)}**."
        for row in found
        if row.instances == 2
    )


def section(found: Sequence[Row], facts: Mapping[str, str]) -> str:
    """The part of docs/scaling.md."""
    about = (
        f"`python -m benchmarks.instances --page` on {facts['cores']} cores of "
        f"{facts['processor']}, Python {facts['Python']}. The measured instance has a core to "
        f"itself; the other instances, which serve as many clients ({CONNECTIONS} connections "
        "each), PostgreSQL, Redis, clients and provider share the other core. All clients use one "
        "key. A ratio is taken within a round; the median over the rounds counts."
    )
    return "\n\n".join((paragraph(about), table(found), paragraph(targets(found))))


@contextmanager
def shared(folder: Path) -> Iterator[dict[str, str]]:
    """PostgreSQL and Redis on the client's core; the settings of an instance that uses them."""
    redis = RedisServer(folder)
    redis.start()
    try:
        assert redis.process is not None
        os.sched_setaffinity(redis.process.pid, {LOAD_CORE})
        with fleet.postgres(folder / "postgres", LOAD_CORE) as url:
            yield {
                "DATABASE_URL": url,
                "REDIS_URL": redis.url,
                "SECRET_KEY": "s" * 48,
                "GOBLIN_INSTANCES": str(MOST),
            }
    finally:
        redis.stop()


@contextmanager
def started(upstream: int, settings: Mapping[str, str]) -> Iterator[list[Server]]:
    """The three instances. None is paused: it would miss its databases' deadlines."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="goblin-instances-")))
        yield [
            stack.enter_context(
                servers.goblin(upstream, folder, core, name=f"instance-{number}", **settings)
            )
            for number, core in enumerate((APP_CORE, LOAD_CORE, LOAD_CORE), 1)
        ]


def measure(cache: Path, group: Sequence[Server], request: bytes, seconds: float) -> float:
    """CPU seconds a chat of the first one while all are under load. Raises ChatFailed."""
    before = group[0].cpu_seconds()
    clients = [
        native.start_load(
            cache, server.port, request, connections=CONNECTIONS, seconds=seconds, core=LOAD_CORE
        )
        for server in group
    ]
    loads = [native.finish_load(client) for client in clients]
    cpu = group[0].cpu_seconds() - before
    for load in loads:
        if not load.clean:
            raise ChatFailed(f"{load.failures} failures, statuses {load.statuses}")
    return cpu / loads[0].requests


def one_round(
    cache: Path, kind: str, instances: Sequence[Server], request: bytes, seconds: float
) -> Round:
    """Measure with one, two and three instances under load, in a new order."""
    for server in instances:
        measure(cache, [server], request, WARM_UP_SECONDS)
    sizes = list(range(1, MOST + 1))
    random.shuffle(sizes)
    cpu = {size: measure(cache, instances[:size], request, seconds) * 1e6 for size in sizes}
    return Round(kind, dict(sorted(cpu.items())))


def load(path: Path | None) -> list[Round]:
    """The rounds in a results file; none if there is no file."""
    if path is None or not path.exists():
        return []
    return [
        Round(raw["kind"], {int(n): us for n, us in raw["cpu"].items()})
        for raw in json.loads(path.read_text())
    ]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.instances",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=20, help="0 only prints")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each number of instances")
    parser.add_argument("--results", type=Path, help="a JSON file that collects rounds")
    parser.add_argument("--page", action="store_true", help="write docs/scaling.md's section")
    parser.add_argument("--cache", type=Path, default=ROOT / ".make" / "bench")
    return parser.parse_args()


def main() -> int:
    """Measure, print the table, and write the page if asked to."""
    options = arguments()
    rounds = load(options.results)
    if options.rounds:
        cache = options.cache.resolve()
        native.build(cache)
        servers.PYTHON = installation.python(cache)
        for found in _run(options, cache):
            rounds.append(found)
            shown = ", ".join(f"{n}: {us:.0f}" for n, us in found.cpu.items())
            print(f"{found.kind}: {shown} us", file=sys.stderr, flush=True)
            if options.results:  # after each, so that a run that is stopped keeps its rounds
                raw = json.dumps([asdict(one) for one in rounds], indent=1)
                options.results.write_text(raw + "\n")
    lines = summary(rounds)
    print(table(lines))
    print(targets(lines))
    if options.page:
        replace_section(PAGE, "instances", section(lines, machine.describe()))
    return 0


def _run(options: argparse.Namespace, cache: Path) -> Iterator[Round]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="goblin-shared-")))
        upstream = stack.enter_context(
            native.upstream(
                cache,
                chunks=fleet.STREAM_CHUNKS,
                interval_us=fleet.STREAM_INTERVAL_US,
                core=LOAD_CORE,
            )
        )
        settings = stack.enter_context(shared(folder))
        requests: Mapping[str, fleet.Request] = {}
        for _ in range(options.rounds):
            with started(upstream, settings) as instances:
                requests = requests or fleet.requests_of("goblin", instances[0].port, KINDS)
                for kind in KINDS:
                    request = requests[kind]
                    assert isinstance(request, bytes)
                    yield _tried(cache, kind, instances, request, options.seconds)


def _tried(
    cache: Path, kind: str, instances: Sequence[Server], request: bytes, seconds: float
) -> Round:
    for _ in range(TRIES - 1):
        try:
            return one_round(cache, kind, instances, request, seconds)
        except ChatFailed as error:
            print(f"{kind}: measured again, {error}", file=sys.stderr, flush=True)
    return one_round(cache, kind, instances, request, seconds)


if __name__ == "__main__":
    sys.exit(main())
