"""A secret is put wherever one can be, and appears nowhere."""

from __future__ import annotations

from pathlib import Path

import requests

from tests.conftest import Serve, wait_until
from tests.support.fake_upstream import CUT, FakeUpstream, Reply

MODELS = Reply.json(200, {"object": "list", "data": [{"id": "m", "object": "model"}]})
PROVIDER_KEY = "sk-canary-provider-0123456789abcdef"
PASSWORD = "canary-password-91b2"
BEARER = "gob_canary-bearer-5c3d"
WORDS = "canary-upstream-77aa"
CONTENT = "canary-content-e4e4"
SIGNING = "canary-signing-key-" + "x" * 32
IN_URL = "canary-in-url-8d8d"


def test_planted_secrets_appear_in_no_log_line_response_or_metric(
    serve: Serve, fake_upstream: FakeUpstream, tmp_path: Path
) -> None:
    fake_upstream.default = MODELS
    config = tmp_path / "goblin.toml"
    config.write_text(
        f'[providers.up]\nbase_url = "{fake_upstream.url}/v1"\napi_key_env = "UP_KEY"\nmodels = '
        f'["m"]\n'
        '[providers.gone]\nbase_url = "http://127.0.0.1:1/v1"\napi_key_env = "UP_KEY"\nmodels = '
        '["n"]\n'
    )
    server = serve(
        GOBLIN_CONFIG_FILE=str(config),
        UP_KEY=PROVIDER_KEY,
        SECRET_KEY=SIGNING,
        LOG_LEVEL="DEBUG",
        GOBLIN_RETRIES="0",
        REDIS_URL=f"redis://:{IN_URL}@127.0.0.1:1/0",
        CHROMA_URL=f"http://user:{IN_URL}@127.0.0.1:1",
    )
    seen: list[str] = []

    def call(method: str, path: str, **kwargs: object) -> requests.Response:
        answer = requests.request(  # type: ignore[arg-type]
            method, server.url + path, timeout=20, **kwargs
        )
        seen.append(answer.text + str(answer.headers))
        return answer

    headers = server.register(password=PASSWORD)
    wait_until(lambda: fake_upstream.requests)
    call("POST", "/auth/login", json={"email": "ada@example.com", "password": PASSWORD + "!"})
    call("POST", "/auth/register", json={"email": PASSWORD, "password": PASSWORD})
    call(
        "POST",
        "/auth/login",
        json={"email": "ada@example.com", "password": PASSWORD, "extra": PASSWORD},
    )
    call("POST", "/auth/login", data=f'{{"email": "a", "password": "{PASSWORD}')
    call("GET", "/usage", headers={"Authorization": f"Bearer {BEARER}"})
    call("GET", "/usage", headers={"Authorization": f"Basic {BEARER}"})
    call("GET", "/usage", headers={"x-api-key": BEARER})
    call(
        "GET",
        f"/nowhere?key={PROVIDER_KEY}&api_key={BEARER}",
        headers={"X-Correlation-ID": f"{BEARER} {{}}"},
    )
    chat = {"model": "up/m", "messages": [{"role": "user", "content": CONTENT}]}
    for status in (400, 401, 403, 404, 429, 500, 529):
        words = {
            "error": {
                "message": f"{WORDS} {PROVIDER_KEY}",
                "type": WORDS,
                "code": WORDS,
                "param": WORDS,
            }
        }
        fake_upstream.reply(Reply.json(status, words, {"X-Words": WORDS}))
        call("POST", "/v1/chat/completions", json=chat, headers=headers)
    fake_upstream.reply(Reply.plain(200, f"<html>{WORDS}</html>".encode(), "text/html"))
    call("POST", "/chat/completions", json=chat, headers=headers)
    fake_upstream.reply(
        Reply.sse([f'data: {{"error": {{"message": "{WORDS}", "code": "{WORDS}"}}}}\n\n'.encode()])
    )
    call("POST", "/chat/completions", json={**chat, "stream": True}, headers=headers)
    fake_upstream.reply(Reply.sse([f"data: {WORDS}".encode(), CUT]))
    call("POST", "/chat/completions", json={**chat, "stream": True}, headers=headers)
    call("POST", "/chat/completions", json={**chat, "model": "gone/n"}, headers=headers)
    call("GET", "/metrics")
    call("GET", "/health/all")
    call("GET", "/settings/", headers=headers)
    server.stop()

    everything = "\n".join(seen) + b"".join(server.output + server.errors).decode()
    assert len(seen) > 15
    assert "provider_call_failed" in everything
    token = headers["Authorization"].removeprefix("Bearer ")
    for secret in (PROVIDER_KEY, PASSWORD, BEARER, WORDS, CONTENT, SIGNING, IN_URL, token):
        assert secret not in everything, secret
