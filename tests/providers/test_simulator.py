"""goblin-assistant simulate, as a real server over real sockets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner
from openai import OpenAI

from goblin_assistant.commands.simulate import simulate
from goblin_assistant.providers.base import BadResponse, ChatRequest, Overloaded, RateLimited
from goblin_assistant.providers.openai.provider import OpenAICompatibleProvider
from tests.conftest import ROOT

Start = Callable[..., str]
BODY = {"model": "echo", "messages": [{"role": "user", "content": "hello there"}]}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a simulator with these options and returns its address."""
    running: list[subprocess.Popen[str]] = []

    def run(*options: str) -> str:
        program = "from goblin_assistant.commands.simulate import simulate; simulate()"
        process = subprocess.Popen(
            [sys.executable, "-c", program, "--port", "0", *options],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={"PYTHONUNBUFFERED": "1"},
        )
        running.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        return line.split(" at ")[1].split()[0]

    yield run
    for process in running:
        process.terminate()
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()


def test_the_official_client_talks_to_it(start: Start) -> None:
    client = OpenAI(base_url=start("--model", "sim-1"), api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["sim-1"]
    whole = client.chat.completions.create(
        model="sim-1", messages=[{"role": "user", "content": "hello"}]
    )
    pieces = client.chat.completions.create(
        model="sim-1", messages=[{"role": "user", "content": "hello"}], stream=True
    )
    assert (
        "".join(piece.choices[0].delta.content or "" for piece in pieces)
        == whole.choices[0].message.content
    )
    assert len(client.embeddings.create(model="sim-1", input="hello").data[0].embedding) == 256
    client.close()


def test_its_faults_are_what_a_provider_row_takes_them_for(start: Start) -> None:
    expected = {
        "rate_limited": RateLimited,
        "overloaded": Overloaded,
        "bad_response": BadResponse,
        "cut": BadResponse,
    }
    for kind, error in expected.items():
        url = start(
            "--error-rate", "1", "--error-kind", kind, "--retry-after", "2.5", "--tokens", "20"
        )
        provider = OpenAICompatibleProvider("sim", url)
        with pytest.raises(error) as caught:
            list(provider.stream(ChatRequest("echo", {**BODY, "stream": True})))
        if kind == "rate_limited":
            assert caught.value.retry_after == 3
        provider.close()


def test_bad_requests_are_refused(start: Start) -> None:
    url = start()
    root = url.removesuffix("/v1")
    assert requests.get(f"{root}/health", timeout=60).json()["status"] == "ok"
    assert requests.post(f"{url}/chat/completions", data=b"{", timeout=60).status_code == 400
    assert requests.post(f"{url}/chat/completions", json=[], timeout=60).status_code == 400
    assert (
        requests.post(f"{url}/chat/completions", json={"messages": 3}, timeout=60).status_code
        == 400
    )
    assert requests.get(f"{url}/chat/completions", timeout=60).status_code == 405
    assert requests.post(f"{url}/completions", json=BODY, timeout=60).status_code == 404


@pytest.mark.parametrize(
    "options",
    [
        ["--latency", "often"],
        ["--latency", "uniform:2,1"],
        ["--error-rate", "2"],
        ["--error-kind", "boredom"],
        ["--tokens", "-1"],
        ["--tokens-per-second", "nan"],
        ["--model", ""],
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(options: list[str]) -> None:
    result = CliRunner().invoke(simulate, options)
    assert result.exit_code == 2
    assert options[0] in result.output
    assert "pydantic" not in result.output


def test_a_port_in_use_is_reported(start: Start) -> None:
    port = start().removesuffix("/v1").rsplit(":", 1)[1]
    done = subprocess.run(
        [sys.executable, "-m", "goblin_assistant", "simulate", "--port", port],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr == f"Error: cannot listen on 127.0.0.1:{port}: Address already in use\n"
