"""`make bench-live`, or `python -m benchmarks.always_answering`: does the server always answer?

probe.py asks /health/live every 10 ms under each of the conditions of hazards.py. The server is a
real `goblin-assistant serve` with its default of 64 threads and so 56 chat slots, not pinned to a
core. Rate limits are high, so that the load arrives. Each condition has a new server. The command
prints the table and writes it into docs/performance.md.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks import machine, probe, servers
from benchmarks.crowd import Crowd, Tally
from benchmarks.hazards import CONDITIONS, IDLE, Condition, LoadContext
from benchmarks.page import paragraph, replace_section
from benchmarks.probe import Reading
from benchmarks.processes import Server
from benchmarks.results import markdown_table
from tests.support.services import PostgresServer, RedisServer

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / ".make" / "bench" / "always-answering.json"
SECTION = "always-answering"
P99_MS = 100.0
MAX_MS = 1000.0
THREADS = 64
READY_SECONDS = 60.0
DESCRIPTORS = 4096
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Row:
    """One condition. `problems` says how the load differed from what it should have been."""

    name: str
    title: str
    load: str
    reading: Reading | None
    peak_mb: float = 0.0
    problems: list[str] = field(default_factory=list)
    revision: str = ""

    @property
    def outcome(self) -> str:
        """The outcome by the targets. A missed figure counts, whatever the load was."""
        if self.reading is None:
            return "not measured"
        late = self.reading.p99 > P99_MS or self.reading.max > MAX_MS
        if self.reading.failures or late:
            return "**MISSED**"
        return "not measured" if self.problems else "met"


def from_dict(stored: Mapping[str, Any]) -> Row:
    """A row of the results file."""
    reading = stored["reading"]
    return Row(**{**stored, "reading": None if reading is None else Reading(**reading)})


@dataclass(frozen=True, slots=True)
class Options:
    """`samples`: 0 for each condition's own. A server above `memory_mb` is killed."""

    samples: int = 0
    body_mb: float = 20.0
    memory_mb: float = 6000.0


def measure(condition: Condition, options: Options, crowd: Crowd, folder: Path) -> Row:
    """Run one condition, from the start of its server to its end."""
    try:
        with _service(condition, folder) as service:
            return _measure(condition, options, crowd, folder, service)
    except pytest.skip.Exception as missing:
        return Row(condition.name, condition.title, str(missing), None)


@contextmanager
def _service(condition: Condition, folder: Path) -> Iterator[PostgresServer | RedisServer | None]:
    if not condition.service:
        yield None
        return
    place = folder / condition.service
    place.mkdir(parents=True, exist_ok=True)
    service = (PostgresServer if condition.service == "postgres" else RedisServer)(place)
    service.start()
    try:
        yield service
    finally:
        service.stop()


def _measure(
    condition: Condition,
    options: Options,
    crowd: Crowd,
    folder: Path,
    service: PostgresServer | RedisServer | None,
) -> Row:
    provider = crowd.provider()
    provider.mode = condition.mode
    tally = Tally()
    settings = _settings(condition, service)
    server = servers.goblin(
        provider.port,
        folder,
        None,
        name=condition.name,
        threads=THREADS,
        **settings,
    )
    with server:
        account = servers.register(server.port)
        more = [servers.another_key(server.port, account.token) for _ in range(condition.keys - 1)]
        context = LoadContext(
            port=server.port,
            token=account.token,
            keys=[account.key, *more],
            provider=provider,
            body_bytes=int(options.body_mb * 1e6),
            service=service,
        )
        running = crowd.begin(condition.load(context, tally))
        try:
            if not tally.ready.wait(READY_SECONDS):
                return Row(condition.name, condition.title, "the load did not come about", None)
            samples = options.samples or condition.samples
            reading, peak, problems = _sample(server, samples, options.memory_mb)
            problems += condition.check(context, tally)
            under_way = {kind: count for kind, count in tally.open.items() if count > 0}
        finally:
            crowd.end(running)
    text = tally.text() or "none"
    if under_way:
        text += "; unanswered at the end: " + _counts(under_way)
    return Row(condition.name, condition.title, text, reading, peak, problems)


def _settings(condition: Condition, service: PostgresServer | RedisServer | None) -> dict[str, str]:
    settings = {"GOBLIN_GRACE_SECONDS": "1", **condition.settings}
    if isinstance(service, PostgresServer):
        settings["DATABASE_URL"] = service.create_database()
    elif service is not None:
        settings["REDIS_URL"] = service.url
    return settings


def _sample(server: Server, samples: int, memory_mb: float) -> tuple[Reading, float, list[str]]:
    """Run the probe to its end; the reading, the server's peak memory in MB, problems."""
    running = probe.start(server.port, samples)
    peak, problems = 0.0, []
    while running.poll() is None:
        try:
            peak = max(peak, server.rss_bytes() / 1e6)
        except psutil.Error:
            time.sleep(0.1)  # it has ended; the probe counts that
            continue
        if peak > memory_mb:
            problems.append(f"the server took more than {memory_mb:.0f} MB and was ended")
            server.kill()
            break
        time.sleep(0.1)
    return probe.finish(running), peak, problems


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} x {count}" for name, count in counts.items())


