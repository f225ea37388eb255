"""Tests docs/faults.md: causes the fault of each row, over real sockets, and compares what happens
with the row.

A row without a script here, or a script without a row, fails.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
import requests

from goblin_assistant.config import GoblinFile
from tests.conftest import ROOT, MakeApp, Serve, wait_until
from tests.support.fake_upstream import (
    CUT,
    RESET,
    SILENCE,
    FakeUpstream,
    Reply,
    answering_gets,
    unused_url,
)

CHUNK = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":null}]}\n\n'
)
TWO = [CHUNK % b"one", CHUNK % b"two"]
SECRET = "canary-7f3a"
MODELS = Reply.json(200, {"object": "list", "data": [{"id": "m", "object": "model"}]})


def refusal(code: str) -> dict[str, Any]:
    return {
        "error": {
            "message": f"{SECRET} in the provider's words",
            "type": "invalid_request_error",
            "code": code,
        }
    }


@dataclass
class Fault:
    reply: Reply | None = None
    stream: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    client: str = "waits"  # or "leaves"


FAULTS: dict[str, Fault] = {
    "bad_request": Fault(Reply.json(400, refusal("bad"))),
    "context_length": Fault(Reply.json(400, refusal("context_length_exceeded"))),
    "content_filter": Fault(Reply.json(400, refusal("content_filter"))),
    "unauthorized": Fault(Reply.json(401, refusal("invalid_api_key"))),
    "model_not_found": Fault(Reply.json(404, refusal("model_not_found"))),
    "rate_limited": Fault(Reply.json(429, refusal("rate_limit_exceeded"), {"Retry-After": "7"})),
    "rate_limited_bare": Fault(Reply.json(429, refusal("rate_limit_exceeded"))),
    "server_error": Fault(Reply.json(500, refusal("boom"))),
    "overloaded": Fault(Reply.json(529, refusal("overloaded"))),
    "html_error": Fault(Reply.plain(502, b"<html>bad gateway canary-7f3a</html>", "text/html")),
    "malformed_json": Fault(Reply.plain(200, b'{"id": "c", "choi')),
    "wrong_type": Fault(Reply.plain(200, b"<html>log in first</html>", "text/html")),
    "reset": Fault(Reply.raw(RESET)),
    "refused": Fault(None),
    "slow_headers": Fault(Reply.raw(SILENCE), settings={"timeout_total": 2}),
    "stream_server_error": Fault(Reply.json(500, refusal("boom")), stream=True),
    "stream_no_first_token": Fault(
        Reply.sse([SILENCE]), stream=True, settings={"timeout_first_token": 1}
    ),
    "stream_cut": Fault(Reply.sse([*TWO, CUT]), stream=True),
    "stream_truncated_line": Fault(Reply.sse([*TWO, b'data: {"id":"c","obj', CUT]), stream=True),
    "stream_silence": Fault(
        # Both in one piece: on a busy machine the limit could come between them.
        Reply.sse([b"".join(TWO), SILENCE]),
        stream=True,
        settings={"timeout_idle": 1},
    ),
    "stream_error_event": Fault(
        Reply.sse([*TWO, b'data: {"error":{"message":"canary-7f3a","type":"server_error"}}\n\n']),
        stream=True,
    ),
    "client_gone_waiting": Fault(Reply.raw(SILENCE), client="leaves"),
    "client_gone_streaming": Fault(Reply.sse([*TWO, SILENCE]), stream=True, client="leaves"),
}


@dataclass
class Row:
    fault: str
    status: int | None
    code: str | None
    event: bool
    log: str
    metric: str
    billed: str


def rows() -> list[Row]:
    found = []
    for line in (Path(ROOT) / "docs" / "faults.md").read_text().splitlines():
        if not line.startswith("| `"):
            continue
        fault, sees, log, metric, billed = (cell.strip() for cell in line.strip("|").split(" | "))
        name = re.match(r"`(\w+)`", fault)
        status = re.match(r"(\d+)", sees)
        code = re.search(r"`(\w+)`", sees)
        assert name is not None
        found.append(
            Row(
                name[1],
                int(status[1]) if status else None,
                code[1] if code else None,
                "event" in sees,
                log.strip("`"),
                metric.strip("`"),
                billed,
            )
        )
    return found


def test_every_row_has_a_script_and_every_script_a_row() -> None:
    assert sorted(row.fault for row in rows()) == sorted(FAULTS)


def goblin_toml(folder: Path, upstream: str) -> str:
    path = folder / "goblin.toml"
    path.write_text(f'[providers.up]\nbase_url = "{upstream}/v1"\nmodels = ["m"]\n')
    return str(path)


def counters(metrics: dict[str, float], name: str) -> float:
    return sum(
        value
        for key, value in metrics.items()
        if key.startswith(name) and 'provider="echo"' not in key
    )


ServerFor = Callable[[Fault, str], Any]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.fault)
def test_a_fault_does_what_the_table_says(
    row: Row, serve: Serve, fake_upstream: FakeUpstream, tmp_path: Path
) -> None:
    fault = FAULTS[row.fault]
    address = unused_url() if fault.reply is None else fake_upstream.url
    fake_upstream.choose = answering_gets(MODELS)
    env = {f"GOBLIN_{name.upper()}": str(value) for name, value in fault.settings.items()}
    server = serve(GOBLIN_CONFIG_FILE=goblin_toml(tmp_path, address), GOBLIN_RETRIES="0", **env)
    headers = server.register()
    if fault.reply is not None:
        # Twice for a reset: a reused connection that closes without an answer is replaced once.
        fake_upstream.reply(*[fault.reply] * (2 if row.fault == "reset" else 1))
    body = {
        "model": "up/m",
        "stream": fault.stream,
        "messages": [{"role": "user", "content": "hello there"}],
    }
    # The monitor's check at start may have counted too.
    before = counters(server.metrics(), row.metric)

    text = ""
    if fault.client == "leaves":
        leave_in_the_middle(server.port, headers, body, fake_upstream)
        wait_until(lambda: fake_upstream.open_connections == 0 or fake_upstream.closed_by_peer > 0)
    else:
        answer = requests.post(
            server.url + "/chat/completions", json=body, headers=headers, timeout=60
        )
        text = answer.text
        check_answer(answer, row)

    failed = server.wait_for_line("chat_failed")
    if row.log != "chat_failed":
        assert server.wait_for_line(row.log)["correlation_id"] == failed["correlation_id"]
    assert failed["source"] == ("client" if fault.client == "leaves" else "provider")
    check_log(failed, row)
    wait_until(lambda: counters(server.metrics(), row.metric) > before, what=row.metric)
    wait_until(lambda: server.metrics()["chat_slots_in_use"] == 0)

    server.stop()
    everything = text.encode() + b"".join(server.output) + b"".join(server.errors)
    assert SECRET.encode() not in everything


def check_answer(answer: requests.Response, row: Row) -> None:
    assert answer.status_code == row.status
    if row.event:
        assert answer.content.startswith(TWO[0] + TWO[1])
        last = orjson.loads(answer.content.strip().split(b"\n\n")[-1].removeprefix(b"data: "))
        assert last["error"]["code"] == row.code
        assert last["error"]["source"] == "provider"
        assert b"[DONE]" not in answer.content
        return
    error = answer.json()
    assert error["error"] == row.code
    assert error["source"] == "provider"
    assert error["provider"] == "up"
    if row.status in (429, 503):
        assert int(answer.headers["Retry-After"]) == error["retry_after"] >= 1


def check_log(failed: dict[str, Any], row: Row) -> None:
    assert failed["completed"] is False
    assert failed["attempts"] == 1
    if row.code is not None:
        assert failed["error_type"] == row.code
    if row.billed == "nothing":
        assert failed["token_source"] == "none"
        assert failed["prompt_tokens"] == failed["completion_tokens"] == 0
    else:
        assert failed["token_source"] == "estimated"
        assert failed["prompt_tokens"] > 0
        assert failed["completion_tokens"] == (2 if "per event" in row.billed else 0)


def leave_in_the_middle(
    port: int, headers: dict[str, str], body: dict[str, Any], upstream: FakeUpstream
) -> None:
    raw = orjson.dumps(body)
    head = "POST /chat/completions HTTP/1.1\r\nHost: x\r\n"
    head += f"Authorization: {headers['Authorization']}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head.encode() + raw)
        if body["stream"]:
            received = b""
            while b"two" not in received:
                received += connection.recv(65536)
        else:
            wait_until(lambda: any(request.method == "POST" for request in upstream.requests))


def test_a_fault_of_one_provider_is_hidden_by_the_next(
    make_app: MakeApp, fake_upstream: FakeUpstream
) -> None:
    fake_upstream.choose = answering_gets(MODELS)
    app = make_app(
        file=GoblinFile.model_validate(
            {
                "providers": {"up": {"base_url": fake_upstream.url + "/v1", "models": ["m"]}},
                "chains": {"safe": ["up/m", "echo/echo"]},
            }
        )
    )
    client = app.test_client()
    from tests.conftest import register

    headers = {"Authorization": f"Bearer {register(client)['access_token']}"}
    fake_upstream.reply(Reply.json(500, refusal("boom")))
    answer = client.post(
        "/chat/completions",
        json={"model": "safe", "messages": [{"role": "user", "content": "hi"}]},
        headers=headers,
    )
    assert answer.status_code == 200
    assert answer.headers["X-Goblin-Provider"] == "echo"
    assert answer.headers["X-Goblin-Attempts"] == "2"
