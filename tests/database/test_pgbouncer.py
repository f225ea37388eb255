"""Behind a real pgbouncer in transaction mode every record is written, and budgets are exact."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psycopg
import requests

from tests.conftest import ROOT, Serve, Server, wait_until
from tests.support.databases import assert_books_agree, query
from tests.support.pgbouncer import PgBouncer, with_limits
from tests.support.threads import at_once

TOML = """
[prices."echo/*"]
input = 1000
output = 1000
"""
CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 6}
COST = 7000
"""One word in, six out, at a thousand micro-dollars each."""


def environment(url: str, folder: Path) -> dict[str, str]:
    """The settings of instances behind a pooler in transaction mode."""
    (folder / "goblin.toml").write_text(TOML)
    return {
        "DATABASE_URL": url,
        "GOBLIN_DATABASE_POOLER": "transaction",
        "GOBLIN_CONFIG_FILE": str(folder / "goblin.toml"),
        "SECRET_KEY": "s" * 40,
    }


def key_of(server: Server, user: dict[str, str], **limits: object) -> dict[str, str]:
    """The headers of a new API key."""
    made = requests.post(
        server.url + "/auth/keys",
        json={"name": "team", "scopes": ["chat"], **limits},
        headers=user,
        timeout=60,
    )
    assert made.status_code == 201, made.text
    return {"Authorization": f"Bearer {made.json()['key']}"}


def test_in_transaction_mode_every_record_is_written_and_budgets_are_exact(
    postgres_url: str, tmp_path: Path, serve: Serve
) -> None:
    with PgBouncer(tmp_path / "bouncer", with_limits(postgres_url), "transaction") as bouncer:
        settings = environment(bouncer.url, tmp_path)
        servers = [serve(**settings), serve(**settings)]  # the first migrates, by the pooler
        user = servers[0].register()
        free = key_of(servers[0], user)
        limited = key_of(servers[1], user, monthly_budget_usd="0.50")
        answers: list[tuple[str, int]] = []  # appending is safe in threads, counting is not

        def chat(number: int) -> None:
            with requests.Session() as session:
                for turn in range(12):
                    name, key = ("free", free) if turn % 2 else ("limited", limited)
                    url = servers[(number + turn) % 2].url + "/v1/chat/completions"
                    body = {**CHAT, "stream": turn % 3 == 0}
                    answer = session.post(url, json=body, headers=key, timeout=60)
                    answers.append((name, answer.status_code))

        at_once(chat, 24)

        def spent_all() -> bool:
            # Some were refused because others were running: the rest can be spent now.
            url = servers[0].url + "/chat/completions"
            answer = requests.post(url, json=CHAT, headers=limited, timeout=60)
            answers.append(("limited", answer.status_code))
            return answer.status_code == 402 and answer.json()["reserved_usd"] == "0.00"

        wait_until(spent_all, 120, "the rest of the budget to be spent")
        statuses = Counter(answers)
        # 503: a busy machine kept the database from answering in time.
        assert {status for _, status in statuses} <= {200, 402, 503}, statuses
        paid = statuses["free", 200] + statuses["limited", 200]
        cost = "SELECT COUNT(*), SUM(cost_microusd) FROM usage_records WHERE cost_microusd > 0"
        # A record that could not be written at once follows from the journal.
        wait_until(lambda: query(postgres_url, cost) == [(paid, paid * COST)], 120, "all records")
        for server in servers:
            assert server.stop() == 0

    assert statuses["free", 200] > 0
    assert statuses["limited", 200] == 500_000 // COST
    assert query(postgres_url, cost) == [(paid, paid * COST)]
    assert_books_agree(postgres_url)
    assert query(postgres_url, "SELECT COUNT(*) FROM budget_reservations") == [(0,)]


def test_several_commands_migrate_at_once_by_the_pooler(postgres_url: str, tmp_path: Path) -> None:
    with PgBouncer(tmp_path / "bouncer", postgres_url, "transaction") as bouncer:
        variables = environment(bouncer.url, tmp_path) | {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "GOBLIN_INSTANCE_DIR": str(tmp_path / "instance"),
        }
        commands = [
            subprocess.Popen(
                [sys.executable, "-m", "goblin_assistant", "db", "upgrade"],
                cwd=tmp_path,
                env=variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for _ in range(4)
        ]
        said = [command.communicate(timeout=120)[0] for command in commands]
        assert [command.returncode for command in commands] == [0] * 4, said
        # What the migration set for itself stayed behind on no connection.
        with psycopg.connect(bouncer.url, autocommit=True) as connection:
            for _ in range(5):
                (limit,) = connection.execute("SHOW statement_timeout").fetchone() or ("",)
                assert limit == "0"  # as the server has it: no role was given one here
            held = connection.execute("SELECT COUNT(*) FROM pg_locks WHERE locktype = 'advisory'")
            assert held.fetchone() == (0,)
