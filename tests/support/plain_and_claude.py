"""An application with an OpenAI row and an Anthropic row, whose server is scripted."""

from __future__ import annotations

import json
from typing import Any

from flask import Flask

from goblin_assistant.config.goblin_file import GoblinFile
from tests.conftest import MakeApp, register, wait_until
from tests.support.books import rows
from tests.support.fake_upstream import FakeUpstream, Reply

HELLO = [{"role": "user", "content": "hi"}]
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"


class Gateway:
    """An application with an OpenAI row and an Anthropic row on one server, and chains of both."""

    def __init__(self, make_app: MakeApp, upstream: FakeUpstream, **tables: Any) -> None:
        """`tables` are further ones of goblin.toml."""
        self.upstream = upstream
        upstream.default = Reply.json(200, {"data": [{"id": "m"}]})
        row = {"api_key": "k", "models": ["m"]}
        file = {
            **tables,
            "providers": {
                "plain": {**row, "base_url": f"{upstream.url}/plain"},
                "claude": {**row, "base_url": f"{upstream.url}/claude", "kind": "anthropic"},
            },
            "chains": {
                "plain-first": ["plain/m", "claude/m"], "claude-first": ["claude/m", "plain/m"]
            },
        }  # fmt: skip
        self.app: Flask = make_app(
            retries=0, breaker_min_calls=1000, file=GoblinFile.model_validate(file)
        )
        self.client = self.app.test_client()
        self.user = {"Authorization": f"Bearer {register(self.client)['access_token']}"}
        monitor = self.app.extensions["goblin"].monitor
        for name in ("plain", "claude"):
            wait_until(lambda name=name: monitor.report(name)["last_check"])

    def ask(self, path: str, model: str, *replies: Reply, **fields: Any) -> Any:
        """Ask with scripted replies."""
        self.upstream.reply(*replies)
        body = {"model": model, "messages": HELLO, "max_tokens": 1000, **fields}
        answer = self.client.post(
            path,
            data=json.dumps(body),
            content_type="application/json",
            headers=self.user,
            buffered=True,
        )
        answer.close()
        return answer

    def asked(self) -> list[Any]:
        """The chats that the server was sent."""
        return [request for request in self.upstream.requests if request.method == "POST"]

    def booked(self, *columns: str) -> tuple[Any, ...]:
        """Columns of the last record; prompt and completion by default."""
        engine = self.app.extensions["goblin"].engine
        wanted = ", ".join(columns or ("prompt_tokens", "completion_tokens"))
        return tuple(
            rows(engine, f"SELECT {wanted} FROM usage_records ORDER BY id DESC LIMIT 1")[0]
        )
