"""The limits without HTTP: who is counted, in which bucket, and when a request is refused."""

from __future__ import annotations

import re
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest

from goblin_assistant.accounts.principals import Principal
from goblin_assistant.config import Config
from goblin_assistant.database.key_limits import UserLimits
from goblin_assistant.dialects.error_bodies import native_body
from goblin_assistant.errors import RateLimitExceeded
from goblin_assistant.metrics import REGISTRY, rate_limit_rejections_total
from goblin_assistant.rate_limits import memory
from goblin_assistant.rate_limits.memory import MemoryStorage
from goblin_assistant.rate_limits.policy import (
    CHAT_ROUTES,
    PROVIDER_ROUTES,
    SCOPES,
    RateLimits,
    account_key,
    address_key,
)
from tests.support.threads import at_once


def Caller(
    label: str = "key:7",
    key_id: int | None = 7,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    user_id: int | None = None,
) -> Principal:
    """A caller. Each belongs to another user, unless `user_id` is given."""
    return Principal(
        user_id if user_id is not None else int(label.split(":")[1]),
        "user",
        key_id,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        label=label,
    )


def policy(**overrides: Any) -> RateLimits:
    return RateLimits(Config(env="development", secret_key="x" * 40, **overrides), MemoryStorage())


def chats(limits: RateLimits, caller: Principal | None, times: int, ip: str = "10.0.0.1") -> int:
    passed = 0
    for _ in range(times):
        try:
            limits.check("chat", caller, ip)
            passed += 1
        except RateLimitExceeded:
            pass
    return passed


def rejections(group: str, scope: str) -> float:
    return (
        REGISTRY.get_sample_value("rate_limit_rejections_total", {"group": group, "scope": scope})
        or 0.0
    )


def test_a_caller_gets_thirty_chats_a_minute() -> None:
    limits = policy()
    assert chats(limits, Caller(), 40) == 30
    assert chats(limits, Caller(label="key:8"), 1) == 1


def test_two_keys_behind_one_address_are_two_callers_and_two_anonymous_ones_are_one() -> None:
    limits = policy(ratelimit_chat="2 per minute")
    assert chats(limits, Caller("key:1"), 2) == chats(limits, Caller("user:2", None), 2) == 2
    assert chats(limits, None, 3) == 2


def test_a_keys_own_limit_replaces_the_instances() -> None:
    limits = policy()
    assert chats(limits, Caller(requests_per_minute=3), 10) == 3
    assert chats(limits, Caller("key:9", 9, requests_per_minute=50), 100) == 50


def test_all_keys_of_a_user_and_the_user_together_get_what_the_user_gets() -> None:
    limits = policy()
    keys = [Caller(f"key:{number}", number, user_id=3) for number in range(1, 21)]
    narrow = [Caller(f"key:{n}", n, requests_per_minute=4, user_id=3) for n in range(21, 24)]
    assert sum(chats(limits, key, 1) for key in keys) == 20
    assert [chats(limits, key, 6) for key in narrow] == [4, 4, 2]
    assert chats(limits, Caller("user:3", None), 1) == 0
    assert chats(limits, Caller("key:30", 30, user_id=4), 40) == 30


def test_a_request_that_a_narrower_key_is_refused_costs_its_user_nothing() -> None:
    limits = policy()
    assert chats(limits, Caller(requests_per_minute=3, user_id=3), 50) == 3
    assert chats(limits, Caller("key:8", 8, user_id=3), 50) == 27


def test_the_users_general_bucket_is_shared_by_the_keys_too() -> None:
    limits = policy(ratelimit_default="3 per minute")
    for number in (1, 2, 3):
        limits.check("general", Caller(f"key:{number}", number, user_id=3), None)
    with pytest.raises(RateLimitExceeded) as caught:
        limits.check("general", Caller("key:4", 4, user_id=3), None)
    assert caught.value.reason == "general_user"


def test_a_key_that_an_admin_widened_counts_alone() -> None:
    limits = policy()
    assert chats(limits, Caller(requests_per_minute=50, user_id=3), 100) == 50
    assert chats(limits, Caller("key:8", 8, user_id=3), 100) == 30


