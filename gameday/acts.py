"""What is done to the deployment: each fault's beginning and its end."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gameday.load import admitted
from gameday.stack import WELL, Stack, fill
from tests.support.fake_upstream import Reply
from tests.support.fleet import Instance, wait_for

Act = Callable[[Stack], None]

BAD, KILLED, HANGING, ON_DISK, AHEAD = 0, 1, 0, 2, 1
"""The numbers of the instances to which something is done."""

SETTLE_SECONDS = 6.0
"""As in ops/systemd/rolling-restart.sh: nginx leaves an instance alone for 5 s after it refused."""

WRITTEN_SECONDS = 5.0
"""A usage record is written a moment after its answer."""

LIMIT = 10


def nothing(stack: Stack) -> None:
    """The fault ends by itself."""


# -- instances
def rolling_restart(stack: Stack) -> None:
    """One after the other."""
    for instance in stack.fleet.instances:
        instance.stop()
        instance.start()
        time.sleep(SETTLE_SECONDS)


def kill_instance(stack: Stack) -> None:
    """kill -9."""
    stack.fleet.instances[KILLED].kill()


def start_instance(stack: Stack) -> None:
    """Again."""
    stack.fleet.instances[KILLED].start()


def stop_answering(stack: Stack) -> None:
    """SIGSTOP: the kernel still accepts connections for it."""
    stack.fleet.instances[HANGING].pause()


def replace_hanging(stack: Stack) -> None:
    """kill -9, and start it again, as a supervisor's watchdog does."""
    stack.fleet.instances[HANGING].kill()
    stack.fleet.instances[HANGING].start()


def kill_all(stack: Stack) -> None:
    """kill -9 of every instance."""
    stack.fleet.stop()


def start_all(stack: Stack) -> None:
    """Again, together."""
    _together(stack, Instance.start)


def _together(stack: Stack, act: Callable[[Instance], object]) -> None:
    with ThreadPoolExecutor(len(stack.fleet.instances)) as pool:
        list(pool.map(act, stack.fleet.instances))


def bad_deploy(stack: Stack) -> None:
    """A rollout stops at its first instance, which does not start with its new settings."""
    first = stack.fleet.instances[BAD]
    good = dict(first.environment)
    first.stop()
    first.environment["GOBLIN_THREADS"] = "none"
    first.begin()
    wait_for("the bad instance to give up", first.ended)
    first.environment = good


def roll_back(stack: Stack) -> None:
    """Start it with the settings of before."""
    stack.fleet.instances[BAD].start()


def a_minute_ahead(stack: Stack) -> None:
    """Restart an instance with a clock that is a minute ahead."""
    instance = stack.fleet.instances[AHEAD]
    instance.stop()
    # Preloaded and not by the command `faketime`, which would stay between us and the instance.
    ahead = {
        "LD_PRELOAD": faketime_library(),
        "FAKETIME": "+60s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    right = dict(instance.environment)
    instance.environment |= ahead
    instance.start()
    instance.environment = right


def faketime_library() -> str:
    """The path of libfaketime for threads; empty without it."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    return str(found[0]) if found else ""


def right_time(stack: Stack) -> None:
    """Restart it without."""
    instance = stack.fleet.instances[AHEAD]
    instance.stop()
    instance.start()


def limits_are_exact(stack: Stack) -> str:
    """Three instances together admit exactly the limit of a new key."""
    key = stack.new_key(f"exact-{time.monotonic_ns()}", LIMIT)
    found = admitted(stack.proxy.https, key, stack.certificate, 3 * LIMIT)
    return "" if found == LIMIT else f"a limit of {LIMIT} admitted {found}"


# -- Redis
def redis_kill(stack: Stack) -> None:
    """The primary; nobody is promoted."""
    stack.redis.kill_primary()


def redis_start(stack: Stack) -> None:
    """The primary again, empty."""
    stack.redis.start_killed_as_primary()


def redis_pause(stack: Stack) -> None:
    """SIGSTOP of the primary."""
    stack.redis.pause_primary()


def redis_resume(stack: Stack) -> None:
    """SIGCONT."""
    stack.redis.resume()


def redis_failover(stack: Stack) -> None:
    """The primary is killed; the sentinels promote its replica."""
    stack.redis.kill_primary()
    stack.redis.notice()
    stack.redis.wait_for_promotion()


def redis_both_again(stack: Stack) -> None:
    """The killed server becomes the replica."""
    stack.redis.start_killed()
    stack.redis.wait_for_replica()
    stack.redis.ignore()


# -- PostgreSQL
def postgres_stop(stack: Stack) -> None:
    """A fast shutdown."""
    stack.postgres.stop()


def postgres_start(stack: Stack) -> None:
    """Again, with its data."""
    stack.postgres.start()


def postgres_restart(stack: Stack) -> None:
    """At once."""
    stack.postgres.stop()
    stack.postgres.start()


def restore_backup(stack: Stack) -> None:
    """A backup, some load, and then the backup is put back as docs/operations.md says: with all
    servers stopped."""
    began = time.monotonic()
    folder = str(stack.folder / "backups")
    stack.fleet.command("backup", folder)
    time.sleep(WRITTEN_SECONDS)
    _together(stack, Instance.stop)
    stack.excused = (began - WRITTEN_SECONDS, time.monotonic())
    stack.fleet.command("restore", folder, "--force")
    start_all(stack)


# -- the disk of an instance
def fill_disk(stack: Stack) -> None:
    """Nothing more can be written to its folder: neither journal nor log."""
    instance = stack.fleet.instances[ON_DISK]
    if stack.own_disk:
        fill(instance.folder)
    else:
        _limit_files(instance, 0)


def empty_disk(stack: Stack) -> None:
    """There is room again."""
    instance = stack.fleet.instances[ON_DISK]
    if stack.own_disk:
        (instance.folder / "everything").unlink()
    else:
        _limit_files(instance, resource.RLIM_INFINITY)


def _limit_files(instance: Instance, size: int) -> None:
    assert instance.process is not None
    pid = instance.process.pid
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, most))


# -- the provider
def provider_answers(reply: Reply) -> Act:
    """Every request gets this reply."""

    def make(stack: Stack) -> None:
        stack.provider.default = reply

    return make


def provider_down(stack: Stack) -> None:
    """It resets every connection."""
    stack.provider.reset_on_accept = True
    stack.provider.close_idle()


def provider_well(stack: Stack) -> None:
    """It answers again."""
    stack.provider.reset_on_accept = False
    stack.provider.default = WELL
