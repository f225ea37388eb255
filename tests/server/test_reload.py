"""SIGHUP to a real server: it reloads a part of its configuration, or keeps all of the old one, and
opens its log file again."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import requests

from goblin_assistant.config import Config
from goblin_assistant.server.reload import LIMITS, Hangup, restart_needed
from tests.conftest import ROOT, Serve, Server, wait_until
from tests.support.fake_upstream import SILENCE, FakeUpstream, Reply, unused_url
from tests.support.real_server import start
from tests.support.services import find_binary
from tests.support.wire_bodies import openai_events

OPENAI = {"OPENAI_API_KEY": "sk-canary-before", "OPENAI_BASE_URL": unused_url()}
USAGE = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}

BEFORE = """
[aliases]
best = "openai/gpt-4o"

[prices."openai/*"]
input = 100
output = 100

[limits]
chat = "50 per minute"
auth = "40 per minute"
"""

AFTER = """
[aliases]
best = "echo/echo"

[chains]
safe = ["openai/gpt-4o", "echo/echo"]

[prices."openai/*"]
input = 1
output = 1

[limits]
chat = "70 per minute"
auth = "60 per minute"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """goblin.toml with the contents of before."""
    path = tmp_path / "goblin.toml"
    path.write_text(BEFORE)
    return path


def reload(server: Server, message: str) -> dict[str, Any]:
    """Send SIGHUP; the line that says how the reload ended."""
    known = len(server.log_lines(message))
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(server.log_lines(message)) > known, 10, message)
    return server.log_lines(message)[-1]


def chat(server: Server, headers: dict[str, str], model: str = "best") -> requests.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
    return requests.post(server.url + "/chat/completions", json=body, headers=headers, timeout=30)


def limit_of(response: requests.Response) -> str:
    return response.headers["X-RateLimit-Limit"]


