"""Plays one fault under load, and judges what was seen."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from gameday.faults import Fault
from gameday.load import Load, Sent
from gameday.stack import Stack
from tests.support.fleet import wait_for

PROMISES = Path(__file__).resolve().parent.parent / "docs" / "faults.md"
PATIENCE = 120.0
_STEADY = 30
"""Answers in a row after which the deployment counts as recovered."""


@dataclass
class Outcome:
    """What was seen of one fault. Times are in seconds after the fault began."""

    name: str
    promise: str
    requests: int = 0
    failed: int = 0
    lost: int = 0
    rows_lost: int = 0
    rows_doubled: int = 0
    mended_at: float = 0.0
    paged_at: float | None = None
    recovered_at: float | None = None
    alerts: list[str] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    timeline: list[tuple[float, bool]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


def promise_of(name: str) -> str:
    """What docs/faults.md promises in the row with this name."""
    found = re.search(rf"^\| {name}: [^|]*\| ([^|]+) \|", PROMISES.read_text(), re.M)
    assert found, f"{PROMISES.name} has no row {name}"
    return found[1]


def play(fault: Fault, stack: Stack) -> Outcome:
    """Hold the load, make the fault, wait for its page, mend it, wait for the recovery."""
    outcome = Outcome(fault.name, promise_of(fault.name))
    told = len(stack.alerts())
    load = Load(stack.url, stack.key)
    load.start()
    try:
        wait_for("a steady load", lambda: len(load.sent()) > _STEADY, PATIENCE)
        began = time.monotonic()
        fault.make(stack)
        if fault.alert:
            outcome.paged_at = _wait_for_alert(fault.alert, stack, told, began)
        time.sleep(max(0.0, fault.seconds - (time.monotonic() - began)))
        fault.mend(stack)
        outcome.mended_at = time.monotonic() - began
        outcome.recovered_at = _wait_for_recovery(load, began, outcome.mended_at)
    finally:
        load.stop()
    _judge(outcome, fault, stack, load.sent(), began)
    if fault.alert:
        _wait_for_silence(fault.alert, stack)
    outcome.alerts = stack.alerts(told)
    return outcome


def _wait_for_alert(alert: str, stack: Stack, told: int, began: float) -> float | None:
    end = began + PATIENCE
    while time.monotonic() < end:
        if any("FIRING" in one and alert in one for one in stack.alerts(told)):
            return time.monotonic() - began
        time.sleep(0.1)
    return None


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


def _wait_for_silence(alert: str, stack: Stack) -> None:
    """The next fault begins when this one's alert has ended."""
    end = time.monotonic() + PATIENCE
    while alert in stack.firing() and time.monotonic() < end:
        time.sleep(0.2)


def _judge(outcome: Outcome, fault: Fault, stack: Stack, sent: list[Sent], began: float) -> None:
    answered = [one.id for one in sent if one.answered]
    rows = stack.rows_when_written(answered)
    doubled = sum(count > 1 for count in stack.rows([one.id for one in sent]).values())
    outcome.requests = len(sent)
    outcome.failed = len(sent) - len(answered)
    outcome.lost = len(fault.lost(sent))
    outcome.rows_lost = len(answered) - len(rows)
    outcome.rows_doubled = doubled
    outcome.statuses = dict(Counter(one.result for one in sent))
    outcome.timeline = [(one.ended - began, one.answered) for one in sent]
    for what, seen, most in (
        ("requests lost", outcome.lost, fault.most_lost),
        ("usage records lost", outcome.rows_lost, 0),
        ("usage records doubled", outcome.rows_doubled, 0),
    ):
        if seen > most:
            outcome.broken.append(f"{seen} {what}, at most {most}")
    if fault.alert and outcome.paged_at is None:
        outcome.broken.append(f"{fault.alert} was not told within {PATIENCE:g} s")
    if outcome.recovered_at is None:
        outcome.broken.append(f"no recovery within {PATIENCE:g} s after the end")
