"""A process keeps its locks on the SQLite file: else another one deletes the log under it."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

from sqlalchemy import text

from tests.conftest import ROOT
from tests.support.accounts_fixtures import engine_for

ANOTHER = """
import sys
from sqlalchemy import text
from tests.support.accounts_fixtures import engine_for
engine = engine_for(f"sqlite:///{sys.argv[1]}")
with engine.begin() as connection:
    connection.execute(text("INSERT INTO t VALUES (2)"))
engine.dispose()
"""


def test_another_process_that_comes_and_goes_leaves_the_log_of_open_connections(
    tmp_path: Path,
) -> None:
    path = tmp_path / "goblin.db"
    engine = engine_for(f"sqlite:///{path}")
    with engine.connect() as first:
        first.execute(text("CREATE TABLE t (x)"))
        first.execute(text("INSERT INTO t VALUES (1)"))
        first.commit()
        # The second connection of the pool must not take away the lock of the first.
        with engine.connect() as second:
            assert second.execute(text("SELECT COUNT(*) FROM t")).scalar() == 1
            second.rollback()
            log = (tmp_path / "goblin.db-wal").stat().st_ino
            subprocess.run([sys.executable, "-c", ANOTHER, str(path)], cwd=ROOT, check=True)
            assert (tmp_path / "goblin.db-wal").exists(), "the log was deleted under us"
            assert (tmp_path / "goblin.db-wal").stat().st_ino == log
            assert second.execute(text("SELECT COUNT(*) FROM t")).scalar() == 2
    engine.dispose()


def test_a_database_that_others_could_read_becomes_private_and_a_new_one_is(tmp_path: Path) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    old.touch(0o644)
    for path in (old, new):
        engine = engine_for(f"sqlite:///{path}")
        with engine.connect() as connection:
            connection.execute(text("CREATE TABLE t (x)"))
            for file in tmp_path.glob(f"{path.name}*"):
                assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name
        engine.dispose()
