"""What `serve` sets in the operating system, each in its own process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Serve


def run(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from goblin_assistant.server import process as p\n" + code],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_malloc_takes_both_settings() -> None:
    assert run("print(p.limit_malloc())") == "True"
    assert (
        run("print(p.limit_malloc())", MALLOC_ARENA_MAX="4", MALLOC_MMAP_THRESHOLD_="65536")
        == "True"
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "glibc.malloc.tcache_count=0"),
        ({"GLIBC_TUNABLES": "glibc.malloc.perturb=0"}, "glibc.malloc.perturb=0"),
    ],
)
def test_serve_runs_without_malloc_caches_unless_the_operator_says_otherwise(
    serve: Serve, given: dict[str, str], expected: str
) -> None:
    server = serve(**given)
    environ = Path(f"/proc/{server.process.pid}/environ").read_bytes().split(b"\0")
    assert [value for value in environ if value.startswith(b"GLIBC_TUNABLES=")] == [
        f"GLIBC_TUNABLES={expected}".encode()
    ]


# The policies of a process's threads, by the kernel: 0 is the usual one, 3 is batch (sched(7)).
POLICIES = """
import os, threading
from pathlib import Path
threading.Thread(target=threading.Event().wait, daemon=True).start()
%s
threading.Thread(target=threading.Event().wait, daemon=True).start()
tasks = Path("/proc/self/task").iterdir()
print(done, sorted(os.sched_getscheduler(int(task.name)) for task in tasks))
"""


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="Linux only")
@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        ("os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})", "True [3, 3, 3]"),
        ("", "False [0, 0, 0]" if len(os.sched_getaffinity(0)) > 1 else "True [3, 3, 3]"),
        (  # the operator's own choice, here "idle", stays
            "p.pin_to_cpu(min(os.sched_getaffinity(0)));"
            " os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))",
            "False [0, 5, 5]",
        ),
    ],
)
def test_threads_on_one_core_do_not_push_each_other_off_it(prepare: str, expected: str) -> None:
    assert run(POLICIES % f"{prepare}\ndone = p.finish_before_switching()") == expected


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="Linux only")
def test_a_pinned_server_is_on_its_core_with_every_thread(serve: Serve) -> None:
    core = min(os.sched_getaffinity(0))
    server = serve(GOBLIN_CPU=str(core))
    threads = [int(task.name) for task in Path(f"/proc/{server.process.pid}/task").iterdir()]
    assert len(threads) > 30
    assert {
        (os.sched_getscheduler(thread), *os.sched_getaffinity(thread)) for thread in threads
    } == {(os.SCHED_BATCH, core)}


def test_the_soft_limit_of_open_files_is_raised_and_never_lowered() -> None:
    lower = (
        "import resource as r; hard = r.getrlimit(r.RLIMIT_NOFILE)[1]\n"
        "r.setrlimit(r.RLIMIT_NOFILE, (256, hard))\n"
    )
    soft = int(run(lower + "print(p.raise_descriptor_limit())"))
    assert soft > 256
    again = "a = p.raise_descriptor_limit(); b = p.raise_descriptor_limit(); print(a == b)"
    assert run(again) == "True"


def test_garbage_is_collected_after_the_start() -> None:
    assert run("import gc; gc.disable(); p.freeze_startup_objects(); print(gc.isenabled())") == (
        "True"
    )


def test_what_is_alive_at_the_start_is_not_collected_again() -> None:
    assert int(run("import gc; p.freeze_startup_objects(); print(gc.get_freeze_count())")) > 1000


def test_many_messages_do_not_start_a_collection_each() -> None:
    code = (
        "import gc; p.freeze_startup_objects()\n"
        "before = gc.get_stats()[0]['collections']\n"
        "made = [[] for _ in range(50_000)]\n"
        "print(gc.get_stats()[0]['collections'] - before)"
    )
    assert 0 < int(run(code)) <= 5
