"""Log lines are read back from the places where operators keep them."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, create_engine

from goblin_assistant.cli import cli
from goblin_assistant.database.upgrade import upgrade
from goblin_assistant.logs.json_logging import JsonFormatter
from goblin_assistant.logs.reading import open_lines, parsed_lines

DOCKER_PIECE = 16 * 1024
"""What Docker cuts a long line into:
https://github.com/moby/moby/blob/v28.2.2/daemon/logger/copier.go"""


def ours(message: str, correlation_id: str = "abc-1", at: int = 0, **more: object) -> str:
    """A line as this product writes it."""
    line = JsonFormatter().line(20, "goblin_assistant", message, {})
    fields = {**json.loads(line), "timestamp": f"2026-11-27T10:00:{at:02d}.000Z", **more}
    return json.dumps({**fields, "correlation_id": correlation_id}, separators=(",", ":"))


def docker(text: str) -> bytes:
    """What Docker's json-file driver writes for a line of standard output."""
    text += "\n"
    pieces = [text[at : at + DOCKER_PIECE] for at in range(0, len(text), DOCKER_PIECE)]
    return b"".join(
        json.dumps(
            {"log": piece, "stream": "stdout", "time": "2026-11-27T10:00:00.1Z"},
            separators=(",", ":"),
        ).encode()
        + b"\n"
        for piece in pieces
    )


def journald(text: str, *, as_bytes: bool = False) -> bytes:
    """What `journalctl -o json` prints for a line."""
    message = list(text.encode()) if as_bytes else text
    fields = {"_SYSTEMD_UNIT": "goblin.service", "PRIORITY": "6", "MESSAGE": message, "_PID": "42"}
    return json.dumps(fields).encode() + b"\n"


WRAPPED = {
    "plain": lambda text: text.encode() + b"\n",
    "docker": docker,
    "journald": journald,
    "journald, bytes": lambda text: journald(text, as_bytes=True),
    "journalctl": lambda text: f"Nov 27 10:00:00 web-1 goblin[42]: {text}\n".encode(),
    "journalctl, iso": lambda text: f"2026-11-27T10:00:00+0000 web-1 goblin[42]: {text}\n".encode(),
    "kubernetes": lambda text: f"2026-11-27T10:00:00.1Z stdout F {text}\n".encode(),
    "compose": lambda text: f"goblin-1  | {text}\n".encode(),
    "docker in journald": lambda text: journald(docker(text).decode().rstrip("\n")),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_line_is_found_however_it_is_wrapped(kind: str) -> None:
    wrap = WRAPPED[kind]
    text = wrap(ours("one", path='/a"b\\n')) + wrap(ours("other", "abc-2")) + wrap(ours("two"))
    lines = text.splitlines(keepends=True)
    found = [line for line in parsed_lines(lines) if line["correlation_id"] == "abc-1"]
    assert [line["message"] for line in found] == ["one", "two"]
    assert found[0]["path"] == '/a"b\\n'


def test_a_line_that_docker_has_cut_is_put_together() -> None:
    text = docker(ours("long", trace="x" * 3 * DOCKER_PIECE)) + docker(ours("next"))
    lines = text.splitlines(keepends=True)
    assert len(lines) == 5
    found = list(parsed_lines(lines, b"abc-1"))
    assert [line["message"] for line in found] == ["long", "next"]
    assert len(found[0]["trace"]) == 3 * DOCKER_PIECE


def test_a_line_whose_end_docker_never_wrote_costs_only_itself() -> None:
    torn = docker(ours("torn", trace="x" * DOCKER_PIECE)).splitlines(keepends=True)[0]
    found = list(parsed_lines([*docker(ours("before")).splitlines(keepends=True), torn]))
    assert [line["message"] for line in found] == ["before"]


@pytest.mark.parametrize(
    "line",
    [
        b"", b"\n", b"abc-1 in a line that is no JSON", b'{"correlation_id": "abc-1"', b"[1]",
        b'{"MESSAGE":null,"x":"abc-1"}', b'{"MESSAGE":[1,"abc-1"]}',
        b'{"MESSAGE":[999],"x":"abc-1"}', b'{"log":"abc-1\\n","stream":"stdout"}',
        b'{"log":5,"x":"abc-1"}', b'abc-1 {"a": 1}',
        b'\xff\xfe{"correlation_id": "abc-1\xff"}',
    ],
)  # fmt: skip
def test_what_is_none_of_our_lines_is_skipped(line: bytes) -> None:
    assert list(parsed_lines([line], b"abc-1")) == []


def test_a_compressed_file_is_read_as_any_other() -> None:
    text = (ours("one") + "\n").encode()
    for file in (io.BytesIO(text), io.BytesIO(gzip.compress(text))):
        assert [line["message"] for line in parsed_lines(open_lines(file))] == ["one"]


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A migrated database, which the command line finds by its environment."""
    url = f"sqlite:///{tmp_path}/goblin.db"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOBLIN_ENV", "development")
    monkeypatch.setenv("DATABASE_URL", url)
    made = create_engine(url)
    upgrade(made)
    yield made
    made.dispose()


def test_explain_reads_several_files_and_tells_them_in_order(
    engine: Engine, tmp_path: Path
) -> None:
    (tmp_path / "goblin.log").write_text(ours("third", at=3) + "\n")
    (tmp_path / "goblin.log.1").write_bytes(docker(ours("second", at=2)))
    (tmp_path / "goblin.log.2.gz").write_bytes(gzip.compress(journald(ours("first", at=1))))
    files = ["goblin.log", "goblin.log.1", "goblin.log.2.gz"]
    options = [part for file in files for part in ("--logs", str(tmp_path / file))]
    result = CliRunner().invoke(cli, ["explain", "abc-1", *options])
    assert result.exit_code == 0, result.output
    places = [result.output.index(word) for word in ("first", "second", "third")]
    assert places == sorted(places)


def test_explain_reads_a_compressed_standard_input(engine: Engine) -> None:
    given = gzip.compress((ours("one") + "\n").encode())
    result = CliRunner().invoke(cli, ["explain", "abc-1", "--logs", "-"], input=given)
    assert "INFO one" in result.output


def test_explain_tells_what_a_damaged_file_still_has(engine: Engine, tmp_path: Path) -> None:
    lines = "".join(ours(f"line-{n}", x=f"{n * 7919:x}") + "\n" for n in range(2000)).encode()
    (tmp_path / "cut.gz").write_bytes(gzip.compress(lines)[:-2000])
    result = CliRunner().invoke(cli, ["explain", "abc-1", "--logs", str(tmp_path / "cut.gz")])
    assert result.exit_code == 0, result.output
    assert "line-1" in result.output
    assert "cut.gz: read only in part" in result.output
