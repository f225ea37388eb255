"""Litestream's configuration, run by Litestream: the database comes back to the row."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT, Serve, wait_until
from tests.support.chat_load import ChatLoad, RoundRobin
from tests.support.databases import contents
from tests.support.services import find_binary

CONFIG = ROOT / "ops" / "litestream" / "litestream.yml"


def test_a_killed_servers_database_is_restored_from_its_replica_to_the_row(
    serve: Serve, tmp_path: Path
) -> None:
    litestream = find_binary("litestream", str(Path(sys.executable).parent))
    database, lost = tmp_path / "goblin.db", tmp_path / "lost.db"
    replica = tmp_path / "replica"
    environ = {**os.environ, "DATABASE_FILE": str(database), "REPLICA": str(replica)}
    server = serve(DATABASE_URL=f"sqlite:///{database}")
    headers = server.register()
    log = (tmp_path / "litestream.log").open("w")
    process = subprocess.Popen(
        [litestream, "replicate", "-config", str(CONFIG)],
        env=environ, stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        wait_until(lambda: [*replica.rglob("*.ltx")], 60, "the first piece of the replica")
        with ChatLoad(RoundRobin([server.url]), [headers]) as load:
            load.wait_for_more(60)
        assert load.failed == []
        server.process.kill()
        server.wait()
        process.send_signal(signal.SIGTERM)  # it copies what is left, then it ends
        process.wait(60)
    finally:
        process.kill()
        process.wait(10)
        log.close()
    there = contents(f"sqlite:///{database}")
    assert len(there["usage_records"]) > 0
    for ending in ("", "-wal", "-shm"):
        path = database.with_name(database.name + ending)
        if path.exists():
            path.rename(lost.with_name(lost.name + ending))
    restored = subprocess.run(
        [litestream, "restore", "-config", str(CONFIG), str(database)],
        env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert restored.returncode == 0, restored.stderr
    assert contents(f"sqlite:///{database}") == there
