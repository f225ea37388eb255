"""The units of ops/systemd: read by systemd's own checker, and consistent with the settings.

No systemd is booted. What a unit starts is started by the tests, and rolling-restart.sh restarts
real servers through a stand-in for systemctl.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from goblin_assistant.config import Config
from tests.conftest import Serve, Server, free_port, wait_until
from tests.support.alert_rules import OPS, ROOT
from tests.support.services import find_binary

SYSTEMD = OPS / "systemd"
SERVICES = sorted(SYSTEMD.glob("*.service"))
UNITS = sorted([*SERVICES, *SYSTEMD.glob("*.timer"), *SYSTEMD.glob("*.target")])
SETTINGS = {Config.env_name(name) for name in Config.model_fields if name != "file"}
PROGRAMS = "/opt/goblin-assistant/bin/"
SCRIPT = SYSTEMD / "rolling-restart.sh"


def installed(folder: Path) -> Path:
    """The units as they would lie on a machine that has the programs."""
    programs = folder / "bin"
    programs.mkdir()
    for name in ("goblin-assistant", "locust"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    units = folder / "units"
    units.mkdir()
    for unit in UNITS:
        name = unit.name.replace("@.", "@1.")
        (units / name).write_text(unit.read_text().replace(PROGRAMS, f"{programs}/"))
    return units


def values(unit: Path, field: str) -> list[str]:
    """What a unit says after `field=`, with continued lines joined."""
    text = unit.read_text().replace("\\\n", "")
    return re.findall(rf"^{field}=(.*)$", text, re.M)


def environment(unit: Path) -> dict[str, str]:
    pairs = [pair for line in values(unit, "Environment") for pair in line.split()]
    return dict(pair.split("=", 1) for pair in pairs)


def test_systemd_reads_every_unit_without_a_word(tmp_path: Path) -> None:
    units = installed(tmp_path)
    for unit in sorted(units.iterdir()):
        done = subprocess.run(
            [find_binary("systemd-analyze"), "verify", "--man=no", f"./{unit.name}"],
            cwd=units,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), unit.name


def test_the_checker_finds_a_key_that_does_not_exist(tmp_path: Path) -> None:
    unit = tmp_path / "wrong.service"
    unit.write_text("[Service]\nExecStart=/bin/true\nTimeoutStopSecs=45\n")
    done = subprocess.run(
        [find_binary("systemd-analyze"), "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "TimeoutStopSecs" in done.stderr


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_a_service_is_exposed_below_2_of_10(unit: Path) -> None:
    done = subprocess.run(
        [
            *(find_binary("systemd-analyze"), "security", "--offline=true", "--no-pager"),
            *("--threshold=20", str(unit)),  # in tenths
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Overall exposure level" in done.stdout


def test_the_server_has_time_to_drain_and_only_its_main_process_gets_the_signal() -> None:
    defaults = Config.load(environ={"SECRET_KEY": "s" * 32}, dotenv=Path("/nonexistent"))
    drain = defaults.drain_delay_seconds + defaults.grace_seconds + 10
    for name in ("goblin-assistant.service", "goblin-assistant@.service"):
        unit = SYSTEMD / name
        assert int(values(unit, "TimeoutStopSec")[0]) >= drain
        assert values(unit, "KillMode") == ["mixed"]
        assert values(unit, "ExecReload") == ["/bin/kill -HUP $MAINPID"]
        assert values(unit, "RestartPreventExitStatus") == ["2"]


def test_every_variable_of_a_unit_is_a_setting_and_folders_are_its_own() -> None:
    for unit in SERVICES:
        assert set(environment(unit)) - SETTINGS == set(), unit.name
        (folder,) = values(unit, "StateDirectory")
        if "GOBLIN_INSTANCE_DIR" in environment(unit):
            assert environment(unit)["GOBLIN_INSTANCE_DIR"] == f"/var/lib/{folder}"
        assert values(unit, "User") == values(unit, "Group") == ["goblin-assistant"]


def test_both_forms_of_the_server_may_do_the_same() -> None:
    one, template = (
        (SYSTEMD / name).read_text().split("# What it may do.")[1].split("[Install]")[0]
        for name in ("goblin-assistant.service", "goblin-assistant@.service")
    )
    assert one == template


def test_every_timer_has_its_service_and_is_installed() -> None:
    timers = sorted(SYSTEMD.glob("*.timer"))
    assert len(timers) == 3
    for timer in timers:
        assert timer.with_suffix(".service").exists()
        assert values(timer, "WantedBy") == ["timers.target"]
        calendar = values(timer, "OnCalendar")[0]
        subprocess.run(
            [find_binary("systemd-analyze"), "calendar", calendar],
            check=True,
            capture_output=True,
            timeout=60,
        )


@pytest.mark.parametrize("number", [1, 2, 12])
def test_an_instance_has_its_own_core_and_ports(number: int, tmp_path: Path) -> None:
    program = tmp_path / "goblin-assistant"
    program.write_text('#!/bin/sh\necho "$GOBLIN_CPU $GOBLIN_PORT $GOBLIN_METRICS_PORT $1"\n')
    program.chmod(0o755)
    (line,) = values(SYSTEMD / "goblin-assistant@.service", "ExecStart")
    line = line.replace("%i", str(number)).replace("$$", "$").replace(PROGRAMS, f"{tmp_path}/")
    shown = subprocess.run(line, shell=True, check=True, capture_output=True, text=True).stdout
    assert shown == f"{number - 1} {8000 + number} {9000 + number} serve\n"


def test_the_commands_of_the_timers_exist() -> None:
    for name, expected in (("goblin-assistant-usage-prune.service", "--older-than"),):
        (line,) = values(SYSTEMD / name, "ExecStart")
        words = line.removeprefix(f"{PROGRAMS}goblin-assistant ").split()
        command = words[: next(i for i, word in enumerate(words) if word.startswith("--"))]
        shown = subprocess.run(
            [sys.executable, "-m", "goblin_assistant", *command, "--help"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        ).stdout
        assert expected in words
        assert expected in shown


DENY = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)
"""What MemoryDenyWriteExecute= does, by the kernel's own means (PR_SET_MDWE, Linux 6.3)."""


