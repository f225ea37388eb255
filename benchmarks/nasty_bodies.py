"""`make bench-bodies`, or `python -m benchmarks.nasty_bodies`: CPU and memory of nasty bodies.

Each body goes to its own server, which has answered a small one before. CPU is the process's user
and system time from before the first byte to the answer. Memory is how far its peak rises above the
value before (`/proc/PID/clear_refs`, `VmHWM`). The client builds the body first, in another
process's memory.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import machine, page, report, servers
from benchmarks.processes import Server
from benchmarks.results import Check
from tests.support.fake_upstream import FakeUpstream, Reply
from tests.support.nasty_bodies import (
    EMBEDDINGS,
    ESTIMATED,
    HONEST,
    NASTY,
    NASTY_WHOLE,
    Make,
    inside,
    translated,
)

ROOT = Path(__file__).resolve().parent.parent
MEGABYTE = 1_000_000
SIZES = (1, 5, 20)
MAX_CPU_MS = 60.0
"""For each megabyte."""
MAX_TIMES = 15.0
MAX_MB = 50.0
LOGIN, CHAT, MESSAGES, EMBED = (
    "/auth/login",
    "/v1/chat/completions",
    "/v1/messages",
    "/v1/embeddings",
)
REFUSED = frozenset({400, 413})
CLAUDE = """
[providers.claude]
kind = "anthropic"
base_url = "http://127.0.0.1:{port}"
api_key = "sk-bench-upstream-key"
models = ["m"]
"""
ANSWER = {
    "id": "c", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    ],
    "type": "message", "role": "assistant", "content": [{"type": "text", "text": "hi"}],
    "stop_reason": "end_turn",
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "input_tokens": 1, "output_tokens": 1},
}  # fmt: skip
"""The provider's answer, in both dialects at once."""


@dataclass(frozen=True, slots=True)
class Case:
    """A body, its route and the expected status."""

    name: str
    path: str
    make: Make
    statuses: frozenset[int]
    signed_in: bool = True
    budget: bool = False
    """Sent with a key that has a budget, so that its prompt is counted."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one body cost."""

    name: str
    path: str
    megabytes: int
    status: int
    expected: str
    cpu_ms: float
    peak_mb: float
    seconds: float

    @property
    def problems(self) -> list[str]:
        """The bounds that it exceeds."""
        found = []
        if str(self.status) not in self.expected.split(", "):
            found.append("status")
        if self.cpu_ms > MAX_CPU_MS * self.megabytes:
            found.append("CPU")
        if self.peak_mb > max(MAX_MB, MAX_TIMES * self.megabytes):
            found.append("memory")
        return found


def _within(make: Make, field: str) -> Make:
    others = {"messages": b'[{"role":"user","content":"hello"}]', "max_tokens": b"5"}
    return lambda size: inside(field, make(size), **others)


def cases() -> Iterator[Case]:
    """Every body, on the routes where it costs most: without credentials, and with a key."""
    open_to_all = frozenset({200, 400})
    for name, make in NASTY.items():
        yield Case(name, LOGIN, _within(make, "email"), REFUSED, signed_in=False)
        yield Case(f"{name}, as messages", CHAT, _within(make, "messages"), open_to_all)
        yield Case(f"{name}, unknown field", CHAT, _within(make, "unknown"), open_to_all)
        yield Case(f"{name}, as messages", MESSAGES, _within(make, "messages"), open_to_all)
    for name, make in NASTY_WHOLE.items():
        yield Case(name, LOGIN, make, REFUSED, signed_in=False)
        yield Case(name, CHAT, make, frozenset({400}))
    for name, make in HONEST.items():
        yield Case(f"honest: {name}", CHAT, make, frozenset({200}))
    for name, make in ESTIMATED.items():
        yield Case(f"{name}, with a budget", CHAT, make, open_to_all, budget=True)
    for name, make in EMBEDDINGS.items():
        yield Case(f"honest: {name}", EMBED, make, frozenset({200}))
        yield Case(f"honest: {name}, with a budget", EMBED, make, frozenset({200}), budget=True)
    for path, model in ((CHAT, "claude/m"), (MESSAGES, "bench/bench")):
        for name, make in translated(model).items():
            yield Case(f"{name}, translated", path, make, open_to_all)


def measure(server: Server, keys: dict[bool, str], case: Case, megabytes: int) -> Row:
    """Send one body."""
    body = case.make(megabytes * MEGABYTE)[: megabytes * MEGABYTE + 1000]
    headers = {"Content-Type": "application/json"}
    if case.signed_in:
        headers["Authorization"] = f"Bearer {keys[case.budget]}"
    _ask(server.port, "GET", "/health/live", b"", {})
    server.reset_peak()
    memory, cpu, began = server.peak_bytes(), server.cpu_seconds(), time.perf_counter()
    status = _ask(server.port, "POST", case.path, body, headers)
    seconds = time.perf_counter() - began
    return Row(
        case.name,
        case.path,
        megabytes,
        status,
        ", ".join(map(str, sorted(case.statuses))),
        round((server.cpu_seconds() - cpu) * 1000, 1),
        round((server.peak_bytes() - memory) / MEGABYTE, 1),
        round(seconds, 3),
    )


def _ask(port: int, method: str, path: str, body: bytes, headers: dict[str, str]) -> int:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
        try:
            connection.request(method, path, body or None, headers)
        except (BrokenPipeError, ConnectionResetError):
            pass  # refused at its head: the answer is there all the same
        with connection.getresponse() as answer:
            answer.read()
            return answer.status


