"""Redis behind Sentinel: addresses, passwords, and what a failover costs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner

from goblin_assistant.calls.idempotency import Claim, StoredResponse
from goblin_assistant.calls.idempotency_redis import RedisIdempotencyStore
from goblin_assistant.cli import cli
from goblin_assistant.commands.doctor import secrecy, storage
from goblin_assistant.commands.doctor.context import Context
from goblin_assistant.config import Config, ConfigError
from goblin_assistant.config.redis_address import sentinel_address
from goblin_assistant.database.redis_client import NoPrimaryError, close, redis_client
from goblin_assistant.health.checks import redis_check
from goblin_assistant.health.services import CheckFailed
from goblin_assistant.logs.redaction import Redactor
from goblin_assistant.metrics import rate_limiter_degraded
from goblin_assistant.rate_limits import shared
from goblin_assistant.rate_limits.shared import SharedStorage
from tests.conftest import wait_until
from tests.support.sentinel import PATIENCE, SERVICE, SentinelServers

SECRET = "kP3vX9qLzT7wR2mB8nY4cJ6hD5fG1sAeUoIxQ0tZ"
PASSWORD, SENTINEL_PASSWORD = "quartz-lantern", "heron-basalt"
URL = "redis+sentinel://"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelServers]:
    """Two servers and three sentinels with passwords, for tests that break nothing for long."""
    made = SentinelServers(
        tmp_path_factory.mktemp("sentinel"),
        password=PASSWORD,
        sentinel_password=SENTINEL_PASSWORD,
    )
    try:
        made.start()
        yield made
    finally:
        made.stop()


def client(url: str) -> redis.Redis:
    return redis_client(url, connect_seconds=5, answer_seconds=5, retries=1)


def test_an_address_has_sentinels_service_database_and_credentials() -> None:
    found = sentinel_address(f"{URL}me:p%40ss@a:1,[::1]:2,b/main?db=3")
    assert found.sentinels == (("a", 1), ("::1", 2), ("b", 26379))
    assert (found.service, found.db) == ("main", 3)
    assert (found.username, found.password) == ("me", "p@ss")


def test_sentinels_get_the_credentials_of_redis_unless_they_have_their_own() -> None:
    both = sentinel_address(f"{URL}me:secret@a/main")
    assert (both.sentinel_username, both.sentinel_password) == ("me", "secret")
    own = sentinel_address(f"{URL}me:secret@a/main?sentinel_password=other")
    assert (own.sentinel_username, own.sentinel_password) == (None, "other")
    none = sentinel_address(f"{URL}me:secret@a/main?sentinel_password=")
    assert (none.sentinel_username, none.sentinel_password) == (None, None)


@pytest.mark.parametrize(
    "rest", ["a:1", "a:1/", "/main", "a:0/main", "a:70000/main", "a,,b/main", "a/main?db=x",
             "a/main?x=1", "a/main/1", ":secret@/main"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["redis_url", "ratelimit_storage_uri"])
def test_a_wrong_address_is_refused_at_the_start_without_being_shown(name: str, rest: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Config.load({"secret_key": SECRET, name: URL + rest}, environ={}, dotenv=Path("absent"))
    assert name.upper() in str(refused.value)
    assert "accepted: " in str(refused.value)
    assert "secret@" not in str(refused.value)


def loaded(url: str) -> Config:
    return Config.load({"secret_key": SECRET, "redis_url": url}, environ={}, dotenv=Path("absent"))


def test_no_password_of_the_address_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{URL}me:{PASSWORD}@a,b/main?sentinel_password={SENTINEL_PASSWORD}"
    config = loaded(url)
    assert config.limits_uri == url
    assert {PASSWORD, SENTINEL_PASSWORD} <= set(config.secret_values())
    monkeypatch.setenv("REDIS_URL", url)
    monkeypatch.setenv("SECRET_KEY", SECRET)
    printed = CliRunner().invoke(cli, ["config"])
    assert printed.exit_code == 0, printed.output
    assert "a,b/main?sentinel_password=***" in printed.output
    logged = Redactor(config.secret_values()).redact(url)
    for text in (repr(config), printed.output, logged, repr(sentinel_address(url))):
        assert PASSWORD not in text
        assert SENTINEL_PASSWORD not in text


def test_doctor_reads_the_password_of_an_address_with_several_hosts() -> None:
    def verdicts(url: str) -> list[str]:
        context = Context(loaded(url), dotenv=Path("absent"))
        return [one.verdict for one in secrecy.other_secrets(context) if one.subject == "REDIS_URL"]

    assert verdicts(f"{URL}:redis@10.0.0.1,10.0.0.2/main") == ["failure"]
    assert verdicts(f"{URL}10.0.0.1,10.0.0.2/main") == ["warning"]
    assert verdicts(f"{URL}:{PASSWORD}@10.0.0.1,10.0.0.2/main") == []


@pytest.mark.parametrize("name", ["REDIS_URL", "RATELIMIT_STORAGE_URI"])
@pytest.mark.parametrize(
    "url",
    [
        "rediss+sentinel://me:canary@a,b/main",
        "redis+sentinel://me:canary@a,b/main?ssl=true",
        "redis+sentinel://me:canary@a,b/main?db=1&ssl_cert_reqs=none",
        "redis+sentinel://me:canary@a,b/main?tls=1",
    ],
)
def test_tls_to_sentinels_is_refused_by_a_message_that_says_what_to_do(name: str, url: str) -> None:
    environment = {name: url, "SECRET_KEY": "s" * 40}
    with pytest.raises(ConfigError) as refused:
        Config.load(environ=environment, dotenv=Path("absent.env"))
    assert f"{name}: TLS to sentinels is not supported; end it beside" in str(refused.value)
    assert "canary" not in str(refused.value)


def test_the_primary_is_found_by_any_sentinel_that_answers(servers: SentinelServers) -> None:
    gone = "127.0.0.1:1"
    url = servers.url.replace(servers.hosts, f"{gone},{servers.hosts}")
    for address in (servers.url, url):
        found = client(address)
        assert found.set("a", "1")
        assert found.info("replication")["role"] == "master"
        close(found)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (f"/{SERVICE}?", "/other?", "the sentinels watch no service 'other'"),
        (SENTINEL_PASSWORD, "wrong", "a sentinel refuses the credentials"),
        ("sentinel_password=" + SENTINEL_PASSWORD, "sentinel_password=", "a sentinel refuses"),
    ],
)
def test_what_the_sentinels_refuse_is_named(
    servers: SentinelServers, old: str, new: str, problem: str
) -> None:
    url = servers.url.replace(old, new)
    made = client(url)
    with pytest.raises(NoPrimaryError, match=problem):
        made.ping()
    close(made)
    (found,) = storage.redis_server(Context(loaded(url), dotenv=Path("absent")))
    assert found.verdict == "failure"
    assert problem in found.message


def test_health_and_doctor_ask_the_primary(servers: SentinelServers) -> None:
    redis_check(servers.url)(10)
    (found,) = storage.redis_server(Context(loaded(servers.url), dotenv=Path("absent")))
    assert found.verdict in ("ok", "warning"), found  # a warning says that it was slow
    wrong = servers.url.replace(PASSWORD, "wrong")
    with pytest.raises(CheckFailed, match="credentials refused"):
        redis_check(wrong)(10)
    (found,) = storage.redis_server(Context(loaded(wrong), dotenv=Path("absent")))
    assert found.message == "credentials refused"


def test_sentinels_without_a_password_beside_servers_with_one(tmp_path: Path) -> None:
    made = SentinelServers(tmp_path, sentinels=1, password=PASSWORD)
    try:
        made.start()
        found = client(made.url)
        assert found.ping()
        close(found)
    finally:
        made.stop()


KEPT = StoredResponse("text/plain", b"kept", {})


def replicate(servers: SentinelServers) -> None:
    """Wait until the replica has everything that the primary has."""
    primary = servers.primary()
    assert primary is not None
    with primary.client() as connection:
        connection.set("last", "1")
        assert connection.wait(1, 9000) == 1


def passes(check: Callable[[float], None]) -> bool:
    try:
        check(10)
    except CheckFailed:
        return False
    return True


def admitted(storage: SharedStorage, key: str) -> int:
    return sum(storage.hit(key, 10, 3600).allowed for _ in range(20))


def test_a_failover_costs_a_moment_of_limits_by_share_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine a server that is well may take longer than 0.3 s.
    monkeypatch.setattr(shared, "TIMEOUT_SECONDS", 30.0)
    made = SentinelServers(tmp_path)
    limits: SharedStorage | None = None
    try:
        made.start()
        limits = SharedStorage("goblin+" + made.url, instances=2)
        store = RedisIdempotencyStore(3600, 3600, made.url, (SECRET,))
        check = redis_check(made.url)
        assert admitted(limits, "before") == 10
        claim = store.begin("user:1", "key", "/chat", b"{}")
        assert isinstance(claim, Claim)
        claim.finish(KEPT)
        replicate(made)
        with caplog.at_level(logging.INFO, "goblin_assistant"):
            made.kill_primary()
            assert admitted(limits, "meanwhile") == 5, "this instance's share"
            with pytest.raises(CheckFailed):
                check(10)
            made.notice()
            made.wait_for_promotion()
            wait_until(lambda: not limits.degraded, PATIENCE, "limits in the new primary")
            wait_until(lambda: "rate_limiter_recovered" in caplog.messages, what="its line")
        assert admitted(limits, "after") == 10
        assert admitted(limits, "before") == 0, "what was replicated still counts"
        wait_until(lambda: passes(check), PATIENCE, "health to find the new primary")
        wait_until(
            lambda: store.begin("user:1", "key", "/chat", b"{}") == KEPT,
            PATIENCE,
            "the answer of before the failover",
        )
        said = [one.message for one in caplog.records if one.name == "goblin_assistant.limits"]
        assert said[0] == "rate_limiter_degraded"
        assert said[-1] == "rate_limiter_recovered"
    finally:
        if limits is not None:
            limits.close()
        rate_limiter_degraded.set(0)
        made.stop()
