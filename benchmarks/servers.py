"""The measured servers, before one upstream: bare functions, the product, LiteLLM's proxy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.native import free_port, http_request
from benchmarks.processes import Server

ROOT = Path(__file__).resolve().parent.parent
THREADS = 160
"""For every waitress here: more threads than connections, so that none waits."""
PYTHON = sys.executable
"""Of the product and of the bare functions. benchmarks/run.py sets it (installation.py)."""
ORIGIN = "https://app.example.com"
EMAIL, PASSWORD = "bench@example.com", "correct horse battery staple"
LITELLM = "litellm[proxy]==1.106.2"
LITELLM_KEY = "sk-bench-master-key"

MESSAGES = [
    {
        "role": "system",
        "content": "You are a helpful assistant. Answer in one sentence and do not make things up.",
    },
    {
        "role": "user",
        "content": "Which animal jumps over the lazy dog in the well-known sentence "
        "with every letter?",
    },
]


def chat_body(model: str, *, stream: bool = False) -> bytes:
    """A short chat."""
    body: dict[str, Any] = {
        "model": model,
        "messages": MESSAGES,
        "temperature": 0.7,
        "max_tokens": 100,
    }
    if stream:
        body["stream"] = True
    return json.dumps(body, separators=(",", ":")).encode()


def bare(
    kind: str,
    upstream_port: int,
    folder: Path,
    core: int | None,
    *,
    name: str = "",
    threads: int = THREADS,
) -> Server:
    """A bare function (bare.py)."""
    port = free_port()
    command = [
        PYTHON,
        "-m",
        "benchmarks.bare",
        kind,
        str(port),
        str(upstream_port),
        str(threads),
    ]
    ready = "/health" if kind == "flask" else "/"
    return Server(
        name or f"bare {kind}", command, port=port, ready_path=ready,
        folder=folder / (name or f"bare-{kind}"), core=core, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def goblin(
    upstream_port: int,
    folder: Path,
    core: int | None,
    *,
    name: str = "goblin",
    threads: int = THREADS,
    rows: str = "",
    **extra: str,
) -> Server:
    """The product with all features on: limits (huge), CORS, JSON log to a file, metrics, usage
    records in SQLite.

    `rows` is more text of goblin.toml, `extra` are more settings.
    """
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    (place / "goblin.toml").write_text(
        f'[providers.bench]\nbase_url = "http://127.0.0.1:{upstream_port}/v1"\n'
        'api_key = "sk-bench-upstream-key"\n'
        'models = ["bench"]\n\n[prices."bench/bench"]\ninput = 1.0\noutput = 2.0\n' + rows
    )
    port = free_port()
    huge = "100000000 per minute"
    env = {
        "PYTHONPATH": str(ROOT),
        "GOBLIN_ENV": "development",
        "GOBLIN_INSTANCE_DIR": str(place / "instance"),
        "GOBLIN_PORT": str(port),
        "GOBLIN_THREADS": str(threads),
        "GOBLIN_ACCESS_TOKEN_SECONDS": "86400",
        "CORS_ORIGINS": ORIGIN,
        "LOG_LEVEL": "INFO",
        "RATELIMIT_AUTH": huge,
        "RATELIMIT_CHAT": huge,
        "RATELIMIT_HEALTH": huge,
        "RATELIMIT_DEFAULT": huge,
        "RATELIMIT_LOGIN_ACCOUNT": huge,
        **extra,
    }
    command = [PYTHON, "-m", "goblin_assistant", "serve"]
    return Server(
        name, command, port=port, ready_path="/health/live", folder=place, core=core, env=env
    )


@dataclass(frozen=True, slots=True)
class Credentials:
    """An account's credentials on a running product."""

    token: str
    key: str
    refresh_token: str


def register(port: int, email: str = EMAIL) -> Credentials:
    """Create an account and a key."""
    body = {"email": email, "password": PASSWORD}
    _post(port, "/auth/register", body)
    pair = _post(port, "/auth/login", body)
    token = pair["access_token"]
    return Credentials(token, another_key(port, token), pair["refresh_token"])


def another_key(port: int, token: str, **limits: Any) -> str:
    """Create one more API key; `limits` are fields of POST /auth/keys."""
    made = _post(port, "/auth/keys", {"name": "bench", **limits}, token)
    return str(made["key"])


def limited_key(port: int, token: str) -> str:
    """A key that has every limit, none of which is ever reached."""
    return another_key(
        port,
        token,
        monthly_budget_usd="900000000",
        requests_per_minute=100_000_000,
        tokens_per_minute=1_000_000_000,
        max_concurrency=10_000,
    )


