"""Compares the load test's measurements with the production guide's targets.

Pure: no Locust, no clock, no network.

A target is a 95th percentile and a rate. The percentile is taken from every answer (Locust rounds
its own to two digits). The rate only counts in a scenario that is made to reach it. An answer of
429 is neither a success nor a failure: the server's limits prevented the measurement. A target
without a measured answer is not met.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["ok", "limited", "failed"]
Result = Literal["pass", "MISSED", "NOT MEASURED", "no bound"]

LAST_VERDICT = Path(".make/loadtest-verdict.json")
"""Where a run leaves its verdict as JSON unless told otherwise. `goblin-assistant doctor` reads
it."""

RATE_TOLERANCE = 0.01
EDGE_REQUESTS = 2
"""How far a rate may fall short: by the larger of this share of its requests and this many.

The measured time cuts off requests at both of its ends.
"""


@dataclass(frozen=True, slots=True)
class Target:
    """A target of the guide's section "Performance targets".

    The 95th percentile must stay below `p95_ms` milliseconds; `rate` is in requests per second.
    None: no target.
    """

    name: str
    title: str
    p95_ms: float | None
    rate: float | None


TARGETS: tuple[Target, ...] = (
    Target("health", "Health checks", 100.0, 100.0),
    Target("chat", "Chat completions", 2000.0, 10.0),
    Target("login", "Auth login", 500.0, 20.0),
)
STREAM_TARGETS: tuple[Target, ...] = (
    Target("first_token", "First token", None, None),
    Target("chunk_gap", "Longest gap in a stream", None, None),
    Target("stream", "Whole stream", None, None),
)


@dataclass(slots=True)
class Tally:
    """The answers of one target.

    `times` maps milliseconds, to a tenth, to the number of answers; `limited` counts answers of
    429.
    """

    times: Counter[float] = field(default_factory=Counter)
    limited: int = 0
    failed: int = 0

    @property
    def measured(self) -> int:
        """The number of measured answers."""
        return self.times.total()

    def percentile(self, share: float) -> float | None:
        """The smallest time that at least `share` of the answers do not exceed (nearest rank).

        None without answers.
        """
        rank = math.ceil(share * self.measured)
        for milliseconds in sorted(self.times):
            rank -= self.times[milliseconds]
            if rank <= 0:
                return milliseconds
        return None

    def add(self, other: Tally) -> None:
        """Add another process's measurements."""
        self.times.update(other.times)
        self.limited += other.limited
        self.failed += other.failed

    def as_message(self) -> dict[str, Any]:
        """As a message from a Locust worker to its master."""
        return {"times": list(self.times.items()), "limited": self.limited, "failed": self.failed}

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> Tally:
        """The reverse of as_message."""
        return cls(Counter(dict(message["times"])), message["limited"], message["failed"])


class Recorder:
    """Collects answers.

    `failures` also counts failures of requests without a target, by name.
    """

    def __init__(self) -> None:
        self.tallies: dict[str, Tally] = {}
        self.failures: Counter[str] = Counter()
        self.limited: Counter[str] = Counter()

    def note(self, target: str | None, name: str, milliseconds: float, outcome: Outcome) -> None:
        """Record one answer; `target` is None for a request without a target."""
        if outcome == "failed":
            self.failures[name] += 1
        elif outcome == "limited":
            self.limited[name] += 1
        if target is None:
            return
        tally = self.tallies.get(target)
        if tally is None:
            tally = self.tallies[target] = Tally()
        if outcome == "ok":
            tally.times[round(milliseconds, 1)] += 1
        elif outcome == "limited":
            tally.limited += 1
        else:
            tally.failed += 1

    def take(self) -> dict[str, Any]:
        """Return everything so far as a message, and clear it."""
        message = {
            "tallies": {name: tally.as_message() for name, tally in self.tallies.items()},
            "failures": dict(self.failures),
            "limited": dict(self.limited),
        }
        self.clear()
        return message

    def add(self, message: Mapping[str, Any]) -> None:
        """Add the result of another process's `take()`."""
        for name, tally in message["tallies"].items():
            self.tallies.setdefault(name, Tally()).add(Tally.from_message(tally))
        self.failures.update(message["failures"])
        self.limited.update(message["limited"])

    def clear(self) -> None:
        """Delete everything."""
        self.tallies.clear()
        self.failures.clear()
        self.limited.clear()


