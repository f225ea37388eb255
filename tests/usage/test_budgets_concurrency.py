"""Many threads of several processes share a budget. What is recorded never exceeds it."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from sqlalchemy import text

from goblin_assistant.usage.budgets import Budgets, period_of
from goblin_assistant.usage.transactions import UsageDatabase
from tests.conftest import ROOT, Serve, wait_until
from tests.support.books import add_key, budget_of, count, open_database, rows
from tests.support.threads import at_once

DOLLAR = 1_000_000


def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return (
        f"sqlite:///{tmp_path / 'books.db'}"
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_url")
    )


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Both databases."""
    return database_url(request, tmp_path)


@pytest.mark.parametrize(
    "factor", [1, 3], ids=["exact estimates", "estimates three times too high"]
)
def test_sixty_four_threads_and_three_processes_never_spend_more_than_one_dollar(
    url: str, tmp_path: Path, factor: int
) -> None:
    engine = open_database(url)
    key = add_key(engine)
    arguments = [url, str(tmp_path), str(key), str(DOLLAR), "64", "4", str(factor)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.spend", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=120)[0].split() for process in processes]
    admitted, refused = (sum(int(answer[n]) for answer in answers) for n in (0, 1))
    assert admitted + refused == 3 * 64 * 4
    assert admitted > 100
    assert refused > 0

    recorded = int(
        rows(engine, "SELECT SUM(cost_microusd) FROM usage_records WHERE key_id = :k", k=key)[0][0]
    )
    assert recorded <= DOLLAR
    # With exact estimates less is left than the smallest chat costs: a thousand micro-dollars.
    assert recorded > (DOLLAR - 1000 if factor == 1 else DOLLAR // 2)
    assert budget_of(engine, key) == (recorded, 0)
    assert count(engine) == admitted
    assert count(engine, "budget_reservations") == 0
    engine.dispose()


def test_a_keys_first_two_reservations_of_a_month_at_once_both_fit(postgres_url: str) -> None:
    """Another instance opens the month between this one's first look and its own attempt."""
    engine = open_database(postgres_url)
    key = add_key(engine)
    database = UsageDatabase(engine)
    now = int(time.time() * 1000)
    record = f"{now:012x}" + "0" * 20
    opened = text(
        "INSERT INTO budget_periods (key_id, period, spent_microusd, reserved_microusd) "
        "VALUES (:key, :period, 0, 400)"
    )
    waits = "SELECT COUNT(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as other:
            other.execute(opened, {"key": key, "period": period_of(record)})
            reserve = pool.submit(
                Budgets(database).reserve, record, key, DOLLAR, 300, now + 3_600_000
            )
            wait_until(lambda: rows(engine, waits)[0][0] or reserve.done(), 30)
        assert reserve.result(30).amount_microusd == 300
    assert budget_of(engine, key) == (0, 700)
    database.close()
    engine.dispose()


TOML = """
[prices."echo/*"]
input = 1000
output = 1000
"""


def test_three_servers_together_keep_to_one_dollar_over_http(
    url: str, tmp_path: Path, serve: Serve
) -> None:
    toml = tmp_path / "goblin.toml"
    toml.write_text(TOML)
    environment = {"DATABASE_URL": url, "GOBLIN_CONFIG_FILE": str(toml), "SECRET_KEY": "s" * 40}
    servers = [serve(**environment), serve(**environment), serve(**environment)]
    user = servers[0].register()
    made = requests.post(
        servers[0].url + "/auth/keys",
        json={"name": "team", "scopes": ["chat"], "monthly_budget_usd": "1.00"},
        headers=user,
        timeout=10,
    )
    key = {"Authorization": f"Bearer {made.json()['key']}"}
    # One word in, six out: seven tokens at a thousand micro-dollars each; 142 chats make $0.994.
    body = {"model": "echo", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 6}
    statuses: list[int] = []

    def chat(number: int) -> None:
        session = requests.Session()
        for turn in range(4):
            server = servers[(number + turn) % 3]
            answer = session.post(
                server.url + "/v1/chat/completions",
                json={**body, "stream": turn % 2 == 1},
                headers=key,
                timeout=60,
            )
            statuses.append(answer.status_code)
            if answer.status_code == 200 and turn % 2:
                assert answer.text.endswith("data: [DONE]\n\n")
        session.close()

    at_once(chat, 64)
    # Some were refused only because others were running: the rest of the dollar can be spent now.
    chats = servers[0].url + "/chat/completions"

    def spent_all() -> bool:
        answer = requests.post(chats, json=body, headers=key, timeout=60)
        statuses.append(answer.status_code)
        # The other servers' last reservations end with their batches.
        return answer.status_code == 402 and answer.json()["reserved_usd"] == "0.00"

    wait_until(spent_all, 60, "the rest of the dollar to be spent")
    for server in servers:
        assert server.stop() == 0

    assert set(statuses) <= {200, 402, 503}
    engine = open_database(url)
    spent = int(rows(engine, "SELECT SUM(cost_microusd) FROM usage_records")[0][0])
    assert spent == statuses.count(200) * 7000 == 142 * 7000
    assert rows(
        engine, "SELECT SUM(spent_microusd), SUM(reserved_microusd) FROM budget_periods"
    ) == [(spent, 0)]
    assert count(engine, "budget_reservations") == 0
    engine.dispose()
