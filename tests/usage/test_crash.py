"""kill -9 of the server and a stop of PostgreSQL lose no answered chat and repeat no record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from goblin_assistant.database.models import now_ms
from tests.conftest import ROOT, Serve, Server, free_port, wait_until
from tests.support.books import add_key, budget_of, count, open_database, open_store, rows
from tests.support.fake_upstream import SILENCE, FakeUpstream, Reply
from tests.support.services import PostgresServer

CHILD = """
import os, signal, sys
from pathlib import Path
from tests.support.books import entry, open_database, open_store, principal
from goblin_assistant.usage.records import new_record_id

url, folder, key, moment = sys.argv[1:]
engine = open_database(url)
gather = 600.0 if moment == "while the batch waits" else 0.0
with open_store(engine, Path(folder), batch_seconds=gather) as store:
    for number in range(50):
        record = new_record_id()
        held = store.reserve(record, principal(int(key), 10**9), [("echo", "echo")], 0, 100)
        made = entry(id=record, key_id=int(key), cost_microusd=10_000)
        store.journal(made)
        if number % 10 != 9 or moment != "between journal and INSERT":
            if number == 49 and not gather:
                store._journal.saved = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
            store.finish(made, held)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("moment", "missing"), [
    ("between journal and INSERT", 5),
    ("between INSERT and journal", 0),
    ("while the batch waits", 50),
])  # fmt: skip
@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_a_kill_at_any_point_of_the_books_is_made_good_at_the_next_start(
    request: pytest.FixtureRequest, tmp_path: Path, database: str, moment: str, missing: int
) -> None:
    url = (
        f"sqlite:///{tmp_path / 'books.db'}"
        if database == "sqlite"
        else request.getfixturevalue("postgres_url")
    )
    engine = open_database(url)
    key = add_key(engine)
    child = subprocess.run(
        [sys.executable, "-c", CHILD, url, str(tmp_path), str(key), moment], cwd=ROOT, check=False
    )
    assert child.returncode == -9
    assert count(engine) == 50 - missing
    assert count(engine, "budget_reservations") == missing
    with open_store(engine, tmp_path) as store:
        result = store.import_orphaned_journals()
        assert (result.imported, result.present, result.unreadable) == (missing, 50 - missing, 0)
        assert store.import_orphaned_journals().present == 0
    assert count(engine) == 50
    assert budget_of(engine, key) == (500_000, 0)
    assert count(engine, "budget_reservations") == 0
    engine.dispose()


