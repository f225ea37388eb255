"""Accounts on a migrated database of each kind, without an application."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine

from goblin_assistant.accounts.sessions import TokenPair
from goblin_assistant.accounts.users import Accounts
from goblin_assistant.config import Config
from goblin_assistant.database.engine import engine_options
from goblin_assistant.database.upgrade import upgrade
from goblin_assistant.errors import Unauthorized
from goblin_assistant.metrics import REGISTRY

PASSWORD = "correct horse battery staple"
KINDS = ("sqlite", "postgresql")


def settings(url: str, **overrides: Any) -> Config:
    """A configuration for `url` that ignores the environment."""
    values = {"env": "development", "secret_key": "s" * 40, "database_url": url, **overrides}
    return Config.load(values, environ={}, dotenv=Path("absent.env"))


def engine_for(url: str, threads: int = 40) -> Engine:
    """An engine as the application makes it."""
    url = settings(url).sqlalchemy_url
    return create_engine(url, **engine_options(url, threads))


def url_of(kind: str, request: pytest.FixtureRequest, folder: Path) -> str:
    """The URL of a new, empty database of this kind."""
    if kind == "sqlite":
        return f"sqlite:///{folder / 'accounts.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(params=KINDS)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new, empty database of each kind."""
    return url_of(request.param, request, tmp_path)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """A migrated database of each kind."""
    made = engine_for(database_url)
    upgrade(made)
    yield made
    made.dispose()


@pytest.fixture
def accounts(engine: Engine, database_url: str) -> Iterator[Accounts]:
    """Accounts on a migrated database of each kind."""
    made = Accounts(engine, settings(database_url))
    yield made
    made.close()


@pytest.fixture
def account_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    """The log of accounts."""
    monkeypatch.setattr(logging.getLogger("goblin_assistant"), "propagate", True)
    caplog.set_level(logging.INFO, logger="goblin_assistant")
    return caplog


def events(log: pytest.LogCaptureFixture, name: str) -> list[logging.LogRecord]:
    """The records of one event."""
    return [record for record in log.records if record.message == name]


def failures(reason: str) -> float:
    """auth_failures_total of one reason."""
    return REGISTRY.get_sample_value("auth_failures_total", {"reason": reason}) or 0.0


def refused(accounts: Accounts, token: str) -> str | None:
    """Why an access token is refused."""
    with pytest.raises(Unauthorized) as caught:
        accounts.principals.of_token(accounts.tokens.check(token))
    return caught.value.reason


def user_id_of(accounts: Accounts, pair: TokenPair) -> int:
    """The user of an access token."""
    return accounts.principals.of_token(accounts.tokens.check(pair.access_token)).user_id
