"""SECRET_KEY is replaced while clients hold tokens: nobody is logged out."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests

from goblin_assistant.accounts.tokens import AccessTokens
from goblin_assistant.config import Config, ConfigError
from goblin_assistant.errors import AuthFailure, Unauthorized
from tests.conftest import PASSWORD, Serve, Server

OLD, NEW, OTHER = "old key " * 5, "new key " * 5, "other key " * 4
STEPS = (
    {"SECRET_KEY": OLD},
    {"SECRET_KEY": OLD, "SECRET_KEY_PREVIOUS": NEW},
    {"SECRET_KEY": NEW, "SECRET_KEY_PREVIOUS": OLD},
    {"SECRET_KEY": NEW},
)
"""The three changes of docs/operations.md, each made on one instance after the other."""

CHAT = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}


def test_the_first_key_signs_and_every_key_is_accepted() -> None:
    both, old, new = (AccessTokens(keys, 900) for keys in ([NEW, OLD], [OLD], [NEW]))
    assert both.check(old.issue(7, 1)).user_id == 7
    assert both.check(new.issue(8, 1)).user_id == 8
    assert new.check(both.issue(9, 1)).user_id == 9
    with pytest.raises(Unauthorized) as refused:
        old.check(both.issue(9, 1))
    assert refused.value.reason == AuthFailure.BAD_TOKEN
    with pytest.raises(Unauthorized) as refused:
        both.check(AccessTokens([OTHER], 900).issue(7, 1))
    assert refused.value.reason == AuthFailure.BAD_TOKEN


def test_a_token_by_the_previous_key_expires_like_any_other() -> None:
    expired = AccessTokens([OLD], -60).issue(7, 1)
    with pytest.raises(Unauthorized) as refused:
        AccessTokens([NEW, OLD], 900).check(expired)
    assert refused.value.reason == AuthFailure.EXPIRED_TOKEN


@pytest.mark.parametrize(
    ("previous", "said"),
    [("short", "SECRET_KEY_PREVIOUS: 32 bytes"), (NEW, "SECRET_KEY_PREVIOUS: is SECRET_KEY")],
)
def test_a_previous_key_that_is_short_or_the_same_is_refused(
    tmp_path: Path, previous: str, said: str
) -> None:
    environ = {"SECRET_KEY": NEW, "SECRET_KEY_PREVIOUS": previous}
    with pytest.raises(ConfigError, match=said):
        Config.load(environ=environ, dotenv=tmp_path / "absent")


def test_the_previous_key_is_a_secret() -> None:
    config = Config.load(environ={"SECRET_KEY": NEW, "SECRET_KEY_PREVIOUS": OLD})
    assert OLD not in str(config)
    assert OLD in config.secret_values()


def status(server: Server, token: str) -> int:
    """What a chat with this token is answered."""
    headers = {"Authorization": f"Bearer {token}"}
    url = server.url + "/chat/completions"
    return requests.post(url, json=CHAT, headers=headers, timeout=30).status_code


def test_nobody_is_logged_out_while_two_instances_replace_the_key_step_by_step(
    serve: Serve, tmp_path: Path
) -> None:
    database = f"sqlite:///{tmp_path / 'shared.db'}"
    steps = []
    for number, keys in enumerate(STEPS):
        steps.append(serve(DATABASE_URL=database, **keys))
        if number == 0:
            steps[0].register()  # which has migrated the tables
    login = {"email": "ada@example.com", "password": PASSWORD}
    pair = requests.post(steps[0].url + "/auth/login", json=login, timeout=30).json()
    first = pair["access_token"]
    tokens = []
    for server in steps:
        # The session made before the rotation goes on at every step.
        body = {"refresh_token": pair["refresh_token"]}
        answer = requests.post(server.url + "/auth/refresh", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        pair = answer.json()
        tokens.append(pair["access_token"])
    for step, server in enumerate(steps):
        # An instance meets tokens of the step before and after, as one after the other restarts.
        for near in range(max(0, step - 1), min(len(steps), step + 2)):
            assert status(server, tokens[near]) == 200, (step, near)
    assert status(steps[2], first) == 200
    assert status(steps[3], first) == 401
    assert status(steps[3], tokens[1]) == 401
