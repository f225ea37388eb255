"""The faults: how each is made and mended, what may be lost by it, and what must be told.

What is promised stands in docs/faults.md, in the row with the fault's name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from gameday import acts
from gameday.acts import Act
from gameday.load import ECHO, Sent
from gameday.pages import Labels
from gameday.stack import WELL, Stack
from tests.support.fake_upstream import SILENCE, Pause, Reply

Lost = Callable[[list[Sent]], list[Sent]]


def _nobody(stack: Stack) -> Labels:
    return {}


@dataclass(frozen=True)
class Fault:
    """`page` gives the labels of what must be told while the fault is on; none: nothing has to be.
    `may` names services or alerts that may be told of besides. `lost` picks the requests that
    the promise does not excuse; it holds for `holds_seconds` of the fault. `check` says what else
    is broken while it is on, and `missing` why it cannot be played, or nothing."""

    name: str
    make: Act
    mend: Act
    lost: Lost
    page: Callable[[Stack], Labels] = _nobody
    may: tuple[str, ...] = ()
    most_lost: int = 0
    holds_seconds: float = math.inf
    seconds: float = 5.0
    check: Callable[[Stack], str] = lambda stack: ""
    extra_callers: int = 0
    missing: Callable[[], str] = lambda: ""


def _every(sent: list[Sent]) -> list[Sent]:
    """Every request counts."""
    return [one for one in sent if not one.answered]


def _but(*results: str) -> Lost:
    """These refusals are the promise."""

    def lost(sent: list[Sent]) -> list[Sent]:
        return [one for one in _every(sent) if one.result not in results or not one.tidy]

    return lost


def _but_its_refusals(sent: list[Sent]) -> list[Sent]:
    """Chats with the provider that is ill may fail, in this API's own shape."""
    return [one for one in _every(sent) if one.model == ECHO or not one.tidy]


def _unhealthy(service: str) -> Callable[[Stack], Labels]:
    return lambda stack: {
        "alertname": "ServiceUnhealthy",
        "severity": "critical",
        "job": "goblin-assistant",
        "service_name": service,
    }


def _warning(name: str, number: int | None = None) -> Callable[[Stack], Labels]:
    """A warning about the deployment, or about one instance."""

    def labels(stack: Stack) -> Labels:
        instance = {} if number is None else {"instance": stack.target(number)}
        return {"alertname": name, "severity": "warning", "job": "goblin-assistant", **instance}

    return labels


def _all_down(stack: Stack) -> Labels:
    return {
        "alertname": "GoblinAssistantDown", "severity": "critical", "job": "goblin-assistant",
    }  # fmt: skip


def _disk_low(stack: Stack) -> Labels:
    return _warning("DiskSpaceLow", acts.ON_DISK)(stack) if stack.own_disk else {}


GARBAGE = Reply.plain(200, b"<html>not JSON</html>", "text/html")
SLOW = Reply([Pause(2.0), *WELL.steps])
SLOWISH = Reply([Pause(1.0), *WELL.steps])

KNOWN_SECONDS = 55.0
"""A caller is known for 60 s after the database named it."""

FAULTS = (
    Fault("rolling_restart", acts.rolling_restart, acts.nothing, _every, seconds=1),
    Fault(
        "instance_killed",
        acts.kill_instance,
        acts.start_instance,
        _every,
        page=_warning("GoblinAssistantInstanceDown", acts.KILLED),
        most_lost=6,
    ),
    Fault("redis_failover", acts.redis_failover, acts.redis_both_again, _every, may=("redis",)),
    Fault(
        "postgres_gone",
        acts.postgres_stop,
        acts.postgres_start,
        _every,
        holds_seconds=KNOWN_SECONDS,
        page=_unhealthy("database"),
    ),
    Fault("bad_deploy", acts.bad_deploy, acts.roll_back, _every),
    Fault(
        "provider_down",
        acts.provider_down,
        acts.provider_well,
        _but_its_refusals,
        page=_unhealthy("openai"),
    ),
    Fault(
        "instance_hanging",
        acts.stop_answering,
        acts.replace_hanging,
        _every,
        page=_warning("GoblinAssistantInstanceDown", acts.HANGING),
        most_lost=6,
    ),
    Fault("redis_gone", acts.redis_kill, acts.redis_start, _every, page=_unhealthy("redis")),
    Fault(
        "postgres_hanging",
        lambda stack: stack.postgres.pause(),
        lambda stack: stack.postgres.resume(),
        _every,
        holds_seconds=KNOWN_SECONDS,
        page=_unhealthy("database"),
    ),
    Fault(
        "slots_full",
        acts.provider_answers(SLOWISH),
        acts.provider_well,
        _but("503 overloaded"),
        page=_warning("ChatSlotsExhausted"),
        extra_callers=40,
    ),
    Fault(
        "redis_hanging", acts.redis_pause, acts.redis_resume, _every, page=_unhealthy("redis")
    ),
    Fault(
        "disk_full", acts.fill_disk, acts.empty_disk, _every, page=_disk_low
    ),
    Fault(
        "clock",
        acts.a_minute_ahead,
        acts.right_time,
        _every,
        check=acts.limits_are_exact,
        missing=lambda: "" if acts.faketime_library() else "libfaketime is not installed",
    ),
    Fault(
        "provider_hanging",
        acts.provider_answers(Reply([SILENCE])),
        acts.provider_well,
        _but_its_refusals,
        page=_unhealthy("openai"),
    ),
    Fault(
        "postgres_restarted",
        acts.postgres_restart,
        acts.nothing,
        _every,
        may=("database",),
        seconds=1,
    ),
    Fault("provider_slow", acts.provider_answers(SLOW), acts.provider_well, _every),
    Fault(
        "all_instances_gone",
        acts.kill_all,
        acts.start_all,
        _but("503 unavailable"),
        page=_all_down,
        most_lost=6,
    ),
    Fault(
        "provider_garbage", acts.provider_answers(GARBAGE), acts.provider_well, _but_its_refusals,
        may=("openai",),
    ),
    Fault(
        "postgres_restored",
        acts.restore_backup,
        acts.nothing,
        _but("503 unavailable"),
        may=("database", "GoblinAssistantDown"),
        seconds=1,
    ),
)  # fmt: skip
SHORT = (
    "instance_killed", "redis_failover", "postgres_gone", "provider_down", "all_instances_gone",
)  # fmt: skip
"""Those whose promise does not depend on how busy the machine is."""
