"""The faults: how each is made and mended, and what may be lost by it.

What is promised stands in docs/faults.md, in the row with the fault's name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gameday.load import ECHO, Sent
from gameday.stack import WELL, Stack
from tests.support.fake_upstream import SILENCE, Pause, Reply
from tests.support.fleet import wait_for


@dataclass(frozen=True)
class Fault:
    """`alert` is what must be told while the fault is on; empty: nothing. `lost` counts the
    requests that the promise does not excuse."""

    name: str
    make: Callable[[Stack], None]
    mend: Callable[[Stack], None]
    lost: Callable[[list[Sent]], list[Sent]]
    alert: str = ""
    most_lost: int = 0
    seconds: float = 5.0


def _every(sent: list[Sent]) -> list[Sent]:
    """Every request counts."""
    return [one for one in sent if not one.answered]


def _but_refusals(sent: list[Sent]) -> list[Sent]:
    """Chats with the provider that is ill may fail, in this API's own shape."""
    return [one for one in _every(sent) if one.model == ECHO or not one.tidy]


def _nothing(stack: Stack) -> None:
    """The fault ends by itself."""


def _kill(stack: Stack) -> None:
    stack.fleet.instances[1].kill()


def _start_again(stack: Stack) -> None:
    stack.fleet.instances[1].start()


def _rolling_restart(stack: Stack) -> None:
    stack.fleet.restart_one_by_one()


def _postgres_restart(stack: Stack) -> None:
    stack.postgres.stop()
    stack.postgres.start()


def _bad_deploy(stack: Stack) -> None:
    """A rollout stops at its first instance, which does not start with its new settings."""
    first = stack.fleet.instances[0]
    good = dict(first.environment)
    first.stop()
    first.environment["GOBLIN_THREADS"] = "none"
    first.begin()
    wait_for("the bad instance to give up", first.ended)
    first.environment = good


def _roll_back(stack: Stack) -> None:
    stack.fleet.instances[0].start()


def _provider(reply: Reply) -> Callable[[Stack], None]:
    def make(stack: Stack) -> None:
        stack.provider.default = reply

    return make


def _provider_down(stack: Stack) -> None:
    stack.provider.reset_on_accept = True
    stack.provider.close_idle()


def _provider_well(stack: Stack) -> None:
    stack.provider.reset_on_accept = False
    stack.provider.default = WELL


GARBAGE = Reply.plain(200, b"<html>not JSON</html>", "text/html")
SLOW = Reply([Pause(2.0), *WELL.steps])

FAULTS = (
    Fault("rolling_restart", _rolling_restart, _nothing, _every, seconds=1),
    Fault(
        "instance_killed",
        _kill,
        _start_again,
        _every,
        alert="GoblinAssistantInstanceDown",
        most_lost=6,
    ),
    Fault(
        "redis_gone",
        lambda stack: stack.redis.stop(),
        lambda stack: stack.redis.start(),
        _every,
        alert="ServiceUnhealthy",
    ),
    Fault(
        "postgres_gone",
        lambda stack: stack.postgres.stop(),
        lambda stack: stack.postgres.start(),
        _every,
        alert="ServiceUnhealthy",
    ),
    Fault("bad_deploy", _bad_deploy, _roll_back, _every),
    Fault(
        "redis_hanging",
        lambda stack: stack.redis.pause(),
        lambda stack: stack.redis.resume(),
        _every,
        alert="ServiceUnhealthy",
    ),
    Fault(
        "postgres_hanging",
        lambda stack: stack.postgres.pause(),
        lambda stack: stack.postgres.resume(),
        _every,
        alert="ServiceUnhealthy",
    ),
    Fault("postgres_restarted", _postgres_restart, _nothing, _every, seconds=1),
    Fault("provider_down", _provider_down, _provider_well, _but_refusals, alert="ServiceUnhealthy"),
    Fault("provider_hanging", _provider(Reply([SILENCE])), _provider_well, _but_refusals),
    Fault("provider_slow", _provider(SLOW), _provider_well, _every),
    Fault("provider_garbage", _provider(GARBAGE), _provider_well, _but_refusals),
)
SHORT = ("rolling_restart", "instance_killed", "redis_gone", "postgres_gone", "bad_deploy")

NOT_PLAYED = {
    "redis_failover": "Sentinel URLs are not supported yet",
    "postgres_restored": "tested by itself: tests of `backup` and `restore`",
    "disk_full": "tested by itself: tests/usage/test_journal.py raises the error of a full disk",
    "clock": "limits go by Redis's clock: tests/rate_limits/test_shared.py",
    "slots_full": "tested by itself: tests/server/test_streams.py",
}
