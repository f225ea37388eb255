"""The structure of a JSON text is counted before it is parsed. What is inside strings does not
count."""

from __future__ import annotations

import base64
import json
import random
import string
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goblin_assistant.schemas import json_bounds
from goblin_assistant.schemas.json_bounds import TooMuchStructure, loads, structure

LEAVES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


def counted(value: Any) -> tuple[int, int, int, int]:
    """The number of lists, objects, keys and commas, found by walking through the value."""
    totals = [0, 0, 0, 0]
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict | list):
            totals[0 if isinstance(item, list) else 1] += 1
            totals[2] += len(item) if isinstance(item, dict) else 0
            totals[3] += max(0, len(item) - 1)
            pending += item.values() if isinstance(item, dict) else item
    return totals[0], totals[1], totals[2], totals[3]


@given(VALUES, st.booleans(), st.integers(1, 40))
def test_the_counts_are_those_of_the_parsed_value(value: Any, ascii_only: bool, piece: int) -> None:
    whole = json_bounds._PIECE
    json_bounds._PIECE = piece
    try:
        assert structure(json.dumps(value, ensure_ascii=ascii_only).encode()) == counted(value)
        assert structure(orjson.dumps(value)) == counted(value)
    finally:
        json_bounds._PIECE = whole


def test_a_run_of_backslashes_across_pieces_ends_where_it_ends() -> None:
    for length in range(json_bounds._PIECE - 3, json_bounds._PIECE + 3):
        value = ["\\" * length + '"[{,:', {"a": [1, 2]}]
        assert structure(orjson.dumps(value)) == counted(value)


def source() -> str:
    files = sorted(Path(json.__file__).parent.parent.glob("*.py"))
    return "".join(path.read_text(errors="ignore") for path in files)[:5_000_000]


PASTED = {
    "source code": source,
    "JSON": lambda: json.dumps([{"id": number, "tags": [], "at": {}} for number in range(120_000)]),
    "a table of numbers": lambda: "\n".join("1,2,3,4,5,6,7,8" for _ in range(300_000)),
    "a matrix": lambda: "[" + ",".join("[1,2],[3,4]" for _ in range(400_000)) + "]",
    "a picture": lambda: base64.b64encode(random.Random(1).randbytes(4_000_000)).decode(),
    "quotes": lambda: '"' * 2_500_000,
    "backslashes": lambda: "\\" * 2_500_000,
    "brackets": lambda: "[{,:" * 1_250_000,
    "letters of many bytes": lambda: "\U0001f600,[" * 800_000,
}


@pytest.mark.parametrize("kind", PASTED)
def test_no_text_that_a_person_pastes_is_refused(kind: str) -> None:
    body = {"messages": [{"role": "user", "content": PASTED[kind]()}]}
    assert loads(json.dumps(body).encode()) == body
    assert loads(orjson.dumps(body)) == body


def test_token_ids_and_long_histories_are_not_refused() -> None:
    ids = {
        "input": [[random.Random(row).randrange(200_000) for _ in range(8000)] for row in range(60)]
    }
    assert loads(orjson.dumps(ids)) == ids
    text = string.ascii_letters * 20
    history = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": text}] * 5}] * 2000
    }
    assert loads(orjson.dumps(history)) == history


def test_a_large_text_may_be_allowed_more_for_each_byte() -> None:
    vectors = b"[" + b"0.01234567," * 900_000 + b"0]"
    with pytest.raises(TooMuchStructure):
        loads(vectors)
    assert len(loads(vectors, per_byte=json_bounds.ANSWER_PER_BYTE)) == 900_001
    with pytest.raises(TooMuchStructure):
        loads(b"[" + b"[]," * 1_000_000 + b"[]]", per_byte=json_bounds.ANSWER_PER_BYTE)


def test_large_texts_are_read_one_at_a_time_and_small_ones_do_not_wait() -> None:
    large = b'["' + b"a" * 2_000_000 + b'"]'
    read = threading.Event()

    def read_large() -> None:
        json_bounds.loads(large)
        read.set()

    thread = threading.Thread(target=read_large)
    with json_bounds._heavy:
        thread.start()
        assert json_bounds.loads(b"[1]") == [1]
        assert not read.is_set()
    thread.join(30)
    assert read.is_set()


def test_one_large_text_may_be_read_within_another() -> None:
    large = b'["' + b"a" * 2_000_000 + b'"]'
    with json_bounds.turn_of(large):
        assert len(json_bounds.loads(large)[0]) == 2_000_000


def test_after_a_large_text_the_next_waits_for_as_long_as_it_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    clock = SimpleNamespace(
        computed=0.0, sleep=slept.append, monotonic=lambda: 100.0, thread_time=lambda: 0.0
    )
    clock.thread_time = lambda: clock.computed
    monkeypatch.setattr(json_bounds, "time", clock)
    turns = json_bounds.Turns()
    with turns:
        clock.computed += 0.0625
        with turns:  # a turn within a turn is none of its own
            clock.computed += 0.0625
    with turns:
        clock.computed += 10.0
    with turns:
        pass
    assert slept == [0.0, 0.125, json_bounds._MOST_REST_SECONDS]


@pytest.mark.parametrize("unit", [b"[],", b'{"a":1},', b'"a",', b'"",', b"1,"])
def test_a_dense_text_is_refused_from_its_first_pieces(
    unit: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at = 0
    count = json_bounds._count

    def counting(text: bytes) -> json_bounds.Structure:
        nonlocal looked_at
        looked_at += len(text)
        return count(text)

    monkeypatch.setattr(json_bounds, "_count", counting)
    raw = b"[" + unit * (20_000_000 // len(unit)) + unit[:-1] + b"]"
    with pytest.raises(TooMuchStructure):
        loads(raw)
    assert looked_at < 4_000_000


@pytest.mark.parametrize("number", ["37.42100000000000345", "123456789012345678901", '"\\ud83d"'])
def test_what_only_json_writes_is_not_too_deep(number: str) -> None:
    text = f"[{','.join([f'[{number}]'] * 300)}]"
    json_bounds.check_depth(json_bounds.read_text(text), text.count("["))
    deep = "[" * 230 + number + "]" * 230
    with pytest.raises(json_bounds.TooDeep):
        json_bounds.check_depth(json_bounds.read_text(deep), deep.count("["))