def test_the_server_runs_without_memory_that_is_writable_and_executable(tmp_path: Path) -> None:
    code = "import ctypes, sys; sys.exit(ctypes.CDLL(None).prctl(66, 0, 0, 0, 0) != 1)"
    told = subprocess.run([sys.executable, "-c", DENY, sys.executable, "-c", code], check=False)
    if told.returncode:
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3)")
    port = free_port()
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", DENY, sys.executable, "-m", "goblin_assistant", "serve"],
            cwd=tmp_path,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
                "GOBLIN_ENV": "development",
                "GOBLIN_PORT": str(port),
            },
            stdout=output,
            stderr=output,
        )
        url = f"http://127.0.0.1:{port}"

        def up() -> bool:
            assert process.poll() is None, (tmp_path / "output").read_text()
            try:
                return requests.get(f"{url}/health/live", timeout=60).status_code == 200
            except requests.RequestException:
                return False

        try:
            wait_until(up, 60, "the server")
            account = {"email": "ada@example.com", "password": "correct horse battery"}
            made = requests.post(f"{url}/auth/register", json=account, timeout=30)
            assert made.status_code in (200, 201)  # hashes a password, writes to SQLite
        finally:
            process.terminate()
            assert process.wait(60) == 0


class StandIn:
    """Answers what the stand-in for systemctl asks: `restart UNIT` by `restart(number)`."""

    def __init__(self, folder: Path) -> None:
        self.restart: Callable[[int], None] = lambda number: None
        self.restarted: list[int] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                number = int(re.findall(r"@(\d+)\.service", self.path)[0])
                outer.restarted.append(number)
                outer.restart(number)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.program = folder / "systemctl"
        port = self._server.server_address[1]
        self.program.write_text(
            "#!/bin/sh\nset -eu\n"
            'if [ "$1" = list-units ]; then\n'
            '  for n in 2 1; do echo "goblin-assistant@$n.service loaded active running x"; done\n'
            f"else\n  exec curl -sf --noproxy '*' \"http://127.0.0.1:{port}/$1/$2\"\nfi\n"
        )
        self.program.chmod(0o755)

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join(30)
        self._server.server_close()


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[StandIn]:
    """A stand-in for systemctl."""
    found = StandIn(tmp_path)
    yield found
    found.stop()


def rolling_restart(
    stand_in: StandIn, base: int, *numbers: str, wait: str = "60"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), *numbers],
        env={
            "PATH": os.environ["PATH"],
            "SYSTEMCTL": str(stand_in.program),
            "BASE_PORT": str(base),
            "READY_SECONDS": wait,
            "SETTLE_SECONDS": "0",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )


def free_ports_behind() -> int:
    """A number whose two successors are free ports."""
    while True:
        base = free_port()
        try:
            for port in (base + 1, base + 2):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return base


def two_servers(serve: Serve) -> tuple[int, dict[int, Server]]:
    """Servers on ports `base + 1` and `base + 2`, both ready."""
    find_binary("curl")
    base = free_ports_behind()
    servers = {n: serve(GOBLIN_PORT=str(base + n)) for n in (1, 2)}
    for server in servers.values():
        wait_until(lambda url=server.url: ready(url), 30, "readiness")
    return base, servers


def ready(url: str) -> bool:
    return requests.get(f"{url}/health/ready", timeout=60).status_code == 200


def test_instances_are_restarted_one_by_one_and_the_rest_goes_on_when_one_stays_away(
    serve: Serve, stand_in: StandIn
) -> None:
    base, servers = two_servers(serve)
    others_ready = []

    def restart(number: int) -> None:
        others_ready.append(ready(servers[3 - number].url))
        assert servers[number].stop() == 0
        servers[number] = serve(wait=False, GOBLIN_PORT=str(base + number))

    stand_in.restart = restart
    before = {number: server.process.pid for number, server in servers.items()}
    done = rolling_restart(stand_in, base)
    assert done.returncode == 0, done.stderr
    assert stand_in.restarted == [1, 2]
    assert others_ready == [True, True]
    for number, server in servers.items():
        assert server.process.pid != before[number]
        assert ready(server.url)

    def stop_only(number: int) -> None:
        servers[number].stop()

    stand_in.restart, stand_in.restarted = stop_only, []
    done = rolling_restart(stand_in, base, "1", "2", wait="1")
    assert done.returncode == 1
    assert "instance 1 was not ready within 1 s; stopped here" in done.stderr
    assert stand_in.restarted == [1]
    assert ready(servers[2].url)
    # And with one that is down already, nothing is touched.
    stand_in.restarted = []
    done = rolling_restart(stand_in, base, "2", "1")
    assert done.returncode == 1
    assert "instance 1 is not ready; nothing was restarted" in done.stderr
    assert stand_in.restarted == []


def test_the_script_refuses_what_is_no_instance(stand_in: StandIn) -> None:
    done = rolling_restart(stand_in, 1, "goblin-assistant@1")
    assert done.returncode == 2
    assert stand_in.restarted == []
