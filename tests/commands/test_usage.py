"""goblin-assistant usage and explain, as an operator types them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine

from goblin_assistant.cli import cli
from goblin_assistant.database.engine import engine_options
from goblin_assistant.database.models import now_ms
from goblin_assistant.database.upgrade import upgrade
from goblin_assistant.usage.records import first_id_at, journal_line
from goblin_assistant.usage.store import UsageStore
from tests.support.books import add_key, count, entry, open_database, open_store


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """The database that the commands will find."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOBLIN_ENV", "development")
    monkeypatch.setenv("GOBLIN_INSTANCE_DIR", str(tmp_path / "instance"))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    (tmp_path / "instance").mkdir()
    url = f"sqlite:///{(tmp_path / 'instance' / 'goblin.db').resolve()}"
    empty = open_database.__globals__["create_engine"](url, **engine_options(url, 2))
    upgrade(empty)
    yield empty
    empty.dispose()


@pytest.fixture
def store(engine: Engine, tmp_path: Path) -> Iterator[UsageStore]:
    """A second store on the database, as a running server has one."""
    with open_store(engine, tmp_path / "server") as store:
        yield store


def run(*arguments: str, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(cli, arguments, input=stdin)


def test_import_reads_files_and_standard_input_and_counts(engine: Engine, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    records = [entry() for _ in range(3)]
    lines = [
        orjson.dumps({"message": "usage_record_unsaved", "usage_record": one.as_row()}) + b"\n"
        for one in records
    ]
    log.write_bytes(
        b'{"message": "request_completed"}\n' + b"".join(lines) + b"a line of a banner\n"
    )
    result = run("usage", "import", str(log))
    assert (result.exit_code, result.output) == (0, "3 imported, 0 already there, 0 unreadable\n")
    result = run("usage", "import", str(log), "-", stdin=journal_line(entry()))
    assert (result.exit_code, result.output) == (0, "1 imported, 3 already there, 0 unreadable\n")
    assert count(engine) == 4


def test_import_fails_when_a_line_has_lost_its_record(engine: Engine, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_bytes(
        journal_line(entry()) + journal_line(entry())[:60] + b"\n" + journal_line(entry())
    )
    result = run("usage", "import", str(log))
    assert (result.exit_code, result.output) == (1, "2 imported, 0 already there, 1 unreadable\n")


def test_import_without_files_takes_the_journals_of_killed_processes(
    engine: Engine, tmp_path: Path
) -> None:
    folder = tmp_path / "instance" / "journal"
    folder.mkdir()
    (folder / "1-dead-1.jsonl").write_bytes(journal_line(entry()))
    assert run("usage", "import").output == "1 imported, 0 already there, 0 unreadable\n"
    assert run("usage", "import").output == "0 imported, 0 already there, 0 unreadable\n"


def test_report_prints_a_table_json_and_csv(engine: Engine, store: UsageStore) -> None:
    key = add_key(engine, name="team red")
    for cost in (1_000_000, 500_000, None):
        store.finish(entry(key_id=key, cost_microusd=cost), None)
    table = run("usage", "report", "--group-by", "key,model")
    assert table.exit_code == 0, table.output
    assert "team red" in table.output
    assert [line.split()[-2] for line in table.output.splitlines()[1:3]] == ["1.50", "1.50"]
    assert "1 requests have no known price" in table.output
    found = json.loads(run("usage", "report", "--format", "json").output)
    assert found["totals"]["cost_microusd"] == 1_500_000
    text = run("usage", "report", "--format", "csv", "--key", str(key)).output
    assert text.splitlines()[1].split(",")[1] == "3"
    empty = run("usage", "report", "--user", "77")
    assert empty.output.splitlines()[-1].split()[:2] == ["total", "0"]


@pytest.mark.parametrize(
    "arguments", [("--group-by", "shoe"), ("--from", "never"), ("--to", "2026-99-99")]
)
def test_a_report_that_makes_no_sense_is_refused_in_words(
    engine: Engine, arguments: tuple[str, ...]
) -> None:
    result = run("usage", "report", *arguments)
    assert result.exit_code != 0
    assert "accepted" in str(result.exception) + result.output


def test_prune_deletes_what_is_older(engine: Engine, store: UsageStore) -> None:
    for age in (1, 100):
        store.finish(entry(id=first_id_at(now_ms() - age * 86_400_000)), None)
    assert (
        run("usage", "prune", "--older-than", "90d").output
        == "deleted 1 records older than 90 days\n"
    )
    assert count(engine) == 1
    for wrong in ("90", "12h", "0d", "soon"):
        assert run("usage", "prune", "--older-than", wrong).exit_code == 2
    assert count(engine) == 1


def test_budget_says_what_a_key_has_spent(engine: Engine, store: UsageStore) -> None:
    key = add_key(engine)
    store.finish(entry(key_id=key, cost_microusd=1_230_000), None)
    assert "$1.23 spent, $0.00 reserved" in run("usage", "budget", str(key)).output


def test_explain_tells_the_story_of_a_chat(engine: Engine, store: UsageStore) -> None:
    key = add_key(engine, name="team red")
    timeline: list[dict[str, Any]] = [
        {"at_ms": 51.2, "event": "slot", "waited_ms": 50},
        {"at_ms": 60.0, "event": "circuit_open", "provider": "openai"},
        {
            "at_ms": 400.5,
            "event": "failed",
            "provider": "azure",
            "model": "gpt-4o",
            "error": "provider_timeout",
            "upstream_status": None,
            "took_ms": 300,
        },
        {"at_ms": 401.0, "event": "fallback", "from_provider": "azure", "to_provider": "anthropic"},
        {"at_ms": 900.0, "event": "first_token", "provider": "anthropic"},
        {"at_ms": 950.0, "event": "disconnected", "phase": "streaming"},
        {"at_ms": 951.0, "event": "something_of_next_year", "with": "a detail"},
    ]
    store.finish(
        entry(
            correlation_id="abc-1",
            key_id=key,
            provider="anthropic",
            model="claude-opus-4-5",
            model_requested="best",
            status_code=499,
            error_type="client_closed_request",
            error_source="client",
            completed=False,
            stream=True,
            attempts=2,
            fallback=True,
            queue_ms=50,
            first_token_ms=900,
            duration_ms=955,
            token_source="estimated",
            cost_microusd=12_345,
            cached_tokens=4,
            timeline=json.dumps(timeline),
        ),
        None,
    )
    result = run("explain", "abc-1")
    assert result.exit_code == 0, result.output
    for part in (
        "by API key",
        "team red",
        "best",
        "anthropic/claude-opus-4-5",
        "499 client_closed_request; to blame: client; not completed",
        "2 (fell back to another provider)",
        "50 ms",
        "900 ms",
        "4 cached",
        "estimated",
        "$0.012345",
        "51.2 ms  waited 50 ms for a chat slot",
        "circuit breaker of openai is open: passed over",
        "azure failed: provider_timeout (model gpt-4o, took_ms 300)",
        "fell back from azure to anthropic",
        "first token from anthropic",
        "the client went away (streaming)",
        "something_of_next_year (with a detail)",
        "ended with client_closed_request",
    ):
        assert part in result.output, part


def test_explain_shows_the_tags(engine: Engine, store: UsageStore) -> None:
    one = entry(tags='{"feature":"b","team":"a"}')
    store.finish(one, None)
    assert "feature=b, team=a" in run("explain", one.correlation_id).output


def test_explain_adds_what_the_log_says(engine: Engine, store: UsageStore, tmp_path: Path) -> None:
    store.finish(entry(correlation_id="abc-2"), None)
    log = tmp_path / "server.log"
    line = {
        "timestamp": "2026-11-23T10:00:00.000Z",
        "level": "INFO",
        "logger": "goblin_assistant",
        "correlation_id": "abc-2",
    }
    log.write_bytes(
        orjson.dumps({**line, "message": "request_completed", "status_code": 200})
        + b"\n"
        + orjson.dumps({**line, "message": "other", "correlation_id": "abc-22"})
        + b"\nabc-2 in a line that is no JSON\n"
    )
    result = run("explain", "abc-2", "--logs", str(log))
    assert "2026-11-23T10:00:00.000Z INFO request_completed status_code=200" in result.output
    assert "other" not in result.output


def test_explain_knows_a_request_that_is_in_the_log_only(engine: Engine, tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    log.write_bytes(
        orjson.dumps(
            {"message": "request_completed", "status_code": 429, "correlation_id": "abc-3"}
        )
        + b"\n"
    )
    assert "status_code=429" in run("explain", "abc-3", "--logs", str(log)).output
    unsaved = {
        "message": "usage_record_unsaved",
        "correlation_id": "abc-4",
        "usage_record": entry(correlation_id="abc-4").as_row(),
    }
    log.write_bytes(orjson.dumps(unsaved) + b"\n")
    assert "echo/echo" in run("explain", "abc-4", "--logs", str(log)).output


def test_explain_of_nothing_says_where_else_to_look(engine: Engine) -> None:
    result = run("explain", "nobody")
    assert result.exit_code == 1
    assert "nothing is known of nobody; with --logs FILE" in result.output


@pytest.mark.parametrize(
    "timeline",
    [None, "", "not json", "{}", "[1, null, {}]", '[{"event": "failed"}]', '[{"at_ms": "x"}]'],
)
def test_explain_bears_any_timeline(
    engine: Engine, store: UsageStore, timeline: str | None
) -> None:
    store.finish(
        entry(correlation_id="odd", timeline=timeline, cost_microusd=None, provider="", key_id=5),
        None,
    )
    result = run("explain", "odd")
    assert result.exit_code == 0, result.output
    assert "not known: no price" in result.output
