"""Plays one fault under load, and judges what was seen."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from gameday.faults import Fault
from gameday.load import Load, Sent
from gameday.pages import Alert, Labels, wait
from gameday.stack import Stack
from tests.support.fleet import wait_for

PROMISES = Path(__file__).resolve().parent.parent / "docs" / "faults.md"
PATIENCE = 120.0
_STEADY = 30
"""Answers in a row after which the deployment counts as recovered."""

_SHOWN = 3
"""Of how many lost requests the report has the log lines."""


@dataclass
class Outcome:
    """What was seen of one fault. Times are in seconds after the fault began."""

    name: str
    promise: str
    requests: int = 0
    failed: int = 0
    lost: int = 0
    rows_lost: int = 0
    rows_excused: int = 0
    rows_doubled: int = 0
    mended_at: float = 0.0
    page: dict[str, str] = field(default_factory=dict)
    paged_at: float | None = None
    recovered_at: float | None = None
    alerts: list[str] = field(default_factory=list)
    wrong_pages: list[str] = field(default_factory=list)
    else_broken: str = ""
    statuses: dict[str, int] = field(default_factory=dict)
    lost_lines: list[str] = field(default_factory=list)
    timeline: list[tuple[float, bool]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def promise_of(name: str) -> str:
    """What docs/faults.md promises in the row with this name."""
    found = re.search(rf"^\| {name}: [^|]*\| ([^|]+) \|", PROMISES.read_text(), re.M)
    assert found, f"{PROMISES.name} has no row {name}"
    return found[1]


def play(fault: Fault, stack: Stack) -> Outcome:
    """Hold the load, make the fault, wait for its page, mend it, wait for the recovery."""
    outcome = Outcome(fault.name, promise_of(fault.name), page=dict(fault.page(stack)))
    stack.excused = (0.0, 0.0)
    _wait_for_silence(outcome.page, stack)
    load = Load(stack.proxy.https, stack.key, stack.certificate)
    more = Load(
        stack.proxy.https,
        stack.key,
        stack.certificate,
        callers=fault.extra_callers,
        at_provider=fault.extra_callers,
    )
    load.start()
    try:
        wait_for("a steady load", lambda: len(load.sent()) > _STEADY, PATIENCE)
        began, began_at = time.monotonic(), time.time()
        more.start()
        fault.make(stack)
        if outcome.page:
            told = wait(lambda: stack.pages.told(outcome.page, began_at), PATIENCE)
            outcome.paged_at = time.monotonic() - began if told else None
        time.sleep(max(0.0, fault.seconds - (time.monotonic() - began)))
        outcome.else_broken = fault.check(stack)
        more.stop()
        fault.mend(stack)
        outcome.mended_at = time.monotonic() - began
        outcome.recovered_at = _wait_for_recovery(load, began, outcome.mended_at)
    finally:
        more.stop()
        load.stop()
    _count(outcome, fault, stack, load.sent() + more.sent(), began)
    look_at_alerts(outcome, fault, stack.pages.since(began_at))
    judge(outcome, fault)
    return outcome


def _wait_for_recovery(load: Load, began: float, mended_at: float) -> float | None:
    """When the last failure had ended, as soon as enough answers in a row have come since."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        sent = sorted(load.sent(), key=lambda one: one.ended)
        last = max((at for at, one in enumerate(sent) if not one.answered), default=-1)
        good = [one for one in sent[last + 1 :] if one.ended > began + mended_at]
        if len(good) >= _STEADY:
            return max(mended_at, sent[last].ended - began if last >= 0 else 0.0)
        time.sleep(0.1)
    return None


def _wait_for_silence(page: Labels, stack: Stack) -> None:
    """The fault begins when its own alert has ended, or it could not begin to fire."""
    if page:
        wait(lambda: page["alertname"] not in stack.firing(), PATIENCE)


def _count(outcome: Outcome, fault: Fault, stack: Stack, sent: list[Sent], began: float) -> None:
    unwritten = under_way_in(*stack.excused)
    excused = {one.id for one in sent if unwritten(one)}
    answered = {one.id for one in sent if one.answered}
    rows = stack.rows_when_written(sorted(answered - excused))
    all_rows = stack.rows([one.id for one in sent])
    outcome.requests = len(sent)
    outcome.failed = len(sent) - len(answered)
    end = outcome.mended_at if outcome.recovered_at is None else outcome.recovered_at
    over = under_way_in(began + fault.holds_seconds, began + end)
    lost = [one for one in fault.lost(sent) if not over(one)]
    outcome.lost = len(lost)
    outcome.lost_lines = [
        line
        for one in lost[:_SHOWN]
        for line in [f"{one.result} after {one.ended - one.began:.1f} s", *stack.lines_of(one.id)]
    ]
    outcome.rows_lost = len(answered - excused) - len(rows)
    outcome.rows_excused = len((answered & excused) - all_rows.keys())
    outcome.rows_doubled = sum(count > 1 for count in all_rows.values())
    outcome.statuses = dict(Counter(one.result for one in sent))
    outcome.timeline = [(one.ended - began, one.answered) for one in sent]


def under_way_in(since: float, until: float) -> Callable[[Sent], bool]:
    """Whether a request was under way in this time."""
    return lambda one: since < one.ended and one.began < until


def look_at_alerts(outcome: Outcome, fault: Fault, alerts: list[Alert]) -> None:
    """Note the alerts, and the critical ones for which there was no reason."""
    outcome.alerts = [str(alert) for alert in alerts]
    outcome.wrong_pages = [
        str(alert)
        for alert in alerts
        if alert.labels.get("severity") == "critical"
        and not (outcome.page and alert.has(outcome.page))
        and not {alert.labels["alertname"], alert.labels.get("service_name")} & {*fault.may}
    ]


def judge(outcome: Outcome, fault: Fault) -> None:
    """Name each broken promise."""
    for what, seen, most in (
        ("requests lost", outcome.lost, fault.most_lost),
        ("usage records lost", outcome.rows_lost, 0),
        ("usage records doubled", outcome.rows_doubled, 0),
    ):
        if seen > most:
            outcome.broken.append(f"{seen} {what}, at most {most}")
    if outcome.page and outcome.paged_at is None:
        outcome.broken.append(f"{outcome.page['alertname']} was not told within {PATIENCE:g} s")
    if outcome.wrong_pages:
        outcome.broken.append(f"paged for something else: {', '.join(outcome.wrong_pages)}")
    if outcome.recovered_at is None:
        outcome.broken.append(f"no recovery within {PATIENCE:g} s after the end")
    if outcome.else_broken:
        outcome.broken.append(outcome.else_broken)
