"""The journal of a killed process loses nothing. That of a running process is not touched."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine

from goblin_assistant.metrics import REGISTRY
from goblin_assistant.usage import journal as usage_journal
from goblin_assistant.usage.journal import Journal, orphans
from goblin_assistant.usage.records import UsageEntry, entry_in, journal_line
from tests.conftest import ROOT, wait_until
from tests.support.accounts_fixtures import database_url, engine
from tests.support.books import entry, open_database, open_store
from tests.support.forking import fork
from tests.support.services import PostgresServer
from tests.support.threads import at_once

__all__ = ["database_url", "engine"]


def read(folder: Path) -> list[UsageEntry]:
    lines = [
        line
        for path in sorted(folder.glob("*.jsonl"))
        for line in path.read_bytes().splitlines(True)
    ]
    return [found for line in lines if (found := entry_in(line)) is not None]


def test_nothing_is_made_before_the_first_record(tmp_path: Path) -> None:
    Journal(tmp_path / "journal").close()
    assert not (tmp_path / "journal").exists()


def test_a_record_is_in_the_file_when_append_returns(tmp_path: Path) -> None:
    folder = tmp_path / "not there" / "journal"
    journal = Journal(folder)
    made = entry()
    assert journal.append(made)
    assert read(folder) == [made]
    journal.close()


def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(entry())
    assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [0o600]
    journal.close()


def test_appending_twice_writes_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    made = entry()
    assert journal.append(made)
    assert journal.append(made)
    assert len(read(tmp_path)) == 1
    journal.close()


def test_closing_deletes_what_is_saved_and_leaves_the_rest(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    saved, lost = entry(), entry()
    journal.append(saved)
    journal.saved([saved.id])
    journal.close()
    assert list(tmp_path.iterdir()) == []
    journal = Journal(tmp_path)
    journal.append(lost)
    journal.close()
    assert read(tmp_path) == [lost]


def test_a_full_file_goes_when_all_in_it_is_saved(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=2000)
    entries = [entry() for _ in range(40)]
    for one in entries:
        journal.append(one)
    assert len(list(tmp_path.iterdir())) > 5
    for one in entries[1:]:
        journal.saved([one.id])
    assert len(list(tmp_path.iterdir())) == 2  # the one with the first record, and the current one
    journal.saved([entries[0].id])
    assert len(list(tmp_path.iterdir())) == 1
    assert journal.waiting() == 0
    journal.close()


def test_the_disk_use_is_bounded_under_constant_load(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=10_000)
    flying: list[UsageEntry] = []
    for _ in range(2000):
        flying.append(entry())
        journal.append(flying[-1])
        if len(flying) > 20:
            journal.saved([flying.pop(0).id])
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 50_000
    journal.close()


def test_sixty_four_threads_write_whole_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=20_000)
    made: list[UsageEntry] = []

    def work(_: int) -> None:
        for _ in range(50):
            one = entry(model="m" * 200)
            made.append(one)
            assert journal.append(one)

    at_once(work, 64)
    assert {one.id for one in read(tmp_path)} == {one.id for one in made}
    assert len(read(tmp_path)) == 3200
    journal.close()


def test_the_journals_of_the_living_are_no_orphans(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=1000)
    for _ in range(10):
        journal.append(entry())
    assert list(orphans(tmp_path)) == []
    (tmp_path / "~.jsonl").write_bytes(journal_line(entry()))
    assert [orphan.path.name for orphan in orphans(tmp_path)] == ["~.jsonl"]
    journal.close()


def test_a_file_of_the_same_name_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_journal.os, "urandom", bytes)
    theirs = tmp_path / f"{os.getpid()}-00000000-1.jsonl"
    theirs.write_text("theirs")
    journal = Journal(tmp_path)
    assert not journal.append(entry())
    assert theirs.read_text() == "theirs"
    mine = entry()
    assert journal.append(mine)
    assert journal.waiting() == 1
    journal.close()


CHILD = """
import os, signal, sys
from pathlib import Path
from goblin_assistant.usage.journal import Journal
from tests.support.books import entry
journal = Journal(Path(sys.argv[1]))
for _ in range(100):
    one = entry()
    journal.append(one)
    print(one.id)
sys.stdout.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_leaves_all_its_records(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, check=False
    )
    assert child.returncode == -9
    (orphan,) = orphans(tmp_path)
    written = child.stdout.decode().split()
    assert len(written) == 100
    for orphan in orphans(tmp_path):
        assert [found.id for line in orphan.lines() if (found := entry_in(line))] == written
        orphan.done()
    assert list(tmp_path.iterdir()) == []