def test_the_headers_tell_the_tighter_of_key_and_user() -> None:
    limits = policy()
    narrow = Caller(requests_per_minute=20, user_id=3)
    first = limits.check("chat", narrow, None)
    assert first is not None
    assert (first.limit, first.remaining) == (20, 19)
    chats(limits, Caller("key:8", 8, user_id=3), 20)
    then = limits.check("chat", narrow, None)
    assert then is not None
    assert (then.limit, then.remaining) == (30, 8)


def test_a_rotated_key_and_its_successor_share_their_limits() -> None:
    limits = policy()
    old = Principal(3, "user", 7, requests_per_minute=3, tokens_per_minute=100, label="key:7")
    new = Principal(
        3, "user", 9, requests_per_minute=3, tokens_per_minute=100, label="key:9", budget_key_id=7
    )
    assert [chats(limits, old, 2), chats(limits, new, 5)] == [2, 1]
    limits.own.take_tokens(old, 60)
    with pytest.raises(RateLimitExceeded):
        limits.own.take_tokens(new, 60)


def test_several_limits_hold_together() -> None:
    limits = policy(ratelimit_chat="2 per second; 5 per minute")
    assert chats(limits, None, 2) == 2
    with pytest.raises(RateLimitExceeded, match="Rate limit exceeded: 2 per 1 second"):
        limits.check("chat", None, "10.0.0.1")


def test_the_refusal_is_the_guides() -> None:
    limits = policy(ratelimit_chat="10 per minute")
    before = rejections("chat", "ip")
    chats(limits, None, 10)
    with pytest.raises(RateLimitExceeded) as caught:
        limits.check("chat", None, "10.0.0.1")
    body = native_body(caught.value, "id")
    assert body["error"] == "rate_limit_exceeded"
    assert body["message"] == "Rate limit exceeded: 10 per 1 minute"
    assert body["retry_after"] == 60
    assert caught.value.headers["X-RateLimit-Remaining"] == "0"
    assert rejections("chat", "ip") == before + 1


def test_limits_switched_off_count_nothing() -> None:
    limits = policy(ratelimit_enabled=False)
    assert chats(limits, None, 100) == 100
    for _ in range(100):
        limits.login_attempt("ada@example.com", "10.0.0.1")


def test_tokens_a_minute_stay_on_when_request_limits_are_off() -> None:
    limits = policy(ratelimit_enabled=False)
    caller = Caller(tokens_per_minute=100)
    limits.own.take_tokens(caller, 100)
    with pytest.raises(RateLimitExceeded, match="Rate limit exceeded: 100 tokens per 1 minute"):
        limits.own.take_tokens(caller, 1)


def test_a_key_without_a_token_limit_takes_none() -> None:
    limits = policy()
    assert limits.own.take_tokens(Caller(), 10**9) is None
    limits.own.settle_tokens(None, 5)


def test_unused_tokens_are_given_back() -> None:
    limits = policy()
    caller = Caller(tokens_per_minute=100)
    hold = limits.own.take_tokens(caller, 100)
    limits.own.settle_tokens(hold, 10)
    assert limits.own.take_tokens(caller, 90) is not None


def test_a_request_beyond_the_whole_limit_is_told_so() -> None:
    with pytest.raises(RateLimitExceeded, match="this request may need 101"):
        policy().own.take_tokens(Caller(tokens_per_minute=100), 101)


def test_threads_never_take_more_tokens_than_there_are() -> None:
    limits = policy()
    caller = Caller(tokens_per_minute=1000)

    def take(_: int) -> int:
        taken = 0
        for _ in range(50):
            with suppress(RateLimitExceeded):
                limits.own.take_tokens(caller, 7)
                taken += 7
        return taken

    assert sum(at_once(take, 16)) == 994


def test_an_account_is_locked_after_ten_attempts_from_anywhere() -> None:
    limits = policy()
    for number in range(10):
        limits.login_attempt("ada@example.com", f"10.0.0.{number}")
    before = rejections("login", "account")
    with pytest.raises(RateLimitExceeded) as caught:
        limits.login_attempt(" ADA@example.com", "10.9.9.9")
    assert 0 < (caught.value.retry_after or 0) <= 900
    assert rejections("login", "account") == before + 1
    limits.login_attempt("eve@example.com", "10.0.0.1")