@dataclass(frozen=True, slots=True)
class Row:
    """One target's line. Times in milliseconds, rates per second.

    A bound is None if this scenario has none.
    """

    title: str
    measured: int
    limited: int
    failed: int
    p50: float | None
    p95: float | None
    p95_bound: float | None
    rate: float
    rate_bound: float | None
    result: Result
    why: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The whole verdict. `notes` say what failed and what to do about it."""

    rows: tuple[Row, ...]
    seconds: float
    passed: bool
    notes: tuple[str, ...]

    @property
    def word(self) -> str:
        """PASS or FAIL."""
        return "PASS" if self.passed else "FAIL"

    @property
    def exit_code(self) -> int:
        """0 when every target was met and nothing failed, else 1."""
        return 0 if self.passed else 1


def judge(
    recorder: Recorder,
    targets: Sequence[Target],
    seconds: float,
    *,
    check_rate: bool,
    multiple: float = 1.0,
) -> Verdict:
    """Compare the measurements of `seconds` with `targets`.

    Rates are checked only if `check_rate`, against the targets' times `multiple`.
    """
    rows = tuple(
        _row(target, recorder.tallies.get(target.name, Tally()), seconds, check_rate, multiple)
        for target in targets
    )
    notes: list[str] = []
    if recorder.failures:
        notes.append(f"{_total(recorder.failures)} requests failed: {_listed(recorder.failures)}.")
    if recorder.limited:
        if _total(recorder.limited) > sum(row.measured for row in rows):
            notes.append(
                "This run measured 429s: the server's rate limits refused more requests than were "
                "measured."
            )
        notes.append(
            f"{_total(recorder.limited)} answers were 429, the server's own rate limits. They are "
            f"counted apart, not as failures: {_listed(recorder.limited)}. To measure without "
            "limits, start the server with RATELIMIT_ENABLED=false, or with the limits raised "
            "(RATELIMIT_AUTH, RATELIMIT_CHAT, RATELIMIT_HEALTH, RATELIMIT_DEFAULT, "
            "RATELIMIT_LOGIN_ACCOUNT)."
        )
    notes += [f"{row.title}: {row.why}" for row in rows if row.why]
    passed = not recorder.failures and all(row.result in ("pass", "no bound") for row in rows)
    return Verdict(rows, seconds, passed, tuple(notes))


def no_verdict(why: str) -> Verdict:
    """The verdict on a run in which nothing could be measured."""
    return Verdict((), 0.0, False, (why,))


def _row(target: Target, tally: Tally, seconds: float, check_rate: bool, multiple: float) -> Row:
    p50, p95 = tally.percentile(0.50), tally.percentile(0.95)
    rate = tally.measured / seconds if seconds > 0 else 0.0
    rate_bound = target.rate * multiple if check_rate and target.rate is not None else None
    reasons = []
    result: Result = "pass" if target.p95_ms is not None or rate_bound is not None else "no bound"
    if p95 is None:
        result = "NOT MEASURED"
        reasons.append(
            "every answer was a 429." if tally.limited and not tally.failed
            else "no answer was a success." if tally.failed
            else "no request was made; run for longer or with more users."
        )  # fmt: skip
    else:
        if target.p95_ms is not None and p95 >= target.p95_ms:
            result = "MISSED"
            reasons.append(f"p95 is {p95:.1f} ms; it has to stay below {target.p95_ms:g} ms.")
        if rate_bound is not None:
            wanted = rate_bound * seconds
            if wanted - tally.measured > max(EDGE_REQUESTS, wanted * RATE_TOLERANCE):
                result = "MISSED"
                reasons.append(f"{rate:.1f} answers a second; it has to be {rate_bound:g}.")
        if tally.failed:
            result = "MISSED"
            reasons.append(f"{tally.failed} requests failed.")
    return Row(
        title=target.title,
        measured=tally.measured,
        limited=tally.limited,
        failed=tally.failed,
        p50=p50,
        p95=p95,
        p95_bound=target.p95_ms,
        rate=rate,
        rate_bound=rate_bound,
        result=result,
        why=" ".join(reasons),
    )


def _total(counts: Counter[str]) -> int:
    return sum(counts.values())


def _listed(counts: Counter[str]) -> str:
    return ", ".join(
        f"{name} {count}"
        for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )


COLUMNS: tuple[tuple[str, str], ...] = (
    ("target", "Target"),
    ("measured", "Answers"),
    ("limited", "429s"),
    ("failed", "Failed"),
    ("p50", "p50 ms"),
    ("p95", "p95 ms"),
    ("p95bound", "must be"),
    ("rate", "per second"),
    ("ratebound", "must be"),
    ("result", "Result"),
)
"""Keys and titles of the verdict's table.

