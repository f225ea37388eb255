"""Two instances of the product, one the other's OpenAI-compatible provider: a real upstream."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from tests.conftest import Serve, Server, wait_until

HELLO = {"messages": [{"role": "user", "content": "hello there"}]}


@pytest.fixture
def chain(serve: Serve, tmp_path: Path) -> tuple[Server, Server]:
    back = serve()
    headers = back.register()
    key = requests.post(
        back.url + "/auth/keys", json={"name": "front"}, headers=headers, timeout=10
    ).json()["key"]
    config = tmp_path / "front.toml"
    config.write_text(f'[providers.back]\nbase_url = "{back.url}/v1"\napi_key_env = "BACK_KEY"\n')
    front = serve(GOBLIN_CONFIG_FILE=str(config), BACK_KEY=key)
    return front, back


@pytest.mark.parametrize("stream", [False, True])
def test_the_correlation_id_is_the_same_in_both_logs(
    chain: tuple[Server, Server], stream: bool
) -> None:
    front = chain[0]
    headers = {**front.register(), "X-Correlation-ID": f"chained-{stream}"}
    body = {
        **HELLO,
        "model": "back/echo/echo",
        "stream": stream,
        "stream_options": {"include_usage": True},
    }
    if not stream:
        del body["stream_options"]
    answer = requests.post(
        front.url + "/v1/chat/completions", json=body, headers=headers, timeout=20
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Correlation-ID"] == f"chained-{stream}"
    assert answer.headers["X-Goblin-Provider"] == "back"
    if stream:
        assert answer.text.endswith("data: [DONE]\n\n")
        assert answer.text.count("[DONE]") == 1
    for server in chain:
        server.wait_for_line(
            "request_completed", path="/v1/chat/completions", correlation_id=f"chained-{stream}"
        )
    tokens = [
        (line["prompt_tokens"], line["completion_tokens"], line["token_source"])
        for line in (
            s.wait_for_line("chat_completed", correlation_id=f"chained-{stream}") for s in chain
        )
    ]
    assert tokens[0] == tokens[1], "both bill the same tokens"
    assert tokens[0][2] == "provider"


def test_the_front_learns_the_backs_models_and_their_prices_stay_unknown(
    chain: tuple[Server, Server],
) -> None:
    front, _ = chain
    headers = front.register()

    def listed() -> bool:
        data = requests.get(front.url + "/v1/models", headers=headers, timeout=60).json()["data"]
        return "back/echo/echo" in [model["id"] for model in data]

    wait_until(listed)


def test_a_limit_of_the_back_is_the_fronts_providers_limit(serve: Serve, tmp_path: Path) -> None:
    back = serve(RATELIMIT_ENABLED="true", RATELIMIT_CHAT="1 per minute")
    key = requests.post(
        back.url + "/auth/keys", json={"name": "f"}, headers=back.register(), timeout=10
    ).json()["key"]
    config = tmp_path / "front.toml"
    config.write_text(
        f'[providers.back]\nbase_url = "{back.url}/v1"\napi_key_env = "BACK_KEY"\nmodels = '
        f'["echo"]\n'
    )
    front = serve(GOBLIN_CONFIG_FILE=str(config), BACK_KEY=key)
    headers = front.register()
    body = {**HELLO, "model": "back/echo"}
    assert (
        requests.post(
            front.url + "/chat/completions", json=body, headers=headers, timeout=20
        ).status_code
        == 200
    )
    refused = requests.post(front.url + "/chat/completions", json=body, headers=headers, timeout=60)
    assert refused.status_code == 503
    assert refused.json()["error"] == "provider_rate_limited"
    assert refused.json()["source"] == "provider"
    # Longer than GOBLIN_RETRY_AFTER_CAP: passed on, not waited for.
    assert 10 < int(refused.headers["Retry-After"]) <= 61
