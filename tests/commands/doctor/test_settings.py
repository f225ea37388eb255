"""Lines about settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from goblin_assistant.commands.doctor import settings
from tests.commands.doctor.conftest import MakeContext, only, verdict


def test_environment_passes_in_production(context: MakeContext) -> None:
    assert verdict(settings.environment(context())) == "ok"


def test_environment_fails_in_development(context: MakeContext) -> None:
    assert verdict(settings.environment(context(env="development"))) == "warning"


@pytest.mark.parametrize("origins", ["", "https://app.goblin.dev"])
def test_browsers_passes_for_own_pages_and_for_none(context: MakeContext, origins: str) -> None:
    assert verdict(settings.browsers(context(cors_origins=origins))) == "ok"


@pytest.mark.parametrize(
    ("origins", "expected"),
    [
        ("https://yourdomain.com,https://app.goblin.dev", "failure"),
        ("https://www.yourdomain.com", "failure"),
        ("https://example.com", "failure"),
        ("http://localhost:3000", "warning"),
        ("http://app.goblin.dev", "warning"),
    ],
)
def test_browsers_fails_for_placeholders_local_and_plain_pages(
    context: MakeContext, origins: str, expected: str
) -> None:
    assert verdict(settings.browsers(context(cors_origins=origins))) == expected


@pytest.mark.parametrize("level", ["INFO", "WARNING"])
def test_log_level_passes_for_the_guides_two(context: MakeContext, level: str) -> None:
    assert verdict(settings.log_level(context(log_level=level))) == "ok"


@pytest.mark.parametrize("level", ["DEBUG", "ERROR", "CRITICAL"])
def test_log_level_fails_for_too_much_and_too_little(context: MakeContext, level: str) -> None:
    assert verdict(settings.log_level(context(log_level=level))) == "warning"


def test_limits_passes_for_limits_that_somebody_chose(context: MakeContext) -> None:
    assert verdict(settings.limits(context(ratelimit_chat="200 per minute"))) == "ok"


def test_limits_fails_for_the_defaults_and_for_none(context: MakeContext) -> None:
    assert "defaults" in only(settings.limits(context())).message
    assert verdict(settings.limits(context(ratelimit_enabled=False))) == "warning"


def test_limits_fails_when_several_instances_count_each_on_its_own(context: MakeContext) -> None:
    found = only(settings.limits(context(instances=3)))
    assert (found.verdict, found.fix) == ("failure", "Set REDIS_URL.")


def test_registration_passes_when_it_is_closed(context: MakeContext) -> None:
    assert verdict(settings.registration(context())) == "ok"


def test_registration_fails_when_anybody_may_register(context: MakeContext) -> None:
    assert verdict(settings.registration(context(registration="open"))) == "warning"


def test_proxy_passes_when_its_address_is_known(context: MakeContext) -> None:
    made = context(trusted_proxy="10.0.0.5", url="https://api.goblin.dev")
    assert verdict(settings.proxy(made)) == "ok"


@pytest.mark.parametrize("url", ["https://api.goblin.dev", "http://127.0.0.1:80"])
def test_proxy_fails_behind_a_proxy_that_is_not_trusted(context: MakeContext, url: str) -> None:
    found = only(settings.proxy(context(url=url)))
    assert found.verdict == "failure"
    assert "GOBLIN_TRUSTED_PROXY" in found.fix


@pytest.mark.parametrize(
    "values", [{}, {"host": "0.0.0.0"}, {"trusted_proxy": "*"}], ids=["local", "public", "any"]
)
def test_proxy_fails_where_one_may_be_missing_or_forged(
    context: MakeContext, values: dict[str, str]
) -> None:
    assert verdict(settings.proxy(context(**values))) == "warning"


def test_metrics_access_passes_with_a_token_or_a_port(context: MakeContext) -> None:
    assert verdict(settings.metrics_access(context(metrics_token="x" * 20))) == "ok"
    assert verdict(settings.metrics_access(context(metrics_port=9100))) == "ok"


def test_metrics_access_fails_on_the_public_port_without_a_token(context: MakeContext) -> None:
    assert verdict(settings.metrics_access(context())) == "warning"


def test_a_wrong_setting_of_another_kind_does_not_hide_the_placeholder(
    context: MakeContext, tmp_path: Path
) -> None:
    made = context(cors_origins="http://localhost:3000,https://yourdomain.com")
    assert verdict(settings.browsers(made)) == "failure"
