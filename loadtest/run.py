"""`make loadtest` or `python -m loadtest.run`: starts a server, load-tests it and stops it.

The server is the product with its limits raised, in front of a simulated provider that takes 0.4 s
for an answer (`[providers.sim]`, kind echo). `--find-multiple` finds the highest multiple of the
guide's rates that holds.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loadtest.schedule import multiple_of_rates
from loadtest.verdict import LAST_VERDICT

ROOT = Path(__file__).resolve().parent.parent
RAISED = "100000000 per minute"
LEAST_SECONDS = 5
STEP = 0.25
"""Multiples are searched in steps of this."""

TOML = """\
[providers.sim]
kind = "echo"
options = { latency = "lognormal:0.4,0.3" }
"""


def free_port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(**env: str) -> Iterator[str]:
    """Run a server in its own folder; yields its URL. `env` adds settings. Raises RuntimeError."""
    with tempfile.TemporaryDirectory(prefix="goblin-loadtest-") as name:
        folder = Path(name)
        (folder / "goblin.toml").write_text(TOML)
        port = free_port()
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": name,
            "PYTHONPATH": str(ROOT),
            "GOBLIN_ENV": "development",
            "GOBLIN_INSTANCE_DIR": str(folder / "instance"),
            "GOBLIN_PORT": str(port),
            "GOBLIN_DEFAULT_MODEL": "sim/echo",
            "RATELIMIT_AUTH": RAISED,
            "RATELIMIT_CHAT": RAISED,
            "RATELIMIT_HEALTH": RAISED,
            "RATELIMIT_DEFAULT": RAISED,
            "RATELIMIT_LOGIN_ACCOUNT": RAISED,
            **env,
        }
        log = folder / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "goblin_assistant", "serve"],
                cwd=folder,
                env=variables,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                url = f"http://127.0.0.1:{port}"
                end = time.monotonic() + 30
                while not _up(url):
                    if process.poll() is not None or time.monotonic() > end:
                        raise RuntimeError(
                            f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}"
                        )
                    time.sleep(0.02)
                yield url
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(40)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url + "/health/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def locust(url: str, *options: str, quiet: bool = False) -> tuple[int, dict[str, Any]]:
    """Run Locust without its web page; return its exit code and the verdict as JSON."""
    with tempfile.NamedTemporaryFile(suffix=".json") as verdict:
        command = [
            sys.executable, "-m", "locust", "-f", str(ROOT / "locustfile.py"), "--host", url,
            "--headless", "--only-summary", "--verdict-json", verdict.name, *options,
        ]  # fmt: skip
        kept = subprocess.DEVNULL if quiet else None
        process = subprocess.Popen(command, cwd=ROOT, stdout=kept, stderr=kept)
        try:
            code = process.wait()
        except (KeyboardInterrupt, SystemExit):
            process.terminate()  # it then prints a verdict on the answers so far
            process.wait()
            raise
        text = Path(verdict.name).read_text()
    return code, json.loads(text) if text else {}


def targets(
    url: str, seconds: int, multiple: float, *options: str, quiet: bool = False
) -> tuple[int, dict[str, Any]]:
    """Run the guide's rates, times `multiple`, for `seconds`."""
    return locust(
        url,
        "--scenario",
        "targets",
        "--multiple",
        str(multiple),
        "--run-time",
        f"{seconds}s",
        *options,
        quiet=quiet,
    )


def highest(holds: Callable[[float], bool], step: float = STEP, most: float = 64.0) -> float:
    """The highest multiple of `step` for which `holds` is true; 0.0 when it is false for 1.

    `holds` must be true below some point and false above it.
    """
    if not holds(1.0):
        return 0.0
    good, bad = 1.0, 2.0
    while holds(bad):
        good, bad = bad, bad * 2
        if bad > most:
            return good
    while bad - good > step:
        middle = round((good + bad) / 2 / step) * step
        if holds(middle):
            good = middle
        else:
            bad = middle
    return good


def find_multiple(
    seconds: int, say: Callable[[str], None], **env: str
) -> tuple[float, dict[float, dict[str, Any]]]:
    """The highest multiple that holds, and the last verdict of each multiple tried.

    A multiple that fails is tried twice: on a shared machine a single run may fail by accident.
    """
    tried: dict[float, dict[str, Any]] = {}

    def holds(multiple: float) -> bool:
        for _ in range(2):
            with server(**env) as url:
                code, verdict = targets(url, seconds, multiple, quiet=True)
            tried[multiple] = verdict
            shown = ", ".join(
                f"{row['title']} {row['rate']}/s p95 {row['p95_ms']} ms"
                for row in verdict.get("targets", [])
            )
            result = "holds" if code == 0 else "does not hold"
            say(f"{multiple:g} times the rates: {result} ({shown})")
            if code == 0:
                return True
        return False

    return highest(holds), tried


def main() -> int:
    """Return Locust's exit code: 1 when a target is missed or a request failed."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.run", description=__doc__)
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=30,
        help="length of the run (of each run, with --find-multiple)",
    )
    parser.add_argument(
        "--multiple", type=multiple_of_rates, default=1.0, help="multiple of the guide's rates"
    )
    parser.add_argument(
        "--find-multiple", action="store_true", help="find the highest multiple that holds"
    )
    parser.add_argument(
        "--html", type=Path, default=ROOT / ".make" / "loadtest.html", help="file for the report"
    )
    parser.add_argument("--cpu", default="", help="pin the server to this core")
    options = parser.parse_args()
    # SIGTERM must stop the server too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return _run(options)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _seconds(text: str) -> int:
    value = int(text)
    if value < LEAST_SECONDS:
        raise argparse.ArgumentTypeError(f"at least {LEAST_SECONDS}: the first two do not count")
    return value


def _run(options: argparse.Namespace) -> int:
    env = {"GOBLIN_CPU": options.cpu} if options.cpu else {}
    if options.find_multiple:
        found, _ = find_multiple(options.seconds, lambda line: print(line, flush=True), **env)
        print(f"The guide's targets hold together up to {found:g} times its rates.")
        return 0 if found >= 1 else 1
    options.html.parent.mkdir(parents=True, exist_ok=True)
    with server(**env) as url:
        code, verdict = targets(url, options.seconds, options.multiple, "--html", str(options.html))
    if verdict:
        last = ROOT / LAST_VERDICT
        last.parent.mkdir(exist_ok=True)
        last.write_text(json.dumps(verdict, indent=2) + "\n")
    print(f"Report: {options.html}")
    return code


if __name__ == "__main__":
    sys.exit(main())