The keys have no underscore, because Locust's web page turns snake_case into camelCase.
"""


def cells(row: Row) -> dict[str, str]:
    """A row as text, by the keys of COLUMNS."""
    return {
        "target": row.title,
        "measured": str(row.measured),
        "limited": str(row.limited),
        "failed": str(row.failed),
        "p50": "-" if row.p50 is None else f"{row.p50:.1f}",
        "p95": "-" if row.p95 is None else f"{row.p95:.1f}",
        "p95bound": "-" if row.p95_bound is None else f"< {row.p95_bound:g}",
        "rate": f"{row.rate:.1f}",
        "ratebound": "-" if row.rate_bound is None else f">= {row.rate_bound:g}",
        "result": row.result,
    }


def table(
    rows: Iterable[Mapping[str, str]], columns: Sequence[tuple[str, str]] = COLUMNS
) -> list[str]:
    """Lines of a table; the first column is aligned left, the others right."""
    lines = [dict(columns), *rows]
    widths = [max(len(line[key]) for line in lines) for key, _ in columns]
    text = []
    for line in lines:
        parts = [
            line[key].ljust(width) if index == 0 else line[key].rjust(width)
            for index, ((key, _), width) in enumerate(zip(columns, widths, strict=True))
        ]
        text.append("  ".join(parts).rstrip())
    text.insert(1, "-" * max(len(line) for line in text))
    return text


def heading(verdict: Verdict) -> str:
    """The title of the table."""
    bound = any(row.p95_bound is not None for row in verdict.rows)
    what = "Targets of the production guide" if bound else "Streams"
    return f"{what}, measured over {verdict.seconds:.1f} s"


def as_text(verdict: Verdict) -> str:
    """The verdict for a terminal."""
    lines = []
    if verdict.rows:
        lines += [heading(verdict), "", *table(cells(row) for row in verdict.rows)]
    lines += ["", *verdict.notes] if verdict.notes else []
    lines += ["", f"Verdict: {verdict.word}"]
    return "\n".join(lines)


def as_json(verdict: Verdict) -> dict[str, Any]:
    """The verdict as JSON."""
    return {
        "passed": verdict.passed,
        "seconds": round(verdict.seconds, 1),
        "notes": list(verdict.notes),
        "targets": [
            {
                "title": row.title,
                "answers": row.measured,
                "limited": row.limited,
                "failed": row.failed,
                "p50_ms": row.p50,
                "p95_ms": row.p95,
                "p95_bound_ms": row.p95_bound,
                "rate": round(row.rate, 2),
                "rate_bound": row.rate_bound,
                "result": row.result,
            }
            for row in verdict.rows
        ],
    }
