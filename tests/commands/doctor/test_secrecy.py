"""Lines about secrets and about who may read files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from goblin_assistant.commands.doctor import secrecy
from goblin_assistant.config.goblin_file import GoblinFile
from tests.commands.doctor.conftest import SECRET, MakeContext, only, verdict


def test_signing_key_passes_when_it_is_random(context: MakeContext) -> None:
    assert verdict(secrecy.signing_key(context())) == "ok"


@pytest.mark.parametrize(
    "key",
    [
        "change-me-change-me-change-me-please",
        "your-secret-key-goes-here-0123456789",
        "<put 48 random characters in here>",
        "a" * 40,
        "abcdefghijkl" * 4,
        "8f3kq0zr1mxw" * 3 + "8f3kq0",
        "abcdefghijklmnopqrstuvwxyz0123456789",
        "0101010101010110101010101010101110",
    ],
)
def test_signing_key_fails_when_it_can_be_guessed(context: MakeContext, key: str) -> None:
    assert verdict(secrecy.signing_key(context(secret_key=key))) == "failure"


def test_previous_key_warns_unless_the_file_that_sets_it_is_younger_than_a_token(
    context: MakeContext,
) -> None:
    made = context(secret_key_previous=SECRET + "2", access_token_seconds=900)
    _, found = secrecy.signing_key(made)
    assert (found.subject, found.verdict) == ("SECRET_KEY_PREVIOUS", "warning")
    assert "900 s" in (found.fix or "")
    made.dotenv.write_text(f"SECRET_KEY={SECRET}\nSECRET_KEY_PREVIOUS={SECRET}2\n")
    assert [line.verdict for line in secrecy.signing_key(made)] == ["ok", "ok"]
    long_ago = made.dotenv.stat().st_mtime - 1000
    os.utime(made.dotenv, (long_ago, long_ago))
    assert [line.verdict for line in secrecy.signing_key(made)] == ["ok", "warning"]
    made.dotenv.write_text(f"SECRET_KEY={SECRET}\n")  # it comes from the environment
    assert [line.verdict for line in secrecy.signing_key(made)] == ["ok", "warning"]


def test_other_secrets_passes_when_all_are_random(context: MakeContext) -> None:
    made = context(
        metrics_token=SECRET,
        openai_api_key="sk-" + SECRET,
        database_url=f"postgresql://app:{SECRET}@db/goblin",
        redis_url=f"redis://:{SECRET}@cache:6379/0",
    )
    assert verdict(secrecy.other_secrets(made)) == "ok"


@pytest.mark.parametrize(
    ("values", "subject", "expected"),
    [
        ({"metrics_token": "short"}, "GOBLIN_METRICS_TOKEN", "warning"),
        ({"openai_api_key": "sk-your-api-key"}, "OPENAI_API_KEY", "failure"),
        ({"database_url": "postgresql://goblin:goblin@db/goblin"}, "DATABASE_URL", "failure"),
        ({"database_url": "postgresql://goblin:...@db/goblin"}, "DATABASE_URL", "failure"),
        ({"redis_url": "redis://cache:6379/0"}, "REDIS_URL", "warning"),
    ],
)
def test_other_secrets_fails_for_each_that_can_be_guessed(
    context: MakeContext, values: dict[str, str], subject: str, expected: str
) -> None:
    found = only(secrecy.other_secrets(context(**values)))
    assert (found.subject, found.verdict) == (subject, expected)
    assert found.fix


def test_other_secrets_fails_for_a_placeholder_in_a_providers_row(context: MakeContext) -> None:
    rows = {"providers": {"acme": {"base_url": "https://acme.test/v1", "api_key_env": "ACME_KEY"}}}
    made = context({"ACME_KEY": "changeme"}, file=GoblinFile.model_validate(rows))
    assert only(secrecy.other_secrets(made)).subject == "ACME_KEY"


def test_files_passes_when_only_the_owner_can_read_them(
    context: MakeContext, tmp_path: Path
) -> None:
    made = context()
    made.dotenv.write_text(f"SECRET_KEY={SECRET}")
    made.dotenv.chmod(0o640)
    made.config.instance_dir.mkdir(mode=0o700)
    (made.config.instance_dir / "goblin.db").touch(0o644)
    assert verdict(secrecy.files(made)) == "ok"


def test_files_fails_when_everybody_can_read_the_settings(context: MakeContext) -> None:
    made = context()
    made.dotenv.write_text(f"SECRET_KEY={SECRET}")
    made.dotenv.chmod(0o644)
    found = only(secrecy.files(made))
    assert (found.verdict, found.fix) == ("failure", f"chmod 600 {made.dotenv}")


def test_files_fails_when_everybody_can_read_the_database(context: MakeContext) -> None:
    made = context()
    made.config.instance_dir.mkdir()
    made.config.instance_dir.chmod(0o755)
    (made.config.instance_dir / "goblin.db").touch()
    (made.config.instance_dir / "goblin.db").chmod(0o644)
    assert verdict(secrecy.files(made)) == "warning"


def test_files_fails_when_everybody_can_read_a_key_in_goblin_toml(
    context: MakeContext, tmp_path: Path
) -> None:
    path = tmp_path / "goblin.toml"
    path.write_text('[providers.acme]\nbase_url = "https://acme.test/v1"\napi_key = "k-1"\n')
    path.chmod(0o644)
    assert only(secrecy.files(context(config_file=path))).subject == "goblin.toml"