def test_a_reload_applies_to_the_next_chat_and_a_stream_ends_by_the_old_values(
    serve: Serve, fake_upstream: FakeUpstream, file: Path
) -> None:
    server = start(serve, fake_upstream, GOBLIN_CONFIG_FILE=str(file), RATELIMIT_ENABLED="true")
    headers = server.register()
    events = openai_events(usage=USAGE)
    fake_upstream.reply(Reply.sse([events[0], SILENCE, *events[1:]]))
    body = {"model": "best", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
    with requests.post(
        server.url + "/chat/completions", json=body, headers=headers, stream=True, timeout=30
    ) as stream:
        pieces = stream.iter_lines()
        next(pieces)  # it has begun
        assert limit_of(stream) == "50"
        file.write_text(AFTER)
        line = reload(server, "configuration_reloaded")
        assert line["changed"] == [
            "aliases", "chains", "prices", "limits", "RATELIMIT_AUTH", "RATELIMIT_CHAT",
        ]  # fmt: skip
        answer = chat(server, headers)
        assert answer.headers["X-Goblin-Provider"] == "echo"
        assert limit_of(answer) == "70"
        fake_upstream.release()
        assert b"data: [DONE]" in list(pieces)
    identity = stream.headers["X-Correlation-ID"]
    record = server.wait_for_line("chat_completed", correlation_id=identity)
    assert record["provider"] == "openai"
    assert record["cost_usd"] == 0.0017
    fake_upstream.reply(Reply.sse(openai_events(usage=USAGE)))
    after = requests.post(
        server.url + "/chat/completions",
        json={**body, "model": "safe"}, headers=headers, timeout=30,
    )  # fmt: skip
    assert after.headers["X-Goblin-Provider"] == "openai"
    identity = after.headers["X-Correlation-ID"]
    record = server.wait_for_line("chat_completed", correlation_id=identity)
    assert record["cost_usd"] == 0.000017
    login = requests.post(
        server.url + "/auth/login", json={"email": "a@b.com", "password": "x" * 12}, timeout=30
    )
    assert limit_of(login) == "60"
    listed = requests.get(server.url + "/v1/models", headers=headers, timeout=30).json()
    assert "safe" in [model["id"] for model in listed["data"]]
    metrics = server.metrics()
    assert metrics['config_reloads_total{result="ok"}'] == 1
    assert metrics["config_last_reload_successful"] == 1
    assert server.stop() == 0


WRONG: dict[str, tuple[str, str]] = {
    "no TOML": (AFTER + "\n[aliases", "not TOML"),
    "an unknown table": (AFTER + "\n[alias]\nx = 'echo'\n", "alias"),
    "a route to nowhere": (AFTER.replace("echo/echo", "absent/m"), "there is no provider 'absent'"),
    "a limit": (AFTER.replace("70 per minute", "seventy"), "accepted: '<count> per"),
    "a price": (AFTER.replace("input = 1", "input = -1"), "greater than or equal to 0"),
}


@pytest.mark.parametrize("kind", [*WRONG, "the file is gone"])
def test_a_wrong_file_changes_nothing(serve: Serve, file: Path, kind: str) -> None:
    file.write_text(AFTER)
    server = serve(GOBLIN_CONFIG_FILE=str(file), RATELIMIT_ENABLED="true", **OPENAI)
    headers = server.register()
    assert limit_of(chat(server, headers)) == "70"
    if kind in WRONG:
        text, said = WRONG[kind]
        file.write_text(text.replace("70 per", "90 per"))
    else:
        file.unlink()
        said = "does not exist any more"
    line = reload(server, "configuration_not_reloaded")
    assert line["level"] == "ERROR"
    assert said in " ".join(line["problems"])
    answer = chat(server, headers)
    assert (answer.status_code, limit_of(answer)) == (200, "70")
    metrics = server.metrics()
    assert metrics['config_reloads_total{result="failed"}'] == 1
    assert metrics["config_last_reload_successful"] == 0
    file.write_text(AFTER)
    reload(server, "configuration_reloaded")
    assert server.metrics()["config_last_reload_successful"] == 1


def test_what_needs_a_restart_is_named_and_not_applied(serve: Serve, file: Path) -> None:
    server = serve(GOBLIN_CONFIG_FILE=str(file), **OPENAI)
    row = '[providers.late]\nkind = "echo"\n'
    file.write_text(BEFORE + row)
    folder = Path(f"/proc/{server.process.pid}/cwd")
    (folder / ".env").write_text(
        "GOBLIN_RETRIES=1\nTEAM_LLM_KEY=sk-canary-after\nRATELIMIT_DEFAULT=7 per minute\n"
    )
    reload(server, "configuration_reloaded")
    line = server.wait_for_line("restart_needed")
    assert line["level"] == "WARNING"
    assert line["changed"] == ["GOBLIN_RETRIES", "TEAM_LLM_KEY", "providers.late"]
    assert server.wait_for_line("configuration_reloaded")["changed"] == ["RATELIMIT_DEFAULT"]
    assert chat(server, server.register(), "late/echo").status_code == 404
    file.write_text(BEFORE.replace("openai/gpt-4o", "late/echo") + row)
    problems = " ".join(reload(server, "configuration_not_reloaded")["problems"])
    assert "providers.late: a provider row needs a restart" in problems
    assert "sk-canary" not in b"".join(server.output).decode()


def test_a_log_file_that_logrotate_moves_away_loses_no_line(serve: Serve, tmp_path: Path) -> None:
    logrotate = find_binary("logrotate")
    folder = tmp_path / "log"
    folder.mkdir()
    path = folder / "goblin.log"
    server = serve(GOBLIN_LOG_FILE=str(path))
    text = (ROOT / "ops" / "logging" / "logrotate.conf").read_text()
    command = "systemctl kill --signal=HUP --kill-whom=main goblin-assistant.service"
    assert text.count(command) == 1
    config = tmp_path / "logrotate.conf"
    config.write_text(
        text.replace("/var/log/goblin-assistant", str(folder)).replace(
            command, f"kill -HUP {server.process.pid}"
        )
    )
    config.chmod(0o644)
    identities = []
    for turn in range(3):
        for number in range(5):
            identity = f"turn-{turn}-{number}"
            requests.get(server.url + "/health", headers={"X-Correlation-ID": identity}, timeout=60)
            identities.append(identity)
        wait_until(lambda: identities[-1] in path.read_text())
        if turn < 2:
            subprocess.run(
                [logrotate, "--force", "--state", str(tmp_path / "state"), str(config)],
                check=True, timeout=30,
            )  # fmt: skip
            wait_until(lambda: path.exists() and "log_file_reopened" in path.read_text())
    assert server.stop() == 0
    names = sorted(entry.name for entry in folder.iterdir())
    assert names == ["goblin.log", "goblin.log.1", "goblin.log.2.gz"]
    found = subprocess.run(
        [sys.executable, "-m", "goblin_assistant", "explain", "turn-0-4"]
        + [part for name in names for part in ("--logs", str(folder / name))],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, "GOBLIN_ENV": "development"},
    )  # fmt: skip
    assert "request_completed" in found.stdout
    logged = subprocess.run(
        ["zcat", "-f", *(str(folder / name) for name in names)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    seen = [json.loads(line)["correlation_id"] for line in logged.splitlines()]
    assert sorted(one for one in seen if one.startswith("turn-")) == sorted(identities)


def test_sigusr1_is_ignored_and_sighup_during_the_start_ends_nothing(serve: Serve) -> None:
    server = serve(wait=False)
    wait_until(lambda: survives(server, signal.SIGUSR1) and survives(server, signal.SIGHUP), 20)
    server.process.send_signal(signal.SIGHUP)
    server.process.send_signal(signal.SIGUSR1)
    server.wait_for_line("server_started", 20)
    reload(server, "configuration_reloaded")
    server.process.send_signal(signal.SIGUSR1)
    assert requests.get(server.url + "/health/live", timeout=60).status_code == 200
    assert server.stop() == 0


def survives(server: Server, number: signal.Signals) -> bool:
    """Whether the process ignores or handles a signal."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    masks = dict(line.split(":\t") for line in status.splitlines() if line.startswith("Sig"))
    mask = int(masks["SigIgn"], 16) | int(masks["SigCgt"], 16)
    return bool(mask & (1 << (number - 1)))


def test_many_hangups_in_a_row_end_in_one_that_is_done(serve: Serve, file: Path) -> None:
    server = serve(GOBLIN_CONFIG_FILE=str(file), RATELIMIT_ENABLED="true", **OPENAI)
    headers = server.register()
    for number in range(20, 60):
        file.write_text(BEFORE.replace("50 per", f"{number} per"))
        server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: limit_of(chat(server, headers, "echo")) == "59")


class HangupDuringStart:
    """A reloader that gets the next SIGHUP while it begins its first reload."""

    def __init__(self) -> None:
        self.started = 0

    def start(self) -> bool:
        self.started += 1
        if self.started == 1:
            signal.raise_signal(signal.SIGHUP)
        return True


def test_a_hangup_while_a_reload_begins_is_not_lost() -> None:
    reloader = HangupDuringStart()
    hangup = Hangup(cast(Any, reloader), cast(Any, None), wake=lambda: None)
    before = signal.getsignal(signal.SIGHUP)
    try:
        hangup.handle_signal()
        signal.raise_signal(signal.SIGHUP)
        for _ in range(3):
            hangup.turn()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert reloader.started == 2


def test_a_server_in_a_terminal_ends_when_the_terminal_is_closed(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "goblin_assistant", "serve", "--port", "0"],
        cwd=tmp_path,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "GOBLIN_ENV": "development"},
        start_new_session=True,
        preexec_fn=take_terminal,
    )
    os.close(theirs)
    assert process.stdout is not None
    try:
        while json.loads(process.stdout.readline())["message"] != "server_started":
            pass
        os.close(ours)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.stdout.close()


def take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_every_setting_is_either_reloaded_or_named(tmp_path: Path) -> None:
    def load(**environ: str) -> Config:
        return Config.load(environ={"GOBLIN_ENV": "development", **environ}, dotenv=tmp_path / "x")

    changed: dict[str, Callable[[], Config]] = {
        "GOBLIN_RETRIES": lambda: load(GOBLIN_RETRIES="1"),
        "CORS_ORIGINS": lambda: load(CORS_ORIGINS="https://a.example"),
        "OPENAI_API_KEY": lambda: load(OPENAI_API_KEY="sk-1"),
    }
    for name, make in changed.items():
        assert restart_needed(load(), make()) == [name]
    limits = {name for name in Config.model_fields if name.startswith("ratelimit_")}
    assert limits - set(LIMITS) == {"ratelimit_enabled", "ratelimit_storage_uri"}
