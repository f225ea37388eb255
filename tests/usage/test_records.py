"""A record keeps its values as a row, as a journal line and as a shipper's log line, there and
back."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from goblin_assistant.database.models import usage_records
from goblin_assistant.usage.records import (
    COLUMNS,
    UnreadableRecord,
    UsageEntry,
    entry_from,
    entry_in,
    first_id_at,
    journal_line,
    ms_of,
    new_record_id,
)
from tests.support.books import entry


def test_an_entry_has_exactly_the_columns_of_the_table() -> None:
    assert set(COLUMNS) == {column.name for column in usage_records.columns}


def test_ids_sort_by_time_and_tell_it() -> None:
    ids = [new_record_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert sorted(ids, key=ms_of) == sorted(ids, key=lambda i: i[:12])
    assert first_id_at(ms_of(ids[0])) <= ids[0] < first_id_at(ms_of(ids[0]) + 1)
    assert [len(first_id_at(ms)) for ms in (-1, 0, 2**60)] == [32, 32, 32]


def test_the_time_of_a_record_is_that_of_its_id() -> None:
    made = entry(created_at=5)
    assert made.as_row()["created_at"] == ms_of(made.id)


def test_texts_are_cut_and_cleaned_to_what_every_database_takes() -> None:
    row = entry(
        model="m\x00" + "é" * 400, correlation_id="c" * 500, provider="p" * 90, error_type="e" * 90
    ).as_row()
    assert row["model"].startswith("m\ufffdé")
    assert [len(row[n]) for n in ("model", "correlation_id", "provider", "error_type")] == [
        255,
        128,
        64,
        64,
    ]
    assert entry(model="\ud800").as_row()["model"] == "?"


def test_a_journal_line_is_read_back_as_it_was() -> None:
    made = entry(
        cost_microusd=None,
        first_token_ms=7,
        error_type="x",
        fallback=True,
        timeline='[{"at_ms":1}]',
        model="modèle",
    )
    line = journal_line(made)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert entry_in(line) == made


SHIPPERS = [
    lambda row: {"message": "usage_record_unsaved", "usage_record": row},
    lambda row: {"event": "usage_record_unsaved", "extra": {"usage_record": row}},
    lambda row: {
        "log": json.dumps({"message": "usage_record_unsaved", "usage_record": row}) + "\n",
        "stream": "stdout",
    },
    lambda row: {"jsonPayload": {"usage_record": row}, "severity": "ERROR"},
    lambda row: {"@message": json.dumps({"fields": {"usage_record": row}})},
    lambda row: {"hits": [{"_source": {"usage_record": row}}]},
]


@pytest.mark.parametrize("shipper", SHIPPERS)
def test_a_record_is_found_in_the_line_of_any_json_log(shipper: Any) -> None:
    made = entry()
    assert entry_in(json.dumps(shipper(made.as_row())).encode()) == made


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"not json at all",
        b'{"message": "request_completed", "path": "/usage_records"}',
        b'{"message": "unsaved_usage_written", "records": 3}',
        b'{"message": "the metric usage_records_unsaved_total moved"}',
        b"plain text about usage_records_unsaved_total",
        b"[1, 2]",
    ],
)
def test_lines_about_something_else_are_no_records(line: bytes) -> None:
    assert entry_in(line) is None


def lines_that_lost_their_record() -> list[bytes]:
    whole = journal_line(entry())
    row = entry().as_row()
    spoilt: list[Any] = [
        {**row, "id": "short"},
        {**row, "id": "../../../../etc/passwd-xxxxxxxxxx"},
        {**row, "prompt_tokens": "many"},
        {**row, "prompt_tokens": -1},
        {**row, "prompt_tokens": 2**63},
        {**row, "cost_microusd": 1.5},
        {**row, "completed": 1},
        {**row, "prompt_tokens": True},
        {**row, "operation": "x" * 25},
        {},
        None,
        "text",
        [],
    ]
    return [
        whole[: len(whole) // 2],
        whole[:-3],
        b'{"message": "usage_record_unsaved", "correl',
        b'{"message": "usage_record_unsaved"}',
        b'{"log": "{\\"usage_record\\": {\\"id\\"',
        *(
            orjson.dumps({"usage_record": value})
            for value in spoilt
            if not (isinstance(value, dict) and value.get("prompt_tokens") == 2**63)
        ),
        json.dumps({"usage_record": {**row, "prompt_tokens": 2**63}}).encode(),
    ]


@pytest.mark.parametrize("line", lines_that_lost_their_record())
def test_a_line_that_has_lost_its_record_says_so(line: bytes) -> None:
    with pytest.raises(UnreadableRecord):
        entry_in(line)


def test_a_record_of_an_older_or_newer_version_is_read() -> None:
    row = entry().as_row()
    assert entry_from({"id": row["id"], "cost_microusd": 7}) == UsageEntry(
        id=row["id"], cost_microusd=7
    )
    assert entry_from({**row, "column_of_next_year": 1}).prompt_tokens == row["prompt_tokens"]