def test_the_right_password_clears_the_account() -> None:
    limits = policy()
    for _ in range(5):
        for _ in range(9):
            limits.login_attempt("ada@example.com")
        limits.login_succeeded("Ada@example.com")


def test_of_attempts_at_once_no_more_than_the_limit_pass() -> None:
    limits = policy(ratelimit_login_account="5 per minute")

    def passes(_: int) -> bool:
        try:
            limits.login_attempt("ada@example.com")
        except RateLimitExceeded:
            return False
        return True

    assert sum(at_once(passes, 32)) == 5


def test_the_lock_is_logged_without_the_address_of_the_account(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = policy(ratelimit_login_account="1 per minute")
    limits.login_attempt("ada@example.com", "10.0.0.1")
    with caplog.at_level("WARNING"), pytest.raises(RateLimitExceeded):
        limits.login_attempt("ada@example.com", "10.0.0.1")
    (record,) = [record for record in caplog.records if record.message == "login_locked"]
    assert record.__dict__["account"] == account_key("ada@example.com")
    assert "ada" not in str(record.__dict__["account"])


@pytest.mark.parametrize(
    ("ip", "key"),
    [
        ("10.0.0.1", "ip:10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "ip:2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "ip:2001:db8:1:2::/64"),
        ("::ffff:10.0.0.1", "ip:10.0.0.1"),
        ("fe80::1%eth0", "ip:fe80::/64"),
        (None, "ip:unknown"),
        ("x:y" * 100, "ip:" + ("x:y" * 100)[:64]),
    ],
)
def test_an_address_is_counted_by_what_one_caller_can_have(ip: str | None, key: str) -> None:
    assert address_key(ip) == key


def test_every_rejection_series_starts_at_zero() -> None:
    policy()
    samples = {
        (s.labels["group"], s.labels["scope"])
        for metric in rate_limit_rejections_total.collect()
        for s in metric.samples
    }
    assert {(group, scope) for group, scopes in SCOPES.items() for scope in scopes} <= samples


# -- limits of a user -----------------------------------------------------------------------------
def of_user(
    requests: int | None = None, tokens: int | None = None, key_id: int | None = None, **own: Any
) -> Principal:
    """User 3, whose limits an admin has set, or a key of that user."""
    limits = UserLimits(requests_per_minute=requests, tokens_per_minute=tokens)
    label = "user:3" if key_id is None else f"key:{key_id}"
    return Principal(3, "user", key_id, label=label, user_limits=limits, **own)


def test_a_user_whom_an_admin_widened_gets_that_with_all_keys_together() -> None:
    limits = policy()
    assert chats(limits, of_user(50), 30) == 30
    assert chats(limits, of_user(50, key_id=7), 30) == 20
    assert chats(limits, Caller("user:4", None), 40) == 30


def test_a_user_whom_an_admin_narrowed_cannot_get_out_of_it_with_keys() -> None:
    limits = policy(ratelimit_chat="20 per second; 30 per minute")
    assert chats(limits, of_user(5, key_id=7), 3) == 3
    assert chats(limits, of_user(5, key_id=8, requests_per_minute=20), 30) == 2
    assert chats(limits, of_user(5), 30) == 0


def test_a_narrowed_users_bursts_stay_limited() -> None:
    limits = policy(ratelimit_chat="3 per second; 300 per minute")
    assert chats(limits, of_user(100), 3) == 3
    with pytest.raises(RateLimitExceeded, match="3 per 1 second"):
        limits.check("chat", of_user(100), None)


def test_a_users_limit_equal_to_the_instances_leaves_its_bursts_limited() -> None:
    assert chats(policy(ratelimit_chat="3 per minute; 9 per hour"), of_user(3), 9) == 3
    limits = policy(ratelimit_chat="5 per second; 30 per minute")
    assert chats(limits, of_user(30), 5) == 5
    with pytest.raises(RateLimitExceeded, match="5 per 1 second"):
        limits.check("chat", of_user(30), None)


def test_a_users_limit_equal_to_the_instances_counts_a_chat_once() -> None:
    assert chats(policy(), of_user(30), 40) == 30


def test_a_key_that_an_admin_widened_counts_alone_for_a_user_with_limits_too() -> None:
    limits = policy()
    assert chats(limits, of_user(5, key_id=7, requests_per_minute=50), 60) == 50
    assert chats(limits, of_user(5), 10) == 5


def test_a_narrower_key_of_a_widened_user_is_bounded_by_both() -> None:
    limits = policy()
    assert chats(limits, of_user(40, key_id=7, requests_per_minute=10), 20) == 10
    assert chats(limits, of_user(40), 50) == 30


def test_a_users_chat_limit_is_none_of_the_other_groups() -> None:
    limits = policy(ratelimit_default="3 per minute")
    for _ in range(3):
        limits.check("general", of_user(50), None)
    with pytest.raises(RateLimitExceeded):
        limits.check("general", of_user(50), None)


def test_a_users_tokens_a_minute_are_shared_by_keys_and_tokens() -> None:
    limits = policy()
    hold = limits.own.take_tokens(of_user(tokens=100, key_id=7, tokens_per_minute=80), 60)
    with pytest.raises(RateLimitExceeded) as caught:
        limits.own.take_tokens(of_user(tokens=100), 60)
    assert caught.value.reason == "tokens_user"
    limits.own.settle_tokens(hold, 10)
    assert limits.own.take_tokens(of_user(tokens=100), 90) is not None


def test_tokens_that_the_user_is_refused_cost_the_key_nothing() -> None:
    limits = policy()
    limits.own.take_tokens(of_user(tokens=100), 90)
    narrow = of_user(tokens=100, key_id=7, tokens_per_minute=50)
    before = rejections("tokens", "user")
    with pytest.raises(RateLimitExceeded):
        limits.own.take_tokens(narrow, 50)
    assert rejections("tokens", "user") == before + 1
    alone = Principal(3, "user", 7, tokens_per_minute=50, label="key:7")
    assert limits.own.take_tokens(alone, 50) is not None
    with pytest.raises(RateLimitExceeded):
        limits.own.take_tokens(alone, 1)


def test_an_account_is_named_by_sixteen_digits_of_a_hash() -> None:
    assert account_key(" Ada@Example.com ") == account_key("ada@example.com")
    assert re.fullmatch("account:[0-9a-f]{16}", account_key("ada@example.com"))


def test_a_locked_login_is_logged_with_its_client_and_the_time_to_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limits = policy(ratelimit_login_account="1 per minute")
    limits.login_attempt("ada@example.com", "10.0.0.1")
    with pytest.raises(RateLimitExceeded) as refused:
        limits.login_attempt("ada@example.com", "10.0.0.7")
    (record,) = [record for record in caplog.records if record.message == "login_locked"]
    assert record.__dict__["client"] == "10.0.0.7"
    assert record.__dict__["retry_after"] == round(refused.value.retry_after or 0, 1) > 0


def test_a_request_with_the_pages_cookie_counts_by_its_session_and_without_it_by_address() -> None:
    limits = policy(ratelimit_default="2 per minute")
    for session in ("a", "b", None):
        first = limits.check_session(session, "10.0.0.1")
        assert first is not None
        assert (first.limit, first.remaining) == (2, 1)
    limits.check_session("a", "10.0.0.1")
    with pytest.raises(RateLimitExceeded) as refused:
        limits.check_session("a", "10.0.0.2")
    assert refused.value.reason == "general_session"
    limits.check_session(None, "10.0.0.1")
    with pytest.raises(RateLimitExceeded) as refused:
        limits.check_session(None, "10.0.0.1")
    assert refused.value.reason == "general_ip"
    assert limits.check_session("b", "10.0.0.1") is not None


def test_limits_switched_off_tell_no_status_and_forget_nothing() -> None:
    limits = policy(ratelimit_enabled=False)
    assert limits.check("chat", None, "10.0.0.1") is None
    assert limits.check_session("a", "10.0.0.1") is None
    limits.login_succeeded("ada@example.com")


def test_new_limits_count_from_the_next_request_on() -> None:
    limits = policy(ratelimit_chat="5 per minute")
    assert chats(limits, None, 3) == 3
    limits.use(
        Config(
            env="development",
            secret_key="x" * 40,
            ratelimit_chat="2 per minute",
            ratelimit_auth="7 per minute",
        )
    )
    assert chats(limits, None, 3) == 2
    assert limits.own.chats_per_minute == 2
    assert limits.auth == "7 per minute"


def test_with_the_limits_their_storage_is_closed() -> None:
    closed: list[str] = []

    class Closing(MemoryStorage):
        STORAGE_SCHEME = ["goblin+closing"]

        def close(self) -> None:
            closed.append("storage")

    RateLimits(Config(env="development", secret_key="x" * 40), Closing()).close()
    assert closed == ["storage"]


def test_counting_tokens_calls_a_provider_and_is_no_chat() -> None:
    assert {"/v1/messages/count_tokens"} == PROVIDER_ROUTES - CHAT_ROUTES
    assert CHAT_ROUTES < PROVIDER_ROUTES


@pytest.mark.parametrize(
    ("instance", "per_minute"),
    [
        ("30 per minute", 30),
        ("1 per second; 300 per minute", 60),
        ("90 per hour", 1),
        ("7 per 2 minute", 3),
    ],
)
def test_the_largest_limit_of_a_key_within_the_instances_is_in_whole_chats_a_minute(
    instance: str, per_minute: int
) -> None:
    found = policy(ratelimit_chat=instance).own.chats_per_minute
    assert (found, type(found)) == (per_minute, int)


def test_a_key_with_the_limit_of_the_instance_counts_for_its_user_too() -> None:
    limits = policy()
    assert chats(limits, Caller(requests_per_minute=30, user_id=3), 40) == 30
    assert chats(limits, Caller("key:8", 8, user_id=3), 1) == 0


def test_a_token_with_limits_of_its_own_has_those_of_its_user_only() -> None:
    limits = policy()
    assert chats(limits, Caller("user:3", None, requests_per_minute=2, user_id=3), 40) == 30


def test_more_tokens_than_were_estimated_count_too_and_less_than_none_as_none() -> None:
    limits = policy()
    caller = Caller(tokens_per_minute=100)
    limits.own.settle_tokens(limits.own.take_tokens(caller, 10), 100)
    with pytest.raises(RateLimitExceeded):
        limits.own.take_tokens(caller, 1)
    other = Caller("key:8", 8, tokens_per_minute=100)
    limits.own.settle_tokens(limits.own.take_tokens(other, 10), -50)
    assert limits.own.take_tokens(other, 100) is not None
    with pytest.raises(RateLimitExceeded):
        limits.own.take_tokens(other, 1)


def test_two_chats_of_one_key_settle_their_own_tokens() -> None:
    limits = policy()
    caller = Caller(tokens_per_minute=100)
    first, second = limits.own.take_tokens(caller, 40), limits.own.take_tokens(caller, 60)
    limits.own.settle_tokens(first, 0)
    assert limits.own.take_tokens(caller, 40) is not None
    limits.own.settle_tokens(second, 0)
    assert limits.own.take_tokens(caller, 60) is not None


def test_a_request_beyond_the_whole_limit_is_refused_for_a_minute_and_takes_nothing() -> None:
    limits = policy()
    caller = Caller(tokens_per_minute=100)
    with pytest.raises(RateLimitExceeded) as refused:
        limits.own.take_tokens(caller, 101)
    assert (refused.value.retry_after, refused.value.reason) == (60, "tokens_key")
    assert limits.own.take_tokens(caller, 100) is not None


def test_tokens_that_wait_are_told_a_time_within_the_minute() -> None:
    limits = policy()
    caller = Caller(tokens_per_minute=100)
    limits.own.take_tokens(caller, 100)
    with pytest.raises(RateLimitExceeded) as refused:
        limits.own.take_tokens(caller, 1)
    assert 0 < (refused.value.retry_after or 0) <= 60


def test_tokens_that_wait_for_less_than_a_second_are_refused_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits, now = policy(), 1000.0
    monkeypatch.setattr(memory, "time", SimpleNamespace(monotonic=lambda: now))
    caller = Caller(tokens_per_minute=100)
    limits.own.take_tokens(caller, 100)
    now = 1059.5
    with pytest.raises(RateLimitExceeded):
        limits.own.take_tokens(caller, 1)
