"""What serve arranges with the operating system, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Serve


def run(code: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "from goblin_assistant import process_setup as p\n" + code],
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
    assert run("print(p.limit_malloc())", MALLOC_ARENA_MAX="4", MALLOC_MMAP_THRESHOLD_="65536") == "True"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "glibc.malloc.tcache_count=0"), ({"GLIBC_TUNABLES": "glibc.malloc.perturb=0"}, "glibc.malloc.perturb=0")],
)
def test_serve_runs_without_malloc_caches_unless_the_operator_says_otherwise(
    serve: Serve, given: dict[str, str], expected: str
) -> None:
    server = serve(**given)
    environ = Path(f"/proc/{server.process.pid}/environ").read_bytes().split(b"\0")
    assert [value for value in environ if value.startswith(b"GLIBC_TUNABLES=")] == [
        f"GLIBC_TUNABLES={expected}".encode()
    ]


def test_the_soft_limit_of_open_files_is_raised_and_never_lowered() -> None:
    lower = "import resource as r; hard = r.getrlimit(r.RLIMIT_NOFILE)[1]; r.setrlimit(r.RLIMIT_NOFILE, (256, hard))\n"
    soft = int(run(lower + "print(p.raise_descriptor_limit())"))
    assert soft > 256
    again = "a = p.raise_descriptor_limit(); b = p.raise_descriptor_limit(); print(a == b)"
    assert run(again) == "True"


def test_the_collector_rests_while_starting_and_runs_afterwards() -> None:
    code = "import gc; p.pause_garbage_collector(); a = gc.isenabled(); p.freeze_startup_objects(); print(a, gc.isenabled())"
    assert run(code) == "False True"


def test_what_is_alive_at_the_start_is_not_collected_again() -> None:
    assert int(run("import gc; p.freeze_startup_objects(); print(gc.get_freeze_count())")) > 1000