def import_logs(environment: dict[str, str], log: Path) -> str:
    """Run `goblin-assistant usage import LOG`. Returns what it prints."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from goblin_assistant.cli import main; main()",
            "usage",
            "import",
            str(log),
        ],
        cwd=log.parent,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class Clients:
    """Threads that chat until there are enough answers, and the ids of the answered chats."""

    def __init__(self, url: str, headers: dict[str, str], wanted: int) -> None:
        self.answered: list[str] = []
        self._url = url
        self._headers = headers
        self._wanted = wanted
        self._finishing = False
        self._threads = [
            threading.Thread(target=self._chat, args=(number,), daemon=True) for number in range(16)
        ]
        for thread in self._threads:
            thread.start()

    def _chat(self, number: int) -> None:
        turn = 0
        while len(self.answered) < self._wanted or not self._finishing:
            turn += 1
            stream = turn % 3 == 0
            correlation_id = f"crash-{number}-{turn}"
            body = {
                "model": "echo",
                "messages": [{"role": "user", "content": "hello there"}],
                "stream": stream,
            }
            try:
                answer = requests.post(
                    self._url + "/v1/chat/completions",
                    json=body,
                    headers={**self._headers, "X-Correlation-ID": correlation_id},
                    timeout=30,
                )
            except requests.RequestException:
                time.sleep(0.02)
                continue
            if answer.status_code == 200 and (
                not stream or answer.text.endswith("data: [DONE]\n\n")
            ):
                self.answered.append(correlation_id)
            elif answer.status_code != 200:
                time.sleep(0.02)

    def wait_for(self, answers: int, timeout: float = 120.0) -> None:
        """Wait until so many chats were answered."""
        wait_until(lambda: len(self.answered) >= answers, timeout, f"{answers} answers")

    def finish(self) -> None:
        """Wait until all wanted chats were answered, also those that an outage delays."""
        self._finishing = True
        for thread in self._threads:
            thread.join(180)
            assert not thread.is_alive()


def chaos(url: str, tmp_path: Path, serve: Serve, outage: Callable[[Clients], None] | None) -> None:
    """A thousand chats, three kills of the server, and, with PostgreSQL, an outage."""
    environment = {
        "DATABASE_URL": url,
        "GOBLIN_INSTANCE_DIR": str(tmp_path / "instance"),
        "GOBLIN_PORT": str(free_port()),
        "GOBLIN_ENV": "development",
        "SECRET_KEY": "s" * 40,
    }
    servers: list[Server] = [serve(**environment)]
    user = servers[0].register()
    key = requests.post(
        servers[0].url + "/auth/keys",
        json={"name": "k", "scopes": ["chat"]},
        headers=user,
        timeout=10,
    )
    clients = Clients(servers[0].url, {"Authorization": f"Bearer {key.json()['key']}"}, 1000)
    for answers in (200, 400, 800):
        clients.wait_for(answers)
        servers[-1].process.kill()
        servers[-1].process.wait()
        servers.append(serve(**environment))
        if answers == 400 and outage is not None:
            outage(clients)
    clients.finish()
    assert servers[-1].stop() == 0

    log = tmp_path / "server.log"
    # The last line of a killed process may be cut short. A shipper would not have it either.
    lines = [line for server in servers for line in server.output if line.endswith(b"\n")]
    log.write_bytes(b"".join(lines))
    import_logs(environment, log)
    said = import_logs(environment, log)
    assert said.startswith("0 imported")
    assert not list((tmp_path / "instance" / "journal").glob("*"))

    engine = open_database(url)
    found = [
        row[0] for row in rows(engine, "SELECT correlation_id FROM usage_records WHERE completed")
    ]
    unsaved = {
        json.loads(line)["usage_record"]["id"]
        for line in lines
        if b'"usage_record_unsaved"' in line
    }
    recorded = {row[0] for row in rows(engine, "SELECT id FROM usage_records")}
    engine.dispose()
    assert len(clients.answered) >= 1000
    assert len(found) == len(set(found))
    assert set(clients.answered) <= set(found)
    assert unsaved <= recorded
    if outage is not None:
        assert unsaved


def test_a_thousand_chats_survive_kills_of_the_server(tmp_path: Path, serve: Serve) -> None:
    chaos(f"sqlite:///{tmp_path / 'books.db'}", tmp_path, serve, None)


def test_a_thousand_chats_survive_kills_of_the_server_and_a_stop_of_postgres(
    tmp_path: Path, serve: Serve, own_postgres: PostgresServer
) -> None:
    def outage(clients: Clients) -> None:
        # The new server must have seen the key: it remembers principals for a minute.
        clients.wait_for(len(clients.answered) + 50)
        own_postgres.stop()
        clients.wait_for(len(clients.answered) + 100)
        own_postgres.start()
        clients.wait_for(len(clients.answered) + 100)

    chaos(own_postgres.create_database(), tmp_path, serve, outage)


def test_a_reservation_left_by_a_kill_is_released_two_minutes_after_the_longest_chat(
    serve: Serve, fake_upstream: FakeUpstream, tmp_path: Path
) -> None:
    path = tmp_path / "goblin.toml"
    path.write_text(
        f'[providers.a]\nbase_url = "{fake_upstream.url}/v1"\nmodels = ["m"]\n'
        '[prices."a/*"]\ninput = 10\noutput = 10\n'
    )
    folder = tmp_path / "kept"
    server = serve(
        GOBLIN_CONFIG_FILE=str(path),
        GOBLIN_INSTANCE_DIR=str(folder),
        GOBLIN_TIMEOUT_TOTAL="100",
        GOBLIN_HEALTH_INTERVAL="3600",
    )
    headers = server.register()
    made = requests.post(
        server.url + "/auth/keys",
        json={"name": "k", "scopes": ["chat"], "monthly_budget_usd": "1"},
        headers=headers,
        timeout=30,
    ).json()
    fake_upstream.default = Reply([SILENCE])
    before = now_ms()
    with ThreadPoolExecutor(1) as pool:
        chat = pool.submit(
            requests.post,
            server.url + "/chat/completions",
            json={"model": "a/m", "messages": [{"role": "user", "content": "hi"}]},
            headers={"Authorization": f"Bearer {made['key']}"},
            timeout=60,
        )
        wait_until(lambda: any(r.method == "POST" for r in fake_upstream.requests), 30)
        server.process.kill()
        assert isinstance(chat.exception(60), requests.ConnectionError)
    engine = open_database(f"sqlite:///{folder / 'goblin.db'}")
    ((expires, held),) = rows(engine, "SELECT expires_at, amount_microusd FROM budget_reservations")
    assert before + 220_000 <= expires <= now_ms() + 220_000, "100 s for the chat, and two minutes"
    assert budget_of(engine, made["id"]) == (0, held)
    with open_store(engine, folder) as store:
        assert store.budgets.release_stale(expires) == 0
        assert store.budgets.release_stale(expires + 1) == 1
    assert budget_of(engine, made["id"]) == (0, 0)
    engine.dispose()