def test_an_orphan_is_given_to_one_importer_only(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(entry())
    journal.close()
    first = orphans(tmp_path)
    next(first)
    assert list(orphans(tmp_path)) == []
    first.close()  # type: ignore[attr-defined]
    assert len(list(orphans(tmp_path))) == 1


def test_a_damaged_orphan_is_set_aside_and_not_deleted(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(entry())
    journal.close()
    for orphan in orphans(tmp_path):
        orphan.damaged = True
        orphan.done()
    assert [path.suffix for path in tmp_path.iterdir()] == [".damaged"]
    assert list(orphans(tmp_path)) == []


def test_a_new_file_that_an_importer_deleted_at_once_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = usage_journal.fcntl.flock
    stolen: list[Path] = []

    def late(fd: int, operation: int) -> None:
        if not stolen:
            (path,) = tmp_path.iterdir()
            stolen.append(path)
            path.unlink()
        real(fd, operation)

    monkeypatch.setattr(usage_journal.fcntl, "flock", late)
    journal = Journal(tmp_path)
    made = entry()
    assert journal.append(made)
    assert read(tmp_path) == [made]
    assert len(open_files(tmp_path)) == 1
    journal.close()


def test_a_full_disk_is_said_once_and_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path)
    real = os.write
    first = entry()
    journal.append(first)

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(usage_journal.os, "write", full)
    assert [journal.append(entry()) for _ in range(3)] == [False] * 3
    # On an almost full disk only a part of a line is written.
    monkeypatch.setattr(usage_journal.os, "write", lambda fd, data: real(fd, data[:30]))
    assert not journal.append(entry())
    monkeypatch.setattr(usage_journal.os, "write", real)
    last = entry()
    assert journal.append(last)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == [
        "journal_write_failed"
    ]
    whole = []
    for line in next(tmp_path.iterdir()).read_bytes().splitlines():
        try:
            if (found := entry_in(line)) is not None:
                whole.append(found)
        except ValueError:
            assert len(line) == 29
    assert whole == [first, last]
    journal.close()


def test_a_folder_that_cannot_be_written_costs_no_chat(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("a file is in the way")
    journal = Journal(tmp_path / "journal")
    assert not journal.append(entry())
    journal.close()


def test_a_forked_child_writes_a_journal_of_its_own(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(entry())
    # Another thread of the parent may be writing at that moment.
    with journal._lock:
        child = fork()
    if child == 0:
        signal.alarm(60)  # it would wait for ever
        written = journal.append(entry()) and len(list(tmp_path.iterdir())) == 2
        os._exit(0 if written and len(open_files(tmp_path)) == 1 else 1)
    assert os.waitpid(child, 0)[1] == 0
    writers = {path.name.split("-")[0] for path in tmp_path.iterdir()}
    assert writers == {str(os.getpid()), str(child)}
    assert len(list(orphans(tmp_path))) == 1
    journal.close()


def test_whatever_is_no_readable_file_is_skipped_once_and_the_others_are_imported(
    engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "journal"
    folder.mkdir()
    left = [entry(), entry()]
    (folder / "0.jsonl").write_bytes(journal_line(left[0]))
    (folder / "1.jsonl").mkdir()
    os.mkfifo(folder / "2.jsonl")
    (folder / "3.jsonl").symlink_to(tmp_path / "nowhere")
    (folder / "4.jsonl").symlink_to("4.jsonl")
    (folder / "5.jsonl").write_bytes(journal_line(left[1]))
    with open_store(engine, tmp_path) as store, caplog.at_level("INFO", "goblin_assistant.usage"):
        assert store.import_orphaned_journals().imported == 2
        assert store.import_orphaned_journals().imported == 0
    said = [record for record in caplog.records if record.message == "usage_journal_skipped"]
    files = [record.__dict__["file"] for record in said]
    assert files == ["1.jsonl", "2.jsonl", "3.jsonl", "4.jsonl"]
    assert said[-1].__dict__["error"] == os.strerror(errno.ELOOP)
    assert open_files(folder) == []


def test_journals_that_cannot_be_imported_are_counted_until_they_are(
    own_postgres: PostgresServer, tmp_path: Path
) -> None:
    engine = open_database(own_postgres.create_database())
    folder = tmp_path / "journal"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.jsonl").write_bytes(journal_line(entry()))
    with open_store(engine, tmp_path) as store:
        own_postgres.stop()
        assert store.retry_unsaved() == 0
        assert exported("usage_orphaned_journals") == 3
        # How many records the database lacks is not known.
        assert exported("usage_unsaved_records") == 0
        own_postgres.start()
        assert wait_until(store.retry_unsaved, 30, "the import") == 3
        assert exported("usage_orphaned_journals") == 0
    engine.dispose()


def exported(name: str) -> float | None:
    return REGISTRY.get_sample_value(name)


def open_files(folder: Path) -> list[str]:
    """Files of a folder that this process holds open, deleted ones included."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            found.append(os.readlink(link))
        except FileNotFoundError:  # the listing's own
            continue
    return [name for name in found if name.startswith(f"{folder}/")]


def test_a_file_is_full_at_four_mebibytes(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(entry())
    segment = journal._current
    assert segment is not None
    assert segment.size == segment.path.stat().st_size
    segment.size = 4_194_303
    journal.append(entry())
    assert len(list(tmp_path.iterdir())) == 1
    segment.size = 4_194_304
    journal.append(entry())
    assert len(list(tmp_path.iterdir())) == 2
    journal.close()


def test_each_file_has_a_name_of_its_own_and_is_only_appended_to(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=1)
    for _ in range(3):
        journal.append(entry())
    names = sorted(path.stem.split("-") for path in tmp_path.iterdir())
    assert {name[0] for name in names} == {str(os.getpid())}
    assert sorted(name[2] for name in names) == ["1", "2", "3"]
    assert journal._current is not None
    flags = fcntl.fcntl(journal._current.fd, fcntl.F_GETFL)
    assert flags & os.O_APPEND
    assert flags & os.O_ACCMODE == os.O_WRONLY
    journal.close()


def test_files_that_are_done_with_are_closed_and_so_are_all_at_the_end(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=1)
    made = [entry() for _ in range(4)]
    for one in made:
        journal.append(one)
    assert (len(open_files(tmp_path)), journal.waiting()) == (4, 4)
    journal.saved([made[0].id, "unknown", made[1].id])
    assert (len(open_files(tmp_path)), journal.waiting()) == (2, 2)
    journal.saved([made[3].id])
    assert (len(open_files(tmp_path)), journal.waiting()) == (2, 1), "the current file stays"
    journal.close()
    assert (open_files(tmp_path), journal.waiting()) == ([], 0)
    assert read(tmp_path) == [made[2]]
    last = entry()
    assert journal.append(last), "a closed journal begins anew"
    journal.close()
    assert {one.id for one in read(tmp_path)} == {made[2].id, last.id}


def test_a_full_file_that_is_saved_goes_when_the_next_begins(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=1)
    first, second = entry(), entry()
    journal.append(first)
    journal.saved([first.id])
    journal.append(second)
    assert read(tmp_path) == [second]
    assert len(open_files(tmp_path)) == 1
    journal.close()


def test_the_lines_of_all_files_are_read_with_those_that_are_saved(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=2000)
    assert list(journal.lines()) == []
    made = [entry() for _ in range(10)]
    for one in made:
        journal.append(one)
    assert len(list(tmp_path.iterdir())) > 1
    journal.saved([made[-1].id])
    assert [found for line in journal.lines() if (found := entry_in(line))] == made
    journal.close()
    assert list(journal.lines()) == []


def test_a_disk_that_is_full_again_is_said_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path)
    real = os.write
    caplog.set_level("INFO", "goblin_assistant.usage")
    for _ in range(2):
        monkeypatch.setattr(usage_journal.os, "write", lambda fd, data: real(fd, data[:30]))
        for _ in range(2):
            assert not journal.append(entry())
        assert journal.waiting() == 0
        monkeypatch.setattr(usage_journal.os, "write", real)
        good = entry()
        assert journal.append(good)
        journal.saved([good.id])
    said = [record for record in caplog.records if record.message.startswith("journal_write")]
    assert [record.message for record in said] == [
        "journal_write_failed",
        "journal_write_recovered",
    ] * 2
    assert str(said[0].__dict__["error"]).startswith("30 of ")
    journal.close()


def test_orphans_come_oldest_first_and_leave_no_file_open(tmp_path: Path) -> None:
    for name in ("2", "1", "3"):
        (tmp_path / f"{name}.jsonl").write_bytes(journal_line(entry()))
    (tmp_path / "4.txt").write_text("no journal")
    found = []
    for orphan in orphans(tmp_path):
        found.append(orphan.path.stem)
        assert len(list(orphan.lines())) == len(list(orphan.lines())) == 1
        assert len(open_files(tmp_path)) == 1
    assert found == ["1", "2", "3"]
    assert open_files(tmp_path) == []
    assert list(orphans(tmp_path / "absent")) == []


def test_a_file_that_another_process_has_imported_meanwhile_is_no_orphan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("1", "2"):
        (tmp_path / f"{name}.jsonl").write_bytes(journal_line(entry()))
    taken = orphans(tmp_path)
    first = next(taken)
    first.done()
    (tmp_path / "2.jsonl").unlink()
    assert list(taken) == []
    (tmp_path / "3.jsonl").write_bytes(journal_line(entry()))
    real = usage_journal.fcntl.flock

    def late(fd: int, operation: int) -> None:
        real(fd, operation)
        (tmp_path / "3.jsonl").unlink(missing_ok=True)

    monkeypatch.setattr(usage_journal.fcntl, "flock", late)
    assert list(orphans(tmp_path)) == []
    assert open_files(tmp_path) == []
    assert not [record for record in caplog.records if record.message == "usage_journal_skipped"]
