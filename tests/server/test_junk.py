"""Ten thousand invalid requests: metrics stay bounded, no 500, and every log line is JSON."""

from __future__ import annotations

import json
import random
import socket
import string
import subprocess
from concurrent.futures import ThreadPoolExecutor

import requests

from tests.conftest import Serve, Server
from tests.support.services import find_binary

REQUESTS = 10_000
WORKERS = 8
QUARTER = REQUESTS // WORKERS // 4 + 1  # of one worker's requests
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "PROPFIND", "brew"]
PATHS = [
    "/",
    "/chat/completions",
    "/v1/models/",
    "/health/",
    "/auth/",
    "/metrics",
    "//",
    "/../",
    "/settings/",
    "/usage",
]


def junk_text(chance: random.Random, most: int = 30) -> str:
    alphabet = string.ascii_letters + string.digits + "%._-/:;{}\"'\\<>&=+~^|`é日\x7f"
    return "".join(chance.choice(alphabet) for _ in range(chance.randrange(most)))


def junk_request(chance: random.Random, token: str) -> bytes:
    kind = chance.randrange(4)
    correlation = junk_text(chance, 200).replace("\x7f", "")
    headers = [f"X-Correlation-ID: {correlation}", "Host: junk", "Connection: keep-alive"]
    if kind == 0:  # a made-up model
        model = "".join(chance.choice(string.ascii_letters + "/:-") for _ in range(20))
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "x"}]})
        headers += [f"Authorization: Bearer {token}", "Content-Type: application/json"]
        line = "POST /chat/completions HTTP/1.1"
    elif kind == 1:  # a body that is none
        body = junk_text(chance, 200)
        headers += [f"Authorization: Bearer {token}", "Content-Type: application/json"]
        line = f"POST {chance.choice(PATHS)} HTTP/1.1"
    else:
        body = ""
        if chance.random() < 0.3:
            headers.append(f"Authorization: {junk_text(chance, 60)}")
        method = (
            chance.choice(METHODS) if chance.random() < 0.8 else "M" + str(chance.randrange(10**6))
        )
        path = chance.choice(PATHS) + junk_text(chance).replace(" ", "").replace("\x7f", "")
        line = f"{method} {path} HTTP/1.1"
    data = body.encode()
    headers.append(f"Content-Length: {len(data)}")
    return "\r\n".join([line, *headers]).encode() + b"\r\n\r\n" + data


def send(server: Server, seed: int, count: int, token: str) -> list[int]:
    """The statuses of the answers. A connection that the server closes is opened again."""
    chance = random.Random(seed)
    statuses = []
    connection = socket.create_connection(("127.0.0.1", server.port), 30)
    for _ in range(count):
        data = junk_request(chance, token)
        try:
            connection.sendall(data)
            status, keep = read_answer(connection, data.startswith(b"HEAD"))
        except ConnectionError:
            status, keep = 0, False
        statuses.append(status)
        if not keep:
            connection.close()
            connection = socket.create_connection(("127.0.0.1", server.port), 30)
    connection.close()
    return statuses


def read_answer(connection: socket.socket, is_head: bool) -> tuple[int, bool]:
    answer = b""
    while b"\r\n\r\n" not in answer:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionResetError
        answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    fields = {
        name.lower(): value.strip()
        for name, _, value in (
            line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:]
        )
    }
    status = int(head.split()[1])
    length = 0 if is_head or status in (204, 304) else int(fields.get("content-length", 0))
    while len(body) < length:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionResetError
        body += piece
    assert "x-correlation-id" in fields
    return status, fields.get("connection", "").lower() != "close"


def series(server: Server) -> set[str]:
    return set(server.metrics())


def test_junk_leaves_bounded_metrics_no_500_and_a_log_of_json(serve: Serve) -> None:
    server = serve()
    token = server.register()["Authorization"].removeprefix("Bearer ")
    with ThreadPoolExecutor(WORKERS) as pool:
        first = list(pool.map(lambda seed: send(server, seed, QUARTER, token), range(WORKERS)))
        early = series(server)
        rest = list(
            pool.map(lambda seed: send(server, 100 + seed, 3 * QUARTER, token), range(WORKERS))
        )
        late = series(server)
    statuses = [status for batch in first + rest for status in batch]
    assert len(statuses) >= REQUESTS
    assert max(statuses) < 500
    assert statuses.count(0) < REQUESTS // 20
    # After the first quarter only a few new combinations of known values appear.
    assert len(late) < len(early) * 1.2
    assert len(late) < 4000
    assert not any(model in "".join(late) for model in ("M1", "brew", "junk"))
    scrape = requests.get(server.url + "/metrics", timeout=60)
    promtool = [find_binary("promtool"), "check", "metrics"]
    checked = subprocess.run(
        promtool, input=scrape.content, capture_output=True, timeout=30, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
    assert server.stop() == 0
    lines = server.log_lines("request_completed")  # parses every line
    assert len(lines) >= REQUESTS * 0.95
    assert not server.log_lines("unhandled_exception")
