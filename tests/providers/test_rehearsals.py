"""Each row of docs/faults.md by its model, through the whole gateway."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from goblin_assistant.config import Config, GoblinFile
from goblin_assistant.providers import build_registry
from goblin_assistant.providers.echo import rehearsals
from goblin_assistant.providers.echo.rehearsals import REHEARSALS, RETRY_AFTER
from goblin_assistant.usage.explain import records_of, render, story_of
from tests.conftest import MakeApp, register
from tests.providers.test_fault_table import FAULTS, MODELS, Row, rows
from tests.support.fake_upstream import FakeUpstream, answering_gets, unused_url

ROWS = [row for row in rows() if not row.fault.startswith("client_gone")]
FILE = {"providers": {"fault": {"kind": "faults"}}}
PROMPT = "one two three four five"


def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, rehearsal in list(REHEARSALS.items()):
        if rehearsal.seconds:
            short = rehearsals.Rehearsal(rehearsal.error, rehearsal.midway, 0.01)
            monkeypatch.setitem(REHEARSALS, name, short)


@pytest.fixture
def caller(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> tuple[FlaskClient, dict[str, str]]:
    """A client with credentials, of an instance that serves the rehearsals without waiting long."""
    without_waiting(monkeypatch)
    client = make_app(retries=0).test_client()
    return client, {"Authorization": f"Bearer {register(client)['access_token']}"}


def chat(caller: Any, fault: str, **more: Any) -> Any:
    client, headers = caller
    messages = [{"role": "user", "content": PROMPT}]
    body = {"model": f"fault/{fault}", "messages": messages, **more}
    return client.post("/v1/chat/completions", json=body, headers=headers)


def test_every_row_has_a_model() -> None:
    assert REHEARSALS.keys() == {row.fault for row in ROWS} | {"overflow", "slow_first_token"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.fault)
def test_a_model_does_what_its_row_says(caller: Any, row: Row) -> None:
    answer = chat(caller, row.fault, stream=row.fault.startswith("stream"))
    assert answer.status_code == row.status
    if row.event:
        events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
        assert len(events) > 1
        assert json.loads(events[-1])["error"]["code"] == row.code
        assert "[DONE]" not in answer.text
    else:
        error = answer.get_json()["error"]
        assert (error["code"], error["source"]) == (row.code, "provider")
    check_bill(caller[0].application, answer.headers["X-Correlation-ID"], row)


def check_bill(app: Flask, identity: str, row: Row) -> None:
    """What was billed, and what `explain` says of it."""
    [record] = records_of(app.extensions["goblin"].engine, identity)
    counted = (record["prompt_tokens"], record["completion_tokens"], record["token_source"])
    estimated = row.billed != "nothing"
    # The words of the prompt, and a token for each of three events.
    assert counted == ((5, 3, "estimated") if estimated else (0, 0, "none"))
    assert record["cost_microusd"] == 0

    said = render([story_of(record)], [])
    lines = {line[:19].strip(): line[19:] for line in said.splitlines() if line[:1].isalpha()}
    assert lines["model asked"] == f"fault/{row.fault}"
    assert lines["status"] == f"{row.status} {row.code}; to blame: provider; not completed"
    assert lines["tokens"] == (
        "5 prompt + 3 completion; estimated"
        if estimated
        else "0 prompt + 0 completion; none were used"
    )
    assert lines["cost"] == "$0.00"
    assert f"fault failed: {row.code}" in said
    assert f"ended with {row.code}" in said
    assert ("first token from fault" in said) is row.event


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.fault)
def test_a_rehearsal_is_repeated_and_told_as_the_real_fault(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, fake_upstream: FakeUpstream, row: Row
) -> None:
    without_waiting(monkeypatch)
    # A busy machine may take long to send a request, or to see that its connection was closed.
    monkeypatch.setattr("goblin_assistant.providers.upstream.errors.STALE_SECONDS", 60.0)
    real = FAULTS[row.fault]
    limits = dict.fromkeys(real.settings, 5)
    fake_upstream.choose = answering_gets(MODELS)
    if real.reply is not None:
        fake_upstream.default = real.reply
    url = unused_url() if real.reply is None else fake_upstream.url
    rows = {"up": {"base_url": f"{url}/v1", "models": ["m"]}, **FILE["providers"]}
    file = GoblinFile.model_validate({"providers": rows})
    app = make_app(file=file, retries=1, retry_after_cap=1, **limits)
    client = app.test_client()
    caller = client, {"Authorization": f"Bearer {register(client)['access_token']}"}

    def told(model: str, provider: str) -> dict[str, Any]:
        answer = chat(caller, row.fault, stream=real.stream, model=model)
        identity = answer.headers["X-Correlation-ID"]
        [record] = records_of(app.extensions["goblin"].engine, identity)
        moments = json.loads(record["timeline"].replace(f'"{provider}"', '"P"'))
        return {
            "attempts": record["attempts"],
            "retry_after": answer.headers.get("Retry-After"),
            "timeline": [
                {
                    name: value
                    for name, value in moment.items()
                    if name != "model" and not name.endswith("_ms")
                }
                for moment in moments
            ],
        }

    assert told(f"fault/{row.fault}", "fault") == told("up/m", "up")


def test_a_limit_has_retry_after_and_an_overflow_anthropics_sentence(caller: Any) -> None:
    assert chat(caller, "rate_limited").headers["Retry-After"] == str(int(RETRY_AFTER))
    error = chat(caller, "overflow").get_json()["error"]
    assert error["message"] == "prompt is too long: 213462 tokens > 200000 maximum"


@pytest.mark.parametrize("stream", [False, True])
def test_a_slow_first_token_is_an_answer_after_all(caller: Any, stream: bool) -> None:
    answer = chat(caller, "slow_first_token", stream=stream)
    assert answer.status_code == 200
    assert "five" in answer.text


def test_rehearsals_do_not_open_the_circuit_breaker(caller: Any) -> None:
    codes = {chat(caller, "server_error").get_json()["error"]["code"] for _ in range(30)}
    assert codes == {"provider_bad_response"}


def served(folder: Path, **settings: Any) -> bool:
    """Whether an instance with these settings has the models."""
    values = {"instance_dir": folder, **settings}
    environ = {"SECRET_KEY": "k3yforTestsThatIsLongEnough-0123456789"}
    registry = build_registry(Config.load(values, environ=environ, dotenv=folder / "absent.env"))
    try:
        return bool(registry.find("fault/server_error"))
    finally:
        registry.close()


def test_they_are_there_in_development_and_in_production_only_on_demand(tmp_path: Path) -> None:
    assert served(tmp_path, env="development")
    assert not served(tmp_path, env="development", fault_models=False)
    assert not served(tmp_path, env="production")
    assert served(tmp_path, env="production", fault_models=True)
    assert served(tmp_path, env="production", file=GoblinFile.model_validate(FILE))


def test_a_row_of_that_name_is_the_operators_own(make_app: MakeApp) -> None:
    rows = {"fault": {"base_url": "http://127.0.0.1:9/v1", "models": ["m"]}}
    app = make_app(file=GoblinFile.model_validate({"providers": rows}))
    parts = app.extensions["goblin"]
    assert not parts.registry.find("fault/server_error")
    assert parts.usage.prices.rates("fault", "m") is None  # it is not free


def test_what_goblin_toml_does_not_name_is_not_listed(make_app: MakeApp) -> None:
    for settings, listed in (({}, False), ({"file": GoblinFile.model_validate(FILE)}, True)):
        client = make_app(**settings).test_client()
        headers = {"Authorization": f"Bearer {register(client)['access_token']}"}
        models = {row["id"] for row in client.get("/v1/models", headers=headers).get_json()["data"]}
        assert ("fault/stream_cut" in models) is listed
        services = client.get("/health/all").get_json()["services"]
        assert ("fault" in services) is listed
        shown = client.get("/settings/", headers=headers).get_json()["providers"]
        assert ("fault" in {row["name"] for row in shown}) is listed


def test_a_bare_name_is_no_rehearsal_unless_it_is_listed(make_app: MakeApp) -> None:
    client = make_app().test_client()
    headers = {"Authorization": f"Bearer {register(client)['access_token']}"}
    body = {"model": "overflow", "messages": [{"role": "user", "content": PROMPT}]}
    answer = client.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.get_json()["error"]["code"] == "model_not_found"


def test_a_chain_of_goblin_toml_may_begin_with_a_rehearsal(make_app: MakeApp) -> None:
    file = GoblinFile.model_validate({"chains": {"safe": ["fault/overloaded", "echo/echo"]}})
    client = make_app(file=file, retries=0).test_client()
    headers = {"Authorization": f"Bearer {register(client)['access_token']}"}
    body = {"model": "safe", "messages": [{"role": "user", "content": PROMPT}]}
    answer = client.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["X-Goblin-Provider"] == "echo"
