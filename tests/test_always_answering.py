"""The probe and the conditions of benchmarks/always_answering.py. No timing is asserted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks import native
from benchmarks.always_answering import Options, Row, from_dict, measure, page_section, table
from benchmarks.crowd import Crowd
from benchmarks.hazards import CONDITIONS, IDLE
from benchmarks.probe import Probe, Reading, percentile
from tests.support.fake_upstream import FakeUpstream, Reply


def reading(**figures: Any) -> Reading:
    """A reading with these figures; without them it meets the targets."""
    quiet: dict[str, Any] = {
        "samples": 1000,
        "failures": 0,
        "reasons": {},
        "p50": 1.0,
        "p99": 5.0,
        "max": 20.0,
        "late_p99": 1.0,
        "late_max": 2.0,
        "niceness": -10,
    }
    return Reading(**{**quiet, **figures})


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    """Clients and providers."""
    crowd = Crowd()
    yield crowd
    crowd.close()


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([float(n) for n in range(1, 1001)], 99) == 990.0
    assert percentile([7.0], 99) == 7.0


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply.plain(503, b"{}"), "status 503"),
        (Reply.raw(b""), "closed without an answer"),
        (Reply.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{"), "closed without an answer"),
    ],
)
def test_the_probe_counts_all_but_a_whole_200_as_failures(
    fake_upstream: FakeUpstream, reply: Reply, reason: str
) -> None:
    fake_upstream.default = reply
    fake_upstream.reply(Reply.plain(200, b"{}"))
    found = Probe(fake_upstream.port, 5).run()
    assert (found.samples, found.failures, found.reasons) == (5, 4, {reason: 4})
    assert found.max == 5000.0
    assert fake_upstream.connections == 5


def test_the_probe_counts_a_refused_connection_as_a_failure() -> None:
    found = Probe(native.free_port(), 5).run()
    assert (found.samples, found.failures) == (5, 5)
    assert found.reasons == {"Connection refused": 5}


@pytest.mark.parametrize(
    ("figures", "problems", "outcome"),
    [
        ({}, [], "met"),
        ({"failures": 1}, [], "**MISSED**"),
        ({"p99": 100.1}, [], "**MISSED**"),
        ({"max": 1000.1}, [], "**MISSED**"),
        ({}, ["not every slot taken"], "not measured"),
        ({"failures": 1}, ["not every slot taken"], "**MISSED**"),
    ],
)
def test_a_condition_is_met_only_with_its_load_and_missed_with_any_figure(
    figures: dict[str, Any], problems: list[str], outcome: str
) -> None:
    row = Row("chats", "chats", "", reading(**figures), problems=problems)
    assert row.outcome == outcome
    assert from_dict(asdict(row)) == row


def test_a_condition_that_could_not_be_measured_is_not_met() -> None:
    row = Row("redis", "Redis stopped", "redis-server is not installed", None)
    assert row.outcome == "not measured"
    assert from_dict(asdict(row)) == row


def test_names_of_conditions_are_unique_and_fit_a_command_line() -> None:
    names = [condition.name for condition in CONDITIONS]
    assert len(set(names)) == len(names)
    assert all(" " not in name for name in names)


def test_the_table_has_a_row_for_each_condition_the_idle_server_first(
    crowd: Crowd,
    tmp_path: Path,
) -> None:
    [nasty] = [found for found in CONDITIONS if found.name == "nasty-chat-deep-lists"]
    options = Options(samples=50, body_mb=0.01)
    rows = [measure(condition, options, crowd, tmp_path) for condition in (nasty, IDLE)]
    assert [row.reading.samples for row in rows if row.reading] == [50, 50]
    assert [row.problems for row in rows] == [[], []]
    assert "400" in rows[0].load
    lines = table(rows).splitlines()
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith(f"| {IDLE.title} | none | 50 |")
    about = {"when": "now", "revision": "abc", "load_average": "0.1", "body_mb": 0.01}
    assert table(rows) in page_section(rows, about)


def test_a_server_that_takes_too_much_memory_is_ended_and_its_failures_are_counted(
    crowd: Crowd, tmp_path: Path
) -> None:
    row = measure(IDLE, Options(samples=100, memory_mb=1.0), crowd, tmp_path)
    assert row.reading is not None
    assert row.reading.samples == 100
    assert row.reading.failures > 0
    assert row.problems == ["the server took more than 1 MB and was ended"]
    assert row.outcome == "**MISSED**"