def many_callers(port: int, *, users: int = 20, each: int = 50) -> list[str]:
    """`users` times `each` credentials of as many accounts: half API keys, half access tokens."""
    found = []
    for user in range(users):
        one = register(port, f"caller{user}@example.com")
        found += [one.token, one.key]
        refresh = one.refresh_token
        for _ in range(each // 2 - 1):
            renewed = _post(port, "/auth/refresh", {"refresh_token": refresh})
            refresh = renewed["refresh_token"]
            found += [renewed["access_token"], another_key(port, one.token)]
    return found


def _post(port: int, path: str, body: Mapping[str, Any], token: str = "") -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        data=json.dumps(body).encode(),
        headers={
            "Content-Type": "application/json",
            **({"Authorization": f"Bearer {token}"} if token else {}),
        },
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        result: dict[str, Any] = json.load(answer)
    return result


def chat_by(credential: str, *, host: str = "127.0.0.1") -> bytes:
    """A chat with a token or an API key."""
    headers = {"Authorization": f"Bearer {credential}", "Origin": ORIGIN}
    return http_request(
        "POST", "/v1/chat/completions", headers, chat_body("bench/bench"), host=host
    )


def goblin_requests(credentials: Credentials) -> dict[str, bytes]:
    """Requests to the product, as a browser's front end sends them: an Origin makes CORS work."""
    by_key = {"Authorization": f"Bearer {credentials.key}", "Origin": ORIGIN}
    login = json.dumps({"email": EMAIL, "password": PASSWORD}).encode()
    return {
        "chat": chat_by(credentials.token),
        "chat, API key": chat_by(credentials.key),
        "stream": http_request(
            "POST", "/v1/chat/completions", by_key, chat_body("bench/bench", stream=True)
        ),
        "echo": http_request("POST", "/v1/chat/completions", by_key, chat_body("echo/echo")),
        "health": http_request("GET", "/health", {"Origin": ORIGIN}),
        "login": http_request("POST", "/auth/login", {"Origin": ORIGIN}, login),
    }


def bare_requests() -> dict[str, bytes]:
    """Requests to the bare function."""
    return {
        "chat": http_request("POST", "/v1/chat/completions", {}, chat_body("bench")),
        "stream": http_request("POST", "/v1/chat/completions", {}, chat_body("bench", stream=True)),
    }


def litellm_venv(cache: Path, given: Path | None) -> Path:
    """A virtual environment with LiteLLM's proxy: the given one, or one created once in `cache`.

    Raises CalledProcessError.
    """
    if given is not None:
        return given
    place = cache / "litellm"
    if not (place / "bin" / "litellm").exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        subprocess.run([str(place / "bin" / "pip"), "install", "--quiet", LITELLM], check=True)
    return place


def litellm_version(venv: Path) -> str:
    """The installed version."""
    code = "import importlib.metadata as m; print(m.version('litellm'))"
    return subprocess.run(
        [str(venv / "bin" / "python"), "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def litellm(
    venv: Path, upstream_port: int, folder: Path, core: int | None, *, name: str = "litellm"
) -> Server:
    """LiteLLM's proxy: one worker, a master key, no database. In production it does more."""
    # LiteLLM imports from two folders above the one that it is started in: not from the machine's
    # folder of temporary files, where anything may lie.
    place = folder / name / "proxy" / "config"
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.yaml").write_text(
        "model_list:\n  - model_name: bench\n    litellm_params:\n      model: openai/bench\n"
        f"      api_base: http://127.0.0.1:{upstream_port}/v1\n"
        "      api_key: sk-bench-upstream-key\n"
        f"litellm_settings:\n  telemetry: false\ngeneral_settings:\n  master_key: {LITELLM_KEY}\n"
    )
    port = free_port()
    command = [
        str(venv / "bin" / "litellm"), "--config", "config.yaml", "--host", "127.0.0.1",
        "--port", str(port), "--num_workers", "1",
    ]  # fmt: skip
    env = {
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it fetches its prices from the network
        "LITELLM_MODE": "PRODUCTION",
        "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
    }
    return Server(
        name,
        command,
        port=port,
        ready_path="/health/liveliness",
        folder=place,
        core=core,
        env=env,
    )


def litellm_requests() -> dict[str, bytes]:
    """Requests to LiteLLM."""
    headers = {"Authorization": f"Bearer {LITELLM_KEY}"}
    return {
        "chat": http_request("POST", "/v1/chat/completions", headers, chat_body("bench")),
        "stream": http_request(
            "POST", "/v1/chat/completions", headers, chat_body("bench", stream=True)
        ),
        "health": http_request("GET", "/health/liveliness", {}),
    }
