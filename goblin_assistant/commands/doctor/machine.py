"""Checks of the machine: instance folder, disk, process limits, clock."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

from goblin_assistant.commands.doctor.context import Context
from goblin_assistant.commands.doctor.findings import Finding, failure, in_words, ok, warning
from goblin_assistant.server.connections import OTHER_CONNECTIONS, ROOM

MIB = 1024 * 1024
_DISK_FULL = 200 * MIB
_DISK_LOW = 2048 * MIB
_OTHER_FILES = 128
"""Open files besides client connections: database, Redis, providers, the log, Python itself."""
_ALL_CONNECTIONS = 8192
_CLOCK_WARNS = 2.0
_CLOCK_FAILS = 30.0


def folder(context: Context) -> Iterator[Finding]:
    """The instance folder is writable: the usage journal is there."""
    path = context.config.instance_dir
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".doctor-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        yield failure(
            "instance",
            f"{path} cannot be written: {in_words(error)}",
            f"Give the folder to the server's user (chown, chmod 700 {path}), "
            "or set GOBLIN_INSTANCE_DIR.",
        )
        return
    yield ok("instance", f"{path} can be written")


def disk(context: Context) -> Iterator[Finding]:
    """The file system of the instance folder has room."""
    try:
        found = os.statvfs(context.config.instance_dir)
    except OSError:
        return  # the line before says that there is no folder
    yield disk_line(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)


def disk_line(free: int, size: int) -> Finding:
    """The finding for `free` of `size` bytes."""
    shown = f"{free / MIB:,.0f} MiB free of {size / MIB:,.0f}"
    fix = "Make room: without it usage records are lost and SQLite stops."
    if free < _DISK_FULL:
        return failure("disk", shown, fix)
    if free < _DISK_LOW or (size and free / size < 0.05):
        return warning("disk", shown, fix)
    return ok("disk", shown)


def open_files(context: Context) -> Iterator[Finding]:
    """The limit on open files. The server raises it to the hard limit when it starts."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    most = _ALL_CONNECTIONS if hard == resource.RLIM_INFINITY else hard
    config = context.config
    # Below that server/serve.py lowers the number of chats at once.
    chats = config.slots + config.most_chats_waiting + OTHER_CONNECTIONS
    needed = config.threads * 2 + _OTHER_FILES + chats * ROOM // (ROOM - 1)
    fix = "Raise it: LimitNOFILE=16384 of systemd, --ulimit nofile=16384 of Docker, ulimit -Hn."
    shown = f"at most {most} open files in this shell"
    if most < needed:
        yield failure("open files", f"{shown}; {context.config.threads} threads need {needed}", fix)
    elif most < _ALL_CONNECTIONS:
        yield warning("open files", f"{shown}: fewer than {_ALL_CONNECTIONS} clients at once", fix)
    else:
        yield ok("open files", shown)


def processes(context: Context) -> Iterator[Finding]:
    """The limit on processes counts threads too."""
    hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    if hard != resource.RLIM_INFINITY and hard < context.config.threads + 64:
        yield failure(
            "processes",
            f"at most {hard} threads; the server starts {context.config.threads} and a few more",
            "Raise it: TasksMax= and LimitNPROC= of systemd, --pids-limit of Docker, ulimit -u.",
        )
    else:
        yield ok("processes", "enough for the server's threads")


def clock(context: Context) -> Iterator[Finding]:
    """Compare this machine's clock with those that other checks collected. Must run after them."""
    if not context.clocks:
        yield warning(
            "clock",
            "nothing to compare with",
            "Give --url, or see that the machine's clock is synchronised (timedatectl).",
        )
        return
    where, ahead = max(context.clocks, key=lambda one: abs(one[1]))
    fix = "Synchronise the clocks (chrony, systemd-timesyncd): tokens, limits and logs go by them."
    direction = "ahead of" if ahead > 0 else "behind"
    shown = f"{where} is {abs(ahead):.1f} s {direction} this machine"
    if abs(ahead) >= _CLOCK_FAILS:
        yield failure("clock", shown, fix)
    elif abs(ahead) >= _CLOCK_WARNS:
        yield warning("clock", shown, fix)
    else:
        names = ", ".join(name for name, _ in context.clocks)
        yield ok("clock", f"agrees with {names}")