def warm_up(server: Server, key: str) -> None:
    """Ask each route something small: a server builds its schemas with the first request."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    for path, field in (
        (CHAT, "messages"),
        (MESSAGES, "messages"),
        (EMBED, "input"),
        (LOGIN, "email"),
    ):
        value = b'[{"role":"user","content":"hello"}]' if field == "messages" else b'"hello"'
        _ask(server.port, "POST", path, inside(field, value, max_tokens=b"5"), headers)
    for path, model in ((CHAT, "claude/m"), (MESSAGES, "bench/bench")):
        for make in translated(model).values():
            _ask(server.port, "POST", path, make(100), headers)


def run(folder: Path, chosen: Iterable[Case], sizes: Iterable[int], core: int | None) -> list[Row]:
    """Measure all, in a new server after each body that made the server grow."""
    rows: list[Row] = []
    provider = FakeUpstream(default=Reply.json(200, ANSWER))
    claude = CLAUDE.format(port=provider.port)
    pending = [(case, megabytes) for case in chosen for megabytes in sizes]
    while pending:
        settings: dict[str, Any] = {"threads": 8, "rows": claude, "LOG_LEVEL": "ERROR"}
        own = Path(tempfile.mkdtemp(dir=folder))  # a database without accounts
        with servers.goblin(provider.port, own, core, **settings) as server:
            account = servers.register(server.port)
            budgeted = servers.another_key(
                server.port, account.token, monthly_budget_usd="1", scopes=["chat", "embeddings"]
            )
            keys = {False: account.key, True: budgeted}
            warm_up(server, account.key)
            idle = server.rss_bytes()
            while pending and server.rss_bytes() < idle + 60 * MEGABYTE:
                row = measure(server, keys, *pending.pop(0))
                rows.append(row)
                print(line(row), flush=True)
                provider.requests.clear()
    provider.close()
    return rows


def line(row: Row) -> str:
    """For a terminal."""
    verdict = "MISSED: " + ", ".join(row.problems) if row.problems else "met"
    return (
        f"{row.megabytes:>3} MB {row.path:<22}{row.name:<52}{row.status:>4}"
        f"{row.cpu_ms / row.megabytes:>8.1f} ms/MB"
        f"{row.peak_mb:>8.1f} MB {row.peak_mb / row.megabytes:>5.1f}x  {verdict}"
    )


def checks(rows: list[Row]) -> list[Check]:
    """The bounds over all bodies."""
    nasty = [row for row in rows if not row.name.startswith("honest")]
    honest = [row for row in rows if row.name.startswith("honest")]
    found = []
    for what, part in (
        ("bodies that are cheap to send", nasty),
        ("bodies that people send", honest),
    ):
        if not part:
            continue
        cpu = max(part, key=lambda row: row.cpu_ms / row.megabytes)
        memory = max(part, key=lambda row: row.peak_mb / max(MAX_MB, MAX_TIMES * row.megabytes))
        wrong = sum("status" in row.problems for row in part)
        found += [
            _check(f"{what}: most CPU for a megabyte",
                   f"{cpu.cpu_ms / cpu.megabytes:.0f} ms ({cpu.name})",
                   f"<= {MAX_CPU_MS:.0f} ms", not any("CPU" in row.problems for row in part)),
            _check(f"{what}: most memory",
                   f"{memory.peak_mb:.0f} MB for {memory.megabytes} MB ({memory.name})",
                   "<= 15x or 50 MB", not any("memory" in row.problems for row in part)),
            _check(f"{what}: wrong status", f"{wrong} of {len(part)}", "0", not wrong),
        ]  # fmt: skip
    return found


def _check(what: str, measured: str, target: str, met: bool) -> Check:
    return Check(what, measured, target, "met" if met else "MISSED")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nasty_bodies", description=__doc__)
    parser.add_argument("--sizes", default="1,5,20", help="megabytes, separated by commas")
    parser.add_argument(
        "--only", default="", help="bodies whose name or path holds this text; writes no page"
    )
    parser.add_argument(
        "--cache", type=Path, default=ROOT / ".make" / "bench", help="where results are kept"
    )
    parser.add_argument(
        "--server-core", type=int, default=0, help="the core that the server is pinned to; -1: none"
    )
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance.md")
    parser.add_argument("--no-page", action="store_true", help="measure and print only")
    return parser.parse_args()


def main() -> int:
    """Exit code 1 when a bound is missed."""
    options = arguments()
    sizes = [int(size) for size in options.sizes.split(",")]
    chosen = [case for case in cases() if options.only in f"{case.path} {case.name}"]
    about = {
        "when": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "revision": machine.revision(ROOT),
        "load_average": machine.load_average(),
    }
    core = options.server_core if options.server_core >= 0 else None
    with tempfile.TemporaryDirectory() as folder:
        rows = run(Path(folder), chosen, sizes, core)
    verdicts = checks(rows)
    for check in verdicts:
        print(f"{check.outcome:>12}  {check.what}: {check.measured}  [{check.target}]")
    if not options.no_page and not options.only and sizes == list(SIZES):
        part: dict[str, Any] = {
            "about": about,
            "rows": [{**asdict(row), "problems": row.problems} for row in rows],
        }
        part["checks"] = report.checks_as_dicts(verdicts)
        stored = options.cache / "bodies.json"
        stored.parent.mkdir(parents=True, exist_ok=True)
        stored.write_text(json.dumps(part, indent=1))
        page.replace_section(options.page, "bodies", report.bodies_section(part))
        print(f"wrote {options.page}")
    return int(any(row.problems for row in rows))


if __name__ == "__main__":
    sys.exit(main())
