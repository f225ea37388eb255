"""A request's body may be compressed with gzip, within the same bounds as a plain one."""

from __future__ import annotations

import gzip
import json
import random
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.conftest import MakeApp, register

HELLO = json.dumps({"model": "echo", "messages": [{"role": "user", "content": "Hello"}]}).encode()
PACKED = gzip.compress(HELLO, mtime=0)  # without the time, which would be in names of tests


@pytest.fixture
def caller(make_app: MakeApp) -> tuple[FlaskClient, dict[str, str]]:
    """A client with credentials; chats may have 10,000 bytes."""
    client = make_app(max_body_bytes=10_000).test_client()
    return client, {"Authorization": f"Bearer {register(client)['access_token']}"}


def post(caller: Any, body: bytes, coding: str, path: str = "/v1/chat/completions") -> Any:
    client, headers = caller
    headers = {**headers, "Content-Encoding": coding, "Content-Type": "application/json"}
    return client.post(path, data=body, headers=headers)


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", PACKED),
        ("GZIP", PACKED),
        ("x-gzip", gzip.compress(HELLO[:20], mtime=0) + gzip.compress(HELLO[20:], mtime=0)),
        ("identity", HELLO),
    ],
)
def test_a_compressed_chat_is_answered(caller: Any, coding: str, body: bytes) -> None:
    answer = post(caller, body, coding)
    assert answer.status_code == 200
    assert "Hello" in answer.get_json()["choices"][0]["message"]["content"]


def test_small_routes_take_it_too(caller: Any) -> None:
    made = post(caller, gzip.compress(b'{"name": "robot"}'), "gzip", "/auth/keys")
    assert made.status_code == 201


@pytest.mark.parametrize("coding", ["br", "zstd", "deflate", "gzip, gzip", "x"])
def test_another_coding_is_refused_with_what_is_accepted(caller: Any, coding: str) -> None:
    answer = post(caller, gzip.compress(HELLO), coding)
    assert answer.status_code == 415
    assert answer.headers["Accept-Encoding"] == "gzip"


@pytest.mark.parametrize("body", [b"\x1f\x8b", HELLO, PACKED[:-9]])
def test_what_is_no_whole_gzip_is_a_bad_request(caller: Any, body: bytes) -> None:
    assert post(caller, body, "gzip").status_code == 400


def test_members_are_bounded(make_app: MakeApp) -> None:
    client = make_app(max_body_bytes=1_000_000).test_client()
    caller = client, {"Authorization": f"Bearer {register(client)['access_token']}"}
    empty = gzip.compress(b"")
    assert post(caller, empty * 999 + gzip.compress(HELLO), "gzip").status_code == 200
    refused = post(caller, empty * 1000 + gzip.compress(HELLO), "gzip")
    assert refused.status_code == 400
    assert "too many members" in refused.get_json()["error"]["message"]


def test_a_large_text_in_pieces_is_whole(make_app: MakeApp) -> None:
    client = make_app(max_body_bytes=1_000_000).test_client()
    caller = client, {"Authorization": f"Bearer {register(client)['access_token']}"}
    text = random.Random(1).randbytes(150_000).hex()
    whole = json.dumps({"model": "echo", "messages": [{"role": "user", "content": text}]}).encode()
    cut = gzip.compress(whole[:200_000]) + gzip.compress(whole[200_000:])
    answer = post(caller, cut, "gzip")
    assert text in answer.get_json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("size", [9_000, 11_000, 50_000_000])
def test_the_limit_counts_what_is_inside(caller: Any, size: int) -> None:
    body = gzip.compress(b'{"model": "' + b"x" * size + b'"}')
    assert post(caller, body, "gzip").status_code == (400 if size < 10_000 else 413)
    twice = gzip.compress(b" " * size) * 2
    assert post(caller, twice, "gzip").status_code == 413


def test_what_is_too_dense_is_refused_inside_too(make_app: MakeApp) -> None:
    client = make_app().test_client()
    headers = {"Authorization": f"Bearer {register(client)['access_token']}"}
    body = gzip.compress(b'{"messages": [' + b"[]," * 3_000_000 + b"[]]}")
    answer = post((client, headers), body, "gzip")
    assert answer.status_code == 400
    assert "too many values" in answer.get_json()["error"]["message"]