def table(rows: Sequence[Row]) -> str:
    """All results, the idle server first."""
    head = (
        "condition", "the load", "samples", "failures", "p50 ms", "p99 ms", "max ms",
        "probe late p99 / max ms", "peak MB", "outcome",
    )  # fmt: skip
    ordered = sorted(rows, key=lambda row: row.name != IDLE.name)
    return markdown_table(head, [_cells(row) for row in ordered])


def _cells(row: Row) -> tuple[str, ...]:
    load = "; ".join([row.load, *(f"**{problem}**" for problem in row.problems)])
    found = row.reading
    if found is None:
        return (row.title, load, *["-"] * 7, row.outcome)
    failures = str(found.failures)
    if found.reasons:
        failures += f" ({_counts(found.reasons)})"
    return (
        row.title, load, f"{found.samples:,}", failures,
        f"{found.p50:.1f}", f"{found.p99:.1f}", f"{found.max:.0f}",
        f"{found.late_p99:.1f} / {found.late_max:.1f}", f"{row.peak_mb:.0f}", row.outcome,
    )  # fmt: skip


def page_section(rows: Sequence[Row], about: Mapping[str, Any]) -> str:
    """The section of docs/performance.md."""
    niceness = {row.reading.niceness for row in rows if row.reading is not None}
    revisions = ", ".join(sorted({row.revision for row in rows}))
    return "\n\n".join(
        [
            "## Always answering",
            paragraph(
                "Written by `make bench-live`; do not edit. How it is measured: "
                "[benchmarks/README.md](../benchmarks/README.md#always-answering)."
            ),
            paragraph(
                f"Measured {about['when']} at revision {revisions}, load average before it "
                f"{about['load_average']}; bodies of {about['body_mb']:g} MB. GET /health/live "
                f"every 10 ms on a new connection, from a process of niceness "
                f"{', '.join(map(str, sorted(niceness)))}; a failure counts as 5 s. Target: no "
                f"failure, p99 <= {P99_MS:g} ms, never above {MAX_MS:g} ms. The load column has "
                "the statuses, their numbers, and the median time to the answer."
            ),
            table(rows),
        ]
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.always_answering")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME",
        help="conditions whose name begins with this (again for more); others keep their results",
    )  # fmt: skip
    parser.add_argument("--list", action="store_true", help="show the names and end")
    parser.add_argument("--samples", type=int, default=0, help="default: 1,000 or 30 s' worth")
    parser.add_argument("--body-mb", type=float, default=20.0, help="size of the nasty bodies")
    parser.add_argument(
        "--memory-mb", type=float, default=min(6000.0, psutil.virtual_memory().available / 2e6),
        help="a server that takes more is ended, and the condition is missed",
    )  # fmt: skip
    parser.add_argument("--results", type=Path, default=RESULTS, help="the JSON file")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--no-page", action="store_true", help="measure and print only")
    return parser.parse_args()


def main() -> int:
    """Exit code 0 even when a target is missed: the table says so."""
    options = arguments()
    if options.list:
        print("\n".join(condition.name for condition in CONDITIONS))
        return 0
    chosen = [c for c in CONDITIONS if not options.only or c.name.startswith(tuple(options.only))]
    _raise_descriptor_limit()
    if not chosen:
        sys.exit(f"--only {' '.join(options.only)}: no such condition; --list shows the names")
    stored = json.loads(options.results.read_text()) if options.results.exists() else {"rows": []}
    about = {
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "revision": machine.revision(ROOT),
        "load_average": machine.load_average(),
        "body_mb": options.body_mb,
        "machine": machine.describe(),
    }
    rows = {row["name"]: from_dict(row) for row in stored["rows"]}
    given = Options(options.samples, options.body_mb, options.memory_mb)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    for row in _run(chosen, given):
        rows[row.name] = replace(row, revision=about["revision"])
        print(" | ".join(_cells(row)), file=sys.stderr, flush=True)
        document = {"about": about, "rows": [asdict(found) for found in rows.values()]}
        options.results.write_text(json.dumps(document, indent=1))
    ordered = [rows[condition.name] for condition in CONDITIONS if condition.name in rows]
    print(table(ordered))
    if options.no_page:
        return 0
    if options.page == PAGE and len(ordered) < len(CONDITIONS):
        print(f"{PAGE.name} stays as it is: not all was measured (--page FILE)", file=sys.stderr)
        return 0
    replace_section(options.page, SECTION, page_section(ordered, about))
    return 0


def _raise_descriptor_limit() -> None:
    """A thousand connections, and some room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < DESCRIPTORS:
        most = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _run(chosen: Sequence[Condition], options: Options) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="goblin-live-") as name:
        crowd = Crowd()
        try:
            for condition in chosen:
                yield measure(condition, options, crowd, Path(name))
        finally:
            crowd.close()


if __name__ == "__main__":
    sys.exit(main())
