"""Stopping one of two instances behind nginx under load loses no request."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from pathlib import Path

import requests

from tests.conftest import Serve, wait_until
from tests.support.services import Nginx, balanced


def test_stopping_one_of_two_instances_under_load_loses_nothing(serve: Serve, nginx: Nginx) -> None:
    shared = {"SECRET_KEY": "s" * 40, "GOBLIN_TRUSTED_PROXY": "127.0.0.1"}
    first = serve(**shared)
    folder = Path(f"/proc/{first.process.pid}/cwd").resolve()
    database = f"sqlite:///{folder}/instance/goblin.db"
    second = serve(**shared, DATABASE_URL=database)
    headers = first.register()
    nginx.start(balanced(first.port, second.port))
    statuses: Counter[object] = Counter()
    done = threading.Event()
    chat = {"model": "echo", "messages": [{"role": "user", "content": "some words to stream back"}]}

    def load(kind: int) -> None:
        with requests.Session() as session:
            while not done.is_set():
                try:
                    if kind == 0:
                        answer = session.get(nginx.url + "/health", timeout=60)
                        complete = answer.status_code == 200
                    else:
                        body = {**chat, "stream": kind == 2}
                        answer = session.post(
                            nginx.url + "/chat/completions", json=body, headers=headers, timeout=20
                        )
                        complete = kind == 1 or answer.text.endswith("data: [DONE]\n\n")
                    statuses[
                        answer.status_code if complete else f"incomplete {answer.status_code}"
                    ] += 1
                except requests.RequestException as error:
                    statuses[type(error).__name__] += 1

    threads = [threading.Thread(target=load, args=(number % 3,)) for number in range(9)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: statuses[200] > 150, 30)
        first.process.send_signal(signal.SIGTERM)
        assert first.wait(20) == 0
        stopped_at = statuses[200]
        wait_until(lambda: statuses[200] > stopped_at + 150, 30)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}, statuses
    assert first.log_lines("requests_cut") == []
